"""`scaleparty`: a pad-free StyleGAN2 on the plain coordinates of its window.

Ntavelis et al., "Arbitrary-Scale Image Synthesis" (ScaleParty), CVPR 2022, section 3: the only input beside styles and noise
is a grid of plane positions, one point a cell, that goes on beyond the window by `npad` cells. With four of them, as here by
default, tiles equal the whole exactly; the paper's three leave a border that differs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from anyres.networks.generator import Edit, StyleGenerator, places
from anyres.networks.padfree import NoiseInput, Trunk
from anyres.networks.scene import Scene
from anyres.params import GridNetwork, Train
from anyres.plane.chart import chart_of
from anyres.plane.geometry import Geometry
from anyres.plane.shapes import Float
from anyres.plane.window import Window


class ScaleParty(StyleGenerator):
    """Generator: scenes and windows of one size to pictures (b, 3, h, w) in about [-1, 1]."""

    def __init__(self, params: Train, half_extent: tuple[float, float] = (1.0, 1.0)):
        assert isinstance(params.network, GridNetwork)
        network = params.network
        super().__init__(network.z_dim, network.w_dim, network.mapping_layers)
        chart = chart_of(params.chart, half_extent, params.fov)
        self.unit = chart.short_side / 2
        base_period = chart.short_side / min(params.patch_px)
        clamped = network.npad < 4
        inputs = chart.position_channels
        self.trunk = Trunk(
            inputs,
            network.channels,
            network.w_dim,
            clamped=clamped,
            first_rgb=True,
            noise=NoiseInput(network.noise, per_layer=network.noise_maps == "layer"),
        )
        self.num_ws, self.bytes_per_px = self.trunk.num_ws, self.trunk.bytes_per_px
        self.geometry = Geometry(
            chart=chart,
            lattice_px=self.trunk.cell_px,
            halo_px=self.trunk.margin_cells * self.trunk.cell_px,
            exact=not clamped and network.noise == "grid_sample",
            periods=(base_period / params.finest_zoom, base_period),
            native_sizes=params.patch_sizes,
        )

    def synthesize(
        self, w: Float[Tensor, "k *num_ws w_dim"], scene: Scene, windows: Sequence[Window], edit: Edit | None = None
    ) -> Float[Tensor, "b 3 h w"]:
        """Draw styles w, (b, w_dim) or (b, num_ws, w_dim), with the noise of `scene` at windows of one size."""
        height, width = self.check_size(windows)
        cell, margin = self.trunk.cell_px, 2 * self.trunk.margin_cells
        grids = [replace(v, period=v.period * cell, size=(height // cell + margin, width // cell + margin)) for v in windows]
        x, y = places(grids, edit, w.device)
        return self.trunk(self._encoding(x, y), w, scene.seeds, windows, self.geometry.chart)

    def _encoding(self, x: Tensor, y: Tensor) -> Tensor:
        """Encoded positions (b, inputs, h, w), float32, in units of half a short side: a frame is [-1, 1] on every chart."""
        return torch.cat(torch.broadcast_tensors(*self.geometry.chart.encode(x, y)), dim=1).float() / self.unit

    @torch.no_grad()
    def standardize(self, pictures: Float[Tensor, "n 3 h w"]) -> None:
        """Take the mean colour of real pictures (n, 3, h, w) as that of the output: Adam would take long to get there."""
        self.trunk.rgb_bias.copy_(pictures.mean(dim=(0, 2, 3)))
