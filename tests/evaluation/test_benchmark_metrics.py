"""The benchmark of the metrics, small: what it expects holds on photographs, and what does not hold is said."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import pytest
import skimage.data
import torch
import typer
from PIL import Image
from typer.testing import CliRunner

from anyres.data.intake import intake
from anyres.data.pyramid import prepare
from anyres.data.sources.record import Access, LocalFile, Record
from anyres.data.store import Store
from anyres.evaluation.features import FeatureSpace
from anyres.params import Params

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SIDE = 144
SAMPLES, PATCH = 60, 48


class Measured(NamedTuple):
    results: dict[str, Any]
    plates: dict[str, Any]


@pytest.fixture(scope="module")
def metrics() -> Iterator[ModuleType]:
    """The script as a module; its sibling is found as when it is run."""
    with pytest.MonkeyPatch.context() as patched:
        patched.syspath_prepend(BENCHMARKS)
        spec = importlib.util.spec_from_file_location("benchmark_metrics", BENCHMARKS / "metrics.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        patched.setitem(sys.modules, spec.name, module)
        spec.loader.exec_module(module)
        yield module
        sys.modules.pop("references")


@pytest.fixture(scope="module")
def photographs(params: Params, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """36 squares of the deep sky: alike enough that few patches tell a blur of half a pixel from chance."""
    folder, sky, records = tmp_path_factory.mktemp("photographs"), skimage.data.hubble_deep_field(), []
    for place in range(36):
        top, left = place // 6 * SIDE, place % 6 * SIDE
        file = folder / f"{place}.png"
        Image.fromarray(sky[top : top + SIDE, left : left + SIDE]).save(file)
        records.append(
            Record(file.name, LocalFile(file), file.name, author="R. Williams (STScI)", licence="public domain", page="")
        )
    kept = params.ingest.model_copy(update={"near_duplicates": "keep"})
    intake(records, kept, Access(folder / "cache"), folder / "ingested", progress=False)
    return prepare(folder / "ingested", params.prepare, folder / "store", progress=False)


@pytest.fixture(scope="module")
def measured(metrics: ModuleType, photographs: Store) -> Measured:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return Measured(*metrics.measure(photographs, FeatureSpace("lite0"), SAMPLES, PATCH, progress=False))
    finally:
        torch.set_num_threads(threads)


def test_every_figure_agrees_with_its_reference(measured: Measured):
    rows = measured.results["agreement"]
    assert {row["name"].split(",")[0] for row in rows} == {"FD", "KID", "precision", "recall", "SSIM"}
    assert [row["name"] for row in rows if not row["difference"] <= row["bound"] <= 1e-5] == []
    assert all(np.isfinite([row["ours"], row["theirs"]]).all() for row in rows)


def test_fd_and_kid_rise_with_damage(measured: Measured):
    assert [row["name"] for row in measured.results["damage"]] == ["blur", "JPEG", "shrunk and enlarged", "noise"]
    for row in measured.results["damage"]:
        assert len(row["levels"]) == 5
        for key in ("fd", "kid"):
            values = [level[key] for level in row["levels"]]
            assert values == sorted(values), (row["name"], key)
            assert row[f"{key}_rises"]


def test_duplicates_cost_recall_and_not_precision(measured: Measured):
    whole, *_, fewest = measured.results["duplicates"]
    assert fewest["distinct"] == 4 < SAMPLES / 10
    assert fewest["recall"] < 0.1 < whole["recall"]
    assert abs(fewest["precision"] - whole["precision"]) <= fewest["chance"]


def test_selfssim_praises_a_bare_upsampler_and_the_distances_do_not(measured: Measured):
    photographs, enlarged = measured.results["upsampler"]["rows"]
    agreement = measured.results["upsampler"]["self_ssim"]
    assert agreement["upsampler"]["mean"] >= 0.99
    # Stars fill the band of 32 px up to its limit, where antialiasing takes from them; without the finest details it is nearer 1.
    assert agreement["upsampler"]["least_at"][0] == 32
    assert 0.98 < agreement["upsampler"]["least"] < 0.99 < agreement["upsampler, band-limited"]["least"] < 1
    assert agreement["photographs"]["least"] < 0.95
    assert enlarged["kid"] > 3 * photographs["kid"]
    assert enlarged["fd_low"] > photographs["fd_high"]
    assert enlarged["recall"] < photographs["recall"]


def test_the_page_stands_alone_and_has_every_section(metrics: ModuleType, measured: Measured, tmp_path: Path):
    page = metrics.write(measured.results, measured.plates, tmp_path).read_text(encoding="utf-8")
    assert re.findall(r'<section id="(\w+)">', page) == ["agreement", "damage", "duplicates", "upsampler"]
    assert "All 31 expectations hold." in page
    assert page.count("<img") == 4 * 5 + 2 * 5
    assert set(re.findall(r'src="([^:"]*:)', page)) == {"data:"}
    assert not re.search(r'(src|href)="https?:', page)
    assert json.loads((tmp_path / "metrics.json").read_text()) == measured.results


def test_what_does_not_hold_is_said(metrics: ModuleType, measured: Measured, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    results = deepcopy(measured.results)
    results["damage"][0]["fd_rises"] = False
    results["agreement"][0]["holds"] = False
    results["duplicates"][-1]["recall"] = 1.0
    results["checks"] = list(metrics.checks(results))
    page = metrics.write(results, measured.plates, tmp_path).read_text(encoding="utf-8")
    assert "3 of 31 expectations do not hold" in page
    metrics.show(results)
    printed = capsys.readouterr().out
    assert "28 of 31 hold" in printed
    assert "not: FD rises with blur" in printed
    assert "not: recall falls with duplicates" in printed


def test_an_order_is_broken_by_a_tie_too(metrics: ModuleType):
    assert metrics.rising([1.0, 2.0, 3.0])
    assert not metrics.rising([1.0, 1.0, 3.0])
    assert not metrics.rising([1.0, 3.0, 2.0])


@pytest.mark.parametrize(
    ("damage", "level", "expected"),
    [("blur", 1e-3, 0.0), ("noise", 0.0, 0.0), ("noise", 16.0, 16.0)],
)
def test_damage_is_as_strong_as_it_says(metrics: ModuleType, damage: str, level: float, expected: float):
    pictures = np.random.default_rng(0).integers(96, 160, size=(3, 40, 52, 3)).astype(np.uint8)
    found = getattr(metrics, damage)(pictures, level)
    assert found.dtype == np.uint8
    assert found.shape == pictures.shape
    assert np.std(found.astype(float) - pictures) == pytest.approx(expected, rel=0.03)


def test_the_command_ends_with_one_line_or_with_1_where_an_order_fails(
    metrics: ModuleType, measured: Measured, photographs: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    app = typer.Typer()
    app.command()(metrics.main)
    missing = CliRunner().invoke(app, ["--store", str(tmp_path / "none")])
    assert missing.exit_code == 2
    assert missing.stderr.count("\n") == 1
    assert "run the stage prepare first" in missing.stderr
    assert CliRunner().invoke(app, ["--features", "none"]).exit_code == 2
    results = deepcopy(measured.results)
    # The measurement alone is taken as done: what follows it is the command's own.
    monkeypatch.setattr(metrics, "measure", lambda *_: (results, measured.plates))
    arguments = ["--store", str(photographs.path), "--out", str(tmp_path / "out"), "--threads", str(torch.get_num_threads())]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    results["checks"][3]["holds"] = False
    assert CliRunner().invoke(app, arguments).exit_code == 1
    assert (tmp_path / "out" / "index.html").is_file()
