"""Who is drawn for first, and that nobody waits for ever."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from anyres.viewer import scheduler as scheduling
from anyres.viewer.drawing import ServedModel, TileAddress
from anyres.viewer.metrics import Metrics
from anyres.viewer.scheduler import TileScheduler


@pytest.fixture
def stored() -> list[str]:
    """Keys of tiles in the order in which they were drawn."""
    return []


@pytest.fixture
def scheduler(stored: list[str]) -> Iterator[TileScheduler]:
    scheduler = TileScheduler(lambda key, tile: stored.append(key), Metrics(), queue=64, batch=1)
    yield scheduler
    scheduler.close()


def test_the_newest_goes_first(scheduler: TileScheduler, stored: list[str], frame: ServedModel) -> None:
    jobs = [scheduler.submit(str(number), frame, TileAddress(number, 0, 0, 0), 0.7) for number in range(4)]
    scheduler.start()
    for job in jobs:
        assert job.png.result(timeout=30).startswith(b"\x89PNG")
    assert stored == ["3", "2", "1", "0"]


def test_an_order_among_ever_newer_ones_is_not_forgotten(scheduler: TileScheduler, stored: list[str], frame: ServedModel) -> None:
    old = scheduler.submit("old", frame, TileAddress(0, 0, 0, 0), 0.7)
    fresh = [scheduler.submit(f"new {number}", frame, TileAddress(number, 0, 0, 0), 0.7) for number in range(1, 9)]
    scheduler.start()
    start, number = time.monotonic(), 8
    while not old.png.done():
        assert time.monotonic() - start < scheduling.MAX_WAIT_S + 20
        fresh = [job for job in fresh if not job.png.done()]
        while len(fresh) < 8:
            number += 1
            fresh.append(scheduler.submit(f"new {number}", frame, TileAddress(number, 0, 0, 0), 0.7))
        time.sleep(0.001)
    # It was passed by until its patience ended, and no longer.
    assert time.monotonic() - start >= scheduling.MAX_WAIT_S
    assert "old" in stored
