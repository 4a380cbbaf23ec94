"""A dyadic pyramid of tiles over the plane: level 0 holds the whole frame at its base size, each next level halves the period.

The top left corner of tile (x, y) lies 256 (x, y) pixels from the origin of the plane. So tiles start on the generator's
lattice, and neighbouring tiles form one picture. The part of a tile beyond a frame is empty.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from anyres.plane.chart import EDGE_TOLERANCE_PX
from anyres.plane.geometry import Geometry
from anyres.plane.window import Window

TILE_PX = 256
# The short side of a frame on level 0.
BASE_PX = 256
# The short side of the smallest thumbnail.
THUMBNAIL_PX = 4
# Levels beyond the finest trained period.
BEYOND_LEVELS = 4
# An unbounded plane: log2 of the tiles on either side of the origin, on level 0 and at most on any level.
PLANE_OCTAVES, FINEST_OCTAVES = 19, 30
# The largest index of a tile, 2^39 pixels from the origin.
INDEX_LIMIT = 1 << 31
LEVEL_LIMIT = 40


class TileNotFoundError(LookupError):
    """The tile lies beyond the levels or the chart of a model."""


@dataclass(frozen=True)
class TileWindow:
    """The window that a tile shows; its first pixel is pixel (top, left) of the tile."""

    window: Window
    top: int
    left: int


@dataclass(frozen=True)
class Pyramid:
    """Levels 0 to `levels` - 1; level 0 has `columns` x `rows` tiles of `period`, both even, about the origin."""

    geometry: Geometry
    period: float
    levels: int
    columns: int
    rows: int

    @classmethod
    def of(cls, geometry: Geometry) -> Pyramid:
        """The pyramid of a generator. A generator that was trained on a single period has a single level."""
        chart, (finest, coarsest) = geometry.chart, geometry.periods
        single = finest == coarsest
        if single or chart.is_unbounded:
            period = coarsest
        elif chart.circumference is not None:
            period = chart.circumference / (2 * TILE_PX * max(1, round(chart.circumference / chart.short_side / 2)))
        else:
            period = chart.short_side / BASE_PX
            # A model that was trained on fewer pixels starts with fewer.
            while period < finest * (1 - 1e-9) and period < coarsest:
                period *= 2
        levels = 1 if single else max(math.ceil(math.log2(period / finest)), 0) + BEYOND_LEVELS + 1
        if chart.limits is None:
            columns = rows = 2 ** (1 + min(PLANE_OCTAVES, FINEST_OCTAVES - levels))
        else:
            columns, rows = (2 * math.ceil(half / period / TILE_PX - EDGE_TOLERANCE_PX) for half in chart.limits)
        return cls(geometry, period, levels, columns, rows)

    @property
    def wraps(self) -> bool:
        """Whether the last column of tiles meets the first."""
        across = self.columns * TILE_PX * self.period
        circumference = self.geometry.chart.circumference
        return circumference is not None and abs(across / circumference - 1) < 1e-9

    @property
    def periods(self) -> tuple[float, float]:
        """The finest and the coarsest period of views: one octave beyond the last level, and thumbnails."""
        if self.levels == 1:
            return self.period, self.period
        coarsest = self.period * BASE_PX if self.geometry.chart.is_unbounded else self.geometry.chart.short_side
        return self.period / 2**self.levels, coarsest / THUMBNAIL_PX

    def canonical(self, level: int, x: int, y: int) -> tuple[int, int]:
        """The canonical index (x, y) of a tile; on a ring, many indices name the same tile. Raises TileNotFoundError."""
        if not 0 <= level < self.levels or max(abs(x), abs(y)) > INDEX_LIMIT:
            raise TileNotFoundError(f"level {level} is not between 0 and {self.levels - 1}, or the tile is too far out")
        count = self.columns << level
        return ((x + count // 2) % count - count // 2 if self.wraps else x), y

    def tile_window(self, level: int, x: int, y: int) -> TileWindow:
        """The window that a tile shows. Raises TileNotFoundError for a tile beyond the chart."""
        x, y = self.canonical(level, x, y)
        period = self.period / 2**level
        chart = self.geometry.chart
        spans = []
        for axis, index in ((1, y), (0, x)):
            first, last = index * TILE_PX, (index + 1) * TILE_PX
            if chart.limits is not None:
                reach = math.floor(chart.limits[axis] / period + EDGE_TOLERANCE_PX)
                first, last = max(first, -reach), min(last, reach)
            if first >= last:
                raise TileNotFoundError(f"tile {x}, {y} of level {level} lies beyond the {chart.name}")
            spans.append((first, last))
        (top, bottom), (left, right) = spans
        center = (period * (left + right) / 2, period * (top + bottom) / 2)
        return TileWindow(Window(center, period, (bottom - top, right - left)), top - y * TILE_PX, left - x * TILE_PX)

    def facts(self) -> dict[str, Any]:
        """What a page needs to place the tiles; JSON types."""
        return {
            "tile_px": TILE_PX,
            "period": self.period,
            "levels": self.levels,
            "columns": self.columns,
            "rows": self.rows,
            "wraps": self.wraps,
            "periods": list(self.periods),
        }
