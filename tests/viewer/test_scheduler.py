"""Who is drawn for first, and that nobody waits for ever."""

from __future__ import annotations

import time

import pytest

from anyres.viewer import scheduler as painting
from anyres.viewer.drawing import Address, Exhibit
from anyres.viewer.metrics import Metrics
from anyres.viewer.scheduler import Painter


@pytest.fixture
def painter():
    drawn: list[str] = []
    found = Painter(lambda key, tile: drawn.append(key), Metrics(), queue=64, batch=1)
    found.drawn = drawn  # type: ignore[attr-defined]
    yield found
    found.close()


def test_the_newest_goes_first(painter: Painter, frame: Exhibit) -> None:
    orders = [painter.ask(str(number), frame, Address(number, 0, 0, 0), 0.7) for number in range(4)]
    painter.start()
    for order in orders:
        assert order.drawn.result(timeout=30).startswith(b"\x89PNG")
    assert painter.drawn == ["3", "2", "1", "0"]  # type: ignore[attr-defined]


def test_an_order_among_ever_newer_ones_is_not_forgotten(painter: Painter, frame: Exhibit) -> None:
    old = painter.ask("old", frame, Address(0, 0, 0, 0), 0.7)
    fresh = [painter.ask(f"new {number}", frame, Address(number, 0, 0, 0), 0.7) for number in range(1, 9)]
    painter.start()
    start, number = time.monotonic(), 8
    while not old.drawn.done():
        assert time.monotonic() - start < painting.PATIENCE_S + 20
        fresh = [order for order in fresh if not order.drawn.done()]
        while len(fresh) < 8:
            number += 1
            fresh.append(painter.ask(f"new {number}", frame, Address(number, 0, 0, 0), 0.7))
        time.sleep(0.001)
    # It was passed by until its patience ended, and no longer.
    assert time.monotonic() - start >= painting.PATIENCE_S
    assert "old" in painter.drawn  # type: ignore[attr-defined]
