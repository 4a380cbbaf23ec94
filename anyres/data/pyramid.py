"""Build the prepared store: every accepted picture as a pyramidal tiled TIFF, in shards, with an index of all."""

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

from anyres.data.catalogue import SHARDS, Catalogue, CatalogueRow
from anyres.data.decode import decode, quiet_decoders
from anyres.data.scratch import Scratch
from anyres.data.shards import ByteRange, ShardReader, ShardWriter
from anyres.data.store import DATASET, IndexRow, Store, StoredFile, write_index
from anyres.data.tiff import write_pyramid
from anyres.files import write_atomic
from anyres.params import Prepare
from anyres.progress import progress_bar

__all__ = [
    "Store",
    "StoreShard",
    "StoredFile",
    "assemble_store",
    "build_shard",
    "halve",
    "plan_store",
    "prepare",
    "pyramid",
    "upload_originals",
]

# Part of the content hash: raise it when the pixels of a store change for equal parameters.
PYRAMID_VERSION = "pyramid 3: kaiser halving, sRGB of 8 bits, coarser levels unclipped in 16"
# The last level is the first with a short side of at most this: no window shows the frame in fewer pixels.
COARSEST_PX = 16
# Taps on each side and shape of the halving filter. Its pass band is flat for the windows that LEVEL_MARGIN allows.
HALF_TAPS = 16
KAISER_BETA = 6.0
# Bits after the binary point: of the taps, and of the values between the two passes.
TAP_BITS = 14
GUARD_BITS = 6
BLOCK_VALUES = 2**15
# Edges of the histogram of the short side in dataset.json, in pixels.
SHORT_SIDE_EDGES = (128, 256, 512, 1024, 2048, 4096)
# A pyramid under construction stays in memory up to this many bytes.
SPOOL_BYTES = 64 * 2**20


@dataclass(frozen=True)
class StoreShard:
    """One shard of a store: the pictures of one shard of the intake. `key` is a hash of everything that determines its bytes."""

    name: str
    key: str
    rows: tuple[CatalogueRow, ...]


def prepare(
    ingested: Path,
    params: Prepare,
    out: Path,
    scratch: Scratch | None = None,
    workers: int | None = None,
    progress: bool = True,
) -> Store:
    """Build the store of the pictures in `ingested` under `out`: the same bytes for any number of `workers`.

    Shards that exist in `scratch` (default: `out`/.scratch, removed at the end) are used from there. Returns the store.
    Raises ValueError, one line, if the catalogue is missing or a picture has changed since the intake.
    """
    catalogue = Catalogue.load(ingested)
    shards = plan_store(catalogue, params, ingested)
    is_temporary = scratch is None
    scratch = scratch or Scratch(out / ".scratch")
    workers = workers or os.cpu_count() or 1
    with progress_bar("prepare", round(_megapixels(catalogue.accepted)), "MP", progress) as advance:
        stored = [build_shard(shard, ingested, params, scratch, out / ".work", workers, advance) for shard in shards]
    store = assemble_store(catalogue, shards, stored, params, scratch, out)
    (out / ".work").rmdir()
    if is_temporary:
        scratch.keep_only("", set())
        for folder in (out / ".scratch" / "prepare", out / ".scratch"):
            folder.rmdir()
    return store


def plan_store(catalogue: Catalogue, params: Prepare, ingested: Path) -> list[StoreShard]:
    """Return the shards of the store: one for each shard of the intake that has accepted pictures."""
    if not catalogue.accepted:
        raise ValueError(f"{ingested}: no accepted picture in the catalogue; run the stage ingest with other pictures")
    groups = [tuple(rows) for _, rows in groupby(catalogue.accepted, key=lambda row: row.shard)]
    return [StoreShard(f"{index:05d}.tar", _key(rows, params), rows) for index, rows in enumerate(groups)]


def build_shard(
    shard: StoreShard,
    ingested: Path,
    params: Prepare,
    scratch: Scratch,
    work: Path,
    workers: int = 1,
    advance: Callable[[float], None] = lambda megapixels: None,
) -> list[StoredFile]:
    """Write one shard to `scratch`, unless it exists there. Return where its pictures are stored in it.

    The shard is built in the local folder `work`. Members that an interrupted build completed are reused.
    """
    key, listing_key = f"prepare/{shard.key}.tar", f"prepare/{shard.key}.json"
    work.mkdir(parents=True, exist_ok=True)
    listing = work / f"{shard.key}.json"
    if scratch.exists(key) and scratch.exists(listing_key):
        scratch.get(listing_key, listing)
        stored = [StoredFile(**values) for values in json.loads(listing.read_text(encoding="utf-8"))]
        listing.unlink()
        advance(_megapixels(shard.rows))
        return stored
    path = work / f"{shard.key}.tar"
    originals = ShardReader(_originals_folder(shard, ingested, scratch, work))
    with ShardWriter(path, resume=True) as writer, ThreadPoolExecutor(workers) as pool, quiet_decoders():
        missing = [row for row in shard.rows if _member_name(row) not in writer.completed]
        members = dict(writer.completed)
        advance(_megapixels([row for row in shard.rows if _member_name(row) in members]))
        for row, stream in _map_ahead(lambda row: _pyramid_file(row, originals, params), missing, pool, workers):
            with stream:
                size = stream.seek(0, os.SEEK_END)
                stream.seek(0)
                members[_member_name(row)] = writer.add(_member_name(row), stream, size)
            advance(_megapixels([row]))
    stored = _stored_files(path, [members[_member_name(row)] for row in shard.rows])
    listing.write_text(json.dumps([asdict(file) for file in stored]), encoding="utf-8")
    scratch.put(path, key)
    scratch.put(listing, listing_key)
    shutil.rmtree(work / shard.key, ignore_errors=True)
    return stored


def assemble_store(
    catalogue: Catalogue,
    shards: Sequence[StoreShard],
    stored: Iterable[list[StoredFile]],
    params: Prepare,
    scratch: Scratch,
    out: Path,
) -> Store:
    """Collect the shards under `out` and write the index. The store is valid once dataset.json exists."""
    digest = content_hash(catalogue.accepted, params)
    if _stored_hash(out) != digest:
        (out / DATASET).unlink(missing_ok=True)  # an incomplete folder is not a store
    index: list[IndexRow] = []
    for number, (shard, files) in enumerate(zip(shards, stored, strict=True)):
        scratch.get(f"prepare/{shard.key}.tar", out / SHARDS / shard.name)
        index += [IndexRow(row, number, file) for row, file in zip(shard.rows, files, strict=True)]
    for path in (out / SHARDS).glob("*.tar"):
        if path.name not in {shard.name for shard in shards}:
            path.unlink()
    scratch.keep_only("prepare", {f"prepare/{shard.key}.{suffix}" for shard in shards for suffix in ("tar", "json")})
    write_index(out, index)
    stats = {"hash": digest, "shards": [shard.name for shard in shards], **catalogue_stats(catalogue)}
    write_atomic(out / DATASET, (json.dumps(stats, indent=2, ensure_ascii=False) + "\n").encode())
    return Store.open(out)


def content_hash(rows: Sequence[CatalogueRow], params: Prepare) -> str:
    """Return the SHA-256 of everything that determines a store's pixels and their order."""
    settings = params.model_dump()
    if params.codec != "jpeg":
        del settings["jpeg_quality"]
    text = json.dumps([PYRAMID_VERSION, settings, [row.pixels for row in rows]], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def pyramid(pixels: np.ndarray) -> Iterator[np.ndarray]:
    """Yield a picture, uint8 (h, w, 3), then its halvings, int16 (h, w, 3), until the short side is at most COARSEST_PX."""
    yield pixels
    while min(pixels.shape[:2]) > COARSEST_PX:
        pixels = halve(pixels)
        yield pixels


def halving_taps() -> np.ndarray:
    """Return the low-pass filter of `halve`: 2 HALF_TAPS taps of a Kaiser-windowed sinc at half the sampling rate, of sum 1."""
    offsets = np.arange(-HALF_TAPS, HALF_TAPS) + 0.5
    taps = np.sinc(offsets / 2) * np.kaiser(2 * HALF_TAPS, KAISER_BETA)
    return taps / taps.sum()


def halve(pixels: np.ndarray) -> np.ndarray:
    """Halve (h, w, 3) to int16 (ceil(h/2), ceil(w/2), 3). Pixel k has its centre at 2k + 1 from the corner.

    The filter rings around stars and edges, so values may leave 0..255. They are not clipped: clipping would change every
    coarser level, by up to ten grey levels. Borders repeat the last row or column. The arithmetic uses integers, so that
    every machine gives the same bytes.
    """
    height, width, _ = pixels.shape
    # First along the rows, which are contiguous; then the same on the transpose.
    half_height = _halve_rows(pixels.reshape(height, width * 3), TAP_BITS - GUARD_BITS)
    transposed = half_height.reshape(-1, width, 3).transpose(1, 0, 2).reshape(width, -1)
    halved = _halve_rows(transposed, TAP_BITS + GUARD_BITS)
    return np.ascontiguousarray(halved.reshape(halved.shape[0], -1, 3).transpose(1, 0, 2), dtype=np.int16)


def _halve_rows(rows: np.ndarray, shift: int) -> np.ndarray:
    """Halve integers (h, n) along h to int32 (ceil(h/2), n), multiplied by 2^TAP_BITS / 2^shift and rounded."""
    count, length = rows.shape
    halves = -(-count // 2)
    margin = HALF_TAPS - 1
    taps = np.rint(halving_taps() * 2**TAP_BITS).astype(np.int32)
    taps[margin : margin + 2] += (2**TAP_BITS - taps.sum()) // 2  # the rounded taps keep constants too
    out = np.empty((halves, length), np.int32)
    # The size of a block fits the cache of a core.
    step = max(1, BLOCK_VALUES // length)
    for first in range(0, halves, step):
        last = min(first + step, halves)
        sources = np.clip(np.arange(2 * first - margin, 2 * last + margin), 0, count - 1)
        block = rows[sources].astype(np.int32)
        total = np.full((last - first, length), (1 << shift - 1) - 1, np.int32)
        for tap in range(HALF_TAPS):
            # The taps are symmetric.
            pair = block[tap : tap + 2 * (last - first) : 2] + block[2 * margin + 1 - tap :: 2][: last - first]
            pair *= taps[tap]
            total += pair
        # Round half to even: rounding up would brighten ramps from level to level.
        total += total >> shift & 1
        np.right_shift(total, shift, out=out[first:last])
    return out


def _stored_hash(out: Path) -> str:
    try:
        return Store.open(out).hash
    except ValueError:
        return ""


def _key(rows: Sequence[CatalogueRow], params: Prepare) -> str:
    originals = [[row.sha256, row.background] for row in rows]
    return hashlib.sha256(f"{content_hash(rows, params)} {json.dumps(originals)}".encode()).hexdigest()[:32]


def _member_name(row: CatalogueRow) -> str:
    return f"{row.sha256}.tif"


def upload_originals(shard: StoreShard, ingested: Path, scratch: Scratch) -> None:
    """Copy the originals of a shard to `scratch`, unless it is local, for workers that cannot read this machine's files."""
    if not scratch.is_local and not scratch.exists(f"prepare/{shard.key}.json"):
        scratch.copy(ingested / SHARDS / shard.rows[0].shard, _originals_key(shard))


def _originals_key(shard: StoreShard) -> str:
    return f"prepare/{shard.key}-original.tar"


def _originals_folder(shard: StoreShard, ingested: Path, scratch: Scratch, work: Path) -> Path:
    """Return a local folder with the shard of the originals: that of the intake, or a copy from `scratch`."""
    name = shard.rows[0].shard
    if (ingested / SHARDS / name).exists():
        return ingested / SHARDS
    if scratch.is_local or not scratch.exists(_originals_key(shard)):
        raise ValueError(f"{ingested / SHARDS / name}: no such file; run the stage ingest again")
    scratch.get(_originals_key(shard), work / shard.key / name)
    return work / shard.key


def _pyramid_file(row: CatalogueRow, originals: ShardReader, params: Prepare) -> tuple[CatalogueRow, IO[bytes]]:
    data = originals.read(row.shard, row.offset, row.size)
    if hashlib.sha256(data).hexdigest() != row.sha256:
        raise ValueError(f"{originals.folder / row.shard}: {row.name} changed since the intake; run the stage ingest again")
    pixels = decode(data, row.background, "first_frame").pixels
    stream = tempfile.SpooledTemporaryFile(SPOOL_BYTES)  # noqa: SIM115 - the caller closes it
    write_pyramid(stream, pyramid(pixels), params.tile_px, params.codec, params.jpeg_quality)
    return row, stream


def _map_ahead(
    function: Callable[[CatalogueRow], tuple[CatalogueRow, IO[bytes]]],
    rows: Sequence[CatalogueRow],
    pool: ThreadPoolExecutor,
    workers: int,
) -> Iterator[tuple[CatalogueRow, IO[bytes]]]:
    """Map in order, with at most `workers` results waiting."""
    waiting = []
    for row in rows:
        waiting.append(pool.submit(function, row))
        if len(waiting) > workers:
            yield waiting.pop(0).result()
    while waiting:
        yield waiting.pop(0).result()


def _stored_files(path: Path, members: Sequence[ByteRange]) -> list[StoredFile]:
    reader = ShardReader(path.parent)
    return [
        StoredFile(member.offset, member.size, hashlib.sha256(reader.read(path.name, member.offset, member.size)).hexdigest())
        for member in members
    ]


def _megapixels(rows: Iterable[CatalogueRow]) -> float:
    return sum(row.width * row.height for row in rows) / 1e6


def catalogue_stats(catalogue: Catalogue) -> dict[str, Any]:
    """Return the statistics in dataset.json: counts and sizes of the accepted pictures, reasons of the refused ones."""
    rows = catalogue.accepted
    short = np.array([min(row.width, row.height) for row in rows])
    edges = [0, *SHORT_SIDE_EDGES, int(max(short.max(), SHORT_SIDE_EDGES[-1])) + 1]
    counts, _ = np.histogram(short, bins=edges)
    names = [f"under_{SHORT_SIDE_EDGES[0]}", *(f"from_{edge}" for edge in SHORT_SIDE_EDGES)]
    return {
        "pictures": len(rows),
        "refused": len(catalogue.refused),
        "refused_for": catalogue.reasons(),
        "megapixels": round(_megapixels(rows), 3),
        "short_side": {
            "min": int(short.min()),
            "median": float(np.median(short)),
            "max": int(short.max()),
            "pictures": {name: int(count) for name, count in zip(names, counts, strict=True) if count},
        },
    }
