"""The alias-free trunk: the synthesis layers of StyleGAN3-T, for a canvas of any size.

Karras et al., "Alias-Free Generative Adversarial Networks", NeurIPS 2021: filters and their schedule from section 3 and
appendix C, layers from figure 4b. Each layer raises its input to a temporary rate, applies leaky ReLU there and filters
down again, so that no frequency folds back.

The obvious way inserts zeros and filters at the temporary rate. Here each phase of that grid is one small depthwise
filter at the low rate, channels last, which a CPU computes at full speed; `reference` keeps the obvious way.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anyres.networks.layers import LEAK, Linear

# The paper's constants, appendix C.
FIRST_CUTOFF = 2.0
FIRST_STOPBAND = 2**2.1
LAST_STOPBAND_REL = 2**0.3
MARGIN = 10
FILTER_SIZE = 6
# Of leaky ReLU.
GAIN = math.sqrt(2)
LRELU_UPSAMPLING = 2
CRITICAL = 2
CLAMP = 256.0
CHANNELS_LAST = torch.channels_last


@dataclass(frozen=True)
class Plan:
    """One layer: rates in samples per canvas of `resolution` pixels, cutoffs and half widths in cycles per such canvas."""

    inputs: int
    outputs: int
    kernel: int
    in_rate: int
    out_rate: int
    in_margin: int
    out_margin: int
    in_cutoff: float
    out_cutoff: float
    in_half_width: float
    out_half_width: float
    to_rgb: bool

    @property
    def rate(self) -> int:
        """The temporary rate of the nonlinearity."""
        return max(self.in_rate, self.out_rate) * (1 if self.to_rgb else LRELU_UPSAMPLING)

    @property
    def up(self) -> int:
        return self.rate // self.in_rate

    @property
    def down(self) -> int:
        return self.rate // self.out_rate

    @property
    def up_filter(self) -> tuple[float, ...]:
        taps = FILTER_SIZE * self.up if self.up > 1 and not self.to_rgb else 1
        return tuple(lowpass(taps, self.in_cutoff, 2 * self.in_half_width, self.rate))

    @property
    def down_filter(self) -> tuple[float, ...]:
        taps = FILTER_SIZE * self.down if self.down > 1 and not self.to_rgb else 1
        return tuple(lowpass(taps, self.out_cutoff, 2 * self.out_half_width, self.rate))

    @property
    def pad(self) -> tuple[int, int]:
        """Samples of the temporary grid to add before and after (negative: to cut): the same for every canvas."""
        total = (2 * self.out_margin - 1) * self.down + 1 - (2 * self.in_margin + self.kernel - 1) * self.up
        total += len(self.up_filter) + len(self.down_filter) - 2
        before = (total + self.up) // 2
        return before, total - before


def plan(resolution: int, layers: int, channel_base: int, channel_max: int) -> list[Plan]:
    """The layers from Fourier features to colours: `layers` convolutions and ToRGB."""
    last_cutoff = resolution / 2
    last_stopband = last_cutoff * LAST_STOPBAND_REL
    exponents = np.minimum(np.arange(layers + 1) / (layers - CRITICAL), 1)
    cutoffs = FIRST_CUTOFF * (last_cutoff / FIRST_CUTOFF) ** exponents
    stopbands = FIRST_STOPBAND * (last_stopband / FIRST_STOPBAND) ** exponents
    rates = np.exp2(np.ceil(np.log2(np.minimum(stopbands * 2, resolution)))).astype(int)
    half_widths = np.maximum(stopbands, rates / 2) - cutoffs
    channels = np.rint(np.minimum(channel_base / 2 / cutoffs, channel_max)).astype(int)
    channels[-1] = 3
    margins = [MARGIN] * (layers - 1) + [0, 0]
    found = []
    for index in range(layers + 1):
        before = max(index - 1, 0)
        found.append(
            Plan(
                inputs=int(channels[before]),
                outputs=int(channels[index]),
                kernel=1 if index == layers else 3,
                in_rate=int(rates[before]),
                out_rate=int(rates[index]),
                in_margin=margins[before],
                out_margin=margins[index],
                in_cutoff=float(cutoffs[before]),
                out_cutoff=float(cutoffs[index]),
                in_half_width=float(half_widths[before]),
                out_half_width=float(half_widths[index]),
                to_rgb=index == layers,
            )
        )
    return found


def lowpass(taps: int, cutoff: float, width: float, rate: float) -> np.ndarray:
    """A windowed-sinc low-pass filter: Kaiser's window for a transition of `width` about `cutoff`, all in cycles.

    Kaiser, "Nonrecursive digital filter design using the I0-sinh window function", 1974; equals scipy.signal.firwin.
    """
    if taps == 1:
        return np.ones(1)
    nyquist = rate / 2
    attenuation = 2.285 * (taps - 1) * math.pi * width / nyquist + 7.95
    if attenuation > 50:
        beta = 0.1102 * (attenuation - 8.7)
    elif attenuation > 21:
        beta = 0.5842 * (attenuation - 21) ** 0.4 + 0.07886 * (attenuation - 21)
    else:
        beta = 0.0
    place = np.arange(taps) - (taps - 1) / 2
    filtered = np.sinc(cutoff / nyquist * place) * np.kaiser(taps, beta)
    return filtered / filtered.sum()


@dataclass(frozen=True)
class Phases:
    """A layer's filters by phase of the temporary grid: sample i of it is number i // step of phase i % step.

    Raising is then one small filter for each phase on the low rate, `raise_[phase]`, without zeros between samples, and
    lowering the sum of one on each phase, `lower[phase]`. The pads belong to the low rate, negative ones cut. Phases are
    counted along both axes, row by row; filters are alike on both.
    """

    up: int
    down: int
    raising: np.ndarray  # (up, taps)
    raise_pad: tuple[int, int]
    lowering: np.ndarray  # (down, taps)
    extra: int  # outputs at the end that are cut again

    @classmethod
    def of(cls, layer: Plan) -> Phases:
        taps, (before, after) = np.asarray(layer.up_filter), layer.pad
        # Sample m of phase p reads input m + d by tap d up + before - p.
        reach = [(-(-(phase - before) // layer.up), (len(taps) - 1 + phase - before) // layer.up) for phase in range(layer.up)]
        low, high = min(first for first, _ in reach), max(last for _, last in reach)
        index = np.arange(low, high + 1)[None, :] * layer.up + before - np.arange(layer.up)[:, None]
        inside = (index >= 0) & (index < len(taps))
        raising = np.where(inside, layer.up * taps[np.clip(index, 0, len(taps) - 1)], 0.0)
        # The temporary grid has `change` samples more than `up` times the input; each phase its part, rounded up.
        change = before + after - len(taps) + 1
        longer = -(-change // layer.up)
        down = np.asarray(layer.down_filter)
        # Per axis: the gain of leaky ReLU costs no pass of its own.
        lowering = math.sqrt(GAIN) * np.pad(down, (0, -len(down) % layer.down)).reshape(-1, layer.down).T
        extra = longer * layer.up // layer.down - lowering.shape[1] - (change - len(down)) // layer.down
        return cls(layer.up, layer.down, raising, (-low, longer + high), lowering, extra)


@lru_cache(maxsize=256)
def _phases(layer: Plan) -> Phases:
    return Phases.of(layer)


@lru_cache(maxsize=1024)
def _kernels(layer: Plan, raising: bool, flipped: bool, channels: int, device: torch.device, dtype: torch.dtype) -> list[Tensor]:
    """Depthwise kernels (channels, 1, taps, taps), one a phase."""
    taps = _phases(layer).raising if raising else _phases(layer).lowering
    taps = taps[:, ::-1] if flipped else taps
    return [
        torch.from_numpy(np.outer(y, x)).to(device, dtype).expand(channels, 1, -1, -1).contiguous(memory_format=CHANNELS_LAST)
        for y in taps
        for x in taps
    ]


def filtered_lrelu(x: Tensor, layer: Plan, slope: float = LEAK) -> Tensor:
    """Up, leaky ReLU with its gain, down: (b, c, h, w) after the convolution -> (b, c, h', w').

    Any number of times differentiable.
    """
    if torch.compiler.is_exporting():
        return _in_graph(x, layer, slope)
    x = x.contiguous(memory_format=CHANNELS_LAST)
    return _Filtered.apply(x, x.detach(), layer, slope)


def _in_graph(x: Tensor, layer: Plan, slope: float) -> Tensor:
    """`filtered_lrelu` for a graph that is exported: no backward pass, nothing kept between calls, all phases in one filter."""
    phases = _phases(layer)
    raising, lowering = (
        torch.from_numpy(np.stack([np.outer(rows, columns) for rows in taps for columns in taps])).to(x)
        for taps in (phases.raising, phases.lowering)
    )
    before, after = phases.raise_pad
    single = F.pad(x.flatten(0, 1)[:, None], (before, after, before, after))
    raised = F.leaky_relu(F.conv2d(single, raising[:, None]), slope)
    if phases.up != phases.down:
        raised = F.pixel_unshuffle(F.pixel_shuffle(raised, phases.up), phases.down)
    y = F.conv2d(raised, lowering[None])
    return y[:, 0, : y.shape[2] - phases.extra, : y.shape[3] - phases.extra].unflatten(0, x.shape[:2])


class _Filtered(torch.autograd.Function):
    """v -> down(m * up(v)) with m the slope of leaky ReLU at up(x); for v = x that is down(lrelu(up(x))).

    The temporary grid is several times as large as input and output: it is made again in the backward pass instead of kept.
    """

    @staticmethod
    def forward(ctx: Any, v: Tensor, x: Tensor, layer: Plan, slope: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.layer, ctx.slope = layer, slope
        raised = _raise(x, layer)
        if v.data_ptr() == x.data_ptr():
            sloped = [F.leaky_relu_(phase, slope) for phase in raised]
        else:
            sloped = [_sloped(y, phase, slope) for y, phase in zip(_raise(v, layer), raised, strict=True)]
        return _lower(sloped, layer)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        (x,) = ctx.saved_tensors
        return _Adjoint.apply(gradients[0], x, ctx.layer, ctx.slope), None, None, None


class _Adjoint(torch.autograd.Function):
    """g -> the adjoint of `_Filtered` in v, applied to g."""

    @staticmethod
    def forward(ctx: Any, g: Tensor, x: Tensor, layer: Plan, slope: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.layer, ctx.slope = layer, slope
        pairs = zip(_lower_adjoint(g.contiguous(memory_format=CHANNELS_LAST), layer), _raise(x, layer), strict=True)
        return _raise_adjoint([_sloped(y, phase, slope) for y, phase in pairs], layer)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        (x,) = ctx.saved_tensors
        v = gradients[0].contiguous(memory_format=CHANNELS_LAST)
        return _Filtered.apply(v, x, ctx.layer, ctx.slope), None, None, None


def _raise(x: Tensor, layer: Plan) -> list[Tensor]:
    """The temporary grid in phases of the rate of `down`."""
    phases = _phases(layer)
    x, padding = _padded(x, *phases.raise_pad)
    raised = [F.conv2d(x, kernel, padding=padding, groups=x.shape[1]) for kernel in _of(layer, True, False, x)]
    return raised if phases.up == phases.down else _regrouped(raised, phases.up, phases.down)


def _raise_adjoint(ys: list[Tensor], layer: Plan) -> Tensor:
    phases = _phases(layer)
    ys = ys if phases.up == phases.down else _ungrouped(ys, phases.up, phases.down)
    taps = phases.raising.shape[1]
    before, after = (taps - 1 - pad for pad in phases.raise_pad)
    kernels = _of(layer, True, True, ys[0])
    total = None
    for y, kernel in zip(ys, kernels, strict=True):
        y, padding = _padded(y, before, after)
        part = F.conv2d(y, kernel, padding=padding, groups=y.shape[1])
        total = part if total is None else total.add_(part)
    assert total is not None
    return total


def _lower(ys: list[Tensor], layer: Plan) -> Tensor:
    total = None
    for y, kernel in zip(ys, _of(layer, False, False, ys[0]), strict=True):
        part = F.conv2d(y, kernel, groups=y.shape[1])
        total = part if total is None else total.add_(part)
    assert total is not None
    extra = _phases(layer).extra
    return total[:, :, : total.shape[2] - extra, : total.shape[3] - extra]


def _lower_adjoint(g: Tensor, layer: Plan) -> list[Tensor]:
    pad, extra = _phases(layer).lowering.shape[1] - 1, _phases(layer).extra
    g = F.pad(g, (0, extra, 0, extra)) if extra else g
    return [F.conv2d(g, kernel, padding=pad, groups=g.shape[1]) for kernel in _of(layer, False, True, g)]


def _padded(x: Tensor, before: int, after: int) -> tuple[Tensor, int]:
    """Pad or cut both axes, or leave an even pad to the convolution, which needs no copy for it."""
    if before == after >= 0:
        return x, before
    return F.pad(x, (before, after, before, after)), 0


def _regrouped(ys: list[Tensor], up: int, down: int) -> list[Tensor]:
    """Phases of step `up` as phases of step `down`, each `up / down` times as long."""
    ratio = up // down
    b, c, h, w = ys[0].shape
    like = {"dtype": ys[0].dtype, "device": ys[0].device, "memory_format": CHANNELS_LAST}
    out = [torch.empty((b, c, h * ratio, w * ratio), **like) for _ in range(down * down)]
    for index, y in enumerate(ys):
        (row, column) = divmod(index, up)
        out[row % down * down + column % down][:, :, row // down :: ratio, column // down :: ratio] = y
    return out


def _ungrouped(ys: list[Tensor], up: int, down: int) -> list[Tensor]:
    """The other way."""
    ratio = up // down
    return [
        ys[row % down * down + column % down][:, :, row // down :: ratio, column // down :: ratio]
        for row in range(up)
        for column in range(up)
    ]


def _of(layer: Plan, raising: bool, flipped: bool, x: Tensor) -> list[Tensor]:
    return _kernels(layer, raising, flipped, x.shape[1], x.device, x.dtype)


def _sloped(y: Tensor, argument: Tensor, slope: float) -> Tensor:
    """y, overwritten, times the slope of leaky ReLU at `argument`."""
    return torch.ops.aten.leaky_relu_backward.grad_input(y, argument, slope, False, grad_input=y)


# ---- layers


class AliasFreeConv(nn.Module):
    """Modulated convolution with zeros about it, bias, leaky ReLU at a higher rate: (b, in, h, w), styles -> (b, out, h', w').

    Weights and styles are normalised before demodulation and inputs by the running mean of their power (Karras et al. 2021,
    appendix D.1), which keeps every layer's output at unit variance. `scale` adds to the style: see AnyresGan.
    """

    magnitude: Tensor

    def __init__(self, layer: Plan, style_dim: int):
        super().__init__()
        self.layer = layer
        self.weight = nn.Parameter(torch.randn(layer.outputs, layer.inputs, layer.kernel, layer.kernel))
        self.bias = nn.Parameter(torch.zeros(layer.outputs))
        self.style = Linear(style_dim, layer.inputs, bias=1.0)
        # Zero at first: training on patches starts at the network that ignores scale.
        self.scale_style = Linear(style_dim, layer.inputs, zero=True)
        self.register_buffer("magnitude", torch.ones(()))

    @torch.no_grad()
    def follow(self, power: Tensor, beta: float) -> None:
        """Take in the mean power of inputs; what was known weighs `beta`."""
        self.magnitude.lerp_(power, 1 - beta)

    def forward(self, x: Tensor, w: Tensor, scale: Tensor | None) -> Tensor:
        style, weight = self._modulation(w, scale)
        demodulation = self._demodulation(style, weight)
        y = F.conv2d(
            x * style[:, :, None, None].to(x.dtype),
            weight.to(x.dtype).contiguous(memory_format=CHANNELS_LAST),
            padding=self.layer.kernel - 1,
        )
        gain = demodulation * torch.rsqrt(self.magnitude)
        if self.layer.to_rgb:
            return y.float() * gain[:, :, None, None] + self.bias[:, None, None]
        y = torch.addcmul(self.bias[:, None, None].to(x.dtype), y, gain[:, :, None, None].to(x.dtype))
        y = filtered_lrelu(y, self.layer)
        return y if y.dtype == torch.float32 else y.clamp(-CLAMP, CLAMP)

    def plain(self, x: Tensor, w: Tensor, scale: Tensor | None) -> Tensor:
        """The textbook form of `forward`, kept as its reference: a weight for each sample, filters by depthwise convolution."""
        style, weight = self._modulation(w, scale)
        own = weight[None] * style[:, None, :, None, None] * self._demodulation(style, weight)[:, :, None, None, None]
        own = own * torch.rsqrt(self.magnitude)
        batch, channels, height, width = x.shape
        y = F.conv2d(
            x.reshape(1, batch * channels, height, width), own.flatten(0, 1), padding=self.layer.kernel - 1, groups=batch
        )
        y = y.unflatten(1, (batch, -1)).squeeze(0) + self.bias[:, None, None]
        return y if self.layer.to_rgb else reference(y, self.layer).clamp(-CLAMP, CLAMP)

    def _modulation(self, w: Tensor, scale: Tensor | None) -> tuple[Tensor, Tensor]:
        style = self.style(w) if scale is None else self.style(w) + self.scale_style(scale)
        if self.layer.to_rgb:
            return style / math.sqrt(self.weight[0].numel()), self.weight
        style = style * torch.rsqrt(style.square().mean())
        return style, self.weight * torch.rsqrt(self.weight.square().mean(dim=(1, 2, 3), keepdim=True))

    def _demodulation(self, style: Tensor, weight: Tensor) -> Tensor:
        if self.layer.to_rgb:
            return style.new_ones(len(style), 3)
        return torch.rsqrt(F.linear(style.square(), weight.square().sum(dim=(2, 3))) + 1e-8)


def reference(x: Tensor, layer: Plan, slope: float = LEAK) -> Tensor:
    """The plain form of `filtered_lrelu`: zeros inserted, then depthwise convolutions."""
    before, after = layer.pad
    b, c, h, w = x.shape
    spread = x.new_zeros(b, c, h, layer.up, w, layer.up)
    spread[:, :, :, 0, :, 0] = x
    x = F.pad(spread.reshape(b, c, h * layer.up, w * layer.up), (before, after, before, after))
    x = _depthwise(x, torch.tensor(layer.up_filter).to(x) * layer.up)
    x = F.leaky_relu(x, slope) * GAIN
    return _depthwise(x, torch.tensor(layer.down_filter).to(x))[:, :, :: layer.down, :: layer.down]


def _depthwise(x: Tensor, taps: Tensor) -> Tensor:
    c = x.shape[1]
    x = F.conv2d(x, taps[None, None, :, None].expand(c, 1, -1, 1), groups=c)
    return F.conv2d(x, taps[None, None, None, :].expand(c, 1, 1, -1), groups=c)
