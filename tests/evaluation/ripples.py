"""A generator that draws a function of the plane, and what the tests of an evaluation share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from anyres.data.store import Store
from anyres.networks.scene import Scene
from anyres.params import Params
from anyres.plane.chart import Frame
from anyres.plane.geometry import Geometry
from anyres.plane.window import Window

EVALUATE = {"num_samples": 60, "num_sweep_samples": 24, "sizes": (24, 40, 64), "num_scenes": 2, "bootstrap": 8}
NAME = 'm42 & "friends" <script>alert(1)</script>.png'


class Ripples(nn.Module):
    """Smooth stripes of each scene's own direction and colour: any size, no seams, nothing below its wavelength."""

    draws_regions = False
    bytes_per_px = 0

    def __init__(self, strength: float):
        super().__init__()
        self.strength = nn.Parameter(torch.tensor(strength))
        self.z_dim = 5
        self.geometry = Geometry(Frame((1.6, 1.0)), 4, 0, True, (2 / 48, 2 / 16), ((16, 20),))

    def forward(self, scene: Scene, windows: Sequence[Window], psi: float = 1.0) -> torch.Tensor:
        coords = torch.from_numpy(np.stack([window.coords() for window in windows])).float()
        angle, colour = scene.z[:, 0] * math.pi, psi * scene.z[:, 1:4]
        along = coords[..., 0] * angle.cos()[:, None, None] + coords[..., 1] * angle.sin()[:, None, None]
        waves = torch.sin(4 * along + scene.z[:, 4, None, None])
        return torch.tanh(self.strength * waves[:, None] * colour[:, :, None, None] - 0.5)


@dataclass(frozen=True)
class Evaluated:
    """One finished evaluation and its report."""

    params: Params
    store: Store
    folder: Path
    metrics: dict[str, Any]
    page: str
