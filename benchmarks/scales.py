"""Methods of many sizes side by side on one data set: trained alike, then scored at sizes seen and unseen.

    python benchmarks/scales.py --store data/store --kimg 40 --out out/scales

Rows are methods, each with FD, KID, precision and recall of whole frames at every size, and SelfSSIM between sizes. A
training that was stopped goes on where it was; one that is done is not done again.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, cast

import numpy as np
import torch
import typer
from accelerate import Accelerator
from rich.console import Console
from rich.table import Table
from ruamel.yaml import YAML

from anyres import presets
from anyres.data.store import Store
from anyres.evaluation import samples as seeded
from anyres.evaluation.consistency import self_ssim
from anyres.evaluation.distances import frechet, kid, precision_recall
from anyres.evaluation.features import FeatureSpace
from anyres.networks import ScaleParty
from anyres.networks.generator import Generator
from anyres.networks.saved import load_trained
from anyres.params import Params, Train
from anyres.synthesis.render import render
from anyres.synthesis.request import RenderRequest
from anyres.training.run import train

ROOT = Path(__file__).parent.parent
SEED = 1
# Changes of the preset. Only scaleparty has windows smaller than the frame and pairs. Policies of noise are drawn
# from scaleparty's training: they say where noise stands, not what was learned.
WHOLE: dict[str, Any] = {"whole": True}
METHODS: dict[str, dict[str, Any]] = {
    "scaleparty": {},
    "noSC": {"pairs": {"share": 0.0}},
    "full": {"pairs": {"share": 0.0}, **WHOLE},
    "constant noise": {"of": "scaleparty", "noise": "constant"},
    "random noise": {"of": "scaleparty", "noise": "random"},
    "ms_pie": {"method": "ms_pie", "pairs": {"share": 0.0}, **WHOLE},
    "ms_pe": {"method": "ms_pe", "pairs": {"share": 0.0}, **WHOLE},
    "cips": {"method": "cips", "pairs": {"share": 0.0}, **WHOLE},
    "stylegan2": {"method": "stylegan2", "pairs": {"share": 0.0, "large_share": 0.0}, **WHOLE},
}


def main(
    store: Annotated[Path, typer.Option(help="What the stage prepare wrote.")] = Path("data/store"),
    out: Annotated[Path, typer.Option(help="Trainings and the table.")] = Path("out/scales"),
    methods: Annotated[str, typer.Option(help="Names with commas between.")] = "scaleparty,noSC,ms_pie,stylegan2",
    kimg: Annotated[float, typer.Option(help="Thousand images each.")] = 40.0,
    samples: Annotated[int, typer.Option(help="Fakes a size; reals up to four times as many.")] = 1000,
    sizes: Annotated[str, typer.Option(help="Short sides.")] = "32,36,40,44,48",
    threads: Annotated[int, typer.Option(help="Of torch.")] = 2,
) -> None:
    """Train what is not trained, score, print a table, write table.json and table.md."""
    torch.set_num_threads(threads)
    pictures = Store.open(store)
    names = [name.strip() for name in methods.split(",")]
    unknown = [name for name in names if name not in METHODS]
    if unknown:
        raise typer.BadParameter(f"no method {unknown[0]!r}; there are {', '.join(METHODS)}")
    rows = []
    for name in names:
        policy = METHODS[name].get("noise")
        of = METHODS[name].get("of", name)
        params, folder = section(METHODS[of], kimg), out / of
        if not trained(folder, params):
            train(params, pictures, folder, out / "runs", Accelerator(cpu=True))
        generator = load_trained(folder)
        if policy is not None:
            assert isinstance(generator, ScaleParty)
            generator.trunk.noise = replace(generator.trunk.noise, policy=policy)
        rows.append({"name": name, **score(generator, pictures, [int(s) for s in sizes.split(",")], samples)})
        write(rows, out)


def section(changes: dict[str, Any], kimg: float) -> Train:
    """The section train of the preset, changed."""
    yaml = YAML(typ="safe", pure=True)
    values = Params.load(ROOT / "params.yaml").train.model_dump()
    for key, value in yaml.load(presets.preset_files()["scaleparty-small"].read_text(encoding="utf-8"))["train"].items():
        values[key] = values[key] | value if isinstance(value, dict) and key != "network" else value
    values |= {"kimg": kimg, "method": changes.get("method", values["method"])}
    values["stages"]["global_kimg"] = kimg if changes.get("whole") else 0.4 * kimg
    for part in ("pairs", "network"):
        values[part] = values[part] | changes.get(part, {})
    return Train.model_validate(values)


def trained(folder: Path, params: Train) -> bool:
    """Whether a finished training of these params lies there."""
    record = folder / "train.json"
    return record.exists() and json.loads(record.read_text())["params"] == params.model_dump(mode="json")


def score(generator: torch.nn.Module, store: Store, sizes: list[int], samples: int) -> dict[str, Any]:
    """FD, KID, precision and recall at every size, and the matrix of SelfSSIM."""
    drawing, space = cast(Generator, generator), FeatureSpace("lite0")
    seeds = seeded.scene_seeds(SEED, "frames", samples)
    by_size: dict[str, Any] = {}
    for size in sizes:
        chosen = seeded.choose_frames(store, size, 4 * samples, SEED)
        real = space(seeded.real_frames(store, chosen, size).pixels())
        windows = [seeded.frame_of(drawing, size)] * samples
        fake = space(seeded.fakes(drawing, seeds, windows).pixels())
        precision, recall = precision_recall(fake, real)
        by_size[str(size)] = {"fd": frechet(fake, real), "kid": kid(fake, real), "precision": precision, "recall": recall}
    scenes = [[render(drawing, RenderRequest(seed, seeded.frame_of(drawing, size))) for size in sizes] for seed in seeds[:100]]
    matrix = self_ssim(scenes)
    others = ~np.eye(len(sizes), dtype=bool)
    return {"sizes": by_size, "self_ssim": matrix.tolist(), "self_ssim_mean": float(matrix[others].mean())}


def write(rows: list[dict[str, Any]], out: Path) -> None:
    """Print and keep the table so far."""
    sizes = list(rows[0]["sizes"])
    table = Table("method", *(f"{size} px: FD, KID, precision, recall" for size in sizes), "SelfSSIM, mean and least")
    lines = ["| method | " + " | ".join(f"{size} px" for size in sizes) + " | SelfSSIM |", "|---" * (len(sizes) + 2) + "|"]
    for row in rows:
        cells = ["{fd:.0f} {kid:.3f} {precision:.2f} {recall:.2f}".format(**row["sizes"][size]) for size in sizes]
        agreement = f"{row['self_ssim_mean']:.3f} {np.min(row['self_ssim']):.3f}"
        table.add_row(row["name"], *cells, agreement)
        lines.append(f"| {row['name']} | {' | '.join(cells)} | {agreement} |")
    Console(width=200).print(table)
    out.mkdir(parents=True, exist_ok=True)
    (out / "table.json").write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    (out / "table.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
