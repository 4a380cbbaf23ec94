"""The exact pad-free trunk: a StyleGAN2 synthesis network without a single padded pixel.

Ntavelis et al., "Arbitrary-Scale Image Synthesis" (ScaleParty), CVPR 2022, section 3, mended: bilinear doubling
clamps at its border, so a margin of 3 cells leaks it into the picture. With 4 cells of margin and one pixel
dropped on each side after every doubling, level l measures n 2^l + 6 and a tile equals the big render exactly.
The last level keeps 2 of the 6, the margin that its own two convolutions need.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anyres.networks.layers import LEAK, ModulatedConv, upsample
from anyres.plane import fields
from anyres.plane.chart import Chart
from anyres.plane.window import Window

# Cells of input on each side of the window, and pixels that a level carries beyond it.
MARGIN_CELLS = 4
MARGIN_PX = 3


class StyledConv(nn.Module):
    """Modulated convolution, plane-anchored noise (b, h', w'), bias, leaky ReLU."""

    def __init__(self, inputs: int, outputs: int, style_dim: int, kernel: int = 3, *, doubles: bool = False):
        super().__init__()
        self.conv = ModulatedConv(inputs, outputs, style_dim, kernel, doubles=doubles)
        self.bias = nn.Parameter(torch.zeros(outputs))
        # Noise starts silent and is learned per channel.
        self.noise_strength = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor, style: Tensor, noise: Tensor) -> Tensor:
        x = self.conv(x, style)
        added = noise[:, None].to(x.dtype) * self.noise_strength[:, None, None].to(x.dtype) + self.bias[:, None, None].to(x.dtype)
        return F.leaky_relu(x + added.contiguous(memory_format=torch.channels_last), LEAK)


class Trunk(nn.Module):
    """Cells to pixels: features (b, inputs, n_y + 8, n_x + 8) -> picture (b, 3, n_y 2^L, n_x 2^L).

    `channels` holds the width of level 0 and of each of the L doubling levels. Styles are (b, style_dim).
    `stem_layers` pointwise layers come first: they need no margin, so shape is made where pixels are fewest.
    """

    def __init__(self, inputs: int, channels: Sequence[int], style_dim: int, stem_layers: int = 0):
        super().__init__()
        self.levels = len(channels) - 1
        widths = [inputs] + [channels[0]] * stem_layers
        self.stem = nn.ModuleList(StyledConv(a, b, style_dim, kernel=1) for a, b in itertools.pairwise(widths))
        self.first = StyledConv(widths[-1], channels[0], style_dim)
        pairs = list(itertools.pairwise(channels))
        self.ups = nn.ModuleList(StyledConv(a, b, style_dim, doubles=True) for a, b in pairs)
        self.convs = nn.ModuleList(StyledConv(b, b, style_dim) for _, b in pairs)
        self.to_rgb = nn.ModuleList(ModulatedConv(b, 3, style_dim, kernel=1, demodulates=False) for _, b in pairs)
        self.rgb_bias = nn.Parameter(torch.zeros(3))

    @property
    def cell_px(self) -> int:
        """Pixels of a cell: the lattice on which tiles are exact."""
        return 2**self.levels

    def forward(self, features: Tensor, style: Tensor, seeds: Tensor, windows: Sequence[Window], chart: Chart) -> Tensor:
        """Windows are those of the picture; noise is drawn for each level at its own period and margin."""
        x = features.contiguous(memory_format=torch.channels_last)
        noise = self._noise(0, seeds, windows, chart)
        for layer in self.stem:
            x = layer(x, style, noise)
        x = self.first(x, style, noise[:, 1:-1, 1:-1])
        rgb = None
        for level, (up, conv, to_rgb) in enumerate(zip(self.ups, self.convs, self.to_rgb, strict=True), start=1):
            noise = self._noise(level, seeds, windows, chart)
            if level == self.levels:
                # Nothing follows the last level: one cell of its margin would be computed for nothing.
                x, rgb, noise = x[:, :, 1:-1, 1:-1], rgb if rgb is None else rgb[:, :, 1:-1, 1:-1], noise[:, 2:-2, 2:-2]
            x = up(x, style, noise)
            x = conv(x, style, noise[:, 1:-1, 1:-1])
            colour = to_rgb(x, style)
            rgb = colour if rgb is None else colour + upsample(rgb)[:, :, 2:-2, 2:-2]
        assert rgb is not None
        # Black is the limit of tanh: a dark sky needs no exact cancelling of noise, and no value leaves the range.
        return torch.tanh(rgb[:, :, 1:-1, 1:-1].float() + self.rgb_bias[:, None, None])

    def _noise(self, level: int, seeds: Tensor, windows: Sequence[Window], chart: Chart) -> Tensor:
        """One field a level, (b, h, w), over the level's largest map: its margin and one pixel more, until its last layer."""
        factor = 2 ** (self.levels - level)
        margin = 2 * (MARGIN_PX + 1)
        grids = [
            Window(w.center, w.period * factor, (w.size[0] // factor + margin, w.size[1] // factor + margin)) for w in windows
        ]
        return fields.sample(seeds, level, grids, chart)
