"""Photographs in Debian packages of wallpapers and games, each with its credit."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from anyres.data.sources import credits, qres
from anyres.data.sources.credits import Credit
from anyres.data.sources.debian import members
from anyres.data.sources.record import IntakeError, LocalFile, Record
from anyres.files import write_atomic

# Of GCompris: folders of photographs, by activity; the rest of it is drawn, painted or cut out.
GCOMPRIS = (
    "categorization/resource/images/[tromf]*/*.webp",
    "details/resource/image/*_background.webp",
    "erase/resource/*.webp",
    "explore_*/resource/*/*.webp",
)
PAINTED = ("*Gogh*", "*Eglise_dAuvers*")
ACTIVITIES = "gcompris/src/activities/"


def installed(folder: str, source: str, pattern: str, but: Sequence[str] = ()) -> Callable[[Path, Path], list[Record]]:
    """Return a reader of the pictures in `folder` of a package that match `pattern`, `but` for those stems.

    `source` is what the package's copyright file calls that folder. A .desktop file of a picture's name says more.
    """

    def read(package_file: Path, unpacked: Path) -> list[Record]:
        files = {
            path: data
            for path, data in members(package_file)
            if path.startswith(folder) or re.fullmatch(r"usr/share/doc/[^/]+/copyright", path)
        }
        stanzas = credits.parse(_text(next((data for path, data in files.items() if path.endswith("/copyright")), b"")))
        found = []
        for path, data in sorted(files.items()):
            inner = path.removeprefix(folder)
            stem = PurePosixPath(inner).stem
            if path.startswith(folder) and fnmatchcase(inner, pattern) and not any(fnmatchcase(stem, no) for no in but):
                credit = credits.credit_of(source + inner, stanzas)
                desktop = files.get(str(PurePosixPath(path).with_suffix(".desktop")))
                found.append(_record(inner, data, unpacked, _of_desktop(_text(desktop), credit) if desktop else credit))
        return _some(found, package_file)

    return read


def gcompris(package_file: Path, unpacked: Path) -> list[Record]:
    """List the photographs in the resource files of gcompris-qt-data; README files beside them give the credits."""
    found = []
    for path, data in members(package_file):
        if not path.endswith(".rcc"):
            continue
        try:
            files = {name.removeprefix(ACTIVITIES): content for name, content in qres.members(data)}
        except ValueError as error:
            raise IntakeError(f"{package_file}: {path}: {error}") from None
        for name, content in files.items():
            if not any(fnmatchcase(name, pattern) for pattern in GCOMPRIS) or any(fnmatchcase(name, no) for no in PAINTED):
                continue
            found.append(_record(name, content, unpacked, _nearest(PurePosixPath(name), files)))
    return _some(sorted(found, key=lambda record: record.id), package_file)


def _nearest(path: PurePosixPath, files: dict[str, bytes]) -> Credit:
    """The credit in the README of the folder, or of the nearest one above, that names the file."""
    for folder in path.parents:
        if readme := files.get(str(folder / "README")):
            credit = credits.credit_of(str(path.relative_to(folder)), credits.parse(_text(readme)))
            if credit.patterns:
                return credit
    return Credit()


def _of_desktop(text: str, credit: Credit) -> Credit:
    values = dict(re.findall(r"^X-KDE-PluginInfo-(Author|Website|License)=(.+)$", text, re.MULTILINE))
    licence = credits.spelt(values.get("License", credit.licence))
    return Credit((), values.get("Author", credit.author), licence, values.get("Website", credit.page))


def _record(name: str, data: bytes, unpacked: Path, credit: Credit) -> Record:
    path = unpacked / name
    write_atomic(path, data)
    return Record(name, LocalFile(path), name, author=credit.author, licence=credit.licence, page=credit.page)


def _some(found: list[Record], package_file: Path) -> list[Record]:
    if not found:
        raise IntakeError(f"{package_file}: holds none of the photographs of this set")
    return found


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")
