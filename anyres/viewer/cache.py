"""Tiles that were drawn before: some in memory, more on disk, both bounded, the longest unused going first."""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from pathlib import Path

from anyres.files import write_atomic

KEY = re.compile(r"[0-9a-f]{64}")


class Memory:
    """At most `limit` bytes of tiles by key. Not for several threads."""

    def __init__(self, limit: int) -> None:
        self._limit, self._size = limit, 0
        self._tiles: OrderedDict[str, bytes] = OrderedDict()

    def get(self, key: str) -> bytes | None:
        found = self._tiles.get(key)
        if found is not None:
            self._tiles.move_to_end(key)
        return found

    def put(self, key: str, data: bytes) -> None:
        self._size += len(data) - len(self._tiles.pop(key, b""))
        self._tiles[key] = data
        while self._size > self._limit:
            _, gone = self._tiles.popitem(last=False)
            self._size -= len(gone)


class Folder:
    """At most `limit` bytes of tiles as files under `root`, for any thread. Files of others are left alone.

    The order of use is kept in times of change, so that it outlives the process.
    """

    def __init__(self, root: Path, limit: int) -> None:
        self._root, self._limit = root, limit
        self._lock = threading.Lock()
        root.mkdir(parents=True, exist_ok=True)
        found = [path for path in root.glob("??/*.png") if KEY.fullmatch(path.stem)]
        stats = sorted(((path.stat(), path.stem) for path in found), key=lambda pair: pair[0].st_mtime_ns)
        self._sizes: OrderedDict[str, int] = OrderedDict((key, stat.st_size) for stat, key in stats)
        self._size = sum(self._sizes.values())
        with self._lock:
            self._trim()

    def get(self, key: str) -> bytes | None:
        """The tile, or None where it is not there (any more)."""
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
        """Keep a tile. A full or broken disk is no reason not to show it: nothing is kept then."""
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
