"""Synthesis: from a generator and a window to pixels."""

from anyres.synthesis.render import render, render_many
from anyres.synthesis.request import RenderRequest

__all__ = ["RenderRequest", "render", "render_many"]
