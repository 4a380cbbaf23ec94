"""Shards: plain tar files of many pictures each, so that a million pictures are thousands of files, not millions.

A member is read in place by its offset; `tar x` or GDAL's /vsitar/ open it as the file it is.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tarfile
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Self

# Offsets of a tar are multiples of this.
BLOCK = 512
# Open files a reader keeps.
MAX_OPEN = 256


@dataclass(frozen=True)
class Place:
    """Bytes `offset` to `offset + size` of a shard."""

    shard: str
    offset: int
    size: int


def cut(ids: Sequence[str], mean: int) -> list[range]:
    """Cut a source of files into runs of about `mean`, each one shard.

    A run ends behind an id whose hash says so (content-defined chunking), between mean / 4 and 4 mean files: a file
    added or taken away changes the shards around it, not all those behind it.
    """
    runs, start = [], 0
    for index, name in enumerate(ids):
        length = index + 1 - start
        ends = length >= mean / 4 and int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") % mean == 0
        if ends or length >= 4 * mean:
            runs.append(range(start, index + 1))
            start = index + 1
    if start < len(ids):
        runs.append(range(start, len(ids)))
    return runs


class ShardWriter:
    """Appends members to a tar. Equal members in equal order give equal bytes: no times, owners or rights.

    With `resume`, members that an interrupted writer completed stay and are listed in `found`; the rest is cut off.
    """

    def __init__(self, path: Path, resume: bool = False) -> None:
        self.path = path
        self.found = _complete_members(path) if resume else {}
        end = max((_padded(place.offset + place.size) for place in self.found.values()), default=0)
        self._stream = path.open("r+b" if self.found else "wb")
        self._stream.truncate(end)
        self._stream.seek(end)

    def add(self, name: str, data: bytes | IO[bytes], size: int | None = None) -> Place:
        """Append a member: its bytes, or a stream of `size` bytes. `name` has at most 100 ASCII characters."""
        info = tarfile.TarInfo(name)
        info.size = len(data) if isinstance(data, bytes) else int(size or 0)
        self._stream.write(info.tobuf(tarfile.USTAR_FORMAT, "ascii"))
        offset = self._stream.tell()
        if isinstance(data, bytes):
            self._stream.write(data)
        else:
            shutil.copyfileobj(data, self._stream, 2**20)
        self._stream.write(bytes(_padded(info.size) - info.size))
        # A member counts as complete only when it is in the file: a killed writer's buffer is lost.
        self._stream.flush()
        return Place(self.path.name, offset, info.size)

    def close(self) -> None:
        if not self._stream.closed:
            self._stream.write(bytes(2 * BLOCK))
            self._stream.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is None:
            self.close()
        else:
            self._stream.close()


class _Handle:
    """An open file that closes with its last user."""

    def __init__(self, path: Path) -> None:
        self.number = -1
        self.number = os.open(path, os.O_RDONLY)

    def __del__(self) -> None:
        if self.number >= 0:
            os.close(self.number)


class ShardReader:
    """Reads members in place. Threads may share it; forked processes may too, for nothing moves a file's position."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._open: OrderedDict[str, _Handle] = OrderedDict()
        self._lock = threading.Lock()

    def read(self, shard: str, offset: int, size: int) -> bytes:
        """Return `size` bytes from `offset` on, fewer at the end of the shard. Raises OSError."""
        handle = self._handle(shard)
        return os.pread(handle.number, size, offset)

    def _handle(self, shard: str) -> _Handle:
        with self._lock:
            handle = self._open.pop(shard, None) or _Handle(self.folder / shard)
            self._open[shard] = handle
            if len(self._open) > MAX_OPEN:
                self._open.popitem(last=False)
            return handle


def _complete_members(path: Path) -> dict[str, Place]:
    found: dict[str, Place] = {}
    if not path.exists():
        return found
    total = path.stat().st_size
    with path.open("rb") as stream:
        while len(header := stream.read(BLOCK)) == BLOCK:
            try:
                info = tarfile.TarInfo.frombuf(header, "ascii", "strict")
            except (tarfile.HeaderError, UnicodeDecodeError):
                break
            offset = stream.tell()
            if offset + _padded(info.size) > total:
                break
            found[info.name] = Place(path.name, offset, info.size)
            stream.seek(_padded(info.size), os.SEEK_CUR)
    return found


def _padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK
