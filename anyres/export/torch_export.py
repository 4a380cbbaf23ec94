"""A generator as an archive of torch.export, which needs only torch."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping

import numpy as np
import torch

from anyres.export.traced import example, quiet, trace
from anyres.networks.generator import StyleGenerator
from anyres.plane.window import Window

# The file in the archive with the metadata of the model.
ABOUT = "about.json"


def archive_file(generator: StyleGenerator, about: Mapping[str, str]) -> bytes:
    """Return the content of a .pt2 file: weights as raw bytes, the graph as JSON, nothing pickled."""
    program = trace(generator)
    # torch would pickle the example inputs, and does not need them to draw.
    program.example_inputs = None
    content = io.BytesIO()
    with quiet():
        torch.export.save(program, content, extra_files={ABOUT: json.dumps(about, indent=2, sort_keys=True)})
    return content.getvalue()


def draw_with_archive(content: bytes, seed: int, window: Window, psi: float) -> np.ndarray:
    """Return `values` of an archive at a window, float32 (3, h, w)."""
    with quiet(), torch.no_grad():
        _, values = torch.export.load(io.BytesIO(content)).module()(*example(seed, window, psi))
    return values[0].numpy()
