"""Several styles over one canvas: who has which part of the plane.

Lin et al., ICLR 2022, section 4.5, spatial style fusion: every place takes a mixture of styles, from style centres or from a
painted mask. Shares are functions of the place alone, so that tiles of a fused picture agree like those of any other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from PIL import Image, ImageFilter

from anyres.networks.scene import Blend, Scene, Shares
from anyres.plane.window import Window


def fused(seeds: Sequence[int], z_dim: int, shares: Shares, device: torch.device | str = "cpu") -> Scene:
    """The scene with the fields of the first seed and the styles of all, as `shares` spreads them."""
    styles = Scene.of(list(seeds), z_dim, device)
    return replace(styles.part(0, 1), blend=Blend(styles.z, shares))


def nearest(centers: Sequence[tuple[float, float]], softness: float) -> Shares:
    """Each place to the style of the nearest of `centers` = (x, y), fading over about `softness` plane units between them."""
    if len(centers) < 2 or not np.isfinite(centers).all():
        raise ValueError(f"fusion takes two or more centres, each a pair of finite numbers, found {list(centers)!r}")
    if not softness > 0:
        raise ValueError(f"softness must be above 0, found {softness!r}")
    at = np.array(centers, np.float64)

    def shares(places: np.ndarray) -> np.ndarray:
        distance = np.linalg.norm(places[..., None, :] - at, axis=-1)
        # By distances beyond the least one: no exponential overflows, however far out.
        weight = np.exp(-(distance - distance.min(axis=-1, keepdims=True)) / softness)
        return weight / weight.sum(axis=-1, keepdims=True)

    return shares


def painted(mask: np.ndarray, window: Window, count: int, softness_px: float = 2.0) -> Shares:
    """Shares by a painted mask, uint8 (h, w) with the numbers of styles 0 to `count` - 1, that lies over `window`.

    Blurred by a Gaussian of `softness_px` of its own pixels, joined linearly, and going on beyond the window as at its border.
    Raises ValueError where the mask has another shape than the window or names other styles.
    """
    if mask.ndim != 2:
        raise ValueError(f"a mask has one number a pixel, found an array of shape {mask.shape}")
    (height, width), (window_height, window_width) = mask.shape, window.size
    if abs(width * window_height - height * window_width) > max(window_height, window_width):
        raise ValueError(
            f"the mask has {width} x {height} pixels, the picture {window_width} x {window_height}: not of one shape; "
            "paint it with the picture's proportions"
        )
    if mask.max() >= count:
        raise ValueError(f"the mask names style {mask.max()}, there are 0 to {count - 1}; give as many seeds or paint with fewer")
    blur = ImageFilter.GaussianBlur(softness_px)
    layers = [np.asarray(Image.fromarray(np.uint8(mask == k) * np.uint8(255)).filter(blur), np.float64) for k in range(count)]
    soft = np.stack(layers, axis=-1) + 1e-9
    soft /= soft.sum(axis=-1, keepdims=True)
    (left, top), (extent_y, extent_x) = window.origin, window.extent

    def shares(places: np.ndarray) -> np.ndarray:
        x = np.clip((places[..., 0] - left) / extent_x * width - 0.5, 0, width - 1)
        y = np.clip((places[..., 1] - top) / extent_y * height - 0.5, 0, height - 1)
        x0, y0 = np.floor(x).astype(int), np.floor(y).astype(int)
        x1, y1 = np.minimum(x0 + 1, width - 1), np.minimum(y0 + 1, height - 1)
        fx, fy = (x - x0)[..., None], (y - y0)[..., None]
        above = soft[y0, x0] * (1 - fx) + soft[y0, x1] * fx
        below = soft[y1, x0] * (1 - fx) + soft[y1, x1] * fx
        return above * (1 - fy) + below * fy

    return shares
