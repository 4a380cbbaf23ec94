"""A folder of anything becomes a catalogue that says what happened to every file, or one clear line."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from anyres.data.catalogue import Catalogue
from anyres.data.intake import intake, split_source
from anyres.data.sources import IntakeError, open_source
from anyres.data.sources.folder import records
from anyres.data.sources.record import Access
from anyres.params import Ingest

from .conftest import take_in
from .pictures import encoded, ingest_params, photograph


def everything_below(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {
        path.relative_to(folder).as_posix(): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def contents_below(folder: Path) -> dict[str, bytes]:
    return {name: data for name, (data, _) in everything_below(folder).items()}


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


def test_the_catalogue_tells_the_fate_of_every_file(mixed: Path, tmp_path: Path) -> None:
    catalogue = take_in(mixed, tmp_path / "out", max_mpx=0.04)
    fates = {row.id: (row.status, row.reason) for row in catalogue.rows}
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
    assert [row.id for row in catalogue.rows] == sorted(row.id for row in catalogue.rows)
    assert catalogue.reasons() == {
        "duplicate": 2,
        "cannot be read": 1,
        "empty file": 1,
        "too large": 1,
        "not a picture file that can be read here": 1,
        "too small": 1,
    }
    # The table is for other tools too.
    table = pq.read_table(tmp_path / "out" / "catalogue.parquet")
    assert table["status"].to_pylist().count("accepted") == 3
    assert Catalogue.load(tmp_path / "out") == catalogue


def test_originals_are_kept_unchanged_in_shards_that_tar_opens(mixed: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    catalogue = take_in(mixed, out)
    row = next(row for row in catalogue.accepted if row.id == "deep/er/no_suffix")
    data = (mixed / row.id).read_bytes()
    assert row.sha256 == hashlib.sha256(data).hexdigest()
    assert (out / "shards" / row.shard).read_bytes()[row.offset : row.offset + row.size] == data
    with tarfile.open(out / "shards" / row.shard) as archive:
        member = archive.extractfile(f"{row.sha256}.jpg")
        assert member is not None
        assert member.read() == data
    assert (row.width, row.height) == (30, 64)


def test_width_and_height_are_those_of_the_upright_picture(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    exif = Image.Exif()
    exif[0x0112] = 8
    (folder / "turned.jpg").write_bytes(encoded(photograph(40, 56), "JPEG", exif=exif))
    (row,) = take_in(folder, tmp_path / "out").rows
    assert (row.width, row.height, row.converted) == (40, 56, ("orientation 8",))


def test_one_worker_and_several_give_the_same_bytes(mixed: Path, tmp_path: Path) -> None:
    take_in(mixed, tmp_path / "one", shard_files=2)
    params = ingest_params(near_duplicates="keep", shard_files=2)
    intake(records(mixed), params, Access(tmp_path / "cache"), tmp_path / "three", workers=3, progress=False)
    assert contents_below(tmp_path / "one") == contents_below(tmp_path / "three")
    assert len(list((tmp_path / "one" / "shards").iterdir())) > 1


def test_a_second_intake_decodes_nothing_and_gives_the_same_bytes(mixed: Path, tmp_path: Path) -> None:
    """Proved by limits of time under which nothing can be decoded."""
    params = ingest_params(near_duplicates="keep")
    access = Access(tmp_path / "cache")
    intake(records(mixed), params, access, tmp_path / "first", progress=False)
    hasty = params.model_copy(update={"decode_s": 1e-6})
    again = intake(records(mixed), hasty, access, tmp_path / "second", progress=False)
    assert contents_below(tmp_path / "first") == contents_below(tmp_path / "second")
    (mixed / "new.png").write_bytes(encoded(photograph(50, 50, seed=8), "PNG"))
    more = intake(records(mixed), hasty, access, tmp_path / "third", progress=False)
    assert [row.reason for row in more.rows if row not in again.rows] == ["too slow: takes more than 1e-06 s to decode"]
    # What a limit of this machine refused is tried again.
    more = intake(records(mixed), params, access, tmp_path / "third", progress=False)
    assert [row.status for row in more.rows if row.id == "new.png"] == ["accepted"]


def test_a_new_file_changes_the_shards_around_it_only(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for index in range(300):
        (folder / f"{index:03d}.png").touch()
    before = [[record.id for record in shard.records] for shard in split_source(records(folder), ingest_params(shard_files=16))]
    (folder / "1505.png").touch()
    after = [[record.id for record in shard.records] for shard in split_source(records(folder), ingest_params(shard_files=16))]
    assert [name for run in before for name in run] == sorted(f"{index:03d}.png" for index in range(300))
    assert all(len(run) <= 64 for run in before)
    assert all(len(run) >= 4 for run in before[:-1])
    # The cuts fall into step again behind it.
    assert len([run for run in after if run not in before]) <= 4
    assert after[-3:] == before[-3:]


NEAR = [
    lambda image: encoded(image, "JPEG", quality=60),
    lambda image: encoded(image.resize((image.width // 2, image.height // 2), Image.Resampling.BICUBIC), "PNG"),
    lambda image: encoded(image.resize((image.width * 2, image.height * 2), Image.Resampling.LANCZOS), "WEBP", quality=90),
]


def test_near_duplicates_leave_the_largest(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for seed in range(12):
        image = Image.fromarray(photograph(90 + seed, 120, seed=seed))
        (folder / f"{seed:02d}-a.png").write_bytes(encoded(image, "PNG"))
        for number, copy in enumerate(NEAR):
            (folder / f"{seed:02d}-b{number}").write_bytes(copy(image))
    catalogue = take_in(folder, tmp_path / "out", near_duplicates="refuse")
    assert [row.id for row in catalogue.accepted] == [f"{seed:02d}-b2" for seed in range(12)]
    assert {row.reason for row in catalogue.refused if row.id.startswith("03")} == {"near-duplicate: of 03-b2, 240x186"}
    kept = take_in(folder, tmp_path / "kept", near_duplicates="keep")
    assert len(kept.accepted) == 48


def test_credits_have_one_line_a_picture(mixed: Path, tmp_path: Path) -> None:
    catalogue = take_in(mixed, tmp_path / "out")
    lines = (tmp_path / "out" / "credits.md").read_text(encoding="utf-8").splitlines()
    assert [line.split(":")[0] for line in lines[2:]] == [f"- {row.name}" for row in catalogue.accepted]


@pytest.mark.parametrize(
    ("fill", "message"),
    [
        (None, r"^ingest\.folder: '.*pictures': no such folder"),
        ({}, r"^ingest\.folder: '.*pictures' is empty"),
        ({"a.jpg": b"text", "b.png": b""}, r"^no usable picture among 2 files \(1 not a picture.*, 1 empty file\)"),
    ],
    ids=["missing", "empty", "unusable"],
)
def test_nothing_usable_is_one_line_and_no_catalogue(tmp_path: Path, fill: dict[str, bytes] | None, message: str) -> None:
    params: Ingest = ingest_params(folder=str(tmp_path / "pictures"))
    if fill is not None:
        (tmp_path / "pictures").mkdir()
        for name, data in fill.items():
            (tmp_path / "pictures" / name).write_bytes(data)
    access = Access(tmp_path / "cache")
    with pytest.raises(IntakeError, match=message) as caught:
        intake(open_source(params, access), params, access, tmp_path / "out", progress=False)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out" / "catalogue.parquet").exists()


def test_a_file_in_place_of_the_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "pictures").write_text("")
    with pytest.raises(IntakeError, match="is a file; name the folder"):
        open_source(ingest_params(folder=str(tmp_path / "pictures")), Access(tmp_path))


def test_a_catalogue_that_is_missing_or_damaged_names_the_stage(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"catalogue\.parquet: no such file; run the stage ingest"):
        Catalogue.load(tmp_path)
    (tmp_path / "catalogue.parquet").write_bytes(b"PAR1 and nothing else")
    with pytest.raises(ValueError, match=r"catalogue\.parquet: damaged .*; run the stage ingest again"):
        Catalogue.load(tmp_path)


ROOT = Path(__file__).resolve().parents[2]
ENVIRON = {**os.environ, "PYTHONPATH": str(ROOT)}
INTAKE = """
import sys
from pathlib import Path
from anyres.data.intake import intake
from anyres.data.pyramid import prepare
from anyres.data.scratch import Scratch
from anyres.data.sources.folder import records
from anyres.data.sources.record import Access
from anyres.params import Ingest, Prepare

if __name__ == "__main__":
    folder, out, what, params = sys.argv[1:]
    if what == "intake":
        intake(records(Path(folder)), Ingest.model_validate_json(params), Access(Path(out, "cache")), Path(out, "in"), 2, False)
    else:
        prepare(Path(folder), Prepare.model_validate_json(params), Path(out, "store"), Scratch(Path(out, "scratch")), 2, False)
"""


def run_and_kill(command: list[str], after_s: float) -> int:
    """Run in a session of its own, kill all of it without warning after a while; the exit code."""
    process = subprocess.Popen(command, start_new_session=True, cwd=ROOT, env=ENVIRON)
    try:
        return process.wait(after_s)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        return process.wait()


@pytest.mark.parametrize("what", ["intake", "prepare"])
def test_killed_and_started_again_gives_the_same_bytes(tmp_path: Path, what: str) -> None:
    from .pictures import prepare_params

    folder = tmp_path / "in"
    folder.mkdir()
    for seed in range(24):
        (folder / f"{seed}.png").write_bytes(encoded(photograph(300, 400 + seed, seed), "PNG", compress_level=1))
    params = ingest_params(near_duplicates="keep").model_dump_json()
    if what == "prepare":
        take_in(folder, tmp_path / "taken", shard_files=8)
        folder, params = tmp_path / "taken", prepare_params().model_dump_json()
    script = tmp_path / "run.py"
    script.write_text(INTAKE)

    def command(out: str) -> list[str]:
        return [sys.executable, str(script), str(folder), str(tmp_path / out), what, params]

    start = time.perf_counter()
    assert subprocess.run(command("whole"), check=True, cwd=ROOT, env=ENVIRON).returncode == 0
    whole_s = time.perf_counter() - start
    codes = [run_and_kill(command("killed"), whole_s * share) for share in (0.2, 0.35, 0.5, 0.7, 0.8, 0.9)]
    assert -signal.SIGKILL in codes
    subprocess.run(command("killed"), check=True, cwd=ROOT, env=ENVIRON)
    part = "in" if what == "intake" else "store"
    assert contents_below(tmp_path / "killed" / part) == contents_below(tmp_path / "whole" / part)
