"""Read patches of stored pictures, decoding only the tiles under them."""

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

from anyres.data.catalogue import SHARDS, Row, credit_line
from anyres.data.shards import ShardReader
from anyres.data.tiff import DamagedTiffError, Level, decode_tile, read_levels
from anyres.files import replacing, write_atomic
from anyres.plane.chart import Chart
from anyres.plane.resample import FRAME, PERIOD_SLACK, footprint, resample
from anyres.plane.window import Window

INDEX = "index.npy"
CREDITS = "pictures.jsonl"
DATASET = "dataset.json"
DEFAULT_CACHE_BYTES = 768 * 2**20
# A level serves windows at least this much coarser than itself: with its halving filter flat up to there, a window is
# that of the native picture to 1/255.
LEVEL_MARGIN = 1.5
# Pixels beside the ends of a level's rows that halving, which does not wrap, has touched.
SEAM_REACH = 16
# A row of the index; `text` and `text_size` say where in CREDITS its line stands.
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
class Frame:
    """The geometry of a picture; sizes in native pixels."""

    width: int
    height: int

    @property
    def short_side(self) -> int:
        return min(self.width, self.height)

    @property
    def aspect(self) -> float:
        """Width over height."""
        return self.width / self.height

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.height, self.width

    @property
    def period(self) -> float:
        """Native period, plane units per pixel, on a frame."""
        return FRAME.native_period(self.size)

    @property
    def half_extent(self) -> tuple[float, float]:
        """Half width and half height in plane units, on a frame."""
        return FRAME.half_extent_of(self.size)


@dataclass(frozen=True)
class Picture(Frame):
    """One picture of a store, with its credits as the source states them."""

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
    """The pictures of a store, each made when asked for: opening a million costs what opening one does."""

    def __init__(self, index: np.ndarray, texts: Path) -> None:
        self._index = index
        self._texts = texts

    @property
    def sizes(self) -> np.ndarray:
        """Native (height, width) of each, int64 (n, 2)."""
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
        with self._texts.open("rb") as stream:
            stream.seek(int(entry["text"]))
            text = json.loads(stream.read(int(entry["text_size"])))
        return Picture(int(entry["width"]), int(entry["height"]), **text)


def write_index(folder: Path, pictures: Iterable[tuple[Row, int, int, int, str]]) -> None:
    """Write the index of pictures given as (row, number of the shard, offset, size, SHA-256 of the stored file)."""
    entries, lines, at = [], [], 0
    for row, shard, offset, size, digest in pictures:
        text = {name: getattr(row, name) for name in ("id", "name", "sha256", "author", "licence", "page")}
        line = json.dumps(text, ensure_ascii=False).encode() + b"\n"
        entries.append((shard, row.width, row.height, len(line), offset, size, at, list(bytes.fromhex(digest))))
        lines.append(line)
        at += len(line)
    write_atomic(folder / CREDITS, b"".join(lines))
    with replacing(folder / INDEX) as stream:
        np.save(stream, np.array(entries, ENTRY))


class Store:
    """Pictures at every resolution. Safe to share between threads; `cache_bytes` bounds the decoded tiles it keeps."""

    def __init__(self, path: Path, stats: dict[str, Any], index: np.ndarray, cache_bytes: int) -> None:
        self.path = path
        self.stats = stats  # the contents of dataset.json
        self.hash: str = stats["hash"]
        self.pictures = Pictures(index, path / CREDITS)
        self._index = index
        self._shards: list[str] = stats["shards"]
        self._reader = ShardReader(path / SHARDS)
        self._cache = _Cache(cache_bytes)

    @classmethod
    def open(cls, path: str | Path, cache_bytes: int = DEFAULT_CACHE_BYTES) -> Store:
        """Open the store that `prepare` wrote, in milliseconds whatever its size. Raises ValueError, one line."""
        path = Path(path)
        try:
            stats = json.loads((path / DATASET).read_text(encoding="utf-8"))
            index = np.load(path / INDEX, mmap_mode="r")
            if index.dtype != ENTRY:
                raise ValueError("another format of index")
            return cls(path, stats, index, cache_bytes)
        except FileNotFoundError as error:
            raise ValueError(f"{error.filename}: no such file; run the stage prepare first") from None
        except (json.JSONDecodeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path}: damaged ({error}); run the stage prepare again") from None

    def __len__(self) -> int:
        return len(self.pictures)

    def frame(self, index: int) -> Frame:
        """The geometry of picture `index`, without its credits."""
        entry = self._index[index]
        return Frame(int(entry["width"]), int(entry["height"]))

    def damaged(self) -> Iterator[str | None]:
        """Read every picture's file whole; yield None for a sound one, else what is wrong, in one line."""
        for number, entry in enumerate(self._index):
            shard = self._shards[entry["shard"]]
            try:
                data = self._reader.read(shard, int(entry["offset"]), int(entry["size"]))
            except OSError as error:
                yield f"{self.path / SHARDS / shard}: {error.strerror}"
                continue
            sound = hashlib.sha256(data).digest() == entry["sha256"].tobytes()
            yield None if sound else f"{self.path / SHARDS / shard}: {self.pictures[number].name} is damaged"

    def read(self, index: int, window: Window, chart: Chart = FRAME) -> np.ndarray:
        """Return picture `index` at a window as `render_real` would, float32 (h, w, 3) in 0..255.

        `chart` is the picture's own, its centre at 0: one that closes a cylinder wraps. From the coarsest level finer than
        the window by LEVEL_MARGIN, or the native one. Kernels have negative lobes: values may leave 0..255 slightly. Raises
        ValueError where the window is finer than the picture or leaves its frame, or the stored file is damaged.
        """
        picture = self.frame(index)
        native = chart.native_period(picture.size)
        if window.period < native * (1 - PERIOD_SLACK):
            name = self.pictures[index].name
            raise ValueError(f"window period {window.period:g} is finer than the {native:g} of {name}; this never upsamples")
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
            if left < SEAM_REACH or right > picture.width // 2**depth - SEAM_REACH:
                # A kernel over the seam needs both ends of a row, and halving does not wrap: whole rows, native.
                top, _, bottom, _ = self._reach(window, corner, native, levels[0])
                rows = self._pixels(index, levels, 0, (top, 0, bottom, picture.width))
                return resample(rows, window, (corner[0], corner[1] + top * native), native, wraps=True)
        top, left, bottom, right = self._reach(window, corner, period, levels[depth])
        pixels = self._pixels(index, levels, depth, (top, left, bottom, right))
        # Of an odd side the coarser levels' last pixel reaches beyond the picture.
        extent = picture.height / 2**depth - top, picture.width / 2**depth - left
        return resample(pixels, window, (corner[0] + left * period, corner[1] + top * period), period, extent=extent)

    @staticmethod
    def _reach(window: Window, corner: tuple[float, float], period: float, level: Level) -> tuple[int, int, int, int]:
        """The kernel's footprint and one pixel more, so that `resample` sees a cut kernel at true borders only."""
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
        """Pixels (top, left, bottom, right) of a level, float32 (h, w, 3)."""
        top, left, bottom, right = region
        level = levels[depth]
        side = level.tile_px
        rows, columns = range(top // side, (bottom - 1) // side + 1), range(left // side, (right - 1) // side + 1)
        places = [(row, column) for row in rows for column in columns]
        tiles = self._tiles(index, level, depth, [row * level.across + column for row, column in places])
        pixels = np.empty((bottom - top, right - left, 3), np.float32)  # as the resampler works
        for (row, column), tile in zip(places, tiles, strict=True):
            y, x = row * side - top, column * side - left
            above, before = max(-y, 0), max(-x, 0)
            part = pixels[max(y, 0) : y + side, max(x, 0) : x + side]
            part[:] = tile[above : above + part.shape[0], before : before + part.shape[1]]
        return pixels

    def _tiles(self, index: int, level: Level, depth: int, places: list[int]) -> list[np.ndarray]:
        """Decoded tiles of a level, (t, t, 3) each, from the cache where they are there."""
        tiles = {place: self._cache.get((index, depth, place)) for place in places}
        shard = self._shards[self._index[index]["shard"]]
        try:
            for place, tile in tiles.items():
                if tile is None:
                    data = self._reader.read(shard, int(level.offsets[place]), int(level.counts[place]))
                    tile = tiles[place] = decode_tile(data, level)
                    self._cache.put((index, depth, place), tile, tile.nbytes)
        except (OSError, DamagedTiffError) as error:
            raise self._damaged(index, error) from None
        return [tiles[place] for place in places]

    def _damaged(self, index: int, error: Exception) -> ValueError:
        place = self.path / SHARDS / self._shards[self._index[index]["shard"]]
        return ValueError(f"{place}: {self.pictures[index].name}: {error}; run the stage prepare again")


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
