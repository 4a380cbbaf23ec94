"""Inter-scale mixing: a picture takes regions of the same window drawn at another size, so that both sizes must agree.

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
    """The pixels to take from the other size.

    `boxes`, one for each size: (b, 4), top, bottom, left and right as shares of the sides. `channels`: bool (b, 3), the same for
    both sizes.
    """

    boxes: tuple[Tensor, Tensor]
    channels: Tensor

    @classmethod
    def draw(cls, count: int, generator: torch.Generator, *, cutmix: bool = True, channelmix: bool = True) -> Mix:
        """Draw for `count` pictures: boxes between two uniform cuts along each axis, each channel with probability one half."""
        cuts = torch.rand(2, count, 2, 2, generator=generator).sort(dim=-1).values.flatten(2)
        if not cutmix:
            cuts = torch.zeros_like(cuts)
        channels = torch.rand(count, 3, generator=generator) < (0.5 if channelmix else 0.0)
        return cls((cuts[0], cuts[1]), channels)

    def rows(self, first: int, last: int) -> Mix:
        """Return the mix of pictures `first` up to `last`."""
        return Mix((self.boxes[0][first:last], self.boxes[1][first:last]), self.channels[first:last])

    def __call__(self, small: Tensor, large: Tensor) -> tuple[Tensor, Tensor]:
        """Mix pictures (b, 3, h, w) and (b, 3, H, W) of the same windows."""
        mixed = []
        for pictures, other, box in ((small, large, self.boxes[0]), (large, small, self.boxes[1])):
            resized = F.interpolate(other, size=pictures.shape[2:], mode="bilinear", align_corners=False, antialias=True)
            inside = self._inside(box.to(pictures.device), pictures.shape[2], pictures.shape[3])
            cut = torch.where(inside, resized, pictures)
            mixed.append(torch.where(self.channels.to(pictures.device)[:, :, None, None], resized, cut))
        return mixed[0], mixed[1]

    @staticmethod
    def _inside(box: Tensor, height: int, width: int) -> Tensor:
        """Return which pixels have their centre in the boxes, bool (b, 1, h, w)."""
        y = (torch.arange(height, device=box.device) + 0.5) / height
        x = (torch.arange(width, device=box.device) + 0.5) / width
        rows = (y >= box[:, 0, None]) & (y < box[:, 1, None])
        columns = (x >= box[:, 2, None]) & (x < box[:, 3, None])
        return (rows[:, :, None] & columns[:, None, :])[:, None]
