"""Read safetensors files with torch alone: a bundle needs no safetensors package to load.

Format: https://github.com/huggingface/safetensors#format: eight bytes of header length, a JSON header, raw bytes.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

DTYPES = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "I16": torch.int16,
    "I32": torch.int32,
    "I64": torch.int64,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
}
MAX_HEADER_BYTES = 100_000_000


def read_safetensors(path: str | Path) -> dict[str, Tensor]:
    """Return the tensors of a file by name, on the CPU. Raises ValueError, one line, for a damaged file or another format."""
    data = Path(path).read_bytes()
    try:
        header, body = _split(data)
        spans = {name: _span(name, entry) for name, entry in header.items() if name != "__metadata__"}
        _check_cover(spans, len(body))
        return {name: _tensor(body, *spans[name]) for name in spans}
    except ValueError as error:
        raise ValueError(f"{path}: not a sound safetensors file: {error}") from None


Span = tuple[torch.dtype, list[int], int, int]


def _split(data: bytes) -> tuple[dict[str, Any], memoryview]:
    length = int.from_bytes(data[:8], "little")
    if len(data) < 8 or length > min(MAX_HEADER_BYTES, len(data) - 8):
        raise ValueError(f"a header of {length} bytes in a file of {len(data)}")
    try:
        header = json.loads(data[8 : 8 + length].decode("utf-8"), object_pairs_hook=_unique)
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError):
        raise ValueError("the header is not JSON") from None
    if not isinstance(header, dict):
        raise ValueError("the header is no JSON object")
    return header, memoryview(data)[8 + length :]


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    if len(set(names)) != len(names):
        raise ValueError("the header names one key twice")
    return dict(pairs)


def _span(name: str, entry: Any) -> Span:
    """Dtype, shape, begin and end of one tensor, checked against each other."""
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"tensor {name!r} needs dtype, shape and data_offsets")
    dtype, shape, offsets = DTYPES.get(str(entry["dtype"])), entry["shape"], entry["data_offsets"]
    if dtype is None:
        raise ValueError(f"tensor {name!r} has the unknown dtype {entry['dtype']!r}")
    for what, values in (("shape", shape), ("data_offsets", offsets)):
        if not isinstance(values, list) or not all(type(value) is int and 0 <= value < 2**63 for value in values):
            raise ValueError(f"tensor {name!r} has the {what} {values!r}")
    if len(offsets) != 2 or offsets[1] - offsets[0] != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"tensor {name!r} of shape {shape} cannot fill the bytes {offsets}")
    return dtype, shape, offsets[0], offsets[1]


def _check_cover(spans: dict[str, Span], length: int) -> None:
    """Raise ValueError unless tensors fill the body back to back: no overlap, no gap, nothing behind the end."""
    offset = 0
    for begin, end in sorted((span[2], span[3]) for span in spans.values()):
        if begin != offset:
            raise ValueError(f"tensors leave a gap or overlap at byte {min(begin, offset)}")
        offset = end
    if offset != length:
        raise ValueError(f"tensors take {offset} bytes, the file holds {length}")


def _tensor(body: memoryview, dtype: torch.dtype, shape: list[int], begin: int, end: int) -> Tensor:
    if begin == end:
        return torch.empty(shape, dtype=dtype)
    # Copy to a bytearray: it is aligned and writable, and the file's bytes can be freed.
    return torch.frombuffer(bytearray(body[begin:end]), dtype=dtype).reshape(shape)
