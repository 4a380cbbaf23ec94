from __future__ import annotations

import math

import pytest
import torch

from anyres.training.losses import LOSSES, gradient_penalty


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


def test_relativistic_losses_are_their_formula():
    real, fake = torch.tensor([1.0, -0.5, 2.0]), torch.tensor([0.25, 0.5, -1.0])
    loss_d, loss_g = LOSSES["relativistic"]
    gaps = [0.75, -1.0, 3.0]
    assert loss_d(real, fake).item() == pytest.approx(sum(softplus(-g) for g in gaps) / 3)
    assert loss_g(real, fake).item() == pytest.approx(sum(softplus(g) for g in gaps) / 3)


def test_non_saturating_losses_are_their_formula():
    real, fake = torch.tensor([1.0, -0.5]), torch.tensor([0.25, 0.5])
    loss_d, loss_g = LOSSES["non_saturating"]
    expected = (softplus(-1) + softplus(0.5)) / 2 + (softplus(0.25) + softplus(0.5)) / 2
    assert loss_d(real, fake).item() == pytest.approx(expected)
    assert loss_g(real, fake).item() == pytest.approx((softplus(-0.25) + softplus(-0.5)) / 2)


def test_the_penalty_of_a_linear_critic_is_the_square_of_its_weight():
    weight = torch.randn(3 * 4 * 5, dtype=torch.float64, requires_grad=True)
    pictures = torch.randn(6, 3, 4, 5, dtype=torch.float64, requires_grad=True)
    penalty = gradient_penalty(pictures, pictures.flatten(1) @ weight)
    assert penalty.item() == pytest.approx(weight.square().sum().item())
    (gradient,) = torch.autograd.grad(penalty, weight)
    torch.testing.assert_close(gradient, 2 * weight)
