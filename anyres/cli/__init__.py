"""The command `anyres`."""

from __future__ import annotations

from anyres.cli import draw, machine, photographs, scales, sets, stages, view  # noqa: F401 - each adds its commands
from anyres.cli.options import app

__all__ = ["app"]
