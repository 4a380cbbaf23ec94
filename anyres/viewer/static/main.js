// The page: controls, keys, permalink, download. `state` says what the page shows; everything else is derived from it.

import { read, write } from "./link.js";
import { Look } from "./look.js";
import { Overlay } from "./overlay.js";
import { Pane } from "./pane.js";
import { defaultShape, deserialize, forgetScenes, recipe, sceneId, serialize } from "./scene.js";
import { Paint, Photo, Shape } from "./tools.js";

const $ = (id) => document.getElementById(id);
const state = { models: [], seed: 0, psi: 0.7, shape: defaultShape(), strokes: [], softness: 0.5, latent: null, of: null };
let served = [];
let limits = {};
let panes = [];
let leader = null;
let settled = 0;
let turn = 0;
let overlay = null;
let look = null;
let tools = {};
let tool = null;
let resentAt = 0;

const selectedModels = () => state.models.map((id) => served.find((model) => model.id === id));
const debounce = (call, wait) => {
  let timer = 0;
  return () => {
    clearTimeout(timer);
    timer = setTimeout(call, wait);
  };
};
const format = (value, digits = 3) => (Math.abs(value) < 0.5 * 10 ** -digits ? 0 : value).toFixed(digits).replace("-", "−");

// Showing the state

/** Update the page from `state`. The promise resolves once each pane has its scene. */
function show() {
  const models = selectedModels();
  const mine = (turn += 1);
  const two = models.length > 1;
  $("second").hidden = !two;
  $("other").hidden = !two;
  $("compare").setAttribute("aria-pressed", String(two));
  models.forEach((model, index) => {
    panes[index] ??= new Pane($(index ? "second" : "first"), onViewChange, onTilesLost);
    panes[index].element.querySelector(".tag").textContent = two ? model.name : "";
  });
  const showSeed = (pane, model) => pane.show(model, models, String(state.seed), state.psi);
  const updates = models.map(async (model, index) => {
    const scene = recipe(state, model);
    if (!scene) return showSeed(panes[index], model);
    panes[index].element.setAttribute("aria-busy", "true");
    try {
      const id = await sceneId(model, scene);
      if (mine === turn) panes[index].show(model, models, id, state.psi);
    } catch (error) {
      if (mine !== turn) return;
      notify(`${model.name} shows seed ${state.seed} without edits: ${error.message}.`);
      showSeed(panes[index], model);
    }
  });
  if (!two) leader = panes[0];
  $("model").value = state.models[0];
  $("other").value = state.models[1] ?? "";
  $("seed").value = state.seed;
  $("psi").value = state.psi;
  $("psi-value").value = state.psi.toFixed(2);
  document.title = `${models.map((model) => model.name).join(" and ")}, ${state.latent ? "a photograph" : `seed ${state.seed}`} · anyres`;
  saveAddress();
  return Promise.all(updates).then(() => {
    if (mine !== turn) return;
    overlay ??= new Overlay(panes[0]);
    $("tool-look").disabled = panes[0].model.chart !== "cylinder";
    if (look?.on) lookAround(panes[0].model.chart === "cylinder");
    overlay.update();
  });
}

const showSoon = debounce(() => show(), 120);

function onViewChange(pane) {
  if (pane === panes[0]) overlay?.update();
  if (panes.length > 1 && pane === leader && state.models.length > 1) {
    for (const other of panes) if (other !== pane && other.model) other.look(pane.view(), true);
  }
  updateReadout();
  saveAddress();
}

function onTilesLost() {
  // A server that was restarted has lost all scenes but seeds: send them again.
  if (recipe(state, panes[0].model) && Date.now() - resentAt > 10000) {
    resentAt = Date.now();
    forgetScenes();
    for (const pane of panes) pane.shown = null;
    show();
    return;
  }
  notify("Some tiles could not be drawn. Is the viewer still running? Move the picture to try again.");
}

const hideNotice = debounce(() => ($("notice").hidden = true), 6000);
function notify(text) {
  $("notice").textContent = text;
  $("notice").hidden = false;
  hideNotice();
}

function updateReadout() {
  const pane = leader ?? panes[0];
  const { x, y, period } = pane.view();
  const model = pane.model;
  const digits = Math.min(Math.max(Math.ceil(-Math.log10(period)), 2), 9);
  $("place").textContent = `x ${format(x, digits)}, y ${format(y, digits)}`;
  const pixels = model.short_side / period;
  $("scale").textContent = `${model.chart === "plane" ? "2 units" : "short side"} = ${pixels < 10 ? pixels.toPrecision(2) : Math.round(pixels).toLocaleString("en").replaceAll(",", " ")} px`;
  const [finest, coarsest] = model.trained_periods;
  const device = period / devicePixelRatio;
  const tilePeriod = Math.max(device, model.pyramid.period / 2 ** (model.pyramid.levels - 1));
  const times = (value) => `${value < 10 ? value.toFixed(1) : Math.round(value)}×`;
  let hint = "";
  if (tilePeriod < finest * 0.99) hint = `beyond training: ${times(finest / tilePeriod)} finer`;
  else if (Math.min(device, model.pyramid.period) > coarsest * 1.01) hint = `beyond training: ${times(device / coarsest)} coarser`;
  if (device < tilePeriod * 0.99) hint += `${hint ? ", " : ""}enlarged ${times(tilePeriod / device)}`;
  if (look?.on) {
    $("place").textContent = `looking ${Math.round(look.yaw)}° round, ${Math.round(look.pitch)}° up`.replaceAll("-", "−");
    $("scale").textContent = `field of view ${Math.round(look.fov)}°`;
    hint = "";
  }
  $("hint").textContent = hint;
  $("hint").classList.toggle("beyond", hint.startsWith("beyond"));
}

const announce = debounce(() => {
  $("live").textContent = `Seed ${state.seed}. ${$("place").textContent}. ${$("scale").textContent}. ${$("hint").textContent}`;
}, 900);

const saveAddress = debounce(() => {
  const pane = leader ?? panes[0];
  if (!pane?.model || !pane.width) return;
  const gaze = look?.on ? [look.yaw, look.pitch, look.fov].map((value) => Number(value.toFixed(2))).join(",") : undefined;
  const scene = serialize(recipe(state, selectedModels()[0]));
  const hash = write({ model: state.models[0], with: state.models[1], seed: state.seed, psi: state.psi, scene, look: gaze, ...pane.view() });
  history.replaceState(null, "", hash);
  settled += 1;
  document.body.dataset.settled = String(settled);
  announce();
}, 150);

// Loading the state

async function restore() {
  const address = read(location.hash);
  await loadFromRegistry(address);
  // A model that was trained again has another id but the same name.
  const findModel = (id) => served.find((model) => model.id === id) ?? served.find((model) => id && model.id.replace(/-[^-]*$/, "") === id.replace(/-[^-]*$/, ""));
  const first = findModel(address.model);
  if (address.model && first?.id !== address.model) notify("The model of this address is missing or was trained again. The picture may differ.");
  state.models = [(first ?? served[0]).id];
  const second = findModel(address.with);
  if (second && second.id !== state.models[0]) state.models.push(second.id);
  state.seed = Number.isInteger(address.seed) ? Math.min(Math.max(address.seed, 0), limits.seed) : 0;
  state.psi = Math.min(Math.max(address.psi ?? limits.psi_default, limits.psi[0]), limits.psi[1]);
  Object.assign(state, deserialize(address.scene ?? "{}"), { of: state.models[0] });
  await show();
  const home = panes[0].home();
  for (const pane of panes.slice(0, state.models.length)) {
    pane.look({ x: address.x ?? home.x, y: address.y ?? home.y, period: address.period ?? home.period }, true);
  }
  leader = panes[0];
  const gaze = (address.look ?? "").split(",").map(Number);
  if (gaze.length === 3 && gaze.every(Number.isFinite)) {
    Object.assign(look, { yaw: gaze[0], pitch: gaze[1], fov: Math.min(Math.max(gaze[2], 5), 120) });
    lookAround(panes[0].model.chart === "cylinder");
  } else if (look?.on) lookAround(false);
  updateReadout();
}

/** Load the version that an address names, if the registry has it. */
async function loadFromRegistry(address) {
  const [, name, version] = /^(.+)-(\d+)-[0-9a-f]{10}$/.exec(address.model ?? "") ?? [];
  if (!version || served.some((model) => model.id === address.model) || name !== slug(limits.registry ?? "")) return;
  await loadVersion(version).catch((error) => notify(error.message));
}

const slug = (name) => name.replace(/[^A-Za-z0-9]+/g, "-").replace(/^-|-$/g, "");

async function loadVersion(version) {
  const response = await fetch(`/api/registry/${version}`, { method: "POST" });
  const model = await response.json();
  if (!response.ok) throw new Error(model.error);
  if (!served.some((other) => other.id === model.id)) {
    served.push(model);
    updateModelLists();
    updateFacts();
  }
  return model;
}

function setSeed(value) {
  if (!Number.isInteger(value) || value < 0 || value > limits.seed) {
    $("seed").value = state.seed;
    notify(`A seed is a whole number from 0 to ${limits.seed}.`);
    return;
  }
  state.seed = value;
  state.latent = null;
  show();
  tools.photo?.open();
}

async function setModel(index, id) {
  if (id.startsWith(VERSION)) {
    notify("Loading that version …");
    try {
      ({ id } = await loadVersion(id.slice(VERSION.length)));
      $("notice").hidden = true;
    } catch (error) {
      notify(error.message);
      show();
      return;
    }
  }
  const other = 1 - index;
  if (state.models[other] === id) state.models[other] = state.models[index];
  state.models[index] = id;
  if (index === 0 && state.latent) {
    state.latent = null;
    notify("The scene of a photograph belongs to the model that fitted it.");
  }
  await show();
  if (tool) openTool(tool);
}

function compare() {
  if (served.length < 2) return;
  const view = panes[0].view();
  if (state.models.length > 1) state.models.pop();
  else state.models.push(served.find((model) => model.id !== state.models[0]).id);
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

// Tools

/** Open one of the panels, or close all (null). */
function openTool(name) {
  if (tool) tools[tool].close();
  tool = name;
  for (const other of Object.keys(tools)) {
    $(`panel-${other}`).hidden = other !== tool;
    $(`tool-${other}`).setAttribute("aria-expanded", String(other === tool));
  }
  if (!tool) return;
  if (look.on) lookAround(false);
  tools[tool].open();
}

const toggle = (name) => {
  openTool(tool === name ? null : name);
  if (tool) $(`panel-${tool}`).querySelector("input:not([hidden]), button:not([hidden])")?.focus({ preventScroll: true });
};

/** Look around inside the panorama, or return to the plane. */
function lookAround(on) {
  if (on && tool) openTool(null);
  on = on && look.show(panes[0].model, panes[0].scene, state.psi);
  if (!on) look.hide();
  $("tool-look").setAttribute("aria-pressed", String(on));
  (on ? look.canvas : panes[0].osd.canvas).focus();
  updateReadout();
  saveAddress();
}

function showFit(latent, view) {
  Object.assign(state, { latent, of: state.models[0] });
  if (latent) state.strokes = [];
  show().then(() => panes[0].look(view ?? panes[0].home()));
}

async function saveLook() {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(await look.picture());
  link.download = `${look.model.id.replace(/-[^-]*$/, "")}-${state.seed}-look.png`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

function move(right, down) {
  if (look.on) return look.turn(right * look.fov * 0.15, -down * look.fov * 0.15);
  const { x, y, period } = leader.view();
  const step = 0.15 * period * Math.min(leader.width, leader.height);
  leader.look({ x: x + right * step, y: y + down * step, period });
}

function zoom(factor) {
  if (look.on) return look.zoom(factor ** 0.5);
  const view = leader.view();
  leader.look({ ...view, period: view.period / factor });
}

const random = () => setSeed(Math.floor(Math.random() * 1e6));
const home = () => {
  if (!look.on) return leader.look(leader.home());
  Object.assign(look, { yaw: 0, pitch: 0, fov: 80 });
  look.update();
};

// Files

function updateDownload() {
  const [left, top, right, bottom] = leader.visible();
  const [width, height] = [right - left, bottom - top];
  const long = Number($("long-side").value);
  const kind = $("kind").value;
  const link = $("save-link");
  let problem = "";
  let address = "";
  if (!(width > 0 && height > 0)) problem = "The picture is not in view.";
  else if (!Number.isInteger(long) || long < 16 || long > 65535) problem = "The long side takes 16 to 65535 pixels.";
  else {
    const period = Math.max(width, height) / long;
    // Whole pixels within the frame.
    const size = [height, width].map((side) => Math.max(1, Math.min(long, Math.floor(side / period + 1e-6))));
    const [finest, coarsest] = leader.model.pyramid.periods;
    const trained = leader.model.trained_periods[0];
    if (size[0] * size[1] > limits.view_px) problem = `That is more than ${limits.view_px / 1e6} megapixels.`;
    else if (kind === "webp" && long > 16383) problem = "WebP holds at most 16383 pixels per side; use PNG.";
    else if (period < finest && finest === coarsest) problem = `This model draws only ${Math.round(1 / finest)} pixels per unit: ${Math.round(Math.max(width, height) / finest)} for this view.`;
    else if (period < finest) problem = `At most ${Math.floor(Math.max(width, height) / finest)} pixels here: the model cannot draw finer.`;
    else if (period > coarsest * (1 + 1e-9)) problem = `At least ${Math.ceil(Math.max(width, height) / coarsest)} pixels here: the model cannot draw coarser.`;
    else {
      const beyond = period < trained * 0.99 ? ` Beyond training: ${(trained / period).toFixed(1)}× finer.` : "";
      $("save-size").textContent = `${size[1]} × ${size[0]} pixels, ${((size[0] * size[1]) / 1e6).toFixed(1)} megapixels.${beyond}`;
      const query = { model: leader.model.id, scene: leader.scene, psi: state.psi, center_x: (left + right) / 2, center_y: (top + bottom) / 2, period, height: size[0], width: size[1], format: kind };
      address = `/api/render?${new URLSearchParams(query)}`;
    }
  }
  if (problem) $("save-size").textContent = problem;
  link.setAttribute("aria-disabled", String(!address));
  if (address) link.href = address;
  else link.removeAttribute("href");
}

function save() {
  if (look.on) return saveLook();
  const { x, y } = leader.view();
  $("save-what").textContent = `${leader.model.name}, ${state.latent ? "a photograph" : `seed ${state.seed}`}, around x ${format(x)}, y ${format(y)}. It is drawn at the size you choose.`;
  const single = leader.model.trained_periods[0] === leader.model.trained_periods[1];
  const [left, top, right, bottom] = leader.visible();
  if (single) $("long-side").value = Math.max(16, Math.round(Math.max(right - left, bottom - top) / leader.model.pyramid.period));
  updateDownload();
  $("save-dialog").showModal();
}

// Facts and keys

function updateFacts() {
  $("facts").replaceChildren();
  for (const model of served) {
    const title = document.createElement("h3");
    title.textContent = model.name;
    const list = document.createElement("dl");
    const pixels = (period) => Math.round((model.chart === "plane" ? 1 : model.short_side) / period);
    const [finest, coarsest] = model.trained_periods.map(pixels);
    const range = coarsest === finest ? finest : `${coarsest} to ${finest}`;
    const unit = model.chart === "plane" ? "px per unit" : "px on the short side";
    const lines = {
      method: model.method,
      chart: model.chart,
      trained: `${range} ${unit}, patches of ${model.patch_px[1]} × ${model.patch_px[0]}`,
      drawn: `up to ${pixels(model.pyramid.period / 2 ** (model.pyramid.levels - 1))} ${unit}`,
      tiles: model.geometry.exact ? "exact: neighbouring tiles form one picture" : "each is drawn with a margin, which is cut off",
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
  s: () => toggle("shape"),
  p: () => toggle("paint"),
  u: () => toggle("photo"),
  o: () => $("tool-look").disabled || lookAround(!look.on),
  Escape: () => (look.on ? lookAround(false) : openTool(null)),
  "?": () => $("help-dialog").showModal(),
};

function listen() {
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
    if (event.target.closest?.("input, select, textarea")) return;
    const action = KEYS[event.key];
    if (!action) return;
    event.preventDefault();
    action();
  });
  $("seed").addEventListener("change", () => setSeed($("seed").value === "" ? NaN : Number($("seed").value)));
  $("seed").addEventListener("keydown", (event) => event.key === "Enter" && $("seed").blur());
  $("previous").addEventListener("click", KEYS["["]);
  $("next").addEventListener("click", KEYS["]"]);
  $("random").addEventListener("click", random);
  $("psi").addEventListener("input", () => {
    state.psi = Number($("psi").value);
    $("psi-value").value = state.psi.toFixed(2);
    showSoon();
  });
  $("model").addEventListener("change", () => setModel(0, $("model").value));
  $("other").addEventListener("change", () => setModel(1, $("other").value));
  $("compare").addEventListener("click", compare);
  $("in").addEventListener("click", () => zoom(2));
  $("out").addEventListener("click", () => zoom(0.5));
  $("home").addEventListener("click", home);
  $("save").addEventListener("click", save);
  $("help").addEventListener("click", KEYS["?"]);
  $("long-side").addEventListener("input", updateDownload);
  $("kind").addEventListener("change", updateDownload);
  $("save-link").addEventListener("click", () => notify("Drawing. The download runs while the file is drawn; a large one takes a while."));
  for (const id of ["first", "second"]) {
    for (const kind of ["pointerdown", "wheel", "focusin"]) {
      $(id).addEventListener(kind, () => (leader = panes[id === "first" ? 0 : 1] ?? leader), { capture: true, passive: true });
    }
  }
  for (const name of Object.keys(tools)) $(`tool-${name}`).addEventListener("click", () => toggle(name));
  $("tool-look").addEventListener("click", KEYS.o);
  for (const panel of document.querySelectorAll(".panel")) {
    panel.addEventListener("keydown", (event) => {
      if (event.key !== "Escape") return;
      const opener = $(`tool-${tool}`);
      openTool(null);
      opener.focus();
    });
  }
  // A picture that is dropped anywhere or pasted is fitted by the model.
  const stage = $("stage");
  const over = (event, on) => {
    if (!event.dataTransfer?.types.includes("Files")) return;
    event.preventDefault();
    stage.classList.toggle("over", on);
  };
  stage.addEventListener("dragover", (event) => over(event, true));
  stage.addEventListener("dragleave", (event) => over(event, false));
  stage.addEventListener("drop", (event) => {
    over(event, false);
    upload(event.dataTransfer.files[0]);
  });
  addEventListener("paste", (event) => upload(event.clipboardData.files[0]));
  // Return the focus to the picture, so that its keys work.
  for (const dialog of document.querySelectorAll("dialog")) dialog.addEventListener("close", () => leader.osd.canvas.focus());
  addEventListener("hashchange", restore);
}

function upload(file) {
  if (!file) return;
  openTool("photo");
  tools.photo.upload(file);
}

// Options of the lists for versions in the registry that are not loaded yet.
const VERSION = "version:";
let versions = [];

/** Update the lists of models. */
function updateModelLists() {
  for (const id of ["model", "other"]) {
    const options = served.map((model) => new Option(model.name, model.id));
    $(id).replaceChildren(...options);
    const waiting = versions.filter(({ version }) => !served.some((model) => model.name === `${limits.registry} ${version}`));
    if (!waiting.length) continue;
    const group = document.createElement("optgroup");
    group.label = `Registry: ${limits.registry}`;
    group.append(...waiting.map(({ version, about }) => new Option(`version ${version}${about ? ` (${about})` : ""}`, VERSION + version)));
    $(id).append(group);
  }
  $("model").value = state.models[0] ?? served[0].id;
  $("other").value = state.models[1] ?? "";
  $("compare").hidden = served.length < 2;
}

async function listVersions() {
  const response = await fetch("/api/registry");
  const registry = await response.json();
  if (!response.ok) return notify(`The registry does not respond: ${registry.error}`);
  ({ versions } = registry);
  updateModelLists();
}

async function start() {
  const response = await fetch("/api/models");
  if (!response.ok) throw new Error(await response.text());
  const facts = await response.json();
  ({ models: served, limits } = facts);
  limits.registry = facts.registry;
  updateModelLists();
  $("seed").max = limits.seed;
  // OpenSeadragon adds a style element if there is none, which the page's Content-Security-Policy forbids. viewer.css has its rules.
  const style = document.createElementNS("none", "style");
  style.setAttribute("data-openseadragon-mobile-css", "true");
  document.head.append(style);
  updateFacts();
  look = new Look($("first"), () => {
    updateReadout();
    saveAddress();
  }, notify);
  const getOverlay = () => overlay;
  tools = {
    shape: new Shape(state, getOverlay, showSoon),
    paint: new Paint(state, getOverlay, showSoon),
    photo: new Photo(state, () => panes[0].model, limits.photograph_bytes, showFit, notify),
  };
  listen();
  await restore();
  if (limits.registry) listVersions();
  document.body.dataset.ready = "true";
}

start().catch((error) => notify(`The viewer could not start: ${error.message}`));
