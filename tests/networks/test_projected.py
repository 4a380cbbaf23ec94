from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from anyres.networks.backbones import lite0
from anyres.networks.layers import LEAK
from anyres.networks.projected import TAPS, ProjectedHeads


@pytest.fixture(scope="module")
def heads() -> ProjectedHeads:
    torch.manual_seed(4)
    return ProjectedHeads((4, 16), 8)


@pytest.fixture(scope="module")
def pictures() -> torch.Tensor:
    return torch.rand(3, 3, 32, 40, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_logits_are_those_of_the_layers_one_by_one(heads: ProjectedHeads, pictures: torch.Tensor) -> None:
    maps = lite0().maps(pictures)
    for number, index in enumerate((1, 3)):
        x = torch.einsum("oi,bihw->bohw", heads.get_buffer(f"mix{number}")[:, :, 0, 0], maps[index])
        for layer in (0, 2, 4):
            conv = heads.heads[number][layer]
            weight = conv.parametrizations.weight.original
            u, v = conv.parametrizations.weight[0]._u, conv.parametrizations.weight[0]._v
            # Miyato et al., ICLR 2018, equation 8 and algorithm 1.
            x = F.conv2d(x, weight / (u @ weight.flatten(1) @ v), conv.bias, padding=weight.shape[-1] // 2)
            x = x if layer == 4 else F.leaky_relu(x, LEAK)
        torch.testing.assert_close(heads(pictures)[number], x.mean(dim=(1, 2, 3)), atol=1e-5, rtol=1e-4)


def test_the_losses_are_the_hinge_and_minus_the_mean(heads: ProjectedHeads, pictures: torch.Tensor) -> None:
    real, fake = pictures, -pictures
    of_real, of_fake = heads(real), heads(fake)
    expected = sum(max(0, 1 - x) for x in of_real.flatten().tolist()) + sum(max(0, 1 + x) for x in of_fake.flatten().tolist())
    assert heads.d_loss(real, fake).item() == pytest.approx(expected / 6, rel=1e-5)
    assert heads.g_loss(fake).item() == pytest.approx(-of_fake.mean().item(), rel=1e-5)


def test_pictures_and_heads_get_gradients_and_the_backbone_none(heads: ProjectedHeads, pictures: torch.Tensor) -> None:
    fake = pictures.clone().requires_grad_(True)
    heads.g_loss(fake).backward()
    assert fake.grad is not None
    assert fake.grad.abs().sum() > 0
    heads.d_loss(pictures, fake).backward()
    assert all(parameter.grad is not None for parameter in heads.heads.parameters())
    assert not any(parameter.requires_grad for parameter in heads.backbone.parameters())


def test_norms_are_improved_on_request_and_by_no_pass(pictures: torch.Tensor) -> None:
    torch.manual_seed(4)
    heads = ProjectedHeads((8,), 8)
    with torch.no_grad():
        for parameter in heads.heads.parameters():
            parameter.copy_(torch.randn_like(parameter))
    before = heads(pictures)
    assert torch.equal(heads(pictures), before)
    for _ in range(200):
        heads.update_norms()
    assert not torch.equal(heads(pictures), before)
    for layer in (0, 2, 4):
        assert torch.linalg.matrix_norm(heads.heads[0][layer].weight.flatten(1), 2).item() == pytest.approx(1, rel=1e-3)


def test_taps_have_the_channels_of_the_backbone(pictures: torch.Tensor) -> None:
    maps = lite0().maps(pictures)
    assert [each.shape[1] for each in maps] == list(TAPS.values())
    assert [-(-32 // tap) for tap in TAPS] == [each.shape[2] for each in maps]
    torch.testing.assert_close(lite0().maps(pictures, [0, 2]), [maps[0], maps[2]])
