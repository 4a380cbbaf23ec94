"""A generator as one function of tensors, traced for export.

Networks read from windows where and how finely to draw. Here the numbers of a window are tensors, so a trace records what a
network computes from them, and position, scale and size stay inputs of the graph.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from anyres.networks.generator import StyleGenerator
from anyres.networks.scene import Scene
from anyres.plane.window import PHASE_TOLERANCE_PX, ROUNDINGS, Window

# Spacing of float64 at 1.
STEP = 2.0**-52

INPUTS = {
    "seed": "int64 (): which scene, from 0 to 2^40 - 1",
    "center": "float64 (2): x and y of the middle of the window, in plane units",
    "period": "float64 (): plane units from one pixel to the next, above 0",
    "size": "int64 (2): height and width in pixels, from 1 on",
    "psi": "float64 (): truncation, from 0 (the mean style) to 2, 1 for none",
}
OUTPUTS = {
    "picture": "uint8 (height, width, 3): sRGB",
    "values": "float32 (1, 3, height, width): the same in about [-1, 1], not rounded",
}


@dataclass(frozen=True, eq=False)
class TracedWindow(Window):
    """A window whose center and period are scalar float64 tensors and whose size may be symbolic."""

    center: Any
    period: Any
    size: Any

    def __post_init__(self) -> None:
        """Check nothing: inputs of a graph have no values."""

    def axes(self) -> Any:
        """Pixel centres along x (w,) and along y (h,), float64."""
        # Halve integers: symbolic fractions would be float32 in some graphs.
        offsets = ((2 * torch.arange(side) + (1 - side)).double() / 2 for side in reversed(self.size))
        return tuple(center + self.period * offset for center, offset in zip(self.center, offsets, strict=True))

    def coords(self) -> Any:
        """Plane positions of the pixel centres, float64 (h, w, 2), last axis (x, y)."""
        x, y = self.axes()
        return torch.stack(torch.broadcast_tensors(x[None, :], y[:, None]), dim=-1)

    def crop(self, top: Any, left: Any, size: tuple[int, int]) -> TracedWindow:
        """See `Window.crop`; top and left may be scalar int64 tensors."""
        moved = (2 * left + (size[1] - self.size[1]), 2 * top + (size[0] - self.size[0]))
        x, y = (center + self.period * twice / 2 for center, twice in zip(self.center, moved, strict=True))
        return replace(self, center=(x, y), size=size)

    def parked(self, away: Any, period: float) -> TracedWindow:
        """See `Window.parked`; `away` is a scalar tensor."""
        x, y = (torch.where(away, 0.0, center) for center in self.center)
        return replace(self, center=(x, y), period=torch.where(away, period, self.period))

    def phase(self) -> Any:
        """See `Window.phase`: scalar tensors, int64 and float64."""
        index, rest = zip(*(_split(edge / self.period) for edge in self.origin), strict=True)
        return index, rest


def _split(position: Any) -> tuple[Tensor, Tensor]:
    # The spacing of float64 at the position, at most twice as large.
    tolerance = (ROUNDINGS * STEP * position.abs()).clamp(min=PHASE_TOLERANCE_PX)
    index = torch.floor(position + tolerance)
    rest = position - index
    return index.long(), torch.where(rest.abs() <= tolerance, 0.0, rest)


class TracedRenderer(nn.Module):
    """The renderer of `anyres.synthesis.render` for a window in one pass, as one function of tensors.

    forward(seed, center, period, size, psi), see INPUTS, returns OUTPUTS.
    """

    def __init__(self, generator: StyleGenerator):
        super().__init__()
        self.generator = generator

    def forward(self, seed: Tensor, center: Tensor, period: Tensor, size: Tensor, psi: Tensor) -> tuple[Tensor, Tensor]:
        height, width = size.tolist()
        for side in (height, width):
            torch._check(side >= 1)
        x, y = center.unbind()
        window = TracedWindow((x, y), period, (height, width))
        aligned, top, left = _align(window, self.generator.geometry.lattice_px)
        scene = Scene.of(seed[None], self.generator.z_dim)
        w, mean = self.generator.mapping(scene.z), self.generator.w_mean
        pixels = self.generator.synthesize(mean + psi.float() * (w - mean), scene, [aligned])
        values = pixels.index_select(2, top + torch.arange(height)).index_select(3, left + torch.arange(width))
        picture = (values * 127.5 + 127.5).round().clamp(0, 255).to(torch.uint8)
        return picture[0].permute(1, 2, 0), values


def example(seed: int, window: Window, psi: float) -> tuple[Tensor, ...]:
    """Return the inputs of the graph for a window."""
    center, period, truncation = (torch.tensor(value, dtype=torch.float64) for value in (window.center, window.period, psi))
    return torch.tensor(seed), center, period, torch.tensor(window.size), truncation


def trace(generator: StyleGenerator) -> ExportedProgram:
    """Trace a generator with every input dynamic."""
    inputs = example(1, Window((0.0, 0.0), generator.geometry.periods[1], (20, 28)), 0.7)
    with torch.no_grad(), quiet():
        program = torch.export.export(TracedRenderer(generator).eval(), inputs, strict=False)
    for node in program.graph.nodes:
        # Stack traces hold paths of this machine.
        node.meta.pop("stack_trace", None)
    return program


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the logs and warnings of exporters within the block."""
    loggers = [logging.getLogger(name) for name in ("onnx_ir", "onnxscript", "torch.onnx", "torch.export")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _align(window: TracedWindow, lattice: int) -> tuple[TracedWindow, Tensor, Tensor]:
    """See `anyres.synthesis.render.align`."""
    (column, row), _ = window.phase()
    top, left = row % lattice, column % lattice
    cells = [((first + side + lattice - 1) // lattice).item() for first, side in zip((top, left), window.size, strict=True)]
    for count in cells:
        torch._check(count >= 1)
    rows, columns = (count * lattice for count in cells)
    return window.crop(-top, -left, (rows, columns)), top, left
