"""Where workers put finished shards and others find them: a folder, or an object store by its address."""

from __future__ import annotations

import filecmp
import os
import shutil
import tempfile
from pathlib import Path

import fsspec


class Scratch:
    """Files by key below `address`, a path or what fsspec understands (s3://bucket/prefix). Each appears whole or not at all."""

    def __init__(self, address: str | Path) -> None:
        self.address = str(address)
        self._files, self._root = fsspec.url_to_fs(self.address)
        self._local = Path(self._root) if isinstance(self._files, fsspec.get_filesystem_class("file")) else None

    def exists(self, key: str) -> bool:
        return bool(self._files.exists(self._place(key)))

    @property
    def is_local(self) -> bool:
        return self._local is not None

    def copy(self, path: Path, key: str) -> None:
        """Copy a local file to an object store, which shows an object when all of it has arrived."""
        self._files.put_file(str(path), self._place(key))

    def put(self, path: Path, key: str) -> None:
        """Move a local file here."""
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
        """Make `path` the file of this key, by a hard link where that can be; an equal file stays. Raises OSError."""
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        partial.unlink(missing_ok=True)
        if self._local is None:
            self._files.get_file(self._place(key), str(partial))
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
        """Remove what is below `prefix` and not among `keys`."""
        if not self._files.exists(self._place(prefix)):
            return
        for name in self._files.find(self._place(prefix)):
            key = name.removeprefix(str(self._root)).lstrip("/")
            if key not in keys:
                self._files.rm_file(name)

    def _place(self, key: str) -> str:
        return f"{str(self._root).rstrip('/')}/{key}"
