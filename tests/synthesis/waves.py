"""Draw waves, the cheapest of all pictures, into files: `waves.py SIDE PAUSE_S OUT...`; prints the peak of memory in KiB.

Every pass is told on stderr, and takes at least PAUSE_S.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from anyres.networks import Scene
from anyres.plane.chart import Plane
from anyres.plane.geometry import Geometry
from anyres.plane.window import Window
from anyres.synthesis.request import RenderRequest
from anyres.synthesis.stream import render_to


class Waves(nn.Module):
    """A generator without a network, exact: colours are sines of the place."""

    z_dim = 4
    draws_regions = False
    bytes_per_px = 0
    geometry = Geometry(Plane((1.0, 1.0)), 8, 0, True, (1 / 64, 1 / 16), ((16, 16),))

    def __init__(self, pause_s: float = 0.0) -> None:
        super().__init__()
        self.pace = nn.Parameter(torch.tensor([3.0, 41.0, 407.0]), requires_grad=False)
        self.pause_s = pause_s
        self.passes = 0

    def forward(self, scene: Scene, windows: Sequence[Window], psi: float = 1.0) -> Tensor:
        time.sleep(self.pause_s)
        self.passes += 1
        pictures = []
        for row, window in enumerate(windows):
            x, y = (torch.from_numpy(axis).float() for axis in window.axes())
            phase = scene.z[row, :3, None, None]
            pictures.append(torch.sin(x * self.pace[:, None, None] + phase) * torch.cos(y[:, None] * self.pace[:, None, None]))
        return torch.stack(pictures)


if __name__ == "__main__":
    torch.set_num_threads(1)
    side, waves = int(sys.argv[1]), Waves(float(sys.argv[2]))
    for out in sys.argv[3:]:
        render_to(Path(out), waves, RenderRequest(5, Window((0.0, 0.0), 1 / 32, (side, side + 24))))
        print(f"{waves.passes} passes", file=sys.stderr)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
