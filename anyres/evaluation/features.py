"""Feature spaces of the metrics: torch-fidelity extractors with a stated input size and kernel."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch_fidelity.feature_extractor_base import FeatureExtractorBase
from torch_fidelity.registry import FEATURE_EXTRACTORS_REGISTRY, register_feature_extractor
from torch_fidelity.utils import create_feature_extractor

from anyres.evaluation.parallel import over_chunks
from anyres.networks.backbones import FEATURES, lite0

# Every picture enters the network at this size. Of 64, 96 and 128 px the last separates a blur of 0.5 px on 32-px
# patches best from chance, and leaves frames of up to 128 px undiminished; 6 ms a picture on one core.
INPUT_PX = 128
INPUT_KERNEL = "bicubic-antialiased"
SPACES = {"lite0": f"lite0@{INPUT_PX}"}
LAYER = "pooled"
BATCH = 50


class Lite0Features(FeatureExtractorBase):
    """Pooled features of EfficientNet-Lite0: uint8 (n, 3, h, w) of any size -> ((n, 1280),) float32."""

    def __init__(self, name: str, features_list: list[str], **_ignored: object):
        super().__init__(name, features_list)
        self.network = lite0()

    @staticmethod
    def get_provided_features_list() -> tuple[str, ...]:
        return (LAYER,)

    @staticmethod
    def get_default_feature_layer_for_metric(metric: str) -> str:
        return LAYER

    @staticmethod
    def can_be_compiled() -> bool:
        return True

    @staticmethod
    def get_dummy_input_for_compile() -> Tensor:
        return torch.zeros(1, 3, INPUT_PX, INPUT_PX, dtype=torch.uint8)

    def forward(self, input: Tensor) -> tuple[Tensor]:
        if input.dtype != torch.uint8 or input.ndim != 4 or input.shape[1] != 3:
            raise ValueError(f"features take uint8 pictures (n, 3, h, w), found {input.dtype} {tuple(input.shape)}")
        return (self.network(to_input(input)),)


def to_input(pictures: Tensor) -> Tensor:
    """uint8 (n, 3, h, w) -> float32 (n, 3, INPUT_PX, INPUT_PX) in [-1, 1], channels last."""
    pixels = pictures.to(dtype=torch.float32, memory_format=torch.channels_last)
    if pixels.shape[-2:] != (INPUT_PX, INPUT_PX):
        pixels = F.interpolate(pixels, (INPUT_PX, INPUT_PX), mode="bicubic", antialias=True, align_corners=False)
    return pixels.clamp(0, 255) / 127.5 - 1


class FeatureSpace:
    """A named extractor on a device. `name` and `kernel` stand in the record of every metric."""

    kernel = INPUT_KERNEL
    dim = FEATURES

    def __init__(self, space: str, device: torch.device | str = "cpu"):
        self.name = SPACES[space]
        self.device = torch.device(device)
        if self.name not in FEATURE_EXTRACTORS_REGISTRY:
            register_feature_extractor(self.name, Lite0Features)
        self.extractor = create_feature_extractor(self.name, [LAYER], cuda=False, verbose=False).to(self.device)

    def __call__(self, pictures: np.ndarray, advance: Callable[[float], None] = lambda amount: None) -> np.ndarray:
        """Features float64 (n, dim) of uint8 pictures (n, h, w, 3); `advance` is told of each batch's size."""

        @torch.inference_mode()
        def extract(start: int) -> np.ndarray:
            part = np.ascontiguousarray(pictures[start : start + BATCH].transpose(0, 3, 1, 2))
            found = self.extractor(torch.from_numpy(part).to(self.device))[0].cpu().double().numpy()
            advance(len(part))
            return found

        features = np.concatenate(over_chunks(extract, range(0, len(pictures), BATCH), self.device))
        assert np.isfinite(features).all(), "features of bytes are finite"
        return features
