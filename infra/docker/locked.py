"""Print the part of requirements.lock that an image needs, hashes and all: `python locked.py --extras viewer pipelines`.

The lock says with `# via` what each package is needed by; what is reachable from the roots is printed, at the versions and
with the hashes that the lock holds. Nothing is resolved anew. It runs before anything is installed: the standard library
must do.
"""

from __future__ import annotations

import argparse
import re
import sys
import tomllib
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

PIN = re.compile(r"(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)==")
VIA = re.compile(r"\s+#(?: via)?\s+(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)(?:\[.*\])?$")
REQUIRED = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class Pin:
    """One package of the lock: its lines, and those that need it."""

    text: str
    needed_by: frozenset[str]


def normal(name: str) -> str:
    """The one spelling of a package's name."""
    return re.sub(r"[-_.]+", "-", name).lower()


def pins(lock: str) -> dict[str, Pin]:
    """The packages of a lock by name. A package that several markers pin to several versions keeps all its lines."""
    found: dict[str, tuple[list[str], set[str]]] = {}
    name = ""
    for line in lock.splitlines():
        if start := PIN.match(line):
            name = normal(start["name"])
            found.setdefault(name, ([], set()))
        if not name:
            continue
        found[name][0].append(line)
        if via := VIA.match(line):
            found[name][1].add(normal(via["name"]))
    return {name: Pin("\n".join(lines), frozenset(parents)) for name, (lines, parents) in found.items()}


def roots(project: str, extras: Collection[str]) -> set[str]:
    """What pyproject.toml itself asks for, with these extras. Raises KeyError for an extra that it lacks."""
    table = tomllib.loads(project)["project"]
    wanted = [*table["dependencies"], *(line for extra in extras for line in table["optional-dependencies"][extra])]
    return {normal(match[0]) for match in map(REQUIRED.match, wanted) if match}


def needed(locked: dict[str, Pin], wanted: Collection[str], without: Iterable[str] = ()) -> dict[str, Pin]:
    """The pins of `wanted` and of all that they need, less those whose name matches a pattern of `without`.

    Raises KeyError for a package that the lock lacks, and ValueError for a pattern that matches nothing.
    """
    found = {normal(name): locked[normal(name)] for name in wanted}
    while more := {name: pin for name, pin in locked.items() if name not in found and pin.needed_by & found.keys()}:
        found |= more
    for pattern in without:
        matched = [name for name in found if fnmatchcase(name, pattern)]
        if not matched:
            raise ValueError(f"--without {pattern}: matches nothing of the lock; correct it")
        for name in matched:
            del found[name]
    return dict(sorted(found.items()))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--lock", type=Path, default=Path("requirements.lock"))
    parser.add_argument("--project", type=Path, default=Path("pyproject.toml"))
    parser.add_argument("--extras", nargs="+", help="all that the library and these extras need")
    parser.add_argument("--packages", nargs="+", default=[], help="these packages, and what they need")
    parser.add_argument("--without", nargs="+", default=[], help="patterns of names to leave out, such as nvidia-*")
    options = parser.parse_args()
    wanted = set(options.packages)
    if options.extras is not None:
        wanted |= roots(options.project.read_text(encoding="utf-8"), options.extras)
    found = needed(pins(options.lock.read_text(encoding="utf-8")), wanted, options.without)
    for pin in found.values():
        print(pin.text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
