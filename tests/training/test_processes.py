"""One training, however it is divided: over processes, over passes, and after one of its processes was killed.

Losses of every step are compared within 1e-4, absolute and relative, the path length penalty within a hundredth. Rates are a
quarter of the shipped ones: at those a tiny network magnifies the last bit of a sum tenfold every few steps, whatever changed it;
one thread more does the same.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from accelerate import Accelerator
from ruamel.yaml import YAML

from anyres.data.store import Store
from anyres.params import Params, Train
from anyres.training.microbatch import pass_size
from anyres.training.run import train
from pipelines.environment import Environment
from pipelines.process.launch import launch_command
from tests.export.bundles import ANYRES_GAN, GRID_NETWORK, INFINITY_GAN, TINY_DISCRIMINATOR

ROOT = Path(__file__).resolve().parents[2]
STEPS = 24
CLOSE, SLOPES_CLOSE = 1e-4, 1e-2
ENVIRON = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}

# Everything that looks at more than one picture at a time, or at a picture's number in the batch.
PAIRED = {"ratio": 1.5, "share": 0.5, "large_share": 0.3, "cutmix": True, "channelmix": True, "mix_reals": True, "l1": 0.5}
STATISTICS = {"path_length": 2.0, "path_every": 2, "style_mixing": 0.5, "feature_matching": 1.0}
# Where several scales of one scene magnify more.
SLOWER = {"g_lr": 2.5e-4, "d_lr": 2.5e-4}
RECIPES: dict[str, dict[str, Any]] = {
    "continuum": {"pairs": PAIRED, "zoom_max": 2.0, "loss": {"vertical": 0.5}},
    "continuum, consistent": {
        "loss": {"consistency": 2.0, "projected": {"weight": 1.0, "taps": (4, 8), "width": 8, "lr": 5e-4}},
        "optimizer": {**SLOWER, "final_rate": 0.1},
    },
    "anyres_gan": {
        **ANYRES_GAN,
        "stages": {"global_kimg": 0.12, "global_share": 0.5, "teacher_weight": 2.0},
        "loss": STATISTICS,
    },
    "scaleparty": {
        "method": "scaleparty",
        "zoom_max": 1.6667,
        "period_law": "uniform_extent",
        "pairs": PAIRED,
        "network": GRID_NETWORK | {"channels": (8, 6, 6)},
        "discriminator": TINY_DISCRIMINATOR,
        "loss": {"style_mixing": 0.9},
    },
    # Large enough for two processes that take two passes each.
    "infinity_gan": {**INFINITY_GAN, "batch": 16, "loss": {**STATISTICS, "diversity": 1.0, "vertical": 1.0}},
}


def section(tiny: Train, name: str) -> Train:
    """So many steps of a method, penalties in every second of them, each step reported by itself, a checkpoint half way."""
    batch = RECIPES[name].get("batch", 8)
    values = tiny.model_dump() | {"batch": batch, "kimg": STEPS * batch / 1000}
    values |= {"report_every_kimg": batch / 1000, "sample_every_kimg": 9.0, "checkpoint_every_kimg": values["kimg"] / 2}
    values["monitor"] |= {"every_kimg": 0.0}
    values["optimizer"] |= {"g_lr": 5e-4, "d_lr": 5e-4}
    values["loss"] |= {"r1_gamma": 1.0, "r2_gamma": 1.0, "penalty_every": 2}
    for key, value in RECIPES[name].items():
        values[key] = values[key] | value if isinstance(value, dict) and key != "network" else value
    return Train.model_validate(values)


def command(work: Path, params: Train, store: Store, count: int) -> list[str]:
    """What the stage train launches."""
    work.mkdir(exist_ok=True)
    values = Params.load(ROOT / "params.yaml").model_dump(mode="json") | {"train": params.model_dump(mode="json")}
    with (work / "params.yaml").open("w") as file:
        YAML(typ="safe", pure=True).dump(values, file)
    places = {"params": work / "params.yaml", "store": store.path, "out": work / "out", "runs": work / "runs"}
    words = ["train", *(word for name, place in places.items() for word in (f"--{name}", str(place)))]
    return launch_command(Environment(num_processes=count), count, words)


def run(work: Path, params: Train, store: Store, micro_batch: int | None = None) -> list[dict[str, float]]:
    """The trace of a training in this process, which goes on where one stopped in that folder."""
    train(params, store, work / "out", work / "runs", Accelerator(cpu=True), None, micro_batch)
    return done_by(1, work)


def done_by(count: int, work: Path) -> list[dict[str, float]]:
    """The trace of a training that has ended."""
    assert json.loads((work / "out/train.json").read_text())["num_processes"] == count
    return trace(work / "out/history.jsonl")


def trace(path: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [{name: value for name, value in line.items() if not name.startswith("perf/")} for line in lines]


def assert_same(found: list[dict[str, float]], expected: list[dict[str, float]]) -> None:
    assert len(expected) == STEPS
    for line, wanted in zip(map(dict, found), map(dict, expected), strict=True):
        # Of the generator's own slopes, which jump wherever rounding moves a value over a kink.
        assert line.pop("penalty/path", 0) == pytest.approx(wanted.pop("penalty/path", 0), abs=CLOSE, rel=SLOPES_CLOSE)
        assert line == pytest.approx(wanted, abs=CLOSE, rel=CLOSE)


@pytest.fixture(scope="session")
def whole(tiny: Train, store: Store, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The trace of a method on one process, in one pass, made once."""
    known: dict[str, list[dict[str, float]]] = {}

    def of(name: str) -> list[dict[str, float]]:
        if name not in known:
            known[name] = run(tmp_path_factory.mktemp(name) / "one", section(tiny, name), store)
        return known[name]

    return of


@pytest.fixture(scope="session")
def halves(tiny: Train, store: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of trainings on two processes, of one launch: each recipe, one in passes, one that goes on where one was killed."""
    folder = tmp_path_factory.mktemp("halves")
    killed(folder / "killed", section(tiny, "continuum"), store, 1)
    trainings: list[tuple[str, str, int | None]] = [(name, name, None) for name in RECIPES]
    trainings += [("infinity_gan", "passes", 4), ("continuum", "killed", None)]
    told = [
        (section(tiny, name).model_dump(mode="json"), str(folder / place), micro_batch) for name, place, micro_batch in trainings
    ]
    (folder / "trainings.json").write_text(json.dumps(told))
    # The launch of the stage train, of another program.
    words = launch_command(Environment(num_processes=2), 2, [])
    assert words[-2:] == ["-m", "anyres"]
    words[-2:] = [str(ROOT / "tests/training/several.py"), str(store.path), str(folder / "trainings.json")]
    done = subprocess.run(words, cwd=folder, env=ENVIRON, capture_output=True, text=True, check=False, timeout=500)
    assert done.returncode == 0, done.stderr[-2000:]
    return folder


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", RECIPES)
def test_two_processes_see_and_learn_what_one_does(name: str, whole: Any, halves: Path) -> None:
    expected = whole(name)
    asked = {"penalty/r1", "penalty/r2", *(f"loss/{key}" for key in ("matching", "diversity") if RECIPES[name]["loss"].get(key))}
    assert asked <= expected[0].keys()
    assert max(line.get("penalty/r1", 0) for line in expected) > 10 * CLOSE
    # It moves: a training that stood still would agree with any other.
    assert abs(expected[-1]["loss/g"] - expected[0]["loss/g"]) > 100 * CLOSE
    assert_same(done_by(2, halves / name), expected)


@pytest.mark.parametrize("name", ["continuum", "anyres_gan"])
def test_passes_of_fewer_pictures_are_the_same_training(name: str, whole: Any, tiny: Train, store: Store, tmp_path: Path) -> None:
    assert_same(run(tmp_path, section(tiny, name), store, micro_batch=4), whole(name))


@pytest.mark.timeout(600)
def test_passes_on_two_processes_are_the_same_training(whole: Any, halves: Path) -> None:
    assert_same(done_by(2, halves / "passes"), whole("infinity_gan"))


def killed(work: Path, params: Train, store: Store, count: int) -> None:
    """What a training leaves behind that lost one of its processes after its first checkpoint."""
    launched = subprocess.Popen(command(work, params, store, count), cwd=work, env=ENVIRON, stderr=subprocess.PIPE, text=True)
    try:
        until = time.monotonic() + 120
        while not list(work.glob("runs/*/*.safetensors")):
            assert launched.poll() is None
            assert time.monotonic() < until
            time.sleep(0.002)
        workers = [child for child in psutil.Process(launched.pid).children(recursive=True) if "train" in child.cmdline()]
        assert len(workers) == (count if count > 1 else 0)
        # The last one: the process that writes must find out that it is alone.
        os.kill(workers[-1].pid if workers else launched.pid, signal.SIGKILL)
        killed = time.monotonic()
        _, said = launched.communicate(timeout=60)
    finally:
        launched.kill()
    assert launched.returncode != 0
    assert time.monotonic() - killed < 30
    assert not [one for one in workers if psutil.pid_exists(one.pid) and one.status() != psutil.STATUS_ZOMBIE]
    assert not (work / "out/generator.safetensors").exists()
    assert (count == 1) or "SIGKILL" in said or "Signal 9" in said


# What comes next takes the steps up to the checkpoint as they are, the others are its own.


def test_a_run_of_two_that_lost_one_goes_on_with_one(whole: Any, tiny: Train, store: Store, tmp_path: Path) -> None:
    killed(tmp_path, section(tiny, "continuum"), store, 2)
    assert_same(run(tmp_path, section(tiny, "continuum"), store), whole("continuum"))


@pytest.mark.timeout(600)
def test_a_run_of_one_that_was_lost_goes_on_with_two(whole: Any, halves: Path) -> None:
    assert_same(done_by(2, halves / "killed"), whole("continuum"))


@pytest.mark.parametrize(
    ("batch", "count", "most", "size"),
    [
        (32, 1, None, 32),
        (32, 2, None, 16),
        (32, 2, 12, 8),
        (32, 1, 4, 4),
        (24, 1, 10, 8),
        (6, 1, 4, 2),
        (5, 1, 3, 1),
        (8, 2, 99, 4),
    ],
)
def test_a_pass_takes_whole_groups(batch: int, count: int, most: int | None, size: int) -> None:
    assert pass_size(batch, count, most) == size


def test_groups_are_not_parted() -> None:
    with pytest.raises(ValueError, match=r"train\.batch: 8 must be a multiple of 16: 4 processes times groups of 4 pictures"):
        pass_size(8, 4)
    with pytest.raises(ValueError, match="micro-batches of 3 split the groups of 4 pictures"):
        pass_size(32, 1, 3)


def test_a_mean_over_passes_has_the_gradient_of_the_whole() -> None:
    """A ratio of means and an L1 distance of means, over three passes: value and gradient of the loss over all."""
    from anyres.training.reduce import identity, two_pass_mean

    torch.manual_seed(0)
    x = torch.randn(12, 5, dtype=torch.float64, requires_grad=True)

    def loss(rows: torch.Tensor, mean: Any) -> torch.Tensor:
        return mean(rows[:, 0].square().mean()) / mean(rows[:, 1].abs().mean()) + mean(rows.mean(dim=0)).abs().sum()

    wanted = loss(x, identity)
    (gradient,) = torch.autograd.grad(wanted, x)
    parts = x.split(4)
    means = two_pass_mean(lambda number, mean: loss(parts[number], mean), 3, Accelerator(cpu=True))
    values = [loss(part, mean) for part, mean in zip(parts, means, strict=True)]
    for value in values:
        torch.testing.assert_close(value, wanted)
    (found,) = torch.autograd.grad(torch.stack(values).mean(), x)
    torch.testing.assert_close(found, gradient)
