"""Evaluation and report of generators whose tiles do not agree exactly, and of rings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from anyres.data.store import Store
from anyres.evaluation.consistency import ring_error
from anyres.evaluation.evaluate import Snapshots, evaluate
from anyres.evaluation.report import write_report
from anyres.networks import build_generator
from anyres.params import Params, Train
from tests.export.bundles import ANYRES_GAN, INFINITY_GAN

from .ripples import EVALUATE


def test_the_step_of_a_ring_is_ranked_among_its_others() -> None:
    x = np.linspace(0, 2 * np.pi, 64, endpoint=False)
    closed = np.repeat(np.sin(x + 0.3)[None, :, None], 5, axis=0)
    ring = ring_error([closed])
    assert ring.step <= ring.interior_p95
    cut = np.repeat(np.linspace(-1, 1, 64)[None, :, None], 5, axis=0)
    open_ring = ring_error([cut, cut])
    assert open_ring.step == pytest.approx(2.0)
    assert open_ring.interior_p95 == pytest.approx(2 / 63)
    assert open_ring.rank == 1.0


def judged(params: Params, store: Store, folder: Path, half_extent: tuple[float, float], **changes: Any) -> tuple[dict, str]:
    """Metrics and page of an untrained generator."""
    train = Train.model_validate(params.train.model_dump() | changes)
    evaluation = params.evaluate.model_copy(update=EVALUATE | {"sizes": (32, 48), "num_samples": 24})
    params = params.model_copy(update={"train": train, "evaluate": evaluation})
    torch.manual_seed(0)
    generator, untrained = (build_generator(train, half_extent).eval().requires_grad_(False) for _ in range(2))
    metrics = evaluate(params, Snapshots(generator, untrained), store, folder / "evaluation")
    trained = folder / "train"
    (trained / "samples").mkdir(parents=True)
    Image.new("RGB", (64, 32)).save(trained / "samples" / "000000.png")
    (trained / "history.jsonl").write_text(json.dumps({"nimg": 1000, "loss/d": 1.0, "loss/g": 0.5}) + "\n")
    record = {"method": train.method, "nimg": 1000, "seconds": 1.0, "img_per_s": 4.0, "pictures": 30, "pictures_skipped": 0}
    record |= {"parameters": {"g": 4000, "d": 7000}, "device": "cpu", "num_processes": 1}
    (trained / "train.json").write_text(json.dumps(record))
    page = write_report(folder / "report", params, generator, store, trained, folder / "evaluation")
    return metrics, page.read_text(encoding="utf-8")


@pytest.mark.parametrize(("chart", "fov"), [("frame", 180.0), ("cylinder", 60.0)])
def test_a_generator_with_borders_is_measured_both_ways(
    params: Params, store: Store, tmp_path: Path, chart: str, fov: float
) -> None:
    half_extent = (1.0, 0.4) if chart == "cylinder" else (1.5, 1.0)
    changes = ANYRES_GAN | {"chart": chart, "fov": fov, "zoom_max": 2.0}
    metrics, text = judged(params, store, tmp_path, half_extent, **changes)
    assert 0 < metrics["seam_overlap/mean"] < metrics["seam/mean"] + 1e-6
    assert 0 <= metrics["seam_overlap/gradient_ratio"] < 2
    assert ("ring/step" in metrics) == (chart == "cylinder")
    if chart == "cylinder":
        assert 0 <= metrics["ring/rank"] <= 1
    assert "blended into each other" in text
    assert ("<h3>360 degrees</h3>" in text) == (chart == "cylinder")


def test_a_generator_of_one_scale_on_an_unbounded_plane_is_measured(params: Params, store: Store, tmp_path: Path) -> None:
    metrics, text = judged(params, store, tmp_path, (1.5, 1.0), **INFINITY_GAN)
    assert metrics["seam/max"] <= 1e-5
    assert metrics["equivariance/integer_db"] > 90
    assert "blended into each other" not in text
