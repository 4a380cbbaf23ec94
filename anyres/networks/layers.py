"""Leaf layers: equalised linear and convolutional weights, modulation, resampling folded into the weights.

Equalised learning rate: Karras et al., "Progressive Growing of GANs", ICLR 2018, section 4.1.
Modulation and demodulation: Karras et al., "Analyzing and Improving the Image Quality of StyleGAN",
CVPR 2020, equations 1 and 3.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anyres.plane.shapes import Float

LEAK = 0.2
# Keeps the variance of a unit normal through leaky ReLU; folded into weights instead of costing a pass.
GAIN = math.sqrt(2 / (1 + LEAK**2))


class Linear(nn.Module):
    """Affine map with equalised learning rate: (b, in) -> (b, out)."""

    def __init__(self, inputs: int, outputs: int, *, bias: float = 0.0, gain: float = 1.0, lr: float = 1.0, zero: bool = False):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(outputs, inputs) if zero else torch.randn(outputs, inputs) / lr)
        self.bias = nn.Parameter(torch.full((outputs,), bias / lr))
        self.scale = gain * lr / math.sqrt(inputs)
        self.lr = lr

    def forward(self, x: Float[Tensor, "*b inputs"]) -> Float[Tensor, "*b outputs"]:
        return F.linear(x, self.weight * self.scale, self.bias * self.lr)


class Conv(nn.Module):
    """Convolution with equalised learning rate, zero-padded to keep the size: (b, in, h, w) -> (b, out, h, w).

    With a `stride` above 1 nothing is padded.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int = 3, *, gain: float = 1.0, bias: bool = True, stride: int = 1):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None
        self.scale = gain / math.sqrt(inputs * kernel**2)
        self.stride, self.padding = stride, kernel // 2 if stride == 1 else 0

    def forward(self, x: Float[Tensor, "b inputs h w"]) -> Float[Tensor, "b outputs _ _"]:
        weight = (self.weight * self.scale).contiguous(memory_format=torch.channels_last)
        return F.conv2d(x, weight, self.bias, stride=self.stride, padding=self.padding)


def blur(x: Float[Tensor, "b c h w"], padding: int, stride: int = 1) -> Float[Tensor, "b c _ _"]:
    """Filter by [1, 3, 3, 1] / 8 along both axes after zero padding, and keep every `stride`-th pixel."""
    channels = x.shape[1]
    taps = x.new_tensor([0.125, 0.375, 0.375, 0.125])
    # One filter of 4 x 4 is faster than two of 4 x 1, forwards and in a second derivative.
    weight = (taps[:, None] * taps).expand(channels, 1, 4, 4)
    return F.conv2d(x, weight, stride=stride, padding=padding, groups=channels)


def doubled_conv(
    x: Float[Tensor, "b inputs h w"], weight: Float[Tensor, "outputs inputs 3 3"]
) -> Float[Tensor, "b outputs 2*h-4 2*w-4"]:
    """`F.conv2d(upsample(x), weight)` of 3x3 kernels, at a quarter of its products: (b, in, h, w) -> (b, out, 2h-4, 2w-4).

    Doubling inserts zeros and filters by [1, 3, 3, 1] / 4 along each axis. Convolutions commute: the kernel goes first, as a
    transposed convolution that multiplies no zero, and the filter is left to fewer channels, one axis after the other.
    """
    outputs = len(weight)
    turned = weight.transpose(0, 1).flip(2, 3).contiguous(memory_format=torch.channels_last)
    # The border that the filter would fill only in part is cut.
    x = F.conv_transpose2d(x, turned, stride=2, padding=1)
    taps = x.new_tensor([0.25, 0.75, 0.75, 0.25])
    for shape in ((1, 1, 4, 1), (1, 1, 1, 4)):
        x = F.conv2d(x, taps.view(shape).expand(outputs, *shape[1:]), groups=outputs)
    return x


def upsample(x: Float[Tensor, "b c h w"], *, clamped: bool = False) -> Float[Tensor, "b c _ _"]:
    """Bilinear doubling (half-pixel centres): (b, c, h, w) -> (b, c, 2h, 2w) `clamped`, else (b, c, 2h-2, 2w-2) without
    that border.
    """
    doubled = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
    return doubled if clamped else doubled[:, :, 1:-1, 1:-1]


class Mixed(NamedTuple):
    """k styles (k, style_dim) over one map, and the share of each at the places of a layer's input and output: (b, k, h, w)."""

    styles: Tensor
    inputs: Tensor
    outputs: Tensor


def modulation(affine: Linear, style: Tensor | Mixed, power: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """What scales a layer's input, and its output where `power`, squared weights summed over taps (out, in), is given.

    Maps (b, channels, 1, 1) for a style (b, style_dim) each, (b, channels, h, w) for mixed ones: every output is demodulated by
    the style at its own place (Lin et al., ICLR 2022, section 4.5).
    """
    if isinstance(style, Mixed):
        scales = affine(style.styles)
        scale, at_output = (torch.einsum("bkhw,ki->bihw", share, scales) for share in (style.inputs, style.outputs))
        gain = None if power is None else F.conv2d(at_output.square(), power[:, :, None, None])
    else:
        scales = affine(style)
        scale = scales[:, :, None, None]
        gain = None if power is None else F.linear(scales.square(), power)[:, :, None, None]
    return scale, None if gain is None else GAIN * torch.rsqrt(gain + 1e-8)


def scaled(y: Float[Tensor, "b c h w"], gain: Float[Tensor, "b c _ _"]) -> Float[Tensor, "b c h w"]:
    """Return y times gain. In inference mode y is overwritten: a second map of this size would be memory for nothing."""
    return y.mul_(gain.to(y.dtype)) if torch.is_inference_mode_enabled() else y * gain.to(y.dtype)


class ModulatedConv(nn.Module):
    """Convolution whose input channels are scaled by a style, valid (no padding), demodulated.

    (b, in, h, w), (b, style) or Mixed -> (b, out, h', w') with h' = h - kernel + 1, or 2h - 2 - kernel + 1 where it doubles, or
    two more where it doubles `clamped`.
    The style scales the input and demodulation the output, so that all samples share one dense convolution;
    `per_sample` is the plain form with a weight of its own for each sample. Demodulation carries the gain of the
    leaky ReLU that follows.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        style_dim: int,
        kernel: int = 3,
        *,
        doubles: bool = False,
        clamped: bool = False,
        demodulates: bool = True,
    ):
        super().__init__()
        if doubles and kernel != 3:
            raise ValueError(f"doubling is folded into kernels of 3, found {kernel}")
        self.weight = nn.Parameter(torch.randn(outputs, inputs, kernel, kernel))
        self.style = Linear(style_dim, inputs, bias=1.0)
        self.scale = 1 / math.sqrt(inputs * kernel**2)
        self.doubles = doubles
        self.clamped = clamped
        self.demodulates = demodulates

    def forward(
        self, x: Float[Tensor, "b inputs _ _"], style: Float[Tensor, "b style_dim"] | Mixed, *, is_last_use: bool = False
    ) -> Float[Tensor, "b outputs _ _"]:
        """With `is_last_use` nobody reads x afterwards, so inference mode may overwrite it."""
        weight = self.weight * self.scale
        scale, gain = modulation(self.style, style, weight.square().sum(dim=(2, 3)) if self.demodulates else None)
        x = scaled(x, scale) if is_last_use else x * scale.to(x.dtype)
        weight = weight.to(x.dtype)
        # A clamped border repeats the edge of the picture.
        x = F.pad(x, (1, 1, 1, 1), mode="replicate") if self.clamped else x
        y = doubled_conv(x, weight) if self.doubles else F.conv2d(x, weight.contiguous(memory_format=torch.channels_last))
        y = y[:, :, 1:-1, 1:-1] if self.clamped else y
        return y if gain is None else scaled(y, gain)

    def per_sample(self, x: Float[Tensor, "b inputs _ _"], style: Float[Tensor, "b style_dim"]) -> Float[Tensor, "b outputs _ _"]:
        """The textbook form of `forward`, kept as its reference."""
        style = self.style(style)
        weight = self.weight[None] * self.scale * style[:, None, :, None, None]
        if self.demodulates:
            weight = weight * (GAIN * torch.rsqrt(weight.square().sum(dim=(2, 3, 4), keepdim=True) + 1e-8))
        x = upsample(x, clamped=self.clamped) if self.doubles else x
        return torch.cat([F.conv2d(x[i : i + 1], weight[i]) for i in range(len(x))])


def per_layer(w: Float[Tensor, "*b w_dim"], count: int) -> Sequence[Float[Tensor, "_ w_dim"]]:
    """Styles of `count` layers, (b, w_dim) each: one for all from w (b, w_dim), or each its own from w (b, count, w_dim)."""
    if w.ndim == 2:
        return [w] * count
    if w.ndim != 3 or w.shape[1] != count:
        raise ValueError(f"styles must be (batch, w_dim) or (batch, {count}, w_dim), found {tuple(w.shape)}")
    return w.unbind(dim=1)


class MappingNetwork(nn.Module):
    """z (b, z_dim) -> w (b, w_dim): pixel norm, then layers at a hundredth of the learning rate."""

    def __init__(self, z_dim: int, w_dim: int, layers: int):
        super().__init__()
        sizes = [z_dim] + [w_dim] * layers
        self.layers = nn.ModuleList(Linear(a, b, gain=GAIN, lr=0.01) for a, b in itertools.pairwise(sizes))

    def forward(self, z: Float[Tensor, "b z_dim"]) -> Float[Tensor, "b w_dim"]:
        w = z * torch.rsqrt(z.square().mean(dim=1, keepdim=True) + 1e-8)
        for layer in self.layers:
            w = F.leaky_relu(layer(w), LEAK)
        return w
