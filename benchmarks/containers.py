"""The store's own TIFF reader against libvips and against sharded OME-Zarr: size, files, milliseconds a region.

    python benchmarks/containers.py --out containers.json

One 24-megapixel photograph, tiles of 128 pixels, lossless. The regions are those that patches of 256 pixels read.
"""

from __future__ import annotations

import os

for _name in ("OMP_NUM_THREADS", "VIPS_CONCURRENCY", "BLOSC_NTHREADS"):
    os.environ.setdefault(_name, "1")

import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyvips
import typer
import zarr
from loader import build, octaves, windows
from PIL import Image
from rich.console import Console
from rich.table import Table
from zarr.codecs import BloscCodec

from anyres.data.pyramid import Store

SIZE = (4000, 6000)
Region = tuple[int, int, int, int, int]  # level, top, left, bottom, right
TILE = 128


def main(
    out: Annotated[Path | None, typer.Option(help="Where the results go, as JSON.")] = None,
    seconds: Annotated[float, typer.Option(help="Time for each measurement.")] = 3.0,
) -> None:
    """Measure, print a table, write JSON."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        Image.fromarray(octaves(*SIZE)).save(folder / "24.jpg", quality=92)
        store = build({24: folder / "24.jpg"}, folder / "store", "deflate")
        levels = [whole_level(store, depth) for depth in range(len(store._levels(0)))]
        vips = vips_pyramid(levels[0], folder / "vips.tif")
        own = taken_out(store, folder / "own.tif")
        group = ome_zarr(levels, folder / "ome.zarr")
        region_list = regions(store)
        store = Store.open(store.path, cache_bytes=0)
        pyvips.cache_set_max(0)
        variants: dict[str, tuple[Callable[[Region], np.ndarray], Path]] = {
            "own TIFF, own reader": (lambda r: store._pixels(0, store._levels(0), r[0], r[1:]), store.path / "shards"),
            "own TIFF, libvips": (lambda r: vips_region(own, r), own),
            "libvips TIFF, libvips": (lambda r: vips_region(vips, r), vips),
            "OME-Zarr, a shard a level": (lambda r: np.asarray(group[f"{r[0]}"][r[1] : r[3], r[2] : r[4]]), folder / "ome.zarr"),
        }
        rows = [measure(variant, read, place, region_list, seconds) for variant, (read, place) in variants.items()]
    table = Table(*rows[0])
    for row in rows:
        table.add_row(*(f"{value:.2f}" if isinstance(value, float) else str(value) for value in row.values()))
    Console().print(table)
    if out is not None:
        out.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


def regions(store: Store) -> list[Region]:
    """Return the regions that patches read, recorded from the store."""
    recorded: list[Region] = []
    read = store._pixels

    def spy(index: int, levels: Any, depth: int, region: tuple[int, int, int, int]) -> np.ndarray:
        recorded.append((depth, *region))
        return read(index, levels, depth, region)

    store._pixels = spy  # type: ignore[method-assign]
    for seed in range(20):
        for window in windows(SIZE, 256, "log_uniform", seed):
            store.read(0, window)
    return recorded


def whole_level(store: Store, depth: int) -> np.ndarray:
    levels = store._levels(0)
    height, width = levels[depth].size
    return store._pixels(0, levels, depth, (0, 0, height, width)).astype(levels[depth].dtype)


def taken_out(store: Store, path: Path) -> Path:
    """The stored picture as a file by itself."""
    entry = store._index[0]
    path.write_bytes(store._reader.read(store._shards[entry["shard"]], int(entry["offset"]), int(entry["size"])))
    return path


def vips_pyramid(native: np.ndarray, path: Path) -> Path:
    image = pyvips.Image.new_from_array(native)
    image.tiffsave(str(path), tile=True, tile_width=TILE, tile_height=TILE, pyramid=True, compression="deflate", subifd=False)
    return path


def vips_region(path: Path, region: Region) -> np.ndarray:
    depth, top, left, bottom, right = region
    # A fresh image each time, as a loader meets pictures; its own levels are rounded down by up to a pixel.
    image = pyvips.Image.new_from_file(str(path), page=depth, access="random")
    return image.crop(left, top, min(right, image.width) - left, min(bottom, image.height) - top).numpy()


def ome_zarr(levels: list[np.ndarray], path: Path) -> zarr.Group:
    """Zarr 3 with chunks of one tile inside one shard a level, as OME-Zarr 0.5 recommends for large pictures."""
    group = zarr.open_group(path, mode="w")
    for depth, level in enumerate(levels):
        shape = tuple(-(-side // TILE) * TILE for side in level.shape[:2])
        array = group.create_array(
            str(depth),
            shape=level.shape,
            dtype=level.dtype,
            chunks=(TILE, TILE, 3),
            shards=(*shape, 3),
            compressors=BloscCodec(cname="zstd", clevel=3),
        )
        array[:] = level
    return zarr.open_group(path, mode="r")


def measure(
    name: str, read: Callable[[Region], np.ndarray], place: Path, region_list: list[Region], seconds: float
) -> dict[str, str | int | float]:
    spent = []
    read(region_list[0])
    start = time.perf_counter()
    while time.perf_counter() - start < seconds:
        for region in region_list:
            before = time.process_time()
            read(region)
            spent.append(time.process_time() - before)
    files = [place] if place.is_file() else [path for path in place.rglob("*") if path.is_file()]
    size = sum(path.stat().st_size for path in files) / 1e6
    return {"container": name, "files": len(files), "MB": size, "CPU ms a region": 1000 * statistics.mean(spent)}


if __name__ == "__main__":
    typer.run(main)
