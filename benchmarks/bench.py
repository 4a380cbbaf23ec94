"""All speed benchmarks, and the table of docs/performance.md made of what they print: `make bench`.

    python benchmarks/bench.py
    python benchmarks/bench.py --only train_step,render --device cuda

Results stay in out/bench, one JSON file for each benchmark; a benchmark that does not run keeps its file. With `--device cuda`,
training and rendering are measured on the GPU. Run nothing else at the same time.
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
    out: Annotated[Path, typer.Option(help="Where the results stay.")] = Path("out/bench"),
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
) -> None:
    """Run the benchmarks one after the other, then write the table."""
    out.mkdir(parents=True, exist_ok=True)
    on_device = ["--device", device] if device != "cpu" else []
    suffix = f"-{device}" if on_device else ""
    commands = {
        f"train_step{suffix}": ["train_step.py", *on_device],
        f"render{suffix}": ["render.py", *on_device],
    }
    if not on_device:
        commands |= {"loader": ["loader.py"], "tiles": ["tiles.py", MODEL]}
    names = [f"{name}{suffix}" if f"{name}{suffix}" in commands else name for name in only.split(",")] if only else commands
    for name in names:
        if name not in commands:
            raise typer.BadParameter(f"no benchmark {name!r}; there are {', '.join(commands)}")
        print(f"{name}:", flush=True)
        script, *options = commands[name]
        options += ["--out", str((out / f"{name}.json").resolve())]
        subprocess.run([sys.executable, str(ROOT / "benchmarks" / script), *options], check=True, cwd=ROOT)
    write(PAGE, out)
    print(f"{PAGE.relative_to(ROOT)} holds the table of {out}")


def write(page: Path, out: Path) -> None:
    """Write the tables of the results in `out` between the marks of a page."""
    text = page.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise typer.BadParameter(f"{page} has no marks {BEGIN} and {END}")
    parts = []
    for path in sorted(out.glob("*.json")):
        name, _, device = path.stem.partition("-")
        if name in TABLES:
            results = json.loads(path.read_text(encoding="utf-8"))
            title = TITLES[name] + (f", {device}" if device else "")
            machine = f"\n\n{results['machine']}; {peaks(results)}." if "machine" in results else ""
            parts.append(f"### {title}\n\n{TABLES[name](results)}{machine}")
    page.write_text(f"{before}{BEGIN}\n\n" + "\n\n".join(parts) + f"\n\n{END}{after}", encoding="utf-8")


def peaks(results: dict[str, Any]) -> str:
    """Return the peak throughput of the machine, as measured in that run."""
    return f"{results['gflop_per_s']:.0f} Gflop/s in a large product, {results['gb_per_s']:.0f} GB/s in a copy"


def grid(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    return "\n".join([" | ".join(head), "|".join(["---"] * len(head)), *(" | ".join(row) for row in rows)])


def train_step(results: dict[str, Any]) -> str:
    head = ["method", "img/s", "reference, img/s", "speedup", "Gflop/image", "fraction of peak"]
    head += ["reference, Gflop", "memory, MiB"]
    rows = []
    for row in results["rows"]:
        cells = [row["method"], f"{row['img_per_s']:.0f}", f"{row['plain_img_per_s']:.0f}", f"{row['ratio']:.2f}"]
        cells += [f"{row['gflop_per_img']:.2f}", f"{row['of_floor']:.2f}", f"{row['plain_gflop_per_img']:.2f}"]
        rows.append([*cells, f"{row['peak_mib']:.0f}"])
    return grid(head, rows)


def render(results: dict[str, Any]) -> str:
    head = ["side, px", "MP/s", "relative to the first row", "one pass, MP/s", "cost of tiling"]
    head += ["reference, MP/s", "speedup", "fraction of peak"]
    rows = []
    for row in results["rows"]:
        cells = [str(row["side"]), f"{row['mp_per_s']:.2f}", f"{row['of_first']:.2f}"]
        cells += [f"{row['whole_mp_per_s']:.2f}", f"{100 * row['tiling']:.0f} %"] if "whole_mp_per_s" in row else ["", ""]
        cells += [f"{row['plain_mp_per_s']:.2f}", f"{row['ratio']:.2f}"] if "plain_mp_per_s" in row else ["", ""]
        rows.append([*cells, f"{row['of_floor']:.2f}"])
    return grid(head, rows)


def loader(results: dict[str, Any]) -> str:
    head = ["law", "p", "photograph, MP", "whole, ms", "box, ms", "draft, ms", "store, ms", "speedup over whole"]
    rows = []
    for row in results["per_core"]:
        times = [f"{row[variant]:.1f}" for variant in ("a", "b", "c", "deflate")]
        rows.append([row["law"], str(row["p"]), str(row["megapixels"]), *times, f"{row['a'] / row['deflate']:.0f}"])
    return grid(head, rows)


def tiles(results: dict[str, Any]) -> str:
    load = results["crowd"]
    rows = [[words, f"{results[name]['p50_ms']:.1f}", f"{results[name]['p95_ms']:.1f}"] for name, words in TILES.items()]
    served = f"{load['tiles']} tiles under load, {load['errors']} errors, {load['wrong']} wrong of {load['checked']} checked"
    return f"{grid(['', 'p50, ms', 'p95, ms'], rows)}\n\n{served}, {load['memory_mib']:.0f} MiB more than before."


TILES = {
    "direct": "drawn and encoded without the server",
    "cold": "first request, not cached",
    "cached": "second request, cached",
}
TABLES: dict[str, Callable[[dict[str, Any]], str]] = {
    "train_step": train_step,
    "render": render,
    "loader": loader,
    "tiles": tiles,
}
TITLES = {
    "train_step": "Training steps against the reference implementation",
    "render": "Pictures",
    "loader": "Patches",
    "tiles": "Tiles",
}


if __name__ == "__main__":
    typer.run(main)
