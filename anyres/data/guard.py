"""Work on hostile input in processes of its own, each piece bounded in time and memory."""

from __future__ import annotations

import multiprocessing
import os
import resource
from collections.abc import Callable
from concurrent.futures import TimeoutError as LateError
from typing import Any, Generic, Self, TypeVar

from pebble import ProcessExpired, ProcessFuture, ProcessPool

from anyres.data.refusal import RefusedError

T = TypeVar("T")
R = TypeVar("R")
# A decoder's process starts anew after so many pieces: what a decoder leaks stays bounded.
PIECES_A_PROCESS = 2000
# Of each process, beside what the piece may take: interpreter, libraries, their stacks.
OWN_MB = 512


class LimitError(RefusedError):
    """The limits of this machine and run refuse a file; it may pass elsewhere."""


class Guard(Generic[T, R]):
    """Worker processes for one function: `work(item)` that takes too long or too much ends as a RefusedError.

    `seconds` and `megabytes` bound one piece. A worker that dies takes only its own piece with it.
    """

    def __init__(self, work: Callable[[T], R], workers: int, seconds: float, megabytes: int) -> None:
        if multiprocessing.current_process().daemon:
            raise RuntimeError(
                "this process may not start others; start its Dask worker with DASK_DISTRIBUTED__WORKER__DAEMON=False"
            )
        self.work = work
        self.seconds = seconds
        self.megabytes = megabytes
        self.ahead = 2 * workers  # pieces to keep submitted, so that no worker waits
        self._pool = ProcessPool(
            max_workers=workers,
            max_tasks=PIECES_A_PROCESS,
            initializer=_bound,
            initargs=[megabytes],
            # Nothing of the parent, its threads and locks least of all, goes into a decoder.
            context=multiprocessing.get_context("spawn"),  # type: ignore[arg-type]
        )

    def submit(self, item: T) -> Callable[[], R | RefusedError]:
        """Start `work(item)`; call what is returned for its result, or for the refusal in its place."""
        future = self._pool.schedule(self.work, args=[item], timeout=self.seconds)
        return lambda: self._result(future)

    def close(self) -> None:
        self._pool.stop()
        self._pool.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _result(self, future: ProcessFuture) -> Any:
        try:
            return future.result()
        except RefusedError as refusal:
            return refusal
        except LateError:
            return LimitError(f"too slow: takes more than {self.seconds:g} s to decode")
        except MemoryError:
            return LimitError(f"too large in memory: takes more than {self.megabytes} MB to decode")
        except ProcessExpired as end:
            return LimitError(f"crashes its decoder: status {end.exitcode} (out of {self.megabytes} MB, or a fault in the file)")


def _bound(megabytes: int) -> None:
    limit = (OWN_MB + megabytes) * 2**20
    # Data rather than address space: mapped files and reserved stacks cost nothing until they are touched.
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # Before libvips starts: the workers are the parallel part.
    os.environ["VIPS_CONCURRENCY"] = "1"
