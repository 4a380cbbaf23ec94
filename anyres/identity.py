"""A name for what a picture is drawn from: SHA-256 of values, of tensors, and of functions with all that they hold."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from anyres.version import __version__

# Rooms of the library whose code decides what a pixel is.
DRAWING = ("plane", "networks", "synthesis")


def digest(*values: Any) -> str:
    """Hexadecimal SHA-256 of values of any kind: equal in every process for equal ones, other for others.

    Of an object that tells nothing of itself the address goes in, so that it equals none of another process.
    """
    hasher = hashlib.sha256()
    _feed(hasher, values, ())
    return hasher.hexdigest()


def tensors_of(generator: Any) -> str:
    """SHA-256 of a generator's kind, geometry, and the names and values of its tensors."""
    kind = type(generator)
    return digest(f"{kind.__module__}.{kind.__qualname__}", generator.geometry, dict(generator.state_dict()))


@functools.cache
def code_version(*more: str) -> str:
    """SHA-256 of the code that draws, and of that of `more` rooms, and of the version of torch."""
    files = sorted(file for room in (*DRAWING, *more) for file in (Path(__file__).parent / room).rglob("*.py"))
    return digest(__version__, torch.__version__, [(file.name, file.read_bytes()) for file in files])


def _feed(hasher: Any, value: Any, within: tuple[int, ...]) -> None:
    """Kind, number of parts, and parts of a value, so that neighbours cannot run into each other."""
    if id(value) in within:
        hasher.update(b"again;")
        return
    kind, parts = _parts(value)
    if isinstance(parts, bytes):
        hasher.update(f"{kind} {len(parts)};".encode())
        hasher.update(parts)
        return
    hasher.update(f"{kind} {len(parts)};".encode())
    for part in parts:
        _feed(hasher, part, (*within, id(value)))


def _parts(value: Any) -> tuple[str, bytes | Sequence[Any]]:
    """What a value is made of: bytes, or further values."""
    kind = f"{type(value).__module__}.{type(value).__qualname__}"
    if isinstance(value, bytes | bytearray):
        return kind, bytes(value)
    if isinstance(value, Tensor):
        flat = value.detach().cpu().contiguous().flatten().view(torch.uint8)
        return f"tensor {value.dtype} {tuple(value.shape)}", flat.numpy().tobytes()
    if isinstance(value, np.ndarray) and value.dtype != object:
        return f"array {value.dtype} {value.shape}", np.ascontiguousarray(value).tobytes()
    if isinstance(value, CodeType):
        return kind, (value.co_code, value.co_consts, value.co_names)
    if isinstance(value, FunctionType):
        held = [cell.cell_contents for cell in value.__closure__ or ()]
        return kind, (value.__module__, value.__qualname__, value.__code__, value.__defaults__, value.__kwdefaults__, held)
    if isinstance(value, MethodType):
        return kind, (value.__func__, value.__self__)
    if isinstance(value, functools.partial):
        return kind, (value.func, value.args, value.keywords)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return kind, [getattr(value, field.name) for field in dataclasses.fields(value)]
    if isinstance(value, Mapping):
        return kind, [part for pair in value.items() for part in pair]
    if isinstance(value, Set):
        return kind, sorted(digest(part) for part in value)
    if isinstance(value, Sequence) and not isinstance(value, str):
        return kind, list(value)
    if hasattr(value, "__dict__") and not isinstance(value, type | ModuleType):
        return kind, list(vars(value).items())
    return kind, repr(value).encode()
