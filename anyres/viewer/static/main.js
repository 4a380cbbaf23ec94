// The page: controls, keys, permalink, download. What is shown is in `state`; everything else follows from it.

import { read, write } from "./link.js";
import { Pane } from "./pane.js";

const $ = (id) => document.getElementById(id);
const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
const state = { models: [], seed: 0, psi: 0.7 };
let known = [];
let limits = {};
let panes = [];
let leader = null;
let settled = 0;

const chosen = () => state.models.map((id) => known.find((model) => model.id === id));
const later = (call, wait) => {
  let timer = 0;
  return () => {
    clearTimeout(timer);
    timer = setTimeout(call, wait);
  };
};
const tidy = (value, digits = 3) => (Math.abs(value) < 0.5 * 10 ** -digits ? 0 : value).toFixed(digits).replace("-", "−");

// What is shown

function show() {
  const models = chosen();
  const two = models.length > 1;
  $("second").hidden = !two;
  $("other").hidden = !two;
  $("compare").setAttribute("aria-pressed", String(two));
  models.forEach((model, index) => {
    panes[index] ??= new Pane($(index ? "second" : "first"), moved, lost);
    panes[index].element.querySelector(".tag").textContent = two ? model.name : "";
    panes[index].show(model, models, state.seed, state.psi);
  });
  if (!two) leader = panes[0];
  $("model").value = state.models[0];
  $("other").value = state.models[1] ?? "";
  $("seed").value = state.seed;
  $("psi").value = state.psi;
  $("psi-value").value = state.psi.toFixed(2);
  document.title = `${models.map((model) => model.name).join(" and ")}, seed ${state.seed} · anyres`;
  remember();
}

function moved(pane) {
  if (panes.length > 1 && pane === leader && state.models.length > 1) {
    for (const other of panes) if (other !== pane && other.model) other.look(pane.view(), true);
  }
  readout();
  remember();
}

function lost() {
  tell("Some parts could not be drawn. Is the viewer still running? Moving tries again.");
}

const quiet = later(() => ($("notice").hidden = true), 6000);
function tell(text) {
  $("notice").textContent = text;
  $("notice").hidden = false;
  quiet();
}

function readout() {
  const pane = leader ?? panes[0];
  const { x, y, period } = pane.view();
  const model = pane.model;
  const digits = Math.min(Math.max(Math.ceil(-Math.log10(period)), 2), 9);
  $("place").textContent = `x ${tidy(x, digits)}, y ${tidy(y, digits)}`;
  const pixels = model.short_side / period;
  $("scale").textContent = `${model.chart === "plane" ? "2 units" : "short side"} = ${pixels < 10 ? pixels.toPrecision(2) : Math.round(pixels).toLocaleString("en").replaceAll(",", " ")} px`;
  const [finest, coarsest] = model.trained_periods;
  const device = period / devicePixelRatio;
  const drawn = Math.max(device, model.pyramid.period / 2 ** (model.pyramid.levels - 1));
  const times = (value) => `${value < 10 ? value.toFixed(1) : Math.round(value)}×`;
  let hint = "";
  if (drawn < finest * 0.99) hint = `beyond training: ${times(finest / drawn)} finer`;
  else if (Math.min(device, model.pyramid.period) > coarsest * 1.01) hint = `beyond training: ${times(device / coarsest)} coarser`;
  if (device < drawn * 0.99) hint += `${hint ? ", " : ""}enlarged ${times(drawn / device)}`;
  $("hint").textContent = hint;
  $("hint").classList.toggle("beyond", hint.startsWith("beyond"));
}

const speak = later(() => {
  $("live").textContent = `Seed ${state.seed}. ${$("place").textContent}. ${$("scale").textContent}. ${$("hint").textContent}`;
}, 900);

const remember = later(() => {
  const pane = leader ?? panes[0];
  if (!pane?.model || !pane.width) return;
  const hash = write({ model: state.models[0], with: state.models[1], seed: state.seed, psi: state.psi, ...pane.view() });
  history.replaceState(null, "", hash);
  settled += 1;
  document.body.dataset.settled = String(settled);
  speak();
}, 150);

// Where it comes from

function restore() {
  const given = read(location.hash);
  // A model that was trained again has another id; its name says what was meant.
  const meant = (id) => known.find((model) => model.id === id) ?? known.find((model) => id && model.id.replace(/-[^-]*$/, "") === id.replace(/-[^-]*$/, ""));
  const first = meant(given.model);
  if (given.model && first?.id !== given.model) tell("The model of this address is not here, or was trained again since: the picture may differ.");
  state.models = [(first ?? known[0]).id];
  const second = meant(given.with);
  if (second && second.id !== state.models[0]) state.models.push(second.id);
  state.seed = Number.isInteger(given.seed) ? Math.min(Math.max(given.seed, 0), limits.seed) : 0;
  state.psi = Math.min(Math.max(given.psi ?? limits.psi_default, limits.psi[0]), limits.psi[1]);
  show();
  const home = panes[0].home();
  for (const pane of panes.slice(0, state.models.length)) {
    pane.look({ x: given.x ?? home.x, y: given.y ?? home.y, period: given.period ?? home.period }, true);
  }
  readout();
}

function setSeed(value) {
  if (!Number.isInteger(value) || value < 0 || value > limits.seed) {
    $("seed").value = state.seed;
    tell(`A seed is a whole number from 0 to ${limits.seed}.`);
    return;
  }
  state.seed = value;
  show();
}

function setModel(index, id) {
  const other = 1 - index;
  if (state.models[other] === id) state.models[other] = state.models[index];
  state.models[index] = id;
  show();
}

function compare() {
  if (known.length < 2) return;
  const view = panes[0].view();
  if (state.models.length > 1) state.models.pop();
  else state.models.push(known.find((model) => model.id !== state.models[0]).id);
  leader = panes[0];
  show();
  // Panes have their new size with the next frame.
  requestAnimationFrame(() => {
    for (const pane of panes.slice(0, state.models.length)) {
      pane.osd.viewport.resize(new OpenSeadragon.Point(pane.element.clientWidth, pane.element.clientHeight), true);
      pane.look(view, true);
    }
  });
}

function move(right, down) {
  const { x, y, period } = leader.view();
  const step = 0.15 * period * Math.min(leader.width, leader.height);
  leader.look({ x: x + right * step, y: y + down * step, period });
}

function zoom(factor) {
  const view = leader.view();
  leader.look({ ...view, period: view.period / factor });
}

const random = () => setSeed(Math.floor(Math.random() * 1e6));
const home = () => leader.look(leader.home());

// Files

function prepare() {
  const [left, top, right, bottom] = leader.seen();
  const [width, height] = [right - left, bottom - top];
  const long = Number($("long-side").value);
  const kind = $("kind").value;
  const link = $("save-link");
  let problem = "";
  let address = "";
  if (!(width > 0 && height > 0)) problem = "Nothing of the picture is in view.";
  else if (!Number.isInteger(long) || long < 16 || long > 65535) problem = "The long side takes 16 to 65535 pixels.";
  else {
    const period = Math.max(width, height) / long;
    // Whole pixels that the frame still holds.
    const size = [height, width].map((side) => Math.max(1, Math.min(long, Math.floor(side / period + 1e-6))));
    const [finest, coarsest] = leader.model.pyramid.periods;
    const trained = leader.model.trained_periods[0];
    if (size[0] * size[1] > limits.view_px) problem = `That is more than ${limits.view_px / 1e6} megapixels.`;
    else if (kind === "webp" && long > 16383) problem = "WebP holds 16383 pixels a side; take PNG.";
    else if (period < finest && finest === coarsest) problem = `This model draws ${Math.round(1 / finest)} pixels a unit alone: ${Math.round(Math.max(width, height) / finest)} for this view.`;
    else if (period < finest) problem = `At most ${Math.floor(Math.max(width, height) / finest)} pixels here: the model draws no finer.`;
    else if (period > coarsest * (1 + 1e-9)) problem = `At least ${Math.ceil(Math.max(width, height) / coarsest)} pixels here: the model draws no coarser.`;
    else {
      const beyond = period < trained * 0.99 ? ` Beyond training: ${(trained / period).toFixed(1)}× finer.` : "";
      $("save-size").textContent = `${size[1]} × ${size[0]} pixels, ${((size[0] * size[1]) / 1e6).toFixed(1)} megapixels.${beyond}`;
      const query = { model: leader.model.id, seed: state.seed, psi: state.psi, center_x: (left + right) / 2, center_y: (top + bottom) / 2, period, height: size[0], width: size[1], format: kind };
      address = `/api/render?${new URLSearchParams(query)}`;
    }
  }
  if (problem) $("save-size").textContent = problem;
  link.setAttribute("aria-disabled", String(!address));
  if (address) link.href = address;
  else link.removeAttribute("href");
}

function save() {
  const { x, y } = leader.view();
  $("save-what").textContent = `${leader.model.name}, seed ${state.seed}, about x ${tidy(x)}, y ${tidy(y)}: drawn anew at the size you choose.`;
  const single = leader.model.trained_periods[0] === leader.model.trained_periods[1];
  const [left, top, right, bottom] = leader.seen();
  if (single) $("long-side").value = Math.max(16, Math.round(Math.max(right - left, bottom - top) / leader.model.pyramid.period));
  prepare();
  $("save-dialog").showModal();
}

// Facts and keys

function facts() {
  for (const model of known) {
    const title = document.createElement("h3");
    title.textContent = model.name;
    const list = document.createElement("dl");
    const pixels = (period) => Math.round((model.chart === "plane" ? 1 : model.short_side) / period);
    const [finest, coarsest] = model.trained_periods.map(pixels);
    const range = coarsest === finest ? finest : `${coarsest} to ${finest}`;
    const a = model.chart === "plane" ? "px a unit" : "px on the short side";
    const lines = {
      method: model.method,
      chart: model.chart,
      trained: `${range} ${a}, patches of ${model.patch_px[1]} × ${model.patch_px[0]}`,
      drawn: `up to ${pixels(model.pyramid.period / 2 ** (model.pyramid.levels - 1))} ${a}`,
      tiles: model.geometry.exact ? "exact: neighbours belong to one picture" : "each drawn with its surroundings",
      data: model.data_hash.slice(0, 16),
      weights: model.weights_sha256.slice(0, 16),
    };
    for (const [name, value] of Object.entries(lines)) {
      const term = document.createElement("dt");
      const text = document.createElement("dd");
      term.textContent = name;
      text.textContent = value;
      list.append(term, text);
    }
    $("facts").append(title, list);
  }
}

const KEYS = {
  ArrowLeft: () => move(-1, 0),
  ArrowRight: () => move(1, 0),
  ArrowUp: () => move(0, -1),
  ArrowDown: () => move(0, 1),
  "+": () => zoom(2),
  "=": () => zoom(2),
  "-": () => zoom(0.5),
  "−": () => zoom(0.5),
  0: home,
  "[": () => setSeed(Math.max(state.seed - 1, 0)),
  "]": () => setSeed(Math.min(state.seed + 1, limits.seed)),
  r: random,
  c: compare,
  d: save,
  "?": () => $("help-dialog").showModal(),
};

function listen() {
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
    if (event.target.closest?.("input, select, textarea")) return;
    const act = KEYS[event.key];
    if (!act) return;
    event.preventDefault();
    act();
  });
  $("seed").addEventListener("change", () => setSeed($("seed").value === "" ? NaN : Number($("seed").value)));
  $("seed").addEventListener("keydown", (event) => event.key === "Enter" && $("seed").blur());
  $("previous").addEventListener("click", KEYS["["]);
  $("next").addEventListener("click", KEYS["]"]);
  $("random").addEventListener("click", random);
  const truncated = later(show, 120);
  $("psi").addEventListener("input", () => {
    state.psi = Number($("psi").value);
    $("psi-value").value = state.psi.toFixed(2);
    truncated();
  });
  $("model").addEventListener("change", () => setModel(0, $("model").value));
  $("other").addEventListener("change", () => setModel(1, $("other").value));
  $("compare").addEventListener("click", compare);
  $("in").addEventListener("click", () => zoom(2));
  $("out").addEventListener("click", () => zoom(0.5));
  $("home").addEventListener("click", home);
  $("save").addEventListener("click", save);
  $("help").addEventListener("click", KEYS["?"]);
  $("long-side").addEventListener("input", prepare);
  $("kind").addEventListener("change", prepare);
  $("save-link").addEventListener("click", () => tell("Drawing. The file arrives as it is drawn; large ones take a while."));
  for (const id of ["first", "second"]) {
    for (const kind of ["pointerdown", "wheel", "focusin"]) {
      $(id).addEventListener(kind, () => (leader = panes[id === "first" ? 0 : 1] ?? leader), { capture: true, passive: true });
    }
  }
  // Keys go on where they were.
  for (const dialog of document.querySelectorAll("dialog")) dialog.addEventListener("close", () => leader.osd.canvas.focus());
  addEventListener("hashchange", restore);
}

async function start() {
  const answer = await fetch("/api/models");
  if (!answer.ok) throw new Error(await answer.text());
  ({ models: known, limits } = await answer.json());
  for (const id of ["model", "other"]) {
    for (const model of known) $(id).append(new Option(model.name, model.id));
  }
  $("compare").hidden = known.length < 2;
  $("seed").max = limits.seed;
  // OpenSeadragon writes a style into the page where there is none, which the page's policy does not allow; viewer.css says the same.
  const style = document.createElementNS("none", "style");
  style.setAttribute("data-openseadragon-mobile-css", "true");
  document.head.append(style);
  facts();
  listen();
  restore();
  leader = panes[0];
  document.body.dataset.ready = "true";
}

start().catch((error) => tell(`The viewer could not start: ${error.message}`));
