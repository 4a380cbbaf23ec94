"""The own safetensors reader against the library, on sound and on unsound files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from anyres.networks.tensorfile import DTYPES, read_safetensors


def write(path: Path, header: object, body: bytes = b"") -> Path:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(raw).to_bytes(8, "little") + raw + body)
    return path


def entry(dtype: str = "F32", shape: object = (3,), offsets: object = (0, 12)) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=str)
def test_reads_what_the_library_writes(tmp_path: Path, dtype: torch.dtype) -> None:
    tensors = {
        "matrix": torch.arange(6).reshape(2, 3).to(dtype),
        "scalar": torch.tensor(1).to(dtype),
        "empty": torch.empty(0, 4, dtype=dtype),
        "odd bytes": torch.ones(5, dtype=torch.uint8),
    }
    path = tmp_path / "w.safetensors"
    save_file(tensors, path, metadata={"note": "x"})
    read = read_safetensors(path)
    library = load_file(path)
    assert read.keys() == library.keys()
    for name, tensor in library.items():
        assert read[name].dtype == tensor.dtype
        assert read[name].shape == tensor.shape
        assert torch.equal(read[name], tensor)


def test_files_that_the_reader_takes_are_sound_for_the_library(tmp_path: Path) -> None:
    body = torch.tensor([1.5, -2.0, 3.25]).numpy().tobytes()
    path = write(tmp_path / "w.safetensors", {"a": entry(shape=[3], offsets=[0, 12])}, body)
    assert torch.equal(read_safetensors(path)["a"], load_file(path)["a"])


@pytest.mark.parametrize(
    ("header", "body", "reason"),
    [
        (b"not json", b"", "not JSON"),
        (b"[1]", b"", "no JSON object"),
        (b"[" * 100_000, b"", "not JSON"),
        (b'{"a": 1, "a": 2}', b"", "twice"),
        ({"a": 1}, b"", "needs dtype"),
        ({"a": entry(dtype="F33")}, bytes(12), "unknown dtype"),
        ({"a": entry(shape=[-3])}, bytes(12), "shape"),
        ({"a": entry(shape=[True, 3])}, bytes(12), "shape"),
        ({"a": entry(shape=3)}, bytes(12), "shape"),
        ({"a": entry(shape=[2**62, 8])}, bytes(12), "cannot fill"),
        ({"a": entry(shape=[4])}, bytes(12), "cannot fill"),
        ({"a": entry(offsets=[12, 0])}, bytes(12), "cannot fill"),
        ({"a": entry(offsets=[4, 16])}, bytes(16), "gap or overlap"),
        ({"a": entry(), "b": entry(offsets=[8, 20])}, bytes(20), "gap or overlap"),
        ({"a": entry()}, bytes(11), "file holds 11"),
        ({"a": entry()}, bytes(13), "file holds 13"),
    ],
)
def test_refuses_unsound_files(tmp_path: Path, header: object, body: bytes, reason: str) -> None:
    path = write(tmp_path / "w.safetensors", header, body)
    with pytest.raises(ValueError, match=f"not a sound safetensors file: .*{reason}"):
        read_safetensors(path)


@pytest.mark.parametrize("data", [b"", b"1234567", (2**63).to_bytes(8, "little") + b"{}"])
def test_refuses_files_shorter_than_their_header(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(data)
    with pytest.raises(ValueError, match="a header of"):
        read_safetensors(path)


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_file({"a": torch.ones(2, 3)}, path)
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match="not a sound safetensors file"):
            read_safetensors(path)
