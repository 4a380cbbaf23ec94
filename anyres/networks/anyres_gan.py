"""`anyres_gan`: the alias-free generator with position and scale as inputs.

Chai et al., "Any-resolution Training for High-resolution Image Synthesis" (AnyRes-GAN), ECCV 2022, section 3.1: a
window's place and scale enter by the frequencies of the Fourier input and by a shift of every layer's style. Filters, widths
and cutoffs stay those of one patch at any zoom. Two things differ from the authors' release: the scale's embedding is not
normalised away (there it is the same for every zoom), and the canvas may have any size and shape.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anyres.networks import aliasfree
from anyres.networks.aliasfree import MARGIN, AliasFreeConv
from anyres.networks.generator import Edit, StyleGenerator, places
from anyres.networks.layers import GAIN, LEAK, Linear, per_layer
from anyres.networks.scene import Scene
from anyres.params import AliasFreeNetwork, Train
from anyres.plane.arrays import numbers
from anyres.plane.chart import CIRCUMFERENCE, Chart, chart_of
from anyres.plane.geometry import Geometry
from anyres.plane.shapes import Float
from anyres.plane.window import Window

# Colours of unit variance would leave the range.
OUTPUT_SCALE = 0.25
TANH_SCALE = 0.5
MEASURED_SCENES = 16


class FourierInput(nn.Module):
    """Sines of plane coordinates under a turn and shift learned from the style: windows -> (b, channels, h, w).

    Karras et al. 2021, section 3.2 and appendix F, on the coordinates of AnyRes-GAN: the short side of a photograph is their
    unit. Positions are those of the window's own cells, `rate` of them for `patch` pixels.
    On a cylinder (section 4.3) half of the channels see (sin pi x, y), half (cos pi x, y), and nothing turns or shifts; sine and
    cosine are stretched so that a step along the ring is as long as one down it.

    The paper's frequencies are those of a whole frame: zoomed into, they leave a network little but ramps. `octaves` adds as many
    features again for each further octave; they fade in as one zooms, since what is above the grid's Nyquist rate fades out.
    """

    frequencies: Tensor
    phases: Tensor

    def __init__(self, channels: int, style_dim: int, rate: int, cutoff: float, patch: int, chart: Chart, octaves: int = 0):
        super().__init__()
        self.rate, self.cutoff, self.patch, self.chart = rate, cutoff, patch, chart
        features = channels * (1 + octaves)
        directions = torch.randn(features, 2)
        radius = directions.square().sum(dim=1, keepdim=True).sqrt()
        # A disc with as much in every ring: exp(r^2 / 4) maps the radius of a normal pair to about [0, 1].
        directions = directions / (radius * radius.square().exp().pow(0.25))
        for octave in range(1, octaves + 1):
            # Rings of the plane's higher octaves, in random directions, any place of the octave as likely.
            ring = directions[octave * channels : (octave + 1) * channels]
            ring *= torch.exp2(octave - torch.rand(channels, 1)) / ring.norm(dim=1, keepdim=True)
        self.register_buffer("frequencies", directions * cutoff)
        self.register_buffer("phases", torch.rand(features) - 0.5)
        self.mix = nn.Parameter(torch.randn(channels, features))
        self.place = Linear(style_dim, 4, zero=True)
        with torch.no_grad():
            self.place.bias.copy_(torch.tensor([1.0, 0.0, 0.0, 0.0]))

    def forward(
        self, w: Float[Tensor, "b w_dim"], windows: Sequence[Window], edit: Edit | None = None
    ) -> Float[Tensor, "b channels h w"]:
        cell = self.patch // self.rate
        grids = [
            replace(v, period=v.period * cell, size=(v.size[0] // cell + 2 * MARGIN, v.size[1] // cell + 2 * MARGIN))
            for v in windows
        ]
        x, y = places(grids, edit, w.device)
        # A frequency in cycles per cell of this window: features fade out before the grid's Nyquist rate.
        zoom = numbers([self.chart.short_side / (v.period * self.patch) for v in windows], torch.float32, w.device)
        local = self.frequencies.norm(dim=1)[None, :] / zoom[:, None]
        amplitude = (1 - (local - self.cutoff) / (self.rate / 2 - self.cutoff)).clamp(0, 1)
        turns = self._ring(x, y) if self.chart.wraps else self._plane(w, x, y)
        features = torch.sin(2 * math.pi * turns) * amplitude[:, :, None, None]
        # About as many features are active at a time as without octaves, or a few times as many.
        mix = self.mix / math.sqrt(len(self.mix))
        mixed = F.conv2d(features.to(mix.dtype), mix[:, :, None, None])
        return mixed.contiguous(memory_format=torch.channels_last)

    def _plane(self, w: Tensor, x: Tensor, y: Tensor) -> Tensor:
        place = self.place(w)
        place = place / place[:, :2].norm(dim=1, keepdim=True)
        cos, sin, shift_x, shift_y = place.unbind(dim=1)
        fx, fy = self.frequencies.unbind(dim=1)
        # Rotate frequencies and shift phases in the coordinates of the whole picture, so that all windows of a scene agree.
        turned_x = fx * cos[:, None] + fy * sin[:, None]
        turned_y = fy * cos[:, None] - fx * sin[:, None]
        shifted = self.phases - turned_x * shift_x[:, None] - turned_y * shift_y[:, None]
        turned_x, turned_y, shifted = (part.double()[:, :, None, None] for part in (turned_x, turned_y, shifted))
        # Whole turns drop out in float64, one axis at a time.
        return (turned_x * x / 2 + shifted).frac().float() + (turned_y * y / 2).frac().float()

    def _ring(self, x: Tensor, y: Tensor) -> Tensor:
        angle = 2 * math.pi / CIRCUMFERENCE * x
        half = len(self.frequencies) // 2
        radius = CIRCUMFERENCE / (2 * math.pi) / self.chart.short_side
        sines, cosines = (part.expand(-1, half, -1, -1) for part in (angle.sin(), angle.cos()))
        ring = torch.cat([sines, cosines], dim=1) * radius
        fx, fy, phases = (part[:, None, None] for part in (*self.frequencies.double().unbind(dim=1), self.phases.double()))
        return (ring * fx + y / self.chart.short_side * fy + phases).float()


class ScaleMapping(nn.Module):
    """log2(zoom) / log2(zoom_max) -> v (b, outputs): two layers, without normalising the single input."""

    def __init__(self, zoom_max: float, outputs: int):
        super().__init__()
        self.octaves = max(math.log2(zoom_max), 1.0)
        self.first = Linear(1, outputs, gain=GAIN)
        self.second = Linear(outputs, outputs, gain=GAIN)

    def forward(self, zoom: Float[Tensor, " b"]) -> Float[Tensor, "b outputs"]:
        u = torch.log2(zoom)[:, None] / self.octaves
        return F.leaky_relu(self.second(F.leaky_relu(self.first(u), LEAK)), LEAK)


# Maps of one layer that are in memory together while it is drawn, those of the temporary grid included: measured.
LIVE_MAPS = 12.0


class AnyresGan(StyleGenerator):
    """Generator: scenes and windows of one size to pictures (b, 3, h, w) in about [-1, 1].

    Tiles agree with a whole render but for the margins, whose zeros reach a little way in: `geometry.exact` is false.
    """

    def __init__(self, params: Train, half_extent: tuple[float, float] = (1.0, 1.0)):
        assert isinstance(params.network, AliasFreeNetwork)
        network, patch = params.network, min(params.patch_px)
        super().__init__(network.z_dim, network.w_dim, network.mapping_layers)
        chart = chart_of(params.chart, half_extent, params.fov)
        self.patch = patch
        self.tanh = network.output == "tanh"
        self.base_period = chart.short_side / patch
        layers = aliasfree.plan(patch, network.layers, network.channel_base, network.channel_max)
        first = layers[0]
        self.input = FourierInput(
            first.inputs, network.w_dim, first.in_rate, first.in_cutoff, patch, chart, network.input_octaves
        )
        self.layers = nn.ModuleList(AliasFreeConv(layer, network.w_dim) for layer in layers)
        self.num_ws = 1 + len(layers)
        widest = max(layer.outputs * (layer.out_rate / patch) ** 2 for layer in layers)
        self.bytes_per_px = math.ceil(4 * LIVE_MAPS * widest)
        self.scale = ScaleMapping(params.zoom_max, network.w_dim)
        # Follows the power of activations over 20 thousand pictures.
        self.magnitude_beta = 0.5 ** (params.batch / 20_000)
        self.noted: list[Tensor] = []
        cell = patch // first.in_rate
        self.geometry = Geometry(
            chart=chart,
            lattice_px=cell,
            halo_px=MARGIN * cell,
            exact=False,
            periods=(self.base_period / params.finest_zoom, self.base_period),
            native_sizes=params.patch_sizes,
        )

    def synthesize(
        self, w: Float[Tensor, "k *num_ws w_dim"], scene: Scene, windows: Sequence[Window], edit: Edit | None = None
    ) -> Float[Tensor, "b 3 h w"]:
        """Draw styles w, (b, w_dim) or (b, num_ws, w_dim), at windows of one size. There are no fields."""
        self.check_size(windows)
        scale = self.scale(numbers([window.zoom(self.base_period) for window in windows], torch.float32, w.device))
        first, *styles = per_layer(w, self.num_ws)
        x = self.input(first, windows, edit)
        # Passes that nothing is learnt from are drawn again.
        notes = self.training and torch.is_grad_enabled()
        powers = []
        for layer, style in zip(self.layers, styles, strict=True):
            if notes:
                powers.append(x.detach().float().square().mean())
            x = layer(x, style, scale)
        if notes:
            self.noted.append(torch.stack(powers))
        return torch.tanh(TANH_SCALE * x) if self.tanh else OUTPUT_SCALE * x

    @torch.no_grad()
    def standardize(self, pictures: Float[Tensor, "n 3 h w"]) -> None:
        """Take the mean colour of real pictures (n, 3, h, w) as that of the output, and measure every layer's input.

        Adam moves a bias by its rate a step: a dark domain would cost a short training most of its steps. The running means of
        power begin where they are, not at one.
        """
        to_rgb = self._convs()[-1]
        mean = pictures.mean(dim=(0, 2, 3))
        mean = torch.atanh(mean.clamp(-0.9, 0.9)) / TANH_SCALE if self.tanh else mean / OUTPUT_SCALE
        to_rgb.bias.copy_(mean)
        window = Window((0.0, 0.0), self.base_period, (self.patch, self.patch))
        w = self.mapping(Scene.of(range(MEASURED_SCENES), self.z_dim).z)
        x, scale = self.input(w, [window] * len(w)), self.scale(torch.ones(len(w)))
        for layer in self._convs():
            layer.follow(x.square().mean(), 0.0)
            x = layer(x, w, scale)

    def update_magnitude_ema(self, mean: Callable[[Tensor], Tensor]) -> None:
        """Update every layer's running mean of its input's power from the passes since the last call."""
        powers = mean(torch.stack(self.noted).mean(dim=0))
        self.noted.clear()
        for layer, power in zip(self._convs(), powers, strict=True):
            layer.follow(power, self.magnitude_beta)

    def _convs(self) -> list[AliasFreeConv]:
        return list(cast("Iterable[AliasFreeConv]", self.layers))

    def scale_parameters(self) -> list[nn.Parameter]:
        """Return the parameters that AnyRes-GAN adds to the alias-free generator."""
        return [p for name, p in self.named_parameters() if name.startswith("scale.") or ".scale_style." in name]
