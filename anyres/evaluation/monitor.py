"""The small evaluation during a training: few samples, always the same ones, in seconds."""

from __future__ import annotations

from typing import cast

import numpy as np
import torch
from torch import nn

from anyres.data.store import Store
from anyres.evaluation import samples
from anyres.evaluation.distances import kid
from anyres.evaluation.extraction import Extractor
from anyres.evaluation.features import FeatureSpace
from anyres.evaluation.parallel import ProcessGroup
from anyres.evaluation.scores import ZOOMED, RealPatches
from anyres.networks.generator import Generator
from anyres.params import Train

# Other windows and scenes than those of the evaluation: the checkpoint is chosen by these, so its evaluation stays unbiased.
STREAM, SEED = "monitor", 1 << 20


class Monitor:
    """Patch KID of a generator at the windows of real patches. Every process of `group` must call it.

    Keys: "monitor/patch_kid", and "monitor/patch_kid_zoomed" for windows at zoom 2 and more, where there are enough.
    """

    def __init__(self, params: Train, store: Store, device: torch.device, group: ProcessGroup):
        self.group = group
        self.extractor = Extractor([FeatureSpace("lite0", device)], group)
        self.reals = RealPatches.of(samples.sampler_of(params, store, SEED + params.seed), params.monitor.samples)
        self.seeds = samples.scene_seeds(params.seed, STREAM, params.monitor.samples)
        self.real: np.ndarray | None = None

    @torch.inference_mode()
    def __call__(self, generator: nn.Module) -> dict[str, float]:
        if self.real is None:
            (self.real,) = self.extractor(self.reals.samples)
        (fake,) = self.extractor(samples.fakes(cast(Generator, generator), self.seeds, self.reals.windows))
        values: dict[str, float] = {}
        if self.group.is_main:
            values["monitor/patch_kid"] = kid(fake, self.real)
            zoomed = self.reals.octaves[0] >= ZOOMED
            if zoomed.sum() >= len(zoomed) // 4 and not zoomed.all():
                values["monitor/patch_kid_zoomed"] = kid(fake[zoomed], self.real[zoomed])
        return self.group.broadcast(values)
