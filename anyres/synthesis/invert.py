"""Projection: fit the styles whose pictures are nearest to a photograph.

Karras et al., CVPR 2020, appendix D, with a style for each layer. The fit is at several sizes at once, as in Ntavelis et al.,
CVPR 2022, section 4.4: a latent that is fitted at one size draws something else at every other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from anyres.networks.backbones import Lite0, lite0
from anyres.networks.generator import StyleGenerator
from anyres.networks.perceptual import perceptual as distance
from anyres.networks.scene import Scene
from anyres.plane.resample import render_real
from anyres.plane.window import Window
from anyres.synthesis.fitting import descend
from anyres.synthesis.latent import Latent

# The schedule of the authors.
RATE = 0.1
MEAN_SCENES = 10_000
NOISE, NOISE_UNTIL = 0.05, 0.75


@dataclass(frozen=True)
class Target:
    """A photograph at one size: pixels (3, h, w) in [-1, 1] and the window that shows it."""

    pixels: Tensor
    window: Window


def targets(photo: np.ndarray, generator: StyleGenerator, sizes: Sequence[int]) -> list[Target]:
    """Return a photograph, uint8 (h, w, 3), at each of `sizes` pixels along its short side.

    Sides are cut to multiples of the generator's lattice. Raises ValueError if a size is larger than the photograph or if the
    photograph leaves the generator's frame.
    """
    chart, lattice = generator.geometry.chart, generator.geometry.lattice_px
    height, width = photo.shape[:2]
    out = []
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
        out.append(Target(torch.from_numpy(pixels).permute(2, 0, 1) / 127.5 - 1, window))
    return out


def invert(
    generator: StyleGenerator,
    photo: Sequence[Target],
    steps: int = 1000,
    seed: int = 0,
    perceptual: float = 1.0,
    work: Path | None = None,
    advance: Callable[[float], None] | None = None,
) -> Latent:
    """Fit a style for each layer to a photograph at all its sizes at once. `work` is a checkpoint file to resume from.

    The loss of a size is the mean squared error plus `perceptual` times the distance of EfficientNet-Lite0's feature maps. The
    fields are those of the seed and are not fitted: they follow the plane.
    """
    device = generator.w_mean.device
    features = lite0().to(device) if perceptual else None
    begin, spread = mean_style(generator)
    w = begin.repeat(generator.num_ws, 1).requires_grad_()
    goals = [(target.pixels[None].to(device), target.window) for target in photo]
    scene = Scene.of([seed], generator.z_dim, device)

    def loss(step: int) -> Tensor:
        strength = spread * NOISE * max(0.0, 1 - step / steps / NOISE_UNTIL) ** 2
        noise = torch.randn(w.shape, generator=torch.Generator().manual_seed(seed * 1_000_003 + step)).to(device)
        styles = (w + strength * noise)[None]
        return torch.stack([_distance(generator, features, styles, scene, goal, perceptual) for goal in goals]).mean()

    identity = f"invert {seed} {perceptual} {steps} {[target.window for target in photo]}"
    descend({"w": w}, lambda _: RATE, loss, steps, identity, work, advance)
    return Latent(w.detach().cpu(), seed)


@torch.no_grad()
def mean_style(generator: StyleGenerator) -> tuple[Tensor, Tensor]:
    """Return the mean of the styles of MEAN_SCENES scenes, (w_dim,), and their spread about it, a scalar."""
    device = generator.w_mean.device
    w = generator.styles(Scene.of(range(MEAN_SCENES), generator.z_dim, device).z)
    mean = w.mean(dim=0)
    return mean, (w - mean).square().sum().div(len(w)).sqrt() / math.sqrt(w.shape[1])


def psnr(generator: StyleGenerator, latent: Latent, target: Target) -> float:
    """PSNR in decibels between a photograph and the picture of a latent."""
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
