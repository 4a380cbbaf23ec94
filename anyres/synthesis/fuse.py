"""Spatial style fusion: several styles over one canvas. Lin et al., ICLR 2022, section 4.5.

Each position takes a mixture of styles, by style centres, by a painted mask or by brush strokes. Shares are functions of the
position alone, so tiles of a fused picture agree where they meet.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from PIL import Image, ImageFilter

from anyres.networks.scene import Blend, Scene, Shares
from anyres.plane.window import Window


def fuse_styles(seeds: Sequence[int], z_dim: int, shares: Shares, device: torch.device | str = "cpu") -> Scene:
    """Return the scene with the fields of the first seed and the styles of all seeds, mixed by `shares`."""
    styles = Scene.of(list(seeds), z_dim, device)
    return replace(styles.part(0, 1), blend=Blend(styles.z, shares))


def nearest_shares(centers: Sequence[tuple[float, float]], softness: float) -> Shares:
    """Give each position the style of its nearest centre (x, y). Styles fade over about `softness` plane units."""
    if len(centers) < 2 or not np.isfinite(centers).all():
        raise ValueError(f"fusion takes two or more centres, each a pair of finite numbers, found {list(centers)!r}")
    if not softness > 0:
        raise ValueError(f"softness must be above 0, found {softness!r}")
    at = np.array(centers, np.float64)

    def shares(places: np.ndarray) -> np.ndarray:
        distance = np.linalg.norm(places[..., None, :] - at, axis=-1)
        # Subtract the least distance: no exponential under- or overflows, however far out.
        weight = np.exp(-(distance - distance.min(axis=-1, keepdims=True)) / softness)
        return weight / weight.sum(axis=-1, keepdims=True)

    return shares


@dataclass(frozen=True)
class Stroke:
    """A brush stroke: style number `style` within `radius` plane units of the line through `points`, (n, 2) of (x, y)."""

    style: int
    points: tuple[tuple[float, float], ...]
    radius: float


def brush_shares(strokes: Sequence[Stroke], count: int, softness: float = 0.5) -> Shares:
    """Shares of styles 0 to `count` - 1: the first everywhere, and each stroke over the strokes before it.

    A stroke fades over the outer `softness` of its radius, from 0 (hard) to 1. Raises ValueError if a stroke names another style
    or has no points or no width.
    """
    if not 0 <= softness <= 1:
        raise ValueError(f"softness must be from 0 to 1, found {softness!r}")
    lines = []
    for stroke in strokes:
        points = np.array(stroke.points, np.float64).reshape(-1, 2)
        if not len(points) or not np.isfinite(points).all() or not np.isfinite(stroke.radius) or stroke.radius <= 0:
            raise ValueError(f"a stroke has points and a radius above 0, found {len(points)} points, radius {stroke.radius!r}")
        if not 0 <= stroke.style < count:
            raise ValueError(f"a stroke names style {stroke.style}, there are 0 to {count - 1}")
        lines.append((stroke.style, points, stroke.radius))

    def shares(places: np.ndarray) -> np.ndarray:
        out = np.zeros((*places.shape[:-1], count))
        out[..., 0] = 1.0
        for style, points, radius in lines:
            near = ((places > points.min(axis=0) - radius) & (places < points.max(axis=0) + radius)).all(axis=-1)
            if not near.any():
                continue
            away = _distance(places[near], points) / radius
            # Smooth at both ends: a kink would be visible.
            share = np.clip((1 - away) / max(softness, 1e-6), 0, 1)
            share = (share * share * (3 - 2 * share))[:, None]
            mixed = out[near] * (1 - share)
            mixed[:, style] += share[:, 0]
            out[near] = mixed
        return out

    return shares


def _distance(places: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Distances of positions (n, 2) from the line through `points`."""
    distance = np.full(len(places), np.inf)
    for start, end in zip(points, points[1:] if len(points) > 1 else points, strict=False):
        along = end - start
        length = float(along @ along)
        share = np.clip((places - start) @ along / length, 0, 1) if length else np.zeros(len(places))
        np.minimum(distance, np.linalg.norm(places - start - share[:, None] * along, axis=-1), out=distance)
    return distance


def mask_shares(mask: np.ndarray, window: Window, count: int, softness_px: float = 2.0) -> Shares:
    """Shares by a painted mask over `window`: uint8 (h, w) with the numbers of styles 0 to `count` - 1.

    The mask is blurred by a Gaussian of `softness_px` mask pixels and interpolated linearly. Beyond the window its border is
    repeated. Raises ValueError if the mask has other proportions than the window or names other styles.
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
