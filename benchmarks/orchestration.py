"""Overhead of DVC, Prefect and MLflow: `python -m pipelines.flow` against the same work as plain Python, stage by stage.

    python benchmarks/orchestration.py --out orchestration.json

Each runs in its own checkout, on the same few generated pictures, with one process, so that the work itself takes little time.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from PIL import Image
from rich.console import Console
from rich.table import Table

from pipelines.deployment.overrides import override

ROOT = Path(__file__).resolve().parent.parent
SMALL = [
    "ingest.source=folder",
    "train.patch_px=[16, 24]",
    "train.zoom_max=2.0",
    "train.batch=8",
    "evaluate.num_samples=32",
    "evaluate.num_sweep_samples=16",
    "evaluate.sizes=[24, 40]",
    "evaluate.num_scenes=2",
    "evaluate.bootstrap=3",
    "export.samples=2",
]
STAGES = ("ingest", "prepare", "train", "evaluate", "export")

# The work of a stage and nothing around it; registration counts as work.
PLAIN = """
import importlib, subprocess, sys
from anyres.params import Params
from pipelines.environment import Environment, silence_telemetry
silence_telemetry()
name = sys.argv[1]
params, environment = Params.load(), Environment.read()
stage = importlib.import_module(f"pipelines.{name}")
if name in ("ingest", "prepare"):
    getattr(stage, name)(params, environment, lambda function, items, unit: map(function, items))
elif name == "train":
    stage.TRAINED.mkdir(parents=True)
    command = [sys.executable, "-m", "anyres", *stage.ARGUMENTS, "--runs", str(environment.runs_dir)]
    sys.exit(subprocess.run(command).returncode)
else:
    getattr(stage, name)(params, environment)
"""


def main(
    out: Annotated[Path | None, typer.Option(help="Where the results go, as JSON.")] = None,
    kimg: Annotated[float, typer.Option(help="Images of the training, in thousands.")] = 4.0,
    api: Annotated[str, typer.Option(help="A running Prefect API in place of a private one.")] = "",
) -> None:
    """Measure, print a table."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("ANYRES_", "PREFECT_", "MLFLOW_"))}
    environ |= {"ANYRES_NUM_PROCESSES": "1", "ANYRES_NUM_WORKERS": "1", "ANYRES_DEVICE": "cpu", "ACCELERATE_USE_CPU": "true"}
    environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), environ.get("PATH", "")])
    if api:
        environ["PREFECT_API_URL"] = api
    with tempfile.TemporaryDirectory() as folder:
        environ["DVC_SITE_CACHE_DIR"] = f"{folder}/dvc"
        plain = measure_plain(checkout(Path(folder) / "plain", kimg), environ)
        driven, total = measure_driven(checkout(Path(folder) / "driven", kimg), environ)
    around = total - sum(driven.values())
    costs = {name: driven[name] - plain[name] for name in STAGES}
    table = Table("", "plain, s", "driven, s", "cost, s")
    for name in STAGES:
        table.add_row(name, f"{plain[name]:.1f}", f"{driven[name]:.1f}", f"{costs[name]:.1f}")
    table.add_row("around them", "", f"{around:.1f}", f"{around:.1f}")
    cost = sum(costs.values()) + around
    table.add_row("all", f"{sum(plain.values()):.1f}", f"{total:.1f}", f"{cost:.1f}")
    Console().print(table)
    typer.echo(f"{cost / len(STAGES):.1f} s a stage; {100 * cost / 600:.1f} % of a run of ten minutes")
    if out is not None:
        out.write_text(json.dumps({"plain": plain, "driven": driven, "around": around, "cost": cost}, indent=2))


def checkout(folder: Path, kimg: float) -> Path:
    """A copy of what git hands out here, with pictures and params of seconds."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, check=True, capture_output=True, text=True
    )
    for name in listed.stdout.splitlines():
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, folder / name)
    subprocess.run(["git", "init", "--quiet"], cwd=folder, check=True)
    override(folder / "params.yaml", [*SMALL, f"train.kimg={kimg}"])
    rng = np.random.default_rng(0)
    (folder / "pictures").mkdir(exist_ok=True)
    for index in range(8):
        coarse = Image.fromarray(rng.integers(0, 255, (7, 9, 3), dtype=np.uint8))
        size = (200 + 10 * index, 150 + 7 * index)
        coarse.resize(size, Image.Resampling.BICUBIC).save(folder / "pictures" / f"{index}.png")
    return folder


def measure_plain(folder: Path, environ: dict[str, str]) -> dict[str, float]:
    """Seconds of each stage's work, a process each."""
    seconds = {}
    for name in STAGES:
        start = time.monotonic()
        subprocess.run([sys.executable, "-c", PLAIN, name], cwd=folder, env=environ, check=True, stdout=subprocess.DEVNULL)
        seconds[name] = time.monotonic() - start
    return seconds


def measure_driven(folder: Path, environ: dict[str, str]) -> tuple[dict[str, float], float]:
    """Seconds of each stage as the flow tells them, and of the whole command."""
    seconds, begun, start = {}, 0.0, time.monotonic()
    command = [sys.executable, "-m", "pipelines.flow"]
    with subprocess.Popen(command, cwd=folder, env=environ, stdout=subprocess.PIPE, text=True) as flow:
        assert flow.stdout is not None
        for line in flow.stdout:
            name, _, words = line.partition(": ")
            if name in STAGES and words.startswith("started"):
                begun = time.monotonic()
            elif name in STAGES and words.startswith("done"):
                seconds[name] = time.monotonic() - begun
    if flow.returncode:
        raise RuntimeError(f"python -m pipelines.flow ended with {flow.returncode}")
    return seconds, time.monotonic() - start


if __name__ == "__main__":
    typer.run(main)
