"""Plane geometry: windows, charts, tiling, counter-based fields and the one resampler. No networks."""
