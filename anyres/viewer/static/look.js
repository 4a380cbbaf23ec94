// A panorama from inside: the ring on a sphere around the viewer, and a finer picture of the visible part.

const VERTEX = `#version 300 es
in vec2 corner; uniform vec2 spread; out vec2 at;
void main() { at = corner * spread; gl_Position = vec4(corner, 0.0, 1.0); }`;
// x of the plane is the longitude, y the latitude, both with 1 for 180 degrees; y points down.
const FRAGMENT = `#version 300 es
precision highp float;
in vec2 at; out vec4 colour;
uniform vec2 turned; uniform float reach; uniform vec4 box; uniform bool finer; uniform vec3 stage;
uniform sampler2D ring; uniform sampler2D detail;
const float PI = 3.14159265358979;
void main() {
  vec3 d = normalize(vec3(at, -1.0));
  float c = cos(turned.y), s = sin(turned.y);
  d = vec3(d.x, d.y * c - d.z * s, d.y * s + d.z * c);
  float x = atan(d.x, -d.z) / PI + turned.x, y = -asin(clamp(d.y, -1.0, 1.0)) / PI;
  if (abs(y) > reach) { colour = vec4(stage, 1.0); return; }
  vec2 on = vec2(mod(x - box.x + 1.0, 2.0) - 1.0, y - box.y) / box.zw;
  if (finer && max(abs(on.x), abs(on.y)) < 0.5) colour = vec4(texture(detail, on + 0.5).rgb, 1.0);
  else colour = vec4(textureGrad(ring, vec2((x + 1.0) / 2.0, (y + reach) / (2.0 * reach)), vec2(0.0), vec2(0.0)).rgb, 1.0);
}`;
const RING_PX = 1024;
const DETAIL_PX = 1400;
const radians = (degrees) => (degrees * Math.PI) / 180;
const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

export class Look {
  /** A canvas over `element`. Calls `onMove()` when the direction changes, and `onError(message)` when nothing can be shown. */
  constructor(element, onMove, onError) {
    Object.assign(this, { element, onMove, onError, on: false, yaw: 0, pitch: 0, fov: 80, shown: null });
    this.canvas = document.createElement("canvas");
    this.canvas.className = "look";
    this.canvas.tabIndex = 0;
    this.canvas.setAttribute("role", "application");
    this.canvas.setAttribute("aria-label", "Panorama from inside: arrow keys turn, plus and minus zoom");
    this.canvas.hidden = true;
    element.append(this.canvas);
    this.listen();
    new ResizeObserver(() => this.on && this.draw()).observe(element);
  }

  set busy(value) {
    this.element.setAttribute("aria-busy", String(value));
  }

  /** Show a scene of a model with a ring. Returns false if the browser cannot. */
  show(model, scene, psi) {
    this.gl ??= this.createContext();
    if (!this.gl) {
      this.onError("Looking around needs WebGL 2, which this browser does not have.");
      return false;
    }
    this.on = true;
    this.canvas.hidden = false;
    const name = `${model.id} ${scene} ${psi}`;
    if (this.shown !== name) {
      this.shown = name;
      Object.assign(this, { model, scene, psi, box: null });
      this.load("ring", this.ring(), (ok) => ok && this.refine());
    }
    this.draw();
    return true;
  }

  hide() {
    this.on = false;
    this.canvas.hidden = true;
    this.stop?.abort();
    clearTimeout(this.timer);
    this.busy = false;
  }

  turn(yaw, pitch) {
    this.yaw = ((((this.yaw + yaw + 180) % 360) + 360) % 360) - 180;
    this.pitch = clamp(this.pitch + pitch, -90, 90);
    this.update();
  }

  zoom(factor) {
    this.fov = clamp(this.fov / factor, 5, 120);
    this.update();
  }

  update() {
    this.draw();
    this.onMove();
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.refine(), 250);
  }

  /** The visible part, as a PNG. */
  picture() {
    this.draw();
    return new Promise((done) => this.canvas.toBlob(done, "image/png"));
  }

  // The picture of the whole ring, and the window around the visible part.

  get reach() {
    return this.model.geometry.chart.half_extent[1];
  }

  ring() {
    const period = Math.max((2 * this.reach) / RING_PX, this.model.pyramid.periods[0]);
    return { x: 0, y: 0, period, width: Math.round(2 / period), height: Math.max(1, Math.floor((2 * this.reach) / period)) };
  }

  refine() {
    if (!this.on) return;
    const visible = this.visible();
    const period = Math.max(visible.width, visible.height) / DETAIL_PX;
    const finest = this.model.pyramid.periods[0];
    if (visible.width > 1.2 || period >= this.ring().period || (this.box && this.covers(visible))) {
      this.busy = false;
      return;
    }
    const fine = Math.max(period, finest);
    const window = { x: visible.x, y: visible.y, period: fine, width: Math.floor(visible.width / fine), height: Math.floor(visible.height / fine) };
    this.load("detail", window, (ok) => {
      if (ok) this.box = [window.x, window.y, window.width * fine, window.height * fine];
    });
  }

  covers(visible) {
    const [x, y, width, height] = this.box;
    const off = Math.abs(((((visible.x - x + 1) % 2) + 2) % 2) - 1);
    return off + visible.width / 2 <= width / 2 + 1e-6 && Math.abs(visible.y - y) + visible.height / 2 <= height / 2 + 1e-6 && visible.width > width / 1.6;
  }

  /** The part of the plane that is visible. */
  visible() {
    const [across, down] = this.spread();
    let [left, right, top, bottom] = [Infinity, -Infinity, Infinity, -Infinity];
    const tilt = radians(this.pitch);
    for (let i = 0; i <= 16; i++) {
      for (let j = 0; j <= 16; j++) {
        const direction = [(i / 8 - 1) * across, (j / 8 - 1) * down, -1];
        const length = Math.hypot(...direction);
        const [a, b, c] = direction.map((value) => value / length);
        const up = b * Math.cos(tilt) - c * Math.sin(tilt);
        const ahead = b * Math.sin(tilt) + c * Math.cos(tilt);
        const x = Math.atan2(a, -ahead) / Math.PI;
        const y = -Math.asin(clamp(up, -1, 1)) / Math.PI;
        [left, right, top, bottom] = [Math.min(left, x), Math.max(right, x), Math.min(top, y), Math.max(bottom, y)];
      }
    }
    [top, bottom] = [Math.max(top, -this.reach), Math.min(bottom, this.reach)];
    return { x: (left + right) / 2 + this.yaw / 180, y: (top + bottom) / 2, width: right - left, height: Math.max(bottom - top, 1e-6) };
  }

  async load(unit, window, then) {
    this.stop?.abort();
    const stop = (this.stop = new AbortController());
    this.busy = true;
    const { x, y, period, width, height } = window;
    const query = { model: this.model.id, scene: this.scene, psi: this.psi, center_x: x, center_y: y, period, width, height, format: "jpg" };
    let ok = false;
    try {
      let response = await fetch(`/api/render?${new URLSearchParams(query)}`, { signal: stop.signal });
      while (response.status === 503) {
        await new Promise((done) => setTimeout(done, 700));
        response = await fetch(`/api/render?${new URLSearchParams(query)}`, { signal: stop.signal });
      }
      if (!response.ok) throw new Error((await response.json()).error);
      const picture = await createImageBitmap(await response.blob());
      if (stop.signal.aborted) return;
      this.texture(unit, picture);
      ok = true;
    } catch (error) {
      if (stop.signal.aborted) return;
      this.onError(`The panorama could not be drawn: ${error.message}`);
    }
    this.busy = false;
    then(ok);
    this.draw();
  }

  // WebGL

  createContext() {
    const gl = this.canvas.getContext("webgl2", { antialias: false, preserveDrawingBuffer: true });
    if (!gl) return null;
    const program = gl.createProgram();
    for (const [kind, text] of [[gl.VERTEX_SHADER, VERTEX], [gl.FRAGMENT_SHADER, FRAGMENT]]) {
      const shader = gl.createShader(kind);
      gl.shaderSource(shader, text);
      gl.compileShader(shader);
      gl.attachShader(program, shader);
    }
    gl.linkProgram(program);
    gl.useProgram(program);
    gl.bindBuffer(gl.ARRAY_BUFFER, gl.createBuffer());
    gl.bufferData(gl.ARRAY_BUFFER, new Float32Array([-1, -1, 1, -1, -1, 1, 1, 1]), gl.STATIC_DRAW);
    const corner = gl.getAttribLocation(program, "corner");
    gl.enableVertexAttribArray(corner);
    gl.vertexAttribPointer(corner, 2, gl.FLOAT, false, 0, 0);
    this.at = (name) => gl.getUniformLocation(program, name);
    this.textures = {};
    ["ring", "detail"].forEach((unit, index) => {
      this.textures[unit] = gl.createTexture();
      gl.activeTexture(gl.TEXTURE0 + index);
      gl.bindTexture(gl.TEXTURE_2D, this.textures[unit]);
      gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGB, 1, 1, 0, gl.RGB, gl.UNSIGNED_BYTE, new Uint8Array([7, 9, 14]));
      // The ends of the ring meet: repeat the texture.
      gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_WRAP_S, unit === "ring" ? gl.REPEAT : gl.CLAMP_TO_EDGE);
      gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_WRAP_T, gl.CLAMP_TO_EDGE);
      gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MIN_FILTER, gl.LINEAR);
      gl.uniform1i(this.at(unit), index);
    });
    return gl;
  }

  texture(unit, picture) {
    const gl = this.gl;
    gl.activeTexture(gl.TEXTURE0 + (unit === "ring" ? 0 : 1));
    gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGB, gl.RGB, gl.UNSIGNED_BYTE, picture);
    picture.close();
  }

  /** Half width and half height of the view at distance one; `fov` spans the shorter of them. */
  spread() {
    const [width, height] = [this.element.clientWidth, this.element.clientHeight];
    const half = Math.tan(radians(this.fov) / 2);
    return width > height ? [(half * width) / height, half] : [half, (half * height) / width];
  }

  draw() {
    const { gl, canvas } = this;
    if (!gl || !this.on) return;
    [canvas.width, canvas.height] = [this.element.clientWidth, this.element.clientHeight].map((side) => Math.round(side * devicePixelRatio));
    gl.viewport(0, 0, canvas.width, canvas.height);
    gl.uniform2f(this.at("spread"), ...this.spread());
    gl.uniform2f(this.at("turned"), this.yaw / 180, radians(this.pitch));
    gl.uniform1f(this.at("reach"), this.reach);
    gl.uniform1i(this.at("finer"), this.box ? 1 : 0);
    gl.uniform4f(this.at("box"), ...(this.box ?? [0, 0, 1, 1]));
    gl.uniform3f(this.at("stage"), 7 / 255, 9 / 255, 14 / 255);
    gl.drawArrays(gl.TRIANGLE_STRIP, 0, 4);
  }

  listen() {
    const canvas = this.canvas;
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      let [left, top] = [event.clientX, event.clientY];
      const drag = (move) => {
        const each = this.fov / Math.min(this.element.clientWidth, this.element.clientHeight);
        this.turn((left - move.clientX) * each, (move.clientY - top) * each);
        [left, top] = [move.clientX, move.clientY];
      };
      canvas.addEventListener("pointermove", drag);
      const drop = () => canvas.removeEventListener("pointermove", drag);
      canvas.addEventListener("pointerup", drop, { once: true });
      canvas.addEventListener("pointercancel", drop, { once: true });
    });
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      this.zoom(event.deltaY < 0 ? 1.2 : 1 / 1.2);
    }, { passive: false });
  }
}
