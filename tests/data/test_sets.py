"""The sets photos and pano: readers of their packages on small ones of the same shape."""

from __future__ import annotations

import base64
import io
import struct
import subprocess
import tarfile
import zlib
from pathlib import Path

import numpy as np
import OpenEXR
import pytest
from PIL import Image

from anyres.data.sources import credits, npm, panoramas, qt_resources, wallpapers
from anyres.data.sources.record import Access, IntakeError

from .pictures import encoded, photograph

COPYRIGHT = """Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Upstream-Name: walls

Files: *
Copyright: 2010 Team
License: LGPL-2.1+

Files: nature/Dune.jpg
       nature/Sky?.jpg
Copyright: 2007, Marco Cogoni <cogoni@pictures.example>
           2008, Hylke Bons´
License: CC-BY 4.0
 The text of the licence.
 .
 Files: in it do not count.
Comment: Copyright holders are found in AUTHORS file.
"""
README = """Copyright: Dietmar Rabich / Commons
Source: https://pictures.example/wiki/File:Alpaca.jpg
License: CC-BY-SA-4.0
Comments: cropping, sharpening
Files: alpaca.webp

Copyright: George Hodan
License: Public Domain
Files:
egypt/bee one.webp
egypt/sphinx.webp

Copyright: Bruno
License: CC-BY 4.0
castle_background.webp
"""


def qrc(files: dict[str, bytes], version: int = 3, compress: bool = False) -> bytes:
    """A Qt resource file, folders and all, as `rcc -binary` lays it out: breadth first."""
    root: dict = {}
    for path, data in files.items():
        *folders, name = path.split("/")
        node = root
        for folder in folders:
            node = node.setdefault(folder, {})
        node[name] = data
    names, contents, nodes = b"", b"", []
    queue: list[tuple[str, dict | bytes]] = [("", root)]
    next_child = 1
    while queue:
        name, node = queue.pop(0)
        place = len(names)
        names += struct.pack(">HI", len(name), 0) + name.encode("utf-16-be")
        stamp = bytes(8) if version >= 2 else b""
        if isinstance(node, dict):
            nodes.append(struct.pack(">IHII", place, qt_resources.DIRECTORY, len(node), next_child) + stamp)
            next_child += len(node)
            queue += node.items()
        else:
            flags = qt_resources.COMPRESSED if compress else 0
            body = struct.pack(">I", len(node)) + zlib.compress(node) if compress else node
            nodes.append(struct.pack(">IHHHI", place, flags, 0, 0, len(contents)) + stamp)
            contents += struct.pack(">I", len(body)) + body
    tree = b"".join(nodes)
    start = 20 + (4 if version >= 3 else 0)
    header = b"qres" + struct.pack(">IIII", version, start + len(contents) + len(names), start, start + len(contents))
    return header + (bytes(4) if version >= 3 else b"") + contents + names + tree


def deb(folder: Path, name: str, files: dict[str, bytes]) -> Path:
    root = folder / "root"
    for path, data in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(data)
    (root / "DEBIAN").mkdir()
    (root / "DEBIAN/control").write_text(
        f"Package: {name}\nVersion: 1\nArchitecture: all\nMaintainer: nobody <nobody@pictures.example>\nDescription: test\n"
    )
    built = folder / f"{name}.deb"
    subprocess.run(["dpkg-deb", "-Zxz", "--root-owner-group", "--build", root, built], check=True, capture_output=True)
    return built


@pytest.mark.parametrize("version", [1, 2, 3])
@pytest.mark.parametrize("compress", [False, True])
def test_a_qt_resource_file_gives_its_files_back(version: int, compress: bool) -> None:
    files = {"a/b/deep sky.webp": b"x" * 1000, "a/é.txt": b"", "z": bytes(range(256)), "a/b/c": b"c"}
    assert dict(qt_resources.members(qrc(files, version, compress))) == files


def test_a_damaged_qt_resource_file_is_a_value_error() -> None:
    data = qrc({"a/b": b"x" * 100})
    for bad in (b"", b"PK", data[:40], data[:-30], data[:-10] + b"\xff" * 10):
        with pytest.raises(ValueError, match=r"Qt resource|contains itself"):
            list(qt_resources.members(bad))


def test_credits_follow_the_last_stanza_that_names_a_file() -> None:
    stanzas = credits.parse(COPYRIGHT)
    assert credits.credit_of("nature/Dune.jpg", stanzas).author == "2007, Marco Cogoni, 2008, Hylke Bons"
    assert credits.credit_of("nature/Sky2.jpg", stanzas).licence == "CC-BY-4.0"
    assert credits.credit_of("else.jpg", stanzas).licence == "LGPL-2.1+"
    assert credits.credit_of("else.jpg", credits.parse("")).licence == credits.UNSTATED


def test_photographs_of_a_package_of_wallpapers(tmp_path: Path) -> None:
    picture = encoded(photograph(40, 50), "JPEG")
    names = ("nature/Dune.jpg", "nature/Sky1.jpg", "nature/drawn.jpg", "nature/mate.xml", "abstract/Waves.jpg", "nature/Bee.jpg")
    files = {f"usr/share/backgrounds/mate/{name}": picture for name in names}
    files["usr/share/backgrounds/mate/nature/Bee.desktop"] = (
        b"[Desktop Entry]\nName=Bee\nX-KDE-PluginInfo-Author=USDA\nX-KDE-PluginInfo-Website=http://pictures.example/bee\n"
        b"X-KDE-PluginInfo-License=Public Domain\n"
    )
    files["usr/share/doc/mate-backgrounds/copyright"] = COPYRIGHT.encode()
    package = deb(tmp_path, "mate-backgrounds", files)
    records = wallpapers.installed("usr/share/backgrounds/mate/", "", "nature/*.jpg", ["drawn"])(package, tmp_path / "unpacked")
    assert [(record.id, record.author, record.licence, record.page) for record in records] == [
        ("nature/Bee.jpg", "USDA", "public domain", "http://pictures.example/bee"),
        ("nature/Dune.jpg", "2007, Marco Cogoni, 2008, Hylke Bons", "CC-BY-4.0", ""),
        ("nature/Sky1.jpg", "2007, Marco Cogoni, 2008, Hylke Bons", "CC-BY-4.0", ""),
    ]
    assert records[0].content.fetch(Access(tmp_path)).read_bytes() == picture
    with pytest.raises(IntakeError, match="holds none of the photographs"):
        wallpapers.installed("usr/share/other/", "", "*.jpg")(package, tmp_path / "unpacked")


def test_photographs_of_resource_files(tmp_path: Path) -> None:
    top = "gcompris/src/activities/"
    inside = {
        f"{top}erase/resource/README": README.encode(),
        f"{top}erase/resource/alpaca.webp": b"1",
        f"{top}erase/resource/mask.svg": b"2",
        f"{top}erase/erase.qml": b"3",
        f"{top}explore_monuments/resource/README": README.encode(),
        f"{top}explore_monuments/resource/egypt/sphinx.webp": b"4",
        f"{top}details/resource/image/README": README.encode(),
        f"{top}details/resource/image/castle_background.webp": b"5",
        f"{top}details/resource/image/castle_0.webp": b"6",
        f"{top}details/resource/image/Gogh4_background.webp": b"7",
        f"{top}lang/resource/words_sample/one.webp": b"8",
    }
    package = deb(tmp_path, "gcompris-qt-data", {"usr/share/gcompris-qt/rcc/a.rcc": qrc(inside), "usr/share/x.txt": b""})
    records = wallpapers.gcompris(package, tmp_path / "unpacked")
    assert [(record.id, record.author, record.licence) for record in records] == [
        ("details/resource/image/castle_background.webp", "Bruno", "CC-BY-4.0"),
        ("erase/resource/alpaca.webp", "Dietmar Rabich / Commons (cropping, sharpening)", "CC-BY-SA-4.0"),
        ("explore_monuments/resource/egypt/sphinx.webp", "George Hodan", "public domain"),
    ]
    assert records[1].page == "https://pictures.example/wiki/File:Alpaca.jpg"


def environment(scale: float = 1.0) -> np.ndarray:
    """A sky over dark ground, with a sun 10,000 times as bright: float32 (64, 128, 3)."""
    light = np.full((64, 128, 3), 0.05, np.float32)
    light[:32] = np.array([0.3, 0.5, 1.0]) * np.linspace(1.5, 0.7, 32)[:, None, None]
    light[20:24, 60:64] = 10_000.0
    return light * scale


def exr(folder: Path, light: np.ndarray) -> bytes:
    header = {"compression": OpenEXR.DWAB_COMPRESSION, "type": OpenEXR.scanlineimage}
    with OpenEXR.File(header, {"RGB": np.ascontiguousarray(light)}) as out:
        out.write(str(folder / "made.exr"))
    return (folder / "made.exr").read_bytes()


def test_environments_of_both_packages_become_pictures(tmp_path: Path) -> None:
    data = exr(tmp_path, environment())
    one = deb(tmp_path, "blender-data", {panoramas.BLENDER + "noon.exr": data, panoramas.BLENDER + "license.txt": b"CC0"})
    with tarfile.open(tmp_path / "assets.tgz", "w:gz") as archive:
        for name, body in {
            "package/hdri/noon.exr.js": b"export default 'data:application/exr;base64," + base64.b64encode(data) + b"'",
            "package/hdri/noon.exr.d.ts": b"export default string",
            "package/package.json": b"{}",
        }.items():
            member = tarfile.TarInfo(name)
            member.size = len(body)
            archive.addfile(member, io.BytesIO(body))
    records = panoramas.blender(one, tmp_path / "1") + panoramas.pmndrs(tmp_path / "assets.tgz", tmp_path / "2")
    assert [record.name for record in records] == ["noon.png", "noon.png"]
    assert {record.licence for record in records} == {"CC0-1.0"}
    for record in records:
        with Image.open(record.content.fetch(Access(tmp_path))) as image:
            pixels = np.asarray(image)
        np.testing.assert_array_less(pixels[5].mean(axis=0)[0], pixels[5].mean(axis=0)[2])  # the sky is blue
        assert pixels[22, 62].min() >= 250  # and the sun white
        assert pixels[16:32, 56:72].mean(axis=2).min() > pixels[40:].max()  # without black traces of it


def test_exposure_does_not_depend_on_the_scale_of_light() -> None:
    np.testing.assert_allclose(panoramas.tone_mapped(environment()), panoramas.tone_mapped(environment(1000.0)), atol=1)
    grey = panoramas.tone_mapped(np.full((16, 32, 3), 5.0, np.float32))
    # 0.18 by Reinhard's curve is 0.18 / 1.18 of white, in linear light.
    assert np.unique(grey).tolist() == [round(255 * (1.055 * (0.18 * (1 + 1 / 32 / 32 / 0.18) / 1.18) ** (1 / 2.4) - 0.055))]


def test_npm_packages_are_pinned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = npm.NpmPackage("@sky/assets", "1.2.3", "00" * 32)
    assert package.file == "sky-assets-1.2.3.tgz"
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / package.file).write_bytes(b"x")
    with pytest.raises(IntakeError, match=r"sky-assets-1\.2\.3\.tgz: SHA-256 is [0-9a-f]{64}, expected 0+; delete"):
        package.fetch(tmp_path / "cache", progress=False)
    (tmp_path / "cache" / package.file).unlink()
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    with pytest.raises(IntakeError, match=r"this machine has no npm .*put sky-assets-1\.2\.3\.tgz \(SHA-256 0+\) into"):
        package.fetch(tmp_path / "cache", progress=False)
    (tmp_path / "bin" / "npm").write_text("#!/bin/sh\necho 'npm error 404 no such package' >&2; exit 1\n")
    (tmp_path / "bin" / "npm").chmod(0o755)
    with pytest.raises(IntakeError, match=r"npm pack @sky/assets@1\.2\.3: npm error 404 no such package; or put"):
        package.fetch(tmp_path / "cache", progress=False)
    assert list((tmp_path / "cache").iterdir()) == []
