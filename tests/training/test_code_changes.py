"""A training under changed code: it starts again and says why; better words change nothing."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from anyres.data.store import Store
from anyres.params import Params, Train

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the library, to be edited."""
    folder = tmp_path_factory.mktemp("checkout")
    shutil.copytree(ROOT / "anyres", folder / "anyres", ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def train(checkout: Path, store: Store, params: Train, *options: str) -> str:
    """Train with the code of a checkout; return what was printed to stderr."""
    values = Params.load(ROOT / "params.yaml").model_dump(mode="json") | {"train": params.model_dump(mode="json")}
    with (checkout / "params.yaml").open("w") as file:
        YAML(typ="safe", pure=True).dump(values, file)
    words = [sys.executable, "-m", "anyres", "train", "--store", str(store.path), *options]
    environ = os.environ | {"PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    done = subprocess.run(words, cwd=checkout, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stderr


def edit(file: Path, old: str, new: str) -> None:
    source = file.read_text(encoding="utf-8")
    assert old in source
    file.write_text(source.replace(old, new), encoding="utf-8")


def test_a_change_of_code_trains_again_and_says_why_and_a_comment_does_not(checkout: Path, store: Store, tiny: Train) -> None:
    params = tiny.model_copy(update={"kimg": 0.032, "monitor": tiny.monitor.model_copy(update={"every_kimg": 0.0})})
    losses, weights = checkout / "anyres/training/losses.py", checkout / "out/train/generator.safetensors"
    train(checkout, store, params)
    first, (run,) = weights.read_bytes(), (checkout / "out/runs").iterdir()
    record = json.loads((checkout / "out/train/train.json").read_text())

    edit(losses, "def relativistic_g(", "# A comment.\ndef relativistic_g(")
    assert "code changed" not in train(checkout, store, params)
    assert weights.read_bytes() == first
    assert list((checkout / "out/runs").iterdir()) == [run]

    edit(losses, "F.softplus(-(fake - real)).mean()", "5 * F.softplus(-(fake - real)).mean()")
    message = train(checkout, store, params)
    assert f"train: code changed since run {run.name}: anyres/training/losses.py; training from the start as " in message
    assert "--ignore-code resumes the earlier run" in message
    assert weights.read_bytes() != first
    again = json.loads((checkout / "out/train/train.json").read_text())
    assert (again["settings"], again["nimg"]) == (record["settings"], record["nimg"])
    assert again["fingerprint"] != record["fingerprint"]
    assert again["code"] != record["code"]

    longer = params.model_copy(update={"kimg": 0.064})
    train(checkout, store, longer)
    edit(losses, "5 * F.softplus(-(fake", "4 * F.softplus(-(fake")
    assert "although its code changed: anyres/training/losses.py" in train(checkout, store, longer, "--ignore-code")
    assert json.loads((checkout / "out/train/train.json").read_text())["code_changed"] == ["anyres/training/losses.py"]
