"""The residual discriminator of StyleGAN2, with adaptive pooling so that one network takes any patch size.

Karras et al., CVPR 2020, section 4.1; minibatch deviation: Karras et al., ICLR 2018, section 3; adaptive pooling:
Ntavelis et al., CVPR 2022, section 3.3.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anyres.networks.attention import SelfAttention
from anyres.networks.layers import GAIN, LEAK, Conv, Linear, blur
from anyres.plane.shapes import Float

GROUP = 4


class Block(nn.Module):
    """Two convolutions and a halving beside a linear skip: (b, in, h, w) -> (b, out, h/2, w/2).

    With `blurs` both branches filter by [1, 3, 3, 1] and take every other pixel, as StyleGAN2's block does. Otherwise they
    average 2 x 2, the main branch before its second convolution. At three quarters of the Nyquist rate the filter lets 0.056
    through, the average 0.383.
    """

    def __init__(self, inputs: int, outputs: int, *, blurs: bool = False):
        super().__init__()
        stride = 2 if blurs else 1
        self.blurs = blurs
        self.conv = Conv(inputs, inputs, gain=GAIN)
        # Both branches meet with the variance of one.
        self.down = Conv(inputs, outputs, gain=GAIN / math.sqrt(2), stride=stride)
        self.skip = Conv(inputs, outputs, kernel=1, gain=1 / math.sqrt(2), bias=False)

    def forward(self, x: Float[Tensor, "b inputs h w"]) -> Float[Tensor, "b outputs h//2 w//2"]:
        y = F.leaky_relu(self.conv(x), LEAK)
        if self.blurs:
            y, x = blur(y, padding=2), blur(x, padding=1, stride=2)
        else:
            # Averaging before the convolution halves the rate where it is cheapest.
            y, x = F.avg_pool2d(y, 2), F.avg_pool2d(x, 2)
        return F.leaky_relu(self.down(y), LEAK) + self.skip(x)


class Discriminator(nn.Module):
    """Pictures (b, 3, h, w) in [-1, 1] -> logits (b,). `channels` run from the finest level to the coarsest.

    The coarsest map is pooled to `pooled` pixels a side. With `heads` it attends to itself; a caller that differentiates
    logits by pictures twice says so.
    Pictures are standardised first, by `mean` and `spread` of the training data: see `standardize`. With `reads_height` a second
    head tells where the picture's middle lies, for `forward_heads` (Lin et al., ICLR 2022, section 3.4). It reads the last hidden
    layer of the logit, or with `own_height_layers` a hidden layer of its own on the flattened map, as published.
    """

    mean: Tensor
    spread: Tensor

    def __init__(
        self,
        channels: Sequence[int],
        heads: int = 0,
        pooled: int = 2,
        *,
        blurs: bool = False,
        reads_height: bool = False,
        own_height_layers: bool = False,
    ):
        super().__init__()
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("spread", torch.ones(()))
        self.pooled = pooled
        self.from_rgb = Conv(3, channels[0], kernel=1, gain=GAIN)
        self.blocks = nn.ModuleList(Block(a, b, blurs=blurs) for a, b in itertools.pairwise(channels))
        last = channels[-1]
        self.attention = SelfAttention(last, heads) if heads else None
        self.conv = Conv(last + 1, last, gain=GAIN)
        self.hidden = Linear(last * pooled**2, last, gain=GAIN)
        self.logit = Linear(last, 1)
        self.height = Linear(last, 1) if reads_height else None
        self.height_hidden = Linear(last * pooled**2, last, gain=GAIN) if reads_height and own_height_layers else None

    def standardize(self, pictures: Float[Tensor, "n 3 h w"]) -> None:
        """Take mean and spread from real pictures (n, 3, h, w).

        A dark domain is nearly constant to a network that expects noise about zero: without this its discriminator
        learns several times more slowly than the generator changes.
        """
        self.mean.copy_(pictures.mean())
        self.spread.copy_(pictures.std().clamp_min(1e-3))

    def features(self, pictures: Float[Tensor, "b 3 h w"]) -> list[Float[Tensor, "b _ _ _"]]:
        """Outputs of the blocks, from fine to coarse."""
        x = ((pictures - self.mean) / self.spread).contiguous(memory_format=torch.channels_last)
        x = F.leaky_relu(self.from_rgb(x), LEAK)
        return [x := block(x) for block in self.blocks]

    def forward(self, pictures: Float[Tensor, "b 3 h w"], *, twice_differentiable: bool = False) -> Float[Tensor, " b"]:
        return self._heads(self._seen(pictures, twice_differentiable))[0]

    def forward_heads(
        self, pictures: Float[Tensor, "b 3 h w"], *, twice_differentiable: bool = False
    ) -> tuple[Float[Tensor, " b"], Float[Tensor, " b"] | None]:
        """Logits (b,) and, with that head, the height (b,) that the pictures seem to stand at, in half short sides, y down."""
        return self._heads(self._seen(pictures, twice_differentiable))

    def forward_pairs(
        self, parts: Sequence[Float[Tensor, "b 3 h w"]], *, twice_differentiable: bool = False
    ) -> list[tuple[Float[Tensor, " b"], Float[Tensor, " b"] | None]]:
        """Run `forward_heads` on several batches of one size, in one pass if their groups do not mix: that costs less.

        The heads process the batches one by one. Then the terms of real and fake logits cancel to the last bit in the gradient of
        the heads' bias; otherwise Adam would scale the rounding error up to a full step.
        """
        count = len(parts[0])
        if count % GROUP:
            return [self.forward_heads(part, twice_differentiable=twice_differentiable) for part in parts]
        seen = self._seen(torch.cat(list(parts)), twice_differentiable)
        return [self._heads(part) for part in seen.split(count)]

    def _heads(self, seen: Tensor) -> tuple[Tensor, Tensor | None]:
        last = self.logit.weight.shape[1]
        logits = self.logit(seen[:, :last]).squeeze(1).float()
        return logits, None if self.height is None else self.height(seen[:, -last:]).squeeze(1).float()

    def _seen(self, pictures: Tensor, twice_differentiable: bool) -> Tensor:
        """The last hidden layer of the logit, (b, last), and after it that of the height if it has its own."""
        x = self.features(pictures)[-1]
        if self.attention is not None:
            x = self.attention(x, twice_differentiable=twice_differentiable)
        x = torch.cat([x, deviation(x)], dim=1)
        x = F.adaptive_avg_pool2d(F.leaky_relu(self.conv(x), LEAK), self.pooled).flatten(1)
        hidden = F.leaky_relu(self.hidden(x), LEAK)
        if self.height_hidden is None:
            return hidden
        return torch.cat([hidden, F.leaky_relu(self.height_hidden(x), LEAK)], dim=1)


def deviation(x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 1 h w"]:
    """Mean standard deviation over groups of pictures, one map: (b, c, h, w) -> (b, 1, h, w)."""
    batch, _, height, width = x.shape
    group = math.gcd(batch, GROUP)
    # Neighbours form a group, so that splitting a batch over processes leaves the groups as they are.
    grouped = x.reshape(batch // group, group, -1)
    # Written out: a variance over so few is many times slower than its parts.
    spread = ((grouped - grouped.mean(dim=1, keepdim=True)).square().mean(dim=1) + 1e-8).sqrt().mean(dim=1)
    return spread.repeat_interleave(group)[:, None, None, None].expand(batch, 1, height, width)
