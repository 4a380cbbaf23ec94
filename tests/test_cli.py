"""The command, as typed."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from anyres import presets
from anyres.cli import app
from anyres.data.intake import intake
from anyres.data.pyramid import prepare
from anyres.data.sources import Access
from anyres.data.sources.folder import records
from anyres.params import Params
from tests.export.bundles import INFINITY_GAN, make_bundle

ROOT = Path(__file__).resolve().parent.parent


def anyres(*words: str | Path) -> subprocess.CompletedProcess[str]:
    """The command in this process, which has loaded all that it needs: returncode, stdout, stderr."""
    done = CliRunner().invoke(app, [*map(str, words)], env={"PATH": "", "COLUMNS": "200"}, catch_exceptions=False)
    return subprocess.CompletedProcess(words, done.exit_code, done.stdout, done.stderr)


def alone(*words: str | Path) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, as people run it."""
    command = [sys.executable, "-m", "anyres", *map(str, words)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env={"PATH": "", "COLUMNS": "200"})


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small set, taken in and prepared."""
    import skimage.data
    from PIL import Image

    folder = tmp_path_factory.mktemp("set")
    (folder / "in").mkdir()
    sky = skimage.data.hubble_deep_field()
    for index in range(3):
        Image.fromarray(sky[index * 200 : index * 200 + 150, :180]).save(folder / "in" / f"{index}.png")
    (folder / "in" / "notes.txt").write_text("no picture")
    params = Params.load(ROOT / "params.yaml")
    intake(records(folder / "in"), params.ingest, Access(folder / "cache"), folder / "ingested", progress=False)
    prepare(folder / "ingested", params.prepare, folder / "store", progress=False)
    return folder


@pytest.mark.parametrize("part", ["ingested", "store"])
def test_info_says_what_a_data_set_holds_and_finds_damage(work: Path, part: str) -> None:
    shown = anyres("info", work / part)
    assert shown.returncode == 0, shown.stderr
    assert "not a picture file that can be read here" in shown.stdout
    figures = json.loads(anyres("info", work / part, "--json", "--verify").stdout)
    assert (figures["pictures"], figures["refused"], figures["damaged"]) == (3, 1, [])
    assert "all 3 pictures are sound" in anyres("info", work / part, "--verify").stdout
    (shard,) = (work / part / "shards").iterdir()
    whole = shard.read_bytes()
    shard.write_bytes(whole[:2000] + b"\x55" * 16 + whole[2016:])
    broken = anyres("info", work / part, "--verify")
    assert broken.returncode == 1
    assert "0.png is damaged" in broken.stdout
    shard.write_bytes(whole)


def test_info_without_a_data_set_is_one_line(tmp_path: Path) -> None:
    shown = alone("info", tmp_path)
    assert shown.returncode == 2
    assert shown.stderr.count("\n") == 1
    assert "no data set; name a folder that holds dataset.json (a store) or catalogue.parquet (an intake)" in shown.stderr


def test_help_shows_an_example() -> None:
    assert "Example: anyres info data/store --verify" in alone("info", "--help").stdout


@pytest.fixture
def params_file(tmp_path: Path) -> Path:
    return Path(shutil.copy(ROOT / "params.yaml", tmp_path))


@pytest.mark.parametrize("name", sorted(presets.preset_files()))
def test_a_preset_fits_and_leaves_the_rest(params_file: Path, name: str) -> None:
    before = Params.load(params_file)
    assert anyres("preset", name, "--params", params_file).returncode == 0
    after = Params.load(params_file)
    assert after.train.method == name.split("-")[0]
    assert after.ingest == before.ingest.model_copy(update={"set": after.ingest.set})
    assert (after.prepare, after.export) == (before.prepare, before.export)
    assert "# larger files are set aside" in params_file.read_text(encoding="utf-8")
    # There and back: what params.yaml ships.
    assert anyres("preset", "continuum-small", "--params", params_file).returncode == 0
    assert Params.load(params_file) == before


def test_an_unknown_preset_is_named_and_nothing_written(params_file: Path) -> None:
    before = params_file.read_bytes()
    result = anyres("preset", "stylegan", "--params", params_file)
    assert result.returncode == 2
    assert f"no preset 'stylegan'; there are {', '.join(sorted(presets.preset_files()))}" in result.stderr
    assert params_file.read_bytes() == before
    assert "anyres_gan-small" in anyres("preset").stdout


def test_panorama_draws_all_round_and_says_what_is_wrong(tmp_path: Path) -> None:
    import numpy as np
    from PIL import Image

    ring = make_bundle(tmp_path / "ring", 1, 0.5, (1.0, 0.5), chart="cylinder", fov=180.0)
    flat = make_bundle(tmp_path / "flat", 1, 0.5)
    done = alone("panorama", ring, "--seed", "3", "--height", "100", "--out", tmp_path / "round.png")
    assert done.returncode == 0, done.stderr
    assert "round.png: 200 x 100 px, scene 3" in done.stdout
    pixels = np.asarray(Image.open(tmp_path / "round.png")).astype(int)
    assert pixels.shape == (100, 200, 3)
    steps = np.abs(np.roll(pixels, -1, axis=1) - pixels).mean(axis=(0, 2))
    assert steps[-1] <= 1.5 * steps[[-3, -2, 0, 1]].max()
    for words, says in (
        ((flat,), "a panorama needs the chart cylinder, this is a frame"),
        ((tmp_path / "none",), "no such bundle folder"),
        ((ring, "--out", tmp_path / "a.xyz"), "end its name with .png, .jpg, .webp, .tif"),
        ((ring, "--psi", "9"), "psi must be from 0 to 2"),
    ):
        done = anyres("panorama", "--out", tmp_path / "b.png", *words)
        assert done.returncode == 2
        assert says in done.stderr
        assert len(done.stderr.strip().splitlines()) <= 2
        assert not (tmp_path / "b.png").exists()


def test_render_edits_and_projected_photographs(tmp_path: Path) -> None:
    """A photograph is projected, and drawn from its latent, plain and edited, at a size that nobody trained."""
    import numpy as np
    from PIL import Image

    model = make_bundle(tmp_path / "model", 1, 0.5, (1.5, 1.0))
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 72, 3), dtype=np.uint8)).save(tmp_path / "photo.png")
    latent = tmp_path / "photo.safetensors"
    done = alone("invert", tmp_path / "photo.png", "--model", model, "--sizes", "16,32", "--steps", "5", "--out", latent)
    assert done.returncode == 0, done.stderr
    assert "16 px" in done.stdout
    assert "32 px" in done.stdout
    shapes = (
        "--aspect",
        "1.3",
        "--magnify",
        "0.8",
        "--turn",
        "20",
        "--pull",
        "0,0,1.5",
        "--perspective",
        "0.2,0",
        "--displace",
        "0.05",
    )
    pictures = {}
    for name, words in (("plain", ("--seed", "1")), ("edited", ("--seed", "1", *shapes)), ("photo", ("--latent", latent))):
        done = anyres("render", model, "--size", "40x52", "--out", tmp_path / f"{name}.png", *words)
        assert done.returncode == 0, done.stderr
        pictures[name] = np.asarray(Image.open(tmp_path / f"{name}.png")).astype(int)
        assert pictures[name].shape == (40, 52, 3)
    for other in ("edited", "photo"):
        assert np.abs(pictures[other] - pictures["plain"]).mean() > 1
    for words, says in (
        (("render", model, "--size", "40"), "--size takes 2 numbers with 'x' between, found '40'"),
        (("render", model, "--aspect", "0"), "aspect must be above 0"),
        (("render", model, "--center", "3,0"), "outside the frame"),
        (("render", model, "--latent", tmp_path / "photo.png"), "no latent"),
        (("invert", model / "README.md", "--model", model), "README.md: not a picture that can be read"),
        (("invert", tmp_path / "photo.png", "--model", model, "--sizes", "100"), "size 100 must lie between a cell"),
    ):
        done = anyres(*words, "--out", tmp_path / "none.png")
        assert done.returncode == 2, (words, done.stdout)
        assert says in done.stderr
        assert not (tmp_path / "none.png").exists()


def test_styles_are_fused_and_photographs_go_on(tmp_path: Path) -> None:
    import numpy as np
    import skimage.data
    from PIL import Image

    model, flat = make_bundle(tmp_path / "endless", 1, 0.5, **INFINITY_GAN), make_bundle(tmp_path / "flat", 1, 0.5)
    photo, mask = tmp_path / "photo.png", tmp_path / "mask.png"
    Image.fromarray(skimage.data.hubble_deep_field()[:60, :72]).save(photo)
    Image.fromarray((np.arange(40) // 20).astype(np.uint8)[None].repeat(20, axis=0)).save(mask)
    fused = ("fuse", model, "--seeds", "3,4", "--size", "40x80")
    fit = ("--model", model, "--size", "32", "--steps", "4")
    sizes = {
        "fused.png": (fused, (40, 80)),
        "masked.tif": ((*fused, "--mask", mask), (40, 80)),
        "centred.png": ((*fused, "--centers", "-1,0;1,0"), (40, 80)),
        "wide.png": (("outpaint", photo, *fit, "--times", "2.5"), (32, 95)),
        "between.png": (("blend", photo, photo, *fit, "--gap", "1"), (32, 114)),
        "again.png": (("render", model, "--latent", tmp_path / "wide.safetensors", "--size", "32x95"), (32, 95)),
        "box.png": (("render", model, "--size", "32x40", "--resample=-0.2,-0.2,0.2,0.2,9,structure"), (32, 40)),
    }
    for name, (words, shape) in sizes.items():
        done = anyres(*words, "--out", tmp_path / name)
        assert done.returncode == 0, (name, done.stderr)
        assert f"{name}: {shape[1]} x {shape[0]} px" in done.stdout
        assert np.asarray(Image.open(tmp_path / name)).shape == (*shape, 3)
        if name == "wide.png":
            assert "given part " in done.stdout
            assert " dB; smaller steps than at its border: " in done.stdout
    assert (tmp_path / "wide.png").read_bytes() == (tmp_path / "again.png").read_bytes()
    Image.new("RGB", (30, 12)).save(tmp_path / "small.png")
    for words, says in (
        (("fuse", flat), "flat holds a Continuum, this needs infinity_gan"),
        (("outpaint", photo, "--model", flat), "this needs infinity_gan"),
        (
            ("fuse", model, "--seeds", "1,2", "--size", "40x40", "--mask", mask),
            "the mask has 40 x 20 pixels, the picture 40 x 40",
        ),
        (("fuse", model, "--seeds", "1,2", "--centers", "0,0"), "--centers names 1 places for 2 seeds"),
        (("outpaint", tmp_path / "small.png", *fit), "the photograph has 30 x 12 pixels, less than the generator's patch of 16"),
        (("outpaint", photo, *fit, "--side", "up"), "--side takes right, left or both, found 'up'"),
        (("render", model, "--center", "1e13,0"), "beyond the 2^40 of an unbounded plane"),
        (("render", flat, "--resample", "0,0,1,1,5,texture"), "Continuum draws one style and one seed a picture"),
        (
            ("render", model, "--resample", "0,0,1,1,5,colour"),
            "--resample takes left,top,right,bottom,seed and structure or texture",
        ),
    ):
        done = anyres(*words, "--out", tmp_path / "none.png")
        assert done.returncode == 2, (words, done.stdout, done.stderr)
        assert says in done.stderr
        assert len(done.stderr.strip().splitlines()) <= 2
        assert not (tmp_path / "none.png").exists()
