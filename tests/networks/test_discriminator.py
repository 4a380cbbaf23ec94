"""The halving of the discriminator's blocks, against loops over pixels and against the response of its filter."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from anyres.networks.discriminator import Block, Discriminator
from anyres.networks.layers import LEAK

TAPS = np.outer([1, 3, 3, 1], [1, 3, 3, 1]) / 64


def filtered(x: np.ndarray, weight: np.ndarray, padding: int, stride: int) -> np.ndarray:
    """Correlate (in, h, w) with (out, in, k, k), pixel by pixel."""
    x = np.pad(x, ((0, 0), (padding, padding), (padding, padding)))
    k = weight.shape[-1]
    rows, columns = ((side - k) // stride + 1 for side in x.shape[1:])
    out = np.zeros((len(weight), rows, columns))
    for i, j in np.ndindex(rows, columns):
        cut = x[:, i * stride : i * stride + k, j * stride : j * stride + k]
        out[:, i, j] = (weight * cut).sum(axis=(1, 2, 3))
    return out


def rectified(x: np.ndarray) -> np.ndarray:
    return np.where(x > 0, x, LEAK * x)


@pytest.mark.parametrize("size", [(8, 12), (9, 7), (5, 6)])
def test_a_blurring_block_is_that_of_stylegan2(size: tuple[int, int]) -> None:
    """Convolve, filter every channel by [1, 3, 3, 1] after two zeros, convolve with stride 2; the skip filters after one zero."""
    torch.manual_seed(0)
    block = Block(3, 5, blurs=True)
    torch.nn.init.normal_(block.conv.bias)
    torch.nn.init.normal_(block.down.bias)
    x = torch.randn(1, 3, *size)
    each = np.zeros((3, 3, 4, 4))
    each[range(3), range(3)] = TAPS

    def kernel(conv: torch.nn.Module) -> np.ndarray:
        return (conv.weight * conv.scale).detach().double().numpy()

    def bias(conv: torch.nn.Module) -> np.ndarray:
        return conv.bias.detach().double().numpy()[:, None, None]

    first = x[0].double().numpy()
    y = rectified(filtered(first, kernel(block.conv), 1, 1) + bias(block.conv))
    y = rectified(filtered(filtered(y, each, 2, 1), kernel(block.down), 0, 2) + bias(block.down))
    expected = y + filtered(filtered(first, each, 1, 1)[:, ::2, ::2], kernel(block.skip), 0, 1)
    found = block(x)[0].detach().numpy()
    assert found.shape == (5, size[0] // 2, size[1] // 2)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize(("blurs", "passed"), [(True, 0.056), (False, 0.383)])
def test_what_a_halving_lets_through(blurs: bool, passed: float) -> None:
    """A wave of three quarters of the Nyquist rate through the linear branch, which has a gain of sqrt(1/2)."""
    block = Block(1, 1, blurs=blurs)
    with torch.no_grad():
        block.conv.weight.zero_()
        block.skip.weight.fill_(math.sqrt(2))
    x = torch.arange(256.0)
    waves = [f(0.75 * torch.pi * x).expand(1, 1, 64, 256) for f in (torch.cos, torch.sin)]
    # Of both phases together: the amplitude of the alias.
    squares = sum(block(wave)[0, 0, 16, 16:-16].square() for wave in waves)
    assert squares.mean().sqrt().item() == pytest.approx(passed, abs=2e-3)


@pytest.mark.parametrize("blurs", [True, False])
def test_any_size_has_a_logit_with_two_derivatives(blurs: bool) -> None:
    torch.manual_seed(0)
    d = Discriminator((4, 6, 8), 0, 2, blurs=blurs)
    pictures = torch.rand(4, 3, 21, 30, requires_grad=True)
    (slope,) = torch.autograd.grad(d(pictures, twice_differentiable=True).sum(), pictures, create_graph=True)
    F.mse_loss(slope, torch.zeros_like(slope)).backward()
    assert all(p.grad is not None for name, p in d.named_parameters() if "bias" not in name and "logit" not in name)
