"""`continuum`, the house model: continuous in scale, unbounded, exact at seams, stateless.

The exact pad-free trunk on octave-banded Fourier features of plane coordinates (Tancik et al., "Fourier Features
Let Networks Learn High Frequency Functions", NeurIPS 2020), with styles shifted by the scale of each window
(AnyRes-GAN, Chai et al., ECCV 2022, section 3.2, with an embedding that does not vanish) and plane-anchored noise.

On an unbounded plane a fixed set of waves would repeat one pattern. There each scene has its own octaves of smooth random fields
instead: local latents as in InfinityGAN, but band-limited and anchored to the plane, so that period and position are free.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anyres.networks.generator import Edit, StyleGenerator, places
from anyres.networks.layers import LEAK, Linear
from anyres.networks.padfree import MARGIN_CELLS, NoiseInput, Trunk
from anyres.networks.scene import Scene
from anyres.params import ExactNetwork, Train
from anyres.plane import fields
from anyres.plane.arrays import numbers, stacked
from anyres.plane.chart import Chart, chart_of
from anyres.plane.geometry import Geometry
from anyres.plane.shapes import Float, Float32, Int64
from anyres.plane.window import Window

SCALE_FEATURES = 4
# Cycles of the coarsest octave over the short side of a frame.
LOWEST_CYCLES = 0.5
# Bands whose phases all scenes share, where each scene has phases of its own.
COMMON_BANDS = 2


class OctaveFeatures(nn.Module):
    """Sines and cosines of plane coordinates, in octave bands that fade out before the input grid's Nyquist rate.

    Band k holds frequencies in [2^k, 2^(k+1)) x LOWEST_CYCLES over a short side, in random directions. At sampling rate r a
    band of frequency f has amplitude clamp(2 - 4 f / r, 0, 1): whole up to a quarter of r, nothing from half of it on, so
    the finest band always matches the period and an octave fades in as one zooms. Below the period `finest` amplitudes stay as
    they are there: the network never learned to hear a band at more. With `scene_phases` each scene has phases of its own from
    band COMMON_BANDS on, so that scenes share their composition alone.
    """

    frequencies: Tensor
    has_phase: Tensor

    def __init__(
        self, octaves: int, features: int, chart: Chart, finest: float = 0.0, *, scene_phases: bool = False, seed: int = 0
    ):
        super().__init__()
        self.chart, self.finest = chart, finest
        index = torch.arange(octaves * features // 2)
        # Two uniforms a feature from the same counter-based generator as everything else.
        bits = fields.mix(fields.key(torch.tensor([seed]), fields.Stream.FREQUENCIES) + index * fields.GAMMA_X)
        place = ((bits >> 32) & 0xFFFFFFFF).double() / 2**32
        turn = (bits & 0xFFFFFFFF).double() / 2**32
        band = (index // (features // 2)).double()
        radius = LOWEST_CYCLES / chart.short_side * torch.exp2(band + place)
        angle = math.pi * turn
        frequencies = torch.stack([radius * torch.cos(angle), radius * torch.sin(angle)], dim=-1).numpy()
        self.register_buffer("frequencies", torch.from_numpy(chart.snap_frequencies(frequencies)), persistent=False)
        self.outputs = octaves * features
        self.scene_phases = scene_phases
        has_phase = (band >= COMMON_BANDS).float() if scene_phases else torch.zeros(len(band))
        self.register_buffer("has_phase", has_phase, persistent=False)

    def forward(
        self, windows: Sequence[Window], seeds: Int64[Tensor, " b"], edit: Edit | None = None
    ) -> Float32[Tensor, "b {self.outputs} h w"]:
        """Return features at the windows' pixel grids, or at the positions that `edit` maps them to."""
        device = self.frequencies.device
        x, y = places(windows, edit, device)
        fx, fy = (part[:, None, None] for part in self.frequencies.unbind(dim=1))
        # Whole turns are dropped along each axis in float64, then the sum of both is one outer sum in float32.
        turns = (x * fx).frac().float() + (y * fy).frac().float()
        if self.scene_phases:
            index = torch.arange(len(self.has_phase), device=device)
            bits = fields.mix(fields.key(seeds, fields.Stream.PHASES)[:, None] + index * fields.GAMMA_X)
            turns = turns + ((bits & 0xFFFFFF).float() / 2**24 * self.has_phase)[:, :, None, None]
        phase = 2 * math.pi * (turns - turns.round())
        period = numbers([window.period for window in windows], torch.float32, device)
        magnitude = self.frequencies.norm(dim=1).float()
        amplitude = (2 - 4 * magnitude[None] * period.clamp_min(self.finest)[:, None]).clamp(0, 1) * math.sqrt(2)
        return torch.cat([phase.sin() * amplitude[:, :, None, None], phase.cos() * amplitude[:, :, None, None]], dim=1)


class OctaveFields(nn.Module):
    """Smooth random fields of each scene, in the octave bands of `OctaveFeatures`.

    Band k is normals on a lattice of half the period of its highest frequency, 2^(k+1) x LOWEST_CYCLES over a short side, joined
    by cubic B-splines and brought back to unit variance. It fades out before the input grid's Nyquist rate as waves of that
    frequency do. Below the period `finest` amplitudes stay as they are there.
    """

    def __init__(self, octaves: int, features: int, chart: Chart, finest: float = 0.0):
        super().__init__()
        self.chart, self.octaves, self.features, self.finest = chart, octaves, features, finest
        self.outputs = octaves * features
        # No parameter: the buffer only holds the device.
        self.register_buffer("anchor", torch.zeros(()), persistent=False)

    def forward(
        self, windows: Sequence[Window], seeds: Int64[Tensor, " b"], edit: Edit | None = None
    ) -> Float32[Tensor, "b {self.outputs} h w"]:
        """Return features at the windows' pixel grids, or at the positions that `edit` maps them to."""
        period = stacked([window.period for window in windows]).clip(self.finest, None)
        parts = []
        for octave in range(self.octaves):
            side = self.chart.short_side / (LOWEST_CYCLES * 2.0 ** (octave + 2))
            amplitude = (2 - 2 * period / side).clip(0, 1)
            stream = fields.Stream.OCTAVES + octave * self.features
            # A band that has faded out is sampled at the origin, where its lattice is small.
            sampled = [window.parked(away, side) for window, away in zip(windows, amplitude <= 0, strict=True)]
            part = fields.smooth(seeds, stream, self.features, sampled, side, edit)
            parts.append(part * torch.as_tensor(amplitude).to(part)[:, None, None, None])
        return torch.cat(parts, dim=1)


class ScaleEmbedding(nn.Module):
    """u = log2(zoom) / log2(zoom_max) -> v (b, outputs): sines and cosines of u, then one layer. No normalisation."""

    def __init__(self, zoom_max: float, outputs: int):
        super().__init__()
        self.octaves = max(math.log2(zoom_max), 1.0)
        self.layer = Linear(2 * SCALE_FEATURES + 1, outputs)

    def forward(self, zoom: Float[Tensor, " b"]) -> Float[Tensor, "b outputs"]:
        u = torch.log2(zoom)[:, None] / self.octaves
        turns = u * torch.arange(1, SCALE_FEATURES + 1, device=zoom.device) * (math.pi / 2)
        return F.leaky_relu(self.layer(torch.cat([u, turns.sin(), turns.cos()], dim=1)), LEAK)


class Continuum(StyleGenerator):
    """Generator: scenes and windows of one size to pictures (b, 3, h, w) in [-1, 1]."""

    def __init__(self, params: Train, half_extent: tuple[float, float] = (1.0, 1.0)):
        assert isinstance(params.network, ExactNetwork)
        network = params.network
        super().__init__(network.z_dim, network.w_dim, network.mapping_layers)
        chart = chart_of(params.chart, half_extent, params.fov)
        self.base_period = chart.short_side / min(params.patch_px)
        self.scale = ScaleEmbedding(params.zoom_max, network.w_dim)
        # Zero at first: training starts from a network that ignores scale.
        self.scale_style = Linear(network.w_dim, network.w_dim, zero=True)
        cell = network.cell_px
        finest = self.base_period / params.finest_zoom
        self.features = (
            OctaveFields(params.octaves, network.features_per_octave, chart, finest * cell)
            if chart.is_unbounded
            else OctaveFeatures(
                params.octaves, network.features_per_octave, chart, finest * cell, scene_phases=network.phases == "scene"
            )
        )
        self.trunk = Trunk(
            self.features.outputs,
            network.channels,
            network.w_dim,
            network.stem_layers,
            noise=NoiseInput(shared=network.noise == "shared", strength=network.noise_strength),
        )
        self.num_ws, self.bytes_per_px = self.trunk.num_ws, self.trunk.bytes_per_px
        self.geometry = Geometry(
            chart=chart,
            lattice_px=cell,
            halo_px=MARGIN_CELLS * cell,
            exact=True,
            periods=(finest, chart.coarsest_side / min(params.patch_px)),
            native_sizes=params.patch_sizes,
        )

    def synthesize(
        self, w: Float[Tensor, "k *num_ws w_dim"], scene: Scene, windows: Sequence[Window], edit: Edit | None = None
    ) -> Float[Tensor, "b 3 h w"]:
        """Draw styles w, (b, w_dim) or (b, num_ws, w_dim), with the fields of `scene` at windows of one size."""
        cell = self.trunk.cell_px
        height, width = self.check_size(windows)
        zoom = numbers([window.zoom(self.base_period) for window in windows], torch.float32, w.device)
        zoom = zoom.clamp_max(self.base_period / self.geometry.periods[0])
        scale = self.scale_style(self.scale(zoom))
        style = w + (scale if w.ndim == 2 else scale[:, None])
        margin = 2 * MARGIN_CELLS
        grids = [replace(v, period=v.period * cell, size=(height // cell + margin, width // cell + margin)) for v in windows]
        # Black is the limit of tanh: a dark sky does not need noise to cancel exactly, and no value leaves the range.
        return torch.tanh(self.trunk(self.features(grids, scene.seeds, edit), style, scene.seeds, windows, self.geometry.chart))
