"""Files of a generator that others open without this code: the suffix of their name says which kind."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from anyres.export.bundle import PSI, RECORDED, Model
from anyres.export.onnx import OPSET, drawn_by_onnxruntime, onnx_file
from anyres.export.torch_export import archive_file, drawn_by_archive
from anyres.export.traced import INPUTS, OUTPUTS
from anyres.files import write_atomic
from anyres.networks.generator import StyleGenerator
from anyres.plane.window import Window
from anyres.synthesis.render import render_tiles
from anyres.synthesis.request import RenderRequest

# A file whose pixels differ by more than this from the model's, in the range [-1, 1], is not written.
TOLERANCE = 1e-4
CHECK_SEED = 7
CHECK_SIZE = (37, 45)
# What must be installed for a file of ONNX; its check needs onnxruntime, and goes without.
PACKAGES = ("onnx", "onnx_ir", "onnxscript")


class Format(NamedTuple):
    """A kind of file: what it is called, what makes its content, what draws from that."""

    title: str
    content: Callable[[StyleGenerator, Mapping[str, str]], bytes]
    drawn: Callable[[bytes, int, Window, float], np.ndarray]


FORMATS = {
    ".onnx": Format(f"ONNX, opset {OPSET}", onnx_file, drawn_by_onnxruntime),
    ".pt2": Format(f"torch.export, torch {torch.__version__.partition('+')[0]}", archive_file, drawn_by_archive),
}


class Exported(NamedTuple):
    """What was written: kind, bytes, and the largest difference from the model, None where onnxruntime is absent."""

    title: str
    num_bytes: int
    difference: float | None


def format_of(path: Path) -> Format:
    """The kind of file that a name asks for. Raises ValueError, one line, for another suffix."""
    try:
        return FORMATS[path.suffix.lower()]
    except KeyError:
        raise ValueError(f"{path}: not a kind of file that is written here; end its name with {' or '.join(FORMATS)}") from None


def export_to(model: Model, path: Path) -> Exported:
    """Write a model as a file that draws any window by itself, checked against the model first, whole or not at all.

    Raises ValueError, one line: a suffix that is none of FORMATS, a package that is missing, a generator that no graph can draw,
    or pixels that differ by more than TOLERANCE.
    """
    title, make, drawn = format_of(path)
    generator: Any = model.generator
    try:
        content = make(generator, about(model))
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in PACKAGES:
            raise
        raise ValueError(f"{path}: needs the package {error.name}; install anyres with its extra: anyres[onnx]") from None
    difference = _difference(model, lambda window: drawn(content, CHECK_SEED, window, PSI))
    if difference is not None and not difference <= TOLERANCE:
        raise ValueError(
            f"{path}: its pixels differ by {difference:.1e} from the model's, more than {TOLERANCE:.0e}; not written"
        )
    write_atomic(path, content)
    return Exported(title, len(content), difference)


def about(model: Model) -> dict[str, str]:
    """What a file tells of itself: which model it is, what it takes and gives, where its plane ends."""
    geometry = model.geometry
    chart, (finest, coarsest) = geometry.chart, geometry.periods
    return {name: str(model.meta[name]) for name in RECORDED if name in model.meta} | {
        "inputs": "; ".join(f"{name} {what}" for name, what in INPUTS.items()),
        "outputs": "; ".join(f"{name} {what}" for name, what in OUTPUTS.items()),
        "plane": f"{chart.name}: {chart.domain}; the short side of a picture is {chart.short_side:g} long",
        "periods": f"from {finest:g} to {coarsest:g} seen in training",
        "lattice_px": str(geometry.lattice_px),
        "exact": "yes" if geometry.exact else "no",
        "rights": "The pictures it learned from may bind what you publish: see card and credits of the bundle it was made from.",
    }


def _difference(model: Model, draw: Callable[[Window], np.ndarray]) -> float | None:
    """Of what a file draws at a window about the middle of the chart; None where what draws from such files is not installed."""
    span = min(model.geometry.chart.half_extent)
    window = Window((span / 7, -span / 9), span / 48, CHECK_SIZE)
    try:
        values = draw(window)
    except ModuleNotFoundError as error:
        if error.name != "onnxruntime":
            raise
        return None
    ((_, pixels),) = render_tiles(model.generator, RenderRequest(CHECK_SEED, window, PSI))
    return float(np.abs(values - pixels.cpu().numpy()).max())
