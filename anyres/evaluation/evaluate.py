"""The evaluation of one trained generator: all metrics, their tables and figures, from one seed.

Protocol: see `protocol` in metrics.json, which names feature space, kernels, counts, seed and hashes.
"""

from __future__ import annotations

import csv
import io
import json
import resource
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from anyres.data.store import Store
from anyres.evaluation import figures, samples
from anyres.evaluation.consistency import SSIM_WINDOW
from anyres.evaluation.distances import FD_UNBIASED, KID_SUBSET, NEIGHBOURS
from anyres.evaluation.extraction import Extractor, FeatureCache
from anyres.evaluation.features import AbsentWeights, FeatureSpace
from anyres.evaluation.measures import consistency, score_scales
from anyres.evaluation.parallel import ProcessGroup
from anyres.evaluation.scores import MIN_SAMPLES, RealPatches, score_patches, score_scale_inv, score_sweep
from anyres.files import write_atomic
from anyres.networks.generator import Generator, device_of
from anyres.params import Params
from anyres.plane.resample import KERNEL


@dataclass(frozen=True)
class Snapshots:
    """One generator at several times: trained, before training, and after its first stage, if it had one."""

    trained: nn.Module
    untrained: nn.Module
    first_stage: nn.Module | None = None


@dataclass(frozen=True)
class CacheFolders:
    """Where features of reals and of fakes are cached; None: nowhere."""

    reals: Path | None = None
    fakes: Path | None = None


def evaluate(
    params: Params,
    snapshots: Snapshots,
    store: Store,
    out: Path,
    group: ProcessGroup | None = None,
    cache_folders: CacheFolders | None = None,
) -> dict[str, Any]:
    """Measure a generator against the pictures of `store`; return the content of `out`/metrics.json.

    Writes metrics.json, cost.json, neighbours.json, plots/*.csv and figures/*.png below `out`. Every process of a `group` calls
    this; the main process writes, the others return {}. An interrupted evaluation resumes from the cached features of its fakes.
    Raises ValueError, one line, for weights that are not finite, params that do not fit the data, and missing weights of the
    first feature space. Another feature space without weights is left out, with one line on stderr.
    """
    start = time.monotonic()
    settings, group, folders = params.evaluate, group or ProcessGroup(), cache_folders or CacheFolders()
    check_sizes(settings.sizes, settings.num_sweep_samples, store, "params.yaml: evaluate.sizes", group.is_main)
    samples.check_weights(snapshots.trained, "trained generator")
    samples.check_weights(snapshots.untrained, "untrained generator")
    trained, untrained = cast(Generator, snapshots.trained), cast(Generator, snapshots.untrained)
    device, base_px = device_of(trained), min(params.train.patch_px)
    spaces, left_out = open_spaces(settings.features, device, group.is_main)
    real_cache, fake_cache = (None if folder is None else FeatureCache(folder) for folder in (folders.reals, folders.fakes))
    extractor = Extractor(list(spaces.values()), group, real_cache, fake_cache)
    reals = RealPatches.of(samples.sampler_of(params.train, store, settings.seed), settings.num_samples)
    seeds = samples.scene_seeds(settings.seed, "patches", settings.num_samples)
    fakes = {
        "": samples.fakes(trained, seeds, reals.windows),
        "_init": samples.fakes(untrained, seeds, reals.windows),
        "_fixed": samples.upsampled_baseline(trained, seeds, reals.windows, base_px),
    }
    if snapshots.first_stage is not None:
        first_stage = cast(Generator, snapshots.first_stage)
        fakes["_first"] = samples.upsampled_baseline(first_stage, seeds, reals.windows, base_px)
    patches = score_patches(reals, fakes, extractor, settings, "evaluate patches")
    sweep = score_sweep(trained, store, settings.sizes, base_px, extractor, settings, "evaluate sweep")
    scale_inv = score_scale_inv(trained, store, base_px, extractor, settings, "evaluate larger canvases")
    scales = score_scales(trained, settings.sizes, extractor, settings, "evaluate scales")
    baseline = samples.UpsampledGenerator(trained, base_px)
    baseline_scales = score_scales(baseline, settings.sizes, extractor, settings, "evaluate scales of the baseline")
    if not group.is_main:
        return {}
    metrics: dict[str, Any] = {}
    for name, *scores_of_space in zip(spaces, patches, sweep, scale_inv, scales, strict=True):
        prefix = f"{name}/" if metrics else ""
        metrics |= {f"{prefix}{key}": value for scores in scores_of_space for key, value in scores.numbers.items()}
    metrics |= consistency(trained, settings)
    of_baseline = {**baseline_scales[0].numbers, **consistency(baseline, settings)}
    metrics |= {f"fixed/{key}": value for key, value in of_baseline.items()}
    space = next(iter(spaces.values()))
    metrics["protocol"] = {**protocol(params, snapshots.trained, store, space), "left_out": left_out}
    _write_json(out / "metrics.json", metrics)
    tables = {"octaves": patches[0], "sweep": sweep[0], "self_ssim": scales[0]} | (
        {"scale_inv": scale_inv[0]} if scale_inv[0].rows else {}
    )
    for name, scores in tables.items():
        write_atomic(out / "plots" / f"{name}.csv", table(scores.rows))
    _write_json(out / "neighbours.json", patches[0].neighbours)
    plots = {
        "sweep": figures.draw_sweep(sweep[0].rows, base_px, space.name),
        "octaves": figures.draw_octaves(patches[0].rows, space.name),
        "self_ssim": figures.draw_self_ssim(scales[0].rows),
    }
    for name, figure in plots.items():
        figures.save_png(figure, out / "figures" / f"{name}.png")
    _write_json(out / "cost.json", cost(time.monotonic() - start, device))
    if real_cache is not None:
        real_cache.prune()
    return metrics


def open_spaces(names: Sequence[str], device: torch.device, verbose: bool) -> tuple[dict[str, FeatureSpace], list[str]]:
    """Return the feature spaces by name, and the names without weights, each with one line on stderr if `verbose`.

    Raises AbsentWeights where the first one has no weights.
    """
    spaces, left_out = {}, []
    for name in names:
        try:
            spaces[name] = FeatureSpace(name, device)
        except AbsentWeights as absent:
            if not spaces:
                raise
            left_out.append(name)
            if verbose:
                print(f"evaluate: {absent}", file=sys.stderr)
    return spaces, left_out


def protocol(params: Params, generator: nn.Module, store: Store, space: FeatureSpace) -> dict[str, Any]:
    """Return what must be equal where two metrics are compared."""
    settings = params.evaluate
    return {
        "features": space.name,
        "features_kernel": space.kernel,
        "reals_kernel": KERNEL,
        "baseline_kernel": samples.BASELINE_KERNEL,
        "frame": "square about the centre, short side across",
        "patch_px": list(params.train.patch_px),
        "num_samples": settings.num_samples,
        "num_sweep_samples": settings.num_sweep_samples,
        "num_scenes": settings.num_scenes,
        "psi": 1.0,
        "seed": settings.seed,
        "bootstrap": settings.bootstrap,
        "kid": f"polynomial degree 3, unbiased, subsets of up to {KID_SUBSET}",
        "precision_recall_k": NEIGHBOURS,
        "fd_biased": min(settings.num_samples, settings.num_sweep_samples) < FD_UNBIASED,
        "data_hash": store.hash,
        "weights_hash": samples.weights_hash(generator),
    }


def table(rows: list[dict[str, Any]]) -> bytes:
    """Return rows as CSV, columns in the order of first appearance."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def cost(seconds: float, device: torch.device) -> dict[str, float]:
    """Return the time and the peak memory of the evaluation."""
    # ru_maxrss is in KiB on Linux.
    stats = {"seconds": round(seconds, 1), "host_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20}
    if device.type == "cuda":
        stats["device_gib"] = torch.cuda.max_memory_allocated(device) / 2**30
    return stats


def check_sizes(sizes: Sequence[int], num_fakes: int, store: Store, name: str, verbose: bool) -> None:
    """Warn about sizes with few photographs; raise ValueError, one line, for a size that cannot be measured."""
    small = [size for size in sizes if size < SSIM_WINDOW]
    if small:
        raise ValueError(f"{name}: SelfSSIM needs {SSIM_WINDOW} pixels or more, found {small[0]}")
    sides = store.pictures.sizes.min(axis=1)
    num_reals = {size: int((sides >= size).sum()) for size in sizes}
    no_reals = [size for size, count in num_reals.items() if not count]
    if no_reals:
        raise ValueError(
            f"{name}: no photograph has a short side of {no_reals[0]} px or more (the largest has {sides.max()}); leave it out"
        )
    for size, count in num_reals.items():
        if count < num_fakes and verbose:
            use = "not scored" if count < MIN_SAMPLES else "scored against these"
            print(f"evaluate: {count} photographs of {size} px or more for {num_fakes} fakes: {use}", file=sys.stderr)


def _write_json(path: Path, values: Any) -> None:
    write_atomic(path, f"{json.dumps(values, indent=2)}\n".encode())
