"""`continuum`, the house model: continuous in scale, unbounded, exact at seams, stateless.

The exact pad-free trunk on octave-banded Fourier features of plane coordinates (Tancik et al., "Fourier Features
Let Networks Learn High Frequency Functions", NeurIPS 2020), with styles shifted by the scale of each window
(AnyRes-GAN, Chai et al., ECCV 2022, section 3.2, with an embedding that does not vanish) and plane-anchored noise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anyres.networks.layers import LEAK, Linear, Mapping
from anyres.networks.padfree import MARGIN_CELLS, Trunk
from anyres.networks.scene import Scene
from anyres.params import ExactNetwork, Train
from anyres.plane import fields
from anyres.plane.chart import Chart
from anyres.plane.geometry import Geometry
from anyres.plane.window import Window

SCALE_FEATURES = 4
# Cycles of the coarsest octave over the short side of a frame.
LOWEST_CYCLES = 0.5


class OctaveFeatures(nn.Module):
    """Sines and cosines of plane coordinates, in octave bands that fade out before the input grid's Nyquist rate.

    Band k holds frequencies in [2^k, 2^(k+1)) x LOWEST_CYCLES over a short side, in random directions. At sampling rate r a
    band of frequency f has amplitude clamp(2 - 4 f / r, 0, 1): whole up to a quarter of r, nothing from half of it on, so
    the finest band always matches the period and an octave fades in as one zooms.
    """

    frequencies: Tensor

    def __init__(self, octaves: int, features: int, chart: Chart, seed: int = 0):
        super().__init__()
        self.chart = chart
        index = torch.arange(octaves * features // 2)
        # Two uniforms a feature from the same counter-based generator as everything else.
        bits = fields.mix(fields.key(torch.tensor([seed]), -2) + index * fields.GAMMA_X)
        place = ((bits >> 32) & 0xFFFFFFFF).double() / 2**32
        turn = (bits & 0xFFFFFFFF).double() / 2**32
        band = (index // (features // 2)).double()
        radius = LOWEST_CYCLES / chart.short_side * torch.exp2(band + place)
        angle = math.pi * turn
        frequencies = torch.stack([radius * torch.cos(angle), radius * torch.sin(angle)], dim=-1).numpy()
        self.register_buffer("frequencies", torch.from_numpy(chart.snap_frequencies(frequencies)), persistent=False)
        self.outputs = octaves * features

    def forward(self, windows: Sequence[Window]) -> Tensor:
        """Features (b, outputs, h, w), float32, at the windows' own pixel grid."""
        device = self.frequencies.device
        axes = [window.axes() for window in windows]
        x = torch.from_numpy(np.stack([a[0] for a in axes])).to(device)
        y = torch.from_numpy(np.stack([a[1] for a in axes])).to(device)
        # Whole turns are dropped along each axis in float64, then the sum of both is one outer sum in float32.
        turns_x = (x[:, None, :] * self.frequencies[None, :, 0, None]).frac().float()
        turns_y = (y[:, None, :] * self.frequencies[None, :, 1, None]).frac().float()
        turns = turns_x[:, :, None, :] + turns_y[:, :, :, None]
        phase = 2 * math.pi * (turns - turns.round())
        period = torch.tensor([window.period for window in windows], device=device)
        magnitude = self.frequencies.norm(dim=1).float()
        amplitude = (2 - 4 * magnitude[None] * period[:, None]).clamp(0, 1) * math.sqrt(2)
        return torch.cat([phase.sin() * amplitude[:, :, None, None], phase.cos() * amplitude[:, :, None, None]], dim=1)


class ScaleEmbedding(nn.Module):
    """u = log2(zoom) / log2(zoom_max) -> v (b, outputs): sines and cosines of u, then one layer. No normalisation."""

    def __init__(self, zoom_max: float, outputs: int):
        super().__init__()
        self.octaves = max(math.log2(zoom_max), 1.0)
        self.layer = Linear(2 * SCALE_FEATURES + 1, outputs)

    def forward(self, zoom: Tensor) -> Tensor:
        u = torch.log2(zoom)[:, None] / self.octaves
        turns = u * torch.arange(1, SCALE_FEATURES + 1, device=zoom.device) * (math.pi / 2)
        return F.leaky_relu(self.layer(torch.cat([u, turns.sin(), turns.cos()], dim=1)), LEAK)


class Continuum(nn.Module):
    """Generator: scenes and windows of one size to pictures (b, 3, h, w) in about [-1, 1].

    Sides of a window must be multiples of `geometry.lattice_px`; `anyres.synthesis.render` draws any other size.
    """

    w_mean: Tensor

    def __init__(self, params: Train, half_extent: tuple[float, float] = (1.0, 1.0)):
        super().__init__()
        assert isinstance(params.network, ExactNetwork)
        network = params.network
        chart = Chart(params.chart, half_extent, params.fov)
        self.z_dim = network.z_dim
        self.base_period = chart.short_side / min(params.patch_px)
        self.mapping = Mapping(network.z_dim, network.w_dim, network.mapping_layers)
        self.scale = ScaleEmbedding(params.zoom_max, network.w_dim)
        # Zero at first: training starts at the network that ignores scale.
        self.scale_style = Linear(network.w_dim, network.w_dim, zero=True)
        self.features = OctaveFeatures(network.octaves, network.features_per_octave, chart)
        self.trunk = Trunk(self.features.outputs, network.channels, network.w_dim, network.stem_layers)
        self.register_buffer("w_mean", torch.zeros(network.w_dim))
        cell = self.trunk.cell_px
        # A rectangular patch may fit an oblong picture at a coarser period than a square one.
        coarsest = self.base_period if chart.name == "cylinder" else 2 * max(half_extent) / min(params.patch_px)
        self.geometry = Geometry(
            chart=chart,
            lattice_px=cell,
            halo_px=MARGIN_CELLS * cell,
            exact=True,
            periods=(self.base_period / params.zoom_max, coarsest),
            native_sizes=(params.patch_px,),
        )

    def standardize(self, pictures: Tensor) -> None:
        """Nothing to set up by real pictures: its tanh reaches black at once."""

    def styles(self, z: Tensor, psi: float = 1.0) -> Tensor:
        """w (b, w_dim), truncated towards its mean by psi (Karras et al., CVPR 2019, appendix B)."""
        w = self.mapping(z)
        return w if psi == 1.0 else self.w_mean + psi * (w - self.w_mean)

    def forward(self, scene: Scene, windows: Sequence[Window], psi: float = 1.0) -> Tensor:
        w = self.styles(scene.z, psi)
        return self.synthesize(w, scene.seeds, windows)

    def synthesize(self, w: Tensor, seeds: Tensor, windows: Sequence[Window]) -> Tensor:
        """Draw styles w (b, w_dim) with fields of `seeds` (b,) at windows of one size."""
        cell = self.trunk.cell_px
        height, width = windows[0].size
        if height % cell or width % cell:
            raise ValueError(f"window size {(height, width)} must be multiples of {cell} pixels; render() draws any size")
        zoom = torch.tensor([window.zoom(self.base_period) for window in windows], device=w.device, dtype=torch.float32)
        style = w + self.scale_style(self.scale(zoom))
        margin = 2 * MARGIN_CELLS
        grids = [Window(v.center, v.period * cell, (height // cell + margin, width // cell + margin)) for v in windows]
        return self.trunk(self.features(grids), style, seeds, windows, self.geometry.chart)
