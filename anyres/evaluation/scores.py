"""Scores of a generator against reals: patches at the reals' own windows, and whole frames over sizes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from anyres.data.store import Store
from anyres.evaluation import draws
from anyres.evaluation.distances import Estimate, frechet, frechet_estimate, kid, kid_estimate, precision_recall
from anyres.evaluation.features import FeatureSpace
from anyres.params import Params
from anyres.plane.window import Window
from anyres.progress import progress_bar
from anyres.synthesis.render import Generator

# A distance over fewer samples than this is not worth printing.
MIN_SAMPLES = 20
# Octaves from here on show what a generator of one size cannot.
ZOOMED = 1
# Reals of a size in the sweep, as a multiple of the fakes: costs stay bounded on large sets.
REALS_PER_FAKE = 4


@dataclass(frozen=True)
class Scores:
    """Numbers by flat key, and the same as rows of a table."""

    numbers: dict[str, float]
    rows: list[dict[str, Any]]


def score_patches(
    params: Params,
    generator: Generator,
    untrained: Generator,
    store: Store,
    space: FeatureSpace,
    first: Generator | None = None,
) -> Scores:
    """Score fakes, the untrained generator and the fixed-scale baseline at the windows of real patches, fresh scenes.

    `first`, the generator of a first stage, joins as a baseline of its own: its whole frames, enlarged. Rows are zoom
    octaves, and one of all zooms from ZOOMED on. `patch_kid_ratio` = KID over that of the untrained generator: what was
    learnt.
    """
    settings, count = params.evaluate, params.evaluate.num_samples
    sampler = draws.sampler_of(params.train, store, settings.seed)
    seeds = draws.scene_seeds(settings.seed, "patches", count)
    base_px = min(params.train.patch_px)
    with progress_bar("evaluate patches", (10 if first is None else 12) * count, "img") as advance:
        reals, windows = draws.draw_reals(sampler, 0, count, advance)
        others, other_windows = draws.draw_reals(sampler, count, count, advance)
        sets = {
            "": draws.draw_fakes(generator, seeds, windows, advance),
            "_init": draws.draw_fakes(untrained, seeds, windows, advance),
            "_fixed": draws.draw_fixed(generator, seeds, windows, base_px, advance),
            "_reals": others,
        }
        if first is not None:
            sets["_first"] = draws.draw_fixed(first, seeds, windows, base_px, advance)
        real = space(reals, advance)
        features = {name: space(pixels, advance) for name, pixels in sets.items()}
    numbers = _with_interval("patch_kid", kid_estimate(features[""], real, settings.bootstrap, settings.seed))
    numbers |= _with_interval("patch_fd", frechet_estimate(features[""], real, settings.bootstrap, settings.seed))
    for name in [name for name in features if name]:
        numbers[f"patch_kid{name}"] = kid(features[name], real)
        numbers[f"patch_fd{name}"] = frechet(features[name], real)
    numbers["patch_kid_ratio"] = numbers["patch_kid"] / numbers["patch_kid_init"]
    numbers["patch_precision"], numbers["patch_recall"] = precision_recall(features[""], real)
    octaves = _octave(windows, sampler.base), _octave(other_windows, sampler.base)
    rows = list(_octave_scores(octaves, features, real, settings.bootstrap, settings.seed))
    for row in rows:
        numbers |= {f"octave/{row['zoom']}/{key}": value for key, value in row.items() if key not in ("zoom", "samples")}
    return Scores(numbers, rows)


def score_sweep(params: Params, generator: Generator, store: Store, space: FeatureSpace) -> Scores:
    """Score whole frames over sizes: fakes, and the same scenes drawn at the training size and upsampled by Lanczos.

    A frame is the square about the centre with the short side across. Reals are the pictures large enough natively.
    """
    settings = params.evaluate
    count, base_px = settings.num_sweep_samples, min(params.train.patch_px)
    seeds = draws.scene_seeds(settings.seed, "frames", count)
    chosen = {size: draws.real_frames(store, size, REALS_PER_FAKE * count, settings.seed) for size in settings.sizes}
    total = sum(2 * len(indices) + 4 * count for indices in chosen.values())
    rows = []
    with progress_bar("evaluate sweep", total, "img") as advance:
        for size in settings.sizes:
            row: dict[str, Any] = {"size": size, "trained": _trained(generator, size), "fakes": count, "reals": len(chosen[size])}
            if len(chosen[size]) >= MIN_SAMPLES and count >= MIN_SAMPLES:
                row |= _frame_scores(params, generator, store, space, size, chosen[size], seeds, base_px, advance)
            rows.append(row)
    skipped = ("size", "trained", "fakes")
    return Scores({f"sweep/{row['size']}/{key}": v for row in rows for key, v in row.items() if key not in skipped}, rows)


def _frame_scores(
    params: Params,
    generator: Generator,
    store: Store,
    space: FeatureSpace,
    size: int,
    indices: list[int],
    seeds: list[int],
    base_px: int,
    advance: Callable[[float], None],
) -> dict[str, float]:
    settings, windows = params.evaluate, [draws.frame_of(generator, size)] * len(seeds)
    real = space(draws.read_frames(store, indices, size, advance, generator.geometry.chart), advance)
    fake = space(draws.draw_fakes(generator, seeds, windows, advance), advance)
    fixed = space(draws.draw_fixed(generator, seeds, windows, base_px, advance), advance)
    return {
        **_with_interval("fd", frechet_estimate(fake, real, settings.bootstrap, settings.seed)),
        **_with_interval("kid", kid_estimate(fake, real, settings.bootstrap, settings.seed)),
        "fixed_fd": frechet(fixed, real),
        "fixed_kid": kid(fixed, real),
    }


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
