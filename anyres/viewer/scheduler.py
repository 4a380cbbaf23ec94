"""One thread that draws: tiles first, the newest before older ones, but none kept waiting long; views between them."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from anyres.viewer.drawing import Address, ServedModel, draw_tiles
from anyres.viewer.metrics import Metrics

# Orders for tiles that may wait.
QUEUE_LIMIT = 256
# The newest tile is what somebody looks at now; one that has waited so long goes first all the same.
PATIENCE_S = 2.0
# Tiles of one pass: more make the first wait for the last.
BATCH_LIMIT = 4


class Busy(Exception):  # noqa: N818 - a state, not a fault
    """More is waiting than will be drawn in time."""


class TileJob:
    """A tile that somebody waits for."""

    def __init__(self, key: str, served: ServedModel, address: Address, psi: float) -> None:
        self.key, self.served, self.address, self.psi = key, served, address, psi
        self.drawn: Future[bytes] = Future()
        self.waiting = 0
        self.since = time.monotonic()


class TileScheduler:
    """Draws on a thread of its own from `start` to `close`. `keep` is told of each tile, on that thread."""

    def __init__(
        self, keep: Callable[[str, bytes], None], metrics: Metrics, queue: int = QUEUE_LIMIT, batch: int = BATCH_LIMIT
    ) -> None:
        self._keep, self._metrics, self._queue, self._batch = keep, metrics, queue, batch
        self._jobs: dict[str, TileJob] = {}  # not begun, oldest first
        self._begun: dict[str, TileJob] = {}
        self._steps: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self._wake = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="scheduler", daemon=True)
        metrics.waiting.set_function(lambda: len(self._jobs))

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Give up what waits, and wait for what is being drawn."""
        with self._wake:
            self._closed = True
            for job in self._jobs.values():
                job.drawn.cancel()
            for future, _ in self._steps:
                future.cancel()
            self._jobs.clear()
            self._steps.clear()
            self._wake.notify_all()
        if self._thread.is_alive():
            self._thread.join()

    def submit(self, key: str, served: ServedModel, address: Address, psi: float) -> TileJob:
        """Wait for a tile, together with whoever waits for it already; `release` must follow. Raises Busy."""
        with self._wake:
            job = self._jobs.get(key) or self._begun.get(key)
            if job is None:
                if self._closed or len(self._jobs) >= self._queue:
                    raise Busy
                job = self._jobs[key] = TileJob(key, served, address, psi)
                self._wake.notify_all()
            job.waiting += 1
            return job

    def release(self, job: TileJob) -> None:
        """Wait no longer. What nobody waits for is not drawn."""
        with self._wake:
            job.waiting -= 1
            if not job.waiting and self._jobs.get(job.key) is job:
                del self._jobs[job.key]
                job.drawn.cancel()
                self._metrics.dropped.inc()
                self._wake.notify_all()

    def step(self, draw: Callable[[], Any]) -> Future[Any]:
        """Call `draw` between tiles, which go first. Cancel the future to do without it. Raises Busy."""
        future: Future[Any] = Future()
        with self._wake:
            if self._closed:
                raise Busy
            self._steps.append((future, draw))
            self._wake.notify_all()
        return future

    def idle(self, seconds: float) -> None:
        """Wait until nothing waits to be drawn or is being drawn, so many seconds at most."""
        with self._wake:
            self._wake.wait_for(lambda: self._closed or not (self._jobs or self._begun), seconds)

    def _work(self) -> None:
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._closed or self._jobs or self._steps)
                if self._closed:
                    return
                jobs = self._together()
                step = None if jobs else self._steps.popleft()
            if jobs:
                self._draw(jobs)
            elif step is not None and step[0].set_running_or_notify_cancel():
                _settle(step[0], step[1])

    def _together(self) -> list[TileJob]:
        """The newest job, or the oldest where that has waited too long, and others of its model and truncation."""
        jobs = list(self._jobs.values())
        if jobs and time.monotonic() - jobs[0].since < PATIENCE_S:
            jobs.reverse()
        group = [o for o in jobs if (o.served, o.psi) == (jobs[0].served, jobs[0].psi)][: self._batch]
        for job in group:
            self._begun[job.key] = self._jobs.pop(job.key)
        return group

    def _draw(self, jobs: list[TileJob]) -> None:
        for job in jobs:
            job.drawn.set_running_or_notify_cancel()
        try:
            tiles = draw_tiles(jobs[0].served, [job.address for job in jobs], jobs[0].psi)
        except Exception as error:  # noqa: BLE001 - told to those who wait, and the thread goes on
            for job in jobs:
                job.drawn.set_exception(error)
        else:
            self._metrics.passes.inc()
            self._metrics.drawn.inc(len(tiles))
            for job, tile in zip(jobs, tiles, strict=True):
                job.drawn.set_result(tile)
            for job, tile in zip(jobs, tiles, strict=True):
                self._keep(job.key, tile)
        with self._wake:
            for job in jobs:
                del self._begun[job.key]
            self._wake.notify_all()


def _settle(future: Future[Any], draw: Callable[[], Any]) -> None:
    try:
        future.set_result(draw())
    except Exception as error:  # noqa: BLE001 - told to the one who waits
        future.set_exception(error)
