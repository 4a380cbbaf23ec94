"""Atomic writes: a reader sees the old file or the complete new one, never a part."""

from __future__ import annotations

import filecmp
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary file beside `path` for writing; it replaces `path` when the block ends without an error.

    If `path` already has the same content, it is not touched and keeps its modification time.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".partial")
    try:
        # mkstemp creates files that only the owner can read; set the permissions that open() would set.
        os.fchmod(handle, 0o666 & ~_umask())
        os.close(handle)
        with Path(temporary).open("w+b") as stream:
            yield stream
        if path.is_file() and filecmp.cmp(temporary, path, shallow=False):
            Path(temporary).unlink()
        else:
            Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def write_atomic(path: Path, data: bytes) -> None:
    """Write `data` to `path` atomically. If `path` already has this content, it is not touched."""
    with atomic_file(path) as stream:
        stream.write(data)


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Yield an empty folder that becomes `folder` when the block succeeds, and is removed if the block raises.

    Raises ValueError, one line, if `folder` exists and is not empty.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder}: exists and is not empty; name a new folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as temporary:
        partial = Path(temporary) / folder.name
        partial.mkdir()
        yield partial
        partial.replace(folder)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_process_id(descriptor: int) -> None:
    """Write the id of this process into a lock file: `on_acquired` of filelock, which itself leaves the file empty."""
    os.ftruncate(descriptor, 0)
    os.write(descriptor, str(os.getpid()).encode())
