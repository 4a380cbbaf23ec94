"""The prepared store: for every accepted picture one pyramidal tiled TIFF, and an index of them all."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyvips

from anyres.data.decode import decode, quiet_decoders
from anyres.data.manifest import Manifest, Row
from anyres.data.store import DATASET, INDEX, Picture, Store
from anyres.data.tiff import write_pyramid
from anyres.files import replacing, write_atomic
from anyres.params import Prepare
from anyres.progress import progress_bar

__all__ = ["Store", "halve", "prepare", "pyramid"]

# Part of the content hash: raise it when the pixels of a store change for equal parameters.
FORMAT = "pyramid 1: lanczos3 halving, 8 bit sRGB"
# Levels end when the short side is this small: no window is coarser than a few pixels over the frame.
COARSEST_PX = 16
# Edges of the classes of the short side in dataset.json, in pixels.
CLASSES = (128, 256, 512, 1024, 2048, 4096)


def prepare(ingested: Path, params: Prepare, out: Path, progress: bool = True) -> Store:
    """Build the store of the pictures in `ingested` under `out`; equal files stay untouched. Returns the store.

    Raises ValueError, one line, where the manifest is missing or a picture has changed since the intake.
    """
    manifest = Manifest.load(ingested)
    rows = manifest.accepted
    if not rows:
        raise ValueError(f"{ingested}: no accepted picture in the manifest; run the stage ingest on some")
    digest = content_hash(rows, params)
    if _stored_hash(out) != digest:
        (out / INDEX).unlink(missing_ok=True)  # until all is there, this is no store
    megapixels = sum(row.width * row.height for row in rows) / 1e6
    kept = {out / _place(row) for row in rows}
    for path in (out / "pictures").glob("*/*"):
        if path not in kept:
            path.unlink()
    bar = progress_bar("prepare", round(megapixels), "MP", progress)
    with quiet_decoders(), ThreadPoolExecutor(os.cpu_count()) as pool, bar as advance:
        for row in pool.map(lambda row: _store_picture(ingested, row, params, out), rows):
            advance(row.width * row.height / 1e6)
    pictures = [Picture.of(row, _place(row)) for row in rows]
    index = {"hash": digest, "pictures": [picture.to_json() for picture in pictures]}
    write_atomic(out / INDEX, (json.dumps(index, indent=1, ensure_ascii=False) + "\n").encode())
    write_atomic(out / DATASET, (json.dumps(_figures(manifest, digest), indent=2, ensure_ascii=False) + "\n").encode())
    return Store.open(out)


def content_hash(rows: list[Row], params: Prepare) -> str:
    """SHA-256 of all that determines the store's pixels and their order."""
    settings = params.model_dump()
    if params.codec != "jpeg":
        del settings["jpeg_quality"]
    text = json.dumps([FORMAT, settings, [row.pixels for row in rows]], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def pyramid(pixels: np.ndarray) -> Iterator[np.ndarray]:
    """Yield a picture, uint8 (h, w, 3), and its halvings down to a short side of COARSEST_PX."""
    yield pixels
    while min(pixels.shape[:2]) > COARSEST_PX:
        pixels = halve(pixels)
        yield pixels


def halve(pixels: np.ndarray) -> np.ndarray:
    """Halve uint8 (h, w, 3) by Lanczos-3 to (ceil(h/2), ceil(w/2), 3): pixel k has its centre at 2k + 1 from the corner.

    Odd sides are first made even by repeating the last row or column. In float: between its two passes libvips
    would clip 8 bits, which costs up to 16 levels.
    """
    height, width, _ = pixels.shape
    image = pyvips.Image.new_from_array(np.ascontiguousarray(pixels))
    image = image.embed(0, 0, width + width % 2, height + height % 2, extend="copy")
    return image.cast("float").reduce(2, 2, kernel="lanczos3").rint().cast("uchar").numpy()


def _stored_hash(out: Path) -> str:
    try:
        return Store.open(out).hash
    except ValueError:
        return ""


def _place(row: Row) -> str:
    return f"pictures/{row.sha256[:2]}/{row.sha256}.tif"


def _store_picture(ingested: Path, row: Row, params: Prepare, out: Path) -> Row:
    path = out / _place(row)
    data = (ingested / row.path).read_bytes()
    if hashlib.sha256(data).hexdigest() != row.sha256:
        raise ValueError(f"{ingested / row.path}: changed since the intake; run the stage ingest again")
    pixels = decode(data, row.background, "first_frame").pixels
    with replacing(path) as stream:
        write_pyramid(stream, pyramid(pixels), params.tile_px, params.codec, params.jpeg_quality)
    return row


def _figures(manifest: Manifest, digest: str) -> dict[str, Any]:
    """What dataset.json says of the set."""
    rows = manifest.accepted
    short = np.array([min(row.width, row.height) for row in rows])
    edges = [0, *CLASSES, int(max(short.max(), CLASSES[-1])) + 1]
    counts, _ = np.histogram(short, bins=edges)
    names = [f"under_{CLASSES[0]}", *(f"from_{edge}" for edge in CLASSES)]
    return {
        "hash": digest,
        "pictures": len(rows),
        "refused": len(manifest.refused),
        "refused_for": manifest.reasons(),
        "megapixels": round(sum(row.width * row.height for row in rows) / 1e6, 3),
        "short_side": {
            "min": int(short.min()),
            "median": float(np.median(short)),
            "max": int(short.max()),
            "pictures": {name: int(count) for name, count in zip(names, counts, strict=True) if count},
        },
    }
