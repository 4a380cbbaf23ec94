"""Geometric edits: functions of plane positions that can be composed. Ntavelis et al., CVPR 2022, section 4.4.

An edit maps positions (h, w, 2), float64, last axis (x, y), to the positions that are drawn there instead. A generator reads only
positions, so edits work on any scene and on any projected photograph. An edit is a function of each position, so tiles of an
edited picture agree where they meet.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from anyres.networks.generator import Edit
from anyres.plane import fields

# Number of cosine waves that a displacement sums.
WAVES = 24


def compose(edits: Sequence[Edit]) -> Edit | None:
    """Return one edit that applies `edits` to the picture in their order, or None if there are none."""
    if not edits:
        return None

    def composed(places: np.ndarray) -> np.ndarray:
        # Edits map positions backwards, from the edited picture to the original: the last edit comes first.
        for edit in reversed(edits):
            places = edit(places)
        return places

    return composed


def aspect(factor: float, center: tuple[float, float] = (0.0, 0.0)) -> Edit:
    """Stretch the picture along x about `center`, `factor` times."""
    _positive("aspect", factor)
    return _affine(np.diag([1 / factor, 1.0]), center)


def magnify(factor: float, center: tuple[float, float] = (0.0, 0.0)) -> Edit:
    """Magnify the picture `factor` times about `center`. Below 1 it shrinks, and the generator extrapolates beyond its frame."""
    _positive("magnify", factor)
    return _affine(np.eye(2) / factor, center)


def turn(degrees: float, center: tuple[float, float] = (0.0, 0.0)) -> Edit:
    """Turn the picture clockwise about `center`."""
    angle = np.deg2rad(_finite("turn", degrees))
    return _affine(np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]), center)


def pull(point: tuple[float, float], power: float, radius: float = 1.0) -> Edit:
    """Warp towards `point` within `radius`: p' = q + (p - q) / d · r (d / r)^power.

    A power above 1 swells the picture there, a power below 1 pinches it.
    """
    _positive("pull", power)
    _positive("pull radius", radius)
    q = np.array(point, np.float64)

    def pulled(places: np.ndarray) -> np.ndarray:
        offset = places - q
        distance = np.linalg.norm(offset, axis=-1, keepdims=True) / radius
        inside = (distance > 0) & (distance < 1)
        factor = np.where(inside, np.where(inside, distance, 1.0) ** (power - 1), 1.0)
        return q + offset * factor

    return pulled


def displace(strength: float, scale: float = 0.5, seed: int = 0) -> Edit:
    """Displace positions by a smooth random field: about `strength` plane units, varying over about `scale` plane units."""
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
    """Tilt the picture back: at x - center = 1 it is 1 + `tilt_x` times as far away as at its centre; the same along y.

    Raises ValueError for tilts beyond ±0.9.
    """
    for value in (tilt_x, tilt_y):
        if not -0.9 <= value <= 0.9:
            raise ValueError(f"perspective tilts must lie within ±0.9, found {value!r}")
    q, tilt = np.array(center, np.float64), np.array([tilt_x, tilt_y], np.float64)

    def tilted(places: np.ndarray) -> np.ndarray:
        offset = places - q
        # A line of sight through s meets the tilted plane at s / (1 - tilt s).
        depth = 1 - offset @ tilt
        return q + offset / np.where(np.abs(depth) < 0.05, 0.05, depth)[..., None]

    return tilted


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
