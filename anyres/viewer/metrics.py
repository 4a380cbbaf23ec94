"""Metrics of the server, in the text format of Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SECONDS = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Metrics:
    """Counters of one server."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        self.requests = Counter("anyres_requests", "Requests answered.", ["kind", "status"], registry=registry)
        self.seconds = Histogram("anyres_request_seconds", "Time to answer.", ["kind"], registry=registry, buckets=SECONDS)
        self.tiles_drawn = Counter("anyres_tiles_drawn", "Tiles drawn.", registry=registry)
        self.passes = Counter("anyres_passes", "Forward passes that drew tiles.", registry=registry)
        self.cache_hits = Counter("anyres_tile_cache_hits", "Tiles read from a cache.", ["where"], registry=registry)
        self.tiles_dropped = Counter("anyres_tiles_dropped", "Tiles cancelled: no client waited any more.", registry=registry)
        self.refused = Counter("anyres_refused", "Requests refused: the queue was full.", registry=registry)
        self.queue_length = Gauge("anyres_queue_length", "Tiles that wait to be drawn.", registry=registry)

    def text(self) -> bytes:
        return generate_latest(self._registry)
