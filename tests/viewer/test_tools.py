"""The tools of the page in a real browser: shape, paint, photographs, looking around."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Page, expect

from anyres.plane.window import Window
from anyres.synthesis import edit
from anyres.synthesis.render import render
from anyres.synthesis.request import RenderRequest
from anyres.viewer.drawing import ServedModel
from tests.viewer.browsing import PATIENCE_MS, keep, link, picture, settle, until
from tests.viewer.servers import counted, pixels
from tests.viewer.test_photographs import photograph


def scene(page: Page) -> dict:
    """What of the address makes the scene more than a seed."""
    return json.loads(link(page).get("scene", "{}"))


def middle(page: Page) -> tuple[float, float]:
    box = page.locator("#first").bounding_box()
    assert box is not None
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def drag(page: Page, start: tuple[float, float], *path: tuple[float, float]) -> None:
    page.mouse.move(*start)
    page.mouse.down()
    for x, y in path:
        page.mouse.move(x, y, steps=6)
    page.mouse.up()


@pytest.fixture
def roomy(page: Page) -> Page:
    page.set_viewport_size({"width": 1100, "height": 640})
    return page


def test_a_picture_is_stretched_and_warped_by_its_handles(roomy: Page, address: str, frame: ServedModel):
    page = roomy
    period = frame.pyramid.period / 4
    page.goto(f"{address}/#model={frame.id}")
    settle(page)
    # Pixels of the screen on pixels of the level, wherever the middle of the pane is.
    at = tuple(period * (side % 2) / 2 for side in picture(page).shape[1::-1])
    page.goto(f"{address}/?again#model={frame.id}&seed=6&psi=0.9&x={at[0]!r}&y={at[1]!r}&period={period!r}")
    settle(page)
    before = picture(page)
    page.keyboard.press("s")
    expect(page.locator("#panel-shape")).to_be_visible()
    handle = page.get_by_role("button", name=re.compile("Stretch, right"))
    box = handle.bounding_box()
    assert box is not None
    start = (box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    x, y = middle(page)
    drag(page, start, (x + (start[0] - x) * 1.5, y))
    until(page, lambda _: "edits" in scene(page))
    assert scene(page)["edits"] == [{"kind": "aspect", "factor": pytest.approx(1.5, rel=0.03)}]
    expect(page.locator('output[for="stretch"]')).to_have_text(re.compile("1.[45]"))
    page.locator("#turn").fill("25")
    page.locator("#add-warp").click()
    until(page, lambda _: len(scene(page)["edits"]) == 3)
    # By keys alone.
    page.get_by_role("button", name=re.compile("Warp point 1: ")).focus()
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    until(page, lambda _: scene(page)["edits"][2]["point"][0] == pytest.approx(at[0] + 24 * period, rel=0.01))
    keep(page, "shape")
    edits = scene(page)["edits"]
    assert [told["kind"] for told in edits] == ["aspect", "turn", "pull"]
    page.keyboard.press("Escape")
    expect(page.locator("#panel-shape")).to_be_hidden()
    settle(page)
    seen = picture(page)
    assert np.abs(before.astype(int) - seen).mean() > 5
    pulled = edits[2]
    composed = edit.compose(
        [edit.aspect(edits[0]["factor"]), edit.turn(25), edit.pull(tuple(pulled["point"]), pulled["power"], pulled["radius"])]
    )
    size = seen.shape[:2]
    drawn = render(frame.model.generator, RenderRequest(6, Window(at, period, size), 0.9, edit=composed))
    inner = (slice(4, -4), slice(4, -4))
    assert np.abs(seen.astype(int) - drawn)[inner].mean() < 1.5
    # The address alone brings it back.
    there = page.url
    page.goto("about:blank")
    page.goto(there)
    settle(page)
    assert np.abs(picture(page).astype(int) - seen)[inner].mean() < 0.5
    page.keyboard.press("s")
    expect(page.locator('output[for="turn"]')).to_have_text("25°")
    page.locator("#reset-shape").click()
    until(page, lambda view: "scene" not in view)
    page.keyboard.press("Escape")
    settle(page)
    assert np.abs(picture(page).astype(int) - before)[inner].mean() < 0.5


def test_styles_are_painted_where_the_brush_goes(roomy: Page, address: str, plane: ServedModel, frame: ServedModel):
    page = roomy
    page.goto(f"{address}/#model={plane.id}&seed=2&psi=0.7&x=0&y=0&period={plane.pyramid.period / 2!r}")
    settle(page)
    before = picture(page)
    page.keyboard.press("p")
    page.locator("#brush-seed").fill("9")
    page.keyboard.press("Enter")
    expect(page.locator("#brush-look")).to_have_attribute("alt", "The style of seed 9")
    x, y = middle(page)
    drag(page, (x - 40, y + 150), (x + 60, y + 100), (x + 250, y + 150))
    until(page, lambda _: "strokes" in scene(page))
    keep(page, "paint")
    (stroke,) = scene(page)["strokes"]
    assert stroke["seed"] == 9
    assert len(stroke["points"]) > 3
    period = float(link(page)["period"])
    assert stroke["points"][0] == pytest.approx([-40 * period, 150 * period], rel=0.02, abs=2 * period)
    page.keyboard.press("Escape")
    settle(page)
    seen = picture(page)
    change = np.abs(seen.astype(int) - before).max(axis=2)
    height, width = change.shape
    # About the line, and not far from it.
    assert change[height // 2 + 70 : height // 2 + 170, width // 2 : width // 2 + 200].mean() > 3
    assert change[: height // 2 - 60, 8:].mean() < 0.5
    page.keyboard.press("p")
    page.locator("#dab").click()
    until(page, lambda _: len(scene(page)["strokes"]) == 2)
    page.locator("#undo").click()
    page.locator("#undo").click()
    until(page, lambda view: "scene" not in view)
    # A model that cannot says so, and is not asked.
    page.locator("#dab").click()
    until(page, lambda _: "strokes" in scene(page))
    page.select_option("#model", frame.id)
    until(page, lambda view: view["model"] == frame.id)
    expect(page.locator("#paint-note")).to_contain_text("one style per picture")
    assert "scene" not in link(page)


def test_a_photograph_is_brought_shown_and_taken_away(roomy: Page, address: str, frame: ServedModel, tmp_path: Path):
    page = roomy
    (tmp_path / "photo.jpg").write_bytes(photograph())
    (tmp_path / "broken.jpg").write_bytes(photograph()[:300])
    page.goto(f"{address}/#model={frame.id}&seed=2")
    settle(page)
    before = picture(page)
    page.keyboard.press("u")
    page.select_option("#photo-steps", "80")
    page.locator("#photo-file").set_input_files(tmp_path / "photo.jpg")
    expect(page.locator("#photo-progress")).to_be_visible()
    expect(page.locator("#photo-status")).to_contain_text("step", timeout=PATIENCE_MS)
    expect(page.locator("#photo-status")).to_contain_text("Done: fit at", timeout=PATIENCE_MS)
    until(page, lambda _: "latent" in scene(page))
    keep(page, "photograph")
    assert page.title() == "frame, a photograph · anyres"
    page.keyboard.press("Escape")
    settle(page)
    assert np.abs(picture(page).astype(int) - before).mean() > 2
    page.keyboard.press("u")
    page.locator("#photo-file").set_input_files(tmp_path / "broken.jpg")
    expect(page.locator("#photo-status")).to_contain_text("That did not work: broken", timeout=PATIENCE_MS)
    page.select_option("#photo-steps", "1000")
    # Dropped from the desktop this time, and given up.
    data = page.evaluate_handle(
        """async (bytes) => {
            const data = new DataTransfer();
            data.items.add(new File([Uint8Array.from(bytes)], "photo.jpg", { type: "image/jpeg" }));
            return data;
        }""",
        list(photograph()),
    )
    page.dispatch_event("#first", "drop", {"dataTransfer": data})
    expect(page.locator("#photo-status")).to_contain_text("step", timeout=PATIENCE_MS)
    page.locator("#photo-cancel").click()
    expect(page.locator("#photo-status")).to_have_text("Cancelled.", timeout=PATIENCE_MS)
    page.locator("#photo-remove").click()
    until(page, lambda view: "scene" not in view)
    page.keyboard.press("Escape")
    settle(page)
    assert np.abs(picture(page).astype(int) - before)[8:-8, 8:-8].mean() < 0.5


def test_a_panorama_is_looked_at_from_inside(roomy: Page, address: str, ring: ServedModel, frame: ServedModel, tmp_path: Path):
    page = roomy
    page.goto(f"{address}/#model={frame.id}")
    settle(page)
    expect(page.locator("#tool-look")).to_be_disabled()
    page.goto(f"{address}/?again#model={ring.id}&seed=3&psi=0.9&look=140,25,70")
    settle(page)
    expect(page.locator("#tool-look")).to_have_attribute("aria-pressed", "true")
    expect(page.locator("#place")).to_have_text("looking 140° round, 25° up")
    page.wait_for_timeout(600)
    settle(page)
    keep(page, "look")
    with page.expect_download() as download:
        page.keyboard.press("d")
    download.value.save_as(tmp_path / "look.png")
    seen = pixels((tmp_path / "look.png").read_bytes())[..., :3]
    expected = _inside(ring, 3, 0.9, 140, 25, 70, seen.shape[:2])
    assert _alike(seen, expected) > 0.9
    assert _alike(seen[:, ::-1], expected) < 0.6
    assert _alike(seen[::-1], expected) < 0.6
    # To the other side of where the ring's ends meet, by keys and by dragging.
    page.keyboard.press("ArrowRight")
    page.mouse.move(*middle(page))
    page.mouse.down()
    page.mouse.move(middle(page)[0] - 300, middle(page)[1], steps=4)
    page.mouse.up()
    until(page, lambda view: float(view["look"].split(",")[0]) < 0)
    yaw, pitch, fov = map(float, link(page)["look"].split(","))
    page.wait_for_timeout(600)
    settle(page)
    with page.expect_download() as download:
        page.keyboard.press("d")
    download.value.save_as(tmp_path / "look.png")
    seen = pixels((tmp_path / "look.png").read_bytes())[..., :3]
    assert _alike(seen, _inside(ring, 3, 0.9, yaw, pitch, fov, seen.shape[:2])) > 0.9
    page.keyboard.press("+")
    until(page, lambda view: float(view["look"].split(",")[2]) < fov)
    page.keyboard.press("Escape")
    until(page, lambda view: "look" not in view)
    expect(page.locator(".look")).to_be_hidden()
    assert counted(address, "anyres_tiles_drawn_total") > 0


def _alike(a: np.ndarray, b: np.ndarray) -> float:
    """Correlation of two pictures at a sixteenth of their size: they are drawn at unlike periods."""
    small = [np.asarray(Image.fromarray(np.uint8(part)).reduce(16), np.float64) for part in (a, b)]
    return float(np.corrcoef(*((part - part.mean(axis=(0, 1))).ravel() for part in small))[0, 1])


def _inside(
    served: ServedModel, seed: int, psi: float, yaw: float, pitch: float, fov: float, size: tuple[int, int]
) -> np.ndarray:
    """The panorama from inside, by rays, from the library's picture of the whole ring."""
    window = served.model.geometry.chart.ring_window(1200, served.model.geometry.lattice_px)
    whole = served.model.render(seed, window, psi)
    height, width = size
    half = np.tan(np.deg2rad(fov) / 2) / min(size)
    x = (2 * np.arange(width) + 1 - width) * half
    y = -(2 * np.arange(height) + 1 - height) * half
    ray = np.stack(np.broadcast_arrays(x[None, :], y[:, None], -1.0), -1)
    ray /= np.linalg.norm(ray, axis=-1, keepdims=True)
    tilt = np.deg2rad(pitch)
    up = ray[..., 1] * np.cos(tilt) - ray[..., 2] * np.sin(tilt)
    ahead = ray[..., 1] * np.sin(tilt) + ray[..., 2] * np.cos(tilt)
    longitude = np.arctan2(ray[..., 0], -ahead) / np.pi + yaw / 180
    latitude = -np.arcsin(up.clip(-1, 1)) / np.pi
    rows = np.floor((latitude - window.bounds[1]) / window.period).astype(int).clip(0, whole.shape[0] - 1)
    columns = np.floor((longitude - window.bounds[0]) / window.period).astype(int) % whole.shape[1]
    return whole[rows, columns].astype(int)


def test_tools_fit_a_narrow_page(page: Page, address: str, frame: ServedModel):
    page.set_viewport_size({"width": 400, "height": 700})
    page.goto(f"{address}/#model={frame.id}")
    settle(page)
    for key, name in (("s", "shape"), ("p", "paint"), ("u", "photo")):
        page.keyboard.press(key)
        panel = page.locator(f"#panel-{name}")
        expect(panel).to_be_visible()
        box = panel.bounding_box()
        assert box is not None
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= 400
        assert box["y"] + box["height"] <= 700
        keep(page, f"narrow-{name}")
        page.keyboard.press("Escape")
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    unnamed = page.evaluate(
        "[...document.querySelectorAll('button, input, select, [tabindex]')].filter((e) => "
        "!(e.textContent.trim() || e.ariaLabel || e.labels?.length)).map((e) => e.id)"
    )
    assert unnamed == []
