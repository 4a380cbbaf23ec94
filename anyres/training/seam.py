"""Pictures across the border of two frames: a generator with visible borders learns to hide them.

AnyRes-GAN's training for 360 degrees (Chai et al., ECCV 2022, section 4.3): a frame and its right neighbour are drawn, and the
discriminator gets a window across their border. Here at any zoom, for any generator.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from anyres.networks.generator import StyleGenerator
from anyres.networks.scene import Scene
from anyres.plane import fields
from anyres.plane.window import Window


def draw_seam_patches(g: StyleGenerator, scene: Scene, windows: Sequence[Window]) -> Tensor:
    """Draw windows of one size (b, 3, h, w), each cut from two frames side by side that meet at a random column of the window.

    The column is a function of the scene's seed. Each window costs two frames.
    """
    width = windows[0].size[1]
    bits = fields.mix(fields.key(scene.seeds, fields.Stream.SEAM_CUT))
    cuts = ((bits & 0x7FFFFFFF) % width).tolist()
    left = [window.crop(0, -cut, window.size) for window, cut in zip(windows, cuts, strict=True)]
    right = [window.crop(0, width, window.size) for window in left]
    both = g(scene.repeated(2), left + right)
    wide = torch.cat(both.chunk(2), dim=3)
    return torch.stack([picture[:, :, cut : cut + width] for picture, cut in zip(wide, cuts, strict=True)])
