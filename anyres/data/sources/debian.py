"""Pinned Debian packages: downloaded by apt, checked by SHA-256, read without installation and without root."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from anyres.data.sources.record import IntakeError
from anyres.progress import progress_bar

# Without this option apt warns that its sandbox user cannot write to the download folder.
APT = ("apt-get", "-o", "APT::Sandbox::User=root", "-q")
AR_MAGIC = b"!<arch>\n"
AR_HEADER_BYTES = 60


@dataclass(frozen=True)
class DebianPackage:
    """One exact package file."""

    name: str
    version: str
    architecture: str
    sha256: str
    size: int  # bytes

    @property
    def file(self) -> str:
        return f"{self.name}_{self.version.replace(':', '%3a')}_{self.architecture}.deb"

    def fetch(self, cache_dir: Path, progress: bool = True) -> Path:
        """See `fetch`."""
        return fetch(self, cache_dir, progress=progress)


def fetch(package: DebianPackage, cache_dir: Path, may_update: bool | None = None, progress: bool = True) -> Path:
    """Return the package file in `cache_dir`; download it if it is missing. The SHA-256 is checked every time.

    `may_update` allows `apt-get update` if apt does not know the package (default: if the user is root).
    Raises IntakeError with the command to run, or the file to put into `cache_dir`.
    """
    path = cache_dir / package.file
    if not path.exists():
        _download(package, cache_dir, os.geteuid() == 0 if may_update is None else may_update, progress)
    digest = _sha256(path)
    if digest != package.sha256:
        raise IntakeError(f"{path}: SHA-256 is {digest}, expected {package.sha256}; delete this file and try again")
    return path


def members(package_file: Path) -> Iterator[tuple[str, bytes]]:
    """Yield (path, bytes) of the regular files in a .deb, in its order. dpkg is not needed.

    Raises IntakeError if the file is not a Debian package, or if Python cannot read its compression.
    """
    with package_file.open("rb") as stream:
        if stream.read(len(AR_MAGIC)) != AR_MAGIC:
            raise IntakeError(f"{package_file}: not a Debian package")
        # A .deb is an ar archive: headers of 60 bytes, name in the first 16, size in bytes 48 to 58, even alignment.
        while len(header := stream.read(AR_HEADER_BYTES)) == AR_HEADER_BYTES:
            name, size = header[:16].decode("ascii").strip().rstrip("/"), int(header[48:58])
            if name.startswith("data.tar"):
                break
            stream.seek(size + size % 2, os.SEEK_CUR)
        else:
            raise IntakeError(f"{package_file}: a Debian package without data")
        try:
            with tarfile.open(fileobj=stream, mode="r|*") as archive:
                for member in archive:
                    content = archive.extractfile(member) if member.isreg() else None
                    if content is not None:
                        yield member.name.removeprefix("./"), content.read()
        except tarfile.TarError as error:
            raise IntakeError(f"{package_file}: {name} cannot be unpacked: {error}") from None


def _download(package: DebianPackage, cache_dir: Path, may_update: bool, progress: bool) -> None:
    manual_step = f"put {package.file} (SHA-256 {package.sha256}) into {cache_dir}"
    if shutil.which("apt-get") is None:
        raise IntakeError(f"this machine has no apt-get to download Debian's {package.name} {package.version}: {manual_step}")
    cache_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache_dir, prefix=".download-") as folder:
        failure = _apt_download(package, Path(folder), progress)
        versions = _available_versions(package) if failure else []
        if failure and package.version not in versions:
            if may_update:
                with progress_bar("fetching package lists", None, "lists", progress):
                    subprocess.run([*APT, "update"], capture_output=True, check=False)
                failure = _apt_download(package, Path(folder), progress)
            elif versions:
                failure = f"apt has {', '.join(versions)} only"
            else:
                raise IntakeError(f"apt does not know {package.name}: run `sudo apt-get update` and try again, or {manual_step}")
        if failure:
            raise IntakeError(f"apt-get download {package.name}={package.version}: {failure}; or {manual_step}")
        Path(folder, package.file).replace(cache_dir / package.file)


def _available_versions(package: DebianPackage) -> list[str]:
    """Return the versions in the package lists of this machine."""
    madison = subprocess.run(["apt-cache", "madison", package.name], capture_output=True, text=True, check=False)
    columns = [line.split("|") for line in madison.stdout.splitlines()]
    return sorted({column[1].strip() for column in columns if len(column) > 1})


def _apt_download(package: DebianPackage, folder: Path, progress: bool) -> str:
    """Download into `folder`. Return the error in one line, or an empty string."""
    command = [*APT, "download", f"{package.name}={package.version}"]
    path, advanced_mb = folder / package.file, 0
    with (
        tempfile.TemporaryFile("w+") as output,
        progress_bar(f"fetching {package.name}", round(package.size / 1e6), "MB", progress) as advance,
        subprocess.Popen(command, cwd=folder, stdout=output, stderr=subprocess.STDOUT) as process,
    ):
        try:
            while process.poll() is None:
                time.sleep(0.1)
                size = sum(file.stat().st_size for file in folder.iterdir() if file.is_file())
                advance(size // 10**6 - advanced_mb)
                advanced_mb = size // 10**6
        except BaseException:
            process.kill()
            raise
        output.seek(0)
        lines = [line.strip() for line in output.read().splitlines() if line.strip()]
    if process.returncode == 0 and path.is_file():
        return ""
    errors = [line.removeprefix("E: ") for line in lines if line.startswith("E: ")] or lines[-1:]
    return "; ".join(errors) or f"ended with status {process.returncode}"


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
