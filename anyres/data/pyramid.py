"""The prepared store: every accepted picture as a pyramidal tiled TIFF, many of them in each shard, and an index of them all."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import IO, Any

import numpy as np

from anyres.data.catalogue import SHARDS, Catalogue, Row
from anyres.data.decode import decode, quiet_decoders
from anyres.data.scratch import Scratch
from anyres.data.shards import Place, ShardReader, ShardWriter
from anyres.data.store import DATASET, Store, write_index
from anyres.data.tiff import write_pyramid
from anyres.files import write_atomic
from anyres.params import Prepare
from anyres.progress import progress_bar

__all__ = ["Build", "Store", "Stored", "assemble", "build", "halve", "lend", "plan", "prepare", "pyramid"]

# Part of the content hash: raise it when the pixels of a store change for equal parameters.
FORMAT = "pyramid 3: kaiser halving, sRGB of 8 bits, coarser levels unclipped in 16"
# Levels end when the short side is this small: no window is coarser than a few pixels over the frame.
COARSEST_PX = 16
# Taps on each side and shape of the halving filter: its pass band is flat where LEVEL_MARGIN lets windows read.
HALF_TAPS = 16
KAISER_BETA = 6.0
# Fixed point: of the taps, and of values between the two passes.
TAP_BITS = 14
GUARD_BITS = 6
BLOCK_VALUES = 2**15
# Edges of the classes of the short side in dataset.json, in pixels.
CLASSES = (128, 256, 512, 1024, 2048, 4096)
# A pyramid under construction stays in memory up to so many bytes.
SPOOL_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Build:
    """One shard of a store: the pictures of one shard of the intake. `key` names all that determines its bytes."""

    name: str
    key: str
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Stored:
    """Where a picture lies in its shard, and the SHA-256 of its file."""

    offset: int
    size: int
    sha256: str


def prepare(
    ingested: Path,
    params: Prepare,
    out: Path,
    scratch: Scratch | None = None,
    workers: int | None = None,
    progress: bool = True,
) -> Store:
    """Build the store of the pictures in `ingested` under `out`: the same bytes for any number of `workers`.

    Shards found in `scratch` (default: `out`/.scratch, removed at the end) are taken from there. Returns the store.
    Raises ValueError, one line, where the catalogue is missing or a picture has changed since the intake.
    """
    found = Catalogue.load(ingested)
    builds = plan(found, params, ingested)
    own = scratch is None
    place = Scratch(out / ".scratch") if scratch is None else scratch
    megapixels = sum(row.width * row.height for row in found.accepted) / 1e6
    with progress_bar("prepare", round(megapixels), "MP", progress) as advance:
        stored = [build(item, ingested, params, place, out / ".work", workers or os.cpu_count() or 1, advance) for item in builds]
    store = assemble(found, builds, stored, params, place, out)
    (out / ".work").rmdir()
    if own:
        place.keep_only("", set())
        for folder in (out / ".scratch" / "prepare", out / ".scratch"):
            folder.rmdir()
    return store


def plan(found: Catalogue, params: Prepare, ingested: Path) -> list[Build]:
    """Return the shards of the store: those of the intake, as far as they hold accepted pictures."""
    if not found.accepted:
        raise ValueError(f"{ingested}: no accepted picture in the catalogue; run the stage ingest on some")
    groups = [tuple(rows) for _, rows in groupby(found.accepted, key=lambda row: row.shard)]
    return [Build(f"{index:05d}.tar", _key(rows, params), rows) for index, rows in enumerate(groups)]


def build(
    item: Build,
    ingested: Path,
    params: Prepare,
    scratch: Scratch,
    work: Path,
    workers: int = 1,
    advance: Callable[[float], None] = lambda megapixels: None,
) -> list[Stored]:
    """Write one shard to `scratch`, unless it is there, and return where its pictures lie in it.

    It grows in the local folder `work`: what an interrupted build completed stays.
    """
    key, listing = f"prepare/{item.key}.tar", f"prepare/{item.key}.json"
    work.mkdir(parents=True, exist_ok=True)
    local = work / f"{item.key}.json"
    if scratch.exists(key) and scratch.exists(listing):
        scratch.get(listing, local)
        stored = [Stored(**values) for values in json.loads(local.read_text(encoding="utf-8"))]
        local.unlink()
        advance(sum(row.width * row.height for row in item.rows) / 1e6)
        return stored
    path = work / f"{item.key}.tar"
    originals = ShardReader(_originals(item, ingested, scratch, work))
    with ShardWriter(path, resume=True) as shard, ThreadPoolExecutor(workers) as pool, quiet_decoders():
        missing = [row for row in item.rows if _member(row) not in shard.found]
        places = dict(shard.found)
        advance(sum(row.width * row.height for row in item.rows if _member(row) in shard.found) / 1e6)
        for row, stream in _ahead(lambda row: _pyramid_file(row, originals, params), missing, pool, workers):
            with stream:
                size = stream.seek(0, os.SEEK_END)
                stream.seek(0)
                places[_member(row)] = shard.add(_member(row), stream, size)
            advance(row.width * row.height / 1e6)
    stored = _digests(path, [places[_member(row)] for row in item.rows])
    local.write_text(json.dumps([asdict(each) for each in stored]), encoding="utf-8")
    scratch.put(path, key)
    scratch.put(local, listing)
    shutil.rmtree(work / item.key, ignore_errors=True)
    return stored


def assemble(
    found: Catalogue, builds: Sequence[Build], stored: Iterable[list[Stored]], params: Prepare, scratch: Scratch, out: Path
) -> Store:
    """Bring the shards together under `out` and write the index: the store exists when that is there."""
    digest = content_hash(found.accepted, params)
    if _stored_hash(out) != digest:
        (out / DATASET).unlink(missing_ok=True)  # until all is there, this is no store
    pictures: list[tuple[Row, int, Stored]] = []
    for index, (item, places) in enumerate(zip(builds, stored, strict=True)):
        scratch.get(f"prepare/{item.key}.tar", out / SHARDS / item.name)
        pictures += [(row, index, place) for row, place in zip(item.rows, places, strict=True)]
    for path in (out / SHARDS).glob("*.tar"):
        if path.name not in {item.name for item in builds}:
            path.unlink()
    scratch.keep_only("prepare", {f"prepare/{item.key}.{suffix}" for item in builds for suffix in ("tar", "json")})
    write_index(out, [(row, shard, place.offset, place.size, place.sha256) for row, shard, place in pictures])
    stats = {"hash": digest, "shards": [item.name for item in builds], **figures_of(found)}
    write_atomic(out / DATASET, (json.dumps(stats, indent=2, ensure_ascii=False) + "\n").encode())
    return Store.open(out)


def content_hash(rows: Sequence[Row], params: Prepare) -> str:
    """SHA-256 of all that determines a store's pixels and their order."""
    settings = params.model_dump()
    if params.codec != "jpeg":
        del settings["jpeg_quality"]
    text = json.dumps([FORMAT, settings, [row.pixels for row in rows]], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def pyramid(pixels: np.ndarray) -> Iterator[np.ndarray]:
    """Yield a picture, uint8 (h, w, 3), and its halvings down to a short side of COARSEST_PX, int16 (h, w, 3)."""
    yield pixels
    while min(pixels.shape[:2]) > COARSEST_PX:
        pixels = halve(pixels)
        yield pixels


def halving_taps() -> np.ndarray:
    """The low pass of `halve`: 2 HALF_TAPS taps of a sinc at half the sampling rate under a Kaiser window, of sum 1."""
    offsets = np.arange(-HALF_TAPS, HALF_TAPS) + 0.5
    taps = np.sinc(offsets / 2) * np.kaiser(2 * HALF_TAPS, KAISER_BETA)
    return taps / taps.sum()


def halve(pixels: np.ndarray) -> np.ndarray:
    """Halve (h, w, 3) to int16 (ceil(h/2), ceil(w/2), 3): pixel k has its centre at 2k + 1 from the corner.

    Values beyond 0..255, where the filter rings around stars and edges, stay: cut off, they would shine through
    every coarser picture, by up to ten grey levels. Borders repeat the last row or column. In whole numbers, so that
    every machine gives the same bytes.
    """
    height, width, _ = pixels.shape
    # Down the rows, which lie in one piece; then the same on the transpose.
    down = _halve_rows(pixels.reshape(height, width * 3), TAP_BITS - GUARD_BITS)
    turned = down.reshape(-1, width, 3).transpose(1, 0, 2).reshape(width, -1)
    across = _halve_rows(turned, TAP_BITS + GUARD_BITS)
    return np.ascontiguousarray(across.reshape(across.shape[0], -1, 3).transpose(1, 0, 2), dtype=np.int16)


def _halve_rows(rows: np.ndarray, shift: int) -> np.ndarray:
    """Halve integers (h, n) along h to int32 (ceil(h/2), n), times 2^TAP_BITS and divided by 2^shift, rounded."""
    count, length = rows.shape
    halves = -(-count // 2)
    margin = HALF_TAPS - 1
    taps = np.rint(halving_taps() * 2**TAP_BITS).astype(np.int32)
    taps[margin : margin + 2] += (2**TAP_BITS - taps.sum()) // 2  # whole numbers too keep constants
    out = np.empty((halves, length), np.int32)
    # Blocks that stay in a core's cache.
    step = max(1, BLOCK_VALUES // length)
    for first in range(0, halves, step):
        last = min(first + step, halves)
        reach = np.clip(np.arange(2 * first - margin, 2 * last + margin), 0, count - 1)
        block = rows[reach].astype(np.int32)
        total = np.full((last - first, length), (1 << shift - 1) - 1, np.int32)
        for tap in range(HALF_TAPS):
            # The taps are symmetric.
            pair = block[tap : tap + 2 * (last - first) : 2] + block[2 * margin + 1 - tap :: 2][: last - first]
            pair *= taps[tap]
            total += pair
        # Halves to even: rounded up, ramps would brighten from level to level.
        total += total >> shift & 1
        np.right_shift(total, shift, out=out[first:last])
    return out


def _stored_hash(out: Path) -> str:
    try:
        return Store.open(out).hash
    except ValueError:
        return ""


def _key(rows: Sequence[Row], params: Prepare) -> str:
    decoding = [[row.sha256, row.background] for row in rows]
    return hashlib.sha256(f"{content_hash(rows, params)} {json.dumps(decoding)}".encode()).hexdigest()[:32]


def _member(row: Row) -> str:
    return f"{row.sha256}.tif"


def lend(item: Build, ingested: Path, scratch: Scratch) -> None:
    """Put the originals of a shard where a worker without this machine's files finds them."""
    if not scratch.is_local and not scratch.exists(f"prepare/{item.key}.json"):
        scratch.copy(ingested / SHARDS / item.rows[0].shard, _original(item))


def _original(item: Build) -> str:
    return f"prepare/{item.key}-original.tar"


def _originals(item: Build, ingested: Path, scratch: Scratch, work: Path) -> Path:
    """Return a local folder that holds the originals' shard: the intake's, or a copy out of `scratch`."""
    name = item.rows[0].shard
    if (ingested / SHARDS / name).exists():
        return ingested / SHARDS
    if scratch.is_local or not scratch.exists(_original(item)):
        raise ValueError(f"{ingested / SHARDS / name}: no such file; run the stage ingest again")
    scratch.get(_original(item), work / item.key / name)
    return work / item.key


def _pyramid_file(row: Row, originals: ShardReader, params: Prepare) -> tuple[Row, IO[bytes]]:
    data = originals.read(row.shard, row.offset, row.size)
    if hashlib.sha256(data).hexdigest() != row.sha256:
        raise ValueError(f"{originals.folder / row.shard}: {row.name} changed since the intake; run the stage ingest again")
    pixels = decode(data, row.background, "first_frame").pixels
    stream = tempfile.SpooledTemporaryFile(SPOOL_BYTES)  # noqa: SIM115 - closed by whom it is handed to
    write_pyramid(stream, pyramid(pixels), params.tile_px, params.codec, params.jpeg_quality)  # type: ignore[arg-type]
    return row, stream


def _ahead(
    function: Callable[[Row], tuple[Row, IO[bytes]]], rows: Sequence[Row], pool: ThreadPoolExecutor, workers: int
) -> Iterator[tuple[Row, IO[bytes]]]:
    """Map in order; finished pyramids wait for their turn, a few at most."""
    waiting = []
    for row in rows:
        waiting.append(pool.submit(function, row))
        if len(waiting) > workers:
            yield waiting.pop(0).result()
    while waiting:
        yield waiting.pop(0).result()


def _digests(path: Path, places: Sequence[Place]) -> list[Stored]:
    reader = ShardReader(path.parent)
    return [
        Stored(place.offset, place.size, hashlib.sha256(reader.read(path.name, place.offset, place.size)).hexdigest())
        for place in places
    ]


def figures_of(found: Catalogue) -> dict[str, Any]:
    """Counts and sizes of the accepted pictures, reasons of the others: what dataset.json says of a set."""
    rows = found.accepted
    short = np.array([min(row.width, row.height) for row in rows])
    edges = [0, *CLASSES, int(max(short.max(), CLASSES[-1])) + 1]
    counts, _ = np.histogram(short, bins=edges)
    names = [f"under_{CLASSES[0]}", *(f"from_{edge}" for edge in CLASSES)]
    return {
        "pictures": len(rows),
        "refused": len(found.refused),
        "refused_for": found.reasons(),
        "megapixels": round(sum(row.width * row.height for row in rows) / 1e6, 3),
        "short_side": {
            "min": int(short.min()),
            "median": float(np.median(short)),
            "max": int(short.max()),
            "pictures": {name: int(count) for name, count in zip(names, counts, strict=True) if count},
        },
    }
