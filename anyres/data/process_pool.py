"""A pool of processes that decode untrusted files, with limits on time and memory per file."""

from __future__ import annotations

import multiprocessing
import os
import resource
from collections.abc import Callable
from concurrent.futures import TimeoutError as TaskTimeoutError
from typing import Any, Generic, Self, TypeVar

from pebble import ProcessExpired, ProcessFuture, ProcessPool

from anyres.data.refusal import RefusedError

T = TypeVar("T")
R = TypeVar("R")
# A worker process is replaced after this many tasks, to bound the memory that decoders leak.
TASKS_PER_PROCESS = 2000
# Memory of each process beside that of a task: interpreter, libraries, stacks.
BASE_MB = 512


class LimitError(RefusedError):
    """A file exceeds a limit of this machine or run. It may pass with other limits."""


class LimitedProcessPool(Generic[T, R]):
    """Worker processes for one function. A task that exceeds `seconds` or `megabytes` ends as a RefusedError.

    A worker that crashes fails only its own task.
    """

    def __init__(self, function: Callable[[T], R], workers: int, seconds: float, megabytes: int) -> None:
        if multiprocessing.current_process().daemon:
            raise RuntimeError(
                "this process may not start others; start its Dask worker with DASK_DISTRIBUTED__WORKER__DAEMON=False"
            )
        self.function = function
        self.seconds = seconds
        self.megabytes = megabytes
        self.queue_length = 2 * workers  # tasks to keep submitted, so that no worker is idle
        self._pool = ProcessPool(
            max_workers=workers,
            max_tasks=TASKS_PER_PROCESS,
            initializer=_limit_process,
            initargs=[megabytes],
            # A spawned process inherits no threads, locks or memory of its parent.
            context=multiprocessing.get_context("spawn"),  # type: ignore[arg-type]
        )

    def submit(self, task: T) -> Callable[[], R | RefusedError]:
        """Start `function(task)`. Return a function that waits for its result or its refusal."""
        future = self._pool.schedule(self.function, args=[task], timeout=self.seconds)
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
        except TaskTimeoutError:
            return LimitError(f"too slow: takes more than {self.seconds:g} s to decode")
        except MemoryError:
            return LimitError(f"too large in memory: takes more than {self.megabytes} MB to decode")
        except ProcessExpired as end:
            return LimitError(f"crashes its decoder: status {end.exitcode} (out of {self.megabytes} MB, or a fault in the file)")


def _limit_process(megabytes: int) -> None:
    limit = (BASE_MB + megabytes) * 2**20
    # RLIMIT_DATA rather than RLIMIT_AS: mapped files and reserved stacks use no memory until they are touched.
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # Set before libvips starts: the processes already run in parallel.
    os.environ["VIPS_CONCURRENCY"] = "1"
