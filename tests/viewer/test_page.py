"""The page in a real browser."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Browser, Page, expect

from anyres.plane.window import Window
from anyres.viewer.drawing import ServedModel
from tests.viewer.browsing import PATIENCE_MS, keep, link, parsed, picture, settle, until
from tests.viewer.servers import counted, pixels, serving


def test_looking_around(page: Page, address: str, frame: ServedModel):
    page.goto(address)
    settle(page)
    start = link(page)
    assert (start["model"], start["seed"], start["psi"]) == (frame.id, "0", "0.7")
    assert page.title() == "frame, seed 0 · anyres"
    keep(page, "start")

    # Five levels in, each of which halves the period.
    for press in range(1, 6):
        page.keyboard.press("+")
        wanted = pytest.approx(float(start["period"]) / 2**press)
        until(page, lambda view, wanted=wanted: float(view["period"]) == wanted)
    expect(page.locator("#hint")).to_have_text(re.compile("beyond training: .* finer"))
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    until(page, lambda view: float(view["x"]) > 0 and float(view["y"]) > 0)
    moved = link(page)
    box = page.locator("#first").bounding_box()
    assert box is not None
    middle = (box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.move(*middle)
    page.mouse.down()
    page.mouse.move(middle[0] + 90, middle[1] + 40, steps=4)
    page.mouse.up()
    period = float(moved["period"])
    wanted = pytest.approx(float(moved["x"]) - 90 * period, abs=5 * period)
    until(page, lambda view: float(view["x"]) == wanted)

    before = picture(page)
    page.keyboard.press("]")
    until(page, lambda view: view["seed"] == "1")
    expect(page.locator("#seed")).to_have_value("1")
    other = picture(page)
    assert np.abs(before.astype(int) - other).mean() > 2
    page.locator("#psi").fill("0.4")
    until(page, lambda view: view["psi"] == "0.4")
    expect(page.locator("#psi-value")).to_have_text("0.40")

    # The address alone brings the view back, in another window of the same size.
    seen, address_of_it = picture(page), page.url
    keep(page, "deep")
    page.goto("about:blank")
    page.goto(address_of_it)
    settle(page)
    for name, value in parsed(address_of_it).items():
        same = value if name == "model" else pytest.approx(float(value), rel=1e-9)
        assert (link(page)[name] if name == "model" else float(link(page)[name])) == same
    assert np.abs(picture(page).astype(int) - seen).mean() < 1
    # Drawn before, all of it.
    drawn = counted(address, "anyres_tiles_drawn_total")
    page.reload()
    settle(page)
    assert counted(address, "anyres_tiles_drawn_total") == drawn


@pytest.mark.parametrize(("kind", "steps"), [("frame", (-3, 41)), ("plane", (-123_457, 1 << 24))])
def test_what_is_seen_is_what_the_library_draws(
    page: Page, address: str, request: pytest.FixtureRequest, kind: str, steps: tuple[int, int]
):
    served = request.getfixturevalue(kind)
    period = served.pyramid.period / 2 ** (served.pyramid.levels - 1)
    page.goto(f"{address}/#model={served.id}&x=0&y=0&period={period!r}")
    settle(page)
    height, width = picture(page).shape[:2]
    # Pixels of the screen on pixels of the finest level, wherever the middle of the pane is.
    x, y = (period * (step + side % 2 / 2) for step, side in zip(steps, (width, height), strict=True))
    page.goto(f"{address}/?again#model={served.id}&seed=6&psi=0.9&x={x!r}&y={y!r}&period={period!r}")
    settle(page)
    seen = picture(page).astype(int)
    drawn = served.model.render(6, Window((x, y), period, (height, width)), psi=0.9)
    # Within the line about a pane that has the focus, and right of nothing: the name is shown for two models alone.
    inner = (slice(4, -4), slice(4, -4))
    assert np.abs(seen - drawn)[inner].max() <= 2


def test_a_view_is_saved_as_it_is_seen(page: Page, address: str, frame: ServedModel, tmp_path: Path):
    page.goto(f"{address}/#model={frame.id}&seed=3&psi=0.6&x=0.2&y=-0.1&period=0.002")
    settle(page)
    page.keyboard.press("d")
    page.locator("#long-side").fill("900")
    expect(page.locator("#save-size")).to_contain_text("900 × ")
    with page.expect_download(timeout=PATIENCE_MS) as download:
        page.locator("#save-link").click()
    download.value.save_as(tmp_path / "view.png")
    found = pixels((tmp_path / "view.png").read_bytes())
    height, width = found.shape[:2]
    assert download.value.suggested_filename == f"frame-3-{width}x{height}.png"
    # What is seen of the frame, from border to border of the pane.
    box = page.locator("#first").bounding_box()
    assert box is not None
    assert max(height, width) == 900
    period = box["width"] * 0.002 / 900
    window = Window((0.2, -0.1), period, (height, 900))
    whole = frame.model.render(3, window, psi=0.6)
    assert np.abs(found.astype(int) - whole).mean() < 2
    # Too large is said before it is asked for.
    page.locator("#long-side").fill("60000")
    expect(page.locator("#save-size")).to_contain_text("more than 64 megapixels")
    assert page.locator("#save-link").get_attribute("href") is None
    page.keyboard.press("Escape")
    expect(page.locator("#save-dialog")).to_be_hidden()


def test_two_models_move_together(page: Page, address: str, frame: ServedModel, plane: ServedModel):
    page.goto(address)
    settle(page)
    page.locator("#compare").click()
    until(page, lambda view: view.get("with") == plane.id)
    expect(page.locator(".pane:visible")).to_have_count(2)
    assert page.locator(".tag").all_text_contents() == ["frame", "plane"]
    # The second picture is that of the second model, about the same place and as large.
    before = float(link(page)["period"])
    page.keyboard.press("+")
    until(page, lambda view: float(view["period"]) == pytest.approx(before / 2))
    page.keyboard.press("ArrowRight")
    until(page, lambda view: float(view["x"]) > 0)
    x, period = float(link(page)["x"]), float(link(page)["period"])
    page.locator("#second .openseadragon-canvas").focus()
    page.keyboard.press("ArrowRight")
    until(page, lambda view: float(view["x"]) > x)
    assert float(link(page)["period"]) == pytest.approx(period)
    page.select_option("#model", plane.id)
    until(page, lambda view: (view["model"], view.get("with")) == (plane.id, frame.id))
    page.locator("#compare").click()
    until(page, lambda view: "with" not in view)
    expect(page.locator(".pane:visible")).to_have_count(1)
    # Without end: far from the origin there is still a picture.
    page.goto(f"{address}/#model={plane.id}&seed=3&psi=0.7&x=12345.5&y=-777.25&period={plane.pyramid.period}")
    settle(page)
    assert float(link(page)["x"]) == pytest.approx(12345.5)
    assert picture(page).std() > 3


def test_a_narrow_page_with_keys_alone(browser: Browser, frame: ServedModel, tmp_path: Path):
    token = "a-token-that-is-long"
    with serving([frame], tmp_path / "tiles", token=token) as address:
        page = browser.new_page(viewport={"width": 400, "height": 700}, reduced_motion="reduce")
        page.goto(f"{address}/?token={token}")
        settle(page)
        assert "token" not in page.url
        assert page.evaluate("document.documentElement.scrollWidth") <= 400
        assert page.locator("#compare").is_hidden()
        page.keyboard.press("?")
        expect(page.locator("#help-dialog")).to_be_visible()
        expect(page.locator("#facts")).to_contain_text(frame.weights[:16])
        page.keyboard.press("Escape")
        expect(page.locator("#help-dialog")).to_be_hidden()
        page.wait_for_timeout(50)
        for key in ("]", "]", "["):
            page.keyboard.press(key)
        until(page, lambda view: view["seed"] == "1")
        page.locator("#seed").fill("-4")
        page.keyboard.press("Enter")
        expect(page.locator("#notice")).to_contain_text("from 0 to 1099511627775")
        expect(page.locator("#seed")).to_have_value("1")
        unnamed = page.evaluate(
            "[...document.querySelectorAll('button, input, select')].filter((e) => "
            "!(e.textContent.trim() || e.ariaLabel || e.labels?.length)).map((e) => e.id)"
        )
        assert unnamed == []
        keep(page, "narrow")
        page.close()
