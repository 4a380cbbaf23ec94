"""The evaluation of one trained generator: every number, its table and its figure, from one seed.

Protocol: see `protocol` in metrics.json, which names feature space, kernels, counts, seed and hashes.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import resource
import time
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
from anyres.evaluation.features import FeatureSpace
from anyres.evaluation.scores import Scores, score_patches, score_sweep
from anyres.files import write_atomic
from anyres.params import Params
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
    params: Params, generator: nn.Module, untrained: nn.Module, store: Store, out: Path, first: nn.Module | None = None
) -> dict[str, Any]:
    """Measure `generator` against the pictures of `store`; return the content of `out`/metrics.json.

    `untrained` is the same generator before training, `first` the one of a first stage, if it had one. Writes metrics.json,
    cost.json, plots/*.csv and figures/*.png below `out`. Raises ValueError, one line, for weights that are not finite and
    params that do not fit.
    """
    start = time.monotonic()
    _check(params, generator, untrained)
    trained, before = cast(Generator, generator), cast(Generator, untrained)
    device = device_of(trained)
    space = FeatureSpace(params.evaluate.features, device)
    patches = score_patches(params, trained, before, store, space, cast(Generator, first) if first is not None else None)
    sweep = score_sweep(params, trained, store, space)
    scales = score_scales(params, trained, space)
    metrics: dict[str, Any] = {**patches.numbers, **sweep.numbers, **scales.numbers}
    for stitch in STITCHES[:1] if trained.geometry.exact else STITCHES:
        seams = measure_seams(trained, params.evaluate.seed, stitch)
        metrics |= {f"seam/{key}" if stitch == "grid" else f"seam_{stitch}/{key}": v for key, v in asdict(seams).items()}
    if trained.geometry.chart.name == "cylinder":
        metrics |= {f"ring/{key}": value for key, value in asdict(measure_ring(trained, params.evaluate.seed)).items()}
    metrics["equivariance/integer_db"] = measure_equivariance(trained, params.evaluate.seed)
    metrics["equivariance/fractional_db"] = measure_fractional_equivariance(trained, params.evaluate.seed)
    metrics["protocol"] = protocol(params, generator, store, space)
    _write_json(out / "metrics.json", metrics)
    for name, scores in {"octaves": patches, "sweep": sweep, "self_ssim": scales}.items():
        write_atomic(out / "plots" / f"{name}.csv", table(scores.rows))
    base_px = min(params.train.patch_px)
    drawn = {
        "sweep": figures.draw_sweep(sweep.rows, base_px, space.name),
        "octaves": figures.draw_octaves(patches.rows, space.name),
        "self_ssim": figures.draw_self_ssim(scales.rows),
    }
    for name, figure in drawn.items():
        figures.save_png(figure, out / "figures" / f"{name}.png")
    _write_json(out / "cost.json", cost(time.monotonic() - start, device))
    return metrics


def score_scales(params: Params, generator: Generator, space: FeatureSpace) -> Scores:
    """SelfSSIM and the distance of features (1 - cosine) between one scene's renders, for every pair of sizes."""
    settings = params.evaluate
    sizes, seeds = settings.sizes, draws.scene_seeds(settings.seed, "scenes", settings.num_scenes)
    rows = []
    with progress_bar("evaluate scales", len(seeds) * (len(sizes) + len(sizes) ** 2), "img") as advance:
        scenes = []
        for seed in seeds:
            scenes.append([render(generator, seed, draws.frame_of(generator, size)) for size in sizes])
            advance(len(sizes))
        similarity = self_ssim(scenes)
        for i, reference in enumerate(sizes):
            features = [
                space(np.stack([_bytes(resized(scene[j], reference)) for scene in scenes]), advance) for j in range(len(sizes))
            ]
            for j, size in enumerate(sizes):
                distance = float(np.mean(1 - _cosine(features[i], features[j])))
                rows.append({"reference": reference, "size": size, "ssim": float(similarity[i, j]), "features": distance})
    others = [row for row in rows if row["reference"] != row["size"]]
    numbers = {}
    if others:
        numbers["self_ssim/mean"] = float(np.mean([row["ssim"] for row in others]))
        numbers["self_ssim/min"] = float(np.min([row["ssim"] for row in others]))
        numbers["self_features/mean"] = float(np.mean([row["features"] for row in others]))
    return Scores(numbers, rows)


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
        "weights_hash": weights_hash(generator),
    }


def weights_hash(generator: nn.Module) -> str:
    """SHA-256 over names and values of the weights."""
    total = hashlib.sha256()
    for name, value in sorted(generator.state_dict().items()):
        total.update(name.encode())
        total.update(value.detach().cpu().contiguous().numpy().tobytes())
    return total.hexdigest()


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


def _check(params: Params, generator: nn.Module, untrained: nn.Module) -> None:
    small = [size for size in params.evaluate.sizes if size < SSIM_WINDOW]
    if small:
        raise ValueError(f"params.yaml: evaluate.sizes: SelfSSIM needs {SSIM_WINDOW} pixels or more, found {small[0]}")
    draws.check_weights(generator, "trained generator")
    draws.check_weights(untrained, "untrained generator")


def _cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


def _bytes(picture: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(picture), 0, 255).astype(np.uint8)


def _write_json(path: Path, values: dict[str, Any]) -> None:
    write_atomic(path, f"{json.dumps(values, indent=2)}\n".encode())
