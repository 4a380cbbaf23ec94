// The view in the address of the page: what is shown, where and how finely.

const NUMBERS = ["seed", "psi", "x", "y", "period"];

/** What the address says; parts that say nothing sensible are left out. */
export function read(hash) {
  const given = new URLSearchParams(hash.replace(/^#/, ""));
  const out = {};
  for (const name of ["model", "with", "scene", "look"]) if (given.get(name)) out[name] = given.get(name);
  for (const name of NUMBERS) {
    const value = given.get(name) === null ? NaN : Number(given.get(name));
    if (Number.isFinite(value)) out[name] = value;
  }
  if (!(out.period > 0)) delete out.period;
  return out;
}

/** The address of a view. Twelve digits: far below a pixel, at any depth. */
export function write(state) {
  const parts = [["model", state.model]];
  if (state.with) parts.push(["with", state.with]);
  for (const name of NUMBERS) {
    if (state[name] !== undefined) parts.push([name, Number(state[name].toPrecision(name === "seed" ? 16 : 12))]);
  }
  for (const name of ["scene", "look"]) if (state[name]) parts.push([name, state[name]]);
  return "#" + parts.map(([name, value]) => `${name}=${encodeURIComponent(value)}`).join("&");
}
