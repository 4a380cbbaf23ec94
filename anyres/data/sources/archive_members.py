"""Members of zip and tar archives, read in place if the format allows it."""

from __future__ import annotations

import hashlib
import io
import lzma
import os
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath

from anyres.data.refusal import RefusedError, one_line
from anyres.data.sources.record import Access, Content, Record, Unavailable
from anyres.files import atomic_file

ZIP, TAR = (".zip",), (".tar",)
COMPRESSED_TAR = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
ARCHIVES = ZIP + TAR + COMPRESSED_TAR
# An archive that unpacks to more than this times its own size is refused: pictures do not compress so well.
MAX_RATIO = 200
# Keys of the headers in an unpacked copy.
DECLARED, PROBLEM = "anyres.size", "anyres.problem"
# The errors of a damaged archive, or of damaged data in an archive.
DAMAGE_ERRORS = (
    lzma.LZMAError,
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    OSError,
    ValueError,
    NotImplementedError,
    RuntimeError,
)


@dataclass(frozen=True, slots=True)
class ZipMember:
    """Member `number` of a zip file with modification time `mtime_ns`."""

    archive: Path
    mtime_ns: int
    number: int
    size: int

    def fetch(self, access: Access) -> bytes:
        try:
            archive = _open_zip(self.archive, self.mtime_ns)
            with archive.open(archive.infolist()[self.number]) as stream:
                # Read no more than the declared size. At the end of the member, zipfile checks its CRC.
                data = stream.read(self.size + 1)
        except DAMAGE_ERRORS as error:
            raise RefusedError(f"cannot be read: {one_line(error)}") from None
        if len(data) != self.size:
            raise RefusedError(f"cannot be read: {len(data)} bytes, expected {self.size}")
        return data


@dataclass(frozen=True, slots=True)
class FileSegment:
    """`size` bytes of a file from `offset`, such as a member of an uncompressed tar."""

    path: Path
    offset: int
    size: int

    def fetch(self, access: Access) -> bytes:
        with self.path.open("rb") as stream:
            data = os.pread(stream.fileno(), self.size, self.offset)
        if len(data) != self.size:
            raise RefusedError(f"cannot be read: {len(data)} bytes, expected {self.size}")
        return data


def is_archive(name: str) -> bool:
    return name.lower().endswith(ARCHIVES)


def members(archive: Path, key: str, cache_dir: Path, max_mb: float) -> list[Record]:
    """List the files of an archive as records with ids "`key`!/path". Names that begin with a dot are skipped.

    A compressed tar is unpacked once into `cache_dir`, as an uncompressed tar. Zip and tar are read in place. A damaged
    archive gives the records that can be listed and one with the reason. Members over `max_mb` are not unpacked.
    """
    records: dict[str, Record] = {}
    try:
        for name, content in _contents(archive, cache_dir, max_mb):
            inner = PurePosixPath(name)
            if any(part.startswith(".") or part == "__MACOSX" for part in inner.parts if part not in (".", "..")):
                continue
            identity = f"{key}!/{inner}".encode("utf-8", "replace").decode()
            while identity in records:  # archives may hold a name twice
                identity += "+"
            records[identity] = Record(identity, content, identity)
    except DAMAGE_ERRORS as error:
        records[key] = Record(key, Unavailable(f"damaged archive: {one_line(error)}"), key)
    if not records:
        records[key] = Record(key, Unavailable("an archive without files"), key)
    return list(records.values())


def _contents(archive: Path, cache_dir: Path, max_mb: float) -> Iterator[tuple[str, Content]]:
    name, status = archive.name.lower(), archive.stat()
    if name.endswith(ZIP):
        for number, member in enumerate(_open_zip(archive, status.st_mtime_ns).infolist()):
            if member.is_dir():
                continue
            content: Content = ZipMember(archive, status.st_mtime_ns, number, member.file_size)
            if member.file_size > max_mb * 1e6:
                content = _too_large(member.file_size, max_mb)
            elif member.flag_bits & 1:
                content = Unavailable("encrypted")
            yield member.filename, content
    elif name.endswith(TAR):
        with tarfile.open(archive, "r:") as tar:
            for member in tar:
                if member.isreg():
                    is_small = member.size <= max_mb * 1e6
                    segment = FileSegment(archive, member.offset_data, member.size)
                    yield member.name, segment if is_small else _too_large(member.size, max_mb)
    else:
        yield from _compressed_contents(archive, cache_dir, max_mb)


def _compressed_contents(archive: Path, cache_dir: Path, max_mb: float) -> Iterator[tuple[str, Content]]:
    """List a compressed tar. It has no random access, so it is unpacked once into an uncompressed tar."""
    status = archive.stat()
    identity = f"{archive.resolve()}:{status.st_size}:{status.st_mtime_ns}:{max_mb}"
    unpacked = cache_dir / "archives" / f"{hashlib.sha256(identity.encode()).hexdigest()[:32]}.tar"
    if not unpacked.exists():
        with atomic_file(unpacked) as stream, tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as out:
            _repack(archive, out, max_mb)
    with tarfile.open(unpacked, "r:") as tar:
        for member in tar:
            if PROBLEM in member.pax_headers:
                raise tarfile.ReadError(member.pax_headers[PROBLEM])
            declared = member.pax_headers.get(DECLARED)
            segment = FileSegment(unpacked, member.offset_data, member.size)
            yield member.name, _too_large(int(declared), max_mb) if declared else segment


def _repack(archive: Path, out: tarfile.TarFile, max_mb: float) -> None:
    """Copy the files of a compressed tar. A header replaces a file that is too large, and records an error that ends the copy."""
    remaining = MAX_RATIO * archive.stat().st_size
    try:
        with tarfile.open(archive, "r|*") as compressed:
            for member in compressed:
                if not member.isreg():
                    continue
                copy = tarfile.TarInfo(member.name)
                remaining -= member.size
                if remaining < 0:
                    raise tarfile.ReadError(f"unpacks to more than {MAX_RATIO} times its size")
                if member.size > max_mb * 1e6:
                    copy.pax_headers = {DECLARED: str(member.size)}
                    out.addfile(copy)
                elif (stream := compressed.extractfile(member)) is not None:
                    data = stream.read()
                    copy.size = len(data)
                    out.addfile(copy, io.BytesIO(data))
    except DAMAGE_ERRORS as error:
        problem = tarfile.TarInfo("problem")
        problem.pax_headers = {PROBLEM: one_line(error)}
        out.addfile(problem)


def _too_large(size: int, max_mb: float) -> Unavailable:
    return Unavailable(f"too large: {size / 1e6:.1f} MB, over {max_mb:g}")


@lru_cache(maxsize=32)
def _open_zip(archive: Path, mtime_ns: int) -> zipfile.ZipFile:
    """Open a zip file and keep it open, because reading the list of a large archive takes long. Threads may share it."""
    return zipfile.ZipFile(archive)
