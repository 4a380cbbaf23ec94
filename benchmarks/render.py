"""Throughput of rendering, in tiles and in one pass, against a reference StyleGAN2 of equal widths, in one process.

    python benchmarks/render.py --out render.json
    python benchmarks/render.py out/export/generator --sizes 512,1024,4096

Without a model, an untrained one of the default params is measured: weights do not change the time. The reference is that of
train_step.py. It runs fully convolutionally from a constant as large as the picture, in one pass of at most `--single` pixels a
side, because it holds whole pictures in memory. The variants are interleaved; the results are medians.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from machine import cost, describe, interleave, median, peak_memory
from rich.console import Console
from rich.table import Table
from train_step import ROOT, StyleGan2

from anyres import load
from anyres.networks import build_generator
from anyres.networks.generator import Generator
from anyres.networks.pixels import to_uint8
from anyres.params import ExactNetwork, Params
from anyres.plane.window import frame_window
from anyres.synthesis.render import render
from anyres.synthesis.request import RenderRequest

SEED = 1


def main(
    model: Annotated[str, typer.Argument(help="A bundle; none: an untrained generator of the default params.")] = "",
    out: Annotated[Path | None, typer.Option(help="Where the results go, as JSON.")] = None,
    sizes: Annotated[str, typer.Option(help="Sides of the square pictures.")] = "512,1024,2048,4096",
    single: Annotated[int, typer.Option(help="Largest side that is also drawn in one pass.")] = 2048,
    tile: Annotated[int, typer.Option(help="Side of a tile.")] = 512,
    threads: Annotated[int, typer.Option(help="Of torch.")] = 2,
    repeats: Annotated[int, typer.Option(help="Pictures of each, of which the median counts.")] = 5,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
) -> None:
    """Measure, print a table, write JSON."""
    torch.set_num_threads(threads)
    where = torch.device(device)
    facts = describe(where)
    generator = (load(model).generator if model else fresh()).to(where)
    plain = plain_of(generator).to(where)
    sides = [int(part) for part in sizes.split(",")]
    variants: dict[tuple[str, int], Callable[[], object]] = {}
    for side in sides:
        variants[("tiled", side)] = partial(draw, generator, side, tile)
    for side in (side for side in sides if side <= single):
        variants[("plain", side)] = partial(convolved, plain, side)
        if side > tile:
            variants[("whole", side)] = partial(draw, generator, side, side)
    peaks, costs = {}, {}
    for side in sides:
        with peak_memory(where) as peak:
            variants[("tiled", side)]()
        peaks[side] = peak[0]
        costs[side] = [part / (side * side) for part in cost(variants[("tiled", side)])]
    # All sizes are interleaved, because the speed of a machine changes within minutes.
    seconds = {key: [part / key[1] ** 2 * 1e6 for part in times] for key, times in interleave(variants, where, repeats).items()}
    rows = [row_of(side, sides[0], seconds) for side in sides]
    for row in rows:
        flop, moved = costs[row["side"]]
        row |= {"peak_mib": peaks[row["side"]], "gflop_per_mp": flop / 1e3, "moved_gb_per_mp": moved / 1e3}
        row["of_floor"] = row["mp_per_s"] * flop / 1e3 / facts["gflop_per_s"]
    table = Table(
        "side", "MP/s", "of the first", "one pass, MP/s", "cost of tiling", "reference, MP/s", "ratio", "of peak", "peak, MiB"
    )
    for row in rows:
        whole, compared = "whole_mp_per_s" in row, "plain_mp_per_s" in row
        table.add_row(
            str(row["side"]),
            f"{row['mp_per_s']:.2f}",
            f"{row['of_first']:.2f}",
            f"{row['whole_mp_per_s']:.2f}" if whole else "",
            f"{100 * row['tiling']:.0f} %" if whole else "",
            f"{row['plain_mp_per_s']:.2f}" if compared else "",
            f"{row['ratio']:.2f}" if compared else "",
            f"{row['of_floor']:.2f}",
            f"{row['peak_mib']:.0f}",
        )
    Console(width=130).print(table)
    print(f"{facts['machine']}; {facts['gflop_per_s']:.0f} Gflop/s, {facts['gb_per_s']:.1f} GB/s")
    print(f"{rows[0]['gflop_per_mp']:.1f} Gflop and {rows[0]['moved_gb_per_mp']:.2f} GB read and written a megapixel")
    if out is not None:
        out.write_text(json.dumps({**facts, "rows": rows}, indent=2) + "\n", encoding="utf-8")


def row_of(side: int, first: int, seconds: dict[tuple[str, int], list[float]]) -> dict[str, Any]:
    """Return the throughput of a size, and median ratios of times that were measured in the same round."""

    def over(variant: str, other: tuple[str, int]) -> float:
        return median([a / b for a, b in zip(seconds[(variant, side)], seconds[other], strict=True)])

    row: dict[str, Any] = {"side": side, "mp_per_s": 1 / median(seconds[("tiled", side)])}
    row["of_first"] = 1 / over("tiled", ("tiled", first))
    if ("whole", side) in seconds:
        row |= {"whole_mp_per_s": 1 / median(seconds[("whole", side)]), "tiling": over("tiled", ("whole", side)) - 1}
    if ("plain", side) in seconds:
        row |= {"plain_mp_per_s": 1 / median(seconds[("plain", side)]), "ratio": over("plain", ("tiled", side))}
    return row


def fresh() -> Any:
    torch.manual_seed(SEED)
    return build_generator(Params.load(ROOT / "params.yaml").train, (1.0, 1.0)).eval()


def plain_of(generator: Any) -> StyleGan2:
    """StyleGAN2 as wide and deep as a generator with an exact trunk."""
    params = Params.load(ROOT / "params.yaml").train
    network = params.network
    assert isinstance(network, ExactNetwork)
    return StyleGan2(network.z_dim, network.w_dim, network.mapping_layers, list(network.channels), params.patch_px).eval()


def draw(generator: Generator, side: int, tile: int) -> object:
    return render(generator, RenderRequest(SEED, frame_window(1.0, side, generator.geometry.chart.short_side), tile=tile))


@torch.inference_mode()
def convolved(plain: StyleGan2, side: int) -> object:
    """Draw a picture of that side: the constant is repeated."""
    cells = side // 2 ** len(plain.ups)
    times = -(-cells // plain.constant.shape[-1])
    constant = plain.constant.tile(1, 1, times, times)[:, :, :cells, :cells]
    return to_uint8(plain.draw(plain.style(1), constant))


if __name__ == "__main__":
    typer.run(main)
