"""The geometry that a generator declares: all that tilers, metrics and viewers need to know about it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from anyres.plane.chart import Chart, chart_of


@dataclass(frozen=True)
class Geometry:
    """The declared geometry of a generator.

    lattice_px: tile origins on multiples of this many pixels reproduce the whole render.
    halo_px: how far beyond a window the network reads, in pixels of the window.
    exact: a tile equals the same region of one big render (else blend tiles).
    periods: finest and coarsest period seen in training, plane units per pixel.
    native_sizes: patch sizes (h, w) seen in training.
    """

    chart: Chart
    lattice_px: int
    halo_px: int
    exact: bool
    periods: tuple[float, float]
    native_sizes: tuple[tuple[int, int], ...]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Geometry:
        chart = chart_of(values["chart"]["name"], tuple(values["chart"]["half_extent"]), values["chart"]["fov"])
        sizes = tuple((int(h), int(w)) for h, w in values["native_sizes"])
        finest, coarsest = values["periods"]
        return cls(chart, values["lattice_px"], values["halo_px"], values["exact"], (finest, coarsest), sizes)
