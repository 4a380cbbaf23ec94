"""The teacher of AnyRes-GAN's second stage: a patch must agree with the first stage's picture of the same scene.

Chai et al., ECCV 2022, section 3.2. Direction "inverse": the patch is resampled, band-limited, to the pixels of the teacher's
picture. Direction "forward", known to blur: the teacher's picture is resampled to the pixels of the patch. All samples of a batch
are computed together, whatever their windows.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from anyres.networks.generator import StyleGenerator
from anyres.networks.perceptual import perceptual, perceptual_features
from anyres.networks.scene import Scene
from anyres.networks.warp import masked_mean, warp
from anyres.plane.window import Window


class Teacher(nn.Module):
    """A frozen generator of whole frames, and the distance of patches to its pictures."""

    generator: StyleGenerator

    def __init__(self, generator: StyleGenerator, base: Window, direction: str, perceptual: str):
        super().__init__()
        self.generator = generator.eval().requires_grad_(False)
        self.base = base
        self.direction = direction
        self.features = perceptual_features(perceptual)

    def forward(self, fake: Tensor, scene: Scene, windows: Sequence[Window]) -> Tensor:
        """Return the mean distance of `fake` (b, 3, h, w) in [-1, 1] at `windows` to the teacher's pictures, scalar.

        It is the L1 distance. In the inverse direction it is a mean over the pixels of the frame that a patch covers, taken for
        each sample: so all zooms have equal weight. With features, the distance of channel-normalised maps is added, under the
        same mask; outside the patch both pictures are the teacher's.
        """
        bases = [around(window, self.base) for window in windows]
        with torch.no_grad():
            target = self.generator(scene, bases)
        if self.direction == "forward":
            rows, columns, _ = warp(windows, bases, fake.device)
            return (fake - torch.einsum("bij,bcjk,blk->bcil", rows, target, columns)).abs().mean()
        rows, columns, mask = warp(bases, windows, fake.device)
        resampled = torch.einsum("bij,bcjk,blk->bcil", rows, fake.float(), columns)
        distance = masked_mean((resampled - target).abs(), mask)
        if self.features is not None:
            distance = distance + perceptual(self.features, torch.where(mask > 0, resampled, target), target, mask)
        return distance


def around(window: Window, base: Window) -> Window:
    """Return the frame of the size of `base` that contains `window` and lies nearest to the middle of the plane."""
    center = []
    for position, extent, frame in zip(window.center, window.extent[::-1], base.extent[::-1], strict=True):
        reach = max((frame - extent) / 2, 0.0)
        center.append(float(np.sign(position)) * max(abs(position) - reach, 0.0))
    return Window((center[0], center[1]), base.period, base.size)
