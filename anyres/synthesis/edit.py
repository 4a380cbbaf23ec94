"""Editing by geometry: functions of plane positions, composed, that say what is drawn where.

Ntavelis et al., CVPR 2022, section 4.4. An edit takes positions (h, w, 2), float64, last axis (x, y), and returns those that are
drawn in their place; a generator reads nothing else, so that edits work on any scene and any projected photograph. Each pixel
by itself: tiles of an edited picture meet as well as those of any other.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from anyres.networks.generator import Edit
from anyres.plane import fields

# Waves of a displacement.
WAVES = 24


def compose(edits: Sequence[Edit]) -> Edit | None:
    """One edit that applies the first to the picture, then the next to what came out; None for none."""
    if not edits:
        return None

    def composed(places: np.ndarray) -> np.ndarray:
        # What stands at a place of the last picture is looked up in the one before it, and so on to the first.
        for edit in reversed(edits):
            places = edit(places)
        return places

    return composed


def aspect(factor: float, center: tuple[float, float] = (0.0, 0.0)) -> Edit:
    """Stretch the picture along x, `factor` times as wide about `center`."""
    _positive("aspect", factor)
    return _affine(np.diag([1 / factor, 1.0]), center)


def magnify(factor: float, center: tuple[float, float] = (0.0, 0.0)) -> Edit:
    """Magnify `factor` times about `center`; below 1 the picture shrinks and what lies beyond its frame is extrapolated."""
    _positive("magnify", factor)
    return _affine(np.eye(2) / factor, center)


def turn(degrees: float, center: tuple[float, float] = (0.0, 0.0)) -> Edit:
    """Turn the picture clockwise about `center`."""
    angle = np.deg2rad(_finite("turn", degrees))
    return _affine(np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]), center)


def pull(point: tuple[float, float], power: float, radius: float = 1.0) -> Edit:
    """Warp towards `point` within `radius`: p' = q + (p - q) / d · r (d / r)^power.

    A power above 1 swells what is there, one below 1 pinches it.
    """
    _positive("pull", power)
    _positive("pull radius", radius)
    q = np.array(point, np.float64)

    def pulled(places: np.ndarray) -> np.ndarray:
        away = places - q
        distance = np.linalg.norm(away, axis=-1, keepdims=True) / radius
        inside = (distance > 0) & (distance < 1)
        factor = np.where(inside, np.where(inside, distance, 1.0) ** (power - 1), 1.0)
        return q + away * factor

    return pulled


def displace(strength: float, scale: float = 0.5, seed: int = 0) -> Edit:
    """Move every place by a smooth random field of about `strength` plane units, that changes over `scale` of them."""
    _finite("displace", strength)
    _positive("displace scale", scale)
    noise = fields.latent([seed, seed + (1 << 33)], 3 * WAVES).double().numpy().reshape(2, 3, WAVES)

    def displaced(places: np.ndarray) -> np.ndarray:
        moved = [
            np.cos(places[..., 0, None] * fx / scale + places[..., 1, None] * fy / scale + phase * np.pi).sum(axis=-1)
            for fx, fy, phase in noise
        ]
        return places + strength * np.sqrt(2 / WAVES) * np.stack(moved, axis=-1)

    return displaced


def perspective(tilt_x: float, tilt_y: float, center: tuple[float, float] = (0.0, 0.0)) -> Edit:
    """Lean the picture back: its part at x - center = 1 stands 1 + `tilt_x` times as far away as its centre, alike along y.

    Tilts lie within ±0.9.
    """
    for value in (tilt_x, tilt_y):
        if not -0.9 <= value <= 0.9:
            raise ValueError(f"perspective tilts must lie within ±0.9, found {value!r}")
    q, tilt = np.array(center, np.float64), np.array([tilt_x, tilt_y], np.float64)

    def leaning(places: np.ndarray) -> np.ndarray:
        away = places - q
        # Seen at s, a point of the plane lies at s / (1 - tilt s): where the lines of sight meet the leaning plane.
        depth = 1 - away @ tilt
        return q + away / np.where(np.abs(depth) < 0.05, 0.05, depth)[..., None]

    return leaning


def _affine(matrix: np.ndarray, center: tuple[float, float]) -> Edit:
    q = np.array(center, np.float64)
    return lambda places: q + (places - q) @ matrix.T


def _positive(name: str, value: float) -> None:
    if not np.isfinite(value) or value <= 0:
        raise ValueError(f"{name} must be above 0, found {value!r}")


def _finite(name: str, value: float) -> float:
    if not np.isfinite(value):
        raise ValueError(f"{name} must be a finite number, found {value!r}")
    return value
