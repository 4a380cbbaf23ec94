"""Pictures drawn by the workers of a real Dask scheduler: the files of one machine, whoever is killed on the way."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import anyres
from anyres.cli import app
from anyres.export.bundle import PSI, Model
from anyres.networks import Scene
from anyres.networks.pixels import from_uint8, to_uint8
from anyres.networks.scene import Region
from anyres.plane.window import Window
from anyres.synthesis import edit
from anyres.synthesis.dask_workers import AHEAD, drawing_on
from anyres.synthesis.fuse import fuse_styles, mask_shares
from anyres.synthesis.latent import Latent
from anyres.synthesis.request import RenderRequest
from tests.export.bundles import ANYRES_GAN, INFINITY_GAN, make_bundle

ROOT = Path(__file__).resolve().parents[2]
WINDOW = Window((0.1, -0.05), 1 / 300, (300, 700))
# So many passes that some are under way whenever one is finished.
LARGE = Window((0.1, -0.05), 1 / 1500, (1500, 2100))
WITHIN_S = 15.0


class Cluster:
    """A scheduler and its workers, each a process of its own; the scheduler does not know where anyres is."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.processes: list[subprocess.Popen[bytes]] = []
        self.workers: list[subprocess.Popen[bytes]] = []
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
        self.scheduler = self._start("scheduler", "--host", "127.0.0.1", "--port", self.address.rsplit(":", 1)[1])

    def with_workers(self, count: int, path: Path = ROOT) -> str:
        """The address, when as many workers as that are there or on the way, and no more."""
        self.workers = [worker for worker in self.workers if worker.poll() is None]
        for worker in self.workers[count:]:
            self.kill(worker)
        words = ("--nthreads", "1", "--no-nanny", "--local-directory", str(self.folder))
        self.workers = self.workers[:count]
        while len(self.workers) < count:
            self.workers.append(self._start("worker", self.address, *words, path=path))
        return self.address

    def kill(self, process: subprocess.Popen[bytes]) -> None:
        process.kill()
        process.wait()

    def _start(self, *words: str, path: Path | None = None) -> subprocess.Popen[bytes]:
        environ = os.environ | {"OMP_NUM_THREADS": "1"} | ({} if path is None else {"PYTHONPATH": str(path)})
        command = [sys.executable, "-m", "distributed.cli.dask_" + words[0], *words[1:], "--no-dashboard"]
        with (self.folder / "log").open("ab") as log:
            self.processes.append(subprocess.Popen(command, cwd=self.folder, env=environ, stdout=log, stderr=log))
        return self.processes[-1]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    made = Cluster(tmp_path_factory.mktemp("dask"))
    try:
        yield made
    finally:
        for process in made.processes:
            made.kill(process)


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bundles")
    methods = {"exact": INFINITY_GAN, "faded": ANYRES_GAN, "frame": {}}
    return {kind: make_bundle(folder / kind, 1, 0.5, **train) for kind, train in methods.items()}


@pytest.fixture(scope="module")
def exact(bundles: dict[str, Path]) -> Model:
    return anyres.load(bundles["exact"])


@pytest.fixture(scope="module")
def whole(exact: Model, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The file of a large picture, drawn here."""
    out = tmp_path_factory.mktemp("whole") / "p.tif"
    exact.render_to(out, 5, LARGE)
    return out.read_bytes()


def calls(*at: tuple[int, Callable[[], None]]) -> Callable[[float], None]:
    """A listener to progress that calls something at the n-th time it is told."""
    told = 0

    def advance(amount: float) -> None:
        nonlocal told
        told += 1
        for when, call in at:
            if told == when:
                call()

    return advance


def record(path: Path) -> list[str]:
    file = path.with_name(f".{path.name}.drawing") / "record"
    return file.read_text().split("\n")[:-1] if file.is_file() else []


# ---- the same file


@pytest.mark.parametrize(("kind", "suffix"), [("exact", "tif"), ("faded", "png"), ("frame", "png")])
def test_workers_draw_the_file_of_one_machine(
    cluster: Cluster, bundles: dict[str, Path], kind: str, suffix: str, tmp_path: Path
) -> None:
    model = anyres.load(bundles[kind])
    here, there = tmp_path / f"here.{suffix}", tmp_path / f"there.{suffix}"
    told: list[float] = []
    change = edit.compose([edit.turn(3), edit.pull((0.0, 0.1), 1.5)])
    model.render_to(here, 5, WINDOW, 0.9, 128, change)
    model.render_to(there, 5, WINDOW, 0.9, 128, change, told.append, dask=cluster.with_workers(2))
    assert here.read_bytes() == there.read_bytes()
    assert len(told) > 2
    assert sum(told) == pytest.approx(300 * 700 / 1e6)
    assert sorted(path.name for path in tmp_path.iterdir()) == [here.name, there.name]


def test_scenes_of_every_kind_reach_the_workers(cluster: Cluster, exact: Model, tmp_path: Path) -> None:
    generator: Any = exact.generator
    mask = (np.arange(700) // 350).astype(np.uint8)[None].repeat(300, axis=0)
    plain = Scene.of([5], generator.z_dim)
    scenes: list[Any] = [
        fuse_styles([3, 4], generator.z_dim, mask_shares(mask, WINDOW, 2)),
        replace(plain, regions=(Region((-0.2, -0.2, 0.2, 0.2), 9, "structure"),)),
        Latent(torch.zeros(generator.num_ws, 12), seed=7),
    ]
    pictures = set()
    for scene in scenes:
        here, there = tmp_path / "here.png", tmp_path / "there.png"
        exact.render_to(here, scene, WINDOW, tile=128)
        exact.render_to(there, scene, WINDOW, tile=128, dask=cluster.with_workers(2))
        assert here.read_bytes() == there.read_bytes()
        pictures.add(here.read_bytes())
    assert len(pictures) == len(scenes)


def test_commands_spread_what_they_draw(cluster: Cluster, bundles: dict[str, Path], tmp_path: Path) -> None:
    ring = make_bundle(tmp_path / "models/ring", 1, 0.5, (1.0, 0.5), chart="cylinder", fov=180.0)
    address = cluster.with_workers(2)
    for words in (
        ("render", bundles["frame"], "--size", "60x80", "--turn", 5),
        ("panorama", ring, "--height", 60),
        ("fuse", bundles["exact"], "--seeds", "3,4", "--size", "60x80"),
    ):
        pictures = []
        for name, more in (("here.png", ()), ("there.png", ("--dask", address))):
            done = CliRunner().invoke(app, [*map(str, words), "--out", str(tmp_path / name), *more])
            assert done.exit_code == 0, done.output
            pictures.append((tmp_path / name).read_bytes())
        assert pictures[0] == pictures[1]


def test_the_scheduler_needs_nothing_of_ours(cluster: Cluster, exact: Model) -> None:
    from distributed import Client

    address = cluster.with_workers(2)
    with drawing_on(address, exact.generator, exact.meta["params"]["train"]) as draw:
        list(draw(exact.generator, Scene.of([5], 8), [[WINDOW.crop(0, 0, (64, 96))]], 1.0, None, True))

    def loaded() -> list[str]:
        import sys

        return [name for name in ("anyres", "torch") if name in sys.modules]

    with Client(address, set_as_default=False) as client:
        assert client.run_on_scheduler(loaded) == []
        assert list(client.run(loaded).values()) == [["anyres", "torch"]] * 2
        # Nothing of what was ordered is kept.
        assert client.run_on_scheduler(lambda dask_scheduler: len(dask_scheduler.tasks)) == 0


def test_as_many_passes_are_under_way_as_workers_take(cluster: Cluster, exact: Model) -> None:
    ordered = 0

    def passes() -> Iterator[Sequence[Window]]:
        nonlocal ordered
        for index in range(12):
            ordered += 1
            yield [WINDOW.crop(0, 8 * index, (16, 24)), WINDOW.crop(8, 8 * index, (16, 24))]

    generator, scene = exact.generator, Scene.of([5], 8)
    with drawing_on(cluster.with_workers(2), generator, exact.meta["params"]["train"]) as draw:
        drawn = draw(generator, scene, passes(), 1.0, None, False)
        for index in range(12):
            values = next(drawn)
            assert ordered == min(2 * AHEAD + index, 12)
            windows = [WINDOW.crop(top, 8 * index, (16, 24)) for top in (0, 8)]
            torch.testing.assert_close(values, generator(scene.repeated(2), windows), rtol=0, atol=0)
        assert next(drawn, None) is None


def test_bytes_come_back_from_the_values_that_are_made_of_them() -> None:
    every = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, axis=3)
    np.testing.assert_array_equal(to_uint8(from_uint8(every)), every)


# ---- who is killed on the way


def test_a_lost_worker_is_drawn_for_by_others(cluster: Cluster, exact: Model, whole: bytes, tmp_path: Path) -> None:
    address = cluster.with_workers(2)
    advance = calls((2, lambda: cluster.kill(cluster.workers[0])))
    exact.render_to(tmp_path / "p.tif", 5, LARGE, advance=advance, dask=address)
    assert (tmp_path / "p.tif").read_bytes() == whole


def test_a_drawing_that_lost_all_workers_is_gone_on_with(cluster: Cluster, exact: Model, whole: bytes, tmp_path: Path) -> None:
    out, began = tmp_path / "p.tif", 0.0

    def end() -> None:
        nonlocal began
        cluster.with_workers(0)
        began = time.monotonic()

    address = cluster.with_workers(1)
    with pytest.raises(ConnectionError, match="all workers are gone; start some, and run the command again"):
        exact.render_to(out, 5, LARGE, advance=calls((3, end)), dask=address)
    assert time.monotonic() - began < WITHIN_S
    assert [path.name for path in tmp_path.iterdir()] == [".p.tif.drawing"]
    before, began = record(out), time.monotonic()
    with pytest.raises(ConnectionError, match=f"the scheduler has no workers; start some with `dask worker {address}`"):
        exact.render_to(out, 5, LARGE, dask=address)
    assert time.monotonic() - began < WITHIN_S
    assert record(out) == before
    told: list[float] = []
    exact.write(out, RenderRequest(5, LARGE, PSI), resumed=told.append)
    assert told == [int(before[-1].split()[1]) / 1e6]
    assert out.read_bytes() == whole


def command(*words: object) -> subprocess.Popen[str]:
    environ = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    full = [sys.executable, "-m", "anyres", *map(str, words)]
    return subprocess.Popen(full, cwd=ROOT, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_the_command_is_stopped_killed_and_goes_on(
    cluster: Cluster, bundles: dict[str, Path], exact: Model, tmp_path: Path
) -> None:
    out, address = tmp_path / "p.tif", cluster.with_workers(2)
    words = ("render", bundles["exact"], "--seed", 5, "--size", "3000x4200", "--out", out, "--dask", address, "--json")
    for ending, code in ((signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)):
        before = len(record(out))
        with command(*words) as process:
            deadline = time.monotonic() + 60
            while len(record(out)) < max(before, 1) + 2:
                assert process.poll() is None, process.communicate()
                assert time.monotonic() < deadline
                time.sleep(0.002)
            process.send_signal(ending)
            process.communicate(timeout=20)
        assert process.returncode == code
        assert [path.name for path in tmp_path.iterdir()] == [".p.tif.drawing"]
    finished = int(record(out)[-1].split()[1]) / 1e6
    with command(*words) as process:
        said, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert f"p.tif: resumes at {finished:.2f} of 12.60 MP, which were drawn before" in errors
    assert json.loads(said)["path"] == str(out)
    window = Window((0.0, 0.0), exact.geometry.chart.short_side / 3000, (3000, 4200))
    exact.render_to(tmp_path / "here.tif", 5, window)
    assert out.read_bytes() == (tmp_path / "here.tif").read_bytes()


# ---- what does not fit


def test_nobody_at_the_address_is_one_line(exact: Model, tmp_path: Path) -> None:
    def said(address: str) -> tuple[str, float]:
        began = time.monotonic()
        with pytest.raises(ConnectionError, match="no Dask scheduler answers there") as raised:
            exact.render_to(tmp_path / "p.tif", 5, WINDOW, dask=address)
        return str(raised.value), time.monotonic() - began

    with socket.socket() as mute, ThreadPoolExecutor(2) as threads:
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        # One refuses, one says nothing, one is none.
        for line, took_s in threads.map(said, ("tcp://127.0.0.1:1", f"tcp://127.0.0.1:{mute.getsockname()[1]}", "nonsense")):
            assert "\n" not in line
            assert took_s < WITHIN_S
    assert not list(tmp_path.iterdir())


def test_a_worker_of_another_version_is_named(cluster: Cluster, exact: Model, tmp_path: Path) -> None:
    """Once one whose code differs, once one that has none."""
    shutil.copytree(ROOT / "anyres", tmp_path / "other/anyres", ignore=shutil.ignore_patterns("__pycache__"))
    with (tmp_path / "other/anyres/plane/window.py").open("a") as file:
        file.write("OTHER_CODE = True\n")
    (tmp_path / "none/anyres").mkdir(parents=True)
    (tmp_path / "none/anyres/__init__.py").write_text("raise ImportError('no anyres here')\n")
    for path, says in (
        ("other", r"has code of anyres [0-9a-f]{12}, here it is [0-9a-f]{12}; install the same there"),
        ("none", rf"cannot draw \(no anyres here\); install anyres {anyres.__version__} there"),
    ):
        cluster.with_workers(0)
        address = cluster.with_workers(1, tmp_path / path)
        with pytest.raises(ValueError, match=rf"the worker at tcp://127\.0\.0\.1:\d+ {says}"):
            exact.render_to(tmp_path / "p.tif", 5, WINDOW, dask=address)
    cluster.with_workers(0)
    assert not (tmp_path / "p.tif").exists()


def test_without_dask_all_else_works(bundles: dict[str, Path], tmp_path: Path) -> None:
    script = """
import sys
sys.modules["distributed"] = sys.modules["dask"] = None
from anyres.cli import app
words = ["render", sys.argv[1], "--size", "32x40", "--out", sys.argv[2]]
app(words, standalone_mode=False)
app([*words, "--dask", "tcp://127.0.0.1:1"])
"""
    words = [sys.executable, "-c", script, str(bundles["frame"]), str(tmp_path / "p.png")]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert "p.png: 40 x 32 px, scene 0" in done.stdout
    assert "drawing on Dask workers needs the package distributed; install anyres[dask]" in done.stderr
