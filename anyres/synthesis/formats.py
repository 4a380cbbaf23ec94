"""Kinds of picture files that are written from a canvas on disk, a tile or a few rows at a time."""

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

# Sides of tiles of a TIFF are multiples of this many pixels, and for viewers' sake no larger than that.
TIFF_STEP, TIFF_LARGEST = 16, 512
# Most of the time of writing goes into this; higher levels gain little on photographs.
DEFLATE_LEVEL = 4
# Tiles of a Deep Zoom picture are JPEG of this quality, without subsampling of colours.
JPEG_QUALITY = 90


class Format(NamedTuple):
    """`write(canvas, out, tile, about)` makes `out`, and what belongs to it, of at most `share` times the raw pixels."""

    write: Callable[[Canvas, Path, int, Mapping[str, Any]], None]
    share: float


def format_of(path: Path) -> Format:
    """The format of a file by the end of its name. Raises ValueError, one line, where it cannot be written there."""
    found = FORMATS.get(path.suffix.lower())
    if found is None:
        raise ValueError(f"{path}: pictures larger than memory are written as {', '.join(FORMATS)}; end its name with one")
    if found.write is write_zarr:
        if importlib.util.find_spec("zarr") is None:
            raise ValueError(f"{path}: .zarr needs the package zarr, which is not installed; add it, or end the name with .tif")
        if path.exists() and not (path / "zarr.json").is_file():
            raise ValueError(f"{path} is there and no zarr array; remove it or name another")
    elif path.is_dir():
        raise ValueError(f"{path} is a folder; remove it or name another file")
    if found.write is write_deep_zoom and _tiles_of(path).exists() and not (_tiles_of(path) / "0").is_dir():
        raise ValueError(f"{_tiles_of(path)} is there and no Deep Zoom folder; remove it or name another file than {path.name}")
    return found


def publish(finished: Path, path: Path) -> None:
    """Move finished files from a folder of one file system to where `path` is; it comes last, without it the rest is nothing."""
    parts = sorted(finished.iterdir(), key=lambda part: part.name == path.name)
    if len(parts) > 1:
        path.unlink(missing_ok=True)
    for part in parts:
        if part.is_file():
            # The canvas goes next: should the power fail, one of them is on disk.
            with part.open("rb") as file:
                os.fsync(file.fileno())
        target = path.with_name(part.name)
        if target.is_dir():
            target.replace(finished / f"{part.name}.former")
        part.replace(target)


def write_tiff(canvas: Canvas, out: Path, tile: int, about: Mapping[str, Any]) -> None:
    """A tiled BigTIFF with a pyramid: pages of half the size each, down to one tile."""
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
    """A PNG; its text chunk `anyres` tells what it shows."""

    import pyvips

    def save(image: Any) -> None:
        image.set_type(pyvips.GValue.gstr_type, "png-comment-0-anyres", json.dumps(about))
        image.pngsave(str(out), keep="other")

    _by_vips(canvas, save)


def write_deep_zoom(canvas: Canvas, out: Path, tile: int, about: Mapping[str, Any]) -> None:
    """A Deep Zoom pyramid of JPEG tiles; a comment in its XML tells what it shows."""
    _by_vips(canvas, lambda image: image.dzsave(str(out.with_suffix("")), suffix=f".jpg[Q={JPEG_QUALITY}]", keep="none"))
    # It holds the time of day: two of one picture would differ.
    (_tiles_of(out) / "vips-properties.xml").unlink(missing_ok=True)
    # XML knows no two hyphens in a row within a comment, JSON another way to say the second.
    comment = json.dumps(about).replace("--", "-\\u002d")
    head, rest = out.with_suffix(".dzi").read_text(encoding="utf-8").split("\n", 1)
    out.with_suffix(".dzi").unlink()
    out.write_text(f"{head}\n<!-- {comment} -->\n{rest}", encoding="utf-8")


def write_zarr(canvas: Canvas, out: Path, tile: int, about: Mapping[str, Any]) -> None:
    """A zarr array (h, w, 3) of version 3, a chunk a tile; its attributes tell what it shows."""
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
    for part in plan(size, tile):
        array[part.top : part.top + part.size[0], part.left : part.left + part.size[1]] = canvas.pixels.read(part)


FORMATS = {
    # A pyramid is a third larger than its finest level, and smaller levels lie raw on disk while it is written.
    ".tif": Format(write_tiff, 5 / 3),
    ".tiff": Format(write_tiff, 5 / 3),
    ".dzi": Format(write_deep_zoom, 0.7),
    ".png": Format(write_png, 1.0),
    ".zarr": Format(write_zarr, 1.0),
}


def _tiles_of(path: Path) -> Path:
    """Where the tiles of a Deep Zoom picture lie."""
    return path.with_name(f"{path.stem}_files")


def _levels(pixels: Pixels, scratch: Path, side: int) -> Iterator[Pixels]:
    """The pixels, and again at half the size each time, until one tile holds them."""
    yield pixels
    height, width = pixels.size
    if max(height, width) <= side or min(height, width) < 2:
        return
    with tempfile.TemporaryFile(dir=scratch, buffering=0) as file:
        half = Pixels(file, (height // 2, width // 2))
        for part in plan(half.size, side):
            half.write(part, _halved(pixels.read(Tile(2 * part.top, 2 * part.left, (2 * part.size[0], 2 * part.size[1])))))
        yield from _levels(half, scratch, side)


def _halved(pixels: np.ndarray) -> np.ndarray:
    """Means of two by two pixels, to the nearest number."""
    height, width, channels = pixels.shape
    sums = pixels.reshape(height // 2, 2, width // 2, 2, channels).sum(axis=(1, 3), dtype=np.uint16)
    return ((sums + 2) // 4).astype(np.uint8)


def _tiles(pixels: Pixels, side: int) -> Iterator[np.ndarray]:
    """Whole tiles of the file: what lies beyond the picture is never shown."""
    for part in plan(pixels.size, side):
        out = np.zeros((side, side, 3), np.uint8)
        out[: part.size[0], : part.size[1]] = pixels.read(part)
        yield out


def _by_vips(canvas: Canvas, save: Callable[[Any], None]) -> None:
    """Let libvips read the canvas from top to bottom and save it; an interruption ends that at once."""
    import pyvips

    # Opened anew it may be another picture of the same name.
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
