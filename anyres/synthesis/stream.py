"""Pictures too large for memory: tiles drawn one after the other, straight into a file."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import tifffile
from torch import Tensor

from anyres.files import replacing
from anyres.networks.pixels import to_uint8
from anyres.networks.scene import Scene
from anyres.plane.tiling import Tile, plan
from anyres.plane.window import Window
from anyres.synthesis.latent import Latent
from anyres.synthesis.render import Edit, Generator, render, render_tiles

# Sides of tiles of a TIFF are multiples of this many pixels.
TIFF_STEP = 16


def render_to(
    path: Path,
    generator: Generator,
    seed: int | Latent | Scene,
    window: Window,
    psi: float = 1.0,
    tile: int = 512,
    edit: Edit | None = None,
    advance: Callable[[float], None] | None = None,
) -> None:
    """Draw a window into a tiled BigTIFF, whole or not at all; arguments as those of `render`.

    Of an exact generator one tile is held at a time, whatever the size of the picture; of others, whose tiles fade into each
    other, one row of tiles. Raises ValueError for a path that does not end in .tif, and where `render` does.
    """
    if path.suffix.lower() not in (".tif", ".tiff"):
        raise ValueError(f"{path}: pictures are streamed into TIFF alone; end its name with .tif")
    generator.geometry.chart.check(window)
    tile = max(tile // TIFF_STEP, 1) * TIFF_STEP
    advance = advance or _ignore
    if generator.geometry.exact:
        tiles = _alone(lambda part: render(generator, seed, part, psi, tile, edit=edit), window, tile, advance)
    else:
        tiles = _in_rows(render_tiles(generator, seed, window, psi, tile, edit=edit), window, tile, advance)
    about = {"center": window.center, "period": window.period, "size": window.size, "psi": psi}
    if isinstance(seed, int):
        about["seed"] = seed
    with replacing(path) as stream, tifffile.TiffWriter(stream, bigtiff=True) as file:
        file.write(
            tiles,
            shape=(*window.size, 3),
            dtype=np.uint8,
            tile=(tile, tile),
            photometric="rgb",
            compression="adobe_deflate",
            predictor=True,
            description=json.dumps(about),
            software="anyres",
            metadata=None,
            maxworkers=1,
        )


def _alone(
    draw: Callable[[Window], np.ndarray], window: Window, tile: int, advance: Callable[[float], None]
) -> Iterator[np.ndarray]:
    """Each tile by itself: an exact generator draws the same pixels so."""
    for part in plan(window.size, tile):
        pixels = draw(window.crop(part.top, part.left, part.size))
        # Told before it is handed on: who takes the last tile does not come back.
        advance(part.size[0] * part.size[1] / 1e6)
        yield _padded(pixels, part, tile)


def _in_rows(
    drawn: Iterator[tuple[Tile, Tensor]], window: Window, tile: int, advance: Callable[[float], None]
) -> Iterator[np.ndarray]:
    """Rows of tiles, cut from what is drawn and faded in reading order."""
    width, done = window.size[1], 0
    waiting = np.empty((0, width, 3), np.uint8)
    row: list[tuple[Tile, np.ndarray]] = []
    for at, values in drawn:
        row.append((at, to_uint8(values[None])[0]))
        if at.left + at.size[1] < width:
            continue
        strip = np.empty((row[0][0].size[0], width, 3), np.uint8)
        for part, pixels in row:
            strip[:, part.left : part.left + part.size[1]] = pixels
        waiting, row = np.concatenate([waiting, strip]), []
        while len(waiting) >= tile or (done + len(waiting) == window.size[0] and len(waiting)):
            high = min(tile, len(waiting))
            advance(high * width / 1e6)
            for part in plan((high, width), tile):
                yield _padded(waiting[:high, part.left : part.left + part.size[1]], part, tile)
            waiting, done = waiting[high:], done + high


def _padded(pixels: np.ndarray, part: Tile, tile: int) -> np.ndarray:
    """A whole tile of the file: what lies beyond the picture is never shown."""
    out = np.zeros((tile, tile, 3), np.uint8)
    out[: part.size[0], : part.size[1]] = pixels
    return out


def _ignore(amount: float) -> None:
    """Take no note of progress."""
