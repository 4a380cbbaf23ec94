"""A scene: the global latent, or styles in its place, and the seeds of the fields. Same scene and window, same pixels.

A scene may hold several styles over its canvas (`Blend`), boxes with the fields of another seed (`Region`), and fields with
fixed values (`Pin`). All are functions of the position, so the tiles of such a scene agree like those of any other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from anyres.plane import fields
from anyres.plane.window import Window

# Plane positions (h, w, 2), last axis (x, y) -> shares (h, w, k) of k styles, none below 0, that sum to one.
Shares = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Blend:
    """k styles over one canvas and their shares at each position: z (k, z_dim), or w (k, w_dim) or (k, num_ws, w_dim) instead."""

    z: Tensor
    shares: Shares
    w: Tensor | None = None

    def at(self, grids: Sequence[Window], device: torch.device) -> Tensor:
        """Shares (b, k, h, w), float32, at the points of the grids."""
        shares = np.stack([self.shares(grid.coords()) for grid in grids])
        return torch.from_numpy(shares).to(device, torch.float32).permute(0, 3, 1, 2)


@dataclass(frozen=True)
class Region:
    """A box of the plane, (left, top, right, bottom), with local latents ("structure") or noise ("texture") of another seed."""

    box: tuple[float, float, float, float]
    seed: int
    part: Literal["structure", "texture"]

    def holds(self, grid: Window) -> Tensor:
        """Return which points of a grid lie in the box, bool (h, w)."""
        left, top, right, bottom = self.box
        x, y = (torch.from_numpy(axis) for axis in grid.axes())
        return ((y >= top) & (y < bottom))[:, None] & ((x >= left) & (x < right))[None, :]


class Box(NamedTuple):
    """Values (channels, h, w) of the field `name`, the first at row `top` and column `left` of its lattice on the plane."""

    name: str
    top: int
    left: int
    values: Tensor


@dataclass(frozen=True)
class Pin:
    """Fixed values for boxes of some fields, for windows of one `period`."""

    period: float
    boxes: tuple[Box, ...] = ()

    def check(self, window: Window) -> None:
        """Raise ValueError, one line, for a window of another period."""
        if abs(window.period / self.period - 1) > 1e-9:
            raise ValueError(
                f"the scene holds what was found at a period of {self.period:g}, the window has {window.period:g}; "
                "draw it at the former"
            )

    def over(self, name: str, drawn: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        """The field `drawn` (b, channels, h, w) at lattice rows (b, h) and columns (b, w), consecutive, pinned where it is."""
        boxes = [box for box in self.boxes if box.name == name]
        out = drawn.clone() if boxes else drawn
        for box in boxes:
            height, width = box.values.shape[1:]
            for index in range(len(drawn)):
                down, across = box.top - int(rows[index, 0]), box.left - int(columns[index, 0])
                first, last = max(down, 0), min(down + height, rows.shape[1])
                begin, end = max(across, 0), min(across + width, columns.shape[1])
                if first < last and begin < end:
                    part = box.values[:, first - down : last - down, begin - across : end - across]
                    out[index, :, first:last, begin:end] = part.to(drawn)
        return out


@dataclass(frozen=True)
class Scene:
    """z (b, z_dim) float32 and seeds (b,) int64, one row a picture.

    `w`, (b, w_dim) or (b, num_ws, w_dim) with a style for each layer, replaces the styles that a generator computes from z.
    `blend`, `regions` and `pin` are the same for all rows; a generator without `draws_regions` refuses them.
    """

    z: Tensor
    seeds: Tensor
    w: Tensor | None = None
    blend: Blend | None = None
    regions: tuple[Region, ...] = field(default=())
    pin: Pin | None = None

    @classmethod
    def of(cls, seeds: Sequence[int] | Tensor, z_dim: int, device: torch.device | str = "cpu") -> Scene:
        """Return the scene of each seed (any integer of 63 bits); it is the same on every machine."""
        tensor = torch.as_tensor(seeds, dtype=torch.int64)
        return cls(fields.latent(tensor, z_dim).to(device), tensor.to(device))

    def __len__(self) -> int:
        return len(self.seeds)

    @property
    def plain(self) -> bool:
        """Whether the scene has no blend, region or pin."""
        return self.blend is None and not self.regions and self.pin is None

    @property
    def one(self) -> bool:
        """Whether all rows show one picture."""
        same = bool((self.seeds == self.seeds[0]).all()) and torch.equal(self.z, self.z[:1].expand_as(self.z))
        return same and (self.w is None or torch.equal(self.w, self.w[:1].expand_as(self.w)))

    def repeated(self, times: int) -> Scene:
        """The same pictures `times` over, one whole set after the other."""
        w = None if self.w is None else self.w.repeat(times, *(1,) * (self.w.ndim - 1))
        return replace(self, z=self.z.repeat(times, 1), seeds=self.seeds.repeat(times), w=w)

    def part(self, first: int, last: int) -> Scene:
        """Rows from `first` up to `last`."""
        w = None if self.w is None else self.w[first:last]
        return replace(self, z=self.z[first:last], seeds=self.seeds[first:last], w=w)
