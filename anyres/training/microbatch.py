"""Micro-batches: which pictures a process takes, in how many passes, and how they are mixed.

All of this is a function of the position in the batch, so the same pictures are compared however the batch is divided.
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
RealBatch = tuple[Tensor, list[Window]]
# The same windows at two sizes, the smaller first.
RealBatchPair = tuple[RealBatch, RealBatch]


@dataclass(frozen=True)
class MicroBatch:
    """The input of one pass: real pictures of each size with their windows, and the scenes of the fakes.

    `mixes` says how the two sizes of the real and of the fake pictures are mixed; None: they are not.
    """

    sizes: list[RealBatch]
    scene: Scene
    mixes: tuple[Mix, Mix] | None

    @property
    def windows(self) -> list[Window]:
        return self.sizes[0][1]

    def split(self, size: int) -> list[MicroBatch]:
        """Split into micro-batches of `size` pictures, which must divide their number."""
        micro_batches = []
        for first in range(0, len(self.scene), size):
            last = first + size
            mixes = None if self.mixes is None else (self.mixes[0].rows(first, last), self.mixes[1].rows(first, last))
            sizes = [(real[first:last], windows[first:last]) for real, windows in self.sizes]
            micro_batches.append(MicroBatch(sizes, self.scene.part(first, last), mixes))
        return micro_batches

    def half(self, batch: int) -> tuple[Scene, list[Window]]:
        """Return every other picture, the same ones however a `batch` is divided: scenes without styles, and windows."""
        group = group_of(batch)
        rows = [row for row in range(len(self.scene)) if row % group < max(group // 2, 1)]
        return Scene(self.scene.z[rows], self.scene.seeds[rows]), [self.windows[row] for row in rows]


def group_of(batch: int) -> int:
    """Return how many neighbours in a batch the discriminator compares with each other."""
    return math.gcd(batch, GROUP)


def pass_size(batch: int, num_processes: int, micro_batch: int | None = None) -> int:
    """Return how many pictures one pass takes: a process's share of the batch, or its largest equal part up to `micro_batch`.

    A group of pictures that the discriminator compares is never split. Raises ValueError, one line, where the number of
    processes would split one, or where `micro_batch` is smaller than one.
    """
    group = group_of(batch)
    if batch % (num_processes * group):
        raise ValueError(
            f"params.yaml: train.batch: {batch} must be a multiple of {num_processes * group}: {num_processes} processes times "
            f"groups of {group} pictures that the discriminator compares"
        )
    if micro_batch is not None and micro_batch < group:
        raise ValueError(f"micro-batches of {micro_batch} split the groups of {group} pictures that the discriminator compares")
    share = batch // num_processes
    most = min(micro_batch or share, share)
    return max(size for size in range(group, most + 1, group) if share % size == 0)


def mixes(params: Train, nimg: int, accelerator: Accelerator, num_sizes: int) -> tuple[Mix, Mix] | None:
    """Return how real and fake pictures of two sizes are mixed in the batch that starts at image `nimg`; None: not at all."""
    if num_sizes == 1 or not (params.pairs.cutmix or params.pairs.channelmix):
        return None
    key = fields.key(torch.tensor([params.seed << 24]), fields.Stream.PATCH_MIX)
    # Drawn for the whole batch; each process takes its share.
    generator = torch.Generator().manual_seed(int(fields.mix(key + nimg)) & 0x7FFFFFFFFFFFFFFF)
    kinds = {"cutmix": params.pairs.cutmix, "channelmix": params.pairs.channelmix}
    share = params.batch // accelerator.num_processes
    first = accelerator.process_index * share
    real, fake = (Mix.draw(params.batch, generator, **kinds).rows(first, first + share) for _ in range(2))
    return real, fake
