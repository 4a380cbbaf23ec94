// The view in the address of the page: models, scene, position and scale.

const NUMBERS = ["seed", "psi", "x", "y", "period"];

/** The view of an address, without parts that are malformed. */
export function read(hash) {
  const parameters = new URLSearchParams(hash.replace(/^#/, ""));
  const view = {};
  for (const name of ["model", "with", "scene", "look"]) if (parameters.get(name)) view[name] = parameters.get(name);
  for (const name of NUMBERS) {
    const value = parameters.get(name) === null ? NaN : Number(parameters.get(name));
    if (Number.isFinite(value)) view[name] = value;
  }
  if (!(view.period > 0)) delete view.period;
  return view;
}

/** The address of a view. Twelve digits are far below a pixel at any depth. */
export function write(state) {
  const parts = [["model", state.model]];
  if (state.with) parts.push(["with", state.with]);
  for (const name of NUMBERS) {
    if (state[name] !== undefined) parts.push([name, Number(state[name].toPrecision(name === "seed" ? 16 : 12))]);
  }
  for (const name of ["scene", "look"]) if (state[name]) parts.push([name, state[name]]);
  return "#" + parts.map(([name, value]) => `${name}=${encodeURIComponent(value)}`).join("&");
}
