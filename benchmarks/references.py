"""The metrics of `anyres.evaluation` against closed forms and other people's code, on equal features and pictures.

torch-fidelity counts precision and recall for us too: here by its other, piecewise code, and once more by scipy's distances.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from scipy.spatial.distance import cdist
from skimage.metrics import structural_similarity
from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, kid_features_to_metric
from torch_fidelity.metric_prc import KEY_METRIC_PRECISION, KEY_METRIC_RECALL, prc_features_to_metric

from anyres.evaluation.consistency import SSIM_SIGMA, SSIM_WINDOW, ssim
from anyres.evaluation.distances import KID_SUBSET, NEIGHBOURS, frechet, kid, precision_recall

SEED = 1
CLOSED_FORM_BOUND, FIDELITY_BOUND, SSIM_BOUND = 1e-6, 1e-5, 1e-6


def agreement(real: np.ndarray, other: np.ndarray, pairs: Iterable[tuple[np.ndarray, np.ndarray]]) -> list[dict[str, Any]]:
    """Rows of ours against theirs: closed forms, made features and those given (n, d), SSIM of pairs of pictures (h, w, 3)."""
    rng = np.random.default_rng(SEED)
    made = rng.normal(size=(220, 48)), 0.2 + rng.normal(size=(180, 48)) * np.linspace(0.6, 1.5, 48)
    # As many of both as KID takes in one subset.
    count = min(len(real), len(other), KID_SUBSET)
    sets = {"made features": made, "photographs": (other[:count], real[:count])}
    rows = [row("FD, closed form, more samples than dimensions", *closed_form(rng, 300, 260, 64), CLOSED_FORM_BOUND)]
    rows += [row("FD, closed form, fewer samples than dimensions", *closed_form(rng, 40, 30, 64), CLOSED_FORM_BOUND)]
    for name, (fake, against) in sets.items():
        ours = frechet(fake, against), kid(*equal(fake, against)), *precision_recall(fake, against)
        for metric, value, theirs in zip(("FD", "KID", "precision", "recall"), ours, fidelity(fake, against), strict=True):
            rows.append(row(f"{metric}, torch-fidelity, {name}", value, theirs, FIDELITY_BOUND))
        for metric, value, theirs in zip(("precision", "recall"), ours[2:], counted(fake, against), strict=True):
            rows.append(row(f"{metric}, counted by scipy's distances, {name}", value, theirs, FIDELITY_BOUND))
    for place, (a, b) in enumerate(pairs, 1):
        # Not square: a swap of axes would show.
        a, b = a[:, : len(a) * 3 // 4], b[:, : len(b) * 3 // 4]
        rows.append(row(f"SSIM, scikit-image, pair {place}", ssim(a, b), reference_ssim(a, b), SSIM_BOUND))
    return rows


def row(name: str, ours: float, theirs: float, bound: float) -> dict[str, Any]:
    difference = abs(ours - theirs) / max(abs(theirs), 1e-12)
    return {
        "name": name,
        "ours": ours,
        "theirs": theirs,
        "difference": difference,
        "bound": bound,
        "holds": bool(difference <= bound),
    }


def closed_form(rng: np.random.Generator, n: int, m: int, d: int) -> tuple[float, float]:
    """FD of two sets of n and m samples with given moments and covariances that commute, and what it must be."""
    rotation, _ = np.linalg.qr(rng.normal(size=(d, d)))
    means = rng.normal(size=(2, d))
    # A covariance of n samples has n - 1 directions at most; in the others it is 0.
    variances = [np.where(np.arange(d) < count - 1, rng.uniform(0.2, 4.0, d), 0.0) for count in (n, m)]
    sets = [gaussian(rng, count, *moments) @ rotation.T for count, *moments in zip((n, m), means, variances, strict=True)]
    spread = np.sqrt(variances[0]) - np.sqrt(variances[1])
    return frechet(*sets), float(((means[0] - means[1]) ** 2).sum() + (spread**2).sum())


def gaussian(rng: np.random.Generator, n: int, mean: np.ndarray, variances: np.ndarray) -> np.ndarray:
    """Samples (n, d) whose own mean and covariance (dividing by n - 1) are the given ones: noise made white, then coloured."""
    rank = np.count_nonzero(variances)
    raw = rng.normal(size=(n, rank))
    white, _ = np.linalg.qr(raw - raw.mean(axis=0))
    return mean + np.pad(white * np.sqrt(n - 1), ((0, 0), (0, len(mean) - rank))) * np.sqrt(variances)


def equal(fake: np.ndarray, real: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    count = min(len(fake), len(real))
    return fake[:count], real[:count]


def fidelity(fake: np.ndarray, real: np.ndarray) -> tuple[float, float, float, float]:
    """FD, KID, precision and recall by torch-fidelity; precision and recall by its other, piecewise code."""
    tensors = torch.from_numpy(fake), torch.from_numpy(real)
    fd = fid_statistics_to_metric(*(fid_features_to_statistics(x) for x in tensors), False)[KEY_METRIC_FID]
    alike = [torch.from_numpy(x) for x in equal(fake, real)]
    options = {"kid_kernel_poly_degree": 3, "kid_kernel_poly_gamma": None, "kid_kernel_poly_coef0": 1, "rng_seed": SEED}
    of_kid = kid_features_to_metric(*alike, kid_subsets=1, kid_subset_size=len(alike[0]), verbose=False, **options)
    near = prc_features_to_metric(*tensors, prc_neighborhood=NEIGHBOURS, prc_batch_size=64, save_cpu_ram=True, verbose=False)
    return fd, of_kid[KEY_METRIC_KID_MEAN], near[KEY_METRIC_PRECISION], near[KEY_METRIC_RECALL]


def counted(fake: np.ndarray, real: np.ndarray) -> tuple[float, float]:
    """Precision and recall as their definition says it: the share of points within the ball of some point of the other set."""

    def covered(points: np.ndarray, centres: np.ndarray) -> float:
        radii = np.sort(cdist(centres, centres), axis=1)[:, NEIGHBOURS]
        return float((cdist(points, centres) <= radii).any(axis=1).mean())

    return covered(fake, real), covered(real, fake)


def reference_ssim(a: np.ndarray, b: np.ndarray) -> float:
    """scikit-image's map, where its window fits whole."""
    options = {"gaussian_weights": True, "sigma": SSIM_SIGMA, "use_sample_covariance": False, "data_range": 255}
    _, places = structural_similarity(a, b, channel_axis=-1, full=True, **options)
    reach = SSIM_WINDOW // 2
    return float(places[reach:-reach, reach:-reach].mean())
