"""Locks between processes of one checkout, or of all that share a folder, released by the system however their holder ends."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

FOLDER = Path(".anyres/locks")


class LockedError(RuntimeError):
    """Another process holds the lock; the message names it."""


@contextlib.contextmanager
def locked(name: str, wait_s: float, folder: Path = FOLDER) -> Iterator[None]:
    """Hold the lock `name`; raise LockedError, one line, where another process still holds it after `wait_s`.

    `folder` is shared by all who are to exclude each other: those of one checkout, unless it says otherwise.
    """
    folder.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + wait_s
    with (folder / name).open("a+", encoding="utf-8") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    file.seek(0)
                    raise LockedError(f"{name} is already running here (process {file.read().strip()}); wait or end it") from None
                time.sleep(0.1)
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def last_held(name: str) -> float:
    """When the lock `name` was last taken: seconds since the epoch, 0 for never."""
    path = FOLDER / name
    return path.stat().st_mtime if path.exists() else 0.0
