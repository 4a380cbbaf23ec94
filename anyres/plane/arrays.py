"""Geometry in whichever numbers it is asked: Python's own, arrays of numpy, or tensors, as graphs that are exported need.

Those who only cut photographs do without torch: nothing here loads it before there is a tensor.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch
    from torch import Tensor


def is_tensor(value: Any) -> bool:
    """Whether `value` is a tensor of torch."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def namespace(value: Any) -> Any:
    """The module whose floor, sqrt, sin and so on take `value`: math, numpy or torch."""
    if is_tensor(value):
        return sys.modules["torch"]
    return np if isinstance(value, np.ndarray) else math


def stacked(values: Sequence[Any]) -> Any:
    """Numbers or arrays along a new first axis: an array, of tensors a tensor."""
    return namespace(values[0]).stack(list(values)) if is_tensor(values[0]) else np.stack(values)


def converted(array: Any, dtype: str) -> Any:
    """An array or tensor in the `dtype` of this name, "int64" or "float32"."""
    return array.to(getattr(namespace(array), dtype)) if is_tensor(array) else array.astype(dtype)


def whole(value: Any, least: int) -> Any:
    """A number or a scalar tensor rounded to a whole one, no less than `least`."""
    return value.round().clamp(min=least).long() if is_tensor(value) else max(round(value), least)


def numbers(values: Sequence[Any], dtype: torch.dtype, device: torch.device | str = "cpu") -> Tensor:
    """A tensor of Python's numbers, of scalar tensors, or of tuples of either."""
    import torch

    first = values[0]
    if isinstance(first, torch.Tensor):
        return torch.stack(list(values)).to(device, dtype)
    if isinstance(first, tuple) and is_tensor(first[0]):
        return torch.stack([numbers(value, dtype, device) for value in values])
    return torch.tensor(values, dtype=dtype, device=device)
