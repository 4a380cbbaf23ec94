"""Bring pictures of one window to the pixels of another: batched, band-limited, differentiable."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from anyres.plane.resample import lanczos
from anyres.plane.window import Window

# Pixels of the base that a patch covers only in part tell nothing.
COVERED = 0.5


def warp(targets: Sequence[Window], sources: Sequence[Window], device: torch.device | str) -> tuple[Tensor, Tensor, Tensor]:
    """Weights that bring pictures at `sources` to the pixels of `targets`: rows (b, H, h), columns (b, W, w), mask (b, 1, H, W).

    A target is rows @ picture @ columns^T, sampled with Lanczos's kernel of the coarser of both grids, so nothing folds back.
    The mask is one where a target's pixel lies within the source.
    """
    axes = []
    for axis in (1, 0):  # rows along y, columns along x
        to = np.stack([window.axes()[axis] for window in targets])
        of = np.stack([window.axes()[axis] for window in sources])
        coarser = np.array([max(a.period, b.period) for a, b in zip(targets, sources, strict=True)])
        weights = lanczos((to[:, :, None] - of[:, None, :]) / coarser[:, None, None])
        total = weights.sum(axis=2, keepdims=True)
        weights = np.where(np.abs(total) > 1e-6, weights / np.where(total == 0, 1.0, total), 0.0)
        middle = np.array([window.center[axis] for window in sources])
        half = np.array([window.extent[1 - axis] / 2 for window in sources])
        slack = COVERED * np.array([min(a.period, 2 * h) for a, h in zip(targets, half, strict=True)])
        inside = np.abs(to - middle[:, None]) <= (half - slack)[:, None] + 1e-9
        axes.append((torch.from_numpy(weights).float().to(device), torch.from_numpy(inside).float().to(device)))
    (rows, inside_y), (columns, inside_x) = axes
    return rows, columns, (inside_y[:, :, None] * inside_x[:, None, :])[:, None]
