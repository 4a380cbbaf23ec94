// The panels of the tools: shape, paint, photograph.

import { defaultShape } from "./scene.js";

const $ = (id) => document.getElementById(id);
const times = (value) => `${value.toFixed(2)}×`;
const MAX_WARPS = 8;
const MAX_POINTS = 256;

/** Stretches, rotates, tilts, ripples and warps the picture. Calls `changed` after each change. */
export class Shape {
  constructor(state, overlay, changed) {
    Object.assign(this, { state, overlay, changed });
    this.sliders = {
      stretch: [(value) => 2 ** value, (value) => Math.log2(value), times],
      turn: [Number, Number, (value) => `${Math.round(value)}°`],
      "tilt-x": [Number, Number, (value) => value.toFixed(2)],
      "tilt-y": [Number, Number, (value) => value.toFixed(2)],
      ripple: [Number, Number, (value) => value.toFixed(3)],
    };
    for (const [id, [from]] of Object.entries(this.sliders)) {
      $(id).addEventListener("input", () => {
        this.state.shape[this.key(id)] = from(Number($(id).value));
        this.refresh();
        changed();
      });
    }
    $("add-warp").addEventListener("click", () => {
      const { x, y, period } = this.overlay().pane.view();
      const radius = 0.25 * period * Math.min(this.overlay().pane.width, this.overlay().pane.height);
      this.state.shape.warps.push({ x, y, power: 1.8, radius });
      this.rebuild();
      changed();
    });
    $("reset-shape").addEventListener("click", () => {
      this.state.shape = defaultShape();
      this.rebuild();
      changed();
    });
  }

  key(id) {
    return { "tilt-x": "tiltX", "tilt-y": "tiltY" }[id] ?? id;
  }

  open() {
    this.rebuild();
  }

  close() {
    this.overlay().clear();
  }

  refresh() {
    for (const [id, [, to, format]] of Object.entries(this.sliders)) {
      const value = this.state.shape[this.key(id)];
      $(id).value = to(value);
      document.querySelector(`output[for="${id}"]`).value = format(value);
    }
    $("add-warp").disabled = this.state.shape.warps.length >= MAX_WARPS;
    this.overlay().update();
  }

  rebuild() {
    const overlay = this.overlay();
    overlay.clear();
    this.lines(overlay);
    $("warps").replaceChildren(...this.state.shape.warps.map((warp, index) => this.warp(overlay, warp, index)));
    this.refresh();
  }

  /** Two lines at a quarter of the frame. Dragging one stretches the picture. */
  lines(overlay) {
    const model = overlay.pane.model;
    const quarter = (model.chart === "plane" ? model.short_side : Math.min(...model.geometry.chart.half_extent)) / 2;
    for (const side of [-1, 1]) {
      const at = () => ({ x: side * quarter * this.state.shape.stretch, y: 0 });
      overlay.add("line", "grip", (toPixel) => {
        const [x] = toPixel(at());
        return { x1: x, x2: x, y1: 0, y2: "100%" };
      });
      overlay.handle(
        side < 0 ? "Stretch, left" : "Stretch, right",
        at,
        (x) => {
          this.state.shape.stretch = Math.min(Math.max((side * x) / quarter, 0.5), 2);
          this.refresh();
        },
        this.changed,
      );
    }
  }

  warp(overlay, warp, index) {
    overlay.add("circle", "reach", (toPixel, period) => {
      const [cx, cy] = toPixel(warp);
      return { cx, cy, r: warp.radius / period };
    });
    overlay.handle(
      `Warp point ${index + 1}`,
      () => warp,
      (x, y) => Object.assign(warp, { x, y }),
      this.changed,
    );
    const row = document.createElement("div");
    row.className = "warp";
    const slider = (name, min, max, value, set) => {
      const label = document.createElement("label");
      const input = document.createElement("input");
      Object.assign(input, { type: "range", min, max, step: 0.02, id: `warp-${index}-${name}` });
      input.value = value;
      label.textContent = name;
      label.htmlFor = input.id;
      input.addEventListener("input", () => {
        set(Number(input.value));
        overlay.update();
        this.changed();
      });
      row.append(label, input);
    };
    // Powers of two: the middle of the slider has no effect.
    slider("Pinch – swell", -1.6, 1.6, Math.log2(warp.power), (value) => (warp.power = 2 ** value));
    slider("Reach", -5, 2, Math.log2(warp.radius), (value) => (warp.radius = 2 ** value));
    const remove = document.createElement("button");
    Object.assign(remove, { type: "button", textContent: "×", ariaLabel: `Remove warp point ${index + 1}` });
    remove.addEventListener("click", () => {
      this.state.shape.warps.splice(index, 1);
      this.rebuild();
      this.changed();
    });
    row.append(remove);
    return row;
  }
}

/** A brush that paints with the styles of other seeds. */
export class Paint {
  constructor(state, overlay, changed) {
    Object.assign(this, { state, overlay, changed });
    this.line = null;
    $("undo").addEventListener("click", () => {
      this.state.strokes.pop();
      this.done();
    });
    $("clear").addEventListener("click", () => {
      this.state.strokes.length = 0;
      this.done();
    });
    $("dab").addEventListener("click", () => {
      const { x, y } = this.overlay().pane.view();
      this.add([[x, y]]);
    });
    $("brush-soft").addEventListener("change", () => {
      this.state.softness = Number($("brush-soft").value);
      if (this.state.strokes.length) changed();
    });
    for (const id of ["brush-size", "brush-soft"]) $(id).addEventListener("input", () => this.refresh());
    $("brush-seed").addEventListener("change", () => this.refresh());
  }

  get seed() {
    const value = Number($("brush-seed").value);
    return Number.isInteger(value) && value >= 0 && value < 2 ** 40 ? value : 1;
  }

  /** Radius of the brush in plane units. */
  get radius() {
    return (Number($("brush-size").value) / 2) * this.overlay().pane.now().period;
  }

  open() {
    const overlay = this.overlay();
    const enabled = overlay.pane.model.paints && !this.state.latent;
    $("paint-fields").hidden = !enabled;
    for (const id of ["dab", "undo", "clear"]) $(id).hidden = !enabled;
    $("paint-note").textContent = enabled
      ? "Drag over the picture to paint with the style of another seed."
      : this.state.latent
        ? "You cannot paint over the scene of a photograph. Go back to a seed first."
        : "This model draws one style per picture. Models of infinity_gan draw several.";
    overlay.clear();
    overlay.element.classList.toggle("paints", enabled);
    if (!enabled) return;
    $("brush-soft").value = this.state.softness;
    this.brush = overlay.add("circle", "brush", (_, period) => ({ r: this.radius / period, cx: this.at?.[0] ?? -999, cy: this.at?.[1] ?? -999 }));
    this.trace = overlay.add("polyline", "stroke", (toPixel, period) => ({
      points: (this.line ?? []).map(([x, y]) => toPixel({ x, y }).join(",")).join(" "),
      "stroke-width": (2 * this.radius) / period,
    }));
    const element = overlay.element;
    element.onpointermove = (event) => {
      const box = element.getBoundingClientRect();
      this.at = [event.clientX - box.left, event.clientY - box.top];
      if (this.line) this.line.push(overlay.place(event));
      overlay.update();
    };
    element.onpointerdown = (event) => {
      if (event.button) return;
      element.setPointerCapture(event.pointerId);
      this.line = [overlay.place(event)];
      overlay.update();
    };
    element.onpointerup = () => this.line && this.add(this.line);
    element.onpointercancel = () => (this.line = null);
    element.onwheel = (event) => overlay.pane.wheel(event);
    this.refresh();
  }

  close() {
    const { element } = this.overlay();
    element.classList.remove("paints");
    element.onpointermove = element.onpointerdown = element.onpointerup = element.onpointercancel = element.onwheel = null;
    this.line = null;
    this.overlay().clear();
  }

  add(line) {
    this.line = null;
    const radius = this.radius;
    // One point for each eighth of the brush's radius, and at most MAX_POINTS.
    const points = line.slice(0, 1);
    for (const point of line) {
      const [x, y] = points.at(-1);
      if (Math.hypot(point[0] - x, point[1] - y) > radius / 8) points.push(point);
    }
    const every = Math.ceil(points.length / MAX_POINTS);
    this.state.strokes.push({ seed: this.seed, points: points.filter((_, index) => index % every === 0), radius });
    this.state.softness = Number($("brush-soft").value);
    this.done();
  }

  done() {
    this.refresh();
    this.changed();
  }

  refresh() {
    const overlay = this.overlay();
    document.querySelector('output[for="brush-size"]').value = `${$("brush-size").value} px`;
    document.querySelector('output[for="brush-soft"]').value = Number($("brush-soft").value).toFixed(2);
    $("undo").disabled = $("clear").disabled = !this.state.strokes.length;
    $("dab").disabled = this.state.strokes.length >= 64;
    const model = overlay.pane.model;
    if (model.paints) {
      const period = Math.max(model.trained_periods[0], model.pyramid.periods[0]);
      const query = { model: model.id, scene: this.seed, psi: this.state.psi, period, height: 96, width: 96, format: "jpg" };
      const address = `/api/render?${new URLSearchParams(query)}`;
      if ($("brush-look").getAttribute("src") !== address) $("brush-look").src = address;
      $("brush-look").alt = `The style of seed ${this.seed}`;
    }
    overlay.update();
  }
}

/** Uploads a photograph and follows its fit. Calls `showFit(latent, view)` with the result, and with null to return to the seed. */
export class Photo {
  constructor(state, model, limit, showFit, notify) {
    Object.assign(this, { state, model, limit, showFit, notify, job: null });
    $("photo-file").addEventListener("change", () => {
      const [file] = $("photo-file").files;
      $("photo-file").value = "";
      if (file) this.upload(file);
    });
    $("photo-cancel").addEventListener("click", () => this.job && fetch(`/api/photographs/jobs/${this.job}`, { method: "DELETE" }));
    $("photo-remove").addEventListener("click", () => {
      showFit(null);
      this.open();
    });
  }

  open() {
    const model = this.model();
    $("photo-note").textContent =
      model.photographs === "outpaint"
        ? "The model searches for a scene that contains your picture in the middle and continues around it."
        : "The model searches for the scene that is nearest to your picture. You can zoom, warp and draw it at any size.";
    $("photo-remove").hidden = !this.state.latent;
    $("drop").classList.toggle("unseen", Boolean(this.job));
  }

  close() {}

  async upload(file) {
    if (this.job) return this.notify("One photograph at a time. Cancel the other one first.");
    if (file.size > this.limit) return this.notify(`The file has more than ${Math.round(this.limit / 2 ** 20)} MB.`);
    const model = this.model();
    this.report("sending …", 0);
    try {
      const steps = $("photo-steps").value;
      const response = await fetch(`/api/photographs/${model.id}?steps=${steps}`, {
        method: "POST",
        headers: { "Content-Type": file.type || "application/octet-stream" },
        body: file,
      });
      if (response.status === 503) throw new Error("other photographs are waiting; try again in a while");
      const job = await response.json();
      if (!response.ok) throw new Error(job.error);
      this.job = job.id;
      this.open();
      await this.follow(model);
    } catch (error) {
      this.report(`That did not work: ${error.message}`, null);
    }
    this.job = null;
    this.open();
  }

  async follow(model) {
    let begun = 0;
    for (;;) {
      await new Promise((done) => setTimeout(done, 400));
      const response = await fetch(`/api/photographs/jobs/${this.job}`);
      const job = await response.json();
      if (!response.ok) throw new Error(job.error);
      if (job.state === "done") {
        this.report(`Done: ${job.said}.`, null);
        if (this.model().id === model.id) this.showFit(job.latent, job.view);
        return;
      }
      if (job.state === "failed") throw new Error(job.said);
      if (job.state === "cancelled") return this.report("Cancelled.", null);
      if (job.step && !begun) begun = Date.now() - 400;
      const left = job.step > 3 ? Math.round(((Date.now() - begun) / job.step) * (job.steps - job.step) / 1000) : null;
      const stages = { waiting: "waiting for others", decoding: "reading the picture", fitting: `step ${job.step} of ${job.steps}` };
      this.report(stages[job.state] + (left === null ? " …" : `, about ${left} s left`), job.step / job.steps);
    }
  }

  report(text, share) {
    $("photo-status").textContent = text;
    $("photo-progress").hidden = $("photo-cancel").hidden = share === null;
    if (share !== null) $("photo-progress").value = share;
  }
}
