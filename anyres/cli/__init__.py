"""The command `anyres`."""

from __future__ import annotations

from anyres.cli import (  # noqa: F401 - each module registers its commands
    champions,
    doctor,
    draw,
    export,
    info,
    photos,
    scales,
    stages,
    view,
)
from anyres.cli.options import app

__all__ = ["app"]
