"""Distances between two sets of features (n, d), in float64: Frechet, kernel (KID), precision and recall.

Pure functions of features. All intervals are seeded bootstraps at 95 %.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch_fidelity.metric_prc import KEY_METRIC_PRECISION, KEY_METRIC_RECALL, prc_features_to_metric

# Beyond this many samples KID is the mean over disjoint subsets of this size (Binkowski et al., ICLR 2018).
KID_SUBSET = 1000
NEIGHBOURS = 3
LEVEL = 95.0
# Below this many samples, a Frechet distance is biased upwards so much that pages warn.
FD_UNBIASED = 10_000
FD_RESAMPLES = 25


class Estimate(NamedTuple):
    """A number and the ends of its bootstrap interval."""

    value: float
    low: float
    high: float


def frechet(fake: np.ndarray, real: np.ndarray) -> float:
    """Return |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^1/2) of the Gaussians of two sets (Dowson and Landau 1982).

    With C1 = A^T A and C2 = B^T B, the trace of (C1 C2)^1/2 is the sum of the singular values of A B^T. It is real and not
    negative for any rank, and needs no matrix square root. Covariances divide by n - 1. Biased upwards for small n.
    """
    (mean_1, factor_1), (mean_2, factor_2) = _moments(fake), _moments(real)
    cross = np.linalg.svd(factor_1 @ factor_2.T, compute_uv=False).sum()
    difference = mean_1 - mean_2
    return float(difference @ difference + (factor_1**2).sum() + (factor_2**2).sum() - 2 * cross)


def kid(fake: np.ndarray, real: np.ndarray) -> float:
    """Return the unbiased squared maximum mean discrepancy under k(x, y) = (x.y / d + 1)^3 (Binkowski et al., ICLR 2018).

    It may be slightly negative by chance. Sets of more than KID_SUBSET are split into disjoint subsets, and values averaged.
    """
    parts = max(1, min(len(fake), len(real)) // KID_SUBSET)
    values = [_mmd(*_kernels(fake[i::parts], real[i::parts])) for i in range(parts)]
    return float(np.mean(values))


def kid_estimate(fake: np.ndarray, real: np.ndarray, resamples: int, seed: int) -> Estimate:
    """Return `kid` with its interval: both sets are resampled with replacement, without pairs of a sample with itself."""
    parts = max(1, min(len(fake), len(real)) // KID_SUBSET)
    rng = np.random.default_rng(seed)
    replicas = np.zeros(resamples)
    for i in range(parts):
        k_ff, k_rr, k_fr = _kernels(fake[i::parts], real[i::parts])
        f, r = _counts(rng, resamples, len(k_ff)), _counts(rng, resamples, len(k_rr))
        replicas += _weighted_mean(k_ff, f) + _weighted_mean(k_rr, r)
        replicas -= 2 * np.einsum("bi,bi->b", f @ k_fr, r) / (f.sum(1) * r.sum(1))
    return _around(kid(fake, real), replicas / parts)


def frechet_estimate(fake: np.ndarray, real: np.ndarray, resamples: int, seed: int) -> Estimate:
    """Return `frechet` with its interval, normal about the value: repeated samples bias a resample, but do not widen it.

    A standard deviation needs fewer resamples than a percentile: at most FD_RESAMPLES are drawn.
    """
    rng = np.random.default_rng(seed)
    resampled = _Resampled(fake, real)
    replicas = [
        resampled.frechet(_counts(rng, 1, len(fake))[0], _counts(rng, 1, len(real))[0])
        for _ in range(min(resamples, FD_RESAMPLES))
    ]
    value, reach = frechet(fake, real), 1.96 * float(np.std(replicas, ddof=1))
    return Estimate(value, value - reach, value + reach)


class _Resampled:
    """`frechet` of two sets with repeated samples: products of samples are computed once for all resamples.

    Accurate to about six digits, which is enough for a spread, and about ten times as fast as repeating rows.
    """

    def __init__(self, fake: np.ndarray, real: np.ndarray):
        self.sets = [np.asarray(features, dtype=np.float64) for features in (fake, real)]
        self.norms = [(features**2).sum(axis=1) for features in self.sets]
        self.products = self.sets[0] @ self.sets[1].T

    def frechet(self, fake_counts: np.ndarray, real_counts: np.ndarray) -> float:
        """Return the distance of the sets with every sample repeated as counted, (n,) and (m,)."""
        counts = (fake_counts, real_counts)
        totals = [count.sum() for count in counts]
        means = [count @ features / total for count, features, total in zip(counts, self.sets, totals, strict=True)]
        traces = [
            (count @ norms - total * mean @ mean) / (total - 1)
            for count, norms, total, mean in zip(counts, self.norms, totals, means, strict=True)
        ]
        # Only the samples that were drawn, each times the root of its count.
        drawn = [np.flatnonzero(count) for count in counts]
        centred = self.products[np.ix_(*drawn)]
        centred = centred - (self.sets[0][drawn[0]] @ means[1])[:, None] - (self.sets[1][drawn[1]] @ means[0])[None]
        centred += means[0] @ means[1]
        roots = [np.sqrt(count[index] / (total - 1)) for count, index, total in zip(counts, drawn, totals, strict=True)]
        cross = roots[0][:, None] * centred * roots[1][None]
        cross = cross if cross.shape[0] <= cross.shape[1] else cross.T
        values = np.linalg.eigvalsh(cross @ cross.T)
        difference = means[0] - means[1]
        return float(difference @ difference + sum(traces) - 2 * np.sqrt(np.maximum(values, 0)).sum())


def precision_recall(fake: np.ndarray, real: np.ndarray) -> tuple[float, float]:
    """Return improved precision and recall, k = 3 (Kynkaanniemi et al., NeurIPS 2019), by torch-fidelity."""
    metrics = prc_features_to_metric(
        torch.from_numpy(fake), torch.from_numpy(real), prc_neighborhood=NEIGHBOURS, save_cpu_ram=False, verbose=False
    )
    return metrics[KEY_METRIC_PRECISION], metrics[KEY_METRIC_RECALL]


def _moments(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean (d,) and a factor F (<= n or d, d) with F^T F = the covariance."""
    features = np.asarray(features, dtype=np.float64)
    if len(features) < 2:
        raise ValueError(f"a covariance needs at least 2 samples, found {len(features)}")
    mean = features.mean(axis=0)
    factor = (features - mean) / np.sqrt(len(features) - 1)
    return mean, np.asarray(np.linalg.qr(factor, mode="r")) if len(factor) > factor.shape[1] else factor


def _kernels(fake: np.ndarray, real: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    fake, real = np.asarray(fake, dtype=np.float64), np.asarray(real, dtype=np.float64)
    d = fake.shape[1]
    return (fake @ fake.T / d + 1) ** 3, (real @ real.T / d + 1) ** 3, (fake @ real.T / d + 1) ** 3


def _mmd(k_ff: np.ndarray, k_rr: np.ndarray, k_fr: np.ndarray) -> float:
    return _off_diagonal_mean(k_ff) + _off_diagonal_mean(k_rr) - 2 * float(k_fr.mean())


def _off_diagonal_mean(kernel: np.ndarray) -> float:
    n = len(kernel)
    return float((kernel.sum() - np.trace(kernel)) / (n * (n - 1)))


def _weighted_mean(kernel: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return the mean of k(x_i, x_j) over i != j, samples weighted by their counts (b, n) -> (b,)."""
    squares = counts**2
    total = np.einsum("bi,bi->b", counts @ kernel, counts) - squares @ np.diagonal(kernel)
    return total / (counts.sum(1) ** 2 - squares.sum(1))


def _counts(rng: np.random.Generator, resamples: int, n: int) -> np.ndarray:
    return rng.multinomial(n, np.full(n, 1 / n), size=resamples).astype(np.float64)


def _around(value: float, replicas: np.ndarray) -> Estimate:
    tail = (100 - LEVEL) / 2
    low, high = np.percentile(replicas, [tail, 100 - tail]) - replicas.mean()
    return Estimate(value, value + float(low), value + float(high))
