"""The scratch storage through which workers exchange shards: a folder, or an object store."""

from __future__ import annotations

import filecmp
import os
import shutil
import tempfile
from pathlib import Path

import fsspec


class Scratch:
    """Files by key below `address`: a path, or an address for fsspec such as s3://bucket/prefix. Each write is atomic."""

    def __init__(self, address: str | Path) -> None:
        self.address = str(address)
        self._system, self._root = fsspec.url_to_fs(self.address)
        self._local = Path(self._root) if isinstance(self._system, fsspec.get_filesystem_class("file")) else None

    def exists(self, key: str) -> bool:
        return bool(self._system.exists(self._full_path(key)))

    @property
    def is_local(self) -> bool:
        return self._local is not None

    def copy(self, path: Path, key: str) -> None:
        """Copy a local file to the object store. The object becomes visible when the upload is complete."""
        self._system.put_file(str(path), self._full_path(key))

    def put(self, path: Path, key: str) -> None:
        """Move a local file into the scratch storage."""
        if self._local is None:
            self.copy(path, key)
            path.unlink()
            return
        target = self._local / key
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            path.replace(target)
        except OSError:  # another file system
            with tempfile.NamedTemporaryFile(dir=target.parent, prefix=f".{target.name}.", delete=False) as stream:
                shutil.copyfile(path, stream.name)
            Path(stream.name).replace(target)
            path.unlink()

    def get(self, key: str, path: Path) -> None:
        """Copy the file of `key` to `path`, by a hard link if possible. An equal file is not touched. Raises OSError."""
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        partial.unlink(missing_ok=True)
        if self._local is None:
            self._system.get_file(self._full_path(key), str(partial))
        else:
            try:
                os.link(self._local / key, partial)
            except FileNotFoundError:
                raise
            except OSError:  # another file system, or one without links
                shutil.copyfile(self._local / key, partial)
        if path.is_file() and filecmp.cmp(partial, path, shallow=False):
            partial.unlink()
        else:
            partial.replace(path)

    def keep_only(self, prefix: str, keys: set[str]) -> None:
        """Delete all files below `prefix` whose keys are not in `keys`."""
        if not self._system.exists(self._full_path(prefix)):
            return
        for name in self._system.find(self._full_path(prefix)):
            key = name.removeprefix(str(self._root)).lstrip("/")
            if key not in keys:
                self._system.rm_file(name)

    def _full_path(self, key: str) -> str:
        return f"{str(self._root).rstrip('/')}/{key}"
