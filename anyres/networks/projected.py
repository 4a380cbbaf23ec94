"""Discriminator heads on the features of a frozen network, beside the discriminator.

Sauer et al., "Projected GANs Converge Faster", NeurIPS 2021, section 3, without the mixing across scales; beside a discriminator
that learns all its layers as in Kumari et al., "Ensembling Off-the-shelf Models for GAN Training", CVPR 2022. The published heads
enlarge pictures to 224 px. These take them at their own size, which costs a fiftieth for a patch of 32 px.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm
from torch.nn.utils.parametrize import is_parametrized

from anyres.networks.backbones import lite0
from anyres.networks.layers import LEAK
from anyres.plane.shapes import Float

# Pixels of a picture for one of a feature map of EfficientNet-Lite0 -> channels of that map, from fine to coarse.
TAPS = {2: 16, 4: 24, 8: 40, 16: 112, 32: 320}


class ProjectedHeads(nn.Module):
    """Pictures (b, 3, h, w) in [-1, 1] -> one logit a picture and head, (heads, b).

    A feature map for each of `taps` goes through a frozen random 1x1 convolution to `width` channels, and then through a small
    head. `heads` is all that is trained; the backbone comes from a package, the random convolutions from torch's generator.
    """

    def __init__(self, taps: Sequence[int], width: int):
        super().__init__()
        self.backbone = lite0()
        self.indices = [list(TAPS).index(tap) for tap in taps]
        for number, tap in enumerate(taps):
            kernel = torch.randn(width, TAPS[tap], 1, 1) * math.sqrt(2 / TAPS[tap])
            self.register_buffer(f"mix{number}", kernel, persistent=False)
        # In training mode, every pass would change the estimate of the spectral norm: see `update_norms`.
        self.heads = nn.ModuleList(_head(width) for _ in taps).eval()

    def forward(self, pictures: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "heads b"]:
        maps = self.backbone.maps(pictures.contiguous(memory_format=torch.channels_last), self.indices)
        logits = []
        for number, (head, features) in enumerate(zip(self.heads, maps, strict=True)):
            mixed = F.conv2d(features, self.get_buffer(f"mix{number}").to(features.dtype))
            logits.append(head(mixed).float().mean(dim=(1, 2, 3)))
        return torch.stack(logits)

    def d_loss(self, real: Float[Tensor, "b 3 h w"], fake: Float[Tensor, "b 3 h w"]) -> Float[Tensor, ""]:
        """Return the hinge loss of the heads, mean over heads: logits of real pictures above 1, those of fakes below -1."""
        of_real, of_fake = self(torch.cat([real.detach(), fake.detach()])).split(len(real), dim=1)
        return F.relu(1 - of_real).mean() + F.relu(1 + of_fake).mean()

    def g_loss(self, fake: Float[Tensor, "b 3 h w"]) -> Float[Tensor, ""]:
        """Return minus the mean logit of fakes, mean over heads."""
        return -self(fake).mean()

    @torch.no_grad()
    def update_norms(self) -> None:
        """Improve the estimate of each spectral norm by one power iteration: once a step, however many passes it has."""
        self.heads.train()
        for module in self.heads.modules():
            if is_parametrized(module):
                _ = module.weight
        self.heads.eval()


def _head(width: int) -> nn.Sequential:
    first, second, last = (
        spectral_norm(layer)
        for layer in (nn.Conv2d(width, width, 1), nn.Conv2d(width, width, 3, padding=1), nn.Conv2d(width, 1, 1))
    )
    return nn.Sequential(first, nn.LeakyReLU(LEAK), second, nn.LeakyReLU(LEAK), last)
