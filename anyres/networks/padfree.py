"""The exact pad-free trunk: a StyleGAN2 synthesis network without a single padded pixel.

Ntavelis et al., "Arbitrary-Scale Image Synthesis" (ScaleParty), CVPR 2022, section 3, mended: bilinear doubling
clamps at its border, so a margin of 3 cells leaks it into the picture. With 4 cells of margin and one pixel
dropped on each side after every doubling, level l measures n 2^l + 6 and a tile equals the big render exactly.
The last level keeps 2 of the 6, the margin that its own two convolutions need.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anyres.networks.generator import bytes_per_px
from anyres.networks.layers import LEAK, ModulatedConv, per_layer, upsample
from anyres.plane import fields
from anyres.plane.chart import Chart
from anyres.plane.shapes import Float, Float32, Int64
from anyres.plane.window import Window

# Cells of input on each side of the window: ours, and the paper's.
MARGIN_CELLS = 4
CLAMPED_MARGIN_CELLS = 3


class StyledConv(nn.Module):
    """Modulated convolution, plane-anchored noise (b, h', w'), bias, leaky ReLU."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        style_dim: int,
        kernel: int = 3,
        *,
        doubles: bool = False,
        clamped: bool = False,
        one_strength: bool = False,
    ):
        super().__init__()
        self.conv = ModulatedConv(inputs, outputs, style_dim, kernel, doubles=doubles, clamped=clamped)
        self.bias = nn.Parameter(torch.zeros(outputs))
        # Noise starts silent. Its strength is learned for each channel, or one for all.
        self.noise_strength = nn.Parameter(torch.zeros(1 if one_strength else outputs))

    def forward(
        self, x: Float[Tensor, "b inputs _ _"], style: Float[Tensor, "b style_dim"], noise: Float[Tensor, "b h w"]
    ) -> Float[Tensor, "b outputs h w"]:
        x = self.conv(x, style)
        added = noise[:, None].to(x.dtype) * self.noise_strength[:, None, None].to(x.dtype) + self.bias[:, None, None].to(x.dtype)
        return F.leaky_relu(x + added.contiguous(memory_format=torch.channels_last), LEAK)


@dataclass(frozen=True)
class NoiseInput:
    """The noise that a trunk reads, and the strength of each layer at first.

    The two layers of a level share a map, with a strength for each channel; `per_layer` gives each a map and one strength of
    its own, as published. Where the noise is `shared`, all levels read one field: an octave of the plane has one noise, whichever
    level reads it. Else each level has a field of its own.
    """

    policy: fields.NoisePolicy = "grid_sample"
    shared: bool = False
    strength: float = 0.0
    per_layer: bool = False


class Trunk(nn.Module):
    """Cells to colours: features (b, inputs, n_y + 2 m, n_x + 2 m) -> (b, 3, n_y 2^L, n_x 2^L), m = `margin_cells`.

    `channels` holds the width of level 0 and of each of the L doubling levels. Styles are (b, style_dim), or (b, num_ws,
    style_dim) with one for each layer; colours take that of the layer after theirs. `stem_layers` pointwise layers come
    first: they need no margin, so shape is made where pixels are fewest.
    `clamped` is the published form, whose tiles differ from the whole within 2^L - 3 pixels of their borders: kept to show it.
    With `first_rgb` level 0 has colours too. Only noise of policy "grid_sample" is a function of the plane.
    """

    def __init__(
        self,
        inputs: int,
        channels: Sequence[int],
        style_dim: int,
        stem_layers: int = 0,
        *,
        clamped: bool = False,
        first_rgb: bool = False,
        noise: NoiseInput | None = None,
    ):
        super().__init__()
        self.levels = len(channels) - 1
        self.clamped = clamped
        self.noise = noise or NoiseInput()
        styled = partial(StyledConv, style_dim=style_dim, one_strength=self.noise.per_layer)
        self.margin_cells = CLAMPED_MARGIN_CELLS if clamped else MARGIN_CELLS
        self.num_ws = stem_layers + 2 * self.levels + 2
        self.bytes_per_px = bytes_per_px(channels)
        widths = [inputs] + [channels[0]] * stem_layers
        self.stem = nn.ModuleList(styled(a, b, kernel=1) for a, b in itertools.pairwise(widths))
        self.first = styled(widths[-1], channels[0])
        pairs = list(itertools.pairwise(channels))
        self.ups = nn.ModuleList(styled(a, b, doubles=True, clamped=clamped) for a, b in pairs)
        self.convs = nn.ModuleList(styled(b, b) for _, b in pairs)
        self.to_rgb = nn.ModuleList(ModulatedConv(b, 3, style_dim, kernel=1, demodulates=False) for _, b in pairs)
        self.first_rgb = ModulatedConv(channels[0], 3, style_dim, kernel=1, demodulates=False) if first_rgb else None
        self.rgb_bias = nn.Parameter(torch.zeros(3))
        for module in self.modules():
            if isinstance(module, StyledConv):
                nn.init.constant_(module.noise_strength, self.noise.strength)

    @property
    def cell_px(self) -> int:
        """Pixels of a cell: the lattice on which tiles are exact."""
        return 2**self.levels

    def forward(
        self,
        features: Float[Tensor, "b inputs _ _"],
        style: Float[Tensor, "b *num_ws style_dim"],
        seeds: Int64[Tensor, " b"],
        windows: Sequence[Window],
        chart: Chart,
    ) -> Float32[Tensor, "b 3 h w"]:
        """Windows are those of the picture; noise is drawn for each level at its own period and margin."""
        x = features.contiguous(memory_format=torch.channels_last)
        styles = iter(per_layer(style, self.num_ws))
        noise = self._noise(0, seeds, windows, chart)
        for layer in self.stem:
            x = layer(x, next(styles), noise)
        x = self.first(x, next(styles), noise[:, 1:-1, 1:-1])
        after = next(styles)
        rgb = None if self.first_rgb is None else self.first_rgb(x, after)
        for level, (up, conv, to_rgb) in enumerate(zip(self.ups, self.convs, self.to_rgb, strict=True), start=1):
            noise = self._noise(level, seeds, windows, chart)
            second = self._noise(level, seeds, windows, chart, 1) if self.noise.per_layer else noise
            if level == self.levels and not self.clamped:
                # Nothing follows the last level, so one cell of its margin is not needed.
                x, rgb = x[:, :, 1:-1, 1:-1], rgb if rgb is None else rgb[:, :, 1:-1, 1:-1]
                noise, second = noise[:, 2:-2, 2:-2], second[:, 2:-2, 2:-2]
            x = up(x, after, noise)
            x = conv(x, next(styles), second[:, 1:-1, 1:-1])
            after = next(styles)
            colour = to_rgb(x, after)
            rgb = colour if rgb is None else colour + upsample(rgb, clamped=self.clamped)[:, :, 2:-2, 2:-2]
        assert rgb is not None
        rest = 2 if self.clamped else 1
        return rgb[:, :, rest:-rest, rest:-rest].float() + self.rgb_bias[:, None, None]

    def _noise(self, level: int, seeds: Tensor, windows: Sequence[Window], chart: Chart, layer: int = 0) -> Tensor:
        """Return a map of noise, (b, h, w), over the largest map of a level, with its margin; `layer` is that of the level."""
        factor = 2 ** (self.levels - level)
        margin = 2 * self.margin_cells
        grids = [
            replace(w, period=w.period * factor, size=(w.size[0] // factor + margin, w.size[1] // factor + margin))
            for w in windows
        ]
        stream = 0 if self.noise.shared else max(2 * level - 1 + layer, 0) if self.noise.per_layer else level
        return fields.noise(self.noise.policy, seeds, fields.Stream.NOISE + stream, grids, chart)
