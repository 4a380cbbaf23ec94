from __future__ import annotations

import math

import pytest
import torch
from accelerate import Accelerator

from anyres.networks import build_discriminator
from anyres.params import Train
from anyres.plane.window import Window
from anyres.training.loop import training_loop
from anyres.training.losses import LOSSES, feature_matching, gradient_penalties
from anyres.training.state import TrainState


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
    # Of two sorts in one pass, each by itself.
    other = (2 * pictures.detach()[:4]).requires_grad_()
    logits = [pictures.flatten(1) @ weight, 3 * (other.flatten(1) @ weight)]
    penalty, times_nine = gradient_penalties([pictures, other], logits)
    assert penalty.item() == pytest.approx(weight.square().sum().item())
    assert times_nine.item() == pytest.approx(9 * penalty.item())
    (gradient,) = torch.autograd.grad(penalty, weight)
    torch.testing.assert_close(gradient, 2 * weight)


@pytest.mark.parametrize("mixed", [False, True])
def test_one_pass_over_real_and_fake_pictures_judges_as_two_do(tiny: Train, mixed: bool) -> None:
    torch.manual_seed(0)
    d = build_discriminator(tiny)
    parts = [torch.rand(8, 3, 16, 24), torch.rand(8, 3, 16, 24)]
    found = d.forward_pairs(parts, twice_differentiable=mixed)
    for part, (logits, _) in zip(parts, found, strict=True):
        torch.testing.assert_close(logits, d.forward_heads(part, twice_differentiable=mixed)[0])
    # To the last bit: Adam makes a step of whatever is left.
    LOSSES["relativistic"][0](found[0][0], found[1][0]).backward()
    assert d.logit.bias.grad.item() == 0
    # Groups of four would reach over the border of parts of six.
    uneven = [part[:6] for part in parts]
    for part, (logits, _) in zip(uneven, d.forward_pairs(uneven, twice_differentiable=mixed), strict=True):
        torch.testing.assert_close(logits, d.forward_heads(part)[0])


def test_feature_matching_is_the_distance_of_mean_features(tiny: Train) -> None:
    torch.manual_seed(0)
    d = build_discriminator(tiny)
    real = torch.rand(8, 3, 16, 24)
    assert feature_matching(d, real, real.flip(0)) <= 1e-6
    d.requires_grad_(False)
    fake = (0.5 * real).requires_grad_()
    distance = feature_matching(d, real, fake)
    by_hand = [(a.mean(0) - b.mean(0)).abs().mean() for a, b in zip(d.features(real), d.features(fake), strict=True)]
    torch.testing.assert_close(distance, sum(by_hand) / len(by_hand))
    distance.backward()
    assert fake.grad is not None
    assert fake.grad.abs().max() > 0


def test_feature_matching_joins_the_generator_s_loss(tiny: Train) -> None:
    values = tiny.model_dump()
    values["loss"]["feature_matching"] = 2.0
    params = Train.model_validate(values | {"kimg": 0.008})
    state = TrainState.fresh(params, (1.5, 1.0), torch.device("cpu"))
    batch = torch.rand(8, 3, 16, 24), [Window((0.0, 0.0), 1 / 16, (16, 24))] * 8
    (report,) = training_loop(state, params, [batch], Accelerator(cpu=True))
    assert report.values["loss/matching"] > 0
    assert all(parameter.requires_grad for parameter in state.d.parameters())
