"""What every benchmark says about the machine, and its two ceilings: arithmetic and bytes."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

# Of the operations that only look at their inputs in another way.
VIEWS = ("view", "alias", "expand", "permute", "select", "slice", "split", "squeeze", "unsqueeze", "transpose", "t", "detach")


def describe(device: torch.device) -> dict[str, Any]:
    """The machine in words, its ceilings as measured now: dense float32 products, and a copy between two large arrays."""
    return {
        "machine": f"{processor()}, {len(os.sched_getaffinity(0))} cores; torch {torch.__version__}"
        + (f"; {torch.cuda.get_device_name(device)}" if device.type == "cuda" else f", {torch.get_num_threads()} threads"),
        "gflop_per_s": ceiling_flop(device) / 1e9,
        "gb_per_s": ceiling_bytes(device) / 1e9,
    }


def processor() -> str:
    """The name of the processor, as Linux tells it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def ceiling_flop(device: torch.device) -> float:
    """Float32 operations a second in a large product."""
    a = torch.randn(1536, 1536, device=device)
    return 2 * 1536**3 / fastest(lambda: a @ a, device)


def ceiling_bytes(device: torch.device) -> float:
    """Bytes a second that a copy reads and writes, arrays being larger than any cache."""
    a = torch.empty(64 * 2**20, device=device)
    b = torch.empty_like(a)
    return 2 * a.numel() * a.element_size() / fastest(lambda: b.copy_(a), device)


def fastest(work: Callable[[], object], device: torch.device, repeats: int = 10) -> float:
    return min(seconds(work, device) for _ in range(repeats))


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """Of one call, all kernels done."""
    start = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def in_turns(ways: dict[str, Callable[[], object]], device: torch.device, repeats: int) -> dict[str, list[float]]:
    """Seconds of each of `repeats` calls of each way, taking turns, after one call of each that is not counted."""
    found: dict[str, list[float]] = {name: [] for name in ways}
    for repeat in range(repeats + 1):
        for name, work in ways.items():
            took = seconds(work, device)
            if repeat:
                found[name].append(took)
    return found


def median(values: list[float]) -> float:
    return statistics.median(values)


class _Counted(TorchDispatchMode):
    """Counts operations of products and convolutions, and the bytes that each operation reads and writes, views apart."""

    def __init__(self) -> None:
        super().__init__()
        self.flop = self.moved = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        packet = func.overloadpacket
        if packet not in flop_registry:
            # In inference mode composite operations arrive whole.
            with self:
                out = func.decompose(*args, **kwargs)
            if out is not NotImplemented:
                return out
        out = func(*args, **kwargs)
        if packet in flop_registry:
            self.flop += flop_registry[packet](*args, **kwargs, out_val=out)
        if packet.__name__.strip("_") not in VIEWS:
            tensors = [x for x in tree_leaves((args, kwargs, out)) if isinstance(x, torch.Tensor)]
            self.moved += sum(x.numel() * x.element_size() for x in tensors)
        return out


def cost(work: Callable[[], object]) -> tuple[float, float]:
    """Float operations of the products and convolutions of one call, and the bytes that all its operations read and write."""
    with _Counted() as counted:
        work()
    return float(counted.flop), float(counted.moved)


@contextmanager
def peak_memory(device: torch.device) -> Any:
    """Yields a list that holds, once the block has ended, the device's peak in MiB; of a CPU, that of the process so far."""
    import resource

    found: list[float] = []
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    yield found
    if device.type == "cuda":
        found.append(torch.cuda.max_memory_allocated(device) / 2**20)
    else:
        found.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10)
