"""The machine of a benchmark: its description, and its peak throughput of arithmetic and of bytes."""

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

# Operations that only return a view of their inputs.
VIEWS = ("view", "alias", "expand", "permute", "select", "slice", "split", "squeeze", "unsqueeze", "transpose", "t", "detach")


def describe(device: torch.device) -> dict[str, Any]:
    """Describe the machine and measure its peaks: dense float32 products, and a copy between two large arrays."""
    return {
        "machine": f"{processor()}, {len(os.sched_getaffinity(0))} cores; torch {torch.__version__}"
        + (f"; {torch.cuda.get_device_name(device)}" if device.type == "cuda" else f", {torch.get_num_threads()} threads"),
        "gflop_per_s": peak_flop(device) / 1e9,
        "gb_per_s": peak_bytes(device) / 1e9,
    }


def processor() -> str:
    """Return the name of the processor, from Linux."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def peak_flop(device: torch.device) -> float:
    """Return float32 operations per second in a large product."""
    a = torch.randn(1536, 1536, device=device)
    return 2 * 1536**3 / fastest(lambda: a @ a, device)


def peak_bytes(device: torch.device) -> float:
    """Return the bytes per second that a copy reads and writes; the arrays are larger than any cache."""
    a = torch.empty(64 * 2**20, device=device)
    b = torch.empty_like(a)
    return 2 * a.numel() * a.element_size() / fastest(lambda: b.copy_(a), device)


def fastest(work: Callable[[], object], device: torch.device, repeats: int = 10) -> float:
    return min(seconds(work, device) for _ in range(repeats))


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """Return the time of one call, until all its kernels are done."""
    start = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def interleave(variants: dict[str, Callable[[], object]], device: torch.device, repeats: int) -> dict[str, list[float]]:
    """Return the times in seconds of `repeats` calls of each variant, interleaved, after one warm-up call of each."""
    times: dict[str, list[float]] = {name: [] for name in variants}
    for repeat in range(repeats + 1):
        for name, work in variants.items():
            duration = seconds(work, device)
            if repeat:
                times[name].append(duration)
    return times


def median(values: list[float]) -> float:
    return statistics.median(values)


class _Counted(TorchDispatchMode):
    """Counts operations of products and convolutions, and the bytes that each operation except views reads and writes."""

    def __init__(self) -> None:
        super().__init__()
        self.flop = self.moved = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        packet = func.overloadpacket
        if packet not in flop_registry:
            # In inference mode composite operations are not decomposed.
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
    """Return the float operations of products and convolutions of one call, and the bytes that its operations read and write."""
    with _Counted() as counted:
        work()
    return float(counted.flop), float(counted.moved)


@contextmanager
def peak_memory(device: torch.device) -> Any:
    """Yield a list that holds the device's peak memory in MiB once the block has ended; on a CPU, that of the process so far."""
    import resource

    peak: list[float] = []
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    yield peak
    if device.type == "cuda":
        peak.append(torch.cuda.max_memory_allocated(device) / 2**20)
    else:
        peak.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10)
