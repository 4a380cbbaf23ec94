"""anyres: one GAN from photographs of any size, drawn at any resolution."""

from anyres.plane.window import Window

__all__ = ["Window", "load"]
__version__ = "0.1.0"


def load(source: str):
    """Load a generator from a bundle folder; see `anyres.export.bundle.load`."""
    from anyres.export.bundle import load as load_bundle

    return load_bundle(source)
