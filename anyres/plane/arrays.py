"""Array functions for Python numbers, NumPy arrays and torch tensors alike: an exported graph computes its geometry in tensors.

This module does not import torch before there is a tensor, so that code that only cuts photographs does not load it.
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
    """Return the module whose functions (floor, sqrt, sin, …) accept `value`: math, numpy or torch."""
    if is_tensor(value):
        return sys.modules["torch"]
    return np if isinstance(value, np.ndarray) else math


def stacked(values: Sequence[Any]) -> Any:
    """Stack numbers or arrays along a new first axis: an array, or a tensor if they are tensors."""
    return namespace(values[0]).stack(list(values)) if is_tensor(values[0]) else np.stack(values)


def converted(array: Any, dtype: str) -> Any:
    """Convert an array or a tensor to the `dtype` of this name, "int64" or "float32"."""
    return array.to(getattr(namespace(array), dtype)) if is_tensor(array) else array.astype(dtype)


def rounded(value: Any, least: int) -> Any:
    """Round a number or a scalar tensor to an integer, at least `least`."""
    return value.round().clamp(min=least).long() if is_tensor(value) else max(round(value), least)


def numbers(values: Sequence[Any], dtype: torch.dtype, device: torch.device | str = "cpu") -> Tensor:
    """Make a tensor of Python numbers, of scalar tensors, or of tuples of either."""
    import torch

    first = values[0]
    if isinstance(first, torch.Tensor):
        return torch.stack(list(values)).to(device, dtype)
    if isinstance(first, tuple) and is_tensor(first[0]):
        return torch.stack([numbers(value, dtype, device) for value in values])
    return torch.tensor(values, dtype=dtype, device=device)
