"""Render windows of any size, tile by tile, at constant memory of the network.

Tiles are anchored to the plane, not to the picture: the cells of a generator lie on multiples of its lattice of the
plane's own pixel grid, so any two windows of one period and one pixel phase agree where they overlap.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from anyres.networks.generator import SEED_LIMIT, Edit, Generator, device_of
from anyres.networks.pixels import to_uint8
from anyres.networks.scene import Scene
from anyres.plane.tiling import Tile, batches, plan
from anyres.plane.window import Window
from anyres.synthesis.latent import Latent

Stitch = Literal["grid", "overlap"]
# Tiles that fade into each other share this part of their side.
OVERLAP_SHARE = 8
# Tiles drawn in one pass are together about this large: caches of a CPU, and enough work for an accelerator.
BATCH_PX = 1 << 18


class Drawing(Protocol):
    """What draws passes, windows of one size each, and yields their pictures (b, 3, h, w) in the order of the passes.

    Where `final`, nothing is made of the values but bytes: others that `to_uint8` makes the same bytes of will do.
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
def in_turn(
    generator: Generator,
    scene: Scene,
    passes: Iterable[Sequence[Window]],
    psi: float,
    edit: Edit | None,
    final: bool = True,
) -> Iterator[Tensor]:
    """Draw passes in this process, each when it is asked for."""
    edited = {} if edit is None else {"edit": edit}
    for windows in passes:
        yield generator(scene.repeated(len(windows)), windows, psi=psi, **edited)


def render(
    generator: Generator,
    seed: int | Latent | Scene,
    window: Window,
    psi: float = 1.0,
    tile: int = 512,
    stitch: Stitch | None = None,
    edit: Edit | None = None,
    advance: Callable[[float], None] | None = None,
    draw: Drawing = in_turn,
) -> np.ndarray:
    """Draw the scene of `seed`, or of a latent, or a scene of one picture, at a window of any size: uint8 (h, w, 3).

    `psi` truncates styles towards their mean (1: not at all). `tile` is the side in pixels of the largest
    pass. How tiles meet: see `render_tiles`. `edit` says what is drawn where: see `anyres.synthesis.edit`. `advance` is told
    of megapixels as they are drawn. `draw` is what draws them. Raises ValueError where the window leaves the generator's chart,
    or psi or tile are out of bounds.
    """
    out = np.empty((*window.size, 3), dtype=np.uint8)
    for drawn in render_passes(generator, seed, window, psi, tile, stitch, edit, draw=draw):
        for at, pixels in drawn:
            out[at.top : at.top + at.size[0], at.left : at.left + at.size[1]] = to_uint8(pixels[None])[0]
            if advance is not None:
                advance(at.size[0] * at.size[1] / 1e6)
    return out


def render_tiles(
    generator: Generator,
    seed: int | Latent | Scene,
    window: Window,
    psi: float = 1.0,
    tile: int = 512,
    stitch: Stitch | None = None,
    edit: Edit | None = None,
) -> Iterator[tuple[Tile, Tensor]]:
    """Yield (tile, its pixels (3, h, w) in about [-1, 1]) in the order of the plan, until the window is covered.

    `stitch` "grid" sets tiles side by side; "overlap" draws them larger by an eighth and fades each into the next, as in
    AnyRes-GAN's section 3.3. By default exact generators take the grid, others overlap.
    """
    for drawn in render_passes(generator, seed, window, psi, tile, stitch, edit):
        yield from drawn


@torch.inference_mode()
def render_passes(
    generator: Generator,
    seed: int | Latent | Scene,
    window: Window,
    psi: float = 1.0,
    tile: int = 512,
    stitch: Stitch | None = None,
    edit: Edit | None = None,
    first: int = 0,
    draw: Drawing = in_turn,
) -> Iterator[list[tuple[Tile, Tensor]]]:
    """What `render_tiles` yields, in lists of what is drawn together, without the `first` so many tiles.

    They are those of some passes of a former call, and what follows is the same to the bit. The division into passes is the same
    whatever `draw` draws them. Raises ValueError at once, not with the first pass.
    """
    scene = scene_of(generator, seed, psi)
    generator.geometry.chart.check(window)
    lattice = generator.geometry.lattice_px
    if tile < lattice:
        raise ValueError(f"tile must be at least the generator's lattice, {lattice} pixels, found {tile}")
    aligned, top, left = align(window, lattice)
    tiles = plan(aligned.size, tile // lattice * lattice, lattice)
    stitch = stitch or ("grid" if generator.geometry.exact else "overlap")
    overlap = max(tile // OVERLAP_SHARE // lattice * lattice, lattice) if stitch == "overlap" else 0

    def drawn_of(groups: Iterable[Sequence[Tile]], final: bool) -> Iterator[Tensor]:
        passes = ([aligned.crop(part.top, part.left, part.size) for part in group] for group in groups)
        return draw(generator, scene, passes, psi, edit, final)

    if stitch == "grid" or len(tiles) == 1:
        drawn = _side_by_side(drawn_of, tiles, first)
    else:
        tiles = plan(aligned.size, max(tile // lattice * lattice - overlap, lattice), lattice)
        drawn = _blended(drawn_of, aligned.size, tiles, overlap, first)
    return ([_clipped(part, pixels, top, left, window.size) for part, pixels in parts] for parts in drawn)


# Groups of tiles of one size, and whether their values are final -> values of each group, (b, 3, h, w).
DrawnOf = Callable[[Iterable[Sequence[Tile]], bool], Iterator[Tensor]]


@torch.inference_mode()
def _side_by_side(drawn_of: DrawnOf, tiles: list[Tile], first: int) -> Iterator[list[tuple[Tile, Tensor]]]:
    """Tiles as they are, those of one size together."""
    count = max(1, BATCH_PX // (tiles[0].size[0] * tiles[0].size[1]))
    groups, done = [], 0
    for group in batches(tiles, count):
        done += len(group)
        if done > first:
            groups.append(group)
    for group, values in zip(groups, drawn_of(groups, True), strict=True):
        yield list(zip(group, values, strict=True))


@torch.inference_mode()
def _blended(
    drawn_of: DrawnOf, size: tuple[int, int], tiles: list[Tile], overlap: int, first: int
) -> Iterator[list[tuple[Tile, Tensor]]]:
    """Tiles of a canvas in reading order, each drawn `overlap` pixels larger to the right and below and faded into the next.

    What a tile owes to its neighbours waits beside it: `overlap` columns, and as many rows of the whole canvas. For the sake of
    these the row of the tile `first`, and the one above, are drawn anew.
    """
    height, width = size
    across = -(-width // tiles[0].size[1])
    start = max(first // across - 1, 0) * across
    grown = []
    for cell in tiles[start:]:
        reach = (min(cell.size[0] + overlap, height - cell.top), min(cell.size[1] + overlap, width - cell.left))
        grown.append([Tile(cell.top, cell.left, reach)])
    below: Tensor | None = None
    beside: Tensor | None = None
    drawn = zip(tiles[start:], grown, drawn_of(grown, False), strict=True)
    for index, (cell, [(_, _, reach)], [pixels]) in enumerate(drawn, start):
        rows = _ramps(reach[0], min(overlap, height - cell.top) if cell.top else 0, reach[0] - cell.size[0], pixels)
        columns = _ramps(reach[1], min(overlap, width - cell.left) if cell.left else 0, reach[1] - cell.size[1], pixels)
        pixels = pixels * rows[:, None] * columns
        if below is None:
            below = pixels.new_zeros(3, overlap, width)
        if cell.left:
            assert beside is not None
            pixels[:, :, : beside.shape[2]] += beside
        if cell.top:
            owed = below[:, : reach[0], cell.left : cell.left + cell.size[1]]
            pixels[:, : owed.shape[1], : owed.shape[2]] += owed
        beside = pixels[:, :, cell.size[1] :].clone()
        left_over = pixels[:, cell.size[0] :, : cell.size[1]]
        below[:, : left_over.shape[1], cell.left : cell.left + cell.size[1]] = left_over
        if index >= first:
            yield [(cell, pixels[:, : cell.size[0], : cell.size[1]])]


def _ramps(length: int, rising: int, falling: int, like: Tensor) -> Tensor:
    """Weights along one side of a tile: the rise of one and the fall of the one before it sum to one."""
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
    """Draw one scene a window, all of one size, as training does: uint8 (n, h, w, 3).

    Each window anchors its own cells, so no pixel is drawn and thrown away when its sides are multiples of the
    lattice. For pieces of one picture that must agree with each other, use `render`.
    """
    if len(seeds) != len(windows):
        raise ValueError(f"one seed a window, found {len(seeds)} seeds and {len(windows)} windows")
    lattice = generator.geometry.lattice_px
    out = []
    for start in range(0, len(windows), batch):
        part = windows[start : start + batch]
        height, width = part[0].size
        padded = (-(-height // lattice) * lattice, -(-width // lattice) * lattice)
        scene = Scene.of(seeds[start : start + batch], generator.z_dim, device_of(generator))
        pictures = generator(scene, [window.crop(0, 0, padded) for window in part], psi=psi)
        out.append(to_uint8(pictures[:, :, :height, :width]))
    return np.concatenate(out)


def align(window: Window, lattice: int) -> tuple[Window, int, int]:
    """Grow a window to whole cells of the plane's lattice: (grown window, top, left of the old one in it)."""
    (index_x, index_y), _ = window.phase()
    left, top = index_x % lattice, index_y % lattice
    height, width = window.size
    size = (-(-(top + height) // lattice) * lattice, -(-(left + width) // lattice) * lattice)
    return window.crop(-top, -left, size), top, left


def scene_of(generator: Generator, seed: int | Latent | Scene, psi: float) -> Scene:
    """The scene that a seed or a latent stands for. Raises ValueError for one that stands for nothing."""
    if isinstance(seed, Scene):
        check_scene(int(seed.seeds[0]), psi)
        return seed
    if not isinstance(seed, Latent):
        check_scene(seed, psi)
        return Scene.of([seed], generator.z_dim, device_of(generator))
    check_scene(seed.seed, psi)
    count, width = getattr(generator, "num_ws", None), getattr(generator, "w_mean", seed.w).shape[-1]
    if count is not None and seed.w.shape != (count, width):
        raise ValueError(
            f"the latent has styles {tuple(seed.w.shape)}, this generator takes {(count, width)}: it is another one's"
        )
    return seed.scene(generator.z_dim, device_of(generator))


def check_scene(seed: int, psi: float) -> None:
    """Refuse seeds and truncations that stand for nothing, by name."""
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or not 0 <= seed < SEED_LIMIT:
        raise ValueError(f"seed must be a whole number from 0 to 2^40 - 1, found {seed!r}")
    if not 0.0 <= psi <= 2.0:
        raise ValueError(f"psi must be from 0 to 2, found {psi!r}")


def _clipped(part: Tile, pixels: Tensor, top: int, left: int, size: tuple[int, int]) -> tuple[Tile, Tensor]:
    """What of a tile of the aligned canvas lies in the wanted picture, some of every tile, and where."""
    first_row, first_column = max(part.top, top), max(part.left, left)
    last_row = min(part.top + part.size[0], top + size[0])
    last_column = min(part.left + part.size[1], left + size[1])
    at = Tile(first_row - top, first_column - left, (last_row - first_row, last_column - first_column))
    return at, pixels[:, first_row - part.top : last_row - part.top, first_column - part.left : last_column - part.left]
