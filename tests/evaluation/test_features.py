"""Feature spaces: what they are called, what enters their networks, and what they say where weights are absent or wrong."""

from __future__ import annotations

import hashlib
import math
import pickle
import socket
import time
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import skimage.data
import timm  # noqa: TID251 - weights laid out as the hub has them
import torch
import torch.nn.functional as F
from PIL import Image
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

from anyres.evaluation.features import (
    BATCH,
    INCEPTION,
    SPACES,
    AbsentWeights,
    DinoV2Features,
    FeatureSpace,
    InceptionFeatures,
    to_input,
)
from anyres.networks.backbones import DINOV2, DINOV2_PX, lite0, resampled_positions

SMALL = "vit_small_patch14_dinov2.lvd142m"


class SmallDinoV2Features(DinoV2Features):
    architecture = SMALL


class Unloaded(FeatureExtractorInceptionV3):
    """torch-fidelity's network with the random weights of its construction."""

    def load_state_dict(self, *_: object, **__: object) -> None:  # type: ignore[override]
        pass


@pytest.fixture
def checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder of checkpoints, and a network that leads nowhere."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        nowhere = f"http://127.0.0.1:{closed.getsockname()[1]}"
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, nowhere)
        monkeypatch.setenv(name.upper(), nowhere)
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    return tmp_path / "checkpoints"


def noise(count: int, height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def test_spaces_are_named_apart() -> None:
    stated = {key: (space.name, space.dim, space.distance_name) for key, space in SPACES.items()}
    assert stated == {
        "lite0": ("lite0@128", 1280, "FD-Lite0"),
        "lite1": ("lite1@128", 1280, "FD-Lite1"),
        "inception": ("inception-v3-compat@299", 2048, "FID"),
        "dinov2": ("dinov2-vit-l-14@224", 1024, "FD-DINOv2"),
    }
    assert {space.kernel for space in SPACES.values()} == {
        "bicubic-antialiased",
        "bicubic-antialiased-bytes",
        "bilinear-tf1-not-antialiased",
    }


def test_lite0_is_its_network_on_its_input() -> None:
    pictures, network = noise(BATCH + 3, 40, 56), lite0()
    pixels = torch.from_numpy(pictures).permute(0, 3, 1, 2).float().contiguous(memory_format=torch.channels_last)
    pixels = F.interpolate(pixels, (128, 128), mode="bicubic", antialias=True).clamp(0, 255) / 127.5 - 1
    expected = torch.cat([network(part) for part in pixels.split(BATCH)]).double().numpy()
    np.testing.assert_array_equal(FeatureSpace("lite0")(pictures), expected)


def test_lite1_sees_what_lite0_sees_otherwise() -> None:
    space, other = FeatureSpace("lite1"), FeatureSpace("lite0")
    assert (space.name, space.kernel, space.distance_name) == ("lite1@128", "bicubic-antialiased", "FD-Lite1")
    coffee, cat = (getattr(skimage.data, name)()[:288, :400] for name in ("coffee", "cat"))
    pictures = np.stack([coffee, coffee[:, ::-1], cat, cat[:, ::-1]])
    features = space(pictures)
    assert features.shape == (4, space.dim)
    assert features.dtype == np.float64
    distances = np.linalg.norm(features[:, None] - features, axis=2)
    assert max(distances[0, 1], distances[2, 3]) < 0.5 * distances[:2, 2:].min()
    assert np.abs(features - other(pictures)).max() > 1
    with pytest.raises(ValueError, match="uint8 pictures"):
        space(pictures.astype(np.float32))


@pytest.mark.parametrize("size", [(40, 60), (300, 250), (224, 224)])
def test_input_of_bytes_is_what_pillow_makes(size: tuple[int, int]) -> None:
    picture = skimage.data.astronaut()[: size[0], 100 : 100 + size[1]]
    found = (to_input(torch.from_numpy(picture).permute(2, 0, 1)[None], DINOV2_PX, bytes_again=True)[0] + 1) * 127.5
    assert (found - found.round()).abs().max() < 1e-4
    across = Image.fromarray(picture).resize((DINOV2_PX, size[0]), Image.Resampling.BICUBIC)
    expected = np.array(across.resize((DINOV2_PX, DINOV2_PX), Image.Resampling.BICUBIC), dtype=np.float32)
    difference = (found.permute(1, 2, 0).numpy() - expected).round()
    # Pillow's weights are whole numbers of 22 bits: a level here and there in either pass.
    assert np.abs(difference).max() <= 2
    assert (difference != 0).mean() < 1e-3


def test_dinov2_reads_a_file_laid_out_as_the_hubs(checkpoints: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights are random: features are the normalised class token of pictures that stand on ImageNet's statistics."""
    torch.manual_seed(0)
    network = timm.create_model(SMALL, pretrained=False).eval()
    state = network.state_dict()
    assert state["pos_embed"].shape == (1, 1 + 37**2, 384)
    for name, value in state.items():
        # Of 1e-5 at first: blocks would change nothing.
        if name.endswith("gamma"):
            value.fill_(0.5)
    safetensors.torch.save_file(state, checkpoints / f"{SMALL}.safetensors")
    small = SPACES["dinov2"]._replace(name="dinov2-vit-s-14@224", dim=384, extractor=SmallDinoV2Features)
    monkeypatch.setitem(SPACES, "small", small)
    space = FeatureSpace("small")
    pictures = noise(3, DINOV2_PX, DINOV2_PX)
    features = space(pictures)
    assert features.shape == (3, space.dim)
    assert features.dtype == np.float64

    pixels = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255
    pixels = (pixels - torch.tensor([0.485, 0.456, 0.406])[:, None, None]) / torch.tensor([0.229, 0.224, 0.225])[:, None, None]
    with torch.no_grad():
        patches = network.patch_embed.proj(pixels).flatten(2).transpose(1, 2)
        tokens = torch.cat((network.cls_token.expand(3, -1, -1), patches), dim=1)
        tokens = tokens + resampled_positions(network.pos_embed, 16)
        expected = network.norm(network.blocks(tokens))[:, 0].numpy()
    np.testing.assert_allclose(features, expected, atol=1e-4)
    assert np.abs(features[0] - features[1]).max() > 1e-2
    np.testing.assert_allclose(space(pictures[1:2]), features[1:2], atol=1e-4)


def test_positions_are_resampled_as_by_dinov2s_own_code() -> None:
    """Cubic convolution, a = -0.75, at steps of 37 / 16.1 from the middle of the first patch, edges repeated."""
    embedding = torch.rand(1, 1 + 37**2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = resampled_positions(embedding, 16)
    assert found.shape == (1, 1 + 16**2, 2)
    torch.testing.assert_close(found[:, 0].double(), embedding[:, 0])
    weights = np.zeros((16, 37))
    for place in range(16):
        at = (place + 0.5) * 37 / 16.1 - 0.5
        for tap in range(math.floor(at) - 1, math.floor(at) + 3):
            x, a = abs(at - tap), -0.75
            weight = (a + 2) * x**3 - (a + 3) * x**2 + 1 if x <= 1 else a * (x**3 - 5 * x**2 + 8 * x - 4)
            weights[place, min(max(tap, 0), 36)] += weight
    expected = np.einsum("yi,xj,ijd->yxd", weights, weights, embedding[0, 1:].reshape(37, 37, 2).numpy())
    np.testing.assert_allclose(found[0, 1:].reshape(16, 16, 2), expected, atol=1e-5)
    assert resampled_positions(embedding, 37) is embedding


@pytest.mark.parametrize("content", ["nothing", "page", "another network"])
def test_another_file_for_dinov2_is_refused(checkpoints: Path, content: str) -> None:
    path = checkpoints / f"{DINOV2}.safetensors"
    path.write_bytes(b"<html>no such page</html>" if content == "page" else b"")
    if content == "another network":
        safetensors.torch.save_file({"pos_embed": torch.zeros(1, 1 + 37**2, 1024)}, path)
    with pytest.raises(
        ValueError, match=r"not model\.safetensors of timm/vit_large\S+ on the Hugging Face hub; remove"
    ) as raised:
        FeatureSpace("dinov2")
    assert "\n" not in str(raised.value)


def test_inception_reads_a_verified_file(checkpoints: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    torch.save({}, checkpoints / "nothing.pth")
    network = Unloaded("random", ["2048"], feature_extractor_weights_path=str(checkpoints / "nothing.pth"))
    path = checkpoints / "random.pth"
    torch.save(network.state_dict(), path)

    class RandomInception(InceptionFeatures):
        weights = INCEPTION._replace(name=path.name, sha256=hashlib.sha256(path.read_bytes()).hexdigest())

    monkeypatch.setitem(SPACES, "random", SPACES["inception"]._replace(name="random@299", extractor=RandomInception))
    space, pictures = FeatureSpace("random"), noise(2, 40, 72)
    features = space(pictures)
    assert features.shape == (2, space.dim) == (2, 2048)
    assert features.dtype == np.float64
    expected = network(torch.from_numpy(pictures).permute(0, 3, 1, 2).contiguous())[0].numpy()
    np.testing.assert_allclose(features, expected, rtol=1e-4)
    assert np.ptp(features) > 0


class Trap:
    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.path,)


def test_a_file_that_is_not_inceptions_is_not_unpickled(checkpoints: Path, tmp_path: Path) -> None:
    path, sprung = checkpoints / "weights-inception-2015-12-05-6726825d.pth", tmp_path / "sprung"
    path.write_bytes(pickle.dumps(Trap(sprung)))
    with pytest.raises(ValueError, match=r"6726825d\.pth: not the file .*torch-fidelity.*so not opened; remove it") as raised:
        FeatureSpace("inception")
    assert not isinstance(raised.value, AbsentWeights)
    assert "\n" not in str(raised.value)
    assert not sprung.exists()
    pickle.loads(path.read_bytes())
    assert sprung.exists()


@pytest.mark.parametrize(
    ("space", "file", "origin"),
    [
        ("inception", "weights-inception-2015-12-05-6726825d.pth", "torch-fidelity's release v0.2.0"),
        ("dinov2", f"{DINOV2}.safetensors", f"model.safetensors of timm/{DINOV2} on the Hugging Face hub"),
    ],
)
def test_absent_weights_are_said_in_one_line_soon(checkpoints: Path, space: str, file: str, origin: str) -> None:
    began = time.monotonic()
    with pytest.raises(AbsentWeights, match="no such file, and it cannot be fetched") as raised:
        FeatureSpace(space)
    assert time.monotonic() - began < 20
    line = str(raised.value)
    assert "\n" not in line
    assert line.startswith(f"{checkpoints / file}: ")
    assert f"put the file of this name of {origin} there" in line or f"put {origin} there" in line
    assert line.endswith(f"metrics in {SPACES[space].name} are left out until then")
    assert not list(checkpoints.iterdir())
