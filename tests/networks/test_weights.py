"""Weights are fetched once, whole and verified, from a real server; what is out of reach is said in one line, soon."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from anyres.networks.pretrained import AbsentWeights, Published, obtained
from tests.data.misbehaving import Server, misbehaving

BYTES = b"numbers" * 40_000
SHA256 = hashlib.sha256(BYTES).hexdigest()


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with misbehaving({"net.pth": BYTES}) as serving:
        yield serving


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    return tmp_path / "checkpoints"


def published(url: str, sha256: str | None = SHA256) -> Published:
    return Published("net-1.pth", "net.pth of release 1 of the project nets", url, sha256)


@pytest.mark.parametrize("manner", ["good", "redirect", "packed"])
def test_what_is_absent_is_fetched_once(server: Server, folder: Path, manner: str) -> None:
    file = published(server.url(f"{manner}/net.pth"))
    path = obtained(file, "nets@7")
    assert path == folder / "net-1.pth"
    assert path.read_bytes() == BYTES
    asked = len(server.asked)
    assert obtained(file, "nets@7") == path
    assert len(server.asked) == asked


@pytest.mark.parametrize(
    ("manner", "reason"),
    [
        ("missing", "status 404"),
        ("mute", "no answer in time|timed out"),
        ("silent", "timed out"),
        ("cut-always", "peer closed connection"),
        ("page", "other bytes than were published"),
        ("garbage", "."),
        ("reset", "."),
    ],
)
def test_what_cannot_be_fetched_is_said_in_one_line(server: Server, folder: Path, manner: str, reason: str) -> None:
    began = time.monotonic()
    with pytest.raises(AbsentWeights, match=rf"cannot be fetched \((?:{reason})") as raised:
        obtained(published(server.url(f"{manner}/net.pth")), "nets@7", patience_s=0.5)
    assert time.monotonic() - began < 5
    line = str(raised.value)
    assert "\n" not in line
    assert line.startswith(f"{folder / 'net-1.pth'}: no such file")
    assert line.endswith("put net.pth of release 1 of the project nets there; metrics in nets@7 are left out until then")
    assert not folder.exists() or not list(folder.iterdir())


def test_another_file_is_refused_and_left_alone(server: Server, folder: Path) -> None:
    folder.mkdir()
    (folder / "net-1.pth").write_bytes(BYTES[1:])
    with pytest.raises(ValueError, match=r"net-1\.pth: not net\.pth of release 1 of .*so not opened; remove it") as raised:
        obtained(published(server.url("good/net.pth")), "nets@7")
    assert not isinstance(raised.value, AbsentWeights)
    assert (folder / "net-1.pth").read_bytes() == BYTES[1:]
    assert obtained(published(server.url("good/net.pth"), sha256=None), "nets@7").read_bytes() == BYTES[1:]
