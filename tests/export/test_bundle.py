"""The bundle: complete, readable, drawing what the generator draws; clear words for a broken one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from anyres.export.bundle import load, write_bundle
from anyres.networks import build_generator
from anyres.params import Train
from anyres.plane.window import Window
from anyres.synthesis.render import render
from anyres.synthesis.request import RenderRequest
from tests.export.bundles import ANYRES_GAN, make_bundle

WINDOW = Window((0.1, -0.2), 1 / 40, (20, 28))


def test_folder_holds_what_it_promises(bundle: Path) -> None:
    names = {path.name for path in bundle.iterdir()}
    assert names == {"generator.safetensors", "generator.json", "samples.png", "README.md", "CREDITS.md"}
    with Image.open(bundle / "samples.png") as samples:
        # Three samples, in a grid of two by two frames of 3:2.
        assert samples.size == (2 * 192, 2 * 128)
    card = (bundle / "README.md").read_text(encoding="utf-8")
    assert "patch_kid | 0.25" in card
    assert "CREDITS.md" in card


def test_model_draws_what_its_generator_draws(bundle: Path) -> None:
    model = load(bundle)
    meta = json.loads((bundle / "generator.json").read_text(encoding="utf-8"))
    generator = build_generator(Train.model_validate(meta["params"]["train"]), (1.5, 1.0))
    generator.load_state_dict(load_file(bundle / "generator.safetensors"))
    picture = model.render(seed=5, window=WINDOW, psi=0.4)
    assert picture.shape == (20, 28, 3)
    assert picture.dtype == np.uint8
    assert np.array_equal(picture, render(generator.eval(), RenderRequest(5, WINDOW, psi=0.4)))
    assert model.geometry.chart.half_extent == (1.5, 1.0)


@pytest.mark.parametrize("train", [{}, ANYRES_GAN], ids=["continuum", "anyres_gan"])
def test_half_the_precision_is_half_the_file_and_the_same_picture(tmp_path: Path, train: dict[str, Any]) -> None:
    whole = make_bundle(tmp_path / "whole", 1, 0.5, **train)
    meta = json.loads((whole / "generator.json").read_text(encoding="utf-8"))
    (tmp_path / "half").mkdir()
    halved = write_bundle(tmp_path / "half", whole / "generator.safetensors", meta, 1, half=True)
    sizes = [(folder / "generator.safetensors").stat().st_size for folder in (whole, tmp_path / "half")]
    assert sizes[1] < 0.7 * sizes[0]
    for window in (WINDOW, Window((0.31, -0.2), WINDOW.period / 32, (20, 28))):
        ours, theirs = (model.render(seed=5, window=window).astype(int) for model in (load(whole), halved))
        assert np.abs(ours - theirs).max() <= 2


def test_loading_unpickles_nothing(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError("unpickled")

    monkeypatch.setattr(torch, "load", refuse)
    monkeypatch.setattr("pickle.Unpickler", refuse)
    monkeypatch.setattr("pickle.loads", refuse)
    assert load(bundle).meta["method"] == "continuum"


def test_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nowhere: no such bundle folder"):
        load(tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["generator.json", "generator.safetensors"])
def test_missing_file_is_named(bundle: Path, tmp_path: Path, name: str) -> None:
    copy = Path(shutil.copytree(bundle, tmp_path / "copy"))
    (copy / name).unlink()
    with pytest.raises(ValueError, match=f"no {name} in it"):
        load(copy)


@pytest.mark.parametrize("text", ["{", "[]", "{}"])
def test_spoiled_description_is_refused(bundle: Path, tmp_path: Path, text: str) -> None:
    copy = Path(shutil.copytree(bundle, tmp_path / "copy"))
    (copy / "generator.json").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match="not the description of a bundle"):
        load(copy)


def changed(bundle: Path, folder: Path, **values: object) -> Path:
    copy = Path(shutil.copytree(bundle, folder))
    meta = json.loads((copy / "generator.json").read_text(encoding="utf-8"))
    (copy / "generator.json").write_text(json.dumps(meta | values), encoding="utf-8")
    return copy


def test_unknown_format_is_refused(bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="bundle format 99, this version of anyres reads 1"):
        load(changed(bundle, tmp_path / "copy", format=99))


def test_weights_of_another_network_are_refused(bundle: Path, tmp_path: Path) -> None:
    params = json.loads((bundle / "generator.json").read_text(encoding="utf-8"))["params"]
    params["train"]["network"]["w_dim"] = 13
    with pytest.raises(ValueError, match=r"does not fit generator\.json: .*size mismatch"):
        load(changed(bundle, tmp_path / "copy", params=params))


def test_params_of_another_version_are_said_in_a_line(bundle: Path, tmp_path: Path) -> None:
    params = json.loads((bundle / "generator.json").read_text(encoding="utf-8"))["params"]
    del params["train"]["monitor"]
    with pytest.raises(
        ValueError, match=r"^\S+generator\.json: written by another version of anyres \(monitor: missing; add it\)"
    ):
        load(changed(bundle, tmp_path / "copy", params=params))


def test_params_with_the_discriminator_in_the_network_are_of_another_version(bundle: Path, tmp_path: Path) -> None:
    params = json.loads((bundle / "generator.json").read_text(encoding="utf-8"))["params"]
    for key, value in params["train"].pop("discriminator").items():
        params["train"]["network"][f"d_{key}"] = value
    with pytest.raises(ValueError, match=r"written by another version of anyres \([^\n]*d_channels[^\n]*\); export it again$"):
        load(changed(bundle, tmp_path / "copy", params=params))


@pytest.mark.parametrize("chart", ["frame", "cylinder"])
def test_any_method_and_chart_makes_a_bundle(tmp_path: Path, chart: str) -> None:
    half_extent = (1.0, 0.5) if chart == "cylinder" else (1.5, 1.0)
    folder = make_bundle(tmp_path / "generator", 1, 0.5, half_extent, **ANYRES_GAN, chart=chart, fov=180.0)
    model = load(folder)
    assert model.meta["method"] == "anyres_gan"
    assert (model.geometry.chart.name, model.geometry.chart.fov, model.geometry.exact) == (chart, 180.0, False)
    again = build_generator(Train.model_validate(model.meta["params"]["train"]), half_extent)
    again.load_state_dict(load_file(folder / "generator.safetensors"))
    assert np.array_equal(model.render(5, WINDOW, psi=0.4), render(again.eval(), RenderRequest(5, WINDOW, psi=0.4)))
    with Image.open(folder / "samples.png") as samples:
        aspect = 2.0 if chart == "cylinder" else 1.5
        assert samples.size == (2 * round(128 * aspect), 2 * 128)
