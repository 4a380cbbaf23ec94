"""Feature spaces of the metrics: torch-fidelity extractors with a stated input size and kernel."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import PurePosixPath
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_fidelity.feature_extractor_base import FeatureExtractorBase
from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3, FeatureExtractorInceptionV3
from torch_fidelity.registry import FEATURE_EXTRACTORS_REGISTRY, register_feature_extractor
from torch_fidelity.utils import create_feature_extractor

from anyres.evaluation.parallel import map_chunks
from anyres.networks.backbones import (
    DINOV2,
    DINOV2_PX,
    FEATURES,
    LITE0,
    LITE1,
    dinov2,
    dinov2_file,
    lite0,
    lite1,
    weights_path,
)
from anyres.networks.pretrained import AbsentWeights, Published, obtained

__all__ = ["SPACES", "AbsentWeights", "FeatureSpace", "Space", "missing"]

# Every picture is resized to this for the small networks. Of 64, 96 and 128 px, 128 separates a blur of 0.5 px on 32-px patches
# best from chance, and does not shrink frames of up to 128 px. It costs 6 ms a picture on one core.
INPUT_PX = 128
INPUT_KERNEL = "bicubic-antialiased"
LAYER = "pooled"
BATCH = 50
# For the large networks: 200 MB of Inception's feature maps on each core.
LARGE_BATCH = 10
INCEPTION = Published(
    PurePosixPath(URL_INCEPTION_V3).name,
    "the file of this name of torch-fidelity's release v0.2.0",
    URL_INCEPTION_V3,
    # Several projects pin this hash; the file's name holds its first digits.
    "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
)


class PooledFeatures(FeatureExtractorBase):
    """Pooled features of a network at one input size: uint8 (n, 3, h, w) of any size -> ((n, dim),) float32."""

    px = INPUT_PX
    bytes_again = False

    def __init__(self, name: str, features_list: list[str], **_ignored: object):
        super().__init__(name, features_list)
        self.network = self.load_network()

    def load_network(self) -> nn.Module:
        """Return the network: float32 (n, 3, px, px) in [-1, 1] -> (n, dim)."""
        raise NotImplementedError

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
        return (self.network(to_input(input, self.px, self.bytes_again)),)


class Lite0Features(PooledFeatures):
    """Features of EfficientNet-Lite0."""

    def load_network(self) -> nn.Module:
        return lite0()


class Lite1Features(PooledFeatures):
    """Features of EfficientNet-Lite1 at Lite0's input size (its own is 240), for models that were trained on Lite0."""

    def load_network(self) -> nn.Module:
        return lite1()


class DinoV2Features(PooledFeatures):
    """Class tokens of DINOv2 as for FD-DINOv2 (Stein et al. 2023), with pictures resized as by Pillow."""

    px = DINOV2_PX
    bytes_again = True
    architecture = DINOV2

    def load_network(self) -> nn.Module:
        return dinov2(self.architecture, self.name)


class InceptionFeatures(FeatureExtractorInceptionV3):
    """Inception-v3 of FID (Heusel et al. 2017) as in TensorFlow, by torch-fidelity, from a file whose hash is verified first.

    Pictures of any size are resampled as by TensorFlow 1: bilinear, not antialiased.
    """

    weights = INCEPTION

    def __init__(self, name: str, features_list: list[str], **_ignored: object):
        super().__init__(name, features_list, feature_extractor_weights_path=str(obtained(self.weights, name)))


def to_input(pictures: Tensor, px: int = INPUT_PX, bytes_again: bool = False) -> Tensor:
    """Resize uint8 (n, 3, h, w) to float32 (n, 3, px, px) in [-1, 1], channels last.

    With `bytes_again` as Pillow did before its version 13: horizontally, then vertically, rounded after each.
    """
    pixels = pictures.to(dtype=torch.float32, memory_format=torch.channels_last)
    if bytes_again:
        pixels = _resized(_resized(pixels, (pixels.shape[-2], px)).round(), (px, px)).round()
    else:
        pixels = _resized(pixels, (px, px))
    return pixels / 127.5 - 1


def _resized(pixels: Tensor, size: tuple[int, int]) -> Tensor:
    if pixels.shape[-2:] != size:
        pixels = F.interpolate(pixels, size, mode="bicubic", antialias=True, align_corners=False)
    return pixels.clamp(0, 255)


class Space(NamedTuple):
    """A feature space: its name in records, the kernel that resizes its input, its width, the name of its Frechet distance."""

    name: str
    kernel: str
    dim: int
    distance_name: str
    extractor: type[FeatureExtractorBase]
    layer: str = LAYER
    batch: int = BATCH


SPACES = {
    "lite0": Space(f"lite0@{INPUT_PX}", INPUT_KERNEL, FEATURES, "FD-Lite0", Lite0Features),
    "lite1": Space(f"lite1@{INPUT_PX}", INPUT_KERNEL, FEATURES, "FD-Lite1", Lite1Features),
    "inception": Space(
        "inception-v3-compat@299", "bilinear-tf1-not-antialiased", 2048, "FID", InceptionFeatures, "2048", LARGE_BATCH
    ),
    "dinov2": Space(
        f"dinov2-vit-l-14@{DINOV2_PX}", f"{INPUT_KERNEL}-bytes", 1024, "FD-DINOv2", DinoV2Features, batch=LARGE_BATCH
    ),
}


def missing(space: str) -> str:
    """Return "" where the weights of a space are on this machine, else which file to put where. Downloads nothing."""
    if space in ("lite0", "lite1"):
        try:
            weights_path(LITE0 if space == "lite0" else LITE1)
        except ValueError as error:
            return str(error)
        return ""
    file = INCEPTION if space == "inception" else dinov2_file()
    return "" if file.path.is_file() else f"downloaded on first use, or put {file.origin} at {file.path}"


class FeatureSpace:
    """A named extractor on a device. Every metric records `name` and `kernel`; pages show `distance_name`.

    Raises AbsentWeights, one line, where its weights are missing and cannot be downloaded, and ValueError where their hash is
    wrong.
    """

    def __init__(self, space: str, device: torch.device | str = "cpu"):
        settings = SPACES[space]
        self.name, self.kernel, self.dim = settings.name, settings.kernel, settings.dim
        self.distance_name, self.batch = settings.distance_name, settings.batch
        self.device = torch.device(device)
        if self.name not in FEATURE_EXTRACTORS_REGISTRY:
            register_feature_extractor(self.name, settings.extractor)
        self.extractor = create_feature_extractor(self.name, [settings.layer], cuda=False, verbose=False).to(self.device)

    def __call__(self, pictures: np.ndarray, advance: Callable[[float], None] = lambda amount: None) -> np.ndarray:
        """Return features float64 (n, dim) of uint8 pictures (n, h, w, 3); `advance` gets each batch's size."""

        @torch.inference_mode()
        def extract(start: int) -> np.ndarray:
            batch = np.ascontiguousarray(pictures[start : start + self.batch].transpose(0, 3, 1, 2))
            features = self.extractor(torch.from_numpy(batch).to(self.device))[0].cpu().double().numpy()
            advance(len(batch))
            return features

        features = np.concatenate(map_chunks(extract, range(0, len(pictures), self.batch), self.device))
        assert np.isfinite(features).all(), "features of bytes are finite"
        return features
