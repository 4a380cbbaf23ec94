"""Models side by side: bundles and trainings alike, one table, one page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from anyres.cli import app
from anyres.data.store import Store
from anyres.evaluation.compare import open_candidates
from anyres.networks import build_generator
from anyres.params import Params, Train
from anyres.training.best import write_weights
from tests.conftest import TINY_NETWORK
from tests.export.bundles import INFINITY_GAN, make_bundle

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def models(params: Params, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A bundle, and the folder of a training of another method."""
    root = tmp_path_factory.mktemp("models")
    make_bundle(root / "sky", seed=0, patch_kid=0.5)
    values = params.train.model_dump()
    train = Train.model_validate(values | {"network": values["network"] | TINY_NETWORK} | INFINITY_GAN)
    folder = root / "endless" / "train"
    folder.mkdir(parents=True)
    torch.manual_seed(1)
    write_weights(build_generator(train, (1.5, 1.0)), folder / "generator.safetensors")
    record = {"params": train.model_dump(mode="json"), "half_extent": (1.5, 1.0), "nimg": 7000}
    (folder / "train.json").write_text(json.dumps(record))
    return [root / "sky", folder]


@pytest.fixture(scope="module")
def compared(models: list[Path], store: Store, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    out = tmp_path_factory.mktemp("compared")
    options = ["--store", str(store.path), "--out", str(out), "--params", str(ROOT / "params.yaml")]
    small = ["--samples", "60", "--frames", "24", "--sizes", "24,40"]
    done = CliRunner().invoke(app, ["compare", *map(str, models), *options, *small], env={"COLUMNS": "200"})
    assert done.exit_code == 0, done.output
    return out, done.output


def test_every_model_is_scored_alike(compared: tuple[Path, str], store: Store) -> None:
    found: dict[str, Any] = json.loads((compared[0] / "compare.json").read_text())
    assert [row["name"] for row in found["models"]] == ["sky", "endless"]
    first, second = (row["numbers"] for row in found["models"])
    # Photographs score the same whichever model stands beside them.
    assert found["protocol"]["data_hash"] == store.hash
    for key in ("patch_kid", "patch_kid_fixed", "patch_recall", "sweep/24/kid", "self_ssim/mean", "seam/max"):
        assert first[key] != second[key] or key == "patch_recall"
    assert first["patch_kid_reals"] == pytest.approx(second["patch_kid_reals"], abs=0.05)
    assert "scale_inv/2/fd" in second
    assert "scale_inv/2/fd" not in first
    assert [row["nimg"] for row in found["models"]][1] == 7000


def test_the_table_and_the_page_show_all(compared: tuple[Path, str]) -> None:
    out, said = compared
    page = (out / "index.html").read_text(encoding="utf-8")
    for name in ("sky", "endless"):
        assert name in said
        assert f"<h3>{name}</h3>" in page
    assert said.count("enlarged") == 4
    assert page.count("data:image/webp") > 20
    assert "<svg" in page
    assert 'src="http' not in page


def test_the_same_name_twice_is_told_apart(models: list[Path]) -> None:
    assert [candidate.name for candidate in open_candidates([models[0], models[0].parent / "endless" / "train"])] == [
        "sky",
        "endless",
    ]
    twice = open_candidates([models[0], models[0]])
    assert [candidate.name for candidate in twice] == [f"{models[0]} (1)", f"{models[0]} (2)"]


def test_what_is_no_model_is_named_in_a_line(tmp_path: Path, store: Store) -> None:
    options = ["--store", str(store.path), "--out", str(tmp_path / "out"), "--params", str(ROOT / "params.yaml")]
    done = CliRunner().invoke(app, ["compare", str(tmp_path), *options])
    assert done.exit_code == 2
    assert len(done.output.strip().splitlines()) == 1
    assert "neither a bundle" in done.output
    assert not (tmp_path / "out").exists()
