"""A generator as an archive of torch.export: for whoever has torch alone."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping

import numpy as np
import torch

from anyres.export.traced import example, quiet, traced
from anyres.networks.generator import StyleGenerator
from anyres.plane.window import Window

# The file in the archive that holds what is told about the model.
ABOUT = "about.json"


def archive_file(generator: StyleGenerator, about: Mapping[str, str]) -> bytes:
    """The content of a .pt2 file. Raises ValueError, one line, for a generator that no graph can draw.

    Weights lie in it as raw bytes and the graph as JSON: nothing that would be unpickled.
    """
    program = traced(generator)
    # The one thing that torch would pickle, and needs only to run the example again.
    program.example_inputs = None
    content = io.BytesIO()
    with quiet():
        torch.export.save(program, content, extra_files={ABOUT: json.dumps(about, indent=2, sort_keys=True)})
    return content.getvalue()


def drawn_by_archive(content: bytes, seed: int, window: Window, psi: float) -> np.ndarray:
    """`values` of an archive at a window, float32 (3, h, w)."""
    with quiet(), torch.no_grad():
        _, values = torch.export.load(io.BytesIO(content)).module()(*example(seed, window, psi))
    return values[0].numpy()
