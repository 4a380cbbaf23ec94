"""Inter-scale mixing: a picture holds parts of the same window drawn at another size, so that both must agree.

Ntavelis et al., "Arbitrary-Scale Image Synthesis" (ScaleParty), CVPR 2022, section 3.4. Each size takes boxes (CutMix) and then
colour channels (ChannelMix) of the other one, resized. Differentiable in both pictures.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Mix:
    """What is taken from the other size: a box for each size, (b, 4) in shares of the sides as (top, bottom, left, right), and
    channels, bool (b, 3), the same for both sizes.
    """

    boxes: tuple[Tensor, Tensor]
    channels: Tensor

    @classmethod
    def draw(cls, count: int, generator: torch.Generator, *, cutmix: bool = True, channelmix: bool = True) -> Mix:
        """Draw for `count` pictures: boxes between two uniform cuts along each axis, channels by fair coins."""
        cuts = torch.rand(2, count, 2, 2, generator=generator).sort(dim=-1).values.flatten(2)
        if not cutmix:
            cuts = torch.zeros_like(cuts)
        channels = torch.rand(count, 3, generator=generator) < (0.5 if channelmix else 0.0)
        return cls((cuts[0], cuts[1]), channels)

    def part(self, first: int, last: int) -> Mix:
        """What pictures `first` up to `last` take."""
        return Mix((self.boxes[0][first:last], self.boxes[1][first:last]), self.channels[first:last])

    def __call__(self, small: Tensor, large: Tensor) -> tuple[Tensor, Tensor]:
        """Mix pictures (b, 3, h, w) and (b, 3, H, W) of the same windows."""
        mixed = []
        for own, other, box in ((small, large, self.boxes[0]), (large, small, self.boxes[1])):
            resized = F.interpolate(other, size=own.shape[2:], mode="bilinear", align_corners=False, antialias=True)
            taken = self._inside(box.to(own.device), own.shape[2], own.shape[3])
            cut = torch.where(taken, resized, own)
            mixed.append(torch.where(self.channels.to(own.device)[:, :, None, None], resized, cut))
        return mixed[0], mixed[1]

    @staticmethod
    def _inside(box: Tensor, height: int, width: int) -> Tensor:
        """Pixels whose centres lie in the boxes, bool (b, 1, h, w)."""
        y = (torch.arange(height, device=box.device) + 0.5) / height
        x = (torch.arange(width, device=box.device) + 0.5) / width
        rows = (y >= box[:, 0, None]) & (y < box[:, 1, None])
        columns = (x >= box[:, 2, None]) & (x < box[:, 3, None])
        return (rows[:, :, None] & columns[:, None, :])[:, None]
