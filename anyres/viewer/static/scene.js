// A scene: a seed, or a recipe of edits, strokes and a photograph. The page sends recipes to the server, which names them.

const DEFAULT_SHAPE = { stretch: 1, turn: 0, tiltX: 0, tiltY: 0, ripple: 0, warps: [] };

export const defaultShape = () => structuredClone(DEFAULT_SHAPE);

/** Edits in the order in which they apply. Warps, which are dragged on the picture, come last and so stay under the pointer. */
function edits(shape) {
  const out = [];
  if (shape.ripple) out.push({ kind: "displace", strength: shape.ripple });
  if (shape.stretch !== 1) out.push({ kind: "aspect", factor: shape.stretch });
  if (shape.turn) out.push({ kind: "turn", degrees: shape.turn });
  if (shape.tiltX || shape.tiltY) out.push({ kind: "perspective", tilt: [shape.tiltX, shape.tiltY] });
  for (const { x, y, power, radius } of shape.warps) out.push({ kind: "pull", point: [x, y], power, radius });
  return out;
}

/** The inverse of `edits`. */
function shapeOf(list) {
  const shape = defaultShape();
  for (const edit of list) {
    if (edit.kind === "displace") shape.ripple = edit.strength;
    else if (edit.kind === "aspect") shape.stretch = edit.factor;
    else if (edit.kind === "turn") shape.turn = edit.degrees;
    else if (edit.kind === "perspective") [shape.tiltX, shape.tiltY] = edit.tilt;
    else if (edit.kind === "pull") shape.warps.push({ x: edit.point[0], y: edit.point[1], power: edit.power, radius: edit.radius });
  }
  return shape;
}

/** The recipe of a scene for a model, without what the model cannot draw; null if the scene is only a seed. */
export function recipe({ seed, shape, strokes, softness, latent, of }, model) {
  const out = { seed };
  const list = edits(shape);
  if (latent && (!of || of === model.id)) out.latent = latent;
  else if (strokes.length && model.paints) Object.assign(out, { strokes, softness });
  if (list.length) out.edits = list;
  return Object.keys(out).length > 1 ? out : null;
}

/** The recipe as a part of an address. The seed is left out: it is a part of its own. */
export function serialize(scene) {
  if (!scene) return undefined;
  const { seed, ...rest } = scene;
  return JSON.stringify(rest, (_, value) => (typeof value === "number" ? Number(value.toPrecision(6)) : value));
}

/** The inverse of `serialize`; for malformed text the default state. */
export function deserialize(text) {
  const none = { shape: defaultShape(), strokes: [], softness: 0.5, latent: null };
  try {
    const { edits: list = [], strokes = [], softness = 0.5, latent = null } = JSON.parse(text);
    return { shape: shapeOf(list), strokes: strokes.map(({ seed, points, radius }) => ({ seed, points, radius })), softness, latent };
  } catch {
    return none;
  }
}

const ids = new Map();

/** The server's id of a scene. Sends the recipe if it is new. */
export function sceneId(model, scene) {
  if (!scene) return Promise.resolve(null);
  const body = JSON.stringify(scene);
  const key = `${model.id} ${body}`;
  if (!ids.has(key)) {
    const id = post(`/api/scenes/${model.id}`, body).catch((error) => {
      ids.delete(key);
      throw error;
    });
    ids.set(key, id);
    if (ids.size > 200) ids.delete(ids.keys().next().value);
  }
  return ids.get(key);
}

/** Forget all ids, so that recipes are sent again: for a server that was restarted. */
export const forgetScenes = () => ids.clear();

async function post(address, body) {
  const response = await fetch(address, { method: "POST", headers: { "Content-Type": "application/json" }, body });
  const result = await response.json();
  if (!response.ok) throw new Error(result.error);
  return result.id;
}
