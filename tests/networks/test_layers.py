from __future__ import annotations

import pytest
import torch

from anyres.networks.attention import SelfAttention, attention, plain_attention
from anyres.networks.layers import Conv, Linear, MappingNetwork, ModulatedConv, doubled_conv, upsample

DOUBLE = torch.float64


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("doubles", [False, True])
@pytest.mark.parametrize("demodulates", [False, True])
def test_shared_convolution_equals_a_weight_for_each_sample(kernel, doubles, demodulates):
    if doubles and kernel == 1:
        with pytest.raises(ValueError, match="doubling is folded into kernels of 3, found 1"):
            ModulatedConv(5, 7, 4, kernel, doubles=True)
        return
    layer = ModulatedConv(5, 7, 4, kernel, doubles=doubles, demodulates=demodulates).double()
    x, style = torch.randn(3, 5, 6, 9, dtype=DOUBLE), torch.randn(3, 4, dtype=DOUBLE)
    torch.testing.assert_close(layer(x, style), layer.per_sample(x, style), rtol=0, atol=1e-12)


def test_doubled_convolution_is_doubling_then_convolving_with_all_its_derivatives():
    x, weight = (
        torch.randn(2, 3, 6, 8, dtype=DOUBLE, requires_grad=True),
        torch.randn(5, 3, 3, 3, dtype=DOUBLE, requires_grad=True),
    )
    slow = torch.nn.functional.conv2d(upsample(x), weight)
    fast = doubled_conv(x, weight)
    assert fast.shape == (2, 5, 8, 12)
    torch.testing.assert_close(fast, slow, rtol=0, atol=1e-12)
    found = []
    for y in (fast, slow):
        (gradient,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
        found.append([gradient, *torch.autograd.grad(gradient.square().sum(), [x, weight])])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_upsample_reads_nothing_beyond_what_it_keeps():
    x = torch.randn(1, 1, 9, 11, dtype=DOUBLE)
    torch.testing.assert_close(upsample(x)[:, :, 4:10, 2:8], upsample(x[:, :, 2:7, 1:6])[:, :, 0:6, 0:6], rtol=0, atol=0)


def test_demodulation_gives_unit_variance_times_its_gain():
    layer = ModulatedConv(64, 48, 8)
    x, style = torch.randn(6, 64, 20, 22), torch.randn(6, 8) * 5
    # Leaky ReLU follows: its gain of sqrt(2 / 1.04) is in the demodulation.
    assert layer(x, style).var().item() == pytest.approx(2 / 1.04, rel=0.05)


def test_linear_matches_its_closed_form():
    layer = Linear(6, 4, bias=0.5, gain=2.0, lr=0.01).double()
    x = torch.randn(5, 6, dtype=DOUBLE)
    expected = x @ layer.weight.T * (2.0 * 0.01 / 6**0.5) + 0.5
    torch.testing.assert_close(layer(x), expected)
    assert layer.weight.std().item() == pytest.approx(100, rel=0.5)


def test_mapping_ignores_the_length_of_z():
    mapping = MappingNetwork(7, 5, 2)
    z = torch.randn(3, 7)
    torch.testing.assert_close(mapping(z), mapping(3 * z), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("module", [Conv(3, 4), SelfAttention(4, 2)], ids=["conv", "attention"])
def test_layers_under_a_penalty_have_a_second_derivative(module):
    module = module.double()
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    plain = {"twice_differentiable": True} if isinstance(module, SelfAttention) else {}
    x = torch.randn(2, 3 if isinstance(module, Conv) else 4, 3, 4, dtype=DOUBLE, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda x: module(x, **plain), (x,))


def test_fused_attention_equals_the_plain_path():
    q, k, v = (torch.randn(2, 3, n, 8) for n in (5, 7, 7))
    torch.testing.assert_close(attention(q, k, v), plain_attention(q, k, v), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(attention(q, k, v, twice_differentiable=True), plain_attention(q, k, v))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="xformers computes on CUDA alone")
def test_xformers_equals_the_plain_path():
    q, k, v = (torch.randn(2, 3, 16, 32, device="cuda") for _ in range(3))
    torch.testing.assert_close(attention(q, k, v), plain_attention(q, k, v), atol=1e-3, rtol=1e-3)


def test_self_attention_is_silent_at_first_and_refuses_uneven_heads():
    layer = SelfAttention(8, 2)
    x = torch.randn(2, 8, 3, 5)
    assert torch.equal(layer(x), x)
    with pytest.raises(ValueError, match="8 channels do not split over 3 heads"):
        SelfAttention(8, 3)
