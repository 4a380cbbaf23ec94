"""The evaluation of one trained generator: every number, its table and its figure, from one seed.

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
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from anyres.data.store import Store
from anyres.evaluation import figures, samples
from anyres.evaluation.consistency import (
    SSIM_WINDOW,
)
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


def evaluate(
    params: Params,
    generator: nn.Module,
    untrained: nn.Module,
    store: Store,
    out: Path,
    first: nn.Module | None = None,
    group: ProcessGroup | None = None,
    real_cache: Path | None = None,
    fake_cache: Path | None = None,
) -> dict[str, Any]:
    """Measure `generator` against the pictures of `store`; return the content of `out`/metrics.json.

    `untrained` is the same generator before training, `first` the one of a first stage, if it had one. Writes metrics.json,
    cost.json, neighbours.json, plots/*.csv and figures/*.png below `out`. Every process of a `group` calls this; the leading one
    writes, the others return {}. Features of reals are kept in the folder `kept`, those of fakes in `fake_cache`, from which an
    interrupted evaluation goes on. Raises ValueError, one line, for weights that are not finite, params that do not fit the
    data, and a first feature space that is not there; others are left out with one line on stderr.
    """
    start = time.monotonic()
    settings, group = params.evaluate, group or ProcessGroup()
    _check(params, generator, untrained, store, group.is_main)
    trained, before = cast(Generator, generator), cast(Generator, untrained)
    device, base_px = device_of(trained), min(params.train.patch_px)
    spaces, left_out = open_spaces(settings.features, device, group.is_main)
    caches = [FeatureCache(folder) if folder is not None else None for folder in (real_cache, fake_cache)]
    extractor = Extractor(list(spaces.values()), group, *caches)
    reals = RealPatches.of(samples.sampler_of(params.train, store, settings.seed), settings.num_samples)
    seeds = samples.scene_seeds(settings.seed, "patches", settings.num_samples)
    fakes = {
        "": samples.fakes(trained, seeds, reals.windows),
        "_init": samples.fakes(before, seeds, reals.windows),
        "_fixed": samples.upsampled_baseline(trained, seeds, reals.windows, base_px),
    }
    if first is not None:
        fakes["_first"] = samples.upsampled_baseline(cast(Generator, first), seeds, reals.windows, base_px)
    patches = score_patches(reals, fakes, extractor, settings, "evaluate patches")
    sweep = score_sweep(trained, store, settings.sizes, base_px, extractor, settings, "evaluate sweep")
    distant = score_scale_inv(trained, store, base_px, extractor, settings, "evaluate from afar")
    scales = score_scales(trained, settings.sizes, extractor, settings, "evaluate scales")
    fixed = samples.Enlarged(trained, base_px)
    fixed_scales = score_scales(fixed, settings.sizes, extractor, settings, "evaluate scales of the baseline")
    if not group.is_main:
        return {}
    metrics: dict[str, Any] = {}
    for name, *found in zip(spaces, patches, sweep, distant, scales, strict=True):
        prefix = f"{name}/" if metrics else ""
        metrics |= {f"{prefix}{key}": value for scores in found for key, value in scores.numbers.items()}
    metrics |= consistency(trained, settings.seed)
    metrics |= {f"fixed/{key}": value for key, value in {**fixed_scales[0].numbers, **consistency(fixed, settings.seed)}.items()}
    space = next(iter(spaces.values()))
    metrics["protocol"] = {**protocol(params, generator, store, space), "left_out": left_out}
    _write_json(out / "metrics.json", metrics)
    tables = {"octaves": patches[0], "sweep": sweep[0], "self_ssim": scales[0]} | (
        {"scale_inv": distant[0]} if distant[0].rows else {}
    )
    for name, scores in tables.items():
        write_atomic(out / "plots" / f"{name}.csv", table(scores.rows))
    _write_json(out / "neighbours.json", patches[0].neighbours)
    drawn = {
        "sweep": figures.draw_sweep(sweep[0].rows, base_px, space.name),
        "octaves": figures.draw_octaves(patches[0].rows, space.name),
        "self_ssim": figures.draw_self_ssim(scales[0].rows),
    }
    for name, figure in drawn.items():
        figures.save_png(figure, out / "figures" / f"{name}.png")
    _write_json(out / "cost.json", cost(time.monotonic() - start, device))
    if caches[0] is not None:
        caches[0].prune()
    return metrics


def open_spaces(names: Sequence[str], device: torch.device, says: bool) -> tuple[dict[str, FeatureSpace], list[str]]:
    """The feature spaces by name, and those left out, each with one line on stderr; the first one must be there."""
    found, left_out = {}, []
    for name in names:
        try:
            found[name] = FeatureSpace(name, device)
        except AbsentWeights as absent:
            if not found:
                raise
            left_out.append(name)
            if says:
                print(f"evaluate: {absent}", file=sys.stderr)
    return found, left_out


def protocol(params: Params, generator: nn.Module, store: Store, space: FeatureSpace) -> dict[str, Any]:
    """What a number must carry to be compared with another."""
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
    """Rows as CSV, columns in the order of first appearance."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def cost(seconds: float, device: torch.device) -> dict[str, float]:
    """Seconds and peak memory of the evaluation itself."""
    # ru_maxrss is in KiB on Linux.
    figures_ = {"seconds": round(seconds, 1), "host_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20}
    if device.type == "cuda":
        figures_["device_gib"] = torch.cuda.max_memory_allocated(device) / 2**30
    return figures_


def _check(params: Params, generator: nn.Module, untrained: nn.Module, store: Store, says: bool) -> None:
    check_sizes(params.evaluate.sizes, params.evaluate.num_sweep_samples, store, "params.yaml: evaluate.sizes", says)
    samples.check_weights(generator, "trained generator")
    samples.check_weights(untrained, "untrained generator")


def check_sizes(sizes: Sequence[int], fakes: int, store: Store, name: str, says: bool) -> None:
    """Raise ValueError, one line, for a size that no metric can take; say which have few photographs."""
    small = [size for size in sizes if size < SSIM_WINDOW]
    if small:
        raise ValueError(f"{name}: SelfSSIM needs {SSIM_WINDOW} pixels or more, found {small[0]}")
    sides = store.pictures.sizes.min(axis=1)
    reals = {size: int((sides >= size).sum()) for size in sizes}
    absent = [size for size, count in reals.items() if not count]
    if absent:
        raise ValueError(
            f"{name}: no photograph has a short side of {absent[0]} px or more (the largest has {sides.max()}); leave it out"
        )
    for size, count in reals.items():
        if count < fakes and says:
            worth = "not scored" if count < MIN_SAMPLES else "scored against these"
            print(f"evaluate: {count} photographs of {size} px or more for {fakes} fakes: {worth}", file=sys.stderr)


def _write_json(path: Path, values: Any) -> None:
    write_atomic(path, f"{json.dumps(values, indent=2)}\n".encode())
