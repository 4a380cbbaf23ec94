"""Charts: what the plane is for a model. A bounded frame, an unbounded plane, or a cylinder (360 degrees)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from anyres.plane.window import Window

ChartName = Literal["frame", "plane", "cylinder"]

# The ring of a 360 degree picture spans x in [-1, 1): theta = pi x.
CIRCUMFERENCE = 2.0

# A window may stand out of its frame by this many pixels before it is refused: rounding, not extrapolation.
EDGE_TOLERANCE_PX = 1e-3


@dataclass(frozen=True)
class Chart:
    """The domain of a model. `half_extent` = (half width, half height) bounds the frame; y bounds the cylinder."""

    name: ChartName = "frame"
    half_extent: tuple[float, float] = (1.0, 1.0)

    def __post_init__(self) -> None:
        if self.name not in ("frame", "plane", "cylinder"):
            raise ValueError(f"chart must be frame, plane or cylinder, found {self.name!r}")

    def check(self, window: Window) -> None:
        """Raise ValueError, one line, where `window` leaves the domain."""
        left, top, right, bottom = window.bounds
        half_width, half_height = self.half_extent
        slack = EDGE_TOLERANCE_PX * window.period
        outside_x = left < -half_width - slack or right > half_width + slack
        outside_y = top < -half_height - slack or bottom > half_height + slack
        if (self.name == "frame" and (outside_x or outside_y)) or (self.name == "cylinder" and outside_y):
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

    def wrap_cells(self, octave: int) -> int | None:
        """Return after how many cells of side 2^-octave the lattice repeats along x, or None where it never does."""
        if self.name != "cylinder":
            return None
        cells = CIRCUMFERENCE * 2.0**octave
        if cells < 1:
            raise ValueError(f"octave {octave} has cells wider than the cylinder")
        return int(cells)
