"""A forward and backward step of the alias-free generator against the naive formulation of the same arithmetic.

    python benchmarks/aliasfree.py --out aliasfree.json

The naive one is the public fallback's: a weight for every sample in grouped convolutions, zeros inserted between pixels,
depthwise filters at the temporary rate. Both take turns in one run; the ratio is that of their fastest steps.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor

from anyres.networks import AnyresGan, Scene
from anyres.params import Params, Train
from anyres.plane.window import Window

PRESET = Path(__file__).parent.parent / "params.yaml"


def main(
    out: Annotated[Path | None, typer.Option(help="Where the figures go, as JSON.")] = None,
    patch: Annotated[int, typer.Option(help="Pixels a side.")] = 64,
    batch: Annotated[int, typer.Option(help="Pictures a step.")] = 4,
    layers: Annotated[int, typer.Option(help="Convolutions.")] = 14,
    threads: Annotated[int, typer.Option(help="Of torch.")] = 2,
    repeats: Annotated[int, typer.Option(help="Steps of each.")] = 5,
) -> None:
    """Measure, print a table, write JSON."""
    torch.set_num_threads(threads)
    rows = []
    for width in (16, 32, 64):
        fast, naive = timed(small(patch, batch, layers, width).train(), batch, repeats)
        rows.append({"channels": width, "fast_ms": 1000 * fast, "naive_ms": 1000 * naive, "ratio": naive / fast})
    table = Table("channels", "fast, ms", "naive, ms", "ratio", title=f"{patch} px, batch {batch}, {layers} layers")
    for row in rows:
        table.add_row(str(row["channels"]), f"{row['fast_ms']:.0f}", f"{row['naive_ms']:.0f}", f"{row['ratio']:.1f}")
    Console().print(table)
    if out is not None:
        out.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


def small(patch: int, batch: int, layers: int, width: int) -> AnyresGan:
    """A generator of `width` channels at most."""
    values = Params.load(PRESET).train.model_dump()
    network = {"z_dim": 64, "w_dim": 64, "mapping_layers": 2, "layers": layers, "channel_base": width * patch // 2}
    discriminator = {name: values["network"][name] for name in ("d_channels", "d_attention_heads", "d_pooled_px")}
    values |= {"method": "anyres_gan", "patch_px": (patch, patch), "batch": batch}
    return AnyresGan(Train.model_validate(values | {"network": network | {"channel_max": width} | discriminator}))


def plain(generator: AnyresGan, scene: Scene, windows: list[Window]) -> Tensor:
    """What `generator(scene, windows)` draws, the naive way."""
    w = generator.styles(scene.z)
    scale = generator.scale(torch.ones(len(windows)))
    x = generator.input(w, windows).contiguous()
    for layer in generator.layers:
        x = layer.plain(x, w, scale)
    return x


def timed(generator: AnyresGan, batch: int, repeats: int) -> tuple[float, float]:
    """Fastest seconds of a step forward and back of both ways, taking turns."""
    windows = [Window((0.0, 0.0), generator.base_period, (generator.patch, generator.patch))] * batch
    scene = Scene.of(range(batch), generator.z_dim)
    ways: list[Callable[[], Tensor]] = [lambda: generator(scene, windows), lambda: plain(generator, scene, windows)]
    best = [float("inf"), float("inf")]
    for _ in range(repeats + 1):
        for index, way in enumerate(ways):
            start = time.perf_counter()
            way().square().mean().backward()
            best[index] = min(best[index], time.perf_counter() - start)
    return best[0], best[1]


if __name__ == "__main__":
    typer.run(main)
