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
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from anyres.data.store import Store
from anyres.evaluation import draws, figures
from anyres.evaluation.consistency import (
    SSIM_WINDOW,
    Ring,
    Seams,
    fractional_psnr,
    resized,
    ring_error,
    seam_error,
    self_ssim,
    shift_psnr,
)
from anyres.evaluation.distances import FD_UNBIASED, KID_SUBSET, NEIGHBOURS
from anyres.evaluation.extraction import Extractor, FeatureCache
from anyres.evaluation.features import AbsentWeights, FeatureSpace
from anyres.evaluation.parallel import Crew, over_chunks
from anyres.evaluation.scores import MIN_SAMPLES, RealPatches, Scores, score_patches, score_scale_inv, score_sweep
from anyres.files import write_atomic
from anyres.params import Evaluate, Params
from anyres.plane.chart import ring_window
from anyres.plane.resample import KERNEL
from anyres.plane.window import Window
from anyres.progress import progress_bar
from anyres.synthesis.render import Generator, Stitch, device_of, render, render_tiles

# Rectangular, off the centre, its origin on no lattice; it fits every frame. In units of half a short side.
SEAM_WINDOW = Window((0.0617, -0.2043), 2.0 / 256, (152, 232))
SEAM_TILE = 64
# Exact generators have no use for the second.
STITCHES: tuple[Stitch, ...] = ("grid", "overlap")
SHIFT = (3, 5)
# Parts of a pixel, down and right.
SHIFTS = ((0.5, 0.25), (-0.3, 0.4), (0.125, -0.5), (-0.45, -0.2))
RING_PX = 128
RINGS = 8
# Written for two renders without any difference: JSON knows no infinity.
MOST_DB = 200.0


def evaluate(
    params: Params,
    generator: nn.Module,
    untrained: nn.Module,
    store: Store,
    out: Path,
    first: nn.Module | None = None,
    crew: Crew | None = None,
    kept: Path | None = None,
    passing: Path | None = None,
) -> dict[str, Any]:
    """Measure `generator` against the pictures of `store`; return the content of `out`/metrics.json.

    `untrained` is the same generator before training, `first` the one of a first stage, if it had one. Writes metrics.json,
    cost.json, neighbours.json, plots/*.csv and figures/*.png below `out`. Every process of a `crew` calls this; the leading one
    writes, the others return {}. Features of reals are kept in the folder `kept`, those of fakes in `passing`, from which an
    interrupted evaluation goes on. Raises ValueError, one line, for weights that are not finite, params that do not fit the
    data, and a first feature space that is not there; others are left out with one line on stderr.
    """
    start = time.monotonic()
    settings, crew = params.evaluate, crew or Crew()
    _check(params, generator, untrained, store, crew.leads)
    trained, before = cast(Generator, generator), cast(Generator, untrained)
    device, base_px = device_of(trained), min(params.train.patch_px)
    spaces, left_out = open_spaces(settings.features, device, crew.leads)
    caches = [FeatureCache(folder) if folder is not None else None for folder in (kept, passing)]
    extractor = Extractor(list(spaces.values()), crew, *caches)
    reals = RealPatches.of(draws.sampler_of(params.train, store, settings.seed), settings.num_samples)
    seeds = draws.scene_seeds(settings.seed, "patches", settings.num_samples)
    fakes = {
        "": draws.fakes(trained, seeds, reals.windows),
        "_init": draws.fakes(before, seeds, reals.windows),
        "_fixed": draws.fixed(trained, seeds, reals.windows, base_px),
    }
    if first is not None:
        fakes["_first"] = draws.fixed(cast(Generator, first), seeds, reals.windows, base_px)
    patches = score_patches(reals, fakes, extractor, settings, "evaluate patches")
    sweep = score_sweep(trained, store, settings.sizes, base_px, extractor, settings, "evaluate sweep")
    distant = score_scale_inv(trained, store, base_px, extractor, settings, "evaluate from afar")
    scales = score_scales(trained, settings.sizes, extractor, settings, "evaluate scales")
    fixed = draws.Enlarged(trained, base_px)
    fixed_scales = score_scales(fixed, settings.sizes, extractor, settings, "evaluate scales of the baseline")
    if not crew.leads:
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


def score_scales(
    generator: Generator, sizes: Sequence[int], extractor: Extractor, settings: Evaluate, title: str
) -> list[Scores]:
    """SelfSSIM and the distance of features (1 - cosine) between one scene's renders, for every pair of sizes."""
    seeds, crew = draws.scene_seeds(settings.seed, "scenes", settings.num_scenes), extractor.crew
    with progress_bar(title, len(seeds), "scenes", crew.leads) as advance:

        def compare(seed: int) -> tuple[np.ndarray, list[np.ndarray]]:
            scene = [render(generator, seed, draws.frame_of(generator, size)) for size in sizes]
            apart = [np.zeros((len(sizes), len(sizes))) for _ in extractor.spaces]
            for i, reference in enumerate(sizes):
                pictures = np.stack([_bytes(resized(picture, reference)) for picture in scene])
                for matrix, space in zip(apart, extractor.spaces, strict=True):
                    features = space(pictures)
                    matrix[i] = 1 - _cosine(features[i][None], features)
            advance(crew.size)
            return self_ssim([scene]), apart

        found = crew.gathered(over_chunks(compare, crew.share(seeds), device_of(generator)))
    similarity = np.mean([matrix for matrix, _ in found], axis=0)
    return [
        _scale_scores(sizes, similarity, np.mean([apart[place] for _, apart in found], axis=0))
        for place in range(len(extractor.spaces))
    ]


def _scale_scores(sizes: Sequence[int], similarity: np.ndarray, apart: np.ndarray) -> Scores:
    rows = [
        {"reference": reference, "size": size, "ssim": float(similarity[i, j]), "features": float(apart[i, j])}
        for i, reference in enumerate(sizes)
        for j, size in enumerate(sizes)
    ]
    others = [row for row in rows if row["reference"] != row["size"]]
    numbers = {}
    if others:
        numbers["self_ssim/mean"] = float(np.mean([row["ssim"] for row in others]))
        numbers["self_ssim/min"] = float(np.min([row["ssim"] for row in others]))
        numbers["self_features/mean"] = float(np.mean([row["features"] for row in others]))
    return Scores(numbers, rows)


def consistency(generator: Generator, seed: int) -> dict[str, float]:
    """Seams, the closing of a ring, and equivariance."""
    found = {}
    for stitch in STITCHES[:1] if generator.geometry.exact else STITCHES:
        seams = measure_seams(generator, seed, stitch)
        found |= {f"seam/{key}" if stitch == "grid" else f"seam_{stitch}/{key}": v for key, v in asdict(seams).items()}
    if generator.geometry.chart.name == "cylinder" and not isinstance(generator, draws.Enlarged):
        found |= {f"ring/{key}": value for key, value in asdict(measure_ring(generator, seed)).items()}
    found["equivariance/integer_db"] = measure_equivariance(generator, seed)
    found["equivariance/fractional_db"] = measure_fractional_equivariance(generator, seed)
    return found


def measure_seams(generator: Generator, seed: int, stitch: Stitch | None = None) -> Seams:
    """Compare a rectangular, off-centre window drawn in tiles with the same drawn whole."""
    scene = draws.scene_seeds(seed, "seams", 1)[0]
    window = seam_window(generator)
    tiled, rows, columns = draw_tiled(generator, scene, window, SEAM_TILE, stitch)
    whole, _, _ = draw_tiled(generator, scene, window, 4 * max(window.size))
    return seam_error(tiled, whole, rows, columns)


def seam_window(generator: Generator) -> Window:
    """SEAM_WINDOW on the generator's own plane."""
    unit, (x, y) = generator.geometry.chart.short_side / 2, SEAM_WINDOW.center
    return Window((x * unit, y * unit), SEAM_WINDOW.period * unit, SEAM_WINDOW.size)


def measure_ring(generator: Generator, seed: int) -> Ring:
    """Draw whole rings in tiles, as any large picture is, and measure how they close."""
    window = ring_window(generator.geometry.chart, RING_PX, generator.geometry.lattice_px)
    seeds = draws.scene_seeds(seed, "rings", RINGS)
    return ring_error([draw_tiled(generator, scene, window, RING_PX)[0] for scene in seeds])


def measure_equivariance(generator: Generator, seed: int) -> float:
    """Decibels between a window moved by whole pixels, off the lattice, and the moved render of the window."""
    scene = draws.scene_seeds(seed, "equivariance", 1)[0]
    down, right = SHIFT
    still = draws.frame_of(generator, 128).crop(0, 0, (96, 120))
    pictures = [draw_tiled(generator, scene, w, 256)[0] for w in (still.crop(down, right, still.size), still)]
    return min(shift_psnr(pictures[0], pictures[1], right, down), MOST_DB)


def measure_fractional_equivariance(generator: Generator, seed: int) -> float:
    """The same for moves of parts of a pixel, mean over SHIFTS: what the network folds back shows here."""
    found = []
    for scene, (down, right) in zip(draws.scene_seeds(seed, "shifts", len(SHIFTS)), SHIFTS, strict=True):
        still = draws.frame_of(generator, 128).crop(8, 8, (112, 112))
        moved = Window((still.center[0] + right * still.period, still.center[1] + down * still.period), still.period, still.size)
        pictures = [draw_tiled(generator, scene, window, 256)[0] for window in (moved, still)]
        found.append(min(fractional_psnr(pictures[0], pictures[1], right, down), MOST_DB))
    return float(np.mean(found))


def draw_tiled(
    generator: Generator, seed: int, window: Window, tile: int, stitch: Stitch | None = None
) -> tuple[np.ndarray, list[int], list[int]]:
    """Draw in tiles without rounding to bytes: float32 (h, w, 3), rows and columns where tiles begin beyond 0."""
    out = np.empty((*window.size, 3), np.float32)
    rows, columns = set(), set()
    for at, pixels in render_tiles(generator, seed, window, tile=tile, stitch=stitch):
        out[at.top : at.top + at.size[0], at.left : at.left + at.size[1]] = pixels.permute(1, 2, 0).float().cpu().numpy()
        rows.add(at.top)
        columns.add(at.left)
    return out, sorted(rows - {0}), sorted(columns - {0})


def protocol(params: Params, generator: nn.Module, store: Store, space: FeatureSpace) -> dict[str, Any]:
    """What a number must carry to be compared with another."""
    settings = params.evaluate
    return {
        "features": space.name,
        "features_kernel": space.kernel,
        "reals_kernel": KERNEL,
        "baseline_kernel": draws.BASELINE_KERNEL,
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
        "weights_hash": draws.weights_hash(generator),
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
    draws.check_weights(generator, "trained generator")
    draws.check_weights(untrained, "untrained generator")


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


def _cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


def _bytes(picture: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(picture), 0, 255).astype(np.uint8)


def _write_json(path: Path, values: Any) -> None:
    write_atomic(path, f"{json.dumps(values, indent=2)}\n".encode())
