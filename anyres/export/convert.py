"""Export a generator to a file that needs none of this code; the suffix selects the format."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from anyres.export.bundle import PSI, RECORDED, Model
from anyres.export.onnx import OPSET, draw_with_onnxruntime, onnx_file
from anyres.export.torch_export import archive_file, draw_with_archive
from anyres.export.traced import INPUTS, OUTPUTS
from anyres.files import write_atomic
from anyres.networks.generator import StyleGenerator
from anyres.plane.window import Window
from anyres.synthesis.render import render_tiles
from anyres.synthesis.request import RenderRequest

# Largest accepted difference between the pixels of a file and of the model, in the range [-1, 1].
TOLERANCE = 1e-4
CHECK_SEED = 7
CHECK_SIZE = (37, 45)
# Packages that an ONNX file needs. Its check needs onnxruntime and is skipped without it.
PACKAGES = ("onnx", "onnx_ir", "onnxscript")


class Format(NamedTuple):
    """A file format: its title, the function that makes the content of a file, the function that draws from a content."""

    title: str
    content: Callable[[StyleGenerator, Mapping[str, str]], bytes]
    draw: Callable[[bytes, int, Window, float], np.ndarray]


FORMATS = {
    ".onnx": Format(f"ONNX, opset {OPSET}", onnx_file, draw_with_onnxruntime),
    ".pt2": Format(f"torch.export, torch {torch.__version__.partition('+')[0]}", archive_file, draw_with_archive),
}


class Exported(NamedTuple):
    """What was written: format, bytes, and the largest difference from the model (None without onnxruntime)."""

    title: str
    num_bytes: int
    difference: float | None


def format_of(path: Path) -> Format:
    """Return the format for the suffix of a file. Raises ValueError, one line, for an unknown suffix."""
    try:
        return FORMATS[path.suffix.lower()]
    except KeyError:
        raise ValueError(f"{path}: not a kind of file that is written here; end its name with {' or '.join(FORMATS)}") from None


def export_to(model: Model, path: Path) -> Exported:
    """Write a model atomically as a file that draws any window without this code, after a check against the model.

    Raises ValueError, one line, for a suffix that is not in FORMATS, for a missing package, or for pixels that differ by more
    than TOLERANCE.
    """
    title, make, draw = format_of(path)
    generator: Any = model.generator
    try:
        content = make(generator, about(model))
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in PACKAGES:
            raise
        raise ValueError(f"{path}: needs the package {error.name}; install anyres with its extra: anyres[onnx]") from None
    difference = _difference(model, lambda window: draw(content, CHECK_SEED, window, PSI))
    if difference is not None and not difference <= TOLERANCE:
        raise ValueError(
            f"{path}: its pixels differ by {difference:.1e} from the model's, more than {TOLERANCE:.0e}; not written"
        )
    write_atomic(path, content)
    return Exported(title, len(content), difference)


def about(model: Model) -> dict[str, str]:
    """The metadata of a file: its model, its inputs and outputs, the extent of its plane."""
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
    """Largest difference between file and model at a window about the middle of the chart; None without onnxruntime."""
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
