"""Pictures and credits of Debian's stellarium-data: authors from textures.json, licences from CREDITS.md."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anyres.data.sources.debian import members
from anyres.data.sources.record import IntakeError, LocalFile, Record
from anyres.files import write_atomic

FOLDER = "usr/share/stellarium/nebulae/default/"
CREDITS = "usr/share/doc/stellarium-data/CREDITS.md.gz"
UNSTATED = "not stated per picture; package GPL-2.0-or-later"

# Prefixes of the file names -> the names of the catalogues in CREDITS.md.
SKY_CATALOGUES = {"m": "M", "n": "NGC", "ic": "IC", "p": "PGC", "u": "UGC", "sh2-": "SH2-"}


@dataclass(frozen=True)
class CreditsEntry:
    """One entry of section 4 of CREDITS.md."""

    objects: str
    author: str
    licence: str


def records(package_file: Path, unpacked: Path) -> list[Record]:
    """List the deep-sky pictures of the package, sorted by name, each with author, page and licence.

    They are unpacked into the folder `unpacked`. Existing files stay.
    """
    files: dict[str, bytes] = {}
    textures: dict[str, dict[str, str]] | None = None
    for path, content in members(package_file):
        if path == CREDITS or path.startswith(FOLDER):
            files[path] = content
        if path == FOLDER + "textures.json":
            textures = parse_textures(content.decode("utf-8", "replace"))
        if textures and CREDITS in files and all(FOLDER + name in files for name in textures):
            break  # the rest of the package is not needed, and is large
    names = sorted(path.removeprefix(FOLDER) for path in files if path.startswith(FOLDER) and path.endswith(".png"))
    if not names:
        raise IntakeError(f"{package_file}: has no pictures in {FOLDER}")
    credits = parse_credits(gzip.decompress(files[CREDITS]).decode("utf-8", "replace")) if CREDITS in files else []
    pictures = []
    for name in names:
        texture = (textures or {}).get(name, {})
        author = texture.get("short", "")
        licence = licence_of(name, author, credits)
        path = unpacked / name
        write_atomic(path, files[FOLDER + name])
        pictures.append(Record(name, LocalFile(path), name, author=author, licence=licence, page=texture.get("infourl", "")))
    return pictures


def parse_textures(text: str) -> dict[str, dict[str, str]]:
    """Return the credits in a textures.json by picture name. Their keys are in lower case.

    Accepts the deviations of these files: numbers such as -.97, trailing commas, keys in any case, tiles nested in tiles.
    Raises IntakeError if the file still cannot be parsed.
    """
    text = re.sub(r"(?<=[\[\s,:])([-+]?)\.(?=\d)", r"\g<1>0.", text)
    text = re.sub(r",(\s*[\]}])", r"\1", text)
    try:
        tree = json.loads(text, strict=False)
    except json.JSONDecodeError as error:
        raise IntakeError(f"textures.json: not readable: {error}") from None
    return dict(_textures(tree))


def _textures(tile: Any) -> Iterator[tuple[str, dict[str, str]]]:
    if not isinstance(tile, dict):
        return
    if isinstance(tile.get("imageUrl"), str):
        credit = tile.get("imageCredits")
        items = credit.items() if isinstance(credit, dict) else ()
        yield tile["imageUrl"], {str(key).lower(): " ".join(str(value).split()) for key, value in items}
    for sub_tile in tile.get("subTiles", ()):
        yield from _textures(sub_tile)


def parse_credits(text: str) -> list[CreditsEntry]:
    """Return the entries "4.n Images of OBJECTS from AUTHOR [page] [License: LICENCE]" of a CREDITS.md."""
    entries = re.findall(r"^[ \t]*4\.\d+\w*[ \t]+(.*?)(?=^[ \t]*4\.\d+|^```|\Z)", text, re.MULTILINE | re.DOTALL)
    credits = []
    for entry in entries:
        words = " ".join(entry.split())
        match = re.match(
            r"(?:All messiers |Images? of |M31 pictures )(.*?) (?:come )?from (.*?)(?: https?:\S+)?(?: License: *(.*))?$", words
        )
        if match:
            credits.append(CreditsEntry(match[1].upper(), match[2], short_licence(match[3] or "")))
    return credits


def licence_of(name: str, author: str, credits: list[CreditsEntry]) -> str:
    """Return the licence of a picture in CREDITS.md: that of its author's entry for its object, else the only licence of
    this author, else UNSTATED."""
    by_author = [credit for credit in credits if _letters(author) == _letters(credit.author)]
    by_author = by_author or [credit for credit in credits if _one_contains_the_other(author, credit.author)]
    for_object = [credit for credit in by_author if _names(name, credit.objects)]
    licences = {credit.licence for credit in for_object or by_author}
    return licences.pop() if len(licences) == 1 and "" not in licences else UNSTATED


def short_licence(text: str) -> str:
    """Abbreviate Creative Commons licences as SPDX does. For other licences, return the first sentence."""
    if match := re.search(r"Creative Commons Attribution(-Share ?Alike)? (\d\.\d)(?: (Germany))?", text):
        return f"CC-BY{'-SA' if match[1] else ''}-{match[2]}{'-DE' if match[3] else ''}"
    if "CC0" in text:
        return "CC0-1.0"
    if "Free Documentation License" in text:
        return "GFDL-1.2-or-later"
    return re.split(r"[;.](?:\s|$)", text)[0].strip()


def _letters(author: str) -> str:
    return re.sub(r"[^a-z0-9]", "", author.lower())


def _one_contains_the_other(author: str, credited: str) -> bool:
    a, b = _letters(author), _letters(credited)
    return min(len(a), len(b)) > 4 and (a in b or b in a)


def _names(file_name: str, objects: str) -> bool:
    match = re.match(r"(sh2-|ic|m|n|p|u)(\d+)", file_name)
    if not match:
        return False
    return re.search(rf"\b{SKY_CATALOGUES[match[1]]}{match[2]}\b", objects) is not None
