"""The command `anyres`."""

from __future__ import annotations

from anyres.cli import (  # noqa: F401 - each adds its commands
    draw,
    exchange,
    machine,
    photographs,
    registry,
    scales,
    sets,
    stages,
    view,
)
from anyres.cli.options import app

__all__ = ["app"]
