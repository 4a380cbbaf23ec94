"""The whole pipeline on generated pictures, as a person meets it: killed, gone on, left alone, changed a little."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from PIL import Image
from ruamel.yaml import YAML

from pipelines.environment import Environment
from pipelines.launch import launch_command, process_count
from pipelines.train import WORK

ROOT = Path(__file__).resolve().parents[2]

# One checkout, one story: the tests build on each other.
pytestmark = pytest.mark.timeout(400)

SIZES = [(150, 200), (240, 180), (130, 390), (200, 200), (260, 190)]
TINY: dict[str, dict[str, Any]] = {
    "ingest": {"source": "folder"},
    "train": {
        "kimg": 2.0,
        "batch": 8,
        "patch_px": [16, 24],
        "zoom_max": 4.0,
        "report_every_kimg": 0.2,
        "sample_every_kimg": 1.0,
        "checkpoint_every_kimg": 0.4,
    },
    "evaluate": {"num_samples": 16, "num_sweep_samples": 8, "sizes": [24, 40], "num_scenes": 2, "bootstrap": 3},
    "export": {"samples": 2},
}
NETWORK = {"z_dim": 12, "w_dim": 10, "stem_layers": 1, "channels": [16, 12, 8], "octaves": 4, "features_per_octave": 6}
NETWORK_D = {"d_channels": [8, 12, 16], "d_attention_heads": 2, "d_pooled_px": 2}


def change(checkout: Path, section: str, **values: Any) -> None:
    yaml = YAML()
    params = yaml.load(checkout / "params.yaml")
    params[section].update(values)
    yaml.dump(params, checkout / "params.yaml")


def hand_out(folder: Path) -> Path:
    """Fill `folder` with what git would hand out of the working tree, its source an empty folder of pictures."""
    ls = ["git", "ls-files", "-co", "--exclude-standard"]
    listed = subprocess.run(ls, cwd=ROOT, check=True, capture_output=True, text=True)
    for name in listed.stdout.splitlines():
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, folder / name)
    subprocess.run(["git", "init", "--quiet"], cwd=folder, check=True)
    for section, values in TINY.items():
        change(folder, section, **values)
    change(folder, "train", network=NETWORK | NETWORK_D | {"mapping_layers": 2})
    return folder


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout with a folder of pictures and params of seconds."""
    folder = hand_out(tmp_path_factory.mktemp("checkout"))
    rng = np.random.default_rng(0)
    for index, (height, width) in enumerate(SIZES):
        coarse = Image.fromarray(rng.integers(0, 255, (7, 9, 3), dtype=np.uint8))
        coarse.resize((width, height), Image.Resampling.BICUBIC).save(folder / "pictures" / f"{index}.png")
    return folder


def environ(checkout: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("ANYRES_", "MLFLOW_", "PREFECT_", "DVC_"))}
    path = os.pathsep.join([str(Path(sys.executable).parent), kept.get("PATH", "")])
    # DVC writes outside of the checkout otherwise.
    pinned = {"ANYRES_DEVICE": "cpu", "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    return kept | pinned | {"PATH": path, "DVC_SITE_CACHE_DIR": str(checkout / ".anyres/dvc")}


def checkpoints(checkout: Path) -> list[Path]:
    return list((checkout / "out/runs").glob("*/*.safetensors"))


def run(checkout: Path, *command: str) -> tuple[str, float]:
    """Run python with `command`; return what it printed and its seconds."""
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, *command], cwd=checkout, env=environ(checkout), capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout, time.monotonic() - start


def test_killed_in_training_then_run_again_equals_an_uninterrupted_training(checkout: Path) -> None:
    command = [sys.executable, "-m", "pipelines.flow"]
    flow = subprocess.Popen(command, cwd=checkout, env=environ(checkout), stdout=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + 120
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
    assert [re.search(rf"^{name}: (\w+) in", said, re.MULTILINE)[1] for name in ("ingest", "prepare")] == ["cached", "cached"]  # type: ignore[index]
    assert "train: done in" in said
    assert "anyres-generator 1 is champion" in said
    assert "out/report/index.html" in said
    for path in ("out/report/index.html", "out/evaluation/metrics.json", "out/export/generator/generator.json"):
        assert (checkout / path).is_file()

    # The last of equal options counts: the stage's own launch, into other folders.
    launch = launch_command(Environment(), process_count(Environment(), TINY["train"]["batch"], gpus=0), WORK)
    run(checkout, *launch[1:], "--out", "again/train", "--runs", "again/runs")
    for name in ("generator.safetensors", "generator_init.safetensors"):
        assert (checkout / "out/train" / name).read_bytes() == (checkout / "again/train" / name).read_bytes()
    shutil.rmtree(checkout / "again")


def test_folder_without_a_picture_is_said_in_a_line(tmp_path: Path) -> None:
    empty = hand_out(tmp_path)
    command = [sys.executable, "-m", "pipelines.flow"]
    done = subprocess.run(command, cwd=empty, env=environ(empty), capture_output=True, text=True, check=False, timeout=120)
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


def test_changed_evaluation_reruns_from_there_by_plain_dvc(checkout: Path) -> None:
    weights = (checkout / "out/train/generator.safetensors").stat().st_mtime_ns
    change(checkout, "evaluate", num_scenes=3)
    said, _ = run(checkout, "-m", "dvc", "repro")
    assert re.findall(r"Running stage '(\w+)'", said) == ["evaluate", "export"]
    assert (checkout / "out/train/generator.safetensors").stat().st_mtime_ns == weights
