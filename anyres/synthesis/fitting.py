"""Descent on named tensors, as projections use it: a warm rate, a bar that moves, and a file to go on from."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from anyres.files import write_atomic

# Shares of the way over which the rate rises and falls: Karras et al., CVPR 2020, appendix D.
RAMP_UP, RAMP_DOWN = 0.05, 0.25
SAVE_EVERY = 100
FORMAT = "anyres-fit-1"


def descend(
    found: Mapping[str, Tensor],
    rate: Callable[[str], float],
    loss: Callable[[int], Tensor],
    steps: int,
    identity: str,
    work: Path | None = None,
    advance: Callable[[float], None] | None = None,
) -> None:
    """Change the leaves `found` in place by Adam, each at its own `rate`, until `loss` of the step was asked for `steps` times.

    With `work`, a file, the descent goes on where an interrupted one of the same `identity` stopped; it is removed at the end.
    `advance` is told of steps.
    """
    optimizer = torch.optim.Adam([{"params": [value], "rate": rate(name)} for name, value in found.items()])
    done = 0 if work is None else _resume(work, identity, found, optimizer)
    if advance is not None and done:
        advance(done)
    for step in range(done, steps):
        for group in optimizer.param_groups:
            group["lr"] = group["rate"] * _ramp(step / steps)
        value = loss(step)
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        optimizer.step()
        if advance is not None:
            advance(1)
        if work is not None and (step + 1) % SAVE_EVERY == 0:
            _keep(work, identity, step + 1, found, optimizer)
    if work is not None:
        work.unlink(missing_ok=True)


def _ramp(share: float) -> float:
    """Rate at a share of the way: up linearly, down by a cosine."""
    down = min(1.0, (1 - share) / RAMP_DOWN)
    return (0.5 - 0.5 * math.cos(math.pi * down)) * min(1.0, share / RAMP_UP) if share else 0.0


def _keep(path: Path, identity: str, step: int, found: Mapping[str, Tensor], optimizer: torch.optim.Adam) -> None:
    from safetensors.torch import save

    tensors = {name: value.detach() for name, value in found.items()}
    for name, value in found.items():
        tensors |= {f"{name}/{key}": optimizer.state[value][key] for key in ("exp_avg", "exp_avg_sq")}
    metadata = {"format": FORMAT, "identity": identity, "step": str(step)}
    write_atomic(path, save({key: value.cpu().contiguous() for key, value in tensors.items()}, metadata=metadata))


def _resume(path: Path, identity: str, found: Mapping[str, Tensor], optimizer: torch.optim.Adam) -> int:
    """Fill the found and the optimizer from a file of `_keep`; 0 where that is of something else."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT or metadata.get("identity") != identity:
                return 0
            step = int(metadata["step"])
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError):
        return 0
    for name, value in found.items():
        with torch.no_grad():
            value.copy_(tensors[name])
        moments = {key: tensors[f"{name}/{key}"].to(value.device) for key in ("exp_avg", "exp_avg_sq")}
        optimizer.state[value] = {"step": torch.tensor(float(step)), **moments}
    return step
