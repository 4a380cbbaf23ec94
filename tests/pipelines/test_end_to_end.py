"""The whole pipeline on generated pictures: killed and resumed, run again unchanged, run again after a small change."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from pipelines.environment import Environment
from pipelines.process.launch import launch_command, process_count
from pipelines.train import ARGUMENTS
from tests.pipelines.checkouts import TINY, add_pictures, change, hand_out

# One checkout, one story: the tests build on each other.
pytestmark = pytest.mark.timeout(400)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout with a folder of pictures and params of seconds."""
    folder = hand_out(tmp_path_factory.mktemp("checkout"))
    add_pictures(folder)
    # Long enough to be killed between the first checkpoint and the end.
    change(folder, "train", kimg=0.56, report_every_kimg=0.08, sample_every_kimg=0.28, checkpoint_every_kimg=0.12)
    return folder


def environ(checkout: Path, **variables: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("ANYRES_", "MLFLOW_", "PREFECT_", "DVC_"))}
    path = os.pathsep.join([str(Path(sys.executable).parent), kept.get("PATH", "")])
    # Every process would compile the checkout's modules anew.
    kept.pop("PYTHONDONTWRITEBYTECODE", None)
    # DVC writes outside of the checkout otherwise.
    pinned = {"ANYRES_DEVICE": "cpu", "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "ANYRES_NUM_WORKERS": "1"}
    return kept | pinned | {"PATH": path, "DVC_SITE_CACHE_DIR": str(checkout / ".anyres/dvc")} | variables


def checkpoints(checkout: Path) -> list[Path]:
    return list((checkout / "out/runs").glob("*/*.safetensors"))


def run(checkout: Path, *command: str, **variables: str) -> tuple[str, float]:
    """Run python with `command`; return what it printed and its seconds."""
    start, values = time.monotonic(), environ(checkout, **variables)
    done = subprocess.run(
        [sys.executable, *command], cwd=checkout, env=values, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout, time.monotonic() - start


def test_killed_in_training_then_run_again_equals_an_uninterrupted_training(checkout: Path) -> None:
    command = [sys.executable, "-m", "pipelines.flow"]
    flow = subprocess.Popen(command, cwd=checkout, env=environ(checkout), stdout=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + 240
    while not checkpoints(checkout) and time.monotonic() < deadline and flow.poll() is None:
        time.sleep(0.05)
    # The training itself is killed, without a chance to save, and then all that watches over it.
    family = psutil.Process(flow.pid).children(recursive=True)
    for process in [one for one in family if {"anyres", "train"} <= set(one.cmdline())]:
        process.kill()
    flow.kill()
    flow.wait()
    assert checkpoints(checkout), "no checkpoint was written before the kill"
    assert not (checkout / "out/train/generator.safetensors").exists(), "training ended before the kill"

    said, _ = run(checkout, "-m", "pipelines.flow")
    assert [re.search(rf"^{name}: (\w+) in", said, re.MULTILINE)[1] for name in ("ingest", "prepare")] == ["cached", "cached"]
    assert "train: done in" in said
    assert "anyres-generator 1 is champion" in said
    assert "out/report/index.html" in said
    for path in ("out/report/index.html", "out/evaluation/metrics.json", "out/export/generator/generator.json"):
        assert (checkout / path).is_file()

    # The last of equal options counts: the stage's own launch, into other folders.
    launch = launch_command(Environment(), process_count(Environment(), TINY["train"]["batch"], gpus=0), ARGUMENTS)
    run(checkout, *launch[1:], "--out", "again/train", "--runs", "again/runs")
    for name in ("generator.safetensors", "generator_init.safetensors"):
        assert (checkout / "out/train" / name).read_bytes() == (checkout / "again/train" / name).read_bytes()
    shutil.rmtree(checkout / "again")


def test_folder_without_a_picture_is_said_in_a_line(tmp_path: Path, prefect_api: str) -> None:
    empty = hand_out(tmp_path)
    command, values = [sys.executable, "-m", "pipelines.flow"], environ(empty, PREFECT_API_URL=prefect_api)
    done = subprocess.run(command, cwd=empty, env=values, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode != 0
    first, *rest = done.stderr.strip().splitlines()
    assert re.match(r"ingest: .*picture", first), done.stderr
    assert [re.sub(r"\d+ s", "N s", line) for line in rest] == ["flow: stage ingest failed after N s, for the reason above"]
    assert not (empty / "data/ingested").exists()


def test_nothing_changed_nothing_run(checkout: Path) -> None:
    said, seconds = run(checkout, "-m", "pipelines.flow")
    assert "nothing has changed since the last run" in said
    assert "train:" not in said
    # The promise is 10 s for a whole `make run`, on a machine that does nothing else.
    assert seconds < 20


def test_empty_registry_is_filled_without_running_anything(checkout: Path) -> None:
    (checkout / "mlflow.db").unlink()
    said, _ = run(checkout, "-m", "pipelines.flow")
    assert "nothing has changed since the last run" in said
    assert "anyres-generator 1 is champion" in said


def test_changed_evaluation_reruns_from_there_by_plain_dvc(checkout: Path, prefect_api: str) -> None:
    weights = (checkout / "out/train/generator.safetensors").stat().st_mtime_ns
    change(checkout, "evaluate", num_scenes=3)
    said, _ = run(checkout, "-m", "dvc", "repro", PREFECT_API_URL=prefect_api)
    assert re.findall(r"Running stage '(\w+)'", said) == ["evaluate", "export"]
    assert (checkout / "out/train/generator.safetensors").stat().st_mtime_ns == weights
