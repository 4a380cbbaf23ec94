"""Archives in a folder: every member is a file like any other, and a damaged archive takes no sound one with it."""

from __future__ import annotations

import io
import tarfile
import tempfile
import zipfile
from pathlib import Path

import pytest

from anyres.data.refusal import RefusedError
from anyres.data.sources.folder import records
from anyres.data.sources.record import Access

from .conftest import take_in
from .pictures import encoded, photograph

# Where a member of an archive must not get to.
ESCAPED = Path(tempfile.gettempdir(), "escaped.png")
NAMES = ["b/2.png", "a/1.png", "3.png"]
PACKED = [".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz"]


@pytest.fixture(scope="module")
def pictures() -> dict[str, bytes]:
    return {name: encoded(photograph(40, 50 + index, index), "PNG") for index, name in enumerate(NAMES)}


def pack(path: Path, files: dict[str, bytes]) -> None:
    """Write an archive of the kind that its name says."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in files.items():
                archive.writestr(name, data)
        return
    mode = {".gz": "w:gz", ".tgz": "w:gz", ".bz2": "w:bz2", ".xz": "w:xz"}.get(path.suffix, "w")
    with tarfile.open(path, mode) as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


@pytest.mark.parametrize("kind", [".zip", *PACKED])
def test_members_are_files_like_any_other(tmp_path: Path, pictures: dict[str, bytes], kind: str) -> None:
    folder = tmp_path / "in"
    (folder / "deep").mkdir(parents=True)
    hidden = {".DS_Store": b"x", "__MACOSX/1.png": b"x", "b/.hidden/1.png": b"x"}
    pack(folder / "deep" / f"set{kind}", {**pictures, **hidden, "notes.txt": b"no picture"})
    (folder / "0.png").write_bytes(encoded(photograph(40, 45, 9), "PNG"))
    catalogue = take_in(folder, tmp_path / "out")
    prefix = f"deep/set{kind}!/"
    assert [row.id for row in catalogue.rows] == ["0.png", *sorted(prefix + name for name in (*NAMES, "notes.txt"))]
    assert {row.id: row.reason for row in catalogue.rows if row.reason} == {
        f"{prefix}notes.txt": "not a picture file that can be read here"
    }
    access = Access(tmp_path / "cache")
    fetched = {record.id: record.content.fetch(access) for record in records(folder, access.cache_dir)}
    assert {name: fetched[prefix + name] for name in NAMES} == pictures


@pytest.mark.parametrize("kind", PACKED)
def test_a_cut_off_tar_gives_what_is_before_the_cut(tmp_path: Path, kind: str) -> None:
    rng_bytes = photograph(300, 300, 4).tobytes()  # does not compress, so that the cut falls where it looks
    files = {f"{index}.bin": rng_bytes[index:] for index in range(6)}
    folder = tmp_path / "in"
    folder.mkdir()
    pack(folder / f"set{kind}", files)
    data = (folder / f"set{kind}").read_bytes()
    (folder / f"set{kind}").write_bytes(data[: len(data) // 2])
    access = Access(tmp_path / "cache")
    whole, reasons = {}, []
    for record in records(folder, access.cache_dir):
        try:
            whole[record.id.split("!/")[-1]] = record.content.fetch(access)
        except RefusedError as refusal:
            reasons.append(str(refusal))
    if kind not in (".tar.bz2", ".tar.xz"):  # whose blocks are larger than what stands before the cut
        assert len(whole) >= 2
    assert all(files[name] == content for name, content in whole.items())
    assert len(reasons) in (1, 2)
    assert all("damaged archive" in reason or "cannot be read" in reason for reason in reasons)


def test_hostile_archives_are_rows_with_reasons(tmp_path: Path, pictures: dict[str, bytes]) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    pack(folder / "good.zip", pictures)
    data = bytearray((folder / "good.zip").read_bytes())
    (folder / "cut.zip").write_bytes(data[: len(data) // 2])
    (folder / "flipped.zip").write_bytes(bytes(data[:200]) + b"\xff\xff\xff\xff" + bytes(data[204:]))
    (folder / "garbage.tar.gz").write_bytes(b"\x1f\x8b garbage")
    (folder / "empty.zip").write_bytes(b"")
    pack(folder / "nothing.tar", {})
    pack(folder / "bomb.zip", {"zeros.png": bytes(60_000_000), "1.png": pictures["3.png"]})
    pack(folder / "bomb.tar.xz", {f"{index}.png": bytes(30_000_000) for index in range(4)})
    pack(folder / "large.tar.gz", {"large.png": bytes(51_000_000) + photograph(900, 900).tobytes(), "2.png": pictures["a/1.png"]})
    pack(
        folder / "up.tar",
        {f"../../../..{ESCAPED}": pictures["b/2.png"], "same.png": b"x", "./same.png": b"y"},
    )
    pack(folder / "nested.zip", {"good.zip": bytes(data)})
    catalogue = take_in(folder, tmp_path / "out")
    reasons = {row.id: row.reason for row in catalogue.rows}
    assert reasons["cut.zip"].startswith("damaged archive: ")
    assert sum(row.id.startswith("flipped.zip!/") and row.reason.startswith("cannot be read") for row in catalogue.rows) == 1
    assert reasons["garbage.tar.gz"].startswith("damaged archive: ")
    assert reasons["empty.zip"].startswith("damaged archive: ")
    assert reasons["nothing.tar"] == "an archive without files"
    assert reasons["bomb.zip!/zeros.png"] == "too large: 60.0 MB, over 50"
    assert reasons["bomb.tar.xz"] == "damaged archive: unpacks to more than 200 times its size"
    assert reasons["large.tar.gz!/large.png"].startswith("too large: 53.")
    assert "large.tar.gz!/2.png" in reasons
    assert reasons["nested.zip!/good.zip"].startswith("not a picture")
    assert {"up.tar!/same.png", "up.tar!/same.png+"} < set(reasons)
    assert not ESCAPED.exists()
    assert sum(row.status == "accepted" for row in catalogue.rows) == 3
    assert not list((tmp_path / "out-cache").rglob("escaped*"))
    # Again: the same, and nothing unpacked twice.
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out-cache" / "archives").iterdir()}
    assert take_in(folder, tmp_path / "out").rows == catalogue.rows
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out-cache" / "archives").iterdir()} == before


def test_an_encrypted_member_is_refused(tmp_path: Path, pictures: dict[str, bytes]) -> None:
    pack(tmp_path / "a.zip", pictures)
    data = bytearray((tmp_path / "a.zip").read_bytes())
    for magic, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(magic) + flags] |= 1
    (tmp_path / "a.zip").write_bytes(bytes(data))
    with pytest.raises(RefusedError, match="encrypted"):
        next(record for record in records(tmp_path) if record.id.endswith(NAMES[0])).content.fetch(Access(tmp_path))
