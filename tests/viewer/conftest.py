"""Small models of each kind, on show for all tests of a file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from anyres.viewer.drawing import ServedModel
from tests.export.bundles import ANYRES_GAN, INFINITY_GAN, make_bundle
from tests.viewer.servers import chromium, served, serving


@pytest.fixture(scope="session")
def frame_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("frame") / "generator", seed=0, patch_kid=0.25)


@pytest.fixture(scope="session")
def frame(frame_bundle: Path) -> ServedModel:
    """Exact, 3:2."""
    return served("frame", frame_bundle)


@pytest.fixture(scope="session")
def plane(tmp_path_factory: pytest.TempPathFactory) -> ServedModel:
    """Exact, without end, of one period."""
    return served("plane", make_bundle(tmp_path_factory.mktemp("plane") / "generator", 1, 0.25, **INFINITY_GAN))


@pytest.fixture(scope="session")
def ring(tmp_path_factory: pytest.TempPathFactory) -> ServedModel:
    """Exact, all round."""
    folder = tmp_path_factory.mktemp("ring") / "generator"
    return served("ring", make_bundle(folder, 2, 0.25, half_extent=(1.0, 0.5), chart="cylinder", fov=180.0))


@pytest.fixture(scope="session")
def inexact(tmp_path_factory: pytest.TempPathFactory) -> ServedModel:
    """Tiles that agree but for what their borders let in."""
    return served("inexact", make_bundle(tmp_path_factory.mktemp("inexact") / "generator", 3, 0.25, **ANYRES_GAN))


@pytest.fixture(scope="module")
def address(
    frame: ServedModel, plane: ServedModel, ring: ServedModel, inexact: ServedModel, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """A viewer of all four."""
    with serving([frame, plane, ring, inexact], tmp_path_factory.mktemp("cache")) as found:
        yield found


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    # Chromium's own sandbox does not start for root.
    words = ["--no-sandbox"] if os.geteuid() == 0 else []
    # WebGL without a graphics card.
    words += ["--enable-unsafe-swiftshader", "--use-angle=swiftshader"]
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=chromium(), args=words)
        yield opened
        opened.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page that must not complain: neither of its scripts nor of its policy nor of an answer."""
    complaints: list[str] = []
    page = browser.new_page(viewport={"width": 700, "height": 620}, reduced_motion="reduce", accept_downloads=True)
    # OpenSeadragon warns of tiles that arrive after their scene has gone; that is no fault.
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("response", lambda answer: complaints.append(f"{answer.status} {answer.url}") if answer.status >= 400 else None)
    yield page
    page.close()
    assert complaints == []
