"""Schedules drawing on one thread: tiles before views, newest tile first, with a bound on how long a tile waits."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from anyres.viewer.drawing import ServedModel, TileAddress, draw_tiles
from anyres.viewer.metrics import Metrics

# Tile jobs that may wait.
QUEUE_LIMIT = 256
# A user most likely looks at the newest tile. A tile that has waited this long is drawn first nevertheless.
MAX_WAIT_S = 2.0
# Tiles per forward pass. A larger batch delays its first tile.
BATCH_LIMIT = 4


class OverloadedError(Exception):
    """More work is waiting than will be done in time."""


class TileJob:
    """A tile to draw, and how many requests wait for it. `png` resolves to its file."""

    def __init__(self, key: str, served: ServedModel, address: TileAddress, psi: float) -> None:
        self.key, self.served, self.address, self.psi = key, served, address, psi
        self.png: Future[bytes] = Future()
        self.num_waiters = 0
        self.since = time.monotonic()


class TileScheduler:
    """Draws on a thread of its own from `start` to `close`. It calls `store(key, png)` on that thread for each tile."""

    def __init__(
        self, store: Callable[[str, bytes], None], metrics: Metrics, queue: int = QUEUE_LIMIT, batch: int = BATCH_LIMIT
    ) -> None:
        self._store, self._metrics, self._queue, self._batch = store, metrics, queue, batch
        self._waiting: dict[str, TileJob] = {}  # oldest first
        self._running: dict[str, TileJob] = {}
        self._steps: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self._wake = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="scheduler", daemon=True)
        metrics.queue_length.set_function(lambda: len(self._waiting))

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Cancel the waiting jobs, and wait for the running ones."""
        with self._wake:
            self._closed = True
            for job in self._waiting.values():
                job.png.cancel()
            for future, _ in self._steps:
                future.cancel()
            self._waiting.clear()
            self._steps.clear()
            self._wake.notify_all()
        if self._thread.is_alive():
            self._thread.join()

    def submit(self, key: str, served: ServedModel, address: TileAddress, psi: float) -> TileJob:
        """Queue a tile, or join the job that draws it already. Call `release` afterwards. Raises OverloadedError."""
        with self._wake:
            job = self._waiting.get(key) or self._running.get(key)
            if job is None:
                if self._closed or len(self._waiting) >= self._queue:
                    raise OverloadedError
                job = self._waiting[key] = TileJob(key, served, address, psi)
                self._wake.notify_all()
            job.num_waiters += 1
            return job

    def release(self, job: TileJob) -> None:
        """Stop waiting for a job. A job without waiters is cancelled."""
        with self._wake:
            job.num_waiters -= 1
            if not job.num_waiters and self._waiting.get(job.key) is job:
                del self._waiting[job.key]
                job.png.cancel()
                self._metrics.tiles_dropped.inc()
                self._wake.notify_all()

    def step(self, draw: Callable[[], Any]) -> Future[Any]:
        """Queue one step of a view, which runs when no tile waits. Cancel the future to drop it. Raises OverloadedError."""
        future: Future[Any] = Future()
        with self._wake:
            if self._closed:
                raise OverloadedError
            self._steps.append((future, draw))
            self._wake.notify_all()
        return future

    def wait_until_idle(self, seconds: float) -> None:
        """Wait until no tile is waiting or being drawn, for at most `seconds`."""
        with self._wake:
            self._wake.wait_for(lambda: self._closed or not (self._waiting or self._running), seconds)

    def _work(self) -> None:
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._closed or self._waiting or self._steps)
                if self._closed:
                    return
                jobs = self._next_batch()
                step = None if jobs else self._steps.popleft()
            if jobs:
                self._draw(jobs)
            elif step is not None and step[0].set_running_or_notify_cancel():
                _run(step[0], step[1])

    def _next_batch(self) -> list[TileJob]:
        """The newest job, or the oldest if it has waited too long, together with others of its model and truncation."""
        jobs = list(self._waiting.values())
        if jobs and time.monotonic() - jobs[0].since < MAX_WAIT_S:
            jobs.reverse()
        group = [o for o in jobs if (o.served, o.psi) == (jobs[0].served, jobs[0].psi)][: self._batch]
        for job in group:
            self._running[job.key] = self._waiting.pop(job.key)
        return group

    def _draw(self, jobs: list[TileJob]) -> None:
        for job in jobs:
            job.png.set_running_or_notify_cancel()
        try:
            tiles = draw_tiles(jobs[0].served, [job.address for job in jobs], jobs[0].psi)
        except Exception as error:  # noqa: BLE001 - reported to the waiters; the thread continues
            for job in jobs:
                job.png.set_exception(error)
        else:
            self._metrics.passes.inc()
            self._metrics.tiles_drawn.inc(len(tiles))
            for job, tile in zip(jobs, tiles, strict=True):
                job.png.set_result(tile)
            for job, tile in zip(jobs, tiles, strict=True):
                self._store(job.key, tile)
        with self._wake:
            for job in jobs:
                del self._running[job.key]
            self._wake.notify_all()


def _run(future: Future[Any], draw: Callable[[], Any]) -> None:
    try:
        future.set_result(draw())
    except Exception as error:  # noqa: BLE001 - reported to the waiter
        future.set_exception(error)
