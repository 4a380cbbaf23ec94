"""Who is drawn for first, and that nobody waits for ever."""

from __future__ import annotations

import time

import pytest

from anyres.viewer import scheduler as painting
from anyres.viewer.drawing import ServedModel, TileAddress
from anyres.viewer.metrics import Metrics
from anyres.viewer.scheduler import TileScheduler


@pytest.fixture
def scheduler():
    drawn: list[str] = []
    found = TileScheduler(lambda key, tile: drawn.append(key), Metrics(), queue=64, batch=1)
    found.drawn = drawn  # type: ignore[attr-defined]
    yield found
    found.close()


def test_the_newest_goes_first(scheduler: TileScheduler, frame: ServedModel) -> None:
    jobs = [scheduler.submit(str(number), frame, TileAddress(number, 0, 0, 0), 0.7) for number in range(4)]
    scheduler.start()
    for job in jobs:
        assert job.png.result(timeout=30).startswith(b"\x89PNG")
    assert scheduler.drawn == ["3", "2", "1", "0"]  # type: ignore[attr-defined]


def test_an_order_among_ever_newer_ones_is_not_forgotten(scheduler: TileScheduler, frame: ServedModel) -> None:
    old = scheduler.submit("old", frame, TileAddress(0, 0, 0, 0), 0.7)
    fresh = [scheduler.submit(f"new {number}", frame, TileAddress(number, 0, 0, 0), 0.7) for number in range(1, 9)]
    scheduler.start()
    start, number = time.monotonic(), 8
    while not old.png.done():
        assert time.monotonic() - start < painting.MAX_WAIT_S + 20
        fresh = [job for job in fresh if not job.png.done()]
        while len(fresh) < 8:
            number += 1
            fresh.append(scheduler.submit(f"new {number}", frame, TileAddress(number, 0, 0, 0), 0.7))
        time.sleep(0.001)
    # It was passed by until its patience ended, and no longer.
    assert time.monotonic() - start >= painting.MAX_WAIT_S
    assert "old" in scheduler.drawn  # type: ignore[attr-defined]
