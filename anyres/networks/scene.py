"""A scene: the global latent, or styles in its place, and the seeds of the fields. Same scene and window, same pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from anyres.plane import fields


@dataclass(frozen=True)
class Scene:
    """z (b, z_dim) float32 and seeds (b,) int64, one row a picture.

    `w`, (b, w_dim) or (b, num_ws, w_dim) with a style for each layer, takes the place of what a generator makes of z.
    """

    z: Tensor
    seeds: Tensor
    w: Tensor | None = None

    @classmethod
    def of(cls, seeds: Sequence[int] | Tensor, z_dim: int, device: torch.device | str = "cpu") -> Scene:
        """Return the scene that each seed (any integer of 63 bits) stands for, on every machine the same."""
        tensor = torch.as_tensor(seeds, dtype=torch.int64)
        return cls(fields.latent(tensor, z_dim).to(device), tensor.to(device))

    def __len__(self) -> int:
        return len(self.seeds)

    def repeated(self, times: int) -> Scene:
        """The same pictures `times` over, one whole set after the other."""
        w = None if self.w is None else self.w.repeat(times, *(1,) * (self.w.ndim - 1))
        return Scene(self.z.repeat(times, 1), self.seeds.repeat(times), w)
