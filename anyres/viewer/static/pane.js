// One picture: tiles of a model in OpenSeadragon, with views in coordinates of the plane.

const reducedMotion = matchMedia("(prefers-reduced-motion: reduce)").matches;
// Limits of the zoom beyond the finest level, and beyond the coarsest level of an unbounded plane: screen pixels per tile pixel.
const MAX_ENLARGEMENT = 8;
const MIN_ENLARGEMENT = 0.25;

/** The source of tiles. OpenSeadragon's levels are those of the server; the middle of its image is the origin of the plane. */
function source(model, scene, psi) {
  const { tile_px: tile, levels, columns, rows } = model.pyramid;
  const top = levels - 1;
  const reach = model.chart === "plane" ? [Infinity, Infinity] : model.geometry.chart.half_extent;
  const half = [model.pyramid.wraps ? Infinity : model.chart === "cylinder" ? 1 : reach[0], reach[1]];
  const outside = (index, period, limit) => index * tile * period >= limit || (index + 1) * tile * period <= -limit;
  return {
    width: columns * tile * 2 ** top,
    height: rows * tile * 2 ** top,
    tileSize: tile,
    tileOverlap: 0,
    minLevel: 0,
    maxLevel: top,
    tileExists: (level, x, y) => {
      const period = model.pyramid.period / 2 ** level;
      return level >= 0 && level <= top
        && !outside(x - (columns / 2) * 2 ** level, period, half[0]) && !outside(y - (rows / 2) * 2 ** level, period, half[1]);
    },
    getTileUrl: (level, x, y) => {
      const [column, row] = [x - (columns / 2) * 2 ** level, y - (rows / 2) * 2 ** level];
      return `/api/tile/${model.id}/${scene}/${level}/${column}_${row}.png?psi=${psi}`;
    },
    hasTransparency: () => true,
  };
}

export class Pane {
  /** Calls `onViewChange(pane)` when its view changes, and `onTilesLost()` when tiles cannot be loaded. */
  constructor(element, onViewChange, onTilesLost) {
    this.element = element;
    this.model = null;
    this.compared = [];
    this.shown = null;
    this.scene = null;
    this.osd = OpenSeadragon({
      element,
      drawer: "canvas",
      showNavigationControl: false,
      keyboardNavEnabled: false,
      gestureSettingsMouse: { clickToZoom: false, dblClickToZoom: true },
      silenceMultiImageWarnings: true,
      loadTilesWithAjax: true,
      imageLoaderLimit: 5,
      timeout: 120000,
      tileRetryMax: 6,
      tileRetryDelay: 1500,
      maxImageCacheCount: 600,
      preserveImageSizeOnResize: true,
      preserveViewport: true,
      animationTime: reducedMotion ? 0 : 0.7,
      blendTime: reducedMotion ? 0 : 0.15,
      visibilityRatio: 0.2,
      constrainDuringPan: true,
      zoomPerScroll: 1.25,
      smoothTileEdgesMinZoom: Infinity,
      minZoomImageRatio: 0,
      // Draw a level that is as fine as the screen, not the next finer one.
      minPixelRatio: 0.5001,
      maxZoomPixelRatio: Infinity,
    });
    // Tiles are enlarged by a pixel to hide seams, unless their borders fall on whole screen pixels.
    this.osd.drawer.minimumOverlapRequired = () => !this.whole();
    this.osd.canvas.setAttribute("role", "application");
    this.osd.canvas.setAttribute("aria-label", "Picture: arrow keys move, plus and minus zoom");
    this.osd.addHandler("resize", () => this.model && this.limit());
    for (const name of ["viewport-change", "resize"]) this.osd.addHandler(name, () => this.model && onViewChange(this));
    this.osd.addHandler("tile-load-failed", ({ maxReached }) => maxReached !== false && onTilesLost());
  }

  /** Width of the whole image in plane units: the unit of OpenSeadragon's viewport. */
  get unit() {
    return this.model.pyramid.columns * this.model.pyramid.tile_px * this.model.pyramid.period;
  }

  get width() {
    return this.osd.viewport.getContainerSize().x;
  }

  get height() {
    return this.osd.viewport.getContainerSize().y;
  }

  /** Whether the view is at rest at a scale where the sides of tiles are whole screen pixels. */
  whole() {
    const viewport = this.osd.viewport;
    const [zoom, center] = [viewport.getZoom(true), viewport.getCenter(true)];
    if (!this.model || zoom !== viewport.getZoom(false) || !center.equals(viewport.getCenter(false))) return false;
    const pixels = (this.model.pyramid.tile_px * this.model.pyramid.period * zoom * this.width * devicePixelRatio) / this.unit;
    // The borders of enlarged tiles would fade to transparent.
    if (pixels > this.model.pyramid.tile_px * 2 ** (this.model.pyramid.levels - 1) * (1 + 1e-6)) return false;
    // The side of a tile of the current level: 128 pixels or more.
    const side = 128 * 2 ** (Math.log2(pixels / 128) - Math.floor(Math.log2(pixels / 128) + 1e-9));
    return Math.abs(side - Math.round(side)) < 1e-3;
  }

  /** Show a scene of a model, which is one of the `compared` models. The previous scene stays below until the new one has loaded. */
  show(model, compared, scene, psi) {
    this.compared = compared;
    if (this.model) this.limit();
    const name = `${model.id} ${scene} ${psi}`;
    if (this.shown === name) return;
    this.shown = name;
    this.scene = scene;
    const view = this.model && this.model.id !== model.id ? this.view() : null;
    if (this.model !== model) {
      this.model = model;
      this.osd.world.removeAll();
      this.osd.wrapHorizontal = model.pyramid.wraps;
    }
    this.element.setAttribute("aria-busy", "true");
    this.osd.addTiledImage({
      tileSource: source(model, scene, psi),
      wrapHorizontal: model.pyramid.wraps,
      success: ({ item }) => {
        if (this.shown !== name) {
          this.osd.world.removeItem(item);
          return;
        }
        const removePrevious = () => {
          if (this.shown !== name || !item.getFullyLoaded()) return;
          for (const old of this.items().filter((other) => other !== item)) this.osd.world.removeItem(old);
        };
        item.addHandler("fully-loaded-change", () => {
          if (this.shown === name) this.element.setAttribute("aria-busy", String(!item.getFullyLoaded()));
          removePrevious();
        });
        // One previous scene below is enough.
        for (const old of this.items().slice(1, -1)) this.osd.world.removeItem(old);
        this.limit();
        if (view) this.look(view, true);
      },
    });
    this.limit();
  }

  items() {
    return Array.from({ length: this.osd.world.getItemCount() }, (_, index) => this.osd.world.getItemAt(index));
  }

  /** Set the limits of the zoom, equal for compared models. OpenSeadragon's zoom is image widths per pane width. */
  limit() {
    const finest = this.compared.map(({ pyramid }) => pyramid.period / 2 ** (pyramid.levels - 1) / MAX_ENLARGEMENT);
    const viewport = this.osd.viewport;
    viewport.maxZoomLevel = this.unit / (this.width * Math.min(...finest));
    viewport.minZoomLevel = this.unit / (this.width * Math.min(...this.compared.map((model) => this.coarsest(model))));
  }

  /** The coarsest period of a view, in plane units per screen pixel: twice the frame, or a few tiles of an unbounded plane. */
  coarsest(model) {
    if (model.chart === "plane") return model.pyramid.period / MIN_ENLARGEMENT;
    return 2 * Math.max(this.home(model).period, model.pyramid.period / 4);
  }

  /** The initial view. */
  home(model = this.model) {
    const [halfWidth, halfHeight] = model.geometry.chart.half_extent;
    if (model.chart === "plane") {
      const [finest, coarsest] = model.trained_periods;
      const period = finest === coarsest ? coarsest : Math.min(coarsest, Math.max(finest, (2 * model.short_side) / this.height));
      return { x: 0, y: 0, period };
    }
    const across = model.chart === "cylinder" ? 0 : (2 * halfWidth) / this.width;
    return { x: 0, y: 0, period: Math.max(across, (2 * halfHeight) / this.height) * 1.04 };
  }

  /** The view: its middle in plane coordinates, and its period in plane units per screen pixel. */
  view() {
    const viewport = this.osd.viewport;
    const center = viewport.getCenter(false);
    const { columns, rows } = this.model.pyramid;
    let x = (center.x - 0.5) * this.unit;
    if (this.model.pyramid.wraps) x -= this.unit * Math.round(x / this.unit);
    return { x, y: (center.y - rows / columns / 2) * this.unit, period: this.unit / (viewport.getZoom(false) * this.width) };
  }

  /** The view at this moment of an animation; on a ring, x is not reduced to one turn. */
  now() {
    const viewport = this.osd.viewport;
    const center = viewport.getCenter(true);
    const { columns, rows } = this.model.pyramid;
    return {
      x: (center.x - 0.5) * this.unit,
      y: (center.y - rows / columns / 2) * this.unit,
      period: this.unit / (viewport.getZoom(true) * this.width),
    };
  }

  /** The screen pixel, from the top left of the pane, of a point of the plane. */
  toPixel({ x, y }) {
    const now = this.now();
    if (this.model.pyramid.wraps) x += 2 * Math.round((now.x - x) / 2);
    return [(x - now.x) / now.period + this.width / 2, (y - now.y) / now.period + this.height / 2];
  }

  /** The point of the plane at a screen pixel. */
  toPlane(left, top) {
    const { x, y, period } = this.now();
    return [x + (left - this.width / 2) * period, y + (top - this.height / 2) * period];
  }

  /** Zoom around the pointer, as the wheel does over the picture. */
  wheel(event) {
    event.preventDefault();
    const box = this.element.getBoundingClientRect();
    const at = this.osd.viewport.pointFromPixel(new OpenSeadragon.Point(event.clientX - box.left, event.clientY - box.top), true);
    this.osd.viewport.zoomBy(event.deltaY < 0 ? 1.25 : 0.8, at, reducedMotion);
    this.osd.viewport.applyConstraints(reducedMotion);
  }

  /** Move to a view. */
  look({ x, y, period }, immediately = reducedMotion) {
    const { columns, rows } = this.model.pyramid;
    const viewport = this.osd.viewport;
    this.limit();
    viewport.zoomTo(this.unit / (period * this.width), null, immediately);
    viewport.panTo(new OpenSeadragon.Point(0.5 + x / this.unit, rows / columns / 2 + y / this.unit), immediately);
    viewport.applyConstraints(immediately);
  }

  /** The visible part of the chart: left, top, right, bottom. */
  visible() {
    const { x, y, period } = this.view();
    const [halfWidth, halfHeight] = this.model.geometry.chart.half_extent;
    const box = [x - (period * this.width) / 2, y - (period * this.height) / 2, x + (period * this.width) / 2, y + (period * this.height) / 2];
    if (this.model.chart === "plane") return box;
    if (this.model.chart === "frame") [box[0], box[2]] = [Math.max(box[0], -halfWidth), Math.min(box[2], halfWidth)];
    else if (box[2] - box[0] > 2) [box[0], box[2]] = [x - 1, x + 1];
    [box[1], box[3]] = [Math.max(box[1], -halfHeight), Math.min(box[3], halfHeight)];
    return box;
  }
}
