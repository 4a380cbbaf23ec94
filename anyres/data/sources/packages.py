"""Source `packages`: named picture sets out of pinned packages, the same bytes for everyone and no account."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from anyres.data.sources.debian import Package, fetch
from anyres.data.sources.record import Record
from anyres.data.sources.stellarium import records as stellarium_records


@dataclass(frozen=True)
class PackageSet:
    """A package and how to read its pictures out of the package file."""

    package: Package
    read: Callable[[Path, Path], list[Record]]


SETS = {
    "deepsky": PackageSet(
        Package(
            name="stellarium-data",
            version="0.22.2-1",
            architecture="all",
            sha256="45aaebf39a814acbd6dcccea058c2f5651bcb5635599da03a215feeb51f4d5a5",
            size=246_289_432,
        ),
        stellarium_records,
    ),
}


def records(chosen: PackageSet, cache_dir: Path, progress: bool = True) -> list[Record]:
    """Return the pictures of a set, fetched into `cache_dir` first where they are not there.

    Raises IntakeError, one line with the cure, where the package cannot be had or is not the pinned one.
    """
    return chosen.read(fetch(chosen.package, cache_dir, progress=progress), cache_dir / "packages" / chosen.package.sha256[:16])
