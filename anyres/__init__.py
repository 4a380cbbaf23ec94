"""anyres: one GAN from photographs of any size, drawn at any resolution."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anyres.plane.window import Window

if TYPE_CHECKING:
    from anyres.export.bundle import Model

__all__ = ["Window", "load"]
__version__ = "0.1.0"


def load(source: str) -> Model:
    """Load a generator from a bundle folder; see `anyres.export.bundle.load`."""
    # torch is imported with the first generator, not with the name of the package.
    from anyres.export.bundle import load as load_bundle

    return load_bundle(source)
