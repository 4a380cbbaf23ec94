"""A window: which part of the continuous image is sampled, how finely, and at how many pixels."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from numbers import Integral, Real

import numpy as np

from anyres.plane.shapes import Float64
from anyres.plane.tiling import plan

# How far, in pixels, a window's grid may be from whole pixels of the plane and still count as on them:
# far above the rounding of float64 and far below anything that can be seen. Far out rounding grows, and this with it.
PHASE_TOLERANCE_PX = 1e-6
ROUNDINGS = 16


@dataclass(frozen=True)
class Window:
    """Sample the plane at `size = (h, w)` pixels, `period` plane units apart, about `center = (x, y)`.

    Pixel (row i, column j) is the sample at x = c_x + period (j + 0.5 - w/2), y = c_y + period (i + 0.5 - h/2):
    pixel centres, x to the right, y down. The short side of a photograph spans [-1, 1] on a frame.
    Raises ValueError with the offending value for anything non-finite, zero, negative or not a number.
    """

    center: tuple[float, float]
    period: float
    size: tuple[int, int]

    def __post_init__(self) -> None:
        object.__setattr__(self, "center", tuple(_real("center", value) for value in _pair("center", self.center)))
        object.__setattr__(self, "size", tuple(_side(value) for value in _pair("size", self.size)))
        period = _real("period", self.period)
        if period <= 0:
            raise ValueError(f"window period must be positive, found {self.period!r}")
        object.__setattr__(self, "period", period)

    @property
    def extent(self) -> tuple[float, float]:
        """Height and width in plane units."""
        height, width = self.size
        return height * self.period, width * self.period

    @property
    def origin(self) -> tuple[float, float]:
        """Plane position (x, y) of the top left corner of the top left pixel."""
        height, width = self.size
        return self.center[0] - self.period * width / 2, self.center[1] - self.period * height / 2

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """Left, top, right and bottom edge in plane units."""
        (left, top), (height, width) = self.origin, self.extent
        return left, top, left + width, top + height

    def zoom(self, base: float) -> float:
        """How much finer this window is than period `base`."""
        return base / self.period

    def axes(self) -> tuple[Float64[np.ndarray, " w"], Float64[np.ndarray, " h"]]:
        """Pixel centres along x (w,) and along y (h,), float64."""
        height, width = self.size
        x = self.center[0] + self.period * (np.arange(width) + 0.5 - width / 2)
        y = self.center[1] + self.period * (np.arange(height) + 0.5 - height / 2)
        return x, y

    def coords(self) -> Float64[np.ndarray, "h w 2"]:
        """Plane positions of the pixel centres, float64 (h, w, 2), last axis (x, y)."""
        x, y = self.axes()
        return np.stack(np.broadcast_arrays(x[None, :], y[:, None]), axis=-1)

    def crop(self, top: int, left: int, size: tuple[int, int]) -> Window:
        """Return the window of `size` pixels whose first pixel is (top, left) of this one; it may reach outside."""
        (height, width), (crop_height, crop_width) = self.size, size
        center = (
            self.center[0] + self.period * (left + (crop_width - width) / 2),
            self.center[1] + self.period * (top + (crop_height - height) / 2),
        )
        return replace(self, center=center, size=size)

    def resized(self, size: tuple[int, int]) -> Window:
        """Return the window of the same place and height at `size` = (h, w) pixels, which should have its shape."""
        return Window(self.center, self.extent[0] / size[0], size)

    def parked(self, away: bool, period: float) -> Window:
        """Return this window, or where `away` one of its size and of `period` at the origin."""
        return Window((0.0, 0.0), period, self.size) if away else self

    def phase(self) -> tuple[tuple[int, int], tuple[float, float]]:
        """Split the origin into whole pixels (i_x, i_y) of the plane's own grid and a rest in [0, 1) pixels.

        Windows of one period and one rest lie on one pixel grid, wherever they are. Pixel indices are exact
        up to 2^44 and the rest is rounded to zero within PHASE_TOLERANCE_PX of a whole pixel, or what float64 cannot tell
        apart so far out.
        """
        index, rest = zip(*(_split(edge / self.period) for edge in self.origin), strict=True)
        return (index[0], index[1]), (rest[0], rest[1])

    def tiles(self, tile: int, lattice: int = 1) -> Iterator[tuple[int, int, Window]]:
        """Cut the window into tiles; see `anyres.plane.tiling.plan`. Yields (top, left, window of the tile)."""
        for part in plan(self.size, tile, lattice):
            yield part.top, part.left, self.crop(part.top, part.left, part.size)


def frame_window(aspect: float, short_px: int, short_side: float = 2.0) -> Window:
    """Return the window of a whole frame of `aspect` = width / height whose short side has `short_px` pixels.

    `short_side` is its length in plane units, see `Chart.short_side`. The long side is cut to whole pixels, so that none leaves
    the frame.
    """
    long_px = max(short_px, math.floor(short_px * max(aspect, 1 / aspect) + PHASE_TOLERANCE_PX))
    size = (short_px, long_px) if aspect >= 1 else (long_px, short_px)
    return Window((0.0, 0.0), short_side / short_px, size)


def _split(position: float) -> tuple[int, float]:
    tolerance = max(PHASE_TOLERANCE_PX, ROUNDINGS * math.ulp(position))
    index = math.floor(position + tolerance)
    rest = position - index
    return index, 0.0 if abs(rest) <= tolerance else rest


def _pair(name: str, value: object) -> tuple[object, object]:
    if isinstance(value, str | bytes) or not isinstance(value, Collection) or len(value) != 2:
        raise ValueError(f"window {name} must be a pair, found {value!r}")
    first, second = value
    return first, second


def _real(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
        raise ValueError(f"window {name} must be a finite number, found {value!r}")
    return float(value)


def _side(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, Integral) or value <= 0:
        raise ValueError(f"window size must be whole pixels above zero, found {value!r}")
    return int(value)
