"""Bring pictures of one window to the pixels of another: batched, band-limited, differentiable."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from anyres.plane.arrays import namespace, stacked
from anyres.plane.resample import lanczos
from anyres.plane.shapes import Float, Float32
from anyres.plane.window import Window

# Pixels of the base that a patch covers only in part are ignored.
COVERED = 0.5


def warp(
    targets: Sequence[Window], sources: Sequence[Window], device: torch.device | str
) -> tuple[Float32[Tensor, "b H h"], Float32[Tensor, "b W w"], Float32[Tensor, "b 1 H W"]]:
    """Weights that bring pictures at `sources` to the pixels of `targets`: rows (b, H, h), columns (b, W, w), mask (b, 1, H, W).

    A target is rows @ picture @ columns^T, sampled with Lanczos's kernel of the coarser of both grids, so nothing folds back.
    The mask is one where a target's pixel lies within the source.
    """
    axes = []
    for axis in (1, 0):  # rows along y, columns along x
        to = stacked([window.axes()[axis] for window in targets])
        of = np.stack([window.axes()[axis] for window in sources])
        middle = np.array([window.center[axis] for window in sources])
        half = np.array([window.extent[1 - axis] / 2 for window in sources])
        fine, coarse = (stacked([window.period for window in group]) for group in (targets, sources))
        xp = namespace(to)
        of, middle, half, coarse = (xp.asarray(part) for part in (of, middle, half, coarse))
        weights = lanczos((to[:, :, None] - of[:, None, :]) / xp.maximum(fine, coarse)[:, None, None])
        total = weights.sum(axis=2, keepdims=True)
        weights = xp.where(xp.abs(total) > 1e-6, weights / xp.where(total == 0, 1.0, total), 0.0)
        slack = COVERED * xp.minimum(fine, 2 * half)
        inside = xp.abs(to - middle[:, None]) <= (half - slack)[:, None] + 1e-9
        axes.append((torch.as_tensor(weights).float().to(device), torch.as_tensor(inside).float().to(device)))
    (rows, inside_y), (columns, inside_x) = axes
    return rows, columns, (inside_y[:, :, None] * inside_x[:, None, :])[:, None]


def masked_mean(values: Float[Tensor, "b c h w"], mask: Float[Tensor, "b 1 h w"]) -> Float[Tensor, ""]:
    """Return the mean over samples of each sample's mean under its mask; a sample whose mask is empty counts as zero.

    One ratio for the whole batch would weight a sample by the area of its mask.
    """
    sums, areas = ((x * mask).sum(dim=(1, 2, 3)) for x in (values, torch.ones_like(values)))
    return (sums / areas.clamp_min(1e-6)).mean()
