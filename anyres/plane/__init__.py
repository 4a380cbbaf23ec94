"""Plane geometry: windows, charts, tiling, counter-based fields and the one resampler. No networks."""

from anyres.plane.chart import Chart
from anyres.plane.geometry import Geometry
from anyres.plane.window import Window

__all__ = ["Chart", "Geometry", "Window"]
