"""Shards: tar files of many pictures each, so that a million pictures need thousands of files, not millions.

A member is read in place by its offset. It is an ordinary file for `tar x` and for GDAL's /vsitar/.
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

# Bytes. The offsets in a tar file are multiples of this.
BLOCK_BYTES = 512
# Files that a reader keeps open.
MAX_OPEN = 256


@dataclass(frozen=True)
class ByteRange:
    """The bytes `offset` to `offset + size` of a shard."""

    shard: str
    offset: int
    size: int


def split_into_runs(ids: Sequence[str], mean: int) -> list[range]:
    """Split the files of a source into runs of about `mean` files. Each run becomes one shard.

    The hash of an id decides whether a run ends after it (content-defined chunking). A run has between mean / 4 and 4 mean
    files. If a file is added or removed, only the shards near it change, not all that follow.
    """
    runs, start = [], 0
    for index, name in enumerate(ids):
        length = index + 1 - start
        is_boundary = length >= mean / 4 and int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") % mean == 0
        if is_boundary or length >= 4 * mean:
            runs.append(range(start, index + 1))
            start = index + 1
    if start < len(ids):
        runs.append(range(start, len(ids)))
    return runs


class ShardWriter:
    """Appends members to a tar file. Equal members in equal order give equal bytes: no times, owners or permissions.

    With `resume`, the members that an interrupted writer completed stay and are listed in `completed`. The rest is removed.
    """

    def __init__(self, path: Path, resume: bool = False) -> None:
        self.path = path
        self.completed = _complete_members(path) if resume else {}
        end = max((_padded(member.offset + member.size) for member in self.completed.values()), default=0)
        self._stream = path.open("r+b" if self.completed else "wb")
        self._stream.truncate(end)
        self._stream.seek(end)

    def add(self, name: str, data: bytes | IO[bytes], size: int | None = None) -> ByteRange:
        """Append a member: its bytes, or a stream of `size` bytes. `name` must have at most 100 ASCII characters."""
        info = tarfile.TarInfo(name)
        info.size = len(data) if isinstance(data, bytes) else int(size or 0)
        self._stream.write(info.tobuf(tarfile.USTAR_FORMAT, "ascii"))
        offset = self._stream.tell()
        if isinstance(data, bytes):
            self._stream.write(data)
        else:
            shutil.copyfileobj(data, self._stream, 2**20)
        self._stream.write(bytes(_padded(info.size) - info.size))
        # A member is complete only when it is in the file: the buffer of a killed writer is lost.
        self._stream.flush()
        return ByteRange(self.path.name, offset, info.size)

    def close(self) -> None:
        if not self._stream.closed:
            self._stream.write(bytes(2 * BLOCK_BYTES))
            self._stream.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is None:
            self.close()
        else:
            self._stream.close()


class _OpenFile:
    """A file descriptor that is closed when the last reference is dropped."""

    def __init__(self, path: Path) -> None:
        self.descriptor = -1
        self.descriptor = os.open(path, os.O_RDONLY)

    def __del__(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)


class ShardReader:
    """Reads members in place. Threads and forked processes may share it, because no read moves the position of a file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._open: OrderedDict[str, _OpenFile] = OrderedDict()
        self._lock = threading.Lock()

    def read(self, shard: str, offset: int, size: int) -> bytes:
        """Return `size` bytes from `offset`, fewer at the end of the shard. Raises OSError."""
        file = self._file(shard)
        return os.pread(file.descriptor, size, offset)

    def _file(self, shard: str) -> _OpenFile:
        with self._lock:
            file = self._open.pop(shard, None) or _OpenFile(self.folder / shard)
            self._open[shard] = file
            if len(self._open) > MAX_OPEN:
                self._open.popitem(last=False)
            return file


def _complete_members(path: Path) -> dict[str, ByteRange]:
    members: dict[str, ByteRange] = {}
    if not path.exists():
        return members
    total = path.stat().st_size
    with path.open("rb") as stream:
        while len(header := stream.read(BLOCK_BYTES)) == BLOCK_BYTES:
            try:
                info = tarfile.TarInfo.frombuf(header, "ascii", "strict")
            except (tarfile.HeaderError, UnicodeDecodeError):
                break
            offset = stream.tell()
            if offset + _padded(info.size) > total:
                break
            members[info.name] = ByteRange(path.name, offset, info.size)
            stream.seek(_padded(info.size), os.SEEK_CUR)
    return members


def _padded(size: int) -> int:
    return -(-size // BLOCK_BYTES) * BLOCK_BYTES
