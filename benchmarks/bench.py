"""All speed benchmarks, and the table of docs/performance.md made of what they print: `make bench`.

    python benchmarks/bench.py
    python benchmarks/bench.py --only train_step,render --device cuda

Figures stay in out/bench, one JSON file a benchmark; those that were not run keep theirs. On a machine with a GPU, training and
rendering are measured there too. Nothing else should run meanwhile.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs/performance.md"
BEGIN, END = "<!-- made by `make bench` -->", "<!-- until here -->"
# The generator whose tiles are served.
MODEL = "continuum-deepsky"


def main(
    only: Annotated[str, typer.Option(help="Names with commas between; none: all.")] = "",
    out: Annotated[Path, typer.Option(help="Where the figures stay.")] = Path("out/bench"),
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
) -> None:
    """Measure one after the other, write the table."""
    out.mkdir(parents=True, exist_ok=True)
    on_device = ["--device", device] if device != "cpu" else []
    suffix = f"-{device}" if on_device else ""
    commands = {
        f"train_step{suffix}": ["train_step.py", *on_device],
        f"render{suffix}": ["render.py", *on_device],
    }
    if not on_device:
        commands |= {"loader": ["loader.py"], "tiles": ["tiles.py", MODEL]}
    wanted = [f"{name}{suffix}" if f"{name}{suffix}" in commands else name for name in only.split(",")] if only else commands
    for name in wanted:
        if name not in commands:
            raise typer.BadParameter(f"no benchmark {name!r}; there are {', '.join(commands)}")
        print(f"{name}:", flush=True)
        script, *options = commands[name]
        options += ["--out", str((out / f"{name}.json").resolve())]
        subprocess.run([sys.executable, str(ROOT / "benchmarks" / script), *options], check=True, cwd=ROOT)
    write(PAGE, out)
    print(f"{PAGE.relative_to(ROOT)} holds the table of {out}")


def write(page: Path, out: Path) -> None:
    """Put the tables of the figures in `out` between the marks of a page."""
    text = page.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise typer.BadParameter(f"{page} has no marks {BEGIN} and {END}")
    parts = []
    for path in sorted(out.glob("*.json")):
        name, _, device = path.stem.partition("-")
        if name in TABLES:
            figures = json.loads(path.read_text(encoding="utf-8"))
            title = TITLES[name] + (f", {device}" if device else "")
            machine = f"\n\n{figures['machine']}; {ceilings(figures)}." if "machine" in figures else ""
            parts.append(f"### {title}\n\n{TABLES[name](figures)}{machine}")
    page.write_text(f"{before}{BEGIN}\n\n" + "\n\n".join(parts) + f"\n\n{END}{after}", encoding="utf-8")


def ceilings(figures: dict[str, Any]) -> str:
    """What the machine could do at most, as measured in that run."""
    return f"{figures['gflop_per_s']:.0f} Gflop/s in a large product, {figures['gb_per_s']:.0f} GB/s in a copy"


def grid(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    return "\n".join([" | ".join(head), "|".join(["---"] * len(head)), *(" | ".join(row) for row in rows)])


def train_step(figures: dict[str, Any]) -> str:
    head = ["method", "img/s", "plain, img/s", "times as fast", "Gflop an image", "of the floor", "plain, Gflop", "memory, MiB"]
    rows = []
    for row in figures["rows"]:
        cells = [row["method"], f"{row['img_per_s']:.0f}", f"{row['plain_img_per_s']:.0f}", f"{row['ratio']:.2f}"]
        cells += [f"{row['gflop_per_img']:.2f}", f"{row['of_floor']:.2f}", f"{row['plain_gflop_per_img']:.2f}"]
        rows.append([*cells, f"{row['peak_mib']:.0f}"])
    return grid(head, rows)


def render(figures: dict[str, Any]) -> str:
    head = ["side, px", "MP/s", "of the first", "one pass, MP/s", "tiling costs", "plain, MP/s", "times as fast", "of the floor"]
    rows = []
    for row in figures["rows"]:
        cells = [str(row["side"]), f"{row['mp_per_s']:.2f}", f"{row['of_first']:.2f}"]
        cells += [f"{row['whole_mp_per_s']:.2f}", f"{100 * row['tiling']:.0f} %"] if "whole_mp_per_s" in row else ["", ""]
        cells += [f"{row['plain_mp_per_s']:.2f}", f"{row['ratio']:.2f}"] if "plain_mp_per_s" in row else ["", ""]
        rows.append([*cells, f"{row['of_floor']:.2f}"])
    return grid(head, rows)


def loader(figures: dict[str, Any]) -> str:
    head = ["law", "p", "photograph, MP", "whole, ms", "box, ms", "draft, ms", "store, ms", "times as fast as whole"]
    rows = []
    for row in figures["per_core"]:
        ways = [f"{row[way]:.1f}" for way in ("a", "b", "c", "deflate")]
        rows.append([row["law"], str(row["p"]), str(row["megapixels"]), *ways, f"{row['a'] / row['deflate']:.0f}"])
    return grid(head, rows)


def tiles(figures: dict[str, Any]) -> str:
    crowd = figures["crowd"]
    rows = [[words, f"{figures[name]['p50_ms']:.1f}", f"{figures[name]['p95_ms']:.1f}"] for name, words in TILES.items()]
    served = f"{crowd['tiles']} tiles to a crowd, {crowd['errors']} errors, {crowd['wrong']} wrong of {crowd['checked']}"
    return f"{grid(['', 'p50, ms', 'p95, ms'], rows)}\n\n{served}, {crowd['memory_mib']:.0f} MiB more than before."


TILES = {
    "direct": "drawn by the library alone, and encoded",
    "cold": "asked for, never drawn before",
    "cached": "the same again",
}
TABLES: dict[str, Callable[[dict[str, Any]], str]] = {
    "train_step": train_step,
    "render": render,
    "loader": loader,
    "tiles": tiles,
}
TITLES = {
    "train_step": "Training steps against plain formulations",
    "render": "Pictures",
    "loader": "Patches",
    "tiles": "Tiles",
}


if __name__ == "__main__":
    typer.run(main)
