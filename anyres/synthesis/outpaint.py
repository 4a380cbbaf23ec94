"""Beyond a photograph's border: find the scene that shows it at its place of a larger canvas, and draw the rest.

Lin et al., ICLR 2022, sections 4.4 and 4.5: latent, styles, local latents and noise are fitted at the coordinates of the final
canvas; whatever lies outside keeps the fields of the seed, so that the picture simply goes on. Between two photographs their
scenes fade into each other.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from anyres.networks.backbones import lite0
from anyres.networks.infinity_gan import LOCAL, InfinityGan
from anyres.networks.scene import Blend, Box, Pin, Scene
from anyres.plane.resample import render_real
from anyres.plane.window import Window, frame_window
from anyres.synthesis.fitting import descend
from anyres.synthesis.invert import Target, distance, mean_style
from anyres.synthesis.latent import Latent
from anyres.synthesis.render import align

# Rates of the authors: latent and local latents, styles and noise.
SLOW, FAST = 0.01, 0.1
PIXELS, FEATURES = 5.0, 10.0
# Weights of what keeps the found near the likely: normals of local latents and noise, styles near their distribution.
LIKELY_LOCAL, LIKELY_NOISE, LIKELY_STYLE = 0.1, 0.01, 1e-3
Side = Literal["right", "left", "both"]


def placed(photo: np.ndarray, generator: InfinityGan, short_px: int) -> Target:
    """A photograph, uint8 (h, w, 3), brought to `short_px` pixels along its short side, about the origin.

    Its window has the one period that the generator was trained at. Raises ValueError where the photograph is smaller than that
    or than the generator's patch.
    """
    patch = min(generator.geometry.native_sizes[0])
    if min(photo.shape[:2]) < patch:
        raise ValueError(
            f"the photograph has {photo.shape[1]} x {photo.shape[0]} pixels, less than the generator's patch of {patch} a side; "
            "take a larger one"
        )
    if not patch <= short_px <= min(photo.shape[:2]):
        raise ValueError(
            f"size {short_px} must lie between the generator's patch, {patch}, and the photograph's short side, "
            f"{min(photo.shape[:2])}"
        )
    pixels = render_real(photo, frame_window(photo.shape[1] / photo.shape[0], short_px)).clip(0, 255)
    period = generator.geometry.periods[0]
    window = Window((0.0, 0.0), period, (pixels.shape[0], pixels.shape[1]))
    return Target(torch.from_numpy(pixels).permute(2, 0, 1) / 127.5 - 1, window)


def on_canvas(target: Target, times: float, side: Side) -> tuple[Target, Window]:
    """A canvas about the origin, `times` as wide as a target, and the target on it: the canvas goes on to its `side`."""
    if not 1 <= times <= 64:
        raise ValueError(f"a canvas is 1 to 64 times as wide as the photograph, found {times!r}")
    if side not in ("right", "left", "both"):
        raise ValueError(f"a canvas goes on to the right, left or both, found {side!r}")
    height, width = target.window.size
    wide = round(width * times)
    left = {"right": 0, "left": wide - width, "both": (wide - width) // 2}[side]
    canvas = Window((0.0, 0.0), target.window.period, (height, wide))
    return replace(target, window=canvas.crop(0, left, (height, width))), canvas


def side_by_side(first: Target, second: Target, gap: float) -> tuple[Target, Target, Window]:
    """A canvas about the origin with `first` at its left end, `second` at its right, `gap` widths of the first between, cut to
    the lower of both: the targets on it, and the canvas.
    """
    (height, width), (other_height, other_width) = first.window.size, second.window.size
    wide, high = width + round(width * gap) + other_width, min(height, other_height)
    canvas = Window((0.0, 0.0), first.window.period, (high, wide))
    one = canvas.crop((high - height) // 2, 0, first.window.size)
    two = canvas.crop((high - other_height) // 2, wide - other_width, second.window.size)
    return replace(first, window=one), replace(second, window=two), canvas


def fit(
    generator: InfinityGan,
    target: Target,
    steps: int = 500,
    seed: int = 0,
    perceptual: bool = True,
    work: Path | None = None,
    advance: Callable[[float], None] | None = None,
) -> Latent:
    """Find the scene whose picture at the target's window is the target; with `work`, a file, go on where a run stopped.

    The loss is 10 · ½ mean squared error, 10 · distance of EfficientNet-Lite0's feature maps, and how unlikely the found are.
    """
    device = generator.w_mean.device
    features = lite0().to(device) if perceptual else None
    begin, spread = mean_style(generator)
    scene = Scene.of([seed], generator.z_dim, device)
    found = {"z": scene.z.clone(), "w": begin.repeat(generator.num_ws, 1)}
    # Drawn as any picture is: from the lattice of the plane on, so that the rest of the canvas meets it.
    drawn, top, left = align(target.window, generator.geometry.lattice_px)
    height, width = target.window.size
    boxes = generator.fields_of(scene, drawn).boxes
    found |= {box.name: box.values.clone() for box in boxes}
    found = {name: value.requires_grad_() for name, value in found.items()}
    wanted = target.pixels[None].to(device)

    def picture_of() -> Tensor:
        whole = generator.synthesize(found["w"][None], _scene(scene, found, boxes, drawn), [drawn])
        return whole[:, :, top : top + height, left : left + width]

    # What the photograph does not touch stays the seed's: a prior on all of it would quieten the canvas beside the border.
    probe = torch.randn(wanted.shape, generator=torch.Generator().manual_seed(seed)).to(device)
    touched = torch.autograd.grad((picture_of() * probe).sum(), [found[box.name] for box in boxes])
    heard = {box.name: (gradient != 0) for box, gradient in zip(boxes, touched, strict=True)}

    def loss(_: int) -> Tensor:
        picture = picture_of()
        total = PIXELS * (picture - wanted).square().mean() + _unlikely(found, heard, begin, spread)
        return total if features is None else total + FEATURES * distance(features, picture, wanted)

    identity = f"outpaint {seed} {steps} {perceptual} {target.window} {float(target.pixels.double().sum())!r}"
    descend(found, lambda name: SLOW if name in ("z", LOCAL) else FAST, loss, steps, identity, work, advance)
    values = {name: value.detach().cpu() for name, value in found.items()}
    pin = Pin(target.window.period, tuple(box._replace(values=values[box.name]) for box in boxes))
    return Latent(values["w"], seed, values["z"][0], pin)


def between(first: Latent, second: Latent, span: tuple[float, float]) -> Scene:
    """One scene of two: the first's styles left of x = `span[0]`, the second's right of `span[1]`, fading in between.

    Each keeps its own pinned fields; all others are those of the first's seed.
    """
    left, right = span
    if first.pin is None or second.pin is None or first.z is None or second.z is None:
        raise ValueError("blending takes two latents of `anyres outpaint`, which know what lies at their place")
    if abs(first.pin.period / second.pin.period - 1) > 1e-9:
        raise ValueError(f"the latents were found at periods of {first.pin.period:g} and {second.pin.period:g}; make them equal")

    def shares(places: np.ndarray) -> np.ndarray:
        share = np.clip((places[..., 0] - left) / max(right - left, 1e-12), 0, 1)
        return np.stack([1 - share, share], axis=-1)

    blend = Blend(torch.stack([first.z, second.z]), shares, torch.stack([first.w, second.w]))
    scene = first.scene(len(first.z))
    return replace(scene, w=None, blend=blend, pin=Pin(first.pin.period, first.pin.boxes + second.pin.boxes))


def seam_rank(picture: np.ndarray, column: int) -> float:
    """Share of steps between neighbouring columns of a picture (h, w, 3) that are smaller than the one before `column`."""
    steps = np.abs(np.diff(picture.astype(np.float64), axis=1)).mean(axis=(0, 2))
    return float((np.delete(steps, column - 1) < steps[column - 1]).mean())


def fidelity(picture: np.ndarray, target: Target) -> float:
    """Decibels between the given part, uint8 (h, w, 3), and the target."""
    wanted = (target.pixels.permute(1, 2, 0).numpy() + 1) * 127.5
    error = np.mean((picture - wanted) ** 2)
    return float(10 * math.log10(255**2 / max(error, 1e-9)))


def _scene(scene: Scene, found: dict[str, Tensor], boxes: tuple[Box, ...], window: Window) -> Scene:
    pin = Pin(window.period, tuple(box._replace(values=found[box.name]) for box in boxes))
    return replace(scene, z=found["z"], pin=pin)


def _unlikely(found: dict[str, Tensor], heard: dict[str, Tensor], mean: Tensor, spread: Tensor) -> Tensor:
    """How far latents are, where `heard`, from unit normals in mean and power, and styles from their mean in their spreads."""
    total = LIKELY_STYLE * ((found["w"] - mean) / spread).square().mean()
    for name, where in heard.items():
        if where.any():
            value, weight = found[name][where], LIKELY_LOCAL if name == LOCAL else LIKELY_NOISE
            total = total + weight * (value.mean().square() + (value.square().mean() - 1).square())
    return total
