"""Charts: the domain of a model. A bounded frame, an unbounded plane, or a cylinder (360 degrees)."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np

from anyres.plane.arrays import is_tensor, namespace
from anyres.plane.shapes import Float64, Int64
from anyres.plane.window import Window

ChartName = Literal["frame", "plane", "cylinder"]

# The ring of a 360 degree picture spans x in [-1, 1): theta = pi x.
CIRCUMFERENCE = 2.0

# Plane units that the width of a picture may differ from the ring's: rounding of an angle.
CLOSING_SLACK = 1e-6

# The largest distance from the origin of an unbounded plane. Beyond it float64 does not resolve sixteenths of a pixel.
PLANE_PX = 2.0**40

# A window may extend beyond its chart by this many pixels: rounding, not extrapolation.
EDGE_TOLERANCE_PX = 1e-3


@dataclass(frozen=True)
class Chart(ABC):
    """The domain of a model; see `chart_of`.

    half_extent: half width and half height of the largest photograph, plane units.
    fov: degrees of the ring that the short side of a photograph spans; only a cylinder uses it.
    """

    name: ChartName = field(init=False)
    half_extent: tuple[float, float] = (1.0, 1.0)
    fov: float = 360.0

    # The period of x in plane units; None where x does not wrap.
    circumference: ClassVar[float | None] = None
    # How many coordinates `encode` returns.
    position_channels: ClassVar[int] = 2

    def __post_init__(self) -> None:
        if not 0 < self.fov <= 360:
            raise ValueError(f"fov must be above 0 and at most 360 degrees, found {self.fov!r}")

    @property
    def wraps(self) -> bool:
        """Whether x is periodic."""
        return self.circumference is not None

    @property
    def limits(self) -> tuple[float, float] | None:
        """Largest |x| and |y| of the domain in plane units; None where it is unbounded."""
        return self.half_extent

    @property
    def is_unbounded(self) -> bool:
        """Whether windows may lie anywhere, so that no part of the domain repeats."""
        return self.limits is None

    @property
    @abstractmethod
    def domain(self) -> str:
        """The limits in words."""

    @property
    def short_side(self) -> float:
        """Length of a photograph's short side in plane units."""
        return 2.0

    @property
    def coarsest_side(self) -> float:
        """Length in plane units that the short side of a patch may span: a rectangular patch may fit a wide photograph."""
        return 2 * max(self.half_extent)

    @property
    def frame_aspect(self) -> float:
        """Width by height of a whole picture; 1 where the chart has no whole picture."""
        return 1.0

    def native_period(self, size: tuple[int, int]) -> float:
        """Plane units per pixel of a photograph of `size` = (h, w)."""
        return self.short_side / min(size)

    def half_extent_of(self, size: tuple[int, int]) -> tuple[float, float]:
        """Half width and half height in plane units of a photograph of `size` = (h, w)."""
        period = self.native_period(size)
        return period * size[1] / 2, period * size[0] / 2

    def half_extent_over(self, sizes: list[tuple[int, int]]) -> tuple[float, float]:
        """Half width and half height in plane units of the area that photographs of `sizes` = (h, w) cover."""
        extents = [self.half_extent_of(size) for size in sizes]
        return max(width for width, _ in extents), max(height for _, height in extents)

    def extents(self, sizes: Int64[np.ndarray, "n 2"]) -> Float64[np.ndarray, "n 2"]:
        """Heights and widths (n, 2) in plane units of photographs of `sizes` (n, 2) = (h, w); 0 for one that does not fit."""
        return (self.short_side / sizes.min(axis=1))[:, None] * sizes

    def closes(self, size: tuple[int, int]) -> bool:
        """Whether a photograph of `size` = (h, w) covers the whole ring, so that its right border meets its left border."""
        return False

    def picture_chart(self, size: tuple[int, int]) -> Chart:
        """The chart of one photograph of `size` = (h, w): its frame, or the cylinder that it closes."""
        return Cylinder(self.half_extent_of(size)) if self.closes(size) else Frame(self.half_extent_of(size))

    @abstractmethod
    def check(self, window: Window) -> None:
        """Raise ValueError, one line, where `window` leaves the domain."""

    def clamp(self, center: tuple[float, float], period: float, size: tuple[int, int]) -> tuple[float, float]:
        """Move the center of a window of `size` = (h, w) into a frame, or to its middle where the window is larger.

        Other charts return it as it is.
        """
        return center

    def wrap(self, x: float) -> float:
        """Bring x to one period of the chart, [-1, 1); the same x where it does not wrap."""
        return x

    def random_center(
        self, size: tuple[int, int], slack: tuple[float, float], at: tuple[float, float], turn: float
    ) -> tuple[tuple[float, float], float]:
        """The center of a patch of a photograph, and how far along x the photograph is moved, plane units.

        `size` is the photograph's (h, w), `slack` how far from its middle a center may be along (x, y). `at` = (x, y) and `turn`
        are uniform random numbers in [0, 1).
        """
        return ((2 * at[0] - 1) * slack[0], (2 * at[1] - 1) * slack[1]), 0.0

    def snap_frequencies(self, frequencies: Float64[np.ndarray, "*n 2"]) -> Float64[np.ndarray, "*n 2"]:
        """Return frequencies (..., 2), cycles per plane unit along (x, y), made periodic where the chart wraps."""
        return frequencies

    def wrap_cells(self, octave: Any) -> Any:
        """Return after how many cells of side 2^-octave the lattice repeats along x, or None where it never does.

        `octave` is an integer or a scalar tensor of one. Raises ValueError for an octave whose cells are wider than the ring.
        """
        return None

    def encode(self, x: Any, y: Any) -> list[Any]:
        """Continuous coordinates of positions, arrays or tensors: x and y, or on a cylinder the point of the ring (2) and y."""
        return [x, y]

    def ring_window(self, short_px: int, lattice: int = 1) -> Window:
        """Return the window of the whole ring whose height is a photograph's short side, in about `short_px` pixels.

        The width is a multiple of `lattice`, so that the last cell meets the first. Raises ValueError where x does not wrap.
        """
        raise ValueError(f"a panorama needs the chart cylinder, this is a {self.name}; train with train.chart: cylinder")

    def _refuse(self, window: Window, domain: str) -> ValueError:
        left, top, right, bottom = window.bounds
        return ValueError(
            f"window spans x {left:g}..{right:g}, y {top:g}..{bottom:g}, outside the {self.name} ({domain}); "
            "move its center or shrink its size or period"
        )


@dataclass(frozen=True)
class Frame(Chart):
    """A whole picture: |x| <= half width and |y| <= half height."""

    name: ChartName = field(default="frame", init=False)

    @property
    def domain(self) -> str:
        return f"x within ±{self.half_extent[0]:g}, {_height(self)}"

    @property
    def frame_aspect(self) -> float:
        return self.half_extent[0] / self.half_extent[1]

    def check(self, window: Window) -> None:
        left, top, right, bottom = window.bounds
        half_width, half_height = self.half_extent
        slack = EDGE_TOLERANCE_PX * window.period
        outside_x = left < -half_width - slack or right > half_width + slack
        outside_y = top < -half_height - slack or bottom > half_height + slack
        if outside_x or outside_y:
            raise self._refuse(window, self.domain)

    def clamp(self, center: tuple[float, float], period: float, size: tuple[int, int]) -> tuple[float, float]:
        slack_x, slack_y = (max(half - period * side / 2, 0.0) for half, side in zip(self.half_extent, size[::-1], strict=True))
        return min(max(center[0], -slack_x), slack_x), min(max(center[1], -slack_y), slack_y)


@dataclass(frozen=True)
class Plane(Chart):
    """An unbounded plane."""

    name: ChartName = field(default="plane", init=False)

    @property
    def limits(self) -> None:
        return None

    @property
    def domain(self) -> str:
        return "without end"

    def check(self, window: Window) -> None:
        farthest = max(abs(edge) for edge in window.bounds) / window.period
        if farthest > PLANE_PX:
            raise ValueError(
                f"window reaches {farthest:.6g} pixels from the origin, beyond the 2^40 of an unbounded plane; "
                "move its center nearer"
            )


@dataclass(frozen=True)
class Cylinder(Chart):
    """A ring of 360 degrees: x wraps, and |y| <= half height.

    At `fov` 180 a picture of 2:1 closes the ring. An ordinary photograph of a smaller angle covers a part of it.
    """

    name: ChartName = field(default="cylinder", init=False)

    circumference: ClassVar[float | None] = CIRCUMFERENCE
    position_channels: ClassVar[int] = 3

    @property
    def limits(self) -> tuple[float, float]:
        return CIRCUMFERENCE / 2, self.half_extent[1]

    @property
    def domain(self) -> str:
        return f"x around the ring, from -1 to 1 and on, {_height(self)}"

    @property
    def short_side(self) -> float:
        return CIRCUMFERENCE * self.fov / 360

    @property
    def coarsest_side(self) -> float:
        return self.short_side

    def half_extent_over(self, sizes: list[tuple[int, int]]) -> tuple[float, float]:
        return CIRCUMFERENCE / 2, super().half_extent_over(sizes)[1]

    def extents(self, sizes: Int64[np.ndarray, "n 2"]) -> Float64[np.ndarray, "n 2"]:
        extents = super().extents(sizes)
        # Wider than the ring, a picture would overlap itself.
        extents[extents[:, 1] > CIRCUMFERENCE + CLOSING_SLACK] = 0.0
        return extents

    def closes(self, size: tuple[int, int]) -> bool:
        return abs(2 * self.half_extent_of(size)[0] - CIRCUMFERENCE) <= CLOSING_SLACK

    def check(self, window: Window) -> None:
        _, top, _, bottom = window.bounds
        half_height = self.half_extent[1]
        slack = EDGE_TOLERANCE_PX * window.period
        if top < -half_height - slack or bottom > half_height + slack:
            raise self._refuse(window, _height(self))

    def wrap(self, x: float) -> float:
        half = CIRCUMFERENCE / 2
        return (x + half) % CIRCUMFERENCE - half

    def random_center(
        self, size: tuple[int, int], slack: tuple[float, float], at: tuple[float, float], turn: float
    ) -> tuple[tuple[float, float], float]:
        (x, y), _ = super().random_center(size, slack, at, turn)
        # A photograph may lie anywhere on the ring. In one that covers the ring, a patch may lie anywhere.
        turn = 2 * turn - 1
        x = 2 * at[0] - 1 if self.closes(size) else x
        return (self.wrap(x + turn), y), turn

    def snap_frequencies(self, frequencies: Float64[np.ndarray, "*n 2"]) -> Float64[np.ndarray, "*n 2"]:
        x = np.round(frequencies[..., 0] * CIRCUMFERENCE) / CIRCUMFERENCE
        return np.stack([x, frequencies[..., 1]], axis=-1)

    def wrap_cells(self, octave: Any) -> Any:
        cells = CIRCUMFERENCE * 2.0**octave
        # An exported graph cannot raise.
        if is_tensor(cells):
            return cells.clamp(min=1)
        if cells < 1:
            raise ValueError(f"octave {octave} has cells wider than the cylinder")
        return int(cells)

    def encode(self, x: Any, y: Any) -> list[Any]:
        turn, xp = 2 * math.pi / CIRCUMFERENCE, namespace(x)
        return [xp.sin(turn * x) / turn, xp.cos(turn * x) / turn, y]

    def ring_window(self, short_px: int, lattice: int = 1) -> Window:
        width = max(round(short_px * CIRCUMFERENCE / self.short_side / lattice), 1) * lattice
        period = CIRCUMFERENCE / width
        height = max(math.floor(self.short_side / period + 1e-6), 1)
        return Window((0.0, 0.0), period, (height, width))


CHARTS: dict[str, type[Chart]] = {"frame": Frame, "plane": Plane, "cylinder": Cylinder}


def chart_of(name: ChartName, half_extent: tuple[float, float] = (1.0, 1.0), fov: float = 360.0) -> Chart:
    """Return the chart of this name. Raises ValueError for an unknown name."""
    if name not in CHARTS:
        raise ValueError(f"chart must be frame, plane or cylinder, found {name!r}")
    return CHARTS[name](half_extent, fov)


def _height(chart: Chart) -> str:
    return f"y within ±{chart.half_extent[1]:g}"
