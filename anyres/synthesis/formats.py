"""File formats for large pictures. Each is written from a canvas on disk, a tile or a few rows at a time."""

from __future__ import annotations

import importlib.util
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tifffile

from anyres.plane.tiling import Tile, plan
from anyres.synthesis.canvas import Canvas, Pixels
from anyres.version import __version__

# The sides of TIFF tiles are multiples of TIFF_STEP pixels, and at most TIFF_LARGEST, which viewers handle well.
TIFF_STEP, TIFF_LARGEST = 16, 512
# Compression takes most of the time of writing; higher levels gain little on photographs.
DEFLATE_LEVEL = 4
# Quality of the JPEG tiles of a Deep Zoom picture, without chroma subsampling.
JPEG_QUALITY = 90


class Format(NamedTuple):
    """`write(canvas, out, tile, about)` writes `out` and its files: at most `share` times the size of raw pixels."""

    write: Callable[[Canvas, Path, int, Mapping[str, Any]], None]
    share: float


def format_of(path: Path) -> Format:
    """Return the format for the suffix of a file. Raises ValueError, one line, if it cannot be written there."""
    file_format = FORMATS.get(path.suffix.lower())
    if file_format is None:
        raise ValueError(f"{path}: pictures larger than memory are written as {', '.join(FORMATS)}; end its name with one")
    if file_format.write is write_zarr:
        if importlib.util.find_spec("zarr") is None:
            raise ValueError(f"{path}: .zarr needs the package zarr, which is not installed; add it, or end the name with .tif")
        if path.exists() and not (path / "zarr.json").is_file():
            raise ValueError(f"{path} is there and no zarr array; remove it or name another")
    elif path.is_dir():
        raise ValueError(f"{path} is a folder; remove it or name another file")
    if file_format.write is write_deep_zoom and _tiles_of(path).exists() and not (_tiles_of(path) / "0").is_dir():
        raise ValueError(f"{_tiles_of(path)} is there and no Deep Zoom folder; remove it or name another file than {path.name}")
    return file_format


def publish(finished: Path, path: Path) -> None:
    """Move the files of the folder `finished`, on the same file system, to the folder of `path`; `path` itself comes last."""
    entries = sorted(finished.iterdir(), key=lambda entry: entry.name == path.name)
    if len(entries) > 1:
        path.unlink(missing_ok=True)
    for entry in entries:
        if entry.is_file():
            # The canvas is removed next: after a power failure one of the two must be on disk.
            with entry.open("rb") as file:
                os.fsync(file.fileno())
        target = path.with_name(entry.name)
        if target.is_dir():
            target.replace(finished / f"{entry.name}.former")
        entry.replace(target)


def write_tiff(canvas: Canvas, out: Path, tile: int, about: Mapping[str, Any]) -> None:
    """Write a tiled BigTIFF with a pyramid: each page has half the size of the one before, down to one tile."""
    side = max(min(tile, TIFF_LARGEST) // TIFF_STEP, 1) * TIFF_STEP
    with tifffile.TiffWriter(out, bigtiff=True) as file:
        for index, level in enumerate(_levels(canvas.pixels, out.parent, side)):
            file.write(
                _tiles(level, side),
                shape=(*level.size, 3),
                dtype=np.uint8,
                tile=(side, side),
                photometric="rgb",
                compression="adobe_deflate",
                compressionargs={"level": DEFLATE_LEVEL},
                predictor=True,
                subfiletype=1 if index else 0,
                description=None if index else json.dumps(about),
                software=None if index else f"anyres {__version__}",
                metadata=None,
                maxworkers=1,
            )


def write_png(canvas: Canvas, out: Path, tile: int, about: Mapping[str, Any]) -> None:
    """Write a PNG. Its text chunk `anyres` holds `about` as JSON."""
    import pyvips

    def save(image: Any) -> None:
        image.set_type(pyvips.GValue.gstr_type, "png-comment-0-anyres", json.dumps(about))
        image.pngsave(str(out), keep="other")

    _by_vips(canvas, save)


def write_deep_zoom(canvas: Canvas, out: Path, tile: int, about: Mapping[str, Any]) -> None:
    """Write a Deep Zoom pyramid of JPEG tiles. A comment in its XML holds `about` as JSON."""
    _by_vips(canvas, lambda image: image.dzsave(str(out.with_suffix("")), suffix=f".jpg[Q={JPEG_QUALITY}]", keep="none"))
    # Remove this file: it holds the time of day, so two files of one picture would differ.
    (_tiles_of(out) / "vips-properties.xml").unlink(missing_ok=True)
    # XML forbids two hyphens in a row in a comment; JSON can escape the second.
    comment = json.dumps(about).replace("--", "-\\u002d")
    head, rest = out.with_suffix(".dzi").read_text(encoding="utf-8").split("\n", 1)
    out.with_suffix(".dzi").unlink()
    out.write_text(f"{head}\n<!-- {comment} -->\n{rest}", encoding="utf-8")


def write_zarr(canvas: Canvas, out: Path, tile: int, about: Mapping[str, Any]) -> None:
    """Write a zarr array (h, w, 3) of version 3, one chunk for each tile. Its attributes hold `about`."""
    import zarr

    size = canvas.pixels.size
    array = zarr.create_array(
        str(out),
        shape=(*size, 3),
        chunks=(min(tile, size[0]), min(tile, size[1]), 3),
        dtype="uint8",
        attributes=dict(about),
        dimension_names=("y", "x", "channel"),
        zarr_format=3,
    )
    for cell in plan(size, tile):
        array[cell.top : cell.top + cell.size[0], cell.left : cell.left + cell.size[1]] = canvas.pixels.read(cell)


FORMATS = {
    # A pyramid is a third larger than its finest level, and its smaller levels are raw on disk while it is written.
    ".tif": Format(write_tiff, 5 / 3),
    ".tiff": Format(write_tiff, 5 / 3),
    ".dzi": Format(write_deep_zoom, 0.7),
    ".png": Format(write_png, 1.0),
    ".zarr": Format(write_zarr, 1.0),
}


def _tiles_of(path: Path) -> Path:
    """The folder of the tiles of a Deep Zoom picture."""
    return path.with_name(f"{path.stem}_files")


def _levels(pixels: Pixels, scratch: Path, side: int) -> Iterator[Pixels]:
    """Yield the pixels, then each time at half the size, until they fit one tile."""
    yield pixels
    height, width = pixels.size
    if max(height, width) <= side or min(height, width) < 2:
        return
    with tempfile.TemporaryFile(dir=scratch, buffering=0) as file:
        half = Pixels(file, (height // 2, width // 2))
        for cell in plan(half.size, side):
            source = Tile(2 * cell.top, 2 * cell.left, (2 * cell.size[0], 2 * cell.size[1]))
            half.write(cell, _halved(pixels.read(source)))
        yield from _levels(half, scratch, side)


def _halved(pixels: np.ndarray) -> np.ndarray:
    """Means of two by two pixels, rounded."""
    height, width, channels = pixels.shape
    sums = pixels.reshape(height // 2, 2, width // 2, 2, channels).sum(axis=(1, 3), dtype=np.uint16)
    return ((sums + 2) // 4).astype(np.uint8)


def _tiles(pixels: Pixels, side: int) -> Iterator[np.ndarray]:
    """Yield full tiles, padded with zeros beyond the picture."""
    for cell in plan(pixels.size, side):
        out = np.zeros((side, side, 3), np.uint8)
        out[: cell.size[0], : cell.size[1]] = pixels.read(cell)
        yield out


def _by_vips(canvas: Canvas, save: Callable[[Any], None]) -> None:
    """Save the canvas with libvips, which reads it from top to bottom. An interruption stops it at once."""
    import pyvips

    # libvips caches files by name: the file may be another picture of the same name.
    pyvips.cache_set_max(0)
    canvas.pixels.flush()
    image = pyvips.Image.tiffload(str(canvas.file), access="sequential").copy()
    with ThreadPoolExecutor(1) as thread:
        saving = thread.submit(save, image)
        try:
            saving.result()
        except pyvips.Error as error:
            raise OSError(f"the picture could not be written ({' '.join(str(error).split())[:200]})") from None
        except BaseException:
            image.set_kill(True)
            raise
