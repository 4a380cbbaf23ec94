// Lines and handles over a pane. They follow its view; handles can be dragged or moved by keys.

const SVG = "http://www.w3.org/2000/svg";

export class Overlay {
  constructor(pane) {
    this.pane = pane;
    this.element = document.createElementNS(SVG, "svg");
    this.element.classList.add("overlay");
    pane.element.append(this.element);
    this.shapes = [];
  }

  clear() {
    this.element.replaceChildren();
    this.shapes = [];
  }

  /** Add a shape whose attributes are a function of the view: `place(toPixel, period)`. */
  add(kind, classes, place) {
    const node = document.createElementNS(SVG, kind);
    node.setAttribute("class", classes);
    this.element.append(node);
    this.shapes.push({ node, place });
    this.put(node, place);
    return node;
  }

  put(node, place) {
    const { period } = this.pane.now();
    for (const [name, value] of Object.entries(place((at) => this.pane.toPixel(at), period))) node.setAttribute(name, value);
  }

  /** Place all shapes again, after a change of the view or of what they show. */
  update() {
    for (const { node, place } of this.shapes) this.put(node, place);
  }

  /** Add a handle at `at()`. Calls `moved(x, y)`, in plane coordinates, while it is dragged, and `ended` at its end. */
  handle(label, at, moved, ended) {
    const node = this.add("circle", "handle", (toPixel) => {
      const [cx, cy] = toPixel(at());
      return { cx, cy, r: 8 };
    });
    node.setAttribute("tabindex", "0");
    node.setAttribute("role", "button");
    node.setAttribute("aria-label", `${label}: arrow keys move it`);
    node.addEventListener("pointerdown", (event) => {
      event.stopPropagation();
      node.setPointerCapture(event.pointerId);
      const drag = (move) => {
        moved(...this.place(move));
        this.update();
      };
      const drop = () => {
        node.removeEventListener("pointermove", drag);
        ended();
      };
      node.addEventListener("pointermove", drag);
      node.addEventListener("pointerup", drop, { once: true });
      node.addEventListener("pointercancel", drop, { once: true });
    });
    node.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
      if (!step) return;
      event.preventDefault();
      event.stopPropagation();
      const { x, y } = at();
      const { period } = this.pane.now();
      moved(x + step[0] * 8 * period, y + step[1] * 8 * period);
      this.update();
      ended();
    });
    return node;
  }

  /** The plane coordinates of a pointer event. */
  place(event) {
    const box = this.element.getBoundingClientRect();
    return this.pane.toPlane(event.clientX - box.left, event.clientY - box.top);
  }
}
