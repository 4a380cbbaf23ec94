"""Distances against closed forms and against torch-fidelity."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, kid_features_to_metric

from anyres.evaluation.distances import KID_SUBSET, _Resampled, frechet, frechet_estimate, kid, kid_estimate, precision_recall


def gaussian(n: int, mean: np.ndarray, covariance: np.ndarray, seed: int) -> np.ndarray:
    """Samples (n, d) whose sample mean and covariance (dividing by n - 1) are exactly the given ones."""
    rng = np.random.default_rng(seed)
    raw = rng.normal(size=(n, len(mean)))
    raw -= raw.mean(axis=0)
    white, _ = np.linalg.qr(raw)
    return mean + white * np.sqrt(n - 1) @ np.linalg.cholesky(covariance).T


def test_frechet_of_commuting_gaussians_is_the_closed_form() -> None:
    # Equal eigenvectors: |m1 - m2|^2 + sum (sqrt l1 - sqrt l2)^2.
    rotation, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(4, 4)))
    first, second = np.array([1.0, 4.0, 9.0, 0.25]), np.array([4.0, 1.0, 16.0, 2.25])
    means = np.array([0.5, -1.0, 2.0, 0.0]), np.array([0.0, 1.0, 2.0, 3.0])
    fake = gaussian(37, means[0], rotation * first @ rotation.T, seed=1)
    real = gaussian(53, means[1], rotation * second @ rotation.T, seed=2)
    expected = ((means[0] - means[1]) ** 2).sum() + ((np.sqrt(first) - np.sqrt(second)) ** 2).sum()
    assert frechet(fake, real) == pytest.approx(expected, rel=1e-10)


def test_frechet_of_two_by_two_gaussians_that_do_not_commute() -> None:
    # For 2x2: tr (C1 C2)^1/2 = sqrt(tr C1 C2 + 2 sqrt(det C1 C2)).
    first, second = np.array([[2.0, 0.6], [0.6, 1.0]]), np.array([[1.0, -0.7], [-0.7, 3.0]])
    product = first @ second
    root = np.sqrt(np.trace(product) + 2 * np.sqrt(np.linalg.det(product)))
    fake, real = gaussian(19, np.zeros(2), first, seed=3), gaussian(23, np.ones(2), second, seed=4)
    assert frechet(fake, real) == pytest.approx(2 + np.trace(first) + np.trace(second) - 2 * root, rel=1e-10)


@pytest.mark.parametrize(("n", "m", "d"), [(90, 70, 12), (20, 31, 48)])
def test_frechet_agrees_with_torch_fidelity(n: int, m: int, d: int) -> None:
    rng = np.random.default_rng(5)
    fake, real = rng.normal(size=(n, d)), 0.3 + rng.normal(size=(m, d)) * np.linspace(0.5, 2, d)
    statistics = [fid_features_to_statistics(torch.from_numpy(x)) for x in (fake, real)]
    # Its square roots of eigenvalues that ought to be 0 leave some 1e-8 each where samples are fewer than d.
    assert frechet(fake, real) == pytest.approx(fid_statistics_to_metric(*statistics, False)[KEY_METRIC_FID], rel=1e-6)


def test_frechet_is_zero_and_symmetric() -> None:
    rng = np.random.default_rng(6)
    fake, real = rng.normal(size=(30, 50)), rng.normal(size=(40, 50)) + 1
    assert abs(frechet(fake, fake)) < 1e-10
    assert frechet(fake, real) == pytest.approx(frechet(real, fake), rel=1e-12)


def test_frechet_refuses_a_single_sample() -> None:
    with pytest.raises(ValueError, match="at least 2 samples, found 1"):
        frechet(np.zeros((1, 3)), np.zeros((4, 3)))


def test_kid_agrees_with_torch_fidelity() -> None:
    rng = np.random.default_rng(7)
    fake, real = rng.normal(size=(64, 20)), rng.normal(size=(64, 20)) + 0.2
    options = {"kid_subsets": 1, "kid_subset_size": 64, "rng_seed": 0, "verbose": False}
    expected = kid_features_to_metric(torch.from_numpy(fake), torch.from_numpy(real), **options)[KEY_METRIC_KID_MEAN]
    assert kid(fake, real) == pytest.approx(expected, rel=1e-10)


def test_kid_has_no_bias_of_small_samples() -> None:
    rng = np.random.default_rng(8)
    values = [kid(rng.normal(size=(12, 6)), rng.normal(size=(17, 6))) for _ in range(400)]
    error = np.std(values) / np.sqrt(len(values))
    assert abs(np.mean(values)) < 4 * error
    assert min(values) < 0


def test_large_sets_go_in_subsets_that_use_every_sample() -> None:
    rng = np.random.default_rng(9)
    fake, real = rng.normal(size=(2 * KID_SUBSET, 3)), rng.normal(size=(2 * KID_SUBSET + 100, 3)) + 0.5
    halves = [kid(fake[i::2], real[i::2]) for i in (0, 1)]
    assert kid(fake, real) == pytest.approx(np.mean(halves), rel=1e-12)


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    # KID of N(0, 1) against N(s, 1) in one dimension, by the moments of the kernel (xy + 1)^3.
    rng, s = np.random.default_rng(10), 0.4
    moments = [np.array([1.0, m, 1 + m * m, m**3 + 3 * m]) for m in (0.0, s)]
    weights = np.array([1.0, 3.0, 3.0, 1.0])
    truth = (weights * (moments[0] - moments[1]) ** 2).sum()
    held = 0
    for trial in range(100):
        estimate = kid_estimate(rng.normal(size=(150, 1)), rng.normal(size=(120, 1)) + s, 100, seed=trial)
        held += estimate.low <= truth <= estimate.high
    # 95 % nominal; the bootstrap falls a little short of it at this size.
    assert held >= 82


def test_intervals_are_seeded() -> None:
    rng = np.random.default_rng(11)
    fake, real = rng.normal(size=(40, 8)), rng.normal(size=(50, 8)) + 1
    for estimate, value in ((kid_estimate, kid), (frechet_estimate, frechet)):
        first = estimate(fake, real, 20, seed=1)
        assert first == estimate(fake, real, 20, seed=1)
        assert first != estimate(fake, real, 20, seed=2)
        assert first.value == value(fake, real)
        assert first.low < first.value < first.high


def test_precision_and_recall_see_which_side_lacks() -> None:
    rng = np.random.default_rng(12)
    real = rng.normal(size=(120, 3))
    assert precision_recall(real, real) == (1.0, 1.0)
    precision, recall = precision_recall(0.05 * rng.normal(size=(110, 3)), real)
    assert precision > 0.95
    assert recall < 0.3


@pytest.mark.parametrize(("n", "m"), [(60, 90), (90, 60)])
def test_resamples_are_those_of_repeated_rows(n: int, m: int) -> None:
    rng = np.random.default_rng(4)
    fake, real = rng.normal(1, 2, (n, 40)), rng.normal(0, 1, (m, 40)) @ rng.normal(0, 0.3, (40, 40))
    for _ in range(3):
        counts = [rng.multinomial(len(part), np.full(len(part), 1 / len(part))) for part in (fake, real)]
        plain = frechet(*(np.repeat(part, count, axis=0) for part, count in zip((fake, real), counts, strict=True)))
        assert _Resampled(fake, real).frechet(*counts) == pytest.approx(plain, rel=1e-5)
