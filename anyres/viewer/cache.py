"""Cache of drawn tiles, in memory and on disk. Both parts are bounded and evict the least recently used tile."""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from pathlib import Path

from anyio import to_thread

from anyres.files import write_atomic
from anyres.viewer.metrics import Metrics

KEY = re.compile(r"[0-9a-f]{64}")
MEMORY_LIMIT = 64 << 20


class TileCache:
    """Tiles by key. Call `put_on_disk` from any thread, the rest from the event loop."""

    def __init__(self, root: Path, disk_bytes: int, metrics: Metrics) -> None:
        self._memory, self._disk = MemoryTiles(MEMORY_LIMIT), DiskTiles(root, disk_bytes)
        self._metrics = metrics

    async def get(self, key: str) -> bytes | None:
        """The tile, or None if it is not cached."""
        data = self._memory.get(key)
        if data is not None:
            self._metrics.cache_hits.labels("memory").inc()
            return data
        data = await to_thread.run_sync(self._disk.get, key)
        if data is not None:
            self._metrics.cache_hits.labels("disk").inc()
            self._memory.put(key, data)
        return data

    def put_in_memory(self, key: str, data: bytes) -> None:
        self._memory.put(key, data)

    def put_on_disk(self, key: str, data: bytes) -> None:
        self._disk.put(key, data)


class MemoryTiles:
    """At most `limit` bytes of tiles by key. Not thread-safe."""

    def __init__(self, limit: int) -> None:
        self._limit, self._size = limit, 0
        self._tiles: OrderedDict[str, bytes] = OrderedDict()

    def get(self, key: str) -> bytes | None:
        data = self._tiles.get(key)
        if data is not None:
            self._tiles.move_to_end(key)
        return data

    def put(self, key: str, data: bytes) -> None:
        self._size += len(data) - len(self._tiles.pop(key, b""))
        self._tiles[key] = data
        while self._size > self._limit:
            _, evicted = self._tiles.popitem(last=False)
            self._size -= len(evicted)


class DiskTiles:
    """At most `limit` bytes of tiles as files under `root`. Thread-safe. Other files there are left as they are.

    Modification times record the order of use, so that it survives a restart.
    """

    def __init__(self, root: Path, limit: int) -> None:
        self._root, self._limit = root, limit
        self._lock = threading.Lock()
        root.mkdir(parents=True, exist_ok=True)
        tiles = [path for path in root.glob("??/*.png") if KEY.fullmatch(path.stem)]
        stats = sorted(((path.stat(), path.stem) for path in tiles), key=lambda pair: pair[0].st_mtime_ns)
        self._sizes: OrderedDict[str, int] = OrderedDict((key, stat.st_size) for stat, key in stats)
        self._size = sum(self._sizes.values())
        with self._lock:
            self._trim()

    def get(self, key: str) -> bytes | None:
        """The tile, or None if it is not there (any more)."""
        with self._lock:
            if key not in self._sizes:
                return None
            self._sizes.move_to_end(key)
        path = self._path(key)
        try:
            data = path.read_bytes()
            path.touch()
        except OSError:
            return None
        return data

    def put(self, key: str, data: bytes) -> None:
        """Store a tile. If the disk is full or broken, nothing is stored and no error is raised: the tile can still be sent."""
        try:
            write_atomic(self._path(key), data)
        except OSError:
            return
        with self._lock:
            self._size += len(data) - self._sizes.pop(key, 0)
            self._sizes[key] = len(data)
            self._trim()

    def _trim(self) -> None:
        while self._size > self._limit:
            key, size = self._sizes.popitem(last=False)
            self._path(key).unlink(missing_ok=True)
            self._size -= size

    def _path(self, key: str) -> Path:
        return self._root / key[:2] / f"{key}.png"
