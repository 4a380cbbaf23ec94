"""Source `folder`: every file of a tree and of its archives, in sorted order. The intake refuses files without a picture."""

from __future__ import annotations

import os
from pathlib import Path

from anyres.data.sources import object_store
from anyres.data.sources.archive_members import is_archive, members
from anyres.data.sources.record import IntakeError, LocalFile, Record


def records(address: str | Path, cache_dir: Path = Path(".anyres/cache"), max_mb: float = 200.0) -> list[Record]:
    """List the files under a folder or an fsspec address (s3://...). Ids are the paths below it: "a.jpg", "b.zip!/c.jpg".

    Names that begin with a dot are skipped. Compressed tars are unpacked into `cache_dir`, except members over `max_mb`.
    Raises IntakeError if the folder is missing, is not a folder, cannot be read, or has no files.
    """
    if "://" in str(address):
        return object_store.records(str(address), max_mb)
    folder = Path(address)
    if not folder.exists():
        raise IntakeError(f"ingest.folder: {str(folder)!r}: no such folder; name a folder with pictures")
    if not folder.is_dir():
        raise IntakeError(f"ingest.folder: {str(folder)!r} is a file; name the folder that contains it")
    try:
        next(folder.iterdir(), None)
    except OSError as error:
        raise IntakeError(f"ingest.folder: {str(folder)!r} cannot be read: {error.strerror}") from None
    files: list[Record] = []
    # Absolute, because a worker may have another current folder.
    root = folder.absolute()
    for parent, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in names:
            path = Path(parent, name)
            if not name.startswith(".") and (path.is_file() or path.is_symlink()):
                key = path.relative_to(root).as_posix().encode("utf-8", "replace").decode()
                if is_archive(name) and path.is_file():
                    files += members(path, key, cache_dir, max_mb)
                else:
                    files.append(Record(id=key, content=LocalFile(path), name=key))
    if not files:
        raise IntakeError(f"ingest.folder: {str(folder)!r} is empty; put pictures there or name another folder")
    return sorted(files, key=lambda record: record.id)
