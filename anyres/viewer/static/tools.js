// The panels beside the picture: its shape, styles painted over it, photographs.

import { plain } from "./scene.js";

const $ = (id) => document.getElementById(id);
const times = (value) => `${value.toFixed(2)}×`;
const WARPS = 8;
const POINTS = 256;

/** Stretching, turning, leaning, rippling and warping. `changed` is called as the shape changes. */
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
      this.state.shape = plain();
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
    for (const [id, [, to, said]] of Object.entries(this.sliders)) {
      const value = this.state.shape[this.key(id)];
      $(id).value = to(value);
      document.querySelector(`output[for="${id}"]`).value = said(value);
    }
    $("add-warp").disabled = this.state.shape.warps.length >= WARPS;
    this.overlay().update();
  }

  rebuild() {
    const overlay = this.overlay();
    overlay.clear();
    this.lines(overlay);
    $("warps").replaceChildren(...this.state.shape.warps.map((warp, index) => this.warp(overlay, warp, index)));
    this.refresh();
  }

  /** Two lines that stand where a quarter of the frame does; drawn apart, they stretch it. */
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
    // Powers of two: in the middle nothing happens.
    slider("Pinch – swell", -1.6, 1.6, Math.log2(warp.power), (value) => (warp.power = 2 ** value));
    slider("Reach", -5, 2, Math.log2(warp.radius), (value) => (warp.radius = 2 ** value));
    const away = document.createElement("button");
    Object.assign(away, { type: "button", textContent: "×", ariaLabel: `Remove warp point ${index + 1}` });
    away.addEventListener("click", () => {
      this.state.shape.warps.splice(index, 1);
      this.rebuild();
      this.changed();
    });
    row.append(away);
    return row;
  }
}

/** A brush that lays the styles of other seeds over the picture. */
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

  /** In plane units. */
  get radius() {
    return (Number($("brush-size").value) / 2) * this.overlay().pane.now().period;
  }

  open() {
    const overlay = this.overlay();
    const able = overlay.pane.model.paints && !this.state.latent;
    $("paint-fields").hidden = !able;
    for (const id of ["dab", "undo", "clear"]) $(id).hidden = !able;
    $("paint-note").textContent = able
      ? "Drag over the picture: the brush lays the style of another seed over it."
      : this.state.latent
        ? "A photograph's scene takes no other styles: go back to a seed first."
        : "This model draws one style a picture. Those of infinity_gan draw several.";
    overlay.clear();
    overlay.element.classList.toggle("paints", able);
    if (!able) return;
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
    // A point where the line has moved on by an eighth of the brush, and no more than are taken.
    const points = line.slice(0, 1);
    for (const point of line) {
      const [x, y] = points.at(-1);
      if (Math.hypot(point[0] - x, point[1] - y) > radius / 8) points.push(point);
    }
    const every = Math.ceil(points.length / POINTS);
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

/** Photographs on their way into a scene. `found(latent, view)` is called with what became of one, null for none. */
export class Photo {
  constructor(state, model, limit, found, tell) {
    Object.assign(this, { state, model, limit, found, tell, job: null });
    $("photo-file").addEventListener("change", () => {
      const [file] = $("photo-file").files;
      $("photo-file").value = "";
      if (file) this.bring(file);
    });
    $("photo-cancel").addEventListener("click", () => this.job && fetch(`/api/photographs/jobs/${this.job}`, { method: "DELETE" }));
    $("photo-away").addEventListener("click", () => {
      found(null);
      this.open();
    });
  }

  open() {
    const model = this.model();
    $("photo-note").textContent =
      model.photographs === "outpaint"
        ? "The scene that holds your picture in its middle is looked for; all around it goes on."
        : "The scene of this model that comes nearest to your picture is looked for: it can be zoomed, warped and drawn at any size.";
    $("photo-away").hidden = !this.state.latent;
    $("drop").classList.toggle("unseen", Boolean(this.job));
  }

  close() {}

  async bring(file) {
    if (this.job) return this.tell("One photograph at a time: cancel the other first.");
    if (file.size > this.limit) return this.tell(`The file has more than ${Math.round(this.limit / 2 ** 20)} MB.`);
    const model = this.model();
    this.say("sending …", 0);
    try {
      const steps = $("photo-steps").value;
      const answer = await fetch(`/api/photographs/${model.id}?steps=${steps}`, {
        method: "POST",
        headers: { "Content-Type": file.type || "application/octet-stream" },
        body: file,
      });
      if (answer.status === 503) throw new Error("other photographs are waiting; try again in a while");
      const job = await answer.json();
      if (!answer.ok) throw new Error(job.error);
      this.job = job.id;
      this.open();
      await this.follow(model);
    } catch (error) {
      this.say(`That did not work: ${error.message}`, null);
    }
    this.job = null;
    this.open();
  }

  async follow(model) {
    let begun = 0;
    for (;;) {
      await new Promise((done) => setTimeout(done, 400));
      const answer = await fetch(`/api/photographs/jobs/${this.job}`);
      const job = await answer.json();
      if (!answer.ok) throw new Error(job.error);
      if (job.state === "done") {
        this.say(`Done: ${job.said}.`, null);
        if (this.model().id === model.id) this.found(job.latent, job.view);
        return;
      }
      if (job.state === "failed") throw new Error(job.said);
      if (job.state === "cancelled") return this.say("Cancelled.", null);
      if (job.step && !begun) begun = Date.now() - 400;
      const left = job.step > 3 ? Math.round(((Date.now() - begun) / job.step) * (job.steps - job.step) / 1000) : null;
      const words = { waiting: "waiting for others", decoding: "reading the picture", fitting: `step ${job.step} of ${job.steps}` };
      this.say(words[job.state] + (left === null ? " …" : `, about ${left} s left`), job.step / job.steps);
    }
  }

  say(text, share) {
    $("photo-said").textContent = text;
    $("photo-progress").hidden = $("photo-cancel").hidden = share === null;
    if (share !== null) $("photo-progress").value = share;
  }
}
