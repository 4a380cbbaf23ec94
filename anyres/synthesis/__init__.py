"""Synthesis: from a generator and a window to pixels."""

from anyres.synthesis.render import render, render_many

__all__ = ["render", "render_many"]
