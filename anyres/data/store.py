"""Read patches of stored pictures, decoding only the tiles under them."""

from __future__ import annotations

import json
import math
import os
import threading
from collections import OrderedDict
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from anyres.data.manifest import Row, credit_line
from anyres.data.tiff import DamagedTiffError, Level, decode_tile, read_levels
from anyres.plane.chart import Chart
from anyres.plane.resample import FRAME, PERIOD_SLACK, footprint, native_period, resample
from anyres.plane.window import Window

INDEX = "index.json"
DATASET = "dataset.json"
DEFAULT_CACHE_BYTES = 768 * 2**20
# A level serves windows at least this much coarser than itself. Filtering twice near one cutoff loses detail:
# against the native picture 33 dB at a margin of 1, 40 dB and more at 1.6, on the noisiest star fields.
LEVEL_MARGIN = 1.6


@dataclass(frozen=True)
class Picture:
    """One picture of a store; `path` stands below the store, sizes are native pixels."""

    id: str
    name: str
    path: str
    width: int
    height: int
    sha256: str
    author: str
    licence: str
    page: str

    @property
    def short_side(self) -> int:
        return min(self.width, self.height)

    @property
    def aspect(self) -> float:
        """Width over height."""
        return self.width / self.height

    @property
    def period(self) -> float:
        """Native period, plane units per pixel."""
        return native_period((self.height, self.width))

    @property
    def half_extent(self) -> tuple[float, float]:
        """Half width and half height in plane units."""
        return self.period * self.width / 2, self.period * self.height / 2

    @property
    def credits(self) -> str:
        """Name, author and licence in one line."""
        return credit_line(self.name, self.author, self.licence)

    @classmethod
    def of(cls, row: Row, path: str) -> Picture:
        return cls(row.id, row.name, path, row.width, row.height, row.sha256, row.author, row.licence, row.page)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class Store:
    """Pictures at every resolution. Safe to share between threads; `cache_bytes` bounds the decoded tiles it keeps."""

    def __init__(self, path: Path, digest: str, pictures: list[Picture], cache_bytes: int) -> None:
        self.path = path
        self.hash = digest
        self.pictures = pictures
        self._cache = _Cache(cache_bytes)

    @classmethod
    def open(cls, path: str | Path, cache_bytes: int = DEFAULT_CACHE_BYTES) -> Store:
        """Open the store that `prepare` wrote. Raises ValueError, one line, where there is none."""
        path = Path(path)
        try:
            index = json.loads((path / INDEX).read_text(encoding="utf-8"))
            return cls(path, index["hash"], [Picture(**values) for values in index["pictures"]], cache_bytes)
        except FileNotFoundError:
            raise ValueError(f"{path / INDEX}: no such file; run the stage prepare first") from None
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise ValueError(f"{path / INDEX}: damaged ({error}); run the stage prepare again") from None

    def __len__(self) -> int:
        return len(self.pictures)

    @cached_property
    def figures(self) -> dict[str, Any]:
        """The contents of dataset.json."""
        return json.loads((self.path / DATASET).read_text(encoding="utf-8"))

    def read(self, index: int, window: Window, chart: Chart = FRAME) -> np.ndarray:
        """Return picture `index` at a window as `render_real` would, float32 (h, w, 3) in 0..255.

        From the coarsest level finer than the window by LEVEL_MARGIN, or the native one. Kernels have negative
        lobes: values may leave 0..255 slightly. Raises ValueError where the window is finer than the picture or
        leaves its frame, or the stored file is damaged.
        """
        picture = self.pictures[index]
        if window.period < picture.period * (1 - PERIOD_SLACK):
            raise ValueError(
                f"window period {window.period:g} is finer than the {picture.period:g} of {picture.name}; this never upsamples"
            )
        half_width, half_height = picture.half_extent
        corner = (-half_width, -half_height)
        levels = self._levels(index)
        if chart.name == "cylinder":
            # A kernel over the seam needs both ends of a row, and halving does not wrap: whole rows, native.
            top, _, bottom, _ = self._reach(window, corner, picture.period, levels[0])
            rows = self._pixels(index, levels, 0, (top, 0, bottom, picture.width))
            return resample(rows, window, (corner[0], corner[1] + top * picture.period), picture.period, chart)
        Chart("frame", (half_width, half_height)).check(window)
        finer = math.floor(math.log2(window.period / picture.period / LEVEL_MARGIN))
        depth = min(max(finer, 0), len(levels) - 1)
        period = picture.period * 2**depth
        top, left, bottom, right = self._reach(window, corner, period, levels[depth])
        pixels = self._pixels(index, levels, depth, (top, left, bottom, right))
        return resample(pixels, window, (corner[0] + left * period, corner[1] + top * period), period)

    @staticmethod
    def _reach(window: Window, corner: tuple[float, float], period: float, level: Level) -> tuple[int, int, int, int]:
        """The kernel's footprint and one pixel more, so that `resample` sees a cut kernel at true borders only."""
        top, left, bottom, right = footprint(window, corner, period, level.size)
        return max(top - 1, 0), max(left - 1, 0), min(bottom + 1, level.size[0]), min(right + 1, level.size[1])

    def _levels(self, index: int) -> list[Level]:
        levels = self._cache.get((index,))
        if levels is None:
            try:
                with (self.path / self.pictures[index].path).open("rb", buffering=0) as stream:
                    levels = read_levels(stream)
            except (OSError, DamagedTiffError) as error:
                raise self._damaged(index, error) from None
            self._cache.put((index,), levels, sum(level.offsets.nbytes + level.counts.nbytes for level in levels))
        return levels

    def _pixels(self, index: int, levels: list[Level], depth: int, region: tuple[int, int, int, int]) -> np.ndarray:
        """Pixels (top, left, bottom, right) of a level, uint8 (h, w, 3)."""
        top, left, bottom, right = region
        level = levels[depth]
        side = level.tile_px
        rows, columns = range(top // side, (bottom - 1) // side + 1), range(left // side, (right - 1) // side + 1)
        places = [row * level.across + column for row in rows for column in columns]
        tiles = dict(zip(places, self._tiles(index, level, depth, places), strict=True))
        if len(places) == 1:
            row, column = rows[0] * side, columns[0] * side
            return tiles[places[0]][top - row : bottom - row, left - column : right - column]
        pixels = np.empty((len(rows) * side, len(columns) * side, 3), np.uint8)
        for place, tile in tiles.items():
            row, column = place // level.across - rows[0], place % level.across - columns[0]
            pixels[row * side : (row + 1) * side, column * side : (column + 1) * side] = tile
        row, column = rows[0] * side, columns[0] * side
        return pixels[top - row : bottom - row, left - column : right - column]

    def _tiles(self, index: int, level: Level, depth: int, places: list[int]) -> list[np.ndarray]:
        """Decoded tiles of a level, from the cache where they are there. The file is opened once at most."""
        tiles = {place: self._cache.get((index, depth, place)) for place in places}
        missing = [place for place, tile in tiles.items() if tile is None]
        if missing:
            try:
                handle = os.open(self.path / self.pictures[index].path, os.O_RDONLY)
                try:
                    for place in missing:
                        data = os.pread(handle, int(level.counts[place]), int(level.offsets[place]))
                        tile = decode_tile(data, level.tile_px, level.codec)
                        self._cache.put((index, depth, place), tile, tile.nbytes)
                        tiles[place] = tile
                finally:
                    os.close(handle)
            except (OSError, DamagedTiffError) as error:
                raise self._damaged(index, error) from None
        return [tiles[place] for place in places]

    def _damaged(self, index: int, error: Exception) -> ValueError:
        return ValueError(f"{self.path / self.pictures[index].path}: {error}; run the stage prepare again")


class _Cache:
    """Values by key, least recently used out first, `limit` bytes at most."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.size = 0
        self._values: OrderedDict[tuple[int, ...], tuple[Any, int]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: tuple[int, ...]) -> Any:
        with self._lock:
            if key not in self._values:
                return None
            self._values.move_to_end(key)
            return self._values[key][0]

    def put(self, key: tuple[int, ...], value: Any, size: int) -> None:
        with self._lock:
            if key in self._values:
                self.size -= self._values.pop(key)[1]
            self._values[key] = value, size
            self.size += size
            while self.size > self.limit:
                _, (_, gone) = self._values.popitem(last=False)
                self.size -= gone
