"""Files in an object store or on any file system that fsspec supports: s3://bucket/path, gs://, memory:// ..."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec

from anyres.data.refusal import RefusedError, one_line
from anyres.data.sources.archive_members import is_archive
from anyres.data.sources.record import Access, IntakeError, Record, Unavailable
from anyres.files import atomic_file

CHUNK_BYTES = 2**22


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file at an fsspec address. `version` changes when the file changes."""

    address: str
    version: str
    size: int

    def fetch(self, access: Access) -> Path:
        """Return the copy of this version in access.cache_dir/remote; download it if it is missing."""
        name = hashlib.sha256(f"{self.address}:{self.version}:{self.size}".encode()).hexdigest()
        path = access.cache_dir / "remote" / name[:2] / name
        if not path.exists():
            try:
                system, inner = fsspec.url_to_fs(self.address)
                with system.open(inner, "rb") as source, atomic_file(path) as copy:
                    while chunk := source.read(CHUNK_BYTES):
                        copy.write(chunk)
            except Exception as error:  # noqa: BLE001 - every file system raises its own errors
                raise RefusedError(f"cannot be read: {one_line(error)}") from None
        return path


def records(address: str, max_mb: float) -> list[Record]:
    """List the files under an address. Ids are the paths below it. Names that begin with a dot are skipped.

    Raises IntakeError if the address cannot be listed or has no files.
    """
    try:
        system, root = fsspec.url_to_fs(address)
        entries: dict[str, dict[str, Any]] = system.find(root, detail=True)
    except Exception as error:  # noqa: BLE001 - every file system raises its own errors
        raise IntakeError(
            f"ingest.folder: {address!r} cannot be listed: {one_line(error)}; correct it or the access to it"
        ) from None
    files = []
    for name, details in sorted(entries.items()):
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
        files.append(Record(key, content, key, url=system.unstrip_protocol(name)))
    if not files:
        raise IntakeError(f"ingest.folder: {address!r} is empty; put pictures there or name another folder")
    return files
