"""Package sets: checked, read without installing, credits kept, and one clear line where they cannot be had."""

from __future__ import annotations

import gzip
import hashlib
import shutil
import subprocess
from pathlib import Path

import pytest

from anyres.data.intake import intake
from anyres.data.sources import Access, IntakeError, debian, packages, stellarium
from anyres.data.sources.debian import DebianPackage
from anyres.data.sources.packages import SETS, PackageSet, records

from .pictures import encoded, ingest_params, photograph

TEXTURES = """{
    "shortName": "Nebulae", "minResolution" : .05,
    "subTiles" : [
    {   "imageCredits": {"short" : "Ada  Lens", "infoUrl": "https://pictures.example/m31"},
        "imageUrl" : "m31.png", "worldCoords" : [[[83.6, -.9], [.5, 21.9]]],
        "subTiles": [ { "imageCredits" : {"Short": "ESO/B. Mirror"}, "imageUrl" : "n253.png" }, ],
    },
    {   "imageUrl" : "ic10.png", "maxBrightness" : 13.9 }
    ]
}"""
CREDITS = """## Full Reference & Credits
```
4. Graphics
\t4.1 All graphics are copyrighted by the Team (GNU GPLv2 or later)
\t4.2 Images of M1, M31, M310
\t    from Ada Lens
\t    http://pictures.example/
\t    License: Creative Commons Attribution-Share Alike 3.0 Unported
\t4.3 Images of M3
\t    from Ada Lens
\t    License: public domain
\t4.4 Images of NGC253 from ESO/B. Mirror and others
\t    License: Creative Commons Attribution 4.0 International
```
"""


@pytest.fixture
def package(tmp_path: Path) -> PackageSet:
    """A small package of the same shape in the cache folder `tmp_path`/cache."""
    if shutil.which("dpkg-deb") is None:
        pytest.skip("needs dpkg-deb to build a package")
    root = tmp_path / "root"
    pictures = root / stellarium.FOLDER
    pictures.mkdir(parents=True)
    for seed, name in enumerate(["n253", "m31", "ic10"]):
        (pictures / f"{name}.png").write_bytes(encoded(photograph(40 + seed, 56, seed), "PNG"))
    (pictures / "textures.json").write_text(TEXTURES)
    (root / stellarium.CREDITS).parent.mkdir(parents=True)
    (root / stellarium.CREDITS).write_bytes(gzip.compress(CREDITS.encode()))
    (root / "usr/share/stellarium/other.txt").write_text("not a picture of the set")
    (root / "DEBIAN").mkdir()
    (root / "DEBIAN/control").write_text(
        "Package: stellarium-data\nVersion: 0.1-1\nArchitecture: all\n"
        "Maintainer: nobody <nobody@pictures.example>\nDescription: test\n"
    )
    (tmp_path / "cache").mkdir()
    built = tmp_path / "cache" / "stellarium-data_0.1-1_all.deb"
    subprocess.run(["dpkg-deb", "-Zxz", "--root-owner-group", "--build", root, built], check=True, capture_output=True)
    digest = hashlib.sha256(built.read_bytes()).hexdigest()
    return PackageSet(DebianPackage("stellarium-data", "0.1-1", "all", digest, built.stat().st_size), stellarium.records)


@pytest.fixture
def no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A PATH without apt; a test may put a program in the folder."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return folder


def program(folder: Path, name: str, script: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


def test_a_cached_package_needs_no_network(package: PackageSet, tmp_path: Path, no_network: Path) -> None:
    pictures = records((package,), tmp_path / "cache", progress=False)
    assert [(record.name, record.author, record.licence, record.page) for record in pictures] == [
        ("ic10.png", "", stellarium.UNSTATED, ""),
        ("m31.png", "Ada Lens", "CC-BY-SA-3.0", "https://pictures.example/m31"),
        ("n253.png", "ESO/B. Mirror", "CC-BY-4.0", ""),
    ]
    params = ingest_params(near_duplicates="keep")
    catalogue = intake(pictures, params, Access(tmp_path / "cache"), tmp_path / "out", progress=False)
    assert [(row.name, row.width, row.height) for row in catalogue.accepted] == [
        ("ic10.png", 56, 42),
        ("m31.png", 56, 41),
        ("n253.png", 56, 40),
    ]
    credits = (tmp_path / "out" / "credits.md").read_text()
    assert "- m31.png: Ada Lens, CC-BY-SA-3.0, <https://pictures.example/m31>\n" in credits


def test_another_package_than_the_pinned_one_is_refused(package: PackageSet, tmp_path: Path) -> None:
    path = tmp_path / "cache" / package.package.file
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(
        IntakeError, match=rf"{package.package.file}: SHA-256 is [0-9a-f]{{64}}, expected {package.package.sha256}; delete"
    ):
        records((package,), tmp_path / "cache", progress=False)


def test_what_is_no_package_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.deb").write_bytes(b"not an archive")
    with pytest.raises(IntakeError, match="not a Debian package"):
        stellarium.records(tmp_path / "x.deb", tmp_path)


def test_without_apt_the_file_to_put_is_named(tmp_path: Path, no_network: Path) -> None:
    wanted = packages.STELLARIUM
    with pytest.raises(
        IntakeError, match=rf"no apt-get .*put stellarium-data_0\.22\.2-1_all\.deb \(SHA-256 {wanted.sha256}\) into "
    ):
        records(SETS["deepsky"], tmp_path / "cache", progress=False)


UNKNOWN = 'echo "E: Unable to locate package stellarium-data"; exit 100'


def test_missing_package_lists_name_the_one_command(tmp_path: Path, no_network: Path) -> None:
    program(no_network, "apt-get", UNKNOWN)
    program(no_network, "apt-cache", "exit 0")
    with pytest.raises(IntakeError, match="run `sudo apt-get update` and try again") as caught:
        debian.fetch(packages.STELLARIUM, tmp_path / "cache", may_update=False, progress=False)
    assert "\n" not in str(caught.value)
    assert list((tmp_path / "cache").iterdir()) == []


def test_another_version_in_the_lists_is_named(tmp_path: Path, no_network: Path) -> None:
    program(no_network, "apt-get", 'echo "E: Version not found"; exit 100')
    program(no_network, "apt-cache", 'echo "stellarium-data | 23.4-2 | archive"')
    with pytest.raises(IntakeError, match=r"=0\.22\.2-1: apt has 23\.4-2 only; or put stellarium-data_0\.22\.2-1_all\.deb "):
        debian.fetch(packages.STELLARIUM, tmp_path / "cache", may_update=False, progress=False)


def test_missing_package_lists_are_fetched_where_that_is_allowed(package: PackageSet, tmp_path: Path, no_network: Path) -> None:
    archive = tmp_path / "archive.deb"
    (tmp_path / "cache" / package.package.file).replace(archive)
    lists = tmp_path / "lists"
    # apt-get as far as it is used here: `download` knows packages only after `update`.
    program(
        no_network,
        "apt-get",
        f'for word; do case $word in update) echo > "{lists}"; exit 0;; esac; done\n'
        f'[ -e "{lists}" ] || {{ {UNKNOWN}; }}\n'
        f'/bin/cp "{archive}" {package.package.file}',
    )
    program(no_network, "apt-cache", "exit 0")
    path = debian.fetch(package.package, tmp_path / "cache", may_update=True, progress=False)
    assert path == tmp_path / "cache" / package.package.file
    assert len(stellarium.records(path, tmp_path / "unpacked")) == 3
    assert [entry.name for entry in (tmp_path / "cache").iterdir()] == [package.package.file]


def test_a_failed_download_says_why_and_leaves_nothing(tmp_path: Path, no_network: Path) -> None:
    program(
        no_network,
        "apt-get",
        f'echo half > {packages.STELLARIUM.file}; echo "E: Failed to fetch: no route to host"; exit 100',
    )
    program(no_network, "apt-cache", 'echo "stellarium-data | 0.22.2-1 | archive"')
    with pytest.raises(
        IntakeError, match=r"^apt-get download stellarium-data=0\.22\.2-1: Failed to fetch: no route to host; or put"
    ):
        debian.fetch(packages.STELLARIUM, tmp_path / "cache", may_update=False, progress=False)
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.parametrize(
    ("text", "short"),
    [
        ("Creative Commons Attribution-Share Alike 2.5 Generic", "CC-BY-SA-2.5"),
        ("Creative Commons Attribution-Share Alike 3.0 Germany", "CC-BY-SA-3.0-DE"),
        ("Creative Commons Attribution 4.0 International. This work is a derivative", "CC-BY-4.0"),
        ("Creative Commons CC0 1.0 Universal Public Domain Dedication", "CC0-1.0"),
        ("public domain; http://hubblesite.org/copyright/", "public domain"),
        ("", ""),
    ],
)
def test_licences_are_abbreviated(text: str, short: str) -> None:
    assert stellarium.short_licence(text) == short


def test_an_author_with_two_licences_gives_none_without_the_object() -> None:
    credits = stellarium.parse_credits(CREDITS)
    assert stellarium.licence_of("m3.png", "Ada Lens", credits) == "public domain"
    assert stellarium.licence_of("m4.png", "Ada Lens", credits) == stellarium.UNSTATED
