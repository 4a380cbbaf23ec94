"""Counter-based fields: noise that is a pure function of (seed, stream, place on the plane).

A tile does not depend on its neighbours or on the order of tiles, and memory does not grow with the canvas.
The generator is splitmix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators",
OOPSLA 2014): its finaliser over a key that each coordinate advances by an odd constant.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from anyres.plane.arrays import converted, is_tensor, namespace, numbers, stacked
from anyres.plane.chart import Chart
from anyres.plane.shapes import Float32, Int64
from anyres.plane.window import Window


def _signed(value: int) -> int:
    return value - 2**64 if value >= 2**63 else value


GAMMA = _signed(0x9E3779B97F4A7C15)
GAMMA_X = _signed(0xD1B54A32D192ED03)
GAMMA_Y = _signed(0x8CB92BA72F3D8DD7)
MIX_1 = _signed(0xBF58476D1CE4E5B9)
MIX_2 = _signed(0x94D049BB133111EB)


def mix(x: Int64[Tensor, "*shape"]) -> Int64[Tensor, "*shape"]:
    """The finaliser of splitmix64 on int64, wrapping as unsigned arithmetic does."""
    x = (x ^ _shift(x, 30)) * MIX_1
    x = (x ^ _shift(x, 27)) * MIX_2
    return x ^ _shift(x, 31)


@enum.unique
class Stream(enum.IntEnum):
    """The random streams of one seed; different streams are independent.

    A stream with a count takes the numbers from its own up to the next one: noise of level k is NOISE + k.
    """

    # Phases of Fourier features, of a scene.
    PHASES = -9
    # Fields of the diversity loss's second local latents.
    DIVERSITY = -8
    # The second z of style mixing, and the layer from which it applies.
    MIXED_LATENT = -7
    MIXED_LAYER = -6
    # The noise that path length regularisation projects on.
    PATH_LENGTH = -5
    # CutMix and ChannelMix.
    PATCH_MIX = -4
    # The column at which a patch is cut from two frames.
    SEAM_CUT = -3
    # Directions and phases of Fourier features.
    FREQUENCIES = -2
    # The latent z.
    LATENT = -1
    # Noise of each level of a trunk.
    NOISE = 0
    # Local latents of infinity_gan.
    LOCAL = 1 << 16
    # Fields of each octave of continuum on the plane.
    OCTAVES = 1 << 17


def key(seeds: Int64[Tensor, "*shape"], stream: int) -> Int64[Tensor, "*shape"]:
    """Return one key for each seed; different streams are independent fields of one seed."""
    return mix(mix(seeds * GAMMA + GAMMA) + _signed(((stream + 1) * 0xA0761D6478BD642F) % 2**64))


def lattice_bits(keys: Int64[Tensor, " b"], ix: Int64[Tensor, "b w"], iy: Int64[Tensor, "b h"]) -> Int64[Tensor, "b h w"]:
    """64 random bits, int64 (b, h, w), for keys (b,), columns ix (b, w) and rows iy (b, h), int64."""
    columns = mix(keys[:, None] + ix * GAMMA_X)
    return mix(columns[:, None, :] + iy[:, :, None] * GAMMA_Y)


def normal_from_bits(bits: Int64[Tensor, "*shape"]) -> Float32[Tensor, "*shape"]:
    """Standard normals, float32, from 64 random bits each (Box and Muller 1958, the cosine branch)."""
    upper, lower = _shift(bits, 32), bits & 0xFFFFFFFF
    radius = torch.sqrt(-2.0 * torch.log((upper.to(torch.float64) + 0.5) * 2.0**-32).to(torch.float32))
    return radius * torch.cos(lower.to(torch.float32) * (2.0 * math.pi * 2.0**-32))


def latent(seeds: Sequence[int] | Int64[Tensor, " b"], dim: int) -> Float32[Tensor, "b {dim}"]:
    """Standard normal z (b, dim): the same for a seed on every machine."""
    seeds = torch.as_tensor(seeds, dtype=torch.int64)
    index = torch.arange(dim, dtype=torch.int64, device=seeds.device)
    return normal_from_bits(mix(key(seeds, Stream.LATENT)[:, None] + index * GAMMA_X))


def octave_of(spacing: Any) -> Any:
    """Return the real octave of samples `spacing` apart, a number or a scalar tensor: cells of octave k have a side of 2^-k."""
    return -namespace(spacing).log2(spacing)


def sample(
    seeds: Int64[Tensor, " b"],
    stream: int,
    windows: Sequence[Window],
    chart: Chart,
) -> Float32[Tensor, "b h w"]:
    """Sample the field of each seed (b,) at its window's pixel centres: float32 (b, h, w), mean 0, variance 1.

    The lattices of the two octaves about the sampling rate are interpolated linearly, each with its variance
    restored, and blended by cosine and sine of the fractional octave: continuous in position and in scale.
    """
    if any(window.size != windows[0].size for window in windows[1:]):
        raise ValueError("windows of one batch must have one size")
    real_octaves = [octave_of(window.period) for window in windows]
    xp = namespace(real_octaves[0])
    total = None
    for upper in (0, 1):
        octaves = [xp.floor(octave) + upper for octave in real_octaves]
        fraction = [octave - xp.floor(octave) for octave in real_octaves]
        angle = [math.pi / 2 * (f if upper else 1 - f) for f in fraction]
        weight = numbers([xp.sin(a) for a in angle], torch.float32, seeds.device)
        part = _lattice_field(seeds, stream, windows, octaves, chart) * weight[:, None, None]
        total = part if total is None else total + part
    assert total is not None
    return total


def cells(
    seeds: Int64[Tensor, " b"], stream: int, count: int, ix: Int64[Tensor, "b w"], iy: Int64[Tensor, "b h"]
) -> Float32[Tensor, "b {count} h w"]:
    """Return `count` fields of independent unit normals, one per cell, at columns ix and rows iy."""
    streams = torch.arange(stream, stream + count, device=seeds.device)
    # The key of each stream, as `key` makes it, for all of them at once.
    keys = mix(mix(seeds * GAMMA + GAMMA)[:, None] + (streams + 1) * _signed(0xA0761D6478BD642F))
    columns = mix(keys[:, :, None] + ix[:, None, :] * GAMMA_X)
    return normal_from_bits(mix(columns[:, :, None, :] + iy[:, None, :, None] * GAMMA_Y))


def smooth(
    seeds: Int64[Tensor, " b"],
    stream: int,
    count: int,
    windows: Sequence[Window],
    side: float,
    edit: Callable[[np.ndarray], np.ndarray] | None = None,
) -> Float32[Tensor, "b {count} h w"]:
    """Sample `count` smooth fields of each seed at its window's pixels, or at the positions that `edit` maps them to.

    Normals on a lattice of cells `side` plane units wide, interpolated by cubic B-splines and divided by the resulting standard
    deviation: mean 0, variance 1 everywhere.
    """
    if edit is None:
        columns, across = _splines(stacked([window.axes()[0] / side for window in windows]))
        rows, down = _splines(stacked([window.axes()[1] / side for window in windows]))
        columns, across, rows, down = (torch.as_tensor(part, device=seeds.device) for part in (columns, across, rows, down))
        return down[:, None] @ cells(seeds, stream, count, columns, rows) @ across[:, None].transpose(2, 3)
    out = []
    for index, window in enumerate(windows):
        places = edit(window.coords()) / side
        low = np.floor(places).astype(np.int64) - 1
        first = low.min(axis=(0, 1))
        box = [
            torch.arange(n, device=seeds.device) + int(at) for n, at in zip(low.max(axis=(0, 1)) + 4 - first, first, strict=True)
        ]
        values = cells(seeds[index : index + 1], stream, count, box[0][None], box[1][None])[0]
        weights = [torch.from_numpy(_spline_weights(places[..., axis])).to(values) for axis in (0, 1)]
        x, y = (torch.from_numpy(low[..., axis] - first[axis]).to(seeds.device) for axis in (0, 1))
        total = values.new_zeros(count, *window.size)
        for i in range(4):
            for j in range(4):
                total += values[:, y + i, x + j] * (weights[1][..., i] * weights[0][..., j])
        out.append(total)
    return torch.stack(out)


NoisePolicy = Literal["grid_sample", "constant", "random"]


def noise(
    policy: NoisePolicy, seeds: Int64[Tensor, " b"], stream: int, windows: Sequence[Window], chart: Chart
) -> Float32[Tensor, "b h w"]:
    """Return unit normal noise of each seed at its window, under one of three policies.

    "grid_sample" is anchored to the plane, see `sample`: two windows of a scene agree at every scale. "constant" is one map for
    every scene and window, as in StyleGAN2. "random" is another map for each window. Ntavelis et al. 2022, section 4.3.
    """
    if policy == "grid_sample":
        return sample(seeds, stream, windows, chart)
    height, width = windows[0].size
    if policy == "constant":
        keys = key(torch.zeros_like(seeds), stream)
    else:
        if is_tensor(windows[0].period):
            raise ValueError(
                "noise of policy random hashes the bits of a window's numbers, which no graph reads; use grid_sample"
            )
        places = np.array([(*window.center, window.period) for window in windows]).view(np.int64)
        keys = key(seeds, stream)
        for column in torch.from_numpy(places).to(seeds.device).unbind(dim=1):
            keys = mix(keys + column)
    rows, columns = (torch.arange(count, device=seeds.device).expand(len(seeds), -1) for count in (height, width))
    return normal_from_bits(lattice_bits(keys, columns, rows))


def _lattice_field(seeds: Tensor, stream: int, windows: Sequence[Window], octaves: Sequence[Any], chart: Chart) -> Tensor:
    """Interpolate lattice normals of one octave a window, float32 (b, h, w)."""
    x = stacked([window.axes()[0] * 2.0**octave for window, octave in zip(windows, octaves, strict=True)])
    y = stacked([window.axes()[1] * 2.0**octave for window, octave in zip(windows, octaves, strict=True)])
    device = seeds.device
    columns, across = (torch.as_tensor(part, device=device) for part in _interpolation(x))
    rows, down = (torch.as_tensor(part, device=device) for part in _interpolation(y))
    turns = [chart.wrap_cells(octave) for octave in octaves]
    if turns[0] is not None:
        columns = columns % numbers(turns, torch.int64, device)[:, None]
    keys = key(seeds + numbers(octaves, torch.int64, device) * GAMMA_Y, stream)
    values = normal_from_bits(lattice_bits(keys, columns, rows))
    return down @ values @ across.transpose(1, 2)


def _interpolation(positions: Any) -> tuple[Any, Any]:
    """Lattice indices (b, n) and linear weights (b, m, n) of unit row norm, for positions (b, m) in cells."""
    xp = namespace(positions)
    fraction = positions - xp.floor(positions)
    # Two independent normals weighted (1-f, f) have variance (1-f)^2 + f^2: divide it out.
    norm = xp.sqrt((1 - fraction) ** 2 + fraction**2)
    return _spread(positions, [(1 - fraction) / norm, fraction / norm])


def _splines(positions: Any) -> tuple[Any, Any]:
    """Lattice indices (b, n) and weights (b, m, n) of unit row norm of cubic B-splines, for positions (b, m) in cells."""
    values = _spline_weights(positions)
    index, weights = _spread(positions, [values[..., tap] for tap in range(4)])
    return index - 1, weights


def _spread(positions: Any, taps: Sequence[Any]) -> tuple[Any, Any]:
    """Indices (b, n) from the lowest floor on, and weights (b, m, n) with `taps`, (b, m) each, from each position's floor on."""
    xp = namespace(positions)
    low = converted(xp.floor(positions), "int64")
    start = low[:, :1]
    count = (low[:, -1] - low[:, 0]).max().item() + len(taps)
    weights = xp.zeros((*positions.shape, count), dtype=xp.float32)
    batch, sample_index = (xp.arange(length) for length in positions.shape)
    for tap, values in enumerate(taps):
        weights[batch[:, None], sample_index, low - start + tap] = converted(values, "float32")
    return start + xp.arange(count), weights


def _spline_weights(positions: Any) -> Any:
    """Weights (..., 4) of the lattice points floor(position) - 1 to + 2, their squares summing to one."""
    xp = namespace(positions)
    f = positions - xp.floor(positions)
    weights = xp.stack([(1 - f) ** 3, 3 * f**3 - 6 * f**2 + 4, -3 * f**3 + 3 * f**2 + 3 * f + 1, f**3], -1)
    return weights / xp.sqrt((weights * weights).sum(-1, keepdims=True))


def _shift(x: Tensor, bits: int) -> Tensor:
    """Logical right shift of int64."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)
