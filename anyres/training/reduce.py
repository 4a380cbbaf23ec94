"""Means over the whole batch, of which one pass of one process sees a share.

Most losses are means over pictures: their mean over passes and processes is the mean over the batch. A ratio or a distance of
means is not. Such a loss takes each mean through a `Mean`, so its value does not depend on how the batch is divided.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal

import torch
from accelerate import Accelerator
from torch import Tensor

# A mean over the pictures of one pass -> the mean over the whole batch, any shape. Its gradient is that of the pass's own share:
# averaged over passes and processes, these gradients are the gradient of the batch.
Mean = Callable[[Tensor], Tensor]


def identity(mean: Tensor) -> Tensor:
    """The `Mean` where one pass is the whole batch."""
    return mean


def all_reduce(value: Tensor, accelerator: Accelerator, reduction: Literal["mean", "sum"] = "mean") -> Tensor:
    """Return the mean or the sum of `value` over processes, on every process."""
    reduced = accelerator.reduce(value, reduction=reduction)
    assert isinstance(reduced, Tensor)
    return reduced


def process_mean(accelerator: Accelerator) -> Mean:
    """Return the `Mean` where every process takes its share in one pass."""
    if accelerator.num_processes == 1:
        return identity
    return lambda mean: _with_value(mean, all_reduce(mean.detach(), accelerator))


def two_pass_mean(work: Callable[[int, Mean], object], count: int, accelerator: Accelerator) -> Iterator[Mean]:
    """Run `work(number, mean)` for `count` passes, drop its results, and yield the `Mean` of each pass.

    In every pass, `work` must take the same means in the same order.
    """
    means_of_passes: list[list[Tensor]] = []
    for number in range(count):
        means: list[Tensor] = []
        work(number, lambda mean, means=means: means.append(mean.detach()) or mean)
        means_of_passes.append(means)
    over_processes = process_mean(accelerator)
    batch_means = [over_processes(torch.stack(means).mean(dim=0)) for means in zip(*means_of_passes, strict=True)]
    for _ in range(count):
        following = iter(batch_means)
        yield lambda mean, following=following: _with_value(mean, next(following))


def _with_value(mean: Tensor, value: Tensor) -> Tensor:
    """Return `value` with the gradient of `mean`."""
    return mean + (value - mean).detach() if mean.requires_grad else value
