"""Photographs in Debian packages of wallpapers and games, each with its credit."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from anyres.data.sources import credits, qt_resources
from anyres.data.sources.credits import Credit
from anyres.data.sources.debian import members
from anyres.data.sources.record import IntakeError, LocalFile, Record
from anyres.files import write_atomic

# The photographs of GCompris, by activity. Its other pictures are drawings, paintings or cut-outs.
GCOMPRIS = (
    "categorization/resource/images/[tromf]*/*.webp",
    "details/resource/image/*_background.webp",
    "erase/resource/*.webp",
    "explore_*/resource/*/*.webp",
)
PAINTINGS = ("*Gogh*", "*Eglise_dAuvers*")
ACTIVITIES = "gcompris/src/activities/"


def installed(folder: str, source: str, pattern: str, exclude: Sequence[str] = ()) -> Callable[[Path, Path], list[Record]]:
    """Return a reader of the pictures in `folder` of a package that match `pattern`, except those whose stem is in `exclude`.

    `source` is the name of that folder in the package's copyright file. A .desktop file with the name of a picture overrides
    its credit.
    """

    def read(package_file: Path, unpacked: Path) -> list[Record]:
        files = {
            path: data
            for path, data in members(package_file)
            if path.startswith(folder) or re.fullmatch(r"usr/share/doc/[^/]+/copyright", path)
        }
        stanzas = credits.parse(_text(next((data for path, data in files.items() if path.endswith("/copyright")), b"")))
        pictures = []
        for path, data in sorted(files.items()):
            inner = path.removeprefix(folder)
            stem = PurePosixPath(inner).stem
            if (
                path.startswith(folder)
                and fnmatchcase(inner, pattern)
                and not any(fnmatchcase(stem, excluded) for excluded in exclude)
            ):
                credit = credits.credit_of(source + inner, stanzas)
                desktop = files.get(str(PurePosixPath(path).with_suffix(".desktop")))
                pictures.append(_record(inner, data, unpacked, _desktop_credit(_text(desktop), credit) if desktop else credit))
        return _non_empty(pictures, package_file)

    return read


def gcompris(package_file: Path, unpacked: Path) -> list[Record]:
    """List the photographs in the resource files of gcompris-qt-data. The credits are in README files beside them."""
    pictures = []
    for path, data in members(package_file):
        if not path.endswith(".rcc"):
            continue
        try:
            files = {name.removeprefix(ACTIVITIES): content for name, content in qt_resources.members(data)}
        except ValueError as error:
            raise IntakeError(f"{package_file}: {path}: {error}") from None
        for name, content in files.items():
            if not any(fnmatchcase(name, pattern) for pattern in GCOMPRIS) or any(
                fnmatchcase(name, excluded) for excluded in PAINTINGS
            ):
                continue
            pictures.append(_record(name, content, unpacked, _readme_credit(PurePosixPath(name), files)))
    return _non_empty(sorted(pictures, key=lambda record: record.id), package_file)


def _readme_credit(path: PurePosixPath, files: dict[str, bytes]) -> Credit:
    """Return the credit of the file in the README of its folder, or of the nearest parent folder that names it."""
    for folder in path.parents:
        if readme := files.get(str(folder / "README")):
            credit = credits.credit_of(str(path.relative_to(folder)), credits.parse(_text(readme)))
            if credit.patterns:
                return credit
    return Credit()


def _desktop_credit(text: str, credit: Credit) -> Credit:
    values = dict(re.findall(r"^X-KDE-PluginInfo-(Author|Website|License)=(.+)$", text, re.MULTILINE))
    licence = credits.normalise_licence(values.get("License", credit.licence))
    return Credit((), values.get("Author", credit.author), licence, values.get("Website", credit.page))


def _record(name: str, data: bytes, unpacked: Path, credit: Credit) -> Record:
    path = unpacked / name
    write_atomic(path, data)
    return Record(name, LocalFile(path), name, author=credit.author, licence=credit.licence, page=credit.page)


def _non_empty(pictures: list[Record], package_file: Path) -> list[Record]:
    if not pictures:
        raise IntakeError(f"{package_file}: holds none of the photographs of this set")
    return pictures


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")
