"""The version of anyres: imported by every room, importing none."""

from __future__ import annotations

__version__ = "0.1.0"
