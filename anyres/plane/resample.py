"""`render_real`: the one antialiased resampler from a photograph to a window.

Training, metrics, teacher and viewer all call it. The name of its kernel is part of every metric's name.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from anyres.plane.arrays import namespace
from anyres.plane.chart import Chart, Frame
from anyres.plane.shapes import Float32, Shaped
from anyres.plane.window import Window

KERNEL = "lanczos3"
LOBES = 3
# Relative slack on the native period: float64 rounding, not upsampling.
PERIOD_SLACK = 1e-6
FRAME = Frame()
# Outputs that share a matrix product.
BLOCK = 16


def render_real(image: Shaped[np.ndarray, "H W c"], window: Window, chart: Chart = FRAME) -> Float32[np.ndarray, "h w c"]:
    """Sample a photograph at a window, antialiased.

    `image` is (H, W, C), any real dtype, its whole frame; returns float32 (h, w, C) in the same range, which a
    kernel with negative lobes may exceed slightly. Raises ValueError where the window is finer than the
    photograph (this never upsamples) or reaches outside it; x wraps instead for one that closes a cylinder.
    """
    height, width = image.shape[:2]
    period = chart.native_period((height, width))
    corner = (-period * width / 2, -period * height / 2)
    return resample(image, window, corner, period, wraps=chart.closes((height, width)))


def resample(
    image: Shaped[np.ndarray, "H W c"],
    window: Window,
    corner: tuple[float, float],
    period: float,
    wraps: bool = False,
    extent: tuple[float, float] | None = None,
) -> Float32[np.ndarray, "h w c"]:
    """Sample a grid of pixels `period` apart whose top left corner lies at plane position `corner` = (x, y).

    The general form of `render_real`, for the levels of a pyramid; same returns and errors. With `wraps` the columns go on
    from the first after the last. `extent` = (rows, columns) is
    where the picture ends, in pixels of the grid, where that is within its last row or column: those weigh less.
    """
    height, width = image.shape[:2]
    rows_end, columns_end = (height, width) if extent is None else (min(height, extent[0]), min(width, extent[1]))
    if window.period < period * (1 - PERIOD_SLACK):
        raise ValueError(f"window period {window.period:g} is finer than the photograph's {period:g}; this never upsamples")
    ratio = max(window.period / period, 1.0)
    x, y = window.axes()
    columns, across = _taps((x - corner[0]) / period, ratio, columns_end, wraps)
    rows, down = _taps((y - corner[1]) / period, ratio, rows_end, wraps=False)
    if wraps:
        image = image.take(np.arange(columns[0], columns[-1] + across.shape[1]), axis=1, mode="wrap")
        columns = columns - columns[0]
    channels = image.shape[2]
    source = np.ascontiguousarray(image, np.float32).reshape(height, -1)
    halfway = np.empty((len(rows), source.shape[1]), np.float32)
    for start, low, high, weights in _blocks(rows, down, height):
        np.matmul(weights, source[low:high], out=halfway[start : start + len(weights)])
    # Channels apart, so that the second pass too is products of large matrices.
    planes = np.moveaxis(halfway.reshape(len(rows), -1, channels), 2, 0).reshape(channels * len(rows), -1)
    out = np.empty((len(planes), len(columns)), np.float32)
    for start, low, high, weights in _blocks(columns, across, planes.shape[1]):
        out[:, start : start + len(weights)] = planes[:, low:high] @ weights.T
    return np.moveaxis(out.reshape(channels, len(rows), len(columns)), 0, 2)


def footprint(
    window: Window, corner: tuple[float, float], period: float, size: tuple[int, int], clip: bool = True
) -> tuple[int, int, int, int]:
    """Pixels (top, left, bottom, right) of a grid that `resample` reads for a window, clipped to `size` = (h, w)."""
    ratio = max(window.period / period, 1.0)
    x, y = window.axes()
    left, right = _span((x - corner[0]) / period, ratio)
    top, bottom = _span((y - corner[1]) / period, ratio)
    if not clip:
        return top, left, bottom, right
    return max(top, 0), max(left, 0), min(bottom, size[0]), min(right, size[1])


def lanczos(t: Any) -> Any:
    """The Lanczos-3 window of an array or a tensor: sinc(t) sinc(t/3) for |t| < 3, else 0."""
    xp = namespace(t)
    # By the triple angle formula one sine serves both: sin(pi t) = s (3 - 4 s^2) with s = sin(pi t / 3).
    square = xp.sin(t * (np.pi / LOBES)) ** 2
    inside = xp.abs(t) < LOBES
    nonzero = inside & (t != 0)
    return xp.where(nonzero, square * (9 - 12 * square) / xp.where(nonzero, (np.pi * t) ** 2, 1.0), xp.where(t == 0, 1.0, 0.0))


def _span(positions: np.ndarray, ratio: float) -> tuple[int, int]:
    """First and one past the last source pixel under the kernel; positions in source pixels from the corner."""
    reach = LOBES * ratio
    return int(np.ceil(positions[0] - reach - 0.5)), int(np.floor(positions[-1] + reach - 0.5)) + 1


def _taps(positions: np.ndarray, ratio: float, count: float, wraps: bool) -> tuple[np.ndarray, np.ndarray]:
    """First source index (outputs,) and float32 weights (outputs, taps) of the kernel at each position.

    Indices outside the picture have weight 0. A fraction of `count` is the last pixel's share.
    """
    half = ratio / 2
    if not wraps and (positions[0] - half < -1e-3 * ratio or positions[-1] + half > count + 1e-3 * ratio):
        covered = f"{positions[0] - half:.3f} to {positions[-1] + half:.3f}"
        raise ValueError(f"window covers source pixels {covered}, outside the photograph's 0 to {count:g}")
    reach = LOBES * ratio
    first = np.ceil(positions - reach - 0.5).astype(np.int64)
    index = first[:, None] + np.arange(int(2 * reach) + 2)
    offset = index + 0.5 - positions[:, None]
    weights = lanczos(offset / ratio)
    whole = np.ones(len(positions), bool)
    if not wraps:
        weights *= np.clip(count - index, 0, 1) * (index >= 0)
        whole = (positions - reach >= 0) & (positions + reach <= count)
    weights /= weights.sum(axis=1, keepdims=True)
    # A truncated sinc keeps constants only; adding the term that cancels the first moment makes it keep ramps
    # too, so that no patch is shifted against its coordinates. At the border the kernel is cut: constants only.
    moment = (weights * offset).sum(axis=1, keepdims=True)
    spread = np.abs(weights)
    centred = offset - (spread * offset).sum(axis=1, keepdims=True) / spread.sum(axis=1, keepdims=True)
    slope = moment / (spread * centred * offset).sum(axis=1, keepdims=True)
    return first, np.where(whole[:, None], weights - slope * spread * centred, weights).astype(np.float32)


def _blocks(first: np.ndarray, weights: np.ndarray, count: int) -> Iterator[tuple[int, int, int, np.ndarray]]:
    """Cut the band matrix of `_taps` over `count` source pixels into dense blocks of a few outputs.

    Yields (first output, low, high, weights (outputs, high - low)): what a block does not reach costs nothing.
    """
    taps = weights.shape[1]
    for start in range(0, len(first), BLOCK):
        begins, block = first[start : start + BLOCK], weights[start : start + BLOCK]
        low, high = max(int(begins[0]), 0), min(int(begins[-1]) + taps, count)
        # A column for every index from begins[0] on; those outside the picture have weight 0 and go.
        dense = np.zeros((len(begins), int(begins[-1] - begins[0]) + taps), np.float32)
        dense[np.arange(len(begins))[:, None], (begins - begins[0])[:, None] + np.arange(taps)] = block
        yield start, low, high, dense[:, low - begins[0] : high - begins[0]]
