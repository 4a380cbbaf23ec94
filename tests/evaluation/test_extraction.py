"""Features are shared among processes, kept under all that determines them, and asked for once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ruamel.yaml import YAML
from typer.testing import CliRunner, Result

from anyres.cli import app
from anyres.data.store import Store
from anyres.evaluation import samples
from anyres.evaluation.extraction import Extractor, FeatureCache
from anyres.evaluation.features import FeatureSpace
from anyres.evaluation.parallel import ProcessGroup
from anyres.evaluation.samples import Samples
from anyres.networks import build_generator
from anyres.params import Params, Train
from anyres.plane.window import frame_window
from anyres.training.best import write_weights
from tests.conftest import TINY_DISCRIMINATOR, TINY_NETWORK

from .ripples import Ripples

ROOT = Path(__file__).parents[2]
ENVIRON = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}


@pytest.fixture(scope="module")
def space() -> FeatureSpace:
    return FeatureSpace("lite0")


def count(plain: Samples, seen: list[int]) -> Samples:
    """The same, telling how many pictures were read."""

    def read(part: slice) -> np.ndarray:
        pixels = plain.read(part)
        seen.append(len(pixels))
        return pixels

    return Samples(plain.count, plain.size, read, plain.key, plain.device, plain.is_real)


def test_kept_features_are_taken_again_only_for_the_same_pictures(space: FeatureSpace, store: Store, tmp_path: Path) -> None:
    real_cache = FeatureCache(tmp_path / "kept")
    extractor = Extractor([space], real_cache=real_cache)
    reals = samples.real_frames(store, range(9), 32)
    seen: list[int] = []
    (first,) = extractor(count(reals, seen))
    (again,) = extractor(count(reals, seen))
    assert sum(seen) == 9
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(first, space(reals.pixels()))
    for other in (samples.real_frames(store, range(9), 33), samples.real_frames(store, range(1, 10), 32)):
        seen.clear()
        extractor(count(other, seen))
        assert sum(seen) == 9
    # Another feature space takes nothing of the first one's.
    assert FeatureCache(tmp_path / "kept").get({**reals.key, "features": "other"}) is None


def test_a_damaged_file_is_measured_again_and_what_nobody_asks_for_goes(
    space: FeatureSpace, store: Store, tmp_path: Path
) -> None:
    reals = samples.real_frames(store, range(5), 32)
    (first,) = Extractor([space], real_cache=FeatureCache(tmp_path))(reals)
    Extractor([space], real_cache=FeatureCache(tmp_path))(samples.real_frames(store, range(5), 40))
    files = sorted(tmp_path.glob("*.npy"))
    assert len(files) == 2
    for file in files:
        file.write_bytes(file.read_bytes()[:-7])
    cache = FeatureCache(tmp_path)
    (again,) = Extractor([space], real_cache=cache)(reals)
    np.testing.assert_array_equal(first, again)
    cache.prune()
    assert len(list(tmp_path.glob("*.npy"))) == 1


def test_fakes_are_never_kept_with_reals(space: FeatureSpace, tmp_path: Path) -> None:
    fakes = samples.fakes(Ripples(1.0), [1, 2, 3], [frame_window(1.0, 16)] * 3)
    Extractor([space], real_cache=FeatureCache(tmp_path / "kept"), fake_cache=FeatureCache(tmp_path / "fake_cache"))(fakes)
    assert not list((tmp_path / "kept").glob("*"))
    assert len(list((tmp_path / "fake_cache").glob("*.npy"))) == 1
    assert samples.fakes(Ripples(1.1), [1, 2, 3], [frame_window(1.0, 16)] * 3).key != fakes.key


def test_shares_of_a_crew_are_all_parts_once() -> None:
    parts = list(range(7))
    shares = [ProcessGroup(rank, 3).share(parts) for rank in range(3)]
    assert sorted(part for share in shares for part in share) == parts
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.fixture(scope="module")
def work(params: Params, store: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder to evaluate in: params.yaml and a training that ended at once."""
    folder = tmp_path_factory.mktemp("work")
    values = params.train.model_dump()
    values["network"] |= TINY_NETWORK
    values["loss"]["consistency"] = 0.0
    train = Train.model_validate(values | {"discriminator": TINY_DISCRIMINATOR})
    values = params.model_copy(update={"train": train}).model_dump(mode="json")
    values["evaluate"] |= {"num_samples": 40, "num_sweep_samples": 24, "sizes": [24, 40], "num_scenes": 2, "bootstrap": 3}
    YAML(typ="safe", pure=True).dump(values, folder / "params.yaml")
    half_extent = (1.5, 1.0)
    for seed, name in ((1, "generator"), (2, "generator_init")):
        torch.manual_seed(seed)
        (folder / "train").mkdir(exist_ok=True)
        write_weights(build_generator(train, half_extent), folder / "train" / f"{name}.safetensors")
    record = {"params": train.model_dump(mode="json"), "half_extent": half_extent, "nimg": 0}
    (folder / "train" / "train.json").write_text(json.dumps(record))
    return folder


def words(work: Path, store: Store, out: str) -> list[str]:
    names = {"params": work / "params.yaml", "store": store.path, "trained": work / "train", "out": work / out}
    names |= {"reals": work / f"{out}-reals", "fake-cache": work / f"{out}-fake_cache"}
    options = [str(word) for key, value in names.items() for word in (f"--{key}", value)]
    return ["evaluate", *options]


def command(work: Path, store: Store, out: str, launch: str = "") -> list[str]:
    return [sys.executable, *launch.split(), "-m", "anyres", *words(work, store, out)]


def run_here(options: list[str]) -> Result:
    """The command in this process, which has loaded all that it needs."""
    return CliRunner().invoke(app, options, env={"ACCELERATE_USE_CPU": "true"}, catch_exceptions=False)


def metrics(work: Path, out: str) -> dict[str, Any]:
    return json.loads((work / out / "metrics.json").read_text())


@pytest.fixture(scope="module")
def alone(work: Path, store: Store) -> dict[str, Any]:
    assert run_here(words(work, store, "alone")).exit_code == 0
    return metrics(work, "alone")


def test_two_processes_give_the_numbers_of_one(work: Path, store: Store, alone: dict[str, Any]) -> None:
    launch = "-m accelerate.commands.launch --multi_gpu --num_processes 2 --num_machines 1 --mixed_precision no"
    subprocess.run(command(work, store, "both", f"{launch} --dynamo_backend no --main_process_port 0"), check=True, env=ENVIRON)
    both = metrics(work, "both")
    assert both.pop("protocol") == alone["protocol"]
    assert both == pytest.approx({key: value for key, value in alone.items() if key != "protocol"}, rel=1e-3, abs=1e-6)


def test_an_evaluation_that_was_killed_goes_on_and_ends_alike(work: Path, store: Store, alone: dict[str, Any]) -> None:
    process = subprocess.Popen(command(work, store, "killed"), env=ENVIRON, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while len(list((work / "killed-fake_cache").glob("*.npy"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (work / "killed").exists()
    stamps = {path: path.stat().st_mtime_ns for path in (work / "killed-fake_cache").glob("*.npy")}
    assert len(stamps) >= 2
    done = run_here(words(work, store, "killed"))
    assert done.exit_code == 0
    assert metrics(work, "killed") == alone
    # What was measured before stays with the reals; what was fake_cache has passed.
    assert not (work / "killed-fake_cache").exists()
    assert "evaluate patches" in done.stderr


def test_a_size_beyond_the_data_ends_it_before_anything_is_written(work: Path, store: Store) -> None:
    wide = YAML(typ="safe", pure=True).load(work / "params.yaml")
    wide["evaluate"]["sizes"] = [24, 4000]
    (work / "wide").mkdir()
    YAML(typ="safe", pure=True).dump(wide, work / "wide" / "params.yaml")
    options = words(work, store, "wide-out")
    options[options.index("--params") + 1] = str(work / "wide" / "params.yaml")
    done = run_here(options)
    assert done.exit_code == 2
    assert done.stderr.strip().splitlines() == [
        "evaluate: params.yaml: evaluate.sizes: no photograph has a short side of 4000 px or more (the largest has "
        f"{store.pictures.sizes.min(axis=1).max()}); leave it out"
    ]
    assert not (work / "wide-out").exists()
    assert not (work / "wide-out-reals").exists()
