"""anyres: one GAN from photographs of any size, drawn at any resolution."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from anyres.plane.window import Window
from anyres.version import __version__

if TYPE_CHECKING:
    from anyres.export.bundle import Model

__all__ = ["Window", "__version__", "load"]


def load(source: str | Path, device: str = "cpu") -> Model:
    """Load a generator from a bundle folder, by the name of a model that comes with anyres ("continuum-deepsky"), or from an
    MLflow registry ("models:/anyres-generator@champion").

    Raises ValueError, one line, if it is missing or damaged; see `export.bundle.load` and `registry.client.fetch_bundle`.
    """
    # Import here: `import anyres` must not import torch.
    from anyres.export.bundle import load as load_bundle
    from anyres.registry.client import SCHEME, fetch_bundle

    return load_bundle(fetch_bundle(str(source)) if str(source).startswith(SCHEME) else source, device)
