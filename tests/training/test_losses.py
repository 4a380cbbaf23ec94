from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from anyres.networks import Scene, build_discriminator
from anyres.networks.backbones import lite0
from anyres.params import Train
from anyres.plane import fields
from anyres.plane.window import Window
from anyres.training.loop import fake_scene, set_learning_rates, training_loop
from anyres.training.losses import LOSSES, feature_matching, gradient_penalties
from anyres.training.microbatch import MicroBatch
from anyres.training.reduce import identity, two_pass_mean
from anyres.training.state import TrainState, adam_settings
from anyres.training.steps import Step, always, path_penalty


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


@pytest.mark.parametrize("norm", ["sum", "mean"])
def test_the_path_penalty_is_that_of_the_whole_jacobian(tiny: Train, norm: str) -> None:
    """Of each scene the slopes of every pixel by every channel of every layer, times the noise, squared and added by hand."""
    values = tiny.model_dump()
    values["loss"] |= {"path_length": 3.0, "path_every": 5, "path_norm": norm}
    params = Train.model_validate(values | {"batch": 4, "patch_px": (8, 8)})
    state = TrainState.fresh(params, (1.5, 1.0), torch.device("cpu"))
    windows = [Window((0.1 * n, 0.0), 1 / 16, (8, 8)) for n in range(4)]
    micro_batch = MicroBatch([(torch.zeros(4, 3, 8, 8), windows)], Scene.of(range(4), state.g.z_dim), None)
    step = Step(state, params, Accelerator(cpu=True), [micro_batch], always([]))
    penalty = path_penalty(step, micro_batch, torch.tensor(0.0), identity)

    scene, drawn = micro_batch.half(4)
    noise = fields.latent(fields.mix(fields.key(scene.seeds, fields.Stream.PATH_LENGTH)), 3 * 8 * 8) / 8
    lengths = []
    for n, window in enumerate(drawn):
        one = scene.part(n, n + 1)
        w = state.g.mapping(one.z)[:, None].repeat(1, state.g.num_ws, 1).detach()

        def pixels(w: torch.Tensor, one: Scene = one, window: Window = window) -> torch.Tensor:
            return state.g.synthesize(w, one, [window]).flatten()

        jacobian = torch.autograd.functional.jacobian(pixels, w, vectorize=True)[:, 0]
        slopes = torch.einsum("p,plc->lc", noise[n], jacobian)
        channels = slopes.shape[1] if norm == "mean" else 1
        lengths.append(math.sqrt(sum(float(row @ row) / channels for row in slopes) / len(slopes)))
    # The running mean moves by a hundredth of the way from zero.
    mean = 0.01 * sum(lengths) / len(lengths)
    expected = sum((length - mean) ** 2 for length in lengths) / len(lengths) * 3.0 * 5
    assert penalty.item() == pytest.approx(expected, rel=1e-3)


def test_lazy_regularisation_scales_adam(tiny: Train) -> None:
    """By hand: k of 4 and 16 give the published .0016 and .00188; a player without a penalty keeps its settings."""
    values = tiny.model_dump()
    values["loss"] |= {"path_length": 2.0, "path_every": 4, "penalty_every": 16, "r1_gamma": 10.0}
    values["optimizer"] |= {"g_lr": 0.002, "d_lr": 0.002, "beta1": 0.0, "beta2": 0.99, "lazy_scaling": True}
    state = TrainState.fresh(Train.model_validate(values), (1.5, 1.0), torch.device("cpu"))
    for optimizer, lr, beta in ((state.g_opt, 0.0016, 0.99**0.8), (state.d_opt, 0.00188235, 0.99 ** (16 / 17))):
        set_learning_rates(state, Train.model_validate(values))
        (group,) = optimizer.param_groups
        assert group["lr"] == pytest.approx(lr, rel=1e-5)
        assert group["betas"] == pytest.approx((0.0, beta))
    values["loss"] |= {"path_length": 0.0, "r1_gamma": 0.0, "r2_gamma": 0.0}
    for settings in adam_settings(Train.model_validate(values)):
        assert settings == (0.002, (0.0, 0.99))


def test_feature_matching_is_the_distance_of_mean_features(tiny: Train) -> None:
    torch.manual_seed(0)
    d = build_discriminator(tiny)
    real = torch.rand(8, 3, 16, 24)
    assert feature_matching(d.features, real, real.flip(0)) <= 1e-6
    d.requires_grad_(False)
    fake = (0.5 * real).requires_grad_()
    distance = feature_matching(d.features, real, fake)
    by_hand = [(a.mean(0) - b.mean(0)).abs().mean() for a, b in zip(d.features(real), d.features(fake), strict=True)]
    torch.testing.assert_close(distance, sum(by_hand) / len(by_hand))
    distance.backward()
    assert fake.grad is not None
    assert fake.grad.abs().max() > 0


def test_feature_matching_of_a_backbone_is_the_distance_of_its_mean_maps() -> None:
    """Map by map, channel by channel, position by position; only the fakes learn, and parts of a batch agree with the whole."""
    network = lite0()
    rng = torch.Generator().manual_seed(0)
    real, fake = (torch.rand(4, 3, 32, 48, generator=rng) * 2 - 1 for _ in range(2))
    fake = fake.requires_grad_()
    distance = feature_matching(network.maps, real, fake)
    by_hand = []
    for a, b in zip(*([m.detach().double().numpy() for m in network.maps(x)] for x in (real, fake)), strict=True):
        gaps = [abs(sum(a[:, *at]) / 4 - sum(b[:, *at]) / 4) for at in np.ndindex(a.shape[1:])]
        by_hand.append(sum(gaps) / len(gaps))
    assert len(by_hand) == 5
    assert distance.item() == pytest.approx(sum(by_hand) / 5, rel=1e-4)
    distance.backward()
    assert fake.grad.abs().max() > 0
    assert all(parameter.grad is None for parameter in network.parameters())
    means = two_pass_mean(
        lambda n, mean: feature_matching(network.maps, real[2 * n : 2 * n + 2], fake[2 * n : 2 * n + 2], mean),
        2,
        Accelerator(cpu=True),
    )
    for n, mean in enumerate(means):
        part = feature_matching(network.maps, real[2 * n : 2 * n + 2], fake[2 * n : 2 * n + 2], mean)
        torch.testing.assert_close(part, distance, rtol=1e-4, atol=1e-5)


def test_features_of_a_backbone_are_matched_in_training(tiny: Train) -> None:
    values = tiny.model_dump()
    values["loss"] |= {"feature_matching": 2.0, "matching_features": "lite0"}
    with pytest.raises(ValueError, match=r"matching_features lite0 takes patches from 32 pixels on, patch_px is \(16, 24\)"):
        Train.model_validate(values)
    params = Train.model_validate(values | {"kimg": 0.008, "patch_px": (32, 32)})
    state = TrainState.fresh(params, (1.5, 1.0), torch.device("cpu"))
    real, windows = torch.rand(8, 3, 32, 32), [Window((0.0, 0.0), 1 / 16, (32, 32))] * 8
    with torch.no_grad():
        fakes = state.g(fake_scene(params, 0, Accelerator(cpu=True), state.g), windows)
        expected = 2.0 * feature_matching(lite0().maps, real, fakes)
    (report,) = training_loop(state, params, [(real, windows)], Accelerator(cpu=True))
    assert report.values["loss/matching"].item() == pytest.approx(expected.item(), rel=1e-3)


def test_feature_matching_joins_the_generator_s_loss(tiny: Train) -> None:
    values = tiny.model_dump()
    values["loss"]["feature_matching"] = 2.0
    params = Train.model_validate(values | {"kimg": 0.008})
    state = TrainState.fresh(params, (1.5, 1.0), torch.device("cpu"))
    batch = torch.rand(8, 3, 16, 24), [Window((0.0, 0.0), 1 / 16, (16, 24))] * 8
    (report,) = training_loop(state, params, [batch], Accelerator(cpu=True))
    assert report.values["loss/matching"] > 0
    assert all(parameter.requires_grad for parameter in state.d.parameters())
