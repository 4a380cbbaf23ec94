"""Author and licence of each file, from Debian copyright files and README files of the same format."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fnmatch import fnmatchcase

# The licence of files that no stanza mentions.
UNSTATED = "not stated"
FIELD = re.compile(r"(Files|Copyright|License|Licence|Source|Comments?|[A-Z][A-Za-z-]*):(?:\s+(.*))?$")
NOISE = re.compile(r"copyright|\(c\)|©|<[^>]*>|´", re.IGNORECASE)


@dataclass(frozen=True)
class Credit:
    """One stanza: patterns of file names, with author, licence and page."""

    patterns: tuple[str, ...] = ()
    author: str = ""
    licence: str = UNSTATED
    page: str = ""


def parse(text: str) -> list[Credit]:
    """Parse stanzas of "Field: value" lines, separated by blank lines. Lines without a field are file names."""
    return [credit for stanza in re.split(r"\n\s*\n", text) if (credit := _credit(stanza)).patterns]


def credit_of(name: str, credits: list[Credit]) -> Credit:
    """Return the last stanza whose patterns match `name`, as in Debian's format. Return an empty one if none matches."""
    matching = [credit for credit in credits if any(fnmatchcase(name, pattern) for pattern in credit.patterns)]
    return matching[-1] if matching else Credit()


def normalise_licence(licence: str) -> str:
    """Spell a licence in one way: "CC-BY-SA-4.0", "public domain"."""
    return re.sub(r"^(CC-BY(?:-SA)?) (?=\d)", r"\1-", licence.replace("Public", "public").replace("Domain", "domain"))


def _credit(stanza: str) -> Credit:
    fields: dict[str, list[str]] = {}
    current = "files"
    for line in stanza.splitlines():
        if match := FIELD.match(line):
            current, line = match[1].lower().rstrip("s"), match[2] or ""
        elif not line.startswith((" ", "\t")):
            current = "file"
        if line.strip():
            fields.setdefault(current, []).append(line.strip())
    names = fields.get("file", []) + fields.get("files", [])
    comment = " ".join(line for line in fields.get("comment", []) if "AUTHORS file" not in line)
    authors = [" ".join(NOISE.sub(" ", line).split()).strip(" ,.") for line in fields.get("copyright", [])]
    author = ", ".join(name for name in authors if name)
    # The lines after the first are the text of the licence.
    licence = (fields.get("license") or fields.get("licence") or [UNSTATED])[0]
    return Credit(
        patterns=tuple(" ".join(names).split()),
        author=f"{author} ({comment})" if comment else author,
        licence=normalise_licence(licence),
        page=" ".join(fields.get("source", [])),
    )
