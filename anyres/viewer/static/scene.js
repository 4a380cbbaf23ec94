// What is shown, beside the model, the truncation and the place: a seed, or what was made of it. The server is told of the latter.

const PLAIN = { stretch: 1, turn: 0, tiltX: 0, tiltY: 0, ripple: 0, warps: [] };

export const plain = () => structuredClone(PLAIN);

/** Edits in the order in which they apply: what is dragged on the picture comes last, so that it stays under the pointer. */
function edits(shape) {
  const out = [];
  if (shape.ripple) out.push({ kind: "displace", strength: shape.ripple });
  if (shape.stretch !== 1) out.push({ kind: "aspect", factor: shape.stretch });
  if (shape.turn) out.push({ kind: "turn", degrees: shape.turn });
  if (shape.tiltX || shape.tiltY) out.push({ kind: "perspective", tilt: [shape.tiltX, shape.tiltY] });
  for (const { x, y, power, radius } of shape.warps) out.push({ kind: "pull", point: [x, y], power, radius });
  return out;
}

/** The shape that edits of `edits` stand for. */
function shapeOf(list) {
  const shape = plain();
  for (const edit of list) {
    if (edit.kind === "displace") shape.ripple = edit.strength;
    else if (edit.kind === "aspect") shape.stretch = edit.factor;
    else if (edit.kind === "turn") shape.turn = edit.degrees;
    else if (edit.kind === "perspective") [shape.tiltX, shape.tiltY] = edit.tilt;
    else if (edit.kind === "pull") shape.warps.push({ x: edit.point[0], y: edit.point[1], power: edit.power, radius: edit.radius });
  }
  return shape;
}

/** What the server is told of a scene of a model, or null where it is a seed and nothing else; what is not for it is left out. */
export function recipe({ seed, shape, strokes, softness, latent, of }, model) {
  const out = { seed };
  const list = edits(shape);
  if (latent && (!of || of === model.id)) out.latent = latent;
  else if (strokes.length && model.paints) Object.assign(out, { strokes, softness });
  if (list.length) out.edits = list;
  return Object.keys(out).length > 1 ? out : null;
}

/** The part of an address that holds a recipe; its seed has a place of its own. */
export function written(told) {
  if (!told) return undefined;
  const { seed, ...rest } = told;
  return JSON.stringify(rest, (_, value) => (typeof value === "number" ? Number(value.toPrecision(6)) : value));
}

/** What `written` wrote; nothing of it where it is not that. */
export function restored(text) {
  const none = { shape: plain(), strokes: [], softness: 0.5, latent: null };
  try {
    const { edits: list = [], strokes = [], softness = 0.5, latent = null } = JSON.parse(text);
    return { shape: shapeOf(list), strokes: strokes.map(({ seed, points, radius }) => ({ seed, points, radius })), softness, latent };
  } catch {
    return none;
  }
}

const names = new Map();

/** The name by which the server knows a scene of a model, told of where it is new. */
export function nameOf(model, told) {
  if (!told) return Promise.resolve(null);
  const body = JSON.stringify(told);
  const key = `${model.id} ${body}`;
  if (!names.has(key)) {
    const asked = ask(`/api/scenes/${model.id}`, body).catch((error) => {
      names.delete(key);
      throw error;
    });
    names.set(key, asked);
    if (names.size > 200) names.delete(names.keys().next().value);
  }
  return names.get(key);
}

/** Tell of everything anew: a server that was started again knows nothing. */
export const forget = () => names.clear();

async function ask(address, body) {
  const answer = await fetch(address, { method: "POST", headers: { "Content-Type": "application/json" }, body });
  const found = await answer.json();
  if (!answer.ok) throw new Error(found.error);
  return found.id;
}
