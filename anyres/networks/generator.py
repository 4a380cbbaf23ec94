"""The base class of style-based generators: a mapping from z to styles, their mean, and a synthesis in each subclass."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from anyres.networks.layers import MappingNetwork
from anyres.networks.scene import Scene
from anyres.plane.arrays import stacked
from anyres.plane.geometry import Geometry
from anyres.plane.shapes import Float, Float64
from anyres.plane.window import Window

# Seeds of scenes are below this limit; those of a training start above it.
SEED_LIMIT = 1 << 40
# Maps of one level that are in memory together while a convolutional network draws: measured.
LIVE_MAPS = 6.0
# Plane positions (h, w, 2) -> the positions that are drawn there: see `anyres.synthesis.edit`.
Edit = Callable[[np.ndarray], np.ndarray]


class Generator(Protocol):
    """What the renderers need of a generator: networks, and stand-ins for them in evaluation.

    Called with a scene of b pictures and b windows of one size it returns pictures (b, 3, h, w) in about [-1, 1]. The same scene
    and window give the same pixels, in any order and in any process.
    """

    geometry: Geometry
    z_dim: int
    # Whether it draws scenes of several styles, regions and pinned fields.
    draws_regions: bool
    # Memory that a pass needs for each of its pixels: the largest maps that it holds at one time.
    bytes_per_px: int

    # A generator that is never edited need not take an `edit`.
    def __call__(self, scene: Scene, windows: Sequence[Window], psi: float = 1.0) -> Float[Tensor, "b 3 h w"]: ...

    def parameters(self) -> Iterator[nn.Parameter]: ...

    def state_dict(self) -> Mapping[str, Tensor]: ...


def device_of(generator: Generator) -> torch.device:
    """The device that holds a generator's parameters."""
    return next(iter(generator.parameters())).device


def bytes_per_px(channels: Sequence[int]) -> int:
    """Return the bytes of LIVE_MAPS float32 maps of the largest level, for each pixel of the finest level.

    `channels` run from coarse to fine; each level doubles the resolution.
    """
    return math.ceil(4 * LIVE_MAPS * max(width / 4**level for level, width in enumerate(reversed(channels))))


def places(
    grids: Sequence[Window], edit: Edit | None, device: torch.device
) -> tuple[Float64[Tensor, "b 1 _ _"], Float64[Tensor, "b 1 _ _"]]:
    """Plane positions x and y of the grids' points, float64, that broadcast to (b, 1, h, w): plain grids are kept by axis."""
    if edit is None:
        axes = [grid.axes() for grid in grids]
        x, y = (torch.as_tensor(stacked(along), device=device) for along in zip(*axes, strict=True))
        return x[:, None, None, :], y[:, None, :, None]
    edited = torch.from_numpy(np.stack([edit(grid.coords()) for grid in grids])).to(device)
    return edited[:, None, :, :, 0], edited[:, None, :, :, 1]


class StyleGenerator(nn.Module):
    """forward(scene, windows) -> pictures (b, 3, h, w) in about [-1, 1], windows of one size whose sides are multiples of
    `geometry.lattice_px`; `anyres.synthesis.render` draws any other size. `num_ws` layers take a style each.
    """

    w_mean: Tensor
    geometry: Geometry
    num_ws: int
    bytes_per_px: int
    draws_regions: bool = False

    def __init__(self, z_dim: int, w_dim: int, mapping_layers: int):
        super().__init__()
        self.z_dim = z_dim
        self.mapping = MappingNetwork(z_dim, w_dim, mapping_layers)
        self.register_buffer("w_mean", torch.zeros(w_dim))

    def styles(self, z: Float[Tensor, "b z_dim"], psi: float = 1.0) -> Float[Tensor, "b w_dim"]:
        """w (b, w_dim), truncated towards its mean by psi (Karras et al., CVPR 2019, appendix B)."""
        return self.truncated(self.mapping(z), psi)

    def truncated(self, w: Float[Tensor, "*layers w_dim"], psi: float) -> Float[Tensor, "*layers w_dim"]:
        """Move styles towards their mean by psi: 0 returns the mean, 1 returns them unchanged."""
        return w if psi == 1.0 else self.w_mean + psi * (w - self.w_mean)

    def forward(
        self, scene: Scene, windows: Sequence[Window], psi: float = 1.0, edit: Edit | None = None
    ) -> Float[Tensor, "b 3 h w"]:
        if not scene.plain and not self.draws_regions:
            raise ValueError(f"{type(self).__name__} draws one style and one seed a picture; infinity_gan draws several")
        of = scene if scene.blend is None else scene.blend
        w = self.styles(of.z, psi) if of.w is None else self.truncated(of.w, psi)
        return self.synthesize(w, scene, windows, edit)

    def synthesize(
        self, w: Float[Tensor, "k *num_ws w_dim"], scene: Scene, windows: Sequence[Window], edit: Edit | None = None
    ) -> Float[Tensor, "b 3 h w"]:
        """Draw styles w, (b, w_dim) or (b, num_ws, w_dim), with the fields of `scene` at windows of one size."""
        raise NotImplementedError

    def diversity(self, scene: Scene, windows: Sequence[Window], mean: Callable[[Tensor], Tensor]) -> Float[Tensor, ""]:
        """Return the diversity loss of local latents; only infinity_gan has them."""
        raise ValueError(f"{type(self).__name__} has no local latents; set train.loss.diversity to 0")

    def standardize(self, pictures: Float[Tensor, "n 3 h w"]) -> None:
        """Initialise what depends on the colours of real pictures in [-1, 1]; by default nothing does."""

    def update_magnitude_ema(self, mean: Callable[[Tensor], Tensor]) -> None:
        """Update running means from what layers recorded in the passes of one training step; by default they record nothing.

        `mean` turns a mean over the pictures of this process into a mean over all processes.
        """

    def check_size(self, windows: Sequence[Window]) -> tuple[int, int]:
        """Height and width of the windows in pixels. Raises ValueError where they are no multiples of the lattice."""
        (height, width), cell = windows[0].size, self.geometry.lattice_px
        if height % cell or width % cell:
            raise ValueError(f"window size {(height, width)} must be multiples of {cell} pixels; render() draws any size")
        return height, width
