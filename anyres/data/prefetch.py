"""Batches read ahead in a thread while the network trains."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from types import TracebackType

import numpy as np

from anyres.data.patches import PatchSampler
from anyres.plane.window import Window

Batch = tuple[np.ndarray, list[Window]]


class Prefetch(Iterator[Batch]):
    """Iterate the batches of one process for ever, from any `nimg` on: resuming is constructing it there.

    Each step draws `local` samples a process, `local * world` over all: sample i of this process is number
    nimg + rank * local + i. `depth` batches wait ready. An error of the reading thread is raised by `next`.
    Close it, or use it in a `with`, to end the thread.
    """

    def __init__(self, sampler: PatchSampler, nimg: int, local: int, rank: int = 0, world: int = 1, depth: int = 4) -> None:
        if not 0 <= rank < world or local < 1 or nimg < 0:
            raise ValueError(f"no batches for nimg {nimg}, local {local}, rank {rank} of world {world}")
        self._first = nimg + rank * local
        self._local = local
        self._step = local * world
        self._sampler = sampler
        self._ready: queue.Queue[Batch | BaseException] = queue.Queue(depth)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="prefetch", daemon=True)
        self._thread.start()

    def __next__(self) -> Batch:
        if self._closing.is_set():
            raise StopIteration
        batch = self._ready.get()
        if isinstance(batch, BaseException):
            self.close()
            raise batch
        return batch

    def close(self) -> None:
        """End the thread; the batches that wait are dropped."""
        self._closing.set()
        self._thread.join()

    def __enter__(self) -> Prefetch:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _run(self) -> None:
        n = self._first
        while not self._closing.is_set():
            try:
                batch: Batch | BaseException = self._sampler.batch(n, self._local)
            except BaseException as error:
                batch = error
            self._put(batch)
            if isinstance(batch, BaseException):
                return
            n += self._step

    def _put(self, batch: Batch | BaseException) -> None:
        while not self._closing.is_set():
            try:
                return self._ready.put(batch, timeout=0.1)
            except queue.Full:
                continue
