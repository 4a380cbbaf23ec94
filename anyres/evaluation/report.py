"""The report: one self-contained page about a trained generator."""

from __future__ import annotations

import csv
import json
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from anyres.data.store import Store
from anyres.evaluation import figures, plates, samples
from anyres.evaluation.distances import FD_UNBIASED
from anyres.evaluation.features import SPACES
from anyres.evaluation.measures import SEAM_TILE, SEAM_WINDOW, STITCHES, draw_tiled, seam_window
from anyres.evaluation.pages import fill_template, number, three_places
from anyres.files import write_atomic
from anyres.params import Params

TEMPLATE = "report.html"
SEAM_GAIN = 10_000.0
APPROXIMATE_SEAM_GAIN = 10.0


def write_report(
    out: Path,
    params: Params,
    generator: nn.Module,
    store: Store,
    trained: Path,
    evaluation: Path,
    facts: Mapping[str, str] | None = None,
) -> Path:
    """Write `out`/index.html and return its path.

    `trained` is the folder of a finished training (train.json, history.jsonl, samples/), `evaluation` that of
    `evaluate`. `facts` (commit, machine, ...) join the footer. Raises ValueError, one line, where a file is missing.
    """
    content = {
        **_pictures(params, generator, store, trained, evaluation),
        **_numbers(params, store, trained, evaluation),
        "facts": _footer(params, store, trained, evaluation, facts or {}),
    }
    page = out / "index.html"
    write_atomic(page, fill_template(TEMPLATE, content))
    return page


def _pictures(params: Params, generator: Any, store: Store, trained: Path, evaluation: Path) -> dict[str, Any]:
    seed, hero = plates.hero(params, generator, store)
    seam_seed = samples.scene_seeds(params.evaluate.seed, "seams", 1)[0]
    seam_at = seam_window(generator)
    whole, _, _ = draw_tiled(generator, seam_seed, seam_at, 4 * max(seam_at.size))
    seams = []
    for stitch in STITCHES if not generator.geometry.exact else STITCHES[:1]:
        tiled, rows, columns = draw_tiled(generator, seam_seed, seam_at, SEAM_TILE, stitch)
        gain = SEAM_GAIN if generator.geometry.exact else APPROXIMATE_SEAM_GAIN
        seams += plates.seam_plates(tiled, whole, rows, columns, gain)
    return {
        "hero": hero,
        "hero_seed": seed,
        "hero_scenes": plates.HERO_SCENES,
        "scenes": plates.scenes(params, generator),
        "reals": plates.real_examples(params, store),
        "scales": plates.over_scales(params.evaluate.sizes, generator, seed),
        "zooms": plates.zoom_in(generator, seed, plates.ZOOMS),
        "pairs": plates.patch_pairs(params, generator, store),
        "neighbours": plates.neighbours(params, generator, store, _read_json(evaluation / "neighbours.json", "evaluate")),
        "training_samples": plates.training_samples(trained / "samples"),
        "seam_size": SEAM_WINDOW.size,
        "seam_scenes": params.evaluate.num_scenes,
        "seams": seams,
        "ring": plates.ring(generator, seed),
    }


def _numbers(params: Params, store: Store, trained: Path, evaluation: Path) -> dict[str, Any]:
    metrics = _read_json(evaluation / "metrics.json", "evaluate")
    sweep, octaves, ssim = (_read_csv(evaluation / "plots" / f"{name}.csv") for name in ("sweep", "octaves", "self_ssim"))
    history = [json.loads(line) for line in (trained / "history.jsonl").read_text(encoding="utf-8").splitlines()]
    space = metrics["protocol"]["features"]
    base_px = min(params.train.patch_px)
    sizes = list(dict.fromkeys(row["reference"] for row in ssim))
    baselines = "this model and the enlarged baseline"
    return {
        "metrics": metrics,
        "protocol": metrics["protocol"],
        "train": _read_json(trained / "train.json", "train"),
        "data": store.stats,
        "pictures": store.pictures,
        "sweep": sweep,
        "octaves": octaves,
        "scale_inv": _read_csv(table) if (table := evaluation / "plots" / "scale_inv.csv").exists() else [],
        "spaces": _other_spaces(metrics),
        "ssim_sizes": sizes,
        "ssim": [[row for row in ssim if row["reference"] == reference] for reference in sizes],
        "base_px": base_px,
        "small_sample": metrics["protocol"]["fd_biased"],
        "fd_unbiased": FD_UNBIASED,
        "verdict": verdict(metrics),
        # The only unescaped content: SVGs made here.
        "svg": {
            "history": figures.to_svg(figures.draw_history(history), "history", "Losses, logits and penalties while training"),
            "sweep": figures.to_svg(
                figures.draw_sweep(sweep, base_px, space),
                "sweep",
                f"FD and KID over frame size, {baselines}; numbers in the table",
            ),
            "monitor": figures.to_svg(
                figures.draw_monitor(history), "monitor", "Patch KID of the small evaluation over images seen"
            ),
            "octaves": figures.to_svg(figures.draw_octaves(octaves, space), "octaves", f"Patch KID by zoom octave, {baselines}"),
        },
    }


def _other_spaces(metrics: Mapping[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Return the metrics in the feature spaces after the first, by the name of their distance."""
    by_distance = []
    for space, facts in SPACES.items():
        numbers = {key.removeprefix(f"{space}/"): value for key, value in metrics.items() if key.startswith(f"{space}/")}
        if numbers:
            by_distance.append((facts.distance_name, numbers))
    return by_distance


def verdict(metrics: Mapping[str, Any]) -> str:
    """Return one sentence that compares the patch KIDs before and after training."""
    now, before, reals = (metrics[key] for key in ("patch_kid", "patch_kid_init", "patch_kid_reals"))
    first, then, floor = three_places(now), three_places(before), three_places(reals)
    scores = f"patch KID {first}, against {then} before training and {floor} between two sets of photographs"
    if now <= 0:
        return f"Patches cannot be told from photographs by this metric: {scores}."
    if now >= before:
        return f"Training has not brought patches nearer to photographs: {scores}."
    return f"Patches are {number(before / now)} times nearer to photographs than before training: {scores}."


def _footer(params: Params, store: Store, trained: Path, evaluation: Path, facts: Mapping[str, str]) -> list[tuple[str, str]]:
    train, cost = _read_json(trained / "train.json", "train"), _read_json(evaluation / "cost.json", "evaluate")
    protocol = _read_json(evaluation / "metrics.json", "evaluate")["protocol"]
    return [
        ("weights", f"SHA-256 {protocol['weights_hash']}"),
        ("data", store.hash),
        ("training", f"{train['method']}, seed {params.train.seed}, {train['nimg']:,} images in {duration(train['seconds'])}"),
        ("evaluation", f"seed {protocol['seed']}, {duration(cost['seconds'])}, {cost['host_gib']:.1f} GiB of memory at most"),
        ("features", f"{protocol['features']}, {protocol['features_kernel']}; photographs by {protocol['reals_kernel']}"),
        ("KID", protocol["kid"]),
        ("frame", protocol["frame"]),
        *facts.items(),
        ("machine", f"{train['device']}, {train['num_processes']} process(es), {os.cpu_count()} cores, {platform.machine()}"),
        ("software", f"Python {platform.python_version()}, torch {torch.__version__}"),
    ]


def duration(seconds: float) -> str:
    """Format a duration in s, min or h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _read_json(path: Path, stage: str) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file; run the stage {stage} first") from None


def _read_csv(path: Path) -> list[dict[str, Any]]:
    """Read the rows of a table of the evaluation, without empty cells."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return [{key: _cell(value) for key, value in row.items() if value != ""} for row in csv.DictReader(file)]
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file; run the stage evaluate first") from None


def _cell(text: str) -> Any:
    if text in ("True", "False"):
        return text == "True"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
