"""Charts: what the plane is for a model. A bounded frame, an unbounded plane, or a cylinder (360 degrees)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from anyres.plane.arrays import is_tensor
from anyres.plane.window import Window

ChartName = Literal["frame", "plane", "cylinder"]

# The ring of a 360 degree picture spans x in [-1, 1): theta = pi x.
CIRCUMFERENCE = 2.0

# Plane units that the width of a picture may differ from the ring's: rounding of an angle.
CLOSING_SLACK = 1e-6

# An unbounded plane ends where float64 no longer tells sixteenths of a pixel apart for certain.
PLANE_PX = 2.0**40

# A window may stand out of its frame by this many pixels before it is refused: rounding, not extrapolation.
EDGE_TOLERANCE_PX = 1e-3


@dataclass(frozen=True)
class Chart:
    """The domain of a model. `half_extent` = (half width, half height) bounds the frame; y bounds the cylinder.

    `fov`: degrees of the ring that the short side of a photograph spans, on the cylinder alone. At 180 a picture of 2:1 closes
    the ring; an ordinary photograph of a smaller angle stands somewhere about it.
    """

    name: ChartName = "frame"
    half_extent: tuple[float, float] = (1.0, 1.0)
    fov: float = 360.0

    def __post_init__(self) -> None:
        if self.name not in ("frame", "plane", "cylinder"):
            raise ValueError(f"chart must be frame, plane or cylinder, found {self.name!r}")
        if not 0 < self.fov <= 360:
            raise ValueError(f"fov must be above 0 and at most 360 degrees, found {self.fov!r}")

    @property
    def short_side(self) -> float:
        """Length of a photograph's short side in plane units."""
        return CIRCUMFERENCE * self.fov / 360 if self.name == "cylinder" else 2.0

    def native_period(self, size: tuple[int, int]) -> float:
        """Plane units per pixel of a photograph of `size` = (h, w)."""
        return self.short_side / min(size)

    def half_extent_of(self, size: tuple[int, int]) -> tuple[float, float]:
        """Half width and half height in plane units of a photograph of `size` = (h, w)."""
        period = self.native_period(size)
        return period * size[1] / 2, period * size[0] / 2

    def closes(self, size: tuple[int, int]) -> bool:
        """Whether a photograph of `size` = (h, w) goes once about the ring, its right border meeting its left."""
        return self.name == "cylinder" and abs(2 * self.half_extent_of(size)[0] - CIRCUMFERENCE) <= CLOSING_SLACK

    def check(self, window: Window) -> None:
        """Raise ValueError, one line, where `window` leaves the domain."""
        left, top, right, bottom = window.bounds
        if self.name == "plane":
            farthest = max(abs(edge) for edge in window.bounds) / window.period
            if farthest > PLANE_PX:
                raise ValueError(
                    f"window reaches {farthest:.6g} pixels from the origin, beyond the 2^40 of an unbounded plane; "
                    "move its center nearer"
                )
            return
        half_width, half_height = self.half_extent
        slack = EDGE_TOLERANCE_PX * window.period
        outside_x = self.name == "frame" and (left < -half_width - slack or right > half_width + slack)
        outside_y = top < -half_height - slack or bottom > half_height + slack
        if outside_x or outside_y:
            domain = (
                f"x within ±{half_width:g}, y within ±{half_height:g}" if self.name == "frame" else f"y within ±{half_height:g}"
            )
            raise ValueError(
                f"window spans x {left:g}..{right:g}, y {top:g}..{bottom:g}, outside the {self.name} ({domain}); "
                "move its center or shrink its size or period"
            )

    def snap_frequencies(self, frequencies: np.ndarray) -> np.ndarray:
        """Return frequencies (..., 2), cycles per plane unit along (x, y), made periodic where the chart wraps."""
        if self.name != "cylinder":
            return frequencies
        x = np.round(frequencies[..., 0] * CIRCUMFERENCE) / CIRCUMFERENCE
        return np.stack([x, frequencies[..., 1]], axis=-1)

    def wrap_cells(self, octave: Any) -> Any:
        """Return after how many cells of side 2^-octave the lattice repeats along x, or None where it never does.

        `octave` is a whole number or a scalar tensor of one. Raises ValueError for a number whose cells are wider than the ring.
        """
        if self.name != "cylinder":
            return None
        cells = CIRCUMFERENCE * 2.0**octave
        # A graph refuses nothing.
        if is_tensor(cells):
            return cells.clamp(min=1)
        if cells < 1:
            raise ValueError(f"octave {octave} has cells wider than the cylinder")
        return int(cells)


def ring_window(chart: Chart, short_px: int, lattice: int = 1) -> Window:
    """Return the window of a cylinder's whole ring whose height is a photograph's short side, in about `short_px` pixels.

    The width is a multiple of `lattice`, so that the last cell meets the first. Raises ValueError for another chart.
    """
    if chart.name != "cylinder":
        raise ValueError(f"a panorama needs the chart cylinder, this is a {chart.name}; train with train.chart: cylinder")
    width = max(round(short_px * CIRCUMFERENCE / chart.short_side / lattice), 1) * lattice
    period = CIRCUMFERENCE / width
    height = max(math.floor(chart.short_side / period + 1e-6), 1)
    return Window((0.0, 0.0), period, (height, width))


def wrap(x: float) -> float:
    """Bring a place on the ring to [-1, 1)."""
    half = CIRCUMFERENCE / 2
    return (x + half) % CIRCUMFERENCE - half
