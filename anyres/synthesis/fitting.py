"""Gradient descent on named tensors for projections: rate schedule, progress, and a checkpoint to resume from."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from anyres.files import write_atomic

# Shares of the steps over which the rate rises and falls: Karras et al., CVPR 2020, appendix D.
RAMP_UP, RAMP_DOWN = 0.05, 0.25
SAVE_EVERY = 100
FORMAT = "anyres-fit-1"


def descend(
    variables: Mapping[str, Tensor],
    rate: Callable[[str], float],
    loss: Callable[[int], Tensor],
    steps: int,
    identity: str,
    work: Path | None = None,
    advance: Callable[[float], None] | None = None,
) -> None:
    """Optimize the leaf tensors `variables` in place by Adam for `steps` steps.

    `rate` maps the name of a variable to its rate, `loss` the step to the loss. `work` is a checkpoint file: a run resumes from
    it if an interrupted run of the same `identity` wrote it. It is removed at the end. `advance` is called with finished steps.
    """
    optimizer = torch.optim.Adam([{"params": [value], "rate": rate(name)} for name, value in variables.items()])
    done = 0 if work is None else _resume(work, identity, variables, optimizer)
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
            _save(work, identity, step + 1, variables, optimizer)
    if work is not None:
        work.unlink(missing_ok=True)


def _ramp(share: float) -> float:
    """The factor of the rate at a share of the steps: up linearly, down by a cosine."""
    down = min(1.0, (1 - share) / RAMP_DOWN)
    return (0.5 - 0.5 * math.cos(math.pi * down)) * min(1.0, share / RAMP_UP) if share else 0.0


def _save(path: Path, identity: str, step: int, variables: Mapping[str, Tensor], optimizer: torch.optim.Adam) -> None:
    from safetensors.torch import save

    tensors = {name: value.detach() for name, value in variables.items()}
    for name, value in variables.items():
        tensors |= {f"{name}/{key}": optimizer.state[value][key] for key in ("exp_avg", "exp_avg_sq")}
    metadata = {"format": FORMAT, "identity": identity, "step": str(step)}
    write_atomic(path, save({key: value.cpu().contiguous() for key, value in tensors.items()}, metadata=metadata))


def _resume(path: Path, identity: str, variables: Mapping[str, Tensor], optimizer: torch.optim.Adam) -> int:
    """Fill the variables and the optimizer from a file of `_save`; return its step, or 0 if it has another identity."""
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
    for name, value in variables.items():
        with torch.no_grad():
            value.copy_(tensors[name])
        moments = {key: tensors[f"{name}/{key}"].to(value.device) for key in ("exp_avg", "exp_avg_sq")}
        optimizer.state[value] = {"step": torch.tensor(float(step)), **moments}
    return step
