"""Baselines that share one trunk, for comparison with scaleparty; each docstring says what the baseline lacks.

Compared in Ntavelis et al., CVPR 2022, tables 1 to 3, and in Chai et al., ECCV 2022, table 1.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anyres.networks.generator import Edit, StyleGenerator, bytes_per_px, places
from anyres.networks.layers import LEAK, ModulatedConv, per_layer
from anyres.networks.scene import Scene
from anyres.networks.warp import warp
from anyres.params import GridNetwork, Train
from anyres.plane import fields
from anyres.plane.chart import chart_of
from anyres.plane.geometry import Geometry
from anyres.plane.shapes import Float
from anyres.plane.window import Window


class Layer(nn.Module):
    """Modulated convolution, noise (b, h, w), bias, leaky ReLU; `zeros` about the input keep its size."""

    def __init__(self, inputs: int, outputs: int, style_dim: int, *, kernel: int = 3, zeros: int = 0):
        super().__init__()
        self.conv = ModulatedConv(inputs, outputs, style_dim, kernel)
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.noise_strength = nn.Parameter(torch.zeros(outputs))
        self.zeros = zeros

    def forward(self, x: Tensor, style: Tensor, noise: Tensor | None = None) -> Tensor:
        x = self.conv(F.pad(x, (self.zeros,) * 4), style) + self.bias[:, None, None]
        if noise is not None:
            x = x + noise[:, None] * self.noise_strength[:, None, None]
        return F.leaky_relu(x, LEAK)


class Baseline(StyleGenerator):
    """The shared part of the baselines: scaleparty's parameters, levels of convolutions, colours summed from coarse to fine."""

    exact = False
    # Width of the zero padding of every convolution: 1 or 0.
    zeros = 1

    def __init__(self, params: Train, half_extent: tuple[float, float] = (1.0, 1.0), inputs: int = 2):
        assert isinstance(params.network, GridNetwork)
        network = params.network
        super().__init__(network.z_dim, network.w_dim, network.mapping_layers)
        self.chart = chart_of(params.chart, half_extent, params.fov)
        self.unit = self.chart.short_side / 2
        self.base_period = self.chart.short_side / min(params.patch_px)
        self.cell_px = network.cell_px
        self.noise_policy: fields.NoisePolicy = network.noise
        channels = network.channels
        pairs = list(itertools.pairwise(channels))
        self.num_ws = 2 * len(pairs) + 2
        self.bytes_per_px = bytes_per_px(channels)
        self.first = Layer(inputs, channels[0], network.w_dim, zeros=self.zeros)
        self.ups = nn.ModuleList(Layer(a, b, network.w_dim, zeros=self.zeros) for a, b in pairs)
        self.convs = nn.ModuleList(Layer(b, b, network.w_dim, zeros=self.zeros) for _, b in pairs)
        self.to_rgb = nn.ModuleList(ModulatedConv(c, 3, network.w_dim, kernel=1, demodulates=False) for c in channels)
        self.rgb_bias = nn.Parameter(torch.zeros(3))
        self.geometry = Geometry(
            chart=self.chart,
            lattice_px=self.cell_px,
            halo_px=self.cell_px * 4,
            exact=self.exact,
            periods=(self.base_period / params.finest_zoom, self.base_period),
            native_sizes=params.patch_sizes,
        )

    @torch.no_grad()
    def standardize(self, pictures: Float[Tensor, "n 3 h w"]) -> None:
        """Take the mean colour of real pictures (n, 3, h, w) as that of the output."""
        self.rgb_bias.copy_(pictures.mean(dim=(0, 2, 3)))

    def grown(self, x: Tensor) -> Tensor:
        """Twice as many pixels along each axis."""
        return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)

    def levels(
        self, x: Tensor, w: Tensor, seeds: Tensor, windows: Sequence[Window], encoding: Callable[[int], Tensor] | None = None
    ) -> Tensor:
        """Map the input grid to colours (b, 3, h, w). `encoding(level)` is added to the input of each level from 1 on."""
        styles = iter(per_layer(w, self.num_ws))
        x = self.first(x, next(styles), self._noise(0, seeds, windows))
        after = next(styles)
        rgb = self.to_rgb[0](x, after)
        for level, (up, conv, to_rgb) in enumerate(zip(self.ups, self.convs, list(self.to_rgb)[1:], strict=True), start=1):
            noise = self._noise(level, seeds, windows)
            grown = self.grown(x) if encoding is None else self.grown(x) + encoding(level)
            # Without zeros the first of both convolutions still has a border that the second takes off.
            x = conv(up(grown, after, noise if self.zeros else None), next(styles), noise)
            after = next(styles)
            rgb = to_rgb(x, after) + F.interpolate(rgb, size=x.shape[2:], mode="bilinear", align_corners=False)
        return rgb.float() + self.rgb_bias[:, None, None]

    def grid(self, level: int, windows: Sequence[Window], margin: int = 0) -> list[Window]:
        """The windows at a level's pixels, with `margin` more on each side."""
        factor = self.cell_px // 2**level
        sizes = [(v.size[0] // factor + 2 * margin, v.size[1] // factor + 2 * margin) for v in windows]
        return [replace(v, period=v.period * factor, size=size) for v, size in zip(windows, sizes, strict=True)]

    def _noise(self, level: int, seeds: Tensor, windows: Sequence[Window]) -> Tensor:
        return fields.noise(self.noise_policy, seeds, fields.Stream.NOISE + level, self.grid(level, windows), self.chart)


class MsPie(Baseline):
    """`ms_pie`: no padding, but a grid whose corners are the window's, so that cells move with the size.

    Upsampling adds the border that convolutions take off. Xu et al., "Positional Encoding as Spatial Inductive Bias in
    GANs", CVPR 2021, section 3.4. Tiles do not meet.
    """

    zeros = 0

    def synthesize(
        self, w: Float[Tensor, "k *num_ws w_dim"], scene: Scene, windows: Sequence[Window], edit: Edit | None = None
    ) -> Float[Tensor, "b 3 h w"]:
        """See `StyleGenerator.synthesize`."""
        height, width = (side // self.cell_px + 2 for side in self.check_size(windows))
        x, y = places(windows, edit, w.device)
        wide = torch.cat(torch.broadcast_tensors(x, y), dim=1).float() / self.unit
        corners = F.interpolate(wide, size=(height, width), mode="bilinear", align_corners=True)
        return self.levels(corners, w, scene.seeds, windows)

    def grown(self, x: Tensor) -> Tensor:
        """To 2n + 4, of which two valid convolutions leave 2n."""
        size = (2 * x.shape[2] + 4, 2 * x.shape[3] + 4)
        return F.interpolate(x, size=size, mode="bilinear", align_corners=True)


class MsPe(Baseline):
    """`ms_pe`: StyleGAN2 with zeros at its borders, sines of the place added at every level with a learned factor.

    Choi et al., "Toward Spatially Unbiased Generative Models", ICCV 2021, as a multi-scale generator in Chai et al. 2022. The
    zero padding marks the border of the window, not a position on the plane.
    """

    def __init__(self, params: Train, half_extent: tuple[float, float] = (1.0, 1.0)):
        assert isinstance(params.network, GridNetwork)
        channels = params.network.channels
        super().__init__(params, half_extent, channels[0])
        self.channels = channels
        self.factors = nn.Parameter(torch.ones(len(channels)))

    def synthesize(
        self, w: Float[Tensor, "k *num_ws w_dim"], scene: Scene, windows: Sequence[Window], edit: Edit | None = None
    ) -> Float[Tensor, "b 3 h w"]:
        """See `StyleGenerator.synthesize`."""
        self.check_size(windows)
        told = partial(self._sines, windows=windows, edit=edit, device=w.device)
        return self.levels(told(0), w, scene.seeds, windows, told)

    def _sines(self, level: int, windows: Sequence[Window], edit: Edit | None, device: torch.device) -> Tensor:
        """Sines and cosines of x and of y, octave after octave from one cycle over two frames on: (b, channels, h, w)."""
        x, y = places(self.grid(level, windows), edit, device)
        channels = self.channels[max(level - 1, 0)]
        quarter = math.ceil(channels / 4)
        frequencies = torch.exp2(torch.arange(quarter, device=device) * (MS_PE_OCTAVES / quarter))[:, None, None] * (math.pi / 2)
        x, y = (frequencies * (part / self.unit) for part in (x, y))
        waves = torch.cat(torch.broadcast_tensors(x.sin(), x.cos(), y.sin(), y.cos()), dim=1)
        return self.factors[level] * waves[:, :channels].float()


class Cips(StyleGenerator):
    """`cips`: every pixel by itself, from Fourier features and a learned embedding of its place. Exact, but blind to neighbours.

    Anokhin et al., "Image Generators with Conditionally-Independent Pixel Synthesis", CVPR 2021.
    """

    def __init__(self, params: Train, half_extent: tuple[float, float] = (1.0, 1.0)):
        assert isinstance(params.network, GridNetwork)
        network = params.network
        super().__init__(network.z_dim, network.w_dim, network.mapping_layers)
        chart = chart_of(params.chart, half_extent, params.fov)
        self.unit = chart.short_side / 2
        width = network.channels[0]
        self.fourier = nn.Parameter((torch.rand(width, 2) * 2 - 1) * CIPS_FREQUENCY)
        self.embedding = nn.Parameter(torch.randn(1, width, *params.patch_px))
        widths = [2 * width] + [width] * (2 * len(network.channels) - 1)
        self.layers = nn.ModuleList(Layer(a, b, network.w_dim, kernel=1) for a, b in itertools.pairwise(widths))
        self.to_rgb = nn.ModuleList(ModulatedConv(width, 3, network.w_dim, kernel=1, demodulates=False) for _ in network.channels)
        self.rgb_bias = nn.Parameter(torch.zeros(3))
        self.num_ws = len(widths)
        self.bytes_per_px = bytes_per_px(widths[:1])
        base = chart.short_side / min(params.patch_px)
        self.geometry = Geometry(chart, 1, 0, True, (base / params.finest_zoom, base), params.patch_sizes)

    @torch.no_grad()
    def standardize(self, pictures: Float[Tensor, "n 3 h w"]) -> None:
        """Take the mean colour of real pictures (n, 3, h, w) as that of the output."""
        self.rgb_bias.copy_(pictures.mean(dim=(0, 2, 3)))

    def synthesize(
        self, w: Float[Tensor, "k *num_ws w_dim"], scene: Scene, windows: Sequence[Window], edit: Edit | None = None
    ) -> Float[Tensor, "b 3 h w"]:
        """See `StyleGenerator.synthesize`."""
        x, y = places(windows, edit, w.device)
        position = torch.stack(torch.broadcast_tensors(x[:, 0], y[:, 0]), dim=-1).float() / self.unit
        waves = torch.einsum("bhwc,fc->bfhw", position, self.fourier).mul(math.pi).sin()
        embedded = F.grid_sample(self.embedding.expand(len(w), -1, -1, -1), position, padding_mode="border", align_corners=False)
        x = torch.cat([waves, embedded], dim=1)
        styles = per_layer(w, self.num_ws)
        rgb = self.rgb_bias[:, None, None]
        for index, layer in enumerate(self.layers):
            x = layer(x, styles[index])
            if index % 2 == 0:
                rgb = rgb + self.to_rgb[index // 2](x, styles[index + 1])
        return rgb.float()


class SingleScale(Baseline):
    """`stylegan2`: one size from a learned constant, zeros at the borders; any other window is enlarged from it by Lanczos.

    Trained on patches of a fixed period it knows no frame: a window of that period and another size is drawn fully
    convolutionally, its constant repeated.
    """

    def __init__(self, params: Train, half_extent: tuple[float, float] = (1.0, 1.0)):
        assert isinstance(params.network, GridNetwork)
        channels = params.network.channels
        super().__init__(params, half_extent, channels[0])
        self.frame = Window((0.0, 0.0), self.base_period, params.patch_px)
        height, width = (side // self.cell_px for side in params.patch_px)
        self.constant = nn.Parameter(torch.randn(1, channels[0], height, width))
        self.placeless = params.period_law == "fixed"
        if self.placeless:
            self.geometry = replace(self.geometry, periods=(self.geometry.periods[0],) * 2)

    def synthesize(
        self, w: Float[Tensor, "k *num_ws w_dim"], scene: Scene, windows: Sequence[Window], edit: Edit | None = None
    ) -> Float[Tensor, "b 3 h w"]:
        """See `StyleGenerator.synthesize`. There are no coordinates that an edit could move."""
        if self.placeless:
            # Zoom 1 shows a frame as a canvas of that many pixels: there is no other scale.
            rows, columns = (side // self.cell_px for side in self.check_size(windows))
            height, width = self.constant.shape[2:]
            # Round up without negative numbers: some graph runtimes divide them towards 0.
            down, across = (rows + height - 1) // height, (columns + width - 1) // width
            canvas = self.constant.tile(1, 1, down, across)[:, :, :rows, :columns]
            return self.levels(canvas.expand(len(w), -1, -1, -1), w, scene.seeds, windows)
        frames = [self.frame] * len(windows)
        pictures = self.levels(self.constant.expand(len(w), -1, -1, -1), w, scene.seeds, frames)
        if all(window == self.frame for window in windows):
            return pictures
        rows, columns, _ = warp(windows, frames, w.device)
        return torch.einsum("bij,bcjk,blk->bcil", rows, pictures, columns)


# Octaves of the sines of ms_pe, and the highest frequency of cips, in half cycles over a half short side.
MS_PE_OCTAVES = 6.0
CIPS_FREQUENCY = 16.0
