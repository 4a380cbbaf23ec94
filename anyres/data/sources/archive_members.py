"""Members of zip and tar archives, read in place where the archive allows it."""

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

from anyres.data.refusal import RefusedError, in_few_words
from anyres.data.sources.record import Access, Content, Record, Unavailable
from anyres.files import replacing

ZIP, TAR = (".zip",), (".tar",)
PACKED_TAR = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
ARCHIVES = ZIP + TAR + PACKED_TAR
# No archive of pictures unpacks to so many times its own size.
RATIO = 200
# Notes in the headers of an unpacked copy.
DECLARED, PROBLEM = "anyres.size", "anyres.problem"
# What a damaged archive, or damaged data in one, raises.
DAMAGE = (
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
class Zipped:
    """Member `number` of a zip file that was last changed at `changed` (ns)."""

    archive: Path
    changed: int
    number: int
    size: int

    def fetch(self, access: Access) -> bytes:
        try:
            opened = _opened(self.archive, self.changed)
            with opened.open(opened.infolist()[self.number]) as stream:
                # No more than is declared, whatever it unpacks to; the sum at the end is checked.
                data = stream.read(self.size + 1)
        except DAMAGE as error:
            raise RefusedError(f"cannot be read: {in_few_words(error)}") from None
        if len(data) != self.size:
            raise RefusedError(f"cannot be read: {len(data)} bytes, expected {self.size}")
        return data


@dataclass(frozen=True, slots=True)
class Stretch:
    """`size` bytes of a file from `offset` on, such as a member of a plain tar."""

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
    """List the files of an archive as records with ids "`key`!/path in it", names that begin with a dot left out.

    A compressed tar is unpacked once into `cache_dir`, member by member; zip and plain tar are read in place. A damaged
    archive gives what can be listed and one record that says what is wrong; members over `max_mb` are not unpacked.
    """
    found: dict[str, Record] = {}
    try:
        for name, content in _listed(archive, cache_dir, max_mb):
            inner = PurePosixPath(name)
            if any(part.startswith(".") or part == "__MACOSX" for part in inner.parts if part not in (".", "..")):
                continue
            identity = f"{key}!/{inner}".encode("utf-8", "replace").decode()
            while identity in found:  # archives may hold a name twice
                identity += "+"
            found[identity] = Record(identity, content, identity)
    except DAMAGE as error:
        found[key] = Record(key, Unavailable(f"damaged archive: {in_few_words(error)}"), key)
    if not found:
        found[key] = Record(key, Unavailable("an archive without files"), key)
    return list(found.values())


def _listed(archive: Path, cache_dir: Path, max_mb: float) -> Iterator[tuple[str, Content]]:
    name, status = archive.name.lower(), archive.stat()
    if name.endswith(ZIP):
        for number, member in enumerate(_opened(archive, status.st_mtime_ns).infolist()):
            if member.is_dir():
                continue
            content: Content = Zipped(archive, status.st_mtime_ns, number, member.file_size)
            if member.file_size > max_mb * 1e6:
                content = _too_large(member.file_size, max_mb)
            elif member.flag_bits & 1:
                content = Unavailable("encrypted")
            yield member.filename, content
    elif name.endswith(TAR):
        with tarfile.open(archive, "r:") as opened:
            for member in opened:
                if member.isreg():
                    fits = member.size <= max_mb * 1e6
                    yield (
                        member.name,
                        Stretch(archive, member.offset_data, member.size) if fits else _too_large(member.size, max_mb),
                    )
    else:
        yield from _unpacked(archive, cache_dir, max_mb)


def _unpacked(archive: Path, cache_dir: Path, max_mb: float) -> Iterator[tuple[str, Content]]:
    """List a compressed tar, which cannot be read in the middle: unpacked once, into a plain tar."""
    status = archive.stat()
    identity = f"{archive.resolve()}:{status.st_size}:{status.st_mtime_ns}:{max_mb}"
    plain = cache_dir / "archives" / f"{hashlib.sha256(identity.encode()).hexdigest()[:32]}.tar"
    if not plain.exists():
        with replacing(plain) as stream, tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as out:
            _repack(archive, out, max_mb)
    with tarfile.open(plain, "r:") as opened:
        for member in opened:
            if PROBLEM in member.pax_headers:
                raise tarfile.ReadError(member.pax_headers[PROBLEM])
            declared = member.pax_headers.get(DECLARED)
            yield member.name, _too_large(int(declared), max_mb) if declared else Stretch(plain, member.offset_data, member.size)


def _repack(archive: Path, out: tarfile.TarFile, max_mb: float) -> None:
    """Copy the files of a compressed tar; what is too large, or ends it early, is noted in their place."""
    left = RATIO * archive.stat().st_size
    try:
        with tarfile.open(archive, "r|*") as packed:
            for member in packed:
                if not member.isreg():
                    continue
                copy = tarfile.TarInfo(member.name)
                left -= member.size
                if left < 0:
                    raise tarfile.ReadError(f"unpacks to more than {RATIO} times its size")
                if member.size > max_mb * 1e6:
                    copy.pax_headers = {DECLARED: str(member.size)}
                    out.addfile(copy)
                elif (stream := packed.extractfile(member)) is not None:
                    data = stream.read()
                    copy.size = len(data)
                    out.addfile(copy, io.BytesIO(data))
    except DAMAGE as error:
        problem = tarfile.TarInfo("problem")
        problem.pax_headers = {PROBLEM: in_few_words(error)}
        out.addfile(problem)


def _too_large(size: int, max_mb: float) -> Unavailable:
    return Unavailable(f"too large: {size / 1e6:.1f} MB, over {max_mb:g}")


@lru_cache(maxsize=32)
def _opened(archive: Path, changed: int) -> zipfile.ZipFile:
    """Kept open: the list of a large archive takes long to read. Threads may share it."""
    return zipfile.ZipFile(archive)
