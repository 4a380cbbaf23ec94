"""Commands that show scenes over scales, and those that say what there is."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageSequence
from typer.testing import CliRunner, Result

import anyres
from anyres.cli import app
from anyres.plane.window import Window
from tests.export.bundles import INFINITY_GAN, make_bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("models") / "sky", seed=0, patch_kid=0.25)


def run(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def test_a_grid_holds_every_scene_at_every_size(bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "grid.png"
    done = run("grid", bundle, "--seeds", "3,8", "--sizes", "16,32", "--out", out)
    assert done.exit_code == 0, done.output
    grid = np.asarray(Image.open(out))
    model = anyres.load(bundle)
    wide, high = model.geometry.chart.half_extent
    width = round(32 * wide / high)
    assert grid.shape == (2 * 32 + 4, 2 * width + 4, 3)
    second = model.render(8, Window((0.0, 0.0), 2 / 32, (32, width)))
    np.testing.assert_array_equal(grid[36:, width + 4 :], second)
    # The smaller one is enlarged, pixel by pixel.
    np.testing.assert_array_equal(grid[0, 0], grid[1, 1])


def test_a_film_begins_with_the_frame_and_ends_at_the_point(bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "zoom.webp"
    options = ["--seed", 3, "--center", "0.4,-0.2", "--to", 4, "--size", "24x32", "--seconds", 0.5, "--fps", 10]
    done = run("zoom", bundle, *options, "--out", out)
    assert done.exit_code == 0, done.output
    model = anyres.load(bundle)
    with Image.open(out) as film:
        assert sum(1 for _ in ImageSequence.Iterator(film)) == 5
        assert film.info["loop"] == 0
        frames = []
        for number in (0, 4):
            film.seek(number)
            frames.append(np.asarray(film.convert("RGB")).astype(float))
    first = model.render(3, Window((0.0, 0.0), 2 / 24, (24, 32)))
    last = model.render(3, Window((0.4, -0.2), 2 / 24 / 4, (24, 32)))
    # Lossy, but the same pictures.
    assert np.abs(frames[0] - first).mean() < 6
    assert np.abs(frames[1] - last).mean() < 6


def test_a_point_at_the_border_is_seen_from_inside(bundle: Path, tmp_path: Path) -> None:
    options = ["--center", "5,5", "--to", 2, "--size", "16x16", "--seconds", 0.2, "--fps", 10, "--out", tmp_path / "zoom.gif"]
    assert run("zoom", bundle, *options).exit_code == 0


def test_mp4_is_ffmpegs(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ["--to", 2, "--size", "16x16", "--seconds", 0.2, "--fps", 10, "--out", tmp_path / "zoom.mp4"]
    if shutil.which("ffmpeg"):
        assert run("zoom", bundle, *options).exit_code == 0
        assert b"ftyp" in (tmp_path / "zoom.mp4").read_bytes()[:16]
        (tmp_path / "zoom.mp4").unlink()
    monkeypatch.setenv("PATH", str(tmp_path))
    done = run("zoom", bundle, *options)
    assert done.exit_code == 2
    assert "MP4 needs the program ffmpeg" in done.output
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["grid", "--sizes", "16,x"], "--sizes takes numbers"),
        (["grid", "--out", "grid.tif"], "not a kind of picture"),
        (["zoom", "--out", "zoom.avi"], "not a kind of film"),
        (["zoom", "--seconds", "900", "--fps", "60"], "54000 frames"),
        (["zoom", "--size", "0x4"], "whole numbers of pixels from 1 on"),
        (["render", "--size", "0x4"], "whole numbers of pixels from 1 on"),
        (["grid", "--sizes", "0"], "from 1 on"),
    ],
)
def test_what_does_not_fit_is_said_in_a_line(bundle: Path, tmp_path: Path, monkeypatch, words: list[str], said: str) -> None:
    monkeypatch.chdir(tmp_path)
    done = run(words[0], bundle, *words[1:])
    assert done.exit_code == 2
    assert said in done.output
    assert len(done.output.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_info_tells_of_a_model(bundle: Path, tmp_path: Path) -> None:
    done = run("info", bundle, "--json")
    told = json.loads(done.output)
    assert told["chart"] == "frame"
    assert told["metrics"] == {"patch_kid": 0.25, "patch_fd": 3.0}
    assert told["tiles agree exactly"] is True
    shown = run("info", make_bundle(tmp_path / "endless", seed=1, patch_kid=0.5, **INFINITY_GAN))
    assert shown.exit_code == 0
    assert "plane" in shown.output
    assert run("info", tmp_path / "nowhere").exit_code == 2


def test_the_doctor_tells_what_is_there_and_what_to_do_about_the_rest() -> None:
    done = run("doctor", "--json")
    assert done.exit_code == 0, done.output
    told = {row["what"]: row for row in json.loads(done.output)}
    assert told["torch"]["state"] == "yes"
    assert told["metrics in lite1"] == {"what": "metrics in lite1", "state": "yes", "note": "FD-Lite1"}
    for row in told.values():
        assert row["note"], row
    assert "yes" in run("doctor").output


def test_a_registry_that_is_not_there_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    done = run("render", "models:/anyres-generator@champion")
    assert done.exit_code == 2
    assert "there is no registry at mlflow.db" in done.output
    assert not list(tmp_path.iterdir())


# ---- what machines are told


def test_json_says_the_same_of_everything_that_is_written(bundle: Path, tmp_path: Path) -> None:
    folder = tmp_path / "models"
    endless = make_bundle(folder / "endless", 1, 0.5, **INFINITY_GAN)
    ring = make_bundle(folder / "ring", 1, 0.5, (1.0, 0.5), chart="cylinder", fov=180.0)
    photo = tmp_path / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 72, 3), dtype=np.uint8)).save(photo)
    fit = ("--model", endless, "--size", 32, "--steps", 2, "--seed", 9)
    commands = {
        "p.tif": (bundle, ("render", bundle, "--seed", 9, "--size", "24x32", "--center", "0.1,-0.1", "--zoom", 2)),
        "ring.png": (ring, ("panorama", ring, "--seed", 9, "--height", 40)),
        "fused.png": (endless, ("fuse", endless, "--seeds", "3,9", "--size", "24x40")),
        "grid.png": (bundle, ("grid", bundle, "--seeds", "3,9", "--sizes", "16,32")),
        "zoom.webp": (bundle, ("zoom", bundle, "--seed", 9, "--size", "24x32", "--seconds", 0.4, "--fps", 5)),
        "it.safetensors": (bundle, ("invert", photo, "--model", bundle, "--sizes", "16,32", "--steps", 2, "--seed", 9)),
        "wide.png": (endless, ("outpaint", photo, *fit, "--times", 2)),
        "between.png": (endless, ("blend", photo, photo, *fit, "--gap", 1)),
    }
    told = {}
    for name, (model, words) in commands.items():
        done = run(*words, "--out", tmp_path / name, "--json")
        assert done.exit_code == 0, done.output
        told[name] = facts = json.loads(done.stdout)
        assert facts["path"] == str(tmp_path / name)
        assert facts["weights"] == anyres.load(model).meta["weights_sha256"]
        assert facts["seconds"] > 0
        assert facts["seeds" if name in ("fused.png", "grid.png") else "seed"] in ([3, 9], 9)
        assert ("psi" in facts) == (name != "it.safetensors")
        if Path(name).suffix == ".png":
            with Image.open(tmp_path / name) as picture:
                assert facts["size"] == [picture.height, picture.width]
        if name not in ("grid.png", "zoom.webp", "it.safetensors"):
            window = Window(**facts["window"])
            assert list(window.size) == facts["size"]
    assert told["p.tif"]["window"] == {"center": [0.1, -0.1], "period": 2 / 24 / 2, "size": [24, 32]}
    assert told["p.tif"]["psi"] == 0.7
    assert told["grid.png"]["sizes"] == told["it.safetensors"]["sizes"] == [16, 32]
    assert (told["zoom.webp"]["frames"], told["zoom.webp"]["size"]) == (2, [24, 32])
    assert all(fit > 0 for fit in (*told["it.safetensors"]["psnr_db"], told["wide.png"]["psnr_db"]))
    assert Path(told["wide.png"]["latent"]).is_file()
    assert all(Path(latent).is_file() for latent in told["between.png"]["latents"])
    done = run(
        "render", bundle, "--latent", tmp_path / "it.safetensors", "--size", "24x32", "--out", tmp_path / "l.png", "--json"
    )
    facts = json.loads(done.stdout)
    assert (facts["seed"], facts["latent"], facts["psi"]) == (None, str(tmp_path / "it.safetensors"), 1.0)
