"""Consistency of one scene: over scales (SelfSSIM), over tiles (seams), over positions (equivariance)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from anyres.plane.resample import render_real
from anyres.plane.window import frame_window

SSIM_WINDOW = 11
SSIM_SIGMA = 1.5
DATA_RANGE = 255.0


def ssim(a: np.ndarray, b: np.ndarray) -> float:
    """Return the structural similarity of two pictures (h, w, 3) in 0..255, mean over pixels and channels (Wang et al. 2004).

    Gaussian window of 11 px, sigma 1.5, population covariances, only positions where the window fits into the picture.
    """
    if a.shape != b.shape or min(a.shape[:2]) < SSIM_WINDOW:
        raise ValueError(f"SSIM takes two pictures of one size of at least {SSIM_WINDOW} px, found {a.shape} and {b.shape}")
    x, y = a.astype(np.float64), b.astype(np.float64)
    mean_x, mean_y = _smooth(x), _smooth(y)
    var_x, var_y = _smooth(x * x) - mean_x**2, _smooth(y * y) - mean_y**2
    covariance = _smooth(x * y) - mean_x * mean_y
    c1, c2 = (0.01 * DATA_RANGE) ** 2, (0.03 * DATA_RANGE) ** 2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    structure = (2 * covariance + c2) / (var_x + var_y + c2)
    return float((luminance * structure).mean())


def resized(picture: np.ndarray, size: int) -> np.ndarray:
    """Resize a square picture (s, s, 3) to `size` px, float32: `render_real` downwards, Pillow's Lanczos-3 upwards."""
    if size == len(picture):
        return picture.astype(np.float32)
    if size < len(picture):
        return render_real(picture, frame_window(1.0, size))
    channels = [Image.fromarray(picture[..., c].astype(np.float32), mode="F") for c in range(picture.shape[2])]
    return np.stack([np.asarray(c.resize((size, size), Image.Resampling.LANCZOS)) for c in channels], axis=-1)


def self_ssim(scenes: Sequence[Sequence[np.ndarray]]) -> np.ndarray:
    """Return the matrix (sizes, sizes) of mean SSIM(G at r_ref, G at r resized to r_ref); row r_ref, column r.

    `scenes` holds for each scene its square renders, one for each size. An upsampler scores 1, so read it together with FD.
    """
    return np.mean([[[ssim(a, resized(b, len(a))) for b in sizes] for a in sizes] for sizes in scenes], axis=0)


@dataclass(frozen=True)
class Seams:
    """Differences between renders in tiles and in a single pass, in units of [-1, 1], and steps between neighbouring pixels.

    `gradient_ratio` is the mean step across tile borders divided by that at all other places, divided by the same ratio of the
    single pass at the same lines: 1 where tiles add nothing. The second division removes what the scene itself shows there.
    """

    max: float
    mean: float
    gradient_ratio: float


def seam_error(tiled: np.ndarray, whole: np.ndarray, rows: Iterable[int], columns: Iterable[int]) -> Seams:
    """Compare a render in tiles (h, w, 3) with one in a single pass; tiles begin at `rows` and `columns` beyond 0."""
    lines = [np.asarray(sorted(set(at)), dtype=int) - 1 for at in (rows, columns)]
    if not any(len(line) for line in lines):
        raise ValueError("a seam needs at least two tiles")
    difference = np.abs(tiled.astype(np.float64) - whole.astype(np.float64))
    of_tiled, of_whole = (_step_ratio(picture.astype(np.float64), lines) for picture in (tiled, whole))
    return Seams(float(difference.max()), float(difference.mean()), of_tiled / of_whole if of_whole > 0 else 1.0)


def mean_seams(scenes: Sequence[Seams]) -> Seams:
    """Return the largest difference, the mean difference and the mean ratio over scenes."""
    largest = max(scene.max for scene in scenes)
    return Seams(
        largest, float(np.mean([scene.mean for scene in scenes])), float(np.mean([scene.gradient_ratio for scene in scenes]))
    )


def _step_ratio(picture: np.ndarray, lines: Sequence[np.ndarray]) -> float:
    """Return the mean step between neighbours at `lines`, of rows and of columns, divided by that at all other places."""
    steps = [np.abs(np.diff(picture, axis=axis)).mean(axis=(1 - axis, 2)) for axis in (0, 1)]
    across = np.concatenate([step[line] for step, line in zip(steps, lines, strict=True)])
    inside = np.concatenate([np.delete(step, line) for step, line in zip(steps, lines, strict=True)])
    return float(across.mean() / inside.mean()) if inside.mean() > 0 else 1.0


@dataclass(frozen=True)
class Ring:
    """How well the two ends of a 360 degree picture meet: steps between neighbouring columns, in units of [-1, 1].

    `step` is that from the last column to the first, `interior_p95` the 95th percentile of all others, `rank` the share of the
    others that are smaller.
    """

    step: float
    interior_p95: float
    rank: float


def ring_error(rings: Sequence[np.ndarray]) -> Ring:
    """Measure pictures (h, w, 3) that go once around the ring; return means over the pictures."""
    of_rings = []
    for ring in rings:
        steps = np.abs(np.roll(ring, -1, axis=1).astype(np.float64) - ring).mean(axis=(0, 2))
        last, inside = steps[-1], steps[:-1]
        of_rings.append((last, np.percentile(inside, 95), np.mean(inside < last)))
    return Ring(*(float(value) for value in np.mean(of_rings, axis=0)))


def shift_psnr(moved: np.ndarray, still: np.ndarray, right: int, down: int) -> float:
    """Return the decibels between a render whose window lies `right` and `down` pixels further and the still one, shifted.

    Pictures in [-1, 1], compared where they overlap (Karras et al., NeurIPS 2021, EQ-T); infinite where they are equal.
    """
    h, w = still.shape[:2]
    error = np.mean((moved[: h - down, : w - right].astype(np.float64) - still[down:, right:]) ** 2)
    return float("inf") if error == 0 else float(10 * np.log10(4 / error))


def fractional_psnr(moved: np.ndarray, still: np.ndarray, right: float, down: float) -> float:
    """Return the decibels between a render whose window lies `right` and `down` pixels further and the still one, shifted.

    The shift assumes a band-limited picture. Pictures (h, w, 3) in [-1, 1] are compared in the middle half along each axis: near
    the border, the shift of a finite picture is not defined (Karras et al., NeurIPS 2021, appendix E.3, EQ-T with fractional
    offsets).
    """
    shifted = still.astype(np.float64)
    for axis, amount in ((0, down), (1, right)):
        turns = np.exp(2j * np.pi * np.fft.fftfreq(shifted.shape[axis]) * amount)
        turns = turns.reshape((-1, 1, 1) if axis == 0 else (1, -1, 1))
        shifted = np.fft.ifft(np.fft.fft(shifted, axis=axis) * turns, axis=axis).real
    h, w = still.shape[:2]
    middle = (slice(h // 4, h - h // 4), slice(w // 4, w - w // 4))
    error = np.mean((shifted[middle] - moved[middle]) ** 2)
    return float("inf") if error == 0 else float(10 * np.log10(4 / error))


def _smooth(picture: np.ndarray) -> np.ndarray:
    """Return the Gaussian mean over SSIM_WINDOW px along both axes of (h, w, c), only where the window fits."""
    reach = SSIM_WINDOW // 2
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / SSIM_SIGMA) ** 2)
    weights /= weights.sum()
    for axis in (0, 1):
        picture = np.lib.stride_tricks.sliding_window_view(picture, SSIM_WINDOW, axis=axis) @ weights
    return picture
