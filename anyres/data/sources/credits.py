"""Who made which file under which licence: Debian copyright files and README files of the same kind."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fnmatch import fnmatchcase

# Files without a word about them.
UNSTATED = "not stated"
FIELD = re.compile(r"(Files|Copyright|License|Licence|Source|Comments?|[A-Z][A-Za-z-]*):(?:\s+(.*))?$")
NOISE = re.compile(r"copyright|\(c\)|©|<[^>]*>|´", re.IGNORECASE)


@dataclass(frozen=True)
class Credit:
    """One stanza: patterns of files, with what is said of them."""

    patterns: tuple[str, ...] = ()
    author: str = ""
    licence: str = UNSTATED
    page: str = ""


def parse(text: str) -> list[Credit]:
    """Read stanzas of "Field: value" lines, set apart by blank ones; lines without a field name files."""
    return [credit for stanza in re.split(r"\n\s*\n", text) if (credit := _credit(stanza)).patterns]


def credit_of(name: str, credits: list[Credit]) -> Credit:
    """Return the last stanza whose patterns match `name`, as Debian reads them; an empty one where none does."""
    matching = [credit for credit in credits if any(fnmatchcase(name, pattern) for pattern in credit.patterns)]
    return matching[-1] if matching else Credit()


def spelt(licence: str) -> str:
    """One spelling for each: "CC-BY-SA-4.0", "public domain"."""
    return re.sub(r"^(CC-BY(?:-SA)?) (?=\d)", r"\1-", licence.replace("Public", "public").replace("Domain", "domain"))


def _credit(stanza: str) -> Credit:
    fields: dict[str, list[str]] = {}
    current = "files"
    for line in stanza.splitlines():
        if found := FIELD.match(line):
            current, line = found[1].lower().rstrip("s"), found[2] or ""
        elif not line.startswith((" ", "\t")):
            current = "file"
        if line.strip():
            fields.setdefault(current, []).append(line.strip())
    names = fields.get("file", []) + fields.get("files", [])
    comment = " ".join(line for line in fields.get("comment", []) if "AUTHORS file" not in line)
    authors = [" ".join(NOISE.sub(" ", line).split()).strip(" ,.") for line in fields.get("copyright", [])]
    author = ", ".join(name for name in authors if name)
    # A licence's own text follows its name.
    licence = (fields.get("license") or fields.get("licence") or [UNSTATED])[0]
    return Credit(
        patterns=tuple(" ".join(names).split()),
        author=f"{author} ({comment})" if comment else author,
        licence=spelt(licence),
        page=" ".join(fields.get("source", [])),
    )
