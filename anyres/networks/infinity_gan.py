"""`infinity_gan`: pictures without end, from a field of local latents on a lattice of the plane.

Lin et al., "InfinityGAN: Towards Infinite-Pixel Image Synthesis", ICLR 2022: a structure synthesizer reads a style, local
latents and implicit coordinates; a texture synthesizer, StyleGAN2 without a single padded pixel, draws its map. Local latents and
noise are pure functions of their place, counted in whole numbers, so that any window, anywhere, is drawn by itself and in any
order.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anyres.networks.generator import Edit, StyleGenerator, bytes_per_px
from anyres.networks.layers import LEAK, Linear, Mixed, ModulatedConv, modulation, per_layer, scaled
from anyres.networks.scene import Box, Pin, Scene
from anyres.params import InfinityNetwork, Train
from anyres.plane import fields
from anyres.plane.arrays import namespace, numbers, rounded, stacked
from anyres.plane.chart import chart_of
from anyres.plane.geometry import Geometry
from anyres.plane.shapes import Float, Float32
from anyres.plane.window import PHASE_TOLERANCE_PX, Window

# Implicit coordinates, section 3.2: steepness of the vertical one a cell, and cells of a turn of the horizontal ones.
STEEPNESS = 0.3
TURN_CELLS = 139.0
COORDINATES = 3
# Name of the field of local latents.
LOCAL = "local"

# (styles, grids of a layer's input, grids of its output) -> the styles that the layer takes.
StyleAt = Callable[[Tensor, Sequence[Window], Sequence[Window]], Tensor | Mixed]


def output_px(cells: int, blocks: int) -> int:
    """Return how many pixels `cells` cells of the structure's map become: n 2^L - 5 (2^L - 1)."""
    return cells * 2**blocks - 5 * (2**blocks - 1)


def cells_for(pixels: int, blocks: int) -> int:
    """Return the smallest number of cells whose picture has at least `pixels` pixels."""
    # Round up without negative numbers: some graph runtimes divide them towards 0.
    return (pixels + 6 * (2**blocks - 1)) // 2**blocks


class Up(nn.Module):
    """Doubling without padding: transposed convolution, cut border, then a valid blur; n -> 2 n - 3."""

    def __init__(self, inputs: int, outputs: int, style_dim: int):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(inputs, outputs, 3, 3))
        self.style = Linear(style_dim, inputs, bias=1.0)
        self.scale = 1 / math.sqrt(inputs * 9)
        self.register_buffer("blur", torch.outer(*(torch.tensor([0.5, 1.0, 0.5]),) * 2), persistent=False)

    def forward(self, x: Tensor, style: Tensor | Mixed) -> Tensor:
        weight = self.weight * self.scale
        scale, gain = modulation(self.style, style, weight.square().sum(dim=(2, 3)).T)
        weight = weight.to(x.dtype).contiguous(memory_format=torch.channels_last)
        # The padding of a transposed convolution cuts the border of its output.
        y = F.conv_transpose2d(x * scale.to(x.dtype), weight, stride=2, padding=1)
        y = F.conv2d(y, self.get_buffer("blur").to(x.dtype).expand(y.shape[1], 1, 3, 3), groups=y.shape[1])
        assert gain is not None
        return scaled(y, gain)


class Noisy(nn.Module):
    """Noise (b, 1, h, w), bias and leaky ReLU after a convolution."""

    def __init__(self, channels: int):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channels))
        self.strength = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor, noise: Tensor | None = None) -> Tensor:
        bias, strength = (part[:, None, None].to(x.dtype) for part in (self.bias, self.strength))
        if torch.is_inference_mode_enabled():
            x = x.add_(bias)
            return F.leaky_relu_(x if noise is None else x.addcmul_(noise.to(x.dtype), strength), LEAK)
        return F.leaky_relu(x + bias if noise is None else x + (bias + noise.to(x.dtype) * strength), LEAK)


class Structure(nn.Module):
    """Local latents and coordinates (b, local + 3, h, w), modulated by the global latent -> (b, channels, h - 2 m, w - 2 m).

    The paper unfolds 7 x 7 neighbourhoods before 1 x 1 layers: that is a 7 x 7 convolution. m = `halo`, in cells.
    """

    def __init__(self, network: InfinityNetwork):
        super().__init__()
        widths = [network.local_dim] + [network.structure_channels] * network.structure_layers
        kernel = network.structure_kernel
        self.margin = (kernel - 1) // 2
        self.normalizes = network.structure_z == "normalized"
        self.convs = nn.ModuleList(
            ModulatedConv(a + COORDINATES, b, network.z_dim, kernel) for a, b in itertools.pairwise(widths)
        )
        self.after = nn.ModuleList(Noisy(width) for width in widths[1:])

    @property
    def halo(self) -> int:
        """Cells beyond the map on each side."""
        return self.margin * len(self.convs)

    def forward(self, local: Tensor, coordinates: Tensor, z: Tensor, grids: Sequence[Window], styled: StyleAt) -> Tensor:
        """z (b, z_dim), or (k, z_dim) of a blend, which `styled` spreads over the grids of the cells."""
        x = local
        if self.normalizes:
            z = z * torch.rsqrt(z.square().mean(dim=1, keepdim=True) + 1e-8)
        for conv, after in zip(self.convs, self.after, strict=True):
            inner = [shrunk(grid, self.margin) for grid in grids]
            x = after(conv(torch.cat([x, coordinates], dim=1), styled(z, grids, inner)))
            coordinates = coordinates[:, :, self.margin : -self.margin, self.margin : -self.margin]
            grids = inner
        return x


def doubled_smoothly(x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c 2*h-1 2*w-1"]:
    """Double by half-pixel bilinear interpolation, then shift by half a pixel: [1, 6, 1] / 8 on every other pixel."""
    return F.avg_pool2d(F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False), 2, stride=1)


def doubled_linearly(x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c 2*h-1 2*w-1"]:
    """Double as published: every other pixel is one of x, those between are means of their neighbours."""
    return F.interpolate(x, size=[2 * side - 1 for side in x.shape[2:]], mode="bilinear", align_corners=True)


# How the colours of a level are doubled, n -> 2 n - 1; four more pixels are cut off.
RGB_DOUBLING = {"smooth": doubled_smoothly, "linear": doubled_linearly}


class Texture(nn.Module):
    """A structure's map (b, channels, n_y, n_x) -> colours (b, 3, output_px(n_y), output_px(n_x))."""

    def __init__(self, network: InfinityNetwork):
        super().__init__()
        pairs = list(itertools.pairwise((network.structure_channels, *network.channels)))
        self.ups = nn.ModuleList(Up(a, b, network.w_dim) for a, b in pairs)
        self.convs = nn.ModuleList(ModulatedConv(b, b, network.w_dim) for _, b in pairs)
        self.after_up = nn.ModuleList(Noisy(b) for _, b in pairs)
        self.after_conv = nn.ModuleList(Noisy(b) for _, b in pairs)
        self.to_rgb = nn.ModuleList(ModulatedConv(b, 3, network.w_dim, kernel=1, demodulates=False) for _, b in pairs)
        self.rgb_bias = nn.Parameter(torch.zeros(3))
        self.doubled = RGB_DOUBLING[network.rgb_doubling]
        self.num_ws = 2 * len(pairs) + 1

    def forward(
        self,
        x: Tensor,
        w: Tensor,
        grids: Sequence[Window],
        styled: StyleAt,
        noise: Callable[[int, int, Sequence[Window]], Tensor],
    ) -> Tensor:
        """`grids` are the cells of the map. `noise(stream, beyond, grids)` returns (b, 1, h, w); the index of its first point is
        `beyond` more than 2^level times that of the first cell.
        """
        styles = per_layer(w, self.num_ws)
        x = x.contiguous(memory_format=torch.channels_last)
        rgb: Tensor | None = None
        first = 0
        for level in range(len(self.ups)):
            # Each map is centred on the map that it is computed from: see `output_px`.
            finer = [centred(grid, grid.period / 2, 2 * grid.size[0] - 3, 2 * grid.size[1] - 3) for grid in grids]
            inner = [shrunk(grid, 1) for grid in finer]
            x = self.ups[level](x, styled(styles[2 * level], grids, finer))
            x = self.after_up[level](x, noise(2 * level, 2 * first + 2, finer))
            x = self.convs[level](x, styled(styles[2 * level + 1], finer, inner), is_last_use=True)
            first = 2 * first + 3
            x = self.after_conv[level](x, noise(2 * level + 1, first, inner))
            colour = self.to_rgb[level](x, styled(styles[2 * level + 2], inner, inner))
            if rgb is not None:
                colour = colour + self.doubled(rgb)[:, :, 2:-2, 2:-2]
            rgb, grids = colour, inner
        assert rgb is not None
        return rgb.float() + self.rgb_bias[:, None, None]


class InfinityGan(StyleGenerator):
    """Generator: scenes and windows of one size to pictures (b, 3, h, w) in about [-1, 1]; sides may be any.

    Windows of one period whose origins are a multiple of 2^L pixels apart show one picture. Another period shows another picture:
    cells are counted in pixels, as published. Windows of one picture in one batch share the structure's map.
    """

    draws_regions = True

    def __init__(self, params: Train, half_extent: tuple[float, float] = (1.0, 1.0)):
        assert isinstance(params.network, InfinityNetwork)
        network = params.network
        super().__init__(network.z_dim, network.w_dim, network.mapping_layers)
        chart = chart_of(params.chart, half_extent, params.fov)
        self.limits = network.output == "tanh"
        self.local_dim = network.local_dim
        self.blocks = len(network.channels)
        self.cell_px = network.cell_px
        self.structure = Structure(network)
        self.texture = Texture(network)
        self.num_ws = self.texture.num_ws
        self.bytes_per_px = bytes_per_px(network.channels)
        period = chart.short_side / min(params.patch_px) / params.finest_zoom
        self.geometry = Geometry(
            chart=chart,
            lattice_px=self.cell_px,
            halo_px=self.structure.halo * self.cell_px + 5 * (self.cell_px - 1),
            exact=True,
            periods=(period, period),
            native_sizes=params.patch_sizes,
        )

    def synthesize(
        self, w: Float[Tensor, "k *num_ws w_dim"], scene: Scene, windows: Sequence[Window], edit: Edit | None = None
    ) -> Float[Tensor, "b 3 h w"]:
        """See `StyleGenerator.synthesize`; of a blend w is (k, w_dim) or (k, num_ws, w_dim)."""
        if scene.pin is not None:
            for window in windows:
                scene.pin.check(window)
        height, width = windows[0].size
        first = numbers([self.first_cell(window) for window in windows], torch.int64)
        turns = [self.turn_cells(window) for window in windows]

        def noise(stream: int, beyond: int, grids: Sequence[Window]) -> Tensor:
            level = stream // 2 + 1
            return self._field(f"noise{stream}", stream, 1, (first << level) + beyond, grids, scene, level, turns)

        map_ = self.map_of(scene, windows, edit)
        drawn = self.texture(map_, w, [self.cells(window) for window in windows], self._styled(scene), noise)
        # Tanh makes black and white limits: no value leaves the range.
        return (torch.tanh(drawn) if self.limits else drawn)[:, :, :height, :width]

    def map_of(self, scene: Scene, windows: Sequence[Window], edit: Edit | None = None) -> Float[Tensor, "b channels n_y n_x"]:
        """Return the structure's map of windows; windows of one picture share one computation."""
        around = self._region(windows) if edit is None and len(windows) > 1 and scene.one else None
        if around is None:
            return self._map(scene, windows, edit)
        whole = self._map(scene.part(0, 1), [around])[0]
        left, top = self.first_cell(around)
        rows, columns = (cells_for(side, self.blocks) for side in windows[0].size)
        places = [(y - top, x - left) for x, y in map(self.first_cell, windows)]
        return torch.stack([whole[:, y : y + rows, x : x + columns] for y, x in places])

    def diversity(self, scene: Scene, windows: Sequence[Window], mean: Callable[[Tensor], Tensor] = lambda own: own) -> Tensor:
        """Return the diversity loss of Lin et al., section 3.4: the L1 distance of local latents divided by that of their maps.

        Pairs share latent, coordinates and windows. `mean` turns a mean over these pictures into a mean over all pictures.
        """
        other = replace(scene, seeds=fields.mix(fields.key(scene.seeds, fields.Stream.DIVERSITY)))
        (one, two), (a, b) = ([part(each, windows) for each in (scene, other)] for part in (self.local, self._map))
        latents, maps = mean((one - two).abs().mean().float()), mean((a - b).abs().mean().float())
        return latents / (maps + 1e-5)

    def first_cell(self, window: Window) -> tuple[int, int]:
        """Index (x, y) on the plane's lattice of the first cell of a window's map."""
        (x, y), _ = window.phase()
        return x // self.cell_px, y // self.cell_px

    def cells(self, window: Window, halo: int = 0) -> Window:
        """Return the window of the cells of a window's map, with `halo` more cells on each side."""
        rows, columns = (cells_for(side, self.blocks) for side in window.size)
        drawn = window.crop(0, 0, (output_px(rows, self.blocks), output_px(columns, self.blocks)))
        return centred(drawn, window.period * self.cell_px, rows + 2 * halo, columns + 2 * halo)

    def turn_cells(self, window: Window) -> int | Tensor | None:
        """Return the number of cells around the ring of a cylinder; None where x does not wrap."""
        circumference = self.geometry.chart.circumference
        return None if circumference is None else rounded(circumference / window.period / self.cell_px, 1)

    def local(self, scene: Scene, windows: Sequence[Window]) -> Float32[Tensor, "b {self.local_dim} rows columns"]:
        """Local latents (b, local_dim, rows, columns) under the structure's cells: i.i.d. normals by the index of the cell."""
        halo = self.structure.halo
        first = numbers([self.first_cell(window) for window in windows], torch.int64) - halo
        grids = [self.cells(window, halo) for window in windows]
        return self._field(
            LOCAL, fields.Stream.LOCAL, self.local_dim, first, grids, scene, 0, [self.turn_cells(v) for v in windows]
        )

    def coordinates(self, windows: Sequence[Window], edit: Edit | None = None) -> Float32[Tensor, "b 3 rows columns"]:
        """Return tanh of y, and cosine and sine of x, at the centres of the cells."""
        coordinates = []
        for window in windows:
            grid = self.cells(window, self.structure.halo)
            places = grid.coords() if edit is None else edit(grid.coords())
            xp = namespace(places)
            # Some graph exporters turn a Python number into float32.
            whole_turn = xp.asarray(2 * math.pi, dtype=xp.float64)
            turn = whole_turn * places[..., 0] / (self.geometry.chart.circumference or TURN_CELLS * grid.period)
            coordinates.append(xp.stack([xp.tanh(STEEPNESS * places[..., 1] / grid.period), xp.cos(turn), xp.sin(turn)]))
        return torch.as_tensor(stacked(coordinates)).float().to(self.w_mean.device)

    @torch.no_grad()
    def fields_of(self, scene: Scene, window: Window) -> Pin:
        """Return all local latents and noise that a window uses, as boxes that can be pinned."""
        record = _Record(window.period)
        self.synthesize(self.styles(scene.z), replace(scene, pin=record), [window])
        return Pin(window.period, tuple(record.found))

    @torch.no_grad()
    def standardize(self, pictures: Float[Tensor, "n 3 h w"]) -> None:
        """Take the mean colour of real pictures (n, 3, h, w) as that of the output."""
        mean = pictures.mean(dim=(0, 2, 3))
        self.texture.rgb_bias.copy_(torch.atanh(mean.clamp(-0.9, 0.9)) if self.limits else mean)

    def _map(self, scene: Scene, windows: Sequence[Window], edit: Edit | None = None) -> Tensor:
        grids = [self.cells(window, self.structure.halo) for window in windows]
        z = scene.z if scene.blend is None else scene.blend.z
        return self.structure(self.local(scene, windows), self.coordinates(windows, edit), z, grids, self._styled(scene))

    def _region(self, windows: Sequence[Window]) -> Window | None:
        """Return the smallest window around windows of one pixel grid, or None if its map costs more than theirs together."""
        phases = [window.phase() for window in windows]
        (x, y), rests = phases[0]
        for window, (index, rest) in zip(windows, phases, strict=True):
            apart = (index[0] - x) % self.cell_px or (index[1] - y) % self.cell_px
            if window.period != windows[0].period or apart or np.abs(np.subtract(rest, rests)).max() > PHASE_TOLERANCE_PX:
                return None
        left, top = (min(index[axis] for index, _ in phases) for axis in (0, 1))
        right, bottom = (max(index[axis] for index, _ in phases) + windows[0].size[1 - axis] for axis in (0, 1))
        around = windows[0].crop(top - y, left - x, (bottom - top, right - left))
        halo = self.structure.halo
        together, apart = math.prod(self.cells(around, halo).size), len(windows) * math.prod(self.cells(windows[0], halo).size)
        return around if together < apart else None

    @staticmethod
    def _styled(scene: Scene) -> StyleAt:
        """Return how layers take their styles: unchanged, or mixed by the scene's blend at the layers' grids."""
        blend = scene.blend
        if blend is None:
            return lambda style, _inputs, _outputs: style

        def mixed(style: Tensor, inputs: Sequence[Window], outputs: Sequence[Window]) -> Mixed:
            return Mixed(style, blend.at(inputs, style.device), blend.at(outputs, style.device))

        return mixed

    @staticmethod
    def _field(
        name: str,
        stream: int,
        channels: int,
        first: Tensor,
        grids: Sequence[Window],
        scene: Scene,
        level: int,
        turns: Sequence[int | Tensor | None],
    ) -> Tensor:
        """Normals of a lattice of 2^level points a cell, from index `first` = (x, y) of each grid on: (b, channels, h, w)."""
        device = scene.seeds.device
        columns, rows = (first[:, axis, None] + torch.arange(grids[0].size[1 - axis]) for axis in (0, 1))
        wrapped = columns
        if turns[0] is not None:
            wrapped = columns % (numbers(turns, torch.int64) << level)[:, None]
        where = wrapped.to(device), rows.to(device)
        drawn = fields.cells(scene.seeds, stream, channels, *where)
        part = "structure" if name == LOCAL else "texture"
        for region in scene.regions:
            if region.part == part:
                inside = torch.stack([region.holds(grid) for grid in grids])[:, None].to(device)
                other = fields.cells(torch.full_like(scene.seeds, region.seed), stream, channels, *where)
                drawn = torch.where(inside, other, drawn)
        return drawn if scene.pin is None else scene.pin.over(name, drawn, rows, columns)


class _Record(Pin):
    """Pins nothing and records every field that is drawn."""

    found: list[Box]

    def __init__(self, period: float):
        super().__init__(period)
        object.__setattr__(self, "found", [])

    def over(self, name: str, drawn: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        self.found.append(Box(name, int(rows[0, 0]), int(columns[0, 0]), drawn[0].clone()))
        return drawn


def shrunk(grid: Window, margin: int) -> Window:
    """A grid without `margin` points on each side."""
    return centred(grid, grid.period, grid.size[0] - 2 * margin, grid.size[1] - 2 * margin)


def centred(grid: Window, period: float, rows: int, columns: int) -> Window:
    """A grid of other points about the middle of `grid`."""
    return replace(grid, period=period, size=(rows, columns))
