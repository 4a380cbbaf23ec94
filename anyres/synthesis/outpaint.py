"""Outpainting: fit the scene that shows a photograph at its place on a larger canvas, and draw the rest of the canvas.

Lin et al., ICLR 2022, sections 4.4 and 4.5. Latent, styles, local latents and noise are fitted at the coordinates of the final
canvas. Outside the photograph the fields of the seed stay, so the picture continues. Between two photographs their scenes fade
into each other.
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

# Rates of the authors: SLOW for latent and local latents, FAST for styles and noise.
SLOW, FAST = 0.01, 0.1
PIXELS, FEATURES = 5.0, 10.0
# Weights of the prior: normal local latents and noise, styles near their distribution.
PRIOR_LOCAL, PRIOR_NOISE, PRIOR_STYLE = 0.1, 0.01, 1e-3
Side = Literal["right", "left", "both"]


def place_photo(photo: np.ndarray, generator: InfinityGan, short_px: int) -> Target:
    """Resize a photograph, uint8 (h, w, 3), to `short_px` pixels along its short side and place it about the origin.

    Its window has the one period that the generator was trained at. Raises ValueError if the photograph is smaller than that or
    than the generator's patch.
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


def extend_canvas(target: Target, times: float, side: Side) -> tuple[Target, Window]:
    """Return a target on a canvas about the origin, and the canvas: `times` as wide as the target, extended to its `side`."""
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
    """Return two targets on a canvas about the origin, and the canvas: `first` at its left end, `second` at its right end.

    The gap between them is `gap` widths of the first. The height is that of the lower one.
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
    """Fit the scene whose picture at the target's window is the target. `work` is a checkpoint file to resume from.

    The loss is 10 · ½ mean squared error, plus 10 · distance of EfficientNet-Lite0's feature maps, plus a prior on the variables.
    """
    device = generator.w_mean.device
    features = lite0().to(device) if perceptual else None
    begin, spread = mean_style(generator)
    scene = Scene.of([seed], generator.z_dim, device)
    variables = {"z": scene.z.clone(), "w": begin.repeat(generator.num_ws, 1)}
    # Draw it aligned to the lattice of the plane, as every picture: the rest of the canvas then meets it.
    aligned, top, left = align(target.window, generator.geometry.lattice_px)
    height, width = target.window.size
    boxes = generator.fields_of(scene, aligned).boxes
    variables |= {box.name: box.values.clone() for box in boxes}
    variables = {name: value.requires_grad_() for name, value in variables.items()}
    photo = target.pixels[None].to(device)

    def picture_of() -> Tensor:
        picture = generator.synthesize(variables["w"][None], _scene(scene, variables, boxes, aligned), [aligned])
        return picture[:, :, top : top + height, left : left + width]

    # Apply the prior only to values that change the photograph. On all values it would weaken the canvas beside the border.
    probe = torch.randn(photo.shape, generator=torch.Generator().manual_seed(seed)).to(device)
    gradients = torch.autograd.grad((picture_of() * probe).sum(), [variables[box.name] for box in boxes])
    visible = {box.name: (gradient != 0) for box, gradient in zip(boxes, gradients, strict=True)}

    def loss(_: int) -> Tensor:
        picture = picture_of()
        total = PIXELS * (picture - photo).square().mean() + _prior(variables, visible, begin, spread)
        return total if features is None else total + FEATURES * distance(features, picture, photo)

    identity = f"outpaint {seed} {steps} {perceptual} {target.window} {float(target.pixels.double().sum())!r}"
    descend(variables, lambda name: SLOW if name in ("z", LOCAL) else FAST, loss, steps, identity, work, advance)
    values = {name: value.detach().cpu() for name, value in variables.items()}
    pin = Pin(target.window.period, tuple(box._replace(values=values[box.name]) for box in boxes))
    return Latent(values["w"], seed, values["z"][0], pin)


def blend_scenes(first: Latent, second: Latent, span: tuple[float, float]) -> Scene:
    """Return one scene of two latents: the first's styles left of x = `span[0]`, the second's right of `span[1]`, a fade between.

    Each keeps its own pinned fields. All other fields are those of the first's seed.
    """
    left, right = span
    if first.pin is None or second.pin is None or first.z is None or second.z is None:
        raise ValueError("blending takes two latents of `anyres outpaint`, which hold the fields at their place")
    if abs(first.pin.period / second.pin.period - 1) > 1e-9:
        raise ValueError(f"the latents were fitted at periods of {first.pin.period:g} and {second.pin.period:g}; make them equal")

    def shares(places: np.ndarray) -> np.ndarray:
        share = np.clip((places[..., 0] - left) / max(right - left, 1e-12), 0, 1)
        return np.stack([1 - share, share], axis=-1)

    blend = Blend(torch.stack([first.z, second.z]), shares, torch.stack([first.w, second.w]))
    scene = first.scene(len(first.z))
    return replace(scene, w=None, blend=blend, pin=Pin(first.pin.period, first.pin.boxes + second.pin.boxes))


def seam_rank(picture: np.ndarray, column: int) -> float:
    """Share of the steps between adjacent columns of a picture (h, w, 3) that are smaller than the step before `column`."""
    steps = np.abs(np.diff(picture.astype(np.float64), axis=1)).mean(axis=(0, 2))
    return float((np.delete(steps, column - 1) < steps[column - 1]).mean())


def fidelity(picture: np.ndarray, target: Target) -> float:
    """PSNR in decibels between a picture, uint8 (h, w, 3), and the target."""
    expected = (target.pixels.permute(1, 2, 0).numpy() + 1) * 127.5
    error = np.mean((picture - expected) ** 2)
    return float(10 * math.log10(255**2 / max(error, 1e-9)))


def _scene(scene: Scene, variables: dict[str, Tensor], boxes: tuple[Box, ...], window: Window) -> Scene:
    pin = Pin(window.period, tuple(box._replace(values=variables[box.name]) for box in boxes))
    return replace(scene, z=variables["z"], pin=pin)


def _prior(variables: dict[str, Tensor], visible: dict[str, Tensor], mean: Tensor, spread: Tensor) -> Tensor:
    """Loss of fields, where `visible`, for mean and power other than a unit normal's, and of styles far from their mean."""
    total = PRIOR_STYLE * ((variables["w"] - mean) / spread).square().mean()
    for name, where in visible.items():
        if where.any():
            value, weight = variables[name][where], PRIOR_LOCAL if name == LOCAL else PRIOR_NOISE
            total = total + weight * (value.mean().square() + (value.square().mean() - 1).square())
    return total
