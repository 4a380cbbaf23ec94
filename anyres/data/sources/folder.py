"""Source `folder`: every file of a tree, and of the archives in it, in sorted order. What is no picture the intake says."""

from __future__ import annotations

import os
from pathlib import Path

from anyres.data.sources import object_store
from anyres.data.sources.archive_members import is_archive, members
from anyres.data.sources.record import IntakeError, LocalFile, Record


def records(address: str | Path, cache_dir: Path = Path(".anyres/cache"), max_mb: float = 200.0) -> list[Record]:
    """List the files under a folder or an fsspec address (s3://...), ids being paths below it: "a.jpg", "b.zip!/c.jpg".

    Names that begin with a dot are left out. Compressed tars are unpacked into `cache_dir`, members over `max_mb` not.
    Raises IntakeError where the folder is missing, is no folder, cannot be read or holds no file.
    """
    if "://" in str(address):
        return object_store.records(str(address), max_mb)
    folder = Path(address)
    if not folder.exists():
        raise IntakeError(f"ingest.folder: {str(folder)!r}: no such folder; name one that holds pictures")
    if not folder.is_dir():
        raise IntakeError(f"ingest.folder: {str(folder)!r} is a file; name the folder that holds it")
    try:
        next(folder.iterdir(), None)
    except OSError as error:
        raise IntakeError(f"ingest.folder: {str(folder)!r} cannot be read: {error.strerror}") from None
    found: list[Record] = []
    # Absolute: a worker that fetches them may stand elsewhere.
    root = folder.absolute()
    for parent, folders, files in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in files:
            path = Path(parent, name)
            if not name.startswith(".") and (path.is_file() or path.is_symlink()):
                key = path.relative_to(root).as_posix().encode("utf-8", "replace").decode()
                if is_archive(name) and path.is_file():
                    found += members(path, key, cache_dir, max_mb)
                else:
                    found.append(Record(id=key, content=LocalFile(path), name=key))
    if not found:
        raise IntakeError(f"ingest.folder: {str(folder)!r} is empty; put pictures there or name another folder")
    return sorted(found, key=lambda record: record.id)
