"""Projection: the styles whose pictures come nearest to a photograph.

Karras et al., CVPR 2020, appendix D, on a style for each layer; at several sizes at once, as Ntavelis et al., CVPR 2022,
section 4.4: a latent that fits one size only draws something else at every other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from anyres.files import write_atomic
from anyres.networks.backbones import Lite0, lite0
from anyres.networks.generator import StyleGenerator
from anyres.networks.scene import Scene
from anyres.plane.resample import render_real
from anyres.plane.window import Window
from anyres.synthesis.latent import Latent
from anyres.training.teacher import perceptual as distance

# The authors' schedule.
RATE = 0.1
RAMP_UP, RAMP_DOWN = 0.05, 0.25
MEAN_SCENES = 10_000
NOISE, NOISE_UNTIL = 0.05, 0.75
STATE_FORMAT = "anyres-projection-1"
SAVE_EVERY = 100


@dataclass(frozen=True)
class Target:
    """A photograph at one size: pixels (3, h, w) in [-1, 1] and the window that shows it."""

    pixels: Tensor
    window: Window


def targets(photo: np.ndarray, generator: StyleGenerator, sizes: Sequence[int]) -> list[Target]:
    """The whole of a photograph, uint8 (h, w, 3), with each of `sizes` pixels along its short side, as far as cells allow.

    Sides are cut to multiples of the generator's lattice. Raises ValueError where a size is larger than the photograph or the
    photograph leaves the generator's frame.
    """
    chart, lattice = generator.geometry.chart, generator.geometry.lattice_px
    height, width = photo.shape[:2]
    found = []
    for size in sizes:
        if size > min(height, width) or size < lattice:
            raise ValueError(
                f"size {size} must lie between a cell, {lattice}, and the photograph's short side, {min(height, width)}"
            )
        period = chart.short_side / size
        half_width, half_height = chart.half_extent_of((height, width))
        shape = [int(2 * half / period + 1e-6) // lattice * lattice for half in (half_height, half_width)]
        window = Window((0.0, 0.0), period, (shape[0], shape[1]))
        chart.check(window)
        pixels = render_real(photo, window, chart).clip(0, 255)
        found.append(Target(torch.from_numpy(pixels).permute(2, 0, 1) / 127.5 - 1, window))
    return found


def invert(
    generator: StyleGenerator,
    wanted: Sequence[Target],
    steps: int = 1000,
    seed: int = 0,
    perceptual: float = 1.0,
    work: Path | None = None,
    advance: Callable[[float], None] | None = None,
) -> Latent:
    """Fit a style for each layer to all of `wanted` at once; with `work`, a file, go on where an interrupted run stopped.

    The loss of a size is the mean squared error and, weighed by `perceptual`, the distance of EfficientNet-Lite0's feature
    maps. Fields keep the seed's: they follow the plane, and are no part of the fit.
    """
    device = generator.w_mean.device
    features = lite0().to(device) if perceptual else None
    begin, spread = mean_style(generator)
    w = begin.repeat(generator.num_ws, 1).requires_grad_()
    optimizer = torch.optim.Adam([w], lr=RATE, betas=(0.9, 0.999))
    goals = [(target.pixels[None].to(device), target.window) for target in wanted]
    done = 0
    identity = f"{seed} {perceptual} {steps} {[target.window for target in wanted]}"
    if work is not None and work.exists():
        done = _resume(work, identity, w, optimizer)
        if advance is not None:
            advance(done)
    scene = Scene.of([seed], generator.z_dim, device)
    for step in range(done, steps):
        share = step / steps
        for group in optimizer.param_groups:
            group["lr"] = RATE * ramp(share)
        strength = spread * NOISE * max(0.0, 1 - share / NOISE_UNTIL) ** 2
        noise = torch.randn(w.shape, generator=torch.Generator().manual_seed(seed * 1_000_003 + step)).to(device)
        styles = (w + strength * noise)[None]
        loss = torch.stack([_distance(generator, features, styles, scene, goal, perceptual) for goal in goals]).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        if advance is not None:
            advance(1)
        if work is not None and (step + 1) % SAVE_EVERY == 0:
            _keep(work, identity, step + 1, w, optimizer)
    if work is not None:
        work.unlink(missing_ok=True)
    return Latent(w.detach().cpu(), seed)


@torch.no_grad()
def mean_style(generator: StyleGenerator) -> tuple[Tensor, Tensor]:
    """Mean of the styles of MEAN_SCENES scenes, (w_dim,), and their spread about it, a scalar."""
    device = generator.w_mean.device
    w = generator.styles(Scene.of(range(MEAN_SCENES), generator.z_dim, device).z)
    mean = w.mean(dim=0)
    return mean, (w - mean).square().sum().div(len(w)).sqrt() / math.sqrt(w.shape[1])


def psnr(generator: StyleGenerator, latent: Latent, target: Target) -> float:
    """Decibels between a photograph and what a latent draws of it."""
    with torch.no_grad():
        picture = generator(latent.scene(generator.z_dim, generator.w_mean.device), [target.window])[0].clamp(-1, 1).cpu()
    return 10 * math.log10(4 / max((picture - target.pixels).square().mean().item(), 1e-12))


def _distance(
    generator: StyleGenerator,
    features: Lite0 | None,
    styles: Tensor,
    scene: Scene,
    goal: tuple[Tensor, Window],
    weight: float,
) -> Tensor:
    pixels, window = goal
    picture = generator.synthesize(styles, scene, [window])
    loss = (picture - pixels).square().mean()
    return loss if features is None else loss + weight * distance(features, picture, pixels)


def ramp(share: float) -> float:
    """Rate at a share of the way: up linearly, down by a cosine."""
    down = min(1.0, (1 - share) / RAMP_DOWN)
    return (0.5 - 0.5 * math.cos(math.pi * down)) * min(1.0, share / RAMP_UP) if share else 0.0


def _keep(path: Path, identity: str, step: int, w: Tensor, optimizer: torch.optim.Adam) -> None:
    from safetensors.torch import save

    moments = optimizer.state[w]
    tensors = {"w": w.detach(), "exp_avg": moments["exp_avg"], "exp_avg_sq": moments["exp_avg_sq"]}
    metadata = {"format": STATE_FORMAT, "identity": identity, "step": str(step)}
    write_atomic(path, save({key: value.cpu().contiguous() for key, value in tensors.items()}, metadata=metadata))


def _resume(path: Path, identity: str, w: Tensor, optimizer: torch.optim.Adam) -> int:
    """Fill `w` and the optimizer from a file of `_keep`; 0 where that is of something else."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != STATE_FORMAT or metadata.get("identity") != identity:
                return 0
            step = int(metadata["step"])
            with torch.no_grad():
                w.copy_(file.get_tensor("w"))
            moments = {key: file.get_tensor(key).to(w.device) for key in ("exp_avg", "exp_avg_sq")}
    except (OSError, SafetensorError):
        return 0
    optimizer.state[w] = {"step": torch.tensor(float(step)), **moments}
    return step
