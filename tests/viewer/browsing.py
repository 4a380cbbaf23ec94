"""What tests do with the page in a real browser."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import parse_qs

import numpy as np
from playwright.sync_api import Page

from tests.viewer.servers import pixels

# Where pictures of the page stay for people to look at.
SCREENSHOTS = Path(__file__).resolve().parents[2] / "out" / "screenshots"
QUIET = 'body[data-ready]:not(:has(.pane:not([hidden])[aria-busy="true"]))'
PATIENCE_MS = 60_000


def settle(page: Page) -> None:
    """Until all that is in view is drawn, and the address says what it is."""
    page.wait_for_timeout(250)
    page.wait_for_selector(QUIET, timeout=PATIENCE_MS)
    page.wait_for_timeout(200)


def until(page: Page, holds: Callable[[dict[str, str]], bool]) -> None:
    """Wait for the address to say so, and then for the picture."""
    end = time.monotonic() + PATIENCE_MS / 1000
    while not holds(link(page)):
        assert time.monotonic() < end, page.url
        page.wait_for_timeout(50)
    settle(page)


def link(page: Page) -> dict[str, str]:
    return parsed(page.url)


def parsed(url: str) -> dict[str, str]:
    """The view that an address holds."""
    return {name: values[0] for name, values in parse_qs(url.partition("#")[2]).items()}


def picture(page: Page) -> np.ndarray:
    """What is seen of the first pane, uint8 (h, w, 3)."""
    return pixels(page.locator("#first .openseadragon-canvas").screenshot())[..., :3]


def keep(page: Page, name: str) -> None:
    """Keep a picture of the page, for people."""
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"{name}.png")
