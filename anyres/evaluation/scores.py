"""Scores of a generator against photographs: patches at the windows of real patches, and whole frames over sizes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from anyres.data.patches import PatchSampler
from anyres.data.store import Store
from anyres.evaluation import samples
from anyres.evaluation.distances import Estimate, frechet, frechet_estimate, kid, kid_estimate, precision_recall
from anyres.evaluation.extraction import Extractor
from anyres.evaluation.samples import Samples
from anyres.networks.generator import Generator
from anyres.params import Evaluate
from anyres.plane.window import Window
from anyres.progress import progress_bar

# A distance over fewer samples than this says nothing.
MIN_SAMPLES = 20
# From this zoom octave on, a generator of one size has no detail.
ZOOMED = 1
# Reals of a size in the sweep, as a multiple of the fakes: this bounds the cost on large data sets.
REALS_PER_FAKE = 4
# Sizes of the canvas of ScaleInv, as multiples of a frame.
SCALE_INV = (1, 2, 4)
# Fakes that the report shows beside their nearest patch of a photograph.
SHOWN_NEIGHBOURS = 6


@dataclass(frozen=True)
class Scores:
    """Metrics by flat key, the same as rows of a table, and the neighbours that the report shows."""

    numbers: dict[str, float]
    rows: list[dict[str, Any]]
    neighbours: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class RealPatches:
    """Two disjoint sets of real patches: the reference of the fakes, and a second set, whose own score is the best possible."""

    samples: Samples
    others: Samples
    windows: list[Window]
    octaves: tuple[np.ndarray, np.ndarray]

    @classmethod
    def of(cls, sampler: PatchSampler, count: int) -> RealPatches:
        """Return patches number 0 to `count` of a sampler, and as many after them."""
        patches, windows = samples.real_patches(sampler, 0, count)
        others, other_windows = samples.real_patches(sampler, count, count)
        return cls(patches, others, windows, (_octave(windows, sampler.base), _octave(other_windows, sampler.base)))


def score_patches(
    reals: RealPatches, fakes: Mapping[str, Samples], extractor: Extractor, settings: Evaluate, title: str
) -> list[Scores]:
    """Score fakes at the windows of real patches, one result for each feature space.

    The model's fakes have the empty name; the others ("_init", "_fixed", ...) are baselines. Rows are zoom octaves, and one of
    all zooms from ZOOMED on.
    """
    sets = {**fakes, "_reals": reals.others}
    is_main = extractor.group.is_main
    with progress_bar(title, (len(sets) + 1) * reals.samples.count, "img", is_main) as advance:
        of_reals = extractor(reals.samples, advance)
        of_sets = {name: extractor(samples, advance) for name, samples in sets.items()}
    if not is_main:
        return [Scores({}, []) for _ in of_reals]
    return [
        _patch_scores({name: features[index] for name, features in of_sets.items()}, real, reals.octaves, settings)
        for index, real in enumerate(of_reals)
    ]


def _patch_scores(
    features: dict[str, np.ndarray], real: np.ndarray, octaves: tuple[np.ndarray, np.ndarray], settings: Evaluate
) -> Scores:
    numbers = _with_interval("patch_kid", kid_estimate(features[""], real, settings.bootstrap, settings.seed))
    numbers |= _with_interval("patch_fd", frechet_estimate(features[""], real, settings.bootstrap, settings.seed))
    for name in [name for name in features if name]:
        numbers[f"patch_kid{name}"] = kid(features[name], real)
        numbers[f"patch_fd{name}"] = frechet(features[name], real)
    if "_init" in features:
        numbers["patch_kid_ratio"] = numbers["patch_kid"] / numbers["patch_kid_init"]
    numbers["patch_precision"], numbers["patch_recall"] = precision_recall(features[""], real)
    memorisation, neighbours = _memorisation(features[""], real, features["_reals"])
    numbers |= memorisation
    rows = list(_octave_scores(octaves, features, real, settings.bootstrap, settings.seed))
    for row in rows:
        numbers |= {f"octave/{row['zoom']}/{key}": value for key, value in row.items() if key not in ("zoom", "samples")}
    return Scores(numbers, rows, neighbours)


def _memorisation(fake: np.ndarray, real: np.ndarray, others: np.ndarray) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """Compare the distances of fakes to reals with those of other reals; return also the nearest fakes.

    The radius of a real patch is the distance to the next real one. A fake within that radius is closer than photographs are to
    each other (Alaa et al., ICML 2022, section 4.2, whose authenticity is 1 - `closer`). Empty patches have the radius 0: a
    black sky never counts as memorised.
    """
    radius = _nearest(real, real, itself=False)[1]
    nearest, distance = _nearest(fake, real)
    closer = distance / np.maximum(radius[nearest], 1e-9)
    nearest_others, distance_others = _nearest(others, real)
    closer_others = distance_others / np.maximum(radius[nearest_others], 1e-9)
    numbers = {
        "memorisation/nearest_ratio": float(np.median(distance) / np.median(distance_others)),
        "memorisation/closer": float(np.mean(closer < 1)),
        "memorisation/closer_reals": float(np.mean(closer_others < 1)),
    }
    # Only patches with a large radius are shown: copies of a dim sky could not be recognised.
    recognisable = np.where(radius[nearest] >= np.median(radius), closer, np.inf)
    order = [n for n in np.argsort(recognisable)[:SHOWN_NEIGHBOURS] if np.isfinite(recognisable[n])]
    return numbers, [{"fake": int(n), "real": int(nearest[n]), "distance": float(closer[n])} for n in order]


def score_sweep(
    generator: Generator,
    store: Store,
    sizes: Sequence[int],
    base_px: int,
    extractor: Extractor,
    settings: Evaluate,
    title: str,
) -> list[Scores]:
    """Score whole frames over sizes: fakes, and the same scenes drawn at `base_px` and upsampled by Lanczos.

    A frame is the central square with the short side as its side. Reals are the pictures that are large enough natively. Returns
    one result for each feature space.
    """
    count, chart = settings.num_sweep_samples, generator.geometry.chart
    seeds = samples.scene_seeds(settings.seed, "frames", count)
    chosen = {size: samples.choose_frames(store, size, REALS_PER_FAKE * count, settings.seed) for size in sizes}
    is_main = extractor.group.is_main
    tables: list[list[dict[str, Any]]] = [[] for _ in extractor.spaces]
    scored = {size: indices for size, indices in chosen.items() if min(len(indices), count) >= MIN_SAMPLES}
    with progress_bar(title, sum(len(indices) + 2 * count for indices in scored.values()), "img", is_main) as advance:
        for size in sizes:
            facts = {"size": size, "trained": _trained(generator, size), "fakes": count, "reals": len(chosen[size])}
            scores_of_spaces: list[dict[str, float]] = [{} for _ in tables]
            if size in scored:
                windows = [samples.frame_of(generator, size)] * count
                real = extractor(samples.real_frames(store, scored[size], size, chart), advance)
                fake = extractor(samples.fakes(generator, seeds, windows), advance)
                baseline = extractor(samples.upsampled_baseline(generator, seeds, windows, base_px), advance)
                if is_main:
                    scores_of_spaces = [_frame_scores(*features, settings) for features in zip(real, fake, baseline, strict=True)]
            for table, scores in zip(tables, scores_of_spaces, strict=True):
                table.append(facts | scores)
    not_metrics = ("size", "trained", "fakes")
    return [
        Scores({f"sweep/{row['size']}/{key}": v for row in rows for key, v in row.items() if key not in not_metrics}, rows)
        for rows in tables
    ]


def _frame_scores(real: np.ndarray, fake: np.ndarray, baseline: np.ndarray, settings: Evaluate) -> dict[str, float]:
    precision, recall = precision_recall(fake, real)
    return {
        **_with_interval("fd", frechet_estimate(fake, real, settings.bootstrap, settings.seed)),
        **_with_interval("kid", kid_estimate(fake, real, settings.bootstrap, settings.seed)),
        "precision": precision,
        "recall": recall,
        "fixed_fd": frechet(baseline, real),
        "fixed_kid": kid(baseline, real),
    }


def score_scale_inv(
    generator: Generator, store: Store, base_px: int, extractor: Extractor, settings: Evaluate, title: str
) -> list[Scores]:
    """Score larger canvases of an unbounded plane, downsampled, against whole photographs; no rows for other charts."""
    if not generator.geometry.chart.is_unbounded:
        return [Scores({}, []) for _ in extractor.spaces]
    count, is_main = settings.num_sweep_samples, extractor.group.is_main
    seeds = samples.scene_seeds(settings.seed, "frames", count)
    chosen = samples.choose_frames(store, base_px, REALS_PER_FAKE * count, settings.seed)
    tables: list[list[dict[str, Any]]] = [[] for _ in extractor.spaces]
    with progress_bar(title, len(chosen) + len(SCALE_INV) * count, "img", is_main) as advance:
        real = extractor(samples.real_frames(store, chosen, base_px, generator.geometry.chart), advance)
        for times in SCALE_INV:
            fake = extractor(samples.scale_inv(generator, seeds, samples.frame_of(generator, base_px), times), advance)
            for table, a, b in zip(tables, fake, real, strict=True):
                if is_main:
                    table.append({"times": times, "fd": frechet(a, b), "kid": kid(a, b)})
    return [
        Scores({f"scale_inv/{row['times']}/{key}": row[key] for row in rows for key in ("fd", "kid")}, rows) for rows in tables
    ]


def _nearest(features: np.ndarray, among: np.ndarray, itself: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """Return the index of the nearest one `among` others and its distance, (n,) each. Not `itself`: both sets are the same."""
    squares = (features**2).sum(1)[:, None] + (among**2).sum(1)[None] - 2 * features @ among.T
    if not itself:
        np.fill_diagonal(squares, np.inf)
    index = squares.argmin(axis=1)
    return index, np.sqrt(np.maximum(squares[np.arange(len(features)), index], 0))


def _octave_scores(
    octaves: tuple[np.ndarray, np.ndarray], features: dict[str, np.ndarray], real: np.ndarray, resamples: int, seed: int
) -> Iterator[dict[str, Any]]:
    """Yield one row for each zoom octave with MIN_SAMPLES or more, and one of all from ZOOMED on.

    A single number over all zooms would hide the high ones. `octaves`: of the windows, and of the second set of reals.
    """
    last = int(octaves[0].max())
    ranges = [(f"{2**k}-{2 ** (k + 1)}", range(k, k + 1)) for k in range(last + 1)]
    if last > ZOOMED:
        ranges.append((f"{2**ZOOMED}-max", range(ZOOMED, last + 1)))
    for zoom, octaves_of_range in ranges:
        inside, other = (np.isin(octave, list(octaves_of_range)) for octave in octaves)
        if min(inside.sum(), other.sum()) >= MIN_SAMPLES:
            scores = _with_interval("kid", kid_estimate(features[""][inside], real[inside], resamples, seed))
            baselines = [name for name in features if name not in ("", "_reals")]
            scores |= {f"kid{name}": kid(features[name][inside], real[inside]) for name in baselines}
            scores["kid_reals"] = kid(features["_reals"][other], real[inside])
            yield {"zoom": zoom, "samples": int(inside.sum()), **scores}


def _octave(windows: list[Window], base: float) -> np.ndarray:
    """Return the zoom octave of each window, int (n,): k for zooms from 2^k up to 2^(k + 1), 0 for zooms below 1."""
    zooms = np.array([window.zoom(base) for window in windows])
    # A window of the very largest zoom belongs to the octave below it.
    last = max(math.ceil(math.log2(zooms.max()) - 1e-9) - 1, 0)
    return np.clip(np.floor(np.log2(zooms) + 1e-9), 0, last).astype(int)


def _with_interval(name: str, estimate: Estimate) -> dict[str, float]:
    return {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}


def _trained(generator: Generator, size: int) -> bool:
    """Whether the period of a frame of this size lies in the range seen in training."""
    finest, coarsest = generator.geometry.periods
    return finest * (1 - 1e-9) <= generator.geometry.chart.short_side / size <= coarsest * (1 + 1e-9)
