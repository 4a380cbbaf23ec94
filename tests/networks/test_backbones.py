"""EfficientNet-Lite0 and -Lite1 from their packages: the weights fit, and they know photographs."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image
from torch import nn

from anyres.networks.backbones import (
    FEATURES,
    LITE0,
    LITE1,
    Lite0,
    Packaged,
    fold_normalisation,
    lite0,
    lite1,
    lpips_vgg16,
    to_timm,
    verified,
    weights_path,
)
from anyres.networks.perceptual import perceptual

ESPRESSO = 967
# Tabby, tiger cat, Persian, Siamese, Egyptian cat.
CATS = range(281, 286)


@pytest.fixture(scope="module", params=[lite0, lite1])
def network(request: pytest.FixtureRequest) -> Lite0:
    return request.param()


def square(pixels: np.ndarray, size: int) -> torch.Tensor:
    height, width = pixels.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    picture = Image.fromarray(pixels[top : top + side, left : left + side]).resize((size, size), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None] / 127.5 - 1


@pytest.mark.parametrize(("name", "classes"), [("coffee", [ESPRESSO]), ("cat", CATS)])
def test_photographs_are_recognised(network: Lite0, name: str, classes: list[int]) -> None:
    probabilities = network.classify(square(getattr(skimage.data, name)(), 224)).softmax(dim=1)[0]
    assert int(probabilities.argmax()) in classes
    assert float(probabilities[list(classes)].sum()) > 0.8


def test_features_are_pooled_frozen_and_free_of_the_batch(network: Lite0) -> None:
    pictures = torch.rand(3, 3, 64, 96, generator=torch.Generator().manual_seed(0)) * 2 - 1
    features = network(pictures)
    assert features.shape == (3, FEATURES)
    assert not features.requires_grad
    assert not network.training
    torch.testing.assert_close(network(pictures[1:2]), features[1:2], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("weights", "blocks", "keys"), [(LITE0, 16, 296), (LITE1, 21, 386)])
def test_every_key_of_the_package_is_renamed_once(weights: Packaged, blocks: int, keys: int) -> None:
    state = torch.load(weights_path(weights), map_location="cpu", weights_only=True)
    renamed = to_timm(state, [f"blocks.{i}" for i in range(blocks)])
    assert len(renamed) == len(state) == keys
    assert renamed["blocks.0.conv_dw.weight"].shape == (32, 1, 3, 3)
    assert renamed["blocks.0.conv_pw.weight"].shape == (16, 32, 1, 1)
    assert renamed[f"blocks.{blocks - 1}.conv_pwl.weight"].shape[:2] == (320, 1152)


@pytest.mark.parametrize("weights", [LITE0, LITE1])
def test_another_file_is_refused(tmp_path: Path, weights: Packaged) -> None:
    altered = bytearray(weights_path(weights).read_bytes())
    altered[1000] ^= 1
    (tmp_path / "weights.pth").write_bytes(altered)
    with pytest.raises(ValueError, match=r"not the weights of version 0\.1\.0"):
        verified(tmp_path / "weights.pth", weights)
    with pytest.raises(ValueError, match=f"reinstall {weights.package}"):
        verified(tmp_path / "missing.pth", weights)
    with pytest.raises(ValueError, match="the package no-such-weights is not installed"):
        weights_path(weights._replace(package="no-such-weights"))


class Activated(nn.BatchNorm2d):
    """A batch norm with its activation inside, as timm has it."""

    def __init__(self, channels: int):
        super().__init__(channels)
        self.act = nn.ReLU6()

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return self.act(super().forward(input))


def test_folding_a_norm_changes_nothing() -> None:
    generator = torch.Generator().manual_seed(1)
    norm = Activated(5)
    for name, value in (("weight", 1.0), ("bias", 0.0), ("running_mean", 0.3), ("running_var", 2.0)):
        getattr(norm, name).data = value + 0.5 * torch.rand(5, generator=generator)
    layers = nn.Sequential(OrderedDict(first=nn.Conv2d(2, 5, 3, bias=False), norm=norm)).eval().requires_grad_(False)
    pictures = torch.randn(2, 2, 7, 9, generator=generator)
    before = layers(pictures)
    fold_normalisation(layers)
    assert isinstance(layers[1], nn.ReLU6)
    torch.testing.assert_close(layers(pictures), before, atol=1e-6, rtol=1e-5)


def test_lpips_is_its_formula_on_files_fetched_by_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights are random, in files laid out as the real ones: the distance is Zhang et al.'s equation 1."""
    from torchvision.models import vgg16

    folder = tmp_path / "checkpoints"
    folder.mkdir()
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    torch.manual_seed(0)
    plain = vgg16(weights=None)
    torch.save(plain.state_dict(), folder / "vgg16-397923af.pth")
    with pytest.raises(ValueError, match=r"lpips-vgg\.pth: no such file"):
        lpips_vgg16()
    channels = (64, 128, 256, 512, 512)
    heads = {f"lin{index}.model.1.weight": torch.rand(1, count, 1, 1) for index, count in enumerate(channels)}
    torch.save(heads, folder / "lpips-vgg.pth")
    network = lpips_vgg16()
    a, b = torch.rand(2, 3, 32, 48) * 2 - 1, torch.rand(2, 3, 32, 48) * 2 - 1
    assert perceptual(network, a, a) == 0
    expected = 0.0
    shift, scale = torch.tensor([-0.030, -0.088, -0.188])[:, None, None], torch.tensor([0.458, 0.448, 0.450])[:, None, None]
    for index, (last, count) in enumerate(zip((4, 9, 16, 23, 30), channels, strict=True)):
        with torch.no_grad():
            x, y = (plain.eval().features[:last]((picture - shift) / scale) for picture in (a, b))
        assert x.shape[1] == count
        x, y = (z / z.norm(dim=1, keepdim=True) for z in (x, y))
        expected += ((x - y).square() * heads[f"lin{index}.model.1.weight"]).sum(dim=1).mean().item()
    assert perceptual(network, a, b).item() == pytest.approx(expected, rel=1e-3)
