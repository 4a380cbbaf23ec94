"""Tiling plans: cut a canvas of pixels into tiles whose origins lie on a lattice."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import NamedTuple


class Tile(NamedTuple):
    """A rectangle of the canvas in pixels: rows top..top+size[0], columns left..left+size[1]."""

    top: int
    left: int
    size: tuple[int, int]


def plan(size: tuple[int, int], tile: int, lattice: int = 1) -> list[Tile]:
    """Cover a canvas of `size = (h, w)` once, without overlap, in tiles of at most `tile` pixels a side.

    Tile origins are multiples of `lattice`; the last row and column are as short as the canvas demands.
    Raises ValueError where `tile` is no positive multiple of `lattice`.
    """
    if lattice < 1 or tile < 1 or tile % lattice:
        raise ValueError(f"tile side {tile} must be a positive multiple of the lattice, {lattice} pixels")
    height, width = size
    return [
        Tile(top, left, (min(tile, height - top), min(tile, width - left)))
        for top in range(0, height, tile)
        for left in range(0, width, tile)
    ]


def batches(tiles: list[Tile], count: int) -> Iterator[list[Tile]]:
    """Group tiles of equal size that follow each other, `count` at most together, for one pass through a network each."""
    for _, run in itertools.groupby(tiles, key=lambda tile: tile.size):
        group = list(run)
        for start in range(0, len(group), count):
            yield group[start : start + count]
