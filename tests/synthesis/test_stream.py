"""Pictures larger than memory: every kind of file, killed at any time, at constant memory."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pyvips
import tifffile
import torch
import zarr
from PIL import Image

import anyres
from anyres.identity import digest
from anyres.networks import Scene
from anyres.plane.window import Window
from anyres.synthesis import edit
from anyres.synthesis.canvas import RESUMABLE_ERRORS
from anyres.synthesis.fuse import fuse_styles, mask_shares
from anyres.synthesis.render import render, render_passes, render_tiles
from anyres.synthesis.request import RenderRequest
from anyres.synthesis.stream import render_to
from tests.export.bundles import ANYRES_GAN, INFINITY_GAN, make_bundle
from tests.synthesis.waves import Waves

ROOT = Path(__file__).resolve().parents[2]
WINDOW = Window((0.1, -0.05), 1 / 64, (110, 150))
METHODS = {"exact": INFINITY_GAN, "faded": ANYRES_GAN}


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bundles")
    return {kind: make_bundle(folder / kind, 1, 0.5, **train) for kind, train in METHODS.items()}


def content(path: Path) -> dict[str, bytes]:
    """Every file of an output, by its name."""
    files = [path, *path.rglob("*"), *path.with_name(f"{path.stem}_files").rglob("*")]
    return {str(file.relative_to(path.parent)): file.read_bytes() for file in files if file.is_file()}


def record(path: Path) -> list[str]:
    """Lines of the record of what is being drawn into `path`; none where nothing is."""
    file = path.with_name(f".{path.name}.drawing") / "record"
    return file.read_text().split("\n")[:-1] if file.is_file() else []


# ---- kinds of files


@pytest.mark.parametrize("kind", METHODS)
def test_a_picture_on_disk_is_the_picture_in_memory(bundles: dict[str, Path], kind: str, tmp_path: Path) -> None:
    generator = anyres.load(str(bundles[kind])).generator
    expected = render(generator, RenderRequest(5, WINDOW, 0.9, tile=48))
    for suffix in ("tif", "png", "zarr", "dzi"):
        told: list[float] = []
        out = tmp_path / "new" / f"p.{suffix}"
        # A second time over the first.
        for _ in range(2):
            render_to(out, generator, RenderRequest(5, WINDOW, 0.9, tile=48), advance=told.append, about={"model": "a -- b"})
        assert sum(told) == pytest.approx(2 * 110 * 150 / 1e6)
        pixels, about = read(out)
        if suffix == "dzi":
            assert np.abs(pixels.astype(int) - expected).mean() < 2
        else:
            np.testing.assert_array_equal(pixels, expected)
        assert (about["seed"], about["center"], about["period"]) == (5, [0.1, -0.05], 1 / 64)
        assert (about["size"], about["psi"], about["tile"], about["model"]) == ([110, 150], 0.9, 48, "a -- b")
        assert about["software"] == f"anyres {anyres.__version__}"
        assert re.fullmatch("[0-9a-f]{64}", about["generator_sha256"])
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["p.dzi", "p.png", "p.tif", "p.zarr", "p_files"]


def read(path: Path) -> tuple[np.ndarray, dict[str, Any]]:
    """Pixels and what is told of them, by readers of others."""
    if path.suffix == ".tif":
        with tifffile.TiffFile(path) as file:
            assert file.is_bigtiff
            assert file.pages.first.tile == (48, 48)
            return file.pages.first.asarray(), json.loads(file.pages.first.description)
    if path.suffix == ".png":
        with Image.open(path) as file:
            return np.array(file), json.loads(file.text["anyres"])
    if path.suffix == ".zarr":
        array = zarr.open_array(path, mode="r")
        assert (array.metadata.zarr_format, array.chunks) == (3, (48, 48, 3))
        return array[:], dict(array.attrs)
    text = path.read_text()
    finest = max(path.with_name("p_files").iterdir(), key=lambda level: int(level.name))
    assert [tile.name for tile in finest.iterdir()] == ["0_0.jpg"]
    assert re.search(r'Height="110"\s+Width="150"', text)
    with Image.open(finest / "0_0.jpg") as file:
        return np.array(file), json.loads(re.search("<!-- (.*) -->", text)[1])


def test_a_pyramid_halves_down_to_one_tile(tmp_path: Path) -> None:
    window = Window((0.0, 0.0), 1 / 64, (301, 530))
    render_to(tmp_path / "p.tif", Waves(), RenderRequest(5, window, tile=64))
    expected = render(Waves(), RenderRequest(5, window))
    sizes = [(301, 530), (150, 265), (75, 132), (37, 66), (18, 33)]
    with tifffile.TiffFile(tmp_path / "p.tif") as file:
        levels = file.series[0].levels
        assert [level.shape for level in levels] == [(*size, 3) for size in sizes]
        assert [page.subfiletype for page in file.pages] == [0, 1, 1, 1, 1]
        by_tifffile = levels[1].asarray().astype(int)
    for page, (height, width) in enumerate(sizes):
        image = pyvips.Image.new_from_file(str(tmp_path / "p.tif"), page=page)
        assert (image.height, image.width) == (height, width)
    np.testing.assert_array_equal(pyvips.Image.new_from_file(str(tmp_path / "p.tif")).numpy(), expected)
    small = pyvips.Image.new_from_array(expected).shrink(2, 2).numpy()[:150, :265]
    assert np.abs(by_tifffile - small).max() <= 1
    np.testing.assert_array_equal(pyvips.Image.new_from_file(str(tmp_path / "p.tif"), page=1).numpy(), by_tifffile)


def test_deep_zoom_tiles_and_levels_are_those_of_the_picture(tmp_path: Path) -> None:
    window = Window((0.0, 0.0), 1 / 512, (301, 530))
    render_to(tmp_path / "p.dzi", Waves(), RenderRequest(5, window))
    expected = render(Waves(), RenderRequest(5, window)).astype(int)
    levels = tmp_path / "p_files"
    assert sorted(int(level.name) for level in levels.iterdir()) == list(range(11))
    assert sorted(tile.name for tile in (levels / "10").iterdir()) == [f"{x}_{y}.jpg" for x in range(3) for y in range(2)]
    with Image.open(levels / "10" / "1_1.jpg") as tile:
        # 254 pixels a tile, and one of each neighbour.
        assert np.abs(np.array(tile) - expected[253:, 253:509]).mean() < 2


def test_a_model_draws_into_files(bundles: dict[str, Path], tmp_path: Path) -> None:
    model = anyres.load(str(bundles["exact"]))
    model.render_to(tmp_path / "p.png", seed=7, window=WINDOW)
    with Image.open(tmp_path / "p.png") as file:
        np.testing.assert_array_equal(np.array(file), model.render(seed=7, window=WINDOW))
        about = json.loads(file.text["anyres"])
    assert {name: about[name] for name in ("method", "git_commit")} == {"method": "infinity_gan", "git_commit": "c" * 40}
    assert about["weights_sha256"] == model.meta["weights_sha256"]


# ---- interruptions

DRAW = """
import sys, time
from pathlib import Path
import torch
import anyres
from anyres.synthesis.request import RenderRequest
from anyres.synthesis.stream import render_to
torch.set_num_threads(1)
generator = anyres.load(sys.argv[1]).generator
generator.register_forward_pre_hook(lambda *_: time.sleep(0.2))
request = RenderRequest(5, anyres.Window((0.1, -0.05), 1 / 300, (300, 700)), tile=128)
render_to(Path(sys.argv[2]), generator, request)
"""


@contextlib.contextmanager
def running(*command: object) -> Iterator[subprocess.Popen[str]]:
    """A process of Python in the root of the repository, ended at the latest with the block."""
    environ = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, *map(str, command)], cwd=ROOT, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def until(process: subprocess.Popen[str], holds: Any) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.mark.parametrize(("kind", "suffix"), [("exact", "tif"), ("faded", "zarr")])
def test_a_killed_process_is_gone_on_with(bundles: dict[str, Path], kind: str, suffix: str, tmp_path: Path) -> None:
    out, through = tmp_path / f"p.{suffix}", tmp_path / "through" / f"p.{suffix}"
    generator = anyres.load(str(bundles[kind])).generator
    window = Window((0.1, -0.05), 1 / 300, (300, 700))
    across = sum(at.top == 0 for at, _ in render_tiles(generator, RenderRequest(5, window, tile=128)))
    drawn: list[Window] = []
    generator.register_forward_pre_hook(lambda module, arguments: drawn.extend(arguments[1]))
    render_to(through, generator, RenderRequest(5, window, tile=128))
    whole = list(drawn)
    # Of a faded picture also those of the row that was begun, and of the one above it.
    enough = 3 if kind == "exact" else 2 * across + 3
    with running("-c", DRAW, bundles[kind], out) as process:
        until(process, lambda: len(record(out)) >= enough)
        with pytest.raises(ValueError, match=rf"p\.{suffix}: process {process.pid} is drawing it; wait for it"):
            render_to(out, generator, RenderRequest(5, window, tile=128))
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not out.exists()
    tiles = int(record(out)[-1].split()[0])
    assert 0 < tiles < len(whole)
    told: list[float] = []
    drawn.clear()
    render_to(out, generator, RenderRequest(5, window, tile=128), advance=told.append)
    begun = tiles if kind == "exact" else (tiles // across - 1) * across
    assert begun > 0
    assert drawn == whole[begun:]
    assert sum(told) == pytest.approx(300 * 700 / 1e6)
    assert content(out) == content(through)
    assert sorted(path.name for path in tmp_path.iterdir()) == [out.name, "through"]


def test_processes_that_end_while_the_file_is_written_leave_the_canvas_alone(tmp_path: Path) -> None:
    out, through = tmp_path / "p.png", tmp_path / "through.png"
    script = ROOT / "tests/synthesis/waves.py"
    partial = tmp_path / ".p.png.drawing" / "finished" / "p.png"
    for ending in (signal.SIGINT, signal.SIGKILL):
        with running(script, 2000, 0, out) as process:
            until(process, partial.exists)
            process.send_signal(ending)
            told = process.communicate(timeout=20)[1]
        assert process.returncode == -ending
        assert ("KeyboardInterrupt" in told) == (ending == signal.SIGINT)
        assert partial.exists() == (ending == signal.SIGKILL)
        assert not out.exists()
        assert record(out)[-1] == f"16 {2000 * 2024}"
    with running(script, 2000, 0, out, through) as process:
        assert process.communicate(timeout=60)[1] == "0 passes\n16 passes\n"
    assert out.read_bytes() == through.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["p.png", "through.png"]


def stopped_at(passes: int, error: type[BaseException]) -> Any:
    """A listener to progress that raises at a call."""
    count = iter(range(passes - 1))

    def advance(amount: float) -> None:
        if next(count, None) is None:
            raise error("stopped")

    return advance


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, *RESUMABLE_ERRORS])
def test_an_interruption_keeps_what_is_drawn(error: type[BaseException], tmp_path: Path) -> None:
    out, waves = tmp_path / "p.png", Waves()
    with pytest.raises(error, match="stopped"):
        render_to(out, waves, RenderRequest(5, WINDOW, tile=48), advance=stopped_at(2, error))
    assert [path.name for path in tmp_path.iterdir()] == [".p.png.drawing"]
    # A line that was being written.
    with (tmp_path / ".p.png.drawing" / "record").open("a") as file:
        file.write("9999 1")
    told: list[float] = []
    before, waves.passes = waves.passes, 0
    render_to(out, waves, RenderRequest(5, WINDOW, tile=48), advance=told.append)
    assert before + waves.passes == len(list(render_passes(Waves(), RenderRequest(5, WINDOW, tile=48))))
    assert sum(told) == pytest.approx(110 * 150 / 1e6)
    np.testing.assert_array_equal(np.array(Image.open(out)), render(Waves(), RenderRequest(5, WINDOW, tile=48)))
    assert [path.name for path in tmp_path.iterdir()] == ["p.png"]


@pytest.mark.parametrize("error", [ValueError, RuntimeError])
def test_a_failure_leaves_nothing(error: type[Exception], tmp_path: Path) -> None:
    with pytest.raises(error, match="stopped"):
        render_to(tmp_path / "p.png", Waves(), RenderRequest(5, WINDOW, tile=48), advance=stopped_at(2, error))
    # Nor does an interruption before anything is drawn.
    waves = Waves()
    waves.register_forward_pre_hook(lambda *_: stopped_at(1, KeyboardInterrupt)(0.0))
    with pytest.raises(KeyboardInterrupt):
        render_to(tmp_path / "p.png", waves, RenderRequest(5, WINDOW))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("change", ["seed", "window", "psi", "tile", "edit", "weights", "scene"])
def test_a_canvas_of_something_else_is_thrown_away(change: str, bundles: dict[str, Path], tmp_path: Path) -> None:
    generator = anyres.load(str(bundles["exact"])).generator
    request = RenderRequest(5, WINDOW, 0.5, tile=48)
    with pytest.raises(KeyboardInterrupt):
        render_to(tmp_path / "p.png", generator, request, advance=stopped_at(4, KeyboardInterrupt))
    if change == "seed":
        request = replace(request, scene=6)
    elif change == "window":
        request = replace(request, window=WINDOW.crop(0, 1, WINDOW.size))
    elif change == "psi":
        request = replace(request, psi=0.6)
    elif change == "tile":
        request = replace(request, tile=40)
    elif change == "edit":
        request = replace(request, edit=edit.turn(3))
    elif change == "weights":
        next(generator.parameters()).data.mul_(1.01)
    else:
        request = replace(request, scene=replace(Scene.of([5], generator.z_dim), z=torch.full((1, generator.z_dim), 0.3)))
    told: list[float] = []
    render_to(tmp_path / "p.png", generator, request, advance=told.append)
    np.testing.assert_array_equal(np.array(Image.open(tmp_path / "p.png")), render(generator, request))
    assert sum(told) == pytest.approx(110 * 150 / 1e6)


def test_a_digest_tells_apart_what_draws_differently() -> None:
    mask = np.zeros((22, 30), np.uint8)
    other = mask.copy()
    other[7, 7] = 1
    of = [
        digest(value)
        for value in (
            1,
            1.0,
            "1",
            True,
            None,
            (1, 2),
            (1, (2,)),
            edit.turn(1),
            edit.turn(2),
            edit.compose([edit.turn(1), edit.aspect(2)]),
            edit.compose([edit.aspect(2), edit.turn(1)]),
            fuse_styles([1, 2], 8, mask_shares(mask, WINDOW, 2)),
            fuse_styles([1, 2], 8, mask_shares(other, WINDOW, 2)),
            lambda places: places + 1,
            lambda places: places + 2,
            torch.zeros(2, 3),
            torch.zeros(3, 2),
            torch.zeros(6),
        )
    ]
    assert len(set(of)) == len(of)
    assert digest(edit.compose([edit.turn(1), edit.aspect(2)])) == of[9]
    assert digest(fuse_styles([1, 2], 8, mask_shares(mask.copy(), WINDOW, 2))) == of[11]


# ---- what does not fit


def test_what_cannot_be_written_is_told_before_anything_is_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waves = Waves()
    (tmp_path / "folder.tif").mkdir()
    (tmp_path / "folder.zarr").mkdir()
    (tmp_path / "p_files").mkdir()
    before = sorted(tmp_path.iterdir())
    for name, says in (
        ("p.bmp", r"written as \.tif, \.tiff, \.dzi, \.png, \.zarr; end its name with one"),
        ("folder.tif", "is a folder; remove it"),
        ("folder.zarr", "is there and no zarr array"),
        ("p.dzi", "p_files is there and no Deep Zoom folder"),
    ):
        with pytest.raises(ValueError, match=says):
            render_to(tmp_path / name, waves, RenderRequest(5, WINDOW))
    with pytest.raises(ValueError, match="psi must be"):
        render_to(tmp_path / "p.tif", waves, RenderRequest(5, WINDOW, 9.0))
    with pytest.raises(ValueError, match="tile must be at least the generator's lattice, 8 pixels, found 7"):
        render_to(tmp_path / "p.tif", waves, RenderRequest(5, WINDOW, tile=7))
    with pytest.raises(ValueError, match=r"beyond the 2\^40"):
        render_to(tmp_path / "p.tif", waves, RenderRequest(5, Window((2.0**40, 0.0), 1 / 64, (9, 8))))
    with pytest.raises(OSError, match=r"p\.tif: drawing it takes up to 80000\.00 GB of disk, [\d.]+ GB are free there"):
        render_to(tmp_path / "p.tif", waves, RenderRequest(5, Window((0.0, 0.0), 1 / 64, (10**6, 10**7)), tile=8192))
    monkeypatch.setitem(sys.modules, "zarr", None)
    with pytest.raises(ValueError, match=r"\.zarr needs the package zarr, which is not installed"):
        render_to(tmp_path / "p.zarr", waves, RenderRequest(5, WINDOW))
    assert waves.passes == 0
    assert sorted(tmp_path.iterdir()) == before


def test_memory_does_not_grow_with_the_picture(tmp_path: Path) -> None:
    peaks = []
    for side in (1024, 4096):
        outs = [tmp_path / f"{side}.{suffix}" for suffix in ("tif", "png", "dzi", "zarr")]
        with running(ROOT / "tests/synthesis/waves.py", side, 0, *outs) as process:
            told, errors = process.communicate(timeout=100)
        assert process.returncode == 0, errors
        peaks.append(int(told))
    assert peaks[1] <= 1.1 * peaks[0]
