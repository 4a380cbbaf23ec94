"""Any number of models on one data set, with equal photographs, windows, scenes and metrics: one table and one page."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from torch import nn

from anyres.data.store import Store
from anyres.evaluation import figures, pages, plates, samples
from anyres.evaluation.distances import FD_UNBIASED, NEIGHBOURS
from anyres.evaluation.evaluate import check_sizes
from anyres.evaluation.extraction import Extractor, FeatureCache
from anyres.evaluation.features import FeatureSpace
from anyres.evaluation.measures import consistency, score_scales
from anyres.evaluation.parallel import ProcessGroup
from anyres.evaluation.scores import SCALE_INV, ZOOMED, RealPatches, score_patches, score_scale_inv, score_sweep
from anyres.files import write_atomic
from anyres.networks.generator import Generator, device_of
from anyres.networks.saved import META, RECORD, load_bundle, load_trained
from anyres.networks.shipped import shipped
from anyres.params import Evaluate, Train
from anyres.plane.resample import KERNEL
from anyres.synthesis.render import render
from anyres.synthesis.request import RenderRequest

TEMPLATE = "compare.html"
SCENES = 5
SCENE_PX = 160
ZOOMS = (1, 2, 4, 8, 16)
# Drawn to measure the throughput of a model.
TIMED_PX = 256
TIMED_SCENES = 4


@dataclass(frozen=True)
class Candidate:
    """One model to compare: its name on the page, its generator, its training params and the images it has seen."""

    name: str
    generator: Generator
    train: Train
    nimg: int | None

    @property
    def parameters(self) -> int:
        return sum(p.numel() for p in cast(nn.Module, self.generator).parameters())


def open_candidates(folders: Sequence[Path]) -> list[Candidate]:
    """Open bundles and finished trainings. Raises ValueError, one line, for a folder that holds neither."""
    candidates = [_open(folder) for folder in folders]
    for folder, candidate in zip(folders, candidates, strict=True):
        samples.check_weights(cast(nn.Module, candidate.generator), str(folder))
    names = [candidate.name for candidate in candidates]
    if len(set(names)) < len(names):
        names = [str(folder) for folder in folders]
    if len(set(names)) < len(names):
        names = [f"{name} ({number + 1})" for number, name in enumerate(names)]
    return [replace(candidate, name=name) for candidate, name in zip(candidates, names, strict=True)]


def compare(
    candidates: Sequence[Candidate],
    store: Store,
    settings: Evaluate,
    out: Path,
    zoom_max: float | None = None,
    real_cache: Path | None = None,
) -> dict[str, Any]:
    """Score every model in the same way; write `out`/compare.json and `out`/index.html, and return the content of compare.json.

    Patches have the side of the smallest training patch of all models. Zooms reach `zoom_max`, by default the largest zoom of
    any training. The baseline of each model is its coarsest pictures, upsampled by Lanczos. Raises ValueError, one line, where
    the settings do not fit the data.
    """
    check_sizes(settings.sizes, settings.num_sweep_samples, store, "sizes", True)
    patch = min(min(candidate.train.patch_px) for candidate in candidates)
    furthest = max(candidate.train.zoom_max * min(candidate.train.patch_px) / patch for candidate in candidates)
    native = store.pictures.sizes.min(axis=1).max() / patch
    zoom = min(zoom_max or furthest, float(native))
    space = FeatureSpace(settings.features[0], device_of(candidates[0].generator))
    cache = FeatureCache(real_cache) if real_cache is not None else None
    extractor = Extractor([space], ProcessGroup(), cache)
    rows = []
    for number, candidate in enumerate(candidates):
        start = time.monotonic()
        title = f"{candidate.name} ({number + 1} of {len(candidates)})"
        rows.append(_score(candidate, store, settings, patch, zoom, extractor, title))
        rows[-1]["seconds"] = round(time.monotonic() - start, 1)
    comparison = {
        "protocol": {
            "features": space.name,
            "features_kernel": space.kernel,
            "reals_kernel": KERNEL,
            "baseline_kernel": samples.BASELINE_KERNEL,
            "patch_px": patch,
            "zoom_max": round(zoom, 3),
            "period_law": "log_uniform",
            "num_samples": settings.num_samples,
            "num_sweep_samples": settings.num_sweep_samples,
            "num_scenes": settings.num_scenes,
            "sizes": list(settings.sizes),
            "seed": settings.seed,
            "precision_recall_k": NEIGHBOURS,
            "fd_biased": min(settings.num_samples, settings.num_sweep_samples) < FD_UNBIASED,
            "data_hash": store.hash,
        },
        "models": rows,
    }
    write_atomic(out / "compare.json", f"{json.dumps(comparison, indent=2)}\n".encode())
    content = {
        **comparison,
        "lines": table(comparison),
        "pictures": [_pictures(candidate, settings) for candidate in candidates],
        "charts": _charts(rows, space),
    }
    write_atomic(out / "index.html", pages.fill_template(TEMPLATE, content | {"fd_unbiased": FD_UNBIASED}))
    return comparison


def _open(folder: Path) -> Candidate:
    folder = folder if folder.exists() else shipped().get(str(folder), folder)
    if (folder / META).is_file():
        generator, meta = load_bundle(folder)
        train = Train.model_validate(meta["params"]["train"])
        # The stage export always names its folder so: the method says more.
        name = train.method if folder.resolve().name == "generator" else folder.resolve().name
        return Candidate(name, generator, train, meta.get("nimg"))
    if (folder / RECORD).is_file():
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        train = Train.model_validate(record["params"])
        # The folder of a training is mostly called train: the one above it says more.
        path = folder.resolve()
        name = path.parent.name if path.name == "train" else path.name
        return Candidate(name, load_trained(folder), train, record["nimg"])
    raise ValueError(f"{folder}: neither a bundle ({META}) nor a finished training ({RECORD}) is there; name such a folder")


def _score(
    candidate: Candidate, store: Store, settings: Evaluate, patch: int, zoom: float, extractor: Extractor, title: str
) -> dict[str, Any]:
    generator = candidate.generator
    changes = {"patch_px": (patch, patch), "zoom_max": zoom, "period_law": "log_uniform"}
    sampler = samples.sampler_of(candidate.train.model_copy(update=changes), store, settings.seed)
    reals = RealPatches.of(sampler, settings.num_samples)
    seeds = samples.scene_seeds(settings.seed, "patches", settings.num_samples)
    base = min(candidate.train.patch_px)
    fakes = {
        "": samples.fakes(generator, seeds, reals.windows),
        "_fixed": samples.upsampled_baseline(generator, seeds, reals.windows, base),
    }
    (patches,) = score_patches(reals, fakes, extractor, settings, f"{title}: patches")
    (sweep,) = score_sweep(generator, store, settings.sizes, base, extractor, settings, f"{title}: sizes")
    (scale_inv,) = score_scale_inv(generator, store, base, extractor, settings, f"{title}: larger canvases")
    (scales,) = score_scales(generator, settings.sizes, extractor, settings, f"{title}: scales")
    numbers = {**patches.numbers, **sweep.numbers, **scale_inv.numbers, **scales.numbers, **consistency(generator, settings)}
    zoomed = next((row for row in patches.rows if row["zoom"].endswith("-max")), None)
    if zoomed is None:
        zoomed = next((row for row in patches.rows if row["zoom"].startswith(f"{2**ZOOMED}-")), {})
    frame = samples.frame_of(generator, TIMED_PX)
    start = time.monotonic()
    for seed in range(TIMED_SCENES):
        render(generator, RenderRequest(seed, frame))
    return {
        "name": candidate.name,
        "method": candidate.train.method,
        "nimg": candidate.nimg,
        "base_px": base,
        "parameters": candidate.parameters,
        "weights_hash": samples.weights_hash(cast(nn.Module, generator)),
        "mp_per_s": TIMED_SCENES * TIMED_PX**2 / 1e6 / (time.monotonic() - start),
        "zoomed": {key: zoomed[key] for key in ("kid", "kid_low", "kid_high", "kid_fixed", "kid_reals") if key in zoomed},
        "numbers": numbers,
        "octaves": patches.rows,
        "sweep": sweep.rows,
        "self_ssim": scales.rows,
    }


def _charts(rows: list[dict[str, Any]], space: FeatureSpace) -> dict[str, str]:
    by_name = {row["name"]: row for row in rows}
    sweep = figures.draw_candidates({name: row["sweep"] for name, row in by_name.items()}, "size", ("fd", "kid"), space.name)
    octaves = figures.draw_candidate_octaves({name: row["octaves"] for name, row in by_name.items()}, space.name)
    return {
        "sweep": figures.to_svg(sweep, "sweep", "FD and KID over frame size, one line a model; numbers in the table"),
        "octaves": figures.to_svg(octaves, "octaves", "Patch KID by zoom octave, one bar a model; numbers in the table"),
    }


def _pictures(candidate: Candidate, settings: Evaluate) -> dict[str, list[plates.Plate]]:
    seeds = samples.scene_seeds(settings.seed, "scenes", SCENES)
    frame = samples.frame_of(candidate.generator, SCENE_PX)
    scenes = [
        plates.plate(render(candidate.generator, RenderRequest(seed, frame)), f"{candidate.name}, scene {seed}", lossless=False)
        for seed in seeds
    ]
    return {
        "scenes": scenes,
        "scales": plates.over_scales(settings.sizes, candidate.generator, seeds[0]),
        "zooms": plates.zoom_in(candidate.generator, seeds[0], ZOOMS),
    }


@dataclass(frozen=True)
class Line:
    """One metric of all models: its name, the cells as text, the index of the best one, and whether it is the baseline's."""

    name: str
    cells: list[str]
    best: int | None
    baseline: bool


def table(comparison: dict[str, Any]) -> list[Line]:
    """Return the comparison, one line for each metric; metrics that no model has are left out."""
    models, lines = comparison["models"], []

    def add(
        name: str, key: str, text_of: Callable[[float], str], best: Callable[..., int] | None = min, group: str = "numbers"
    ) -> None:
        values = [row[group].get(key) for row in models]
        present = [value for value in values if value is not None]
        if present:
            cells = ["–" if value is None else text_of(value) for value in values]
            winner = values.index(best(present)) if best is not None and len(present) > 1 else None
            # Two cells with equal text: none is best.
            if winner is not None and cells.count(cells[winner]) > 1:
                winner = None
            lines.append(Line(name, cells, winner, "fixed" in key))

    def with_baseline(name: str, key: str, baseline_key: str, group: str = "numbers") -> None:
        add(name, key, pages.three_places, group=group)
        add("its coarsest scale, enlarged", baseline_key, pages.three_places, None, group)

    with_baseline("patch KID", "patch_kid", "patch_kid_fixed")
    with_baseline("patch KID at zoom 2 and more", "kid", "kid_fixed", "zoomed")
    add("patch FD", "patch_fd", pages.number)
    add("precision", "patch_precision", lambda value: f"{value:.2f}", max)
    add("recall", "patch_recall", lambda value: f"{value:.2f}", max)
    for size in comparison["protocol"]["sizes"]:
        with_baseline(f"KID of frames of {size} px", f"sweep/{size}/kid", f"sweep/{size}/fixed_kid")
    for times in SCALE_INV:
        add(f"KID of a canvas {times} times as large", f"scale_inv/{times}/kid", pages.three_places)
    add("SelfSSIM over sizes, mean", "self_ssim/mean", lambda value: f"{value:.3f}", max)
    add("seam, largest difference", "seam/max", pages.number)
    add("equivariance to subpixel shifts, dB", "equivariance/fractional_db", pages.number, max)
    lines.append(Line("throughput, MP/s", [f"{row['mp_per_s']:.1f}" for row in models], None, False))
    return lines


def print_table(comparison: dict[str, Any]) -> None:
    """Print the table to a terminal, one column for each model."""
    from rich.console import Console
    from rich.table import Table

    output = Table("", *(row["name"] for row in comparison["models"]))
    for line in table(comparison):
        cells = [f"[bold]{cell}[/bold]" if number == line.best else cell for number, cell in enumerate(line.cells)]
        output.add_row(f"  {line.name}" if line.baseline else line.name, *cells, style="dim" if line.baseline else None)
    Console().print(output)
