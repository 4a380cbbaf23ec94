"""The range of pictures: networks use [-1, 1], files and metrics use bytes."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from anyres.plane.shapes import Float, Float32, UInt8


def to_uint8(pictures: Float[Tensor, "b 3 h w"]) -> UInt8[np.ndarray, "b h w 3"]:
    """(b, 3, h, w) in [-1, 1] -> uint8 (b, h, w, 3); values beyond are clipped."""
    scaled = (pictures.float() * 127.5 + 127.5).round().clamp(0, 255).to(torch.uint8)
    return np.ascontiguousarray(scaled.permute(0, 2, 3, 1).cpu().numpy())


def from_uint8(pixels: UInt8[np.ndarray, "b h w 3"], device: torch.device | str = "cpu") -> Float32[Tensor, "b 3 h w"]:
    """uint8 (b, h, w, 3) -> float32 (b, 3, h, w) in [-1, 1] on `device`."""
    return torch.from_numpy(pixels).to(device, non_blocking=True).permute(0, 3, 1, 2).float() / 127.5 - 1
