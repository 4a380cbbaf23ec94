"""Files in an object store or on any file system that fsspec knows: s3://bucket/path, gs://, memory:// ..."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec

from anyres.data.refusal import RefusedError, in_few_words
from anyres.data.sources.archive_members import is_archive
from anyres.data.sources.record import Access, IntakeError, Record, Unavailable
from anyres.files import replacing

PIECE = 2**22


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file at an fsspec address; `version` changes when it does."""

    address: str
    version: str
    size: int

    def fetch(self, access: Access) -> Path:
        """Return the copy in access.cache_dir/remote, made where there is none of this version."""
        name = hashlib.sha256(f"{self.address}:{self.version}:{self.size}".encode()).hexdigest()
        path = access.cache_dir / "remote" / name[:2] / name
        if not path.exists():
            try:
                with fsspec.open(self.address, "rb") as source, replacing(path) as copy:
                    while piece := source.read(PIECE):  # type: ignore[union-attr]
                        copy.write(piece)
            except Exception as error:  # noqa: BLE001 - every file system raises its own
                raise RefusedError(f"cannot be read: {in_few_words(error)}") from None
        return path


def records(address: str, max_mb: float) -> list[Record]:
    """List the files under an address, names that begin with a dot left out, ids being paths below it.

    Raises IntakeError where it cannot be listed or holds no file.
    """
    try:
        system, root = fsspec.url_to_fs(address)
        listed: dict[str, dict[str, Any]] = system.find(root, detail=True)
    except Exception as error:  # noqa: BLE001 - every file system raises its own
        raise IntakeError(
            f"ingest.folder: {address!r} cannot be listed: {in_few_words(error)}; correct it or the access to it"
        ) from None
    found = []
    for name, details in sorted(listed.items()):
        key = PurePosixPath(name).relative_to(root).as_posix() if name != root else PurePosixPath(name).name
        if any(part.startswith(".") for part in key.split("/")):
            continue
        size = int(details.get("size") or 0)
        version = str(details.get("ETag") or details.get("etag") or details.get("LastModified") or details.get("mtime") or "")
        content = RemoteFile(system.unstrip_protocol(name), version, size)
        if size > max_mb * 1e6:
            content = Unavailable(f"too large: {size / 1e6:.1f} MB, over {max_mb:g}")
        elif is_archive(key):
            content = Unavailable("an archive in a store; unpack it there, or ingest a local copy")
        found.append(Record(key, content, key, url=system.unstrip_protocol(name)))
    if not found:
        raise IntakeError(f"ingest.folder: {address!r} is empty; put pictures there or name another folder")
    return found
