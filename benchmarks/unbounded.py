"""Pictures without end side by side: ScaleInv of InfinityGAN, of continuum on an unbounded plane, and of StyleGAN2 made to go on.

    python benchmarks/unbounded.py --store data/store --kimg 48 --out out/unbounded

All see patches of 32 pixels of the same photographs, 64 pixels a frame (continuum also every scale between 32 and 64). Then
each draws canvases 1, 2 and 4 times as large as a frame, which Lanczos-3 brings down to 64 pixels: FD-Lite0 and KID against whole
photographs at 64. StyleGAN2 goes on in two ways: run fully convolutionally on a larger canvas, and as independent patches in a
grid.
A training that was stopped goes on where it was; one that is done is not done again.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, cast

import numpy as np
import torch
import typer
from accelerate import Accelerator
from PIL import Image
from rich.console import Console
from rich.table import Table
from ruamel.yaml import YAML
from scales import trained

from anyres import presets
from anyres.data.store import Store
from anyres.evaluation import samples as seeded
from anyres.evaluation.distances import frechet, kid
from anyres.evaluation.features import FeatureSpace
from anyres.networks.generator import Generator
from anyres.networks.saved import load_trained
from anyres.params import Params, Train
from anyres.plane.resample import KERNEL, render_real
from anyres.plane.window import Window, frame_window
from anyres.synthesis.render import render_many
from anyres.training.run import train

ROOT = Path(__file__).parent.parent
SEED = 1
FRAME_PX, PATCH_PX = 64, 32
TIMES = (1, 2, 4)
SHOWN = 6

Draw = Callable[[Generator, list[int], int], np.ndarray]


def main(
    store: Annotated[Path, typer.Option(help="What the stage prepare wrote.")] = Path("data/store"),
    out: Annotated[Path, typer.Option(help="Trainings, the table and pictures.")] = Path("out/unbounded"),
    kimg: Annotated[float, typer.Option(help="Thousand images each.")] = 48.0,
    samples: Annotated[int, typer.Option(help="Fakes of each kind.")] = 1000,
    threads: Annotated[int, typer.Option(help="Of torch.")] = 2,
) -> None:
    """Train what is not trained, score, print a table, write table.json, table.md and pictures."""
    torch.set_num_threads(threads)
    pictures, space = Store.open(store), FeatureSpace("lite0")
    chosen = seeded.choose_frames(pictures, FRAME_PX, 4 * samples, SEED)
    real = space(seeded.real_frames(pictures, chosen, FRAME_PX).pixels())
    seeds = seeded.scene_seeds(SEED, "frames", samples)
    rows = []
    methods: list[tuple[str, str, Draw]] = [
        ("infinity_gan", "infinity_gan", on_a_canvas),
        ("continuum, unbounded plane", "continuum", on_a_canvas),
        ("stylegan2, fully convolutional", "stylegan2", on_a_canvas),
        ("stylegan2, independent patches", "stylegan2", in_a_grid),
    ]
    for name, method, draw in methods:
        params, folder = section(method, kimg), out / method
        if not trained(folder, params):
            train(params, pictures, folder, out / "runs", Accelerator(cpu=True))
        generator = cast(Generator, load_trained(folder))
        row: dict[str, Any] = {"name": name}
        for times in TIMES:
            fakes = draw(generator, seeds, times)
            features = space(fakes)
            row[str(times)] = {"fd": frechet(features, real), "kid": kid(features, real)}
            show(fakes[:SHOWN], out / f"{name.replace(', ', '_').replace(' ', '_')}_{times}x.png")
        rows.append(row)
        write(rows, out, len(chosen), samples)


def on_a_canvas(generator: Generator, seeds: list[int], times: int) -> np.ndarray:
    """One picture on the whole canvas."""
    return seeded.scale_inv(generator, seeds, Window((0.0, 0.0), 2 / FRAME_PX, (FRAME_PX, FRAME_PX)), times).pixels()


def in_a_grid(generator: Generator, seeds: list[int], times: int) -> np.ndarray:
    """Patches of scenes of their own, side by side."""
    side = times * FRAME_PX // PATCH_PX
    out = []
    for seed in seeds:
        own = np.random.default_rng(seed).integers(0, 2**40, side * side).tolist()
        patches = render_many(generator, own, [Window((0.0, 0.0), 2 / FRAME_PX, (PATCH_PX, PATCH_PX))] * len(own))
        canvas = patches.reshape(side, side, PATCH_PX, PATCH_PX, 3).swapaxes(1, 2).reshape(side * PATCH_PX, side * PATCH_PX, 3)
        out.append(canvas if times == 1 else np.clip(np.rint(render_real(canvas, frame_window(1.0, FRAME_PX))), 0, 255))
    return np.stack(out).astype(np.uint8)


def section(method: str, kimg: float) -> Train:
    """The section train of the preset of infinity_gan, or as much of it as another method takes."""
    yaml = YAML(typ="safe", pure=True)
    shipped = Params.load(ROOT / "params.yaml").train.model_dump()
    values = dict(shipped)
    for key, value in yaml.load(presets.preset_files()["infinity_gan-small"].read_text(encoding="utf-8"))["train"].items():
        values[key] = values[key] | value if isinstance(value, dict) and key != "network" else value
    values |= {"method": method, "kimg": kimg}
    if method != "infinity_gan":
        values["loss"] = values["loss"] | {"diversity": 0.0, "vertical": 0.0}
    if method == "continuum":
        values |= {"network": shipped["network"], "discriminator": shipped["discriminator"], "period_law": "log_uniform"}
    if method == "stylegan2":
        scaleparty = yaml.load(presets.preset_files()["scaleparty-small"].read_text(encoding="utf-8"))["train"]
        values |= {"network": scaleparty["network"], "discriminator": scaleparty["discriminator"]}
    return Train.model_validate(values)


def show(pictures: np.ndarray, path: Path) -> None:
    """Pictures in a row."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.concatenate(list(pictures), axis=1)).save(path)


def write(rows: list[dict[str, Any]], out: Path, reals: int, samples: int) -> None:
    """Print and keep the table so far."""
    title = f"FD-Lite0 (KID) of canvases k times a frame, brought to {FRAME_PX} px by {KERNEL}; {samples} fakes, {reals} reals"
    table = Table("method", *(f"{times}x" for times in TIMES), title=title)
    lines = [title, "", "| method | " + " | ".join(f"{times}x" for times in TIMES) + " |", "|---" * (len(TIMES) + 1) + "|"]
    for row in rows:
        cells = ["{fd:.0f} ({kid:.3f})".format(**row[str(times)]) for times in TIMES]
        table.add_row(row["name"], *cells)
        lines.append(f"| {row['name']} | {' | '.join(cells)} |")
    Console(width=160).print(table)
    out.mkdir(parents=True, exist_ok=True)
    (out / "table.json").write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    (out / "table.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
