"""Quality of trainings over time, from their history.

    python benchmarks/curves.py a/out/train b/out/train --out curves.svg

Each argument is a folder out/train, finished or not; its line has the name of the folder above. The curve is the small evaluation
of `train.monitor`: patch KID of the running mean of the weights, at the windows of the training's own law.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from matplotlib import pyplot as plt
from rich.console import Console
from rich.table import Table

from anyres.training.best import MONITORED

SHARES = (0.25, 0.5, 0.75, 1.0)
MARKERS = "osD^v<>"


def main(
    trainings: Annotated[list[Path], typer.Argument(help="Folders out/train.")],
    out: Annotated[Path | None, typer.Option(help="Where the picture goes, .svg or .png.")] = None,
    seconds: Annotated[float, typer.Option(help="As far as the table reaches; 0: to the end of the shortest.")] = 0.0,
) -> None:
    """Print a table, draw a picture."""
    curves = {name_of(folder): curve(folder) for folder in trainings}
    reach = seconds or min(points[-1][0] for points in curves.values())
    table = Table("method", "images", *(f"{share * reach:.0f} s" for share in SHARES), "best", "after, s")
    for name, points in curves.items():
        best = min(points, key=lambda point: point[2])
        cells = [f"{last(points, share * reach)[2]:.3f}" for share in SHARES]
        table.add_row(name, f"{last(points, reach)[1]:,}", *cells, f"{best[2]:.3f}", f"{best[0]:.0f}")
    Console().print(table)
    if out is not None:
        draw(curves, out)


def name_of(folder: Path) -> str:
    """What a training is called in the picture."""
    return folder.resolve().parents[1].name


def curve(folder: Path) -> list[tuple[float, int, float]]:
    """Seconds, images seen and patch KID of every small evaluation."""
    points = []
    for line in (folder / "history.jsonl").read_text(encoding="utf-8").splitlines():
        report: dict[str, Any] = json.loads(line)
        if MONITORED in report:
            points.append((report["perf/seconds"], report["nimg"], report[MONITORED]))
    if not points:
        raise typer.BadParameter(f"{folder}/history.jsonl holds no evaluation; set train.monitor.every_kimg")
    return points


def last(points: list[tuple[float, int, float]], seconds: float) -> tuple[float, int, float]:
    """The evaluation that was the newest then, the first one before any."""
    return max((point for point in points if point[0] <= seconds), default=points[0])


def draw(curves: dict[str, list[tuple[float, int, float]]], out: Path) -> None:
    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    for (name, points), marker in zip(curves.items(), MARKERS, strict=False):
        times, _, values = zip(*points, strict=True)
        axes.plot([time / 60 for time in times], values, marker=marker, markersize=4, label=name)
    axes.set(xlabel="minutes", ylabel="patch KID (small evaluation)", yscale="log")
    axes.grid(visible=True, which="both", alpha=0.3)
    axes.legend()
    figure.savefig(out, metadata={"Date": None})
    plt.close(figure)


if __name__ == "__main__":
    typer.run(main)
