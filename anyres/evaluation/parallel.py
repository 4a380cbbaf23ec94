"""Work distributed over the processes of a launch, and over the threads of each.

Each thread computes one chunk on one core, so no core waits for another inside an operation. On idle cores this is as fast as
torch's own threads. On shared cores it is several times faster, because torch's threads wait by spinning.
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

Chunk = TypeVar("Chunk")
Result = TypeVar("Result")


@dataclass(frozen=True)
class ProcessGroup:
    """The processes of one launch; this is number `rank` of `size`. All must call the same methods in the same order."""

    rank: int = 0
    size: int = 1

    @classmethod
    def of(cls, accelerator: Accelerator) -> ProcessGroup:
        return cls(accelerator.process_index, accelerator.num_processes)

    @property
    def is_main(self) -> bool:
        """Whether this process writes and prints."""
        return self.rank == 0

    def share(self, chunks: Sequence[Chunk]) -> Sequence[Chunk]:
        """Return the chunks of this process."""
        return chunks[self.rank :: self.size]

    def gather(self, results: list[Result]) -> list[Result]:
        """Return the results of all shares, in the order of the chunks, on every process."""
        if self.size == 1:
            return results
        shares = gather_object([results])
        total = sum(len(share) for share in shares)
        return [shares[index % self.size][index // self.size] for index in range(total)]

    def broadcast(self, value: Result) -> Result:
        """Return the value of the main process, on every process."""
        return value if self.size == 1 else broadcast_object_list([value])[0]


def map_chunks(work: Callable[[Chunk], Result], chunks: Sequence[Chunk], device: torch.device) -> list[Result]:
    """Return `work` of each chunk, in order; an accelerator computes them one after the other."""
    threads = torch.get_num_threads()
    if device.type != "cpu" or threads == 1:
        return [work(chunk) for chunk in chunks]
    with _one_thread_each(), ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        return list(pool.map(work, chunks))


@contextmanager
def _one_thread_each() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
