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
    """Load a generator: of a bundle folder, one that comes with anyres ("continuum-deepsky"), or of an MLflow registry
    ("models:/anyres-generator@champion").

    Raises ValueError, one line, where it is not there or not sound; see `anyres.export.bundle.load` and `.registry.fetched`.
    """
    # torch is imported with the first generator, not with the name of the package.
    from anyres.export.bundle import load as load_bundle
    from anyres.registry.client import SCHEME, fetched

    return load_bundle(fetched(str(source)) if str(source).startswith(SCHEME) else source, device)
