"""Render windows of any size, tile by tile, at constant memory of the network.

Tiles are anchored to the plane, not to the picture: the cells of a generator lie on multiples of its lattice of the
plane's own pixel grid. So any two windows of one period and one pixel phase agree where they overlap.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from anyres.networks.generator import Edit, Generator, device_of
from anyres.networks.pixels import to_uint8
from anyres.networks.scene import Scene
from anyres.plane.chart import CLOSING_SLACK
from anyres.plane.tiling import Tile, batches, plan
from anyres.plane.window import Window
from anyres.synthesis.request import RenderRequest, check_request, scene_of

# Tiles that fade into each other overlap by this part of their side.
OVERLAP_SHARE = 8
# Tiles drawn in one pass have at most this many pixels together: they fit the caches of a CPU and keep an accelerator busy.
BATCH_PX = 1 << 18
# And the maps of one pass have at most this many bytes: a wide network draws smaller tiles.
PASS_BYTES = 320 << 20


def pixels_per_pass(generator: Generator) -> int:
    """Return the most pixels that one pass of a generator draws, within BATCH_PX and PASS_BYTES."""
    return min(BATCH_PX, PASS_BYTES // max(generator.bytes_per_px, 1))


def tile_side(generator: Generator, tile: int) -> int:
    """Return the side of the tiles of one pass: at most `tile` pixels, a multiple of the lattice, within PASS_BYTES."""
    lattice = generator.geometry.lattice_px
    largest = math.isqrt(PASS_BYTES // max(generator.bytes_per_px, 1))
    return max(min(tile, largest) // lattice, 1) * lattice


class Drawing(Protocol):
    """A back end that draws passes (windows of one size each) and yields their values (b, 3, h, w) in the order of the passes.

    If `final`, the values are only converted to bytes: the back end may yield others that `to_uint8` converts to the same bytes.
    """

    def __call__(
        self,
        generator: Generator,
        scene: Scene,
        passes: Iterable[Sequence[Window]],
        psi: float,
        edit: Edit | None,
        final: bool,
    ) -> Iterator[Tensor]: ...


@torch.inference_mode()
def draw_in_process(
    generator: Generator,
    scene: Scene,
    passes: Iterable[Sequence[Window]],
    psi: float,
    edit: Edit | None,
    final: bool = True,
) -> Iterator[Tensor]:
    """Draw passes in this process, one after the other, each on demand."""
    edited = {} if edit is None else {"edit": edit}
    for windows in passes:
        yield generator(scene.repeated(len(windows)), windows, psi=psi, **edited)


def render(
    generator: Generator,
    request: RenderRequest,
    advance: Callable[[float], None] | None = None,
    draw: Drawing = draw_in_process,
) -> np.ndarray:
    """Draw a request into memory: uint8 (h, w, 3).

    `advance` is called with the megapixels of each tile. `draw` is the back end. Raises ValueError if the window leaves the
    generator's chart, or if the tile or the latent does not fit the generator.
    """
    out = np.empty((*request.window.size, 3), dtype=np.uint8)
    for tiles in render_passes(generator, request, draw=draw):
        for at, pixels in tiles:
            out[at.top : at.top + at.size[0], at.left : at.left + at.size[1]] = to_uint8(pixels[None])[0]
            if advance is not None:
                advance(at.size[0] * at.size[1] / 1e6)
    return out


def render_tiles(generator: Generator, request: RenderRequest) -> Iterator[tuple[Tile, Tensor]]:
    """Yield (tile, its values (3, h, w) in about [-1, 1]) in the order of the plan; the tiles cover the window once."""
    for tiles in render_passes(generator, request):
        yield from tiles


@torch.inference_mode()
def render_passes(
    generator: Generator, request: RenderRequest, first: int = 0, draw: Drawing = draw_in_process
) -> Iterator[list[tuple[Tile, Tensor]]]:
    """Yield what `render_tiles` yields, one list for each pass, without the first `first` tiles.

    `first` must be the number of tiles of some passes of an earlier call. The later tiles are then equal to the bit. The division
    into passes does not depend on `draw`. Raises ValueError at the call, not with the first pass.
    """
    check_request(generator, request)
    window, lattice, tile = request.window, generator.geometry.lattice_px, tile_side(generator, request.tile)
    scene = scene_of(generator, request.scene)
    aligned, top, left = align(window, lattice)
    tiles = plan(aligned.size, tile, lattice)
    stitch = request.stitch or ("grid" if generator.geometry.exact else "overlap")
    overlap = max(tile // OVERLAP_SHARE // lattice * lattice, lattice) if stitch == "overlap" else 0

    def values_of(groups: Iterable[Sequence[Tile]], final: bool) -> Iterator[Tensor]:
        passes = ([aligned.crop(cell.top, cell.left, cell.size) for cell in group] for group in groups)
        return draw(generator, scene, passes, request.psi, request.edit, final)

    ring = stitch == "overlap" and request.edit is None and _closes(generator, window)
    if stitch == "grid" or (len(tiles) == 1 and not ring):
        passes = _side_by_side(values_of, tiles, first, pixels_per_pass(generator))
    else:
        # The canvas of a ring ends where it begins, at a column that need not lie on the lattice.
        size = (aligned.size[0], left + window.size[1]) if ring else aligned.size
        tiles = plan(size, max(tile - overlap, lattice), lattice)
        passes = _blended(values_of, Canvas(size, overlap, lattice, left if ring else None), tiles, first)
    return ([_clipped(cell, pixels, top, left, window.size) for cell, pixels in cells] for cells in passes)


# (Groups of tiles of one size, whether their values are final) -> values of each group, (b, 3, h, w).
ValuesOf = Callable[[Iterable[Sequence[Tile]], bool], Iterator[Tensor]]


@torch.inference_mode()
def _side_by_side(values_of: ValuesOf, tiles: list[Tile], first: int, pixels: int) -> Iterator[list[tuple[Tile, Tensor]]]:
    """Yield tiles as they are, tiles of one size in one pass of at most `pixels` pixels."""
    count = max(1, pixels // (tiles[0].size[0] * tiles[0].size[1]))
    groups, done = [], 0
    for group in batches(tiles, count):
        done += len(group)
        if done > first:
            groups.append(group)
    for group, values in zip(groups, values_of(groups, True), strict=True):
        yield list(zip(group, values, strict=True))


@dataclass(frozen=True)
class Canvas:
    """A canvas of tiles that fade into each other over `overlap` pixels.

    `seam` is the column at which a ring begins: there the last tile of a row fades into the first one. Other canvases have none.
    """

    size: tuple[int, int]
    overlap: int
    lattice: int
    seam: int | None

    def faded(self, cell: Tile, wrap: int) -> tuple[int, int]:
        """Return height and width of a tile with its overlaps: below, and to the right or over `wrap` columns beyond the end."""
        tall, wide = (
            side + min(self.overlap, whole - side - at)
            for side, whole, at in zip(cell.size, self.size, (cell.top, cell.left), strict=True)
        )
        return tall, wide + (wrap if cell.left + cell.size[1] == self.size[1] else 0)

    def drawn(self, cell: Tile, wrap: int) -> list[Tile]:
        """Return the region to draw for a tile: whole cells of the lattice."""
        height, width = (-(-side // self.lattice) * self.lattice for side in self.faded(cell, wrap))
        return [Tile(cell.top, cell.left, (height, width))]


@torch.inference_mode()
def _blended(values_of: ValuesOf, canvas: Canvas, tiles: list[Tile], first: int) -> Iterator[list[tuple[Tile, Tensor]]]:
    """Yield the tiles of a canvas in reading order, each drawn larger by the overlap to the right and below, faded together.

    The overlaps with later tiles are buffered: `overlap` columns, and `overlap` rows of the whole canvas. To fill these buffers
    the row of the tile `first` and the row above it are drawn again. In each row of a ring the last tile is drawn first, because
    it fades into the first one, and is kept until its turn.
    """
    (height, width), overlap, seam = canvas.size, canvas.overlap, canvas.seam
    wrap = 0 if seam is None else min(overlap, tiles[0].size[1] - seam)
    across = -(-width // tiles[0].size[1])
    start = max(first // across - 1, 0) * across
    rows_of_tiles = [tiles[index : index + across] for index in range(start, len(tiles), across)]
    order = [cell for row in rows_of_tiles for cell in (row if seam is None else [row[-1], *row[:-1]])]
    values = values_of((canvas.drawn(cell, wrap) for cell in order), False)
    below: Tensor | None = None
    beside: Tensor | None = None
    index = start
    for row in rows_of_tiles:
        last = None if seam is None else next(values)[0]
        for cell in row:
            pixels = next(values)[0] if last is None or cell is not row[-1] else last
            tall, wide = canvas.faded(cell, wrap)
            rows = _ramps(tall, min(overlap, height - cell.top) if cell.top else 0, tall - cell.size[0], pixels)[:, None]
            columns = _ramps(wide, min(overlap, width - cell.left) if cell.left else 0, wide - cell.size[1], pixels)
            pixels = pixels[:, :tall, :wide] * rows
            if last is not None and seam is not None and cell.left == 0:
                rise, end = _rise(wrap, columns), width - row[-1].left
                columns[:seam] = 0
                columns[seam : seam + wrap] *= rise
                pixels = pixels * columns
                pixels[:, :, seam : seam + wrap] += last[:, :tall, end : end + wrap] * rows * rise.flip(0)
            else:
                pixels = pixels * columns
            if below is None:
                below = pixels.new_zeros(3, overlap, width)
            if cell.left:
                assert beside is not None
                pixels[:, :, : beside.shape[2]] += beside
            if cell.top:
                above = below[:, :tall, cell.left : cell.left + cell.size[1]]
                pixels[:, : above.shape[1], : above.shape[2]] += above
            beside = pixels[:, :, cell.size[1] :].clone()
            lower = pixels[:, cell.size[0] :, : cell.size[1]]
            below[:, : lower.shape[1], cell.left : cell.left + cell.size[1]] = lower
            if index >= first:
                yield [(cell, pixels[:, : cell.size[0], : cell.size[1]])]
            index += 1
    # The back end may have something to finish after its last pass.
    assert next(values, None) is None


def _ramps(length: int, rising: int, falling: int, like: Tensor) -> Tensor:
    """Weights along one side of a tile: its rise and the fall of the tile before it sum to one."""
    weights = torch.ones(length, dtype=like.dtype, device=like.device)
    if rising:
        weights[:rising] *= _rise(rising, like)
    if falling:
        weights[length - falling :] *= _rise(falling, like).flip(0)
    return weights


def _rise(count: int, like: Tensor) -> Tensor:
    return (torch.arange(count, dtype=like.dtype, device=like.device) + 0.5) / count


@torch.inference_mode()
def render_many(
    generator: Generator, seeds: Sequence[int], windows: Sequence[Window], psi: float = 1.0, batch: int = 32
) -> np.ndarray:
    """Draw one scene for each window, all windows of one size, as training does: uint8 (n, h, w, 3).

    Each window anchors its own cells, so no pixel is discarded if its sides are multiples of the lattice. For pieces of one
    picture that must agree with each other, use `render`.
    """
    if len(seeds) != len(windows):
        raise ValueError(f"one seed a window, found {len(seeds)} seeds and {len(windows)} windows")
    lattice = generator.geometry.lattice_px
    out = []
    for start in range(0, len(windows), batch):
        chunk = windows[start : start + batch]
        height, width = chunk[0].size
        padded = (-(-height // lattice) * lattice, -(-width // lattice) * lattice)
        scene = Scene.of(seeds[start : start + batch], generator.z_dim, device_of(generator))
        pictures = generator(scene, [window.crop(0, 0, padded) for window in chunk], psi=psi)
        out.append(to_uint8(pictures[:, :, :height, :width]))
    return np.concatenate(out)


def _closes(generator: Generator, window: Window) -> bool:
    """Whether a window goes around the ring once, so that its right border meets its left border."""
    circumference = generator.geometry.chart.circumference
    return circumference is not None and abs(window.size[1] * window.period - circumference) <= CLOSING_SLACK


def align(window: Window, lattice: int) -> tuple[Window, int, int]:
    """Grow a window to whole cells of the plane's lattice: (grown window, top and left of the old one in it)."""
    (index_x, index_y), _ = window.phase()
    left, top = index_x % lattice, index_y % lattice
    height, width = window.size
    size = (-(-(top + height) // lattice) * lattice, -(-(left + width) // lattice) * lattice)
    return window.crop(-top, -left, size), top, left


def _clipped(cell: Tile, pixels: Tensor, top: int, left: int, size: tuple[int, int]) -> tuple[Tile, Tensor]:
    """Cut a tile of the aligned canvas to the requested picture: (its place there, its pixels). Every tile overlaps it."""
    first_row, first_column = max(cell.top, top), max(cell.left, left)
    last_row = min(cell.top + cell.size[0], top + size[0])
    last_column = min(cell.left + cell.size[1], left + size[1])
    at = Tile(first_row - top, first_column - left, (last_row - first_row, last_column - first_column))
    return at, pixels[:, first_row - cell.top : last_row - cell.top, first_column - cell.left : last_column - cell.left]
