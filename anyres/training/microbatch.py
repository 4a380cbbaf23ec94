"""The batch and its parts: which pictures a process takes, in how many passes, and how they are mixed.

All of it is a function of the place in the batch, so that the same pictures meet however the batch is divided.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import Tensor

from anyres.networks.discriminator import GROUP
from anyres.networks.scene import Scene
from anyres.params import Train
from anyres.plane import fields
from anyres.plane.window import Window
from anyres.training.mixing import Mix

# Real pictures of this process, float (b, 3, h, w) in [-1, 1], and their windows.
Batch = tuple[Tensor, list[Window]]
# The same windows at two sizes, the smaller first.
BatchPair = tuple[Batch, Batch]


@dataclass(frozen=True)
class MicroBatch:
    """What one pass takes: real pictures of each size with their windows, the scenes of its fakes, and how the two sizes of real
    and of fake pictures are mixed, if they are.
    """

    sizes: list[Batch]
    scene: Scene
    mixes: tuple[Mix, Mix] | None

    @property
    def windows(self) -> list[Window]:
        return self.sizes[0][1]

    def split(self, size: int) -> list[MicroBatch]:
        """The same in parts of `size` pictures, which divides their number."""
        parts = []
        for first in range(0, len(self.scene), size):
            last = first + size
            mixed = None if self.mixes is None else (self.mixes[0].part(first, last), self.mixes[1].part(first, last))
            sizes = [(real[first:last], windows[first:last]) for real, windows in self.sizes]
            parts.append(MicroBatch(sizes, self.scene.part(first, last), mixed))
        return parts

    def half(self, batch: int) -> tuple[Scene, list[Window]]:
        """Every other picture of the part of a `batch`, the same of them however it is divided; scenes without styles."""
        group = group_of(batch)
        rows = [row for row in range(len(self.scene)) if row % group < max(group // 2, 1)]
        return Scene(self.scene.z[rows], self.scene.seeds[rows]), [self.windows[row] for row in rows]


def group_of(batch: int) -> int:
    """How many neighbours in a batch the discriminator compares with each other."""
    return math.gcd(batch, GROUP)


def pass_size(batch: int, num_processes: int, micro_batch: int | None = None) -> int:
    """How many pictures one pass takes: a process's share of the batch, or the largest equal part of it within `micro_batch`.

    Groups that the discriminator compares stay whole: raises ValueError, one line, where the processes would part them, or where
    `micro_batch` is less than one.
    """
    group = group_of(batch)
    if batch % (num_processes * group):
        raise ValueError(
            f"params.yaml: train.batch: {batch} must be a multiple of {num_processes * group}: {num_processes} processes times "
            f"groups of {group} pictures that the discriminator compares"
        )
    if micro_batch is not None and micro_batch < group:
        raise ValueError(f"micro-batches of {micro_batch} part the groups of {group} pictures that the discriminator compares")
    share = batch // num_processes
    most = min(micro_batch or share, share)
    return max(size for size in range(group, most + 1, group) if share % size == 0)


def mixes(params: Train, nimg: int, accelerator: Accelerator, num_sizes: int) -> tuple[Mix, Mix] | None:
    """How this process's real and fake pictures of two sizes are mixed at the batch from image `nimg` on; None: not at all."""
    if num_sizes == 1 or not (params.pairs.cutmix or params.pairs.channelmix):
        return None
    place = fields.key(torch.tensor([params.seed << 24]), fields.Stream.PATCH_MIX)
    # For the whole batch; each process takes its part.
    generator = torch.Generator().manual_seed(int(fields.mix(place + nimg)) & 0x7FFFFFFFFFFFFFFF)
    kinds = {"cutmix": params.pairs.cutmix, "channelmix": params.pairs.channelmix}
    share = params.batch // accelerator.num_processes
    first = accelerator.process_index * share
    real, fake = (Mix.draw(params.batch, generator, **kinds).part(first, first + share) for _ in range(2))
    return real, fake
