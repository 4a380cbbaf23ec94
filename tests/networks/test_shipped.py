"""The models that come with anyres: sound, small, credited, and known by their names everywhere."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open
from typer.testing import CliRunner

import anyres
from anyres import Window
from anyres.cli import app
from anyres.evaluation.compare import open_candidates
from anyres.networks.shipped import locate, shipped

ROOT = Path(__file__).resolve().parents[2]
LIMIT_BYTES = 16 << 20


def test_there_are_models() -> None:
    assert "continuum-deepsky" in shipped()


@pytest.mark.parametrize("name", shipped())
def test_a_shipped_model_is_small_half_precise_and_credited(name: str) -> None:
    folder = shipped()[name]
    meta = json.loads((folder / "generator.json").read_text())
    weights = folder / "generator.safetensors"
    assert sum(path.stat().st_size for path in folder.iterdir()) <= LIMIT_BYTES
    assert hashlib.sha256(weights.read_bytes()).hexdigest() == meta["weights_sha256"]
    with safe_open(weights, framework="pt") as file:
        assert {file.get_slice(key).get_dtype() for key in file.keys() if "weight" in key} == {"F16"}  # noqa: SIM118
    assert meta["metrics"]["patch_kid"] < meta["metrics"]["patch_kid_init"]
    assert (folder / "CREDITS.md").stat().st_size > 1000
    assert "CREDITS.md" in (folder / "README.md").read_text()
    assert name.startswith(meta["method"])


@pytest.mark.parametrize("name", shipped())
def test_a_shipped_model_draws(name: str) -> None:
    picture = anyres.load(name).render(seed=4, window=Window((0.0, 0.0), 2 / 64, (64, 64)))
    assert picture.shape == (64, 64, 3)
    assert np.std(picture) > 4


def test_a_folder_of_that_name_goes_first_and_others_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "continuum-deepsky").mkdir()
    assert locate("continuum-deepsky") == Path("continuum-deepsky")
    with pytest.raises(ValueError, match=r"continuum-depsky: no such bundle folder; .*continuum-deepsky"):
        locate("continuum-depsky")


@pytest.mark.parametrize("page", ["README.md", "models/README.md"])
def test_what_the_pages_say_draws(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = re.findall(r"^    anyres (render [a-z].*)$", (ROOT / page).read_text(), re.MULTILINE)
    assert lines
    monkeypatch.chdir(tmp_path)
    for line in lines:
        done = CliRunner().invoke(app, shlex.split(line))
        assert done.exit_code == 0, done.output
    with Image.open("picture.png") as picture:
        assert picture.size == (1024, 1024)


def test_commands_know_the_names() -> None:
    listed = CliRunner().invoke(app, ["models"])
    assert listed.output.endswith("anyres view continuum-deepsky\n")
    assert json.loads(CliRunner().invoke(app, ["models", "--json"]).output).keys() == shipped().keys()
    told = json.loads(CliRunner().invoke(app, ["info", "continuum-deepsky", "--json"]).output)
    assert told["parameters"] > 100_000
    assert open_candidates([Path("continuum-deepsky")])[0].name == "continuum-deepsky"
