"""Means over the whole batch of what one pass of one process sees of it.

Most losses are means over pictures: the mean of theirs over passes and processes is that of the batch. Those that are not, a
ratio or a distance of means, take each mean through a `Mean`, and so do not depend on how the batch is divided.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from accelerate import Accelerator
from torch import Tensor

# A mean over the pictures of one pass -> that over the whole batch, any shape. Its gradient is that of the pass's own share:
# averaged over passes and processes, gradients are those of the batch.
Mean = Callable[[Tensor], Tensor]


def identity(mean: Tensor) -> Tensor:
    """The `Mean` where one pass is the whole batch."""
    return mean


def process_mean(accelerator: Accelerator) -> Mean:
    """The `Mean` where every process takes its share in one pass."""
    if accelerator.num_processes == 1:
        return identity
    return lambda mean: _share(mean, accelerator.reduce(mean.detach(), reduction="mean"))  # type: ignore[arg-type]


def two_pass_mean(work: Callable[[int, Mean], object], count: int, accelerator: Accelerator) -> Iterator[Mean]:
    """Rehearse `work(number, mean)` for `count` passes, its results dropped; yield the `Mean` of each pass.

    Whatever the pass, `work` must ask for the same means in the same order.
    """
    asked: list[list[Tensor]] = []
    for number in range(count):
        noted: list[Tensor] = []
        work(number, lambda mean, noted=noted: noted.append(mean.detach()) or mean)
        asked.append(noted)
    everywhere = process_mean(accelerator)
    known = [everywhere(torch.stack(means).mean(dim=0)) for means in zip(*asked, strict=True)]
    for _ in range(count):
        following = iter(known)
        yield lambda mean, following=following: _share(mean, next(following))


def _share(mean: Tensor, whole: Tensor) -> Tensor:
    """The value of `whole` with the gradient of `mean`."""
    return mean + (whole - mean).detach() if mean.requires_grad else whole
