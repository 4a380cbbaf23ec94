"""Locks between processes of one checkout, or of all that share a folder. The system releases them however their holder ends."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from anyres.files import write_process_id

FOLDER = Path(".anyres/locks")


class LockedError(RuntimeError):
    """Another process holds the lock; the message names that process."""


@contextlib.contextmanager
def locked(name: str, wait_s: float, folder: Path = FOLDER) -> Iterator[None]:
    """Hold the lock `name`; raise LockedError, one line, if another process still holds it after `wait_s` seconds.

    `folder` is shared by all processes that must exclude each other. The default is for those of one checkout.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        held = FileLock(folder / name, timeout=wait_s, on_acquired=write_process_id).acquire()
    except Timeout:
        holder = (folder / name).read_text(encoding="ascii").strip()
        raise LockedError(f"{name} is already running here (process {holder}); wait or end it") from None
    with held:
        yield


def last_held(name: str) -> float:
    """When the lock `name` was last taken: seconds since the epoch, 0 for never."""
    path = FOLDER / name
    return path.stat().st_mtime if path.exists() else 0.0
