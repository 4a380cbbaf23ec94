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


# ---- folders of trainings, tiles, scales beyond the training


@pytest.fixture(scope="module")
def trained(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished training, of the generator of `bundle`."""
    folder = tmp_path_factory.mktemp("out") / "train"
    folder.mkdir()
    shutil.copy(bundle / "generator.safetensors", folder)
    meta = json.loads((bundle / "generator.json").read_text())
    record = {key: meta[key] for key in ("data_hash", "geometry", "method", "fingerprint", "code", "code_changed")}
    record |= {"params": meta["params"]["train"], "half_extent": meta["geometry"]["chart"]["half_extent"], "kept_nimg": 64}
    (folder / "train.json").write_text(json.dumps(record))
    return folder


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture)


def test_a_training_is_a_model_and_becomes_a_bundle(bundle: Path, trained: Path, tmp_path: Path) -> None:
    (tmp_path / "metrics.json").write_text('{"patch_kid": 0.125}')
    made = run("bundle", trained, tmp_path / "new", "--metrics", tmp_path / "metrics.json", "--samples", 1)
    assert made.exit_code == 0, made.output
    assert {path.name for path in (tmp_path / "new").iterdir()} == {
        "README.md", "generator.json", "generator.safetensors", "samples.png",
    }  # fmt: skip
    meta = json.loads((tmp_path / "new/generator.json").read_text())
    assert (meta["metrics"], meta["nimg"]) == ({"patch_kid": 0.125}, 64)
    assert "| patch_kid | 0.125 |" in (tmp_path / "new/README.md").read_text()
    pictures = []
    for number, model in enumerate((bundle, trained, tmp_path / "new")):
        assert run("render", model, "--size", "24x32", "--seed", 3, "--out", tmp_path / f"{number}.png").exit_code == 0
        pictures.append(pixels(tmp_path / f"{number}.png"))
    for picture in pictures[1:]:
        np.testing.assert_array_equal(picture, pictures[0])
    assert json.loads(run("info", trained, "--json").stdout)["images seen"] == 64


def test_a_folder_that_is_no_training_is_one_line(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/train.json").write_text("{}")
    (tmp_path / "broken/generator.safetensors").write_bytes(b"")
    (tmp_path / "bad.json").write_text("[1]")
    for words, says in (
        ((tmp_path, tmp_path / "new"), "no train.json in it; this is no finished training"),
        ((tmp_path / "broken", tmp_path / "new"), "train.json: not the record of a training of this version"),
        ((trained, trained), "exists and is not empty; name a new folder"),
        ((trained, tmp_path / "new", "--metrics", tmp_path / "bad.json"), "not the metrics.json of an evaluation"),
    ):
        done = run("bundle", *words)
        assert (done.exit_code, len(done.stderr.splitlines())) == (2, 1), done.output
        assert says in done.stderr
    assert not (tmp_path / "new").exists()


def test_tiles_are_options_wherever_pictures_are_drawn(bundle: Path, tmp_path: Path) -> None:
    """Any tile of an exact model gives the same picture, within a level; overlapping ones too."""
    told = {}
    for name, words in {
        "whole": (),
        "small": ("--tile", 16),
        "faded": ("--tile", 16, "--stitch", "overlap"),
    }.items():
        for command in (("render", bundle, "--size", "40x56"), ("grid", bundle, "--sizes", "16,48", "--seeds", 3)):
            out = tmp_path / f"{name}-{command[0]}.png"
            done = run(*command, *words, "--out", out)
            assert done.exit_code == 0, done.output
            told[name, command[0]] = pixels(out).astype(int)
    for (name, command), picture in told.items():
        assert np.abs(picture - told["whole", command]).max() <= 1, name
    for command in ("render", "panorama", "fuse", "grid", "zoom", "outpaint", "blend"):
        assert {"--tile", "--stitch"} <= set(run(command, "--help").output.replace("\n", " ").split()), command
    for words, says in (
        (("--tile", 2), "--tile takes at least the lattice"),
        (("--stitch", "glue"), "--stitch takes grid or overlap"),
    ):
        for command in ("render", "grid", "zoom"):
            suffix = "webp" if command == "zoom" else "png"
            done = run(command, bundle, *words, "--out", tmp_path / f"none.{suffix}")
            assert done.exit_code == 2
            assert says in done.stderr


def test_beyond_the_trained_scales_is_a_line_and_one_scale_has_no_zoom(bundle: Path, tmp_path: Path) -> None:
    options = ("--size", "64x64", "--out", tmp_path / "p.png")
    # Trained on frames of 11 to 256 px: patches of 16 px at zooms to 16, of photographs one and a half times as wide as high.
    assert run("render", bundle, *options, "--zoom", 4).stderr.count("warning") == 0
    line = run("render", bundle, *options, "--zoom", 8).stderr.strip().splitlines()[-1]
    assert line.startswith(
        "warning: trained on frames of 11 to 256 px, this is of one of 512 px; at 64x64 the trained range is zoom 0.1"
    )
    assert "to 4, beyond it" in line
    film = ("--to", 8, "--size", "64x64", "--seconds", 0.1, "--out", tmp_path / "f.webp")
    assert "this is of one of 512 px" in run("zoom", bundle, *film).stderr
    assert (
        "this is of one of 264 px" in run("grid", bundle, "--sizes", "16,264", "--seeds", 1, "--out", tmp_path / "g.png").stderr
    )
    endless = make_bundle(tmp_path / "endless", 1, 0.5, **INFINITY_GAN)
    assert run("render", endless, *options).stderr.count("warning") == 0
    for words, says in (
        (("render", endless, *options, "--zoom", 2), "has one scale, that of frames of"),
        (("zoom", endless, *film), "has one scale: a zoom into it would be a still"),
    ):
        done = run(*words)
        assert (done.exit_code, len(done.stderr.splitlines())) == (2, 1)
        assert says in done.stderr


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
