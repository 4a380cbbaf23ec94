"""Read windows of stored pictures; only the tiles under a window are decoded."""

from __future__ import annotations

import hashlib
import json
import math
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, overload

import numpy as np

from anyres.data.catalogue import SHARDS, CatalogueRow, credit_line
from anyres.data.shards import ShardReader
from anyres.data.tiff import DamagedTiffError, Level, decode_tile, read_levels
from anyres.files import atomic_file, write_atomic
from anyres.plane.chart import Chart
from anyres.plane.resample import FRAME, PERIOD_SLACK, footprint, resample
from anyres.plane.window import Window

INDEX = "index.npy"
CREDITS = "pictures.jsonl"
DATASET = "dataset.json"
DEFAULT_CACHE_BYTES = 768 * 2**20
# A window is read from a level that is finer than the window by at least this factor. The halving filter is flat there,
# so the result equals that of the native picture to 1/255.
LEVEL_MARGIN = 1.5
# Pixels at each end of a level's rows that depend on the border: halving does not wrap.
SEAM_MARGIN_PX = 16
# A row of the index. `text` and `text_size` are the offset and size of its line in CREDITS.
ENTRY = np.dtype(
    [
        ("shard", "<u4"),
        ("width", "<u4"),
        ("height", "<u4"),
        ("text_size", "<u4"),
        ("offset", "<u8"),
        ("size", "<u8"),
        ("text", "<u8"),
        ("sha256", "u1", 32),
    ]
)


@dataclass(frozen=True)
class PictureSize:
    """The size of a picture in native pixels."""

    width: int
    height: int

    @property
    def short_side(self) -> int:
        return min(self.width, self.height)

    @property
    def aspect(self) -> float:
        """Width / height."""
        return self.width / self.height

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)."""
        return self.height, self.width

    @property
    def period(self) -> float:
        """Native period on the frame chart, in plane units per pixel."""
        return FRAME.native_period(self.size)

    @property
    def half_extent(self) -> tuple[float, float]:
        """(half width, half height) on the frame chart, in plane units."""
        return FRAME.half_extent_of(self.size)


@dataclass(frozen=True)
class Picture(PictureSize):
    """One picture of a store, with the credits from its source."""

    id: str
    name: str
    sha256: str  # of the original file
    author: str
    licence: str
    page: str

    @property
    def credits(self) -> str:
        """Name, author and licence in one line."""
        return credit_line(self.name, self.author, self.licence)


class Pictures(Sequence[Picture]):
    """The pictures of a store. Each is read on access, so the time to open a store does not depend on its size."""

    def __init__(self, index: np.ndarray, credits_file: Path) -> None:
        self._index = index
        self._credits_file = credits_file

    @property
    def sizes(self) -> np.ndarray:
        """Native (height, width) of each picture, int64 (n, 2)."""
        return np.stack([self._index["height"], self._index["width"]], axis=1).astype(np.int64)

    def __len__(self) -> int:
        return len(self._index)

    @overload
    def __getitem__(self, index: int) -> Picture: ...
    @overload
    def __getitem__(self, index: slice) -> list[Picture]: ...
    def __getitem__(self, index: int | slice) -> Picture | list[Picture]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        entry = self._index[index]
        with self._credits_file.open("rb") as stream:
            stream.seek(int(entry["text"]))
            text = json.loads(stream.read(int(entry["text_size"])))
        return Picture(int(entry["width"]), int(entry["height"]), **text)


@dataclass(frozen=True)
class StoredFile:
    """The position of a picture's file in its shard, and its SHA-256."""

    offset: int
    size: int
    sha256: str


@dataclass(frozen=True)
class IndexRow:
    """A picture of a store: its row of the catalogue, the number of its shard, its file there."""

    picture: CatalogueRow
    shard: int
    file: StoredFile


def write_index(folder: Path, rows: Iterable[IndexRow]) -> None:
    """Write the index of a store and the file of its credits."""
    entries, lines, position = [], [], 0
    for row in rows:
        picture, file = row.picture, row.file
        text = {name: getattr(picture, name) for name in ("id", "name", "sha256", "author", "licence", "page")}
        line = json.dumps(text, ensure_ascii=False).encode() + b"\n"
        digest = list(bytes.fromhex(file.sha256))
        entries.append((row.shard, picture.width, picture.height, len(line), file.offset, file.size, position, digest))
        lines.append(line)
        position += len(line)
    write_atomic(folder / CREDITS, b"".join(lines))
    with atomic_file(folder / INDEX) as stream:
        np.save(stream, np.array(entries, ENTRY))


class Store:
    """Pictures at every resolution. Threads may share it. `cache_bytes` limits the cache of decoded tiles."""

    def __init__(self, path: Path, stats: dict[str, Any], index: np.ndarray, cache_bytes: int) -> None:
        self.path = path
        self.stats = stats  # the contents of dataset.json
        self.hash: str = stats["hash"]
        self.pictures = Pictures(index, path / CREDITS)
        self._index = index
        self._shards: list[str] = stats["shards"]
        self._reader = ShardReader(path / SHARDS)
        self._cache = _TileCache(cache_bytes)

    @classmethod
    def open(cls, path: str | Path, cache_bytes: int = DEFAULT_CACHE_BYTES) -> Store:
        """Open the store that `prepare` wrote. Raises ValueError, one line, if it is missing or damaged."""
        path = Path(path)
        try:
            stats = json.loads((path / DATASET).read_text(encoding="utf-8"))
            index = np.load(path / INDEX, mmap_mode="r")
            if index.dtype != ENTRY:
                raise ValueError("the index has another format")
            return cls(path, stats, index, cache_bytes)
        except FileNotFoundError as error:
            raise ValueError(f"{error.filename}: no such file; run the stage prepare first") from None
        except (json.JSONDecodeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path}: damaged ({error}); run the stage prepare again") from None

    def __len__(self) -> int:
        return len(self.pictures)

    def frame(self, index: int) -> PictureSize:
        """Return the size of picture `index`, without reading its credits."""
        entry = self._index[index]
        return PictureSize(int(entry["width"]), int(entry["height"]))

    def damaged(self) -> Iterator[str | None]:
        """Read every picture's file completely. Yield None for an intact one, else the damage in one line."""
        for number, entry in enumerate(self._index):
            shard = self._shards[entry["shard"]]
            try:
                data = self._reader.read(shard, int(entry["offset"]), int(entry["size"]))
            except OSError as error:
                yield f"{self.path / SHARDS / shard}: {error.strerror}"
                continue
            is_intact = hashlib.sha256(data).digest() == entry["sha256"].tobytes()
            yield None if is_intact else f"{self.path / SHARDS / shard}: {self.pictures[number].name} is damaged"

    def read(self, index: int, window: Window, chart: Chart = FRAME) -> np.ndarray:
        """Return picture `index` at a window, as `render_real` would: float32 (h, w, 3) in 0..255.

        `chart` is that of the picture, with its centre at 0. A picture that closes a cylinder wraps. The pixels come from the
        coarsest level that is finer than the window by LEVEL_MARGIN, or from the native level. The kernel has negative lobes,
        so values may leave 0..255 slightly. Raises ValueError if the window is finer than the picture, if it leaves the
        picture's frame, or if the stored file is damaged.
        """
        picture = self.frame(index)
        native = chart.native_period(picture.size)
        if window.period < native * (1 - PERIOD_SLACK):
            name = self.pictures[index].name
            raise ValueError(f"window period {window.period:g} is finer than the {native:g} of {name}; the store never upsamples")
        half_width, half_height = chart.half_extent_of(picture.size)
        corner = (-half_width, -half_height)
        levels = self._levels(index)
        finer = math.floor(math.log2(window.period / native / LEVEL_MARGIN))
        depth = min(max(finer, 0), len(levels) - 1)
        period = native * 2**depth
        chart.picture_chart(picture.size).check(window)
        if chart.closes(picture.size):
            x, y = window.center
            window = Window((chart.wrap(x), y), window.period, window.size)
            _, left, _, right = footprint(window, corner, period, levels[depth].size, clip=False)
            if left < SEAM_MARGIN_PX or right > picture.width // 2**depth - SEAM_MARGIN_PX:
                # A kernel across the seam needs both ends of a row, and halving does not wrap: read complete native rows.
                top, _, bottom, _ = self._padded_footprint(window, corner, native, levels[0])
                rows = self._pixels(index, levels, 0, (top, 0, bottom, picture.width))
                return resample(rows, window, (corner[0], corner[1] + top * native), native, wraps=True)
        top, left, bottom, right = self._padded_footprint(window, corner, period, levels[depth])
        pixels = self._pixels(index, levels, depth, (top, left, bottom, right))
        # If a side is odd, the last pixel of the coarser levels extends beyond the picture.
        extent = picture.height / 2**depth - top, picture.width / 2**depth - left
        return resample(pixels, window, (corner[0] + left * period, corner[1] + top * period), period, extent=extent)

    @staticmethod
    def _padded_footprint(window: Window, corner: tuple[float, float], period: float, level: Level) -> tuple[int, int, int, int]:
        """Return the kernel's footprint plus one pixel, so that `resample` cuts the kernel only at the borders of the picture."""
        top, left, bottom, right = footprint(window, corner, period, level.size)
        return max(top - 1, 0), max(left - 1, 0), min(bottom + 1, level.size[0]), min(right + 1, level.size[1])

    def _levels(self, index: int) -> list[Level]:
        levels = self._cache.get((index,))
        if levels is None:
            entry = self._index[index]
            read = partial(self._reader.read, self._shards[entry["shard"]])
            try:
                levels = read_levels(read, int(entry["offset"]), int(entry["size"]))
            except (OSError, DamagedTiffError) as error:
                raise self._damaged(index, error) from None
            self._cache.put((index,), levels, sum(level.offsets.nbytes + level.counts.nbytes for level in levels))
        return levels

    def _pixels(self, index: int, levels: list[Level], depth: int, region: tuple[int, int, int, int]) -> np.ndarray:
        """Return the region (top, left, bottom, right) of a level, float32 (h, w, 3)."""
        top, left, bottom, right = region
        level = levels[depth]
        side = level.tile_px
        rows, columns = range(top // side, (bottom - 1) // side + 1), range(left // side, (right - 1) // side + 1)
        positions = [(row, column) for row in rows for column in columns]
        tiles = self._tiles(index, level, depth, [row * level.across + column for row, column in positions])
        pixels = np.empty((bottom - top, right - left, 3), np.float32)  # the type that `resample` uses
        for (row, column), tile in zip(positions, tiles, strict=True):
            y, x = row * side - top, column * side - left
            above, before = max(-y, 0), max(-x, 0)
            target = pixels[max(y, 0) : y + side, max(x, 0) : x + side]
            target[:] = tile[above : above + target.shape[0], before : before + target.shape[1]]
        return pixels

    def _tiles(self, index: int, level: Level, depth: int, numbers: list[int]) -> list[np.ndarray]:
        """Return tiles of a level, (t, t, 3) each, by number in row order; decoded, or from the cache."""
        tiles = {number: self._cache.get((index, depth, number)) for number in numbers}
        shard = self._shards[self._index[index]["shard"]]
        try:
            for number, tile in tiles.items():
                if tile is None:
                    data = self._reader.read(shard, int(level.offsets[number]), int(level.counts[number]))
                    tile = tiles[number] = decode_tile(data, level)
                    self._cache.put((index, depth, number), tile, tile.nbytes)
        except (OSError, DamagedTiffError) as error:
            raise self._damaged(index, error) from None
        return [tiles[number] for number in numbers]

    def _damaged(self, index: int, error: Exception) -> ValueError:
        path = self.path / SHARDS / self._shards[self._index[index]["shard"]]
        return ValueError(f"{path}: {self.pictures[index].name}: {error}; run the stage prepare again")


class _TileCache:
    """A least-recently-used cache of at most `limit` bytes."""

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
                _, (_, evicted_size) = self._values.popitem(last=False)
                self.size -= evicted_size
