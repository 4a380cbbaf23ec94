"""A folder of anything becomes a manifest that says what happened to every file, or one clear line."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anyres.data.intake import intake
from anyres.data.manifest import Manifest
from anyres.data.sources import IntakeError, open_source
from anyres.data.sources.folder import records
from anyres.params import Ingest

from .pictures import encoded, ingest_params, photograph


def run(folder: Path, out: Path, **changes: object) -> Manifest:
    return intake(records(folder), ingest_params(**changes), out, progress=False)


def everything_below(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {
        path.relative_to(folder).as_posix(): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """A folder with good pictures, copies and what people keep beside pictures."""
    folder = tmp_path / "mixed"
    (folder / "deep" / "er").mkdir(parents=True)
    (folder / ".hidden").mkdir()
    picture = photograph(40, 56)
    (folder / "b.png").write_bytes(encoded(picture, "PNG"))
    (folder / "c copy.png").write_bytes(encoded(picture, "PNG"))
    (folder / "d.bmp").write_bytes(encoded(picture, "BMP"))
    (folder / "deep" / "er" / "no_suffix").write_bytes(encoded(photograph(64, 30, seed=1), "JPEG"))
    (folder / "deep" / "grün ✓.webp").write_bytes(encoded(photograph(30, 33, seed=2), "WEBP"))
    (folder / "notes.jpg").write_text("this is no picture\n")
    (folder / "empty.png").touch()
    (folder / "small.png").write_bytes(encoded(photograph(40, 15), "PNG"))
    (folder / "large.png").write_bytes(encoded(np.zeros((200, 210, 3), np.uint8), "PNG"))
    (folder / ".hidden" / "x.png").write_bytes(encoded(photograph(50, 50), "PNG"))
    (folder / "dangling.png").symlink_to(folder / "nowhere.png")
    return folder


def test_the_manifest_tells_the_fate_of_every_file(mixed: Path, tmp_path: Path) -> None:
    manifest = run(mixed, tmp_path / "out", max_mpx=0.04)
    fates = {row.id: (row.status, row.reason) for row in manifest.rows}
    assert fates == {
        "b.png": ("accepted", ""),
        "c copy.png": ("refused", "duplicate: same bytes as b.png"),
        "d.bmp": ("refused", "duplicate: same pixels as b.png"),
        "dangling.png": ("refused", "cannot be read: No such file or directory"),
        "deep/er/no_suffix": ("accepted", ""),
        "deep/grün ✓.webp": ("accepted", ""),
        "empty.png": ("refused", "empty file"),
        "large.png": ("refused", "too large: 210x200, over 0.04 megapixels"),
        "notes.jpg": ("refused", "not a picture file that can be read here"),
        "small.png": ("refused", "too small: 15x40, short side under 16"),
    }
    assert [row.id for row in manifest.rows] == sorted(row.id for row in manifest.rows)
    assert manifest.reasons() == {
        "duplicate": 2,
        "cannot be read": 1,
        "empty file": 1,
        "too large": 1,
        "not a picture file that can be read here": 1,
        "too small": 1,
    }


def test_originals_are_kept_unchanged_under_their_hash(mixed: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    manifest = run(mixed, out)
    row = next(row for row in manifest.accepted if row.id == "deep/er/no_suffix")
    data = (mixed / row.id).read_bytes()
    assert (out / row.path).read_bytes() == data
    assert row.path == f"pictures/{row.sha256[:2]}/{row.sha256}.jpg"
    assert row.sha256 == hashlib.sha256(data).hexdigest()
    assert (row.width, row.height) == (30, 64)
    assert Manifest.load(out) == manifest
    first = json.loads((out / "manifest.jsonl").read_text(encoding="utf-8").splitlines()[0])
    keys = "id path name sha256 width height status reason licence author page mode converted"
    assert set(keys.split()) <= set(first)


def test_width_and_height_are_those_of_the_upright_picture(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    exif = Image.Exif()
    exif[0x0112] = 8
    (folder / "turned.jpg").write_bytes(encoded(photograph(40, 56), "JPEG", exif=exif))
    (row,) = run(folder, tmp_path / "out").rows
    assert (row.width, row.height, row.converted) == (40, 56, ("orientation 8",))


def test_a_second_intake_touches_nothing(mixed: Path, tmp_path: Path) -> None:
    run(mixed, tmp_path / "out")
    before = everything_below(tmp_path / "out")
    run(mixed, tmp_path / "out")
    assert everything_below(tmp_path / "out") == before
    run(mixed, tmp_path / "elsewhere")
    assert {name: data for name, (data, _) in everything_below(tmp_path / "elsewhere").items()} == {
        name: data for name, (data, _) in before.items()
    }


def test_pictures_that_left_the_source_leave_the_intake(mixed: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    gone = next(row for row in run(mixed, out).accepted if row.id == "deep/er/no_suffix")
    (mixed / gone.id).unlink()
    manifest = run(mixed, out)
    assert {path.relative_to(out).as_posix() for path in out.glob("pictures/*/*")} == {row.path for row in manifest.accepted}


def test_credits_have_one_line_a_picture(mixed: Path, tmp_path: Path) -> None:
    manifest = run(mixed, tmp_path / "out")
    lines = (tmp_path / "out" / "credits.md").read_text(encoding="utf-8").splitlines()
    assert [line.split(":")[0] for line in lines[2:]] == [f"- {row.name}" for row in manifest.accepted]


@pytest.mark.parametrize(
    ("fill", "message"),
    [
        (None, r"^ingest\.folder: '.*pictures': no such folder"),
        ({}, r"^ingest\.folder: '.*pictures' is empty"),
        ({"a.jpg": b"text", "b.png": b""}, r"^no usable picture among 2 files \(1 not a picture.*, 1 empty file\)"),
    ],
    ids=["missing", "empty", "unusable"],
)
def test_nothing_usable_is_one_line_and_no_file(tmp_path: Path, fill: dict[str, bytes] | None, message: str) -> None:
    params: Ingest = ingest_params(folder=str(tmp_path / "pictures"))
    if fill is not None:
        (tmp_path / "pictures").mkdir()
        for name, data in fill.items():
            (tmp_path / "pictures" / name).write_bytes(data)
    with pytest.raises(IntakeError, match=message) as caught:
        intake(open_source(params, tmp_path / "cache"), params, tmp_path / "out", progress=False)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "cache").exists()


def test_a_file_in_place_of_the_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "pictures").write_text("")
    with pytest.raises(IntakeError, match="is a file; name the folder"):
        open_source(ingest_params(folder=str(tmp_path / "pictures")), tmp_path)


def test_a_manifest_that_is_missing_or_damaged_names_the_stage(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"manifest\.jsonl: no such file; run the stage ingest"):
        Manifest.load(tmp_path)
    (tmp_path / "manifest.jsonl").write_text('{"id": 1}\n')
    with pytest.raises(ValueError, match=r"manifest\.jsonl: damaged"):
        Manifest.load(tmp_path)
