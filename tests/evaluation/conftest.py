"""A small store of real photographs, and one finished evaluation of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import skimage.data
from PIL import Image

from anyres.data.intake import intake
from anyres.data.pyramid import prepare
from anyres.data.sources.record import Access, LocalFile, Record
from anyres.data.store import Store
from anyres.evaluation.evaluate import Snapshots, evaluate
from anyres.evaluation.report import write_report
from anyres.params import Params

from .ripples import EVALUATE, NAME, Evaluated, Ripples

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def params() -> Params:
    """The project's own parameters, made small."""
    params = Params.load(ROOT / "params.yaml")
    train = params.train.model_copy(update={"patch_px": (16, 20), "zoom_max": 4.0})
    ingest = params.ingest.model_copy(update={"min_side_px": 24})
    evaluation = params.evaluate.model_copy(update=EVALUATE)
    return params.model_copy(update={"train": train, "ingest": ingest, "evaluate": evaluation})


@pytest.fixture(scope="session")
def store(params: Params, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Crops of a photograph of the deep sky: 30 pictures, 10 of them 64 px or more across, some wide, some high."""
    folder, sky = tmp_path_factory.mktemp("sky"), skimage.data.hubble_deep_field()
    records = []
    for place in range(30):
        height, width = (64 + place, 80) if place % 3 == 0 else (44, 40 + place)
        top, left = 60 + place // 6 * 130, 20 + place % 6 * 150
        file = folder / f"{place}.png"
        Image.fromarray(sky[top : top + height, left : left + width]).save(file)
        name = NAME if place == 0 else f"field-{place}.png"
        page = "javascript:alert(1)" if place == 1 else f"https://example.org/{place}"
        records.append(Record(name, LocalFile(file), name, author="R. Williams (STScI)", licence="public domain", page=page))
    intake(records, params.ingest, Access(folder / "cache"), folder / "ingested", progress=False)
    return prepare(folder / "ingested", params.prepare, folder / "store", progress=False)


@pytest.fixture(scope="session")
def evaluated(params: Params, store: Store, tmp_path_factory: pytest.TempPathFactory) -> Evaluated:
    folder = tmp_path_factory.mktemp("evaluated")
    metrics = evaluate(params, Snapshots(Ripples(0.4), Ripples(6.0)), store, folder / "evaluation")
    trained = folder / "train"
    (trained / "samples").mkdir(parents=True)
    for kimg in (0, 3):
        Image.new("RGB", (64, 32), (kimg * 40, 20, 60)).save(trained / "samples" / f"{kimg:06d}.png")
    lines = [{"nimg": 1000 * k, "loss/d": 1 / k, "loss/g": 0.5 * k, "penalty/r1": 0.1} for k in (1, 2, 3)]
    (trained / "history.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    record = {
        "method": "continuum",
        "nimg": 3000,
        "seconds": 61.5,
        "img_per_s": 48.8,
        "pictures": 30,
        "pictures_skipped": 0,
        "parameters": {"g": 400_000, "d": 700_000},
        "device": "cpu",
        "num_processes": 1,
    }
    (trained / "train.json").write_text(json.dumps(record))
    page = write_report(folder / "report", params, Ripples(0.4), store, trained, folder / "evaluation", {"git commit": "0123abc"})
    return Evaluated(params, store, folder, metrics, page.read_text(encoding="utf-8"))
