"""Scores of a generator against reals: patches at the reals' own windows, and whole frames over sizes."""

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

# A distance over fewer samples than this is not worth printing.
MIN_SAMPLES = 20
# Octaves from here on show what a generator of one size cannot.
ZOOMED = 1
# Reals of a size in the sweep, as a multiple of the fakes: costs stay bounded on large sets.
REALS_PER_FAKE = 4
# How far a picture without end is looked at from.
SCALE_INV = (1, 2, 4)
# Fakes of the report beside the patch of a photograph that is most like them.
SHOWN_NEIGHBOURS = 6


@dataclass(frozen=True)
class Scores:
    """Numbers by flat key, the same as rows of a table, and what else a report shows."""

    numbers: dict[str, float]
    rows: list[dict[str, Any]]
    neighbours: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class RealPatches:
    """Two sets of real patches of one kind: what fakes are scored against, and what such a score is worth."""

    samples: Samples
    others: Samples
    windows: list[Window]
    octaves: tuple[np.ndarray, np.ndarray]

    @classmethod
    def of(cls, sampler: PatchSampler, count: int) -> RealPatches:
        """Patches number 0 to `count` of a sampler, and as many after them."""
        patches, windows = samples.real_patches(sampler, 0, count)
        others, other_windows = samples.real_patches(sampler, count, count)
        return cls(patches, others, windows, (_octave(windows, sampler.base), _octave(other_windows, sampler.base)))


def score_patches(
    reals: RealPatches, fakes: Mapping[str, Samples], extractor: Extractor, settings: Evaluate, title: str
) -> list[Scores]:
    """Score fakes at the windows of real patches, one result a feature space; the empty name is that of the model.

    Others ("_init", "_fixed", ...) are what it is read against. Rows are zoom octaves, and one of all zooms from ZOOMED on.
    """
    sets = {**fakes, "_reals": reals.others}
    shown = extractor.group.is_main
    with progress_bar(title, (len(sets) + 1) * reals.samples.count, "img", shown) as advance:
        of_reals = extractor(reals.samples, advance)
        of_sets = {name: extractor(samples, advance) for name, samples in sets.items()}
    if not shown:
        return [Scores({}, []) for _ in of_reals]
    return [
        _patch_scores({name: found[place] for name, found in of_sets.items()}, real, reals.octaves, settings)
        for place, real in enumerate(of_reals)
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
    memory, neighbours = _memory(features[""], real, features["_reals"])
    numbers |= memory
    rows = list(_octave_scores(octaves, features, real, settings.bootstrap, settings.seed))
    for row in rows:
        numbers |= {f"octave/{row['zoom']}/{key}": value for key, value in row.items() if key not in ("zoom", "samples")}
    return Scores(numbers, rows, neighbours)


def _memory(fake: np.ndarray, real: np.ndarray, others: np.ndarray) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """How near fakes come to reals, against how near other reals come; and the fakes that come suspiciously near.

    A real patch has room about it: as far as the next real one. A fake within that room is closer than photographs are to each
    other (Alaa et al., ICML 2022, section 4.2, whose authenticity is 1 - `closer`). Empty patches have no room, so that no black
    sky is ever suspicious.
    """
    room = _nearest(real, real, itself=False)[1]
    found, distance = _nearest(fake, real)
    closer = distance / np.maximum(room[found], 1e-9)
    found_others, distance_others = _nearest(others, real)
    closer_others = distance_others / np.maximum(room[found_others], 1e-9)
    numbers = {
        "memorisation/nearest_ratio": float(np.median(distance) / np.median(distance_others)),
        "memorisation/closer": float(np.mean(closer < 1)),
        "memorisation/closer_reals": float(np.mean(closer_others < 1)),
    }
    # Where there is much room there is much to be recognised: twins of dim sky would show nobody anything.
    lively = np.where(room[found] >= np.median(room), closer, np.inf)
    order = [n for n in np.argsort(lively)[:SHOWN_NEIGHBOURS] if np.isfinite(lively[n])]
    return numbers, [{"fake": int(n), "real": int(found[n]), "distance": float(closer[n])} for n in order]


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

    A frame is the square about the centre with the short side across. Reals are the pictures large enough natively. One
    result a feature space.
    """
    count, chart = settings.num_sweep_samples, generator.geometry.chart
    seeds = samples.scene_seeds(settings.seed, "frames", count)
    chosen = {size: samples.chosen_frames(store, size, REALS_PER_FAKE * count, settings.seed) for size in sizes}
    leads = extractor.group.is_main
    tables: list[list[dict[str, Any]]] = [[] for _ in extractor.spaces]
    scored = {size: indices for size, indices in chosen.items() if min(len(indices), count) >= MIN_SAMPLES}
    with progress_bar(title, sum(len(indices) + 2 * count for indices in scored.values()), "img", leads) as advance:
        for size in sizes:
            facts = {"size": size, "trained": _trained(generator, size), "fakes": count, "reals": len(chosen[size])}
            found: list[dict[str, float]] = [{} for _ in tables]
            if size in scored:
                windows = [samples.frame_of(generator, size)] * count
                real = extractor(samples.real_frames(store, scored[size], size, chart), advance)
                fake = extractor(samples.fakes(generator, seeds, windows), advance)
                fixed = extractor(samples.upsampled_baseline(generator, seeds, windows, base_px), advance)
                if leads:
                    found = [_frame_scores(*parts, settings) for parts in zip(real, fake, fixed, strict=True)]
            for table, scores in zip(tables, found, strict=True):
                table.append(facts | scores)
    skipped = ("size", "trained", "fakes")
    return [
        Scores({f"sweep/{row['size']}/{key}": v for row in rows for key, v in row.items() if key not in skipped}, rows)
        for rows in tables
    ]


def _frame_scores(real: np.ndarray, fake: np.ndarray, fixed: np.ndarray, settings: Evaluate) -> dict[str, float]:
    precision, recall = precision_recall(fake, real)
    return {
        **_with_interval("fd", frechet_estimate(fake, real, settings.bootstrap, settings.seed)),
        **_with_interval("kid", kid_estimate(fake, real, settings.bootstrap, settings.seed)),
        "precision": precision,
        "recall": recall,
        "fixed_fd": frechet(fixed, real),
        "fixed_kid": kid(fixed, real),
    }


def score_scale_inv(
    generator: Generator, store: Store, base_px: int, extractor: Extractor, settings: Evaluate, title: str
) -> list[Scores]:
    """Score what a picture without end looks like from further away, against whole photographs; none where it has an end."""
    if not generator.geometry.chart.is_unbounded:
        return [Scores({}, []) for _ in extractor.spaces]
    count, leads = settings.num_sweep_samples, extractor.group.is_main
    seeds = samples.scene_seeds(settings.seed, "frames", count)
    chosen = samples.chosen_frames(store, base_px, REALS_PER_FAKE * count, settings.seed)
    tables: list[list[dict[str, Any]]] = [[] for _ in extractor.spaces]
    with progress_bar(title, len(chosen) + len(SCALE_INV) * count, "img", leads) as advance:
        real = extractor(samples.real_frames(store, chosen, base_px, generator.geometry.chart), advance)
        for times in SCALE_INV:
            fake = extractor(samples.scale_inv(generator, seeds, samples.frame_of(generator, base_px), times), advance)
            for table, a, b in zip(tables, fake, real, strict=True):
                if leads:
                    table.append({"times": times, "fd": frechet(a, b), "kid": kid(a, b)})
    return [
        Scores({f"scale_inv/{row['times']}/{key}": row[key] for row in rows for key in ("fd", "kid")}, rows) for rows in tables
    ]


def _nearest(features: np.ndarray, among: np.ndarray, itself: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """Of each, which of the others is nearest, and how far: (n,), (n,). Without `itself` both are the same set."""
    squares = (features**2).sum(1)[:, None] + (among**2).sum(1)[None] - 2 * features @ among.T
    if not itself:
        np.fill_diagonal(squares, np.inf)
    place = squares.argmin(axis=1)
    return place, np.sqrt(np.maximum(squares[np.arange(len(features)), place], 0))


def _octave_scores(
    octaves: tuple[np.ndarray, np.ndarray], features: dict[str, np.ndarray], real: np.ndarray, resamples: int, seed: int
) -> Iterator[dict[str, Any]]:
    """One row a zoom octave that holds MIN_SAMPLES or more, and one of all from ZOOMED on: one mixed number hides high zooms.

    `octaves` holds those of the windows, and those of the other set of reals, which has windows of its own.
    """
    last = int(octaves[0].max())
    ranges = [(f"{2**k}-{2 ** (k + 1)}", range(k, k + 1)) for k in range(last + 1)]
    if last > ZOOMED:
        ranges.append((f"{2**ZOOMED}-max", range(ZOOMED, last + 1)))
    for zoom, among in ranges:
        inside, other = (np.isin(octave, list(among)) for octave in octaves)
        if min(inside.sum(), other.sum()) >= MIN_SAMPLES:
            scores = _with_interval("kid", kid_estimate(features[""][inside], real[inside], resamples, seed))
            baselines = [name for name in features if name not in ("", "_reals")]
            scores |= {f"kid{name}": kid(features[name][inside], real[inside]) for name in baselines}
            scores["kid_reals"] = kid(features["_reals"][other], real[inside])
            yield {"zoom": zoom, "samples": int(inside.sum()), **scores}


def _octave(windows: list[Window], base: float) -> np.ndarray:
    """The zoom octave of each window, int (n,): k from 2^k up to 2^(k + 1), all below 1 with the first."""
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
