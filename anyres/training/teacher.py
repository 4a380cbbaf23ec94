"""The teacher of AnyRes-GAN's second stage: what a patch shows must agree with the first stage's picture of the scene.

Chai et al., ECCV 2022, section 3.2. The patch is brought down, band-limited, to the pixels of the teacher's picture ("inverse"),
or the teacher's part is brought up to the patch ("forward", known to blur). All samples at once, whatever their windows.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from anyres.networks.generator import StyleGenerator
from anyres.networks.perceptual import perceptual, perceptual_features
from anyres.networks.scene import Scene
from anyres.networks.warp import warp
from anyres.plane.window import Window
from anyres.training.reduce import Mean, identity


class Teacher(nn.Module):
    """A frozen generator of whole frames and the distance of patches to what it draws."""

    generator: StyleGenerator

    def __init__(self, generator: StyleGenerator, base: Window, direction: str, perceptual: str):
        super().__init__()
        self.generator = generator.eval().requires_grad_(False)
        self.base = base
        self.direction = direction
        self.features = perceptual_features(perceptual)

    def forward(self, fake: Tensor, scene: Scene, windows: Sequence[Window], mean: Mean = identity) -> Tensor:
        """Mean distance of `fake` (b, 3, h, w) in [-1, 1] at `windows` to the teacher's pictures, scalar.

        L1 and, in the inverse direction with features, the distance of their channel-normalised maps, outside of the patch
        the same picture.
        """
        bases = [around(window, self.base) for window in windows]
        with torch.no_grad():
            taught = self.generator(scene, bases)
        if self.direction == "forward":
            rows, columns, _ = warp(windows, bases, fake.device)
            return (fake - torch.einsum("bij,bcjk,blk->bcil", rows, taught, columns)).abs().mean()
        rows, columns, mask = warp(bases, windows, fake.device)
        brought = torch.einsum("bij,bcjk,blk->bcil", rows, fake.float(), columns)
        # Windows cover more or less of the frame: a mean over what is covered in the whole batch.
        distance = mean(((brought - taught).abs() * mask).sum()) / mean(3 * mask.sum()).clamp_min(1.0)
        if self.features is not None:
            distance = distance + perceptual(self.features, torch.where(mask > 0, brought, taught), taught)
        return distance


def around(window: Window, base: Window) -> Window:
    """The frame like `base`, as near to the middle of the plane as it can lie, that holds `window`."""
    center = []
    for position, extent, frame in zip(window.center, window.extent[::-1], base.extent[::-1], strict=True):
        reach = max((frame - extent) / 2, 0.0)
        center.append(float(np.sign(position)) * max(abs(position) - reach, 0.0))
    return Window((center[0], center[1]), base.period, base.size)
