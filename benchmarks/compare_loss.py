"""Compare two checkouts bit by bit: the same short trainings of every method, loss by loss and weight by weight.

    python benchmarks/compare_loss.py ../before . --cases continuum,scaleparty

Each case is a small preset with every loss of its method, trained for a few dozen steps on generated pictures with one thread. A
change of names or of structure must leave every number bit-identical on one machine. For a change of behaviour, the table shows
the first step that differs. Each checkout runs with its own code and its own presets, so only the command line and the keys in
CASES must exist in both. Exits with 1 where anything differs.

    python benchmarks/compare_loss.py . --write tests/training/golden.json

writes the losses of one checkout to a file, which tests/training/test_golden.py compares with a tolerance for other machines.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from PIL import Image
from rich.console import Console
from rich.table import Table
from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

STEPS = 32
BATCH = 8
# Height and width of the generated photographs.
SIZES = [(512, 640), (300, 200), (128, 160), (256, 512), (200, 200)]
# Losses that look at more than one picture at a time, or at a picture's number in the batch.
STATISTICS = {"path_length": 2.0, "path_every": 2, "style_mixing": 0.5, "feature_matching": 1.0}
GRID = {"zoom_max": 1.0, "stages": {"global_kimg": 0.0}, "pairs": {"share": 0.0}}
# Name -> (preset, changes of its section train).
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "continuum": ("continuum-small", {}),
    "continuum, every loss": (
        "continuum-small",
        {"zoom_max": 8.0, "pairs": {"share": 0.5, "large_share": 0.3}, "loss": {**STATISTICS, "vertical": 0.5}},
    ),
    "continuum on the plane": ("continuum-small", {"chart": "plane"}),
    "continuum on the cylinder": ("continuum-panorama", {}),
    "anyres_gan": (
        "anyres_gan-small",
        {"stages": {"global_kimg": 0.016, "global_share": 0.5, "teacher_weight": 2.0, "perceptual": "lite0"}, "loss": STATISTICS},
    ),
    "anyres_gan on the cylinder": (
        "anyres_gan-small",
        {"chart": "cylinder", "fov": 180.0, "zoom_max": 8.0, "stages": {"global_kimg": 0.016}},
    ),
    "scaleparty": ("scaleparty-small", {"stages": {"global_kimg": 0.016}, "pairs": {"share": 1.0, "l1": 1.0}}),
    "infinity_gan": ("infinity_gan-small", {"loss": STATISTICS}),
    "ms_pie": ("scaleparty-small", {"method": "ms_pie", **GRID}),
    "ms_pe": ("scaleparty-small", {"method": "ms_pe", **GRID}),
    "cips": ("scaleparty-small", {"method": "cips", **GRID}),
    "stylegan2": ("scaleparty-small", {"method": "stylegan2", **GRID, "pairs": {"share": 0.0, "large_share": 0.0}}),
}


def main(
    checkouts: Annotated[list[Path], typer.Argument(metavar="A [B]", help="Folders of checkouts of anyres.")],
    cases: Annotated[str, typer.Option(help="Names with commas between; by default all.")] = "",
    steps: Annotated[int, typer.Option(help="Steps of each training.")] = STEPS,
    write: Annotated[Path | None, typer.Option(help="Write the losses of A to this file.")] = None,
) -> None:
    """Train the cases in one or two checkouts; print where they differ."""
    names = [name.strip() for name in cases.split(",")] if cases else list(CASES)
    for name in names:
        if name not in CASES:
            raise typer.BadParameter(f"no case {name!r}; there are {'; '.join(CASES)}")
    with tempfile.TemporaryDirectory() as folder:
        store = make_store(Path(folder))
        traces: dict[str, list[dict[str, Any]]] = {}
        for name in names:
            with ThreadPoolExecutor(len(checkouts)) as pool:
                works = [Path(folder, f"{name}-{index}") for index in range(len(checkouts))]
                jobs = zip(checkouts, works, strict=True)
                traces[name] = list(pool.map(lambda job, name=name: trace(job[0].resolve(), store, job[1], name, steps), jobs))
            print(f"{name}: {summary(traces[name])}", file=sys.stderr, flush=True)
    if write is not None:
        write.write_text(golden(traces), encoding="utf-8")
    if len(checkouts) == 1:
        return
    table = Table("case", "steps", "result")
    for name, pair in traces.items():
        table.add_row(name, str(len(pair[0]["losses"])), summary(pair))
    Console().print(table)
    if any(difference(*pair) for pair in traces.values()):
        raise typer.Exit(1)


def make_store(folder: Path) -> Path:
    """Draw photographs with detail in every octave, and prepare them with the code beside this file."""
    from anyres.data.intake import intake
    from anyres.data.pyramid import prepare
    from anyres.data.sources import Access, open_source
    from anyres.params import Params

    pictures = folder / "pictures"
    pictures.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for index, (height, width) in enumerate(SIZES):
        total = np.zeros((height, width, 3), np.float32)
        cells = 2
        while cells < 2 * max(height, width):
            noise = Image.fromarray((rng.random((min(cells, height), min(cells, width), 3)) * 255).astype(np.uint8))
            octave = np.asarray(noise.resize((width, height), Image.Resampling.BICUBIC), np.float32)
            total += (octave - 127.5) * (2 / cells) ** 0.75
            cells *= 2
        Image.fromarray(np.clip(total + 127.5, 0, 255).astype(np.uint8)).save(pictures / f"{index}.png")
    params = Params.load(ROOT / "params.yaml")
    changes = {"source": "folder", "folder": str(pictures), "near_duplicates": "keep"}
    ingest = params.ingest.model_copy(update=changes)
    access = Access(folder / "cache")
    intake(open_source(ingest, access), ingest, access, folder / "ingested", progress=False)
    prepare(folder / "ingested", params.prepare, folder / "store", progress=False)
    return folder / "store"


def section(checkout: Path, name: str, steps: int) -> dict[str, Any]:
    """Return all sections of params.yaml of a checkout, with the section train of a case."""
    yaml = YAML(typ="safe", pure=True)
    values = yaml.load((checkout / "params.yaml").read_text(encoding="utf-8"))
    preset, changes = CASES[name]
    of_preset = yaml.load((checkout / "anyres/presets" / f"{preset}.yaml").read_text(encoding="utf-8"))["train"]
    length = {"batch": BATCH, "kimg": steps * BATCH / 1000, "report_every_kimg": BATCH / 1000}
    length |= {"sample_every_kimg": 99.0, "checkpoint_every_kimg": 99.0, "monitor": {"every_kimg": 0.0}, "seed": 3}
    train = values["train"]
    for overrides in (of_preset, length, changes):
        for key, value in overrides.items():
            train[key] = train[key] | value if isinstance(value, dict) and key != "network" else value
    if "final_rate" in train["optimizer"]:
        # Rates that fall would make the first steps depend on how many there are.
        train["optimizer"]["final_rate"] = 1.0
    return values


def trace(checkout: Path, store: Path, work: Path, name: str, steps: int) -> dict[str, Any]:
    """Train a case with the code of a checkout; return the losses of each step, and the SHA-256 of the weights."""
    work.mkdir(parents=True)
    with (work / "params.yaml").open("w", encoding="utf-8") as file:
        YAML(typ="safe", pure=True).dump(section(checkout, name, steps), file)
    paths = {"params": work / "params.yaml", "store": store, "out": work / "out", "runs": work / "runs"}
    options = [word for key, path in paths.items() for word in (f"--{key}", str(path))]
    environ = os.environ | {"PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    command = [sys.executable, "-m", "anyres", "train", *options]
    result = subprocess.run(command, cwd=checkout, env=environ, capture_output=True, text=True, check=False)
    if result.returncode:
        raise SystemExit(f"{checkout}: {name}: {result.stderr[-2000:]}")
    return {"losses": losses(work / "out/history.jsonl"), "weights": weights_hash(work / "out/generator.safetensors")}


def losses(history: Path) -> list[dict[str, float]]:
    """Return the values of each step, without throughput."""
    lines = [json.loads(line) for line in history.read_text(encoding="utf-8").splitlines()]
    return [{key: value for key, value in line.items() if not key.startswith("perf/")} for line in lines]


def weights_hash(path: Path) -> str:
    """Return the SHA-256 of the tensors of a safetensors file, without their names, in the order of the file."""
    data = path.read_bytes()
    header = int.from_bytes(data[:8], "little")
    return hashlib.sha256(data[8 + header :]).hexdigest()


def golden(traces: dict[str, list[dict[str, Any]]]) -> str:
    """Return the losses of the first checkout as JSON, one line for each step."""
    cases = []
    for name, pair in traces.items():
        steps = ",\n  ".join(json.dumps(line) for line in pair[0]["losses"])
        cases.append(f"{json.dumps(name)}: [\n  {steps}\n ]")
    return "{\n " + ",\n ".join(cases) + "\n}\n"


def difference(a: dict[str, Any], b: dict[str, Any] | None = None) -> str:
    """Say where two traces differ first; empty where they are bit-identical."""
    if b is None:
        return ""
    for step, (one, other) in enumerate(zip(a["losses"], b["losses"], strict=False), start=1):
        for key in sorted({*one, *other}):
            if one.get(key) != other.get(key):
                return f"step {step}: {key} is {one.get(key)} in A and {other.get(key)} in B"
    if len(a["losses"]) != len(b["losses"]):
        return f"{len(a['losses'])} steps in A, {len(b['losses'])} in B"
    return "" if a["weights"] == b["weights"] else "the weights differ"


def summary(traces: list[dict[str, Any]]) -> str:
    return "trained" if len(traces) == 1 else difference(*traces) or "bit-identical"


if __name__ == "__main__":
    typer.run(main)
