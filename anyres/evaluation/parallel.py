"""Work shared among the processes of a launch, and among the threads of each.

Threads take one chunk each, on one core, so that no core waits for another inside an operation: on idle cores as fast as
torch's own threads; on shared ones several times faster, since those wait by spinning.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object

Part = TypeVar("Part")
Result = TypeVar("Result")


@dataclass(frozen=True)
class ProcessGroup:
    """The processes of one launch, of which this is number `rank` of `size`: all must ask for the same, in the same order."""

    rank: int = 0
    size: int = 1

    @classmethod
    def of(cls, accelerator: Accelerator) -> ProcessGroup:
        return cls(accelerator.process_index, accelerator.num_processes)

    @property
    def is_main(self) -> bool:
        """Whether this process writes and prints."""
        return self.rank == 0

    def share(self, parts: Sequence[Part]) -> Sequence[Part]:
        """What falls to this process."""
        return parts[self.rank :: self.size]

    def gathered(self, results: list[Result]) -> list[Result]:
        """The results of all shares, in the order of the parts, on every process."""
        if self.size == 1:
            return results
        shares = gather_object([results])
        total = sum(len(share) for share in shares)
        return [shares[place % self.size][place // self.size] for place in range(total)]

    def broadcast(self, value: Result) -> Result:
        """What the leading process says."""
        return value if self.size == 1 else broadcast_object_list([value])[0]


def over_chunks(work: Callable[[Part], Result], parts: Sequence[Part], device: torch.device) -> list[Result]:
    """Return `work` of each part, in order; an accelerator takes them one after the other."""
    threads = torch.get_num_threads()
    if device.type != "cpu" or threads == 1:
        return [work(part) for part in parts]
    with _one_thread_each(), ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        return list(pool.map(work, parts))


@contextmanager
def _one_thread_each() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
