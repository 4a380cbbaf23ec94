"""A forward and backward step of the alias-free generator against a naive implementation of the same arithmetic.

    python benchmarks/aliasfree.py --out aliasfree.json

The naive one is that of the public fallback: one weight for each sample in grouped convolutions, zeros inserted between pixels,
depthwise filters at the temporary rate. Both are interleaved in one process; the ratio is that of their fastest steps. A second
table compares implementations of the filters alone.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import torch
import torch.nn.functional as F
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor

from anyres.networks import AnyresGan, Scene
from anyres.networks.aliasfree import GAIN, Plan, filtered_lrelu, plan, reference
from anyres.networks.layers import LEAK
from anyres.params import Params, Train
from anyres.plane.window import Window

PRESET = Path(__file__).parent.parent / "params.yaml"


def main(
    out: Annotated[Path | None, typer.Option(help="Where the results go, as JSON.")] = None,
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
    filters = compare_filters(patch, batch, layers, repeats)
    names = [name for name in filters[0] if name not in ("layer", "size", "channels")]
    table = Table("layer", "input", "channels", *names, title="Filters of a layer forward and back, ms (speedup over plain)")
    for row in filters:
        cells = [f"{1000 * row[name]:.1f} ({row['plain'] / row[name]:.1f})" for name in names]
        table.add_row(str(row["layer"]), f"{row['size']} px", str(row["channels"]), *cells)
    Console().print(table)
    if out is not None:
        out.write_text(json.dumps({"steps": rows, "filters": filters}, indent=2) + "\n", encoding="utf-8")


def compare_filters(patch: int, batch: int, layers: int, repeats: int) -> list[dict[str, Any]]:
    """Return the fastest seconds of each implementation, forward and backward, for some layers of 32 channels."""
    schedule = plan(patch, layers, 32 * patch, 32)
    rows = []
    for index in (2, layers // 2, layers - 3):
        layer = schedule[index]
        size = patch * layer.in_rate // patch + 2 * layer.in_margin + 2
        x = torch.randn(batch, layer.outputs, size, size, requires_grad=True)
        compiled = torch.compile(Plain(layer))
        variants: dict[str, Callable[[], Tensor]] = {
            "plain": lambda x=x, layer=layer: reference(x, layer),
            "folded": lambda x=x, layer=layer: folded(x, layer),
            "toeplitz": lambda x=x, layer=layer: toeplitz(x, layer),
            "compiled": lambda x=x, compiled=compiled: compiled(x),
            "polyphase": lambda x=x, layer=layer: filtered_lrelu(x, layer),
        }
        best = dict.fromkeys(variants, float("inf"))
        for repeat in range(3 * repeats):
            for name, variant in variants.items():
                start = time.perf_counter()
                y = variant()
                (gradient,) = torch.autograd.grad(y.square().sum(), x)
                best[name] = min(best[name], time.perf_counter() - start)
                if repeat == 0:
                    truth = variants["plain"]()
                    assert torch.allclose(y, truth, atol=1e-3), name
                del y, gradient
        rows.append({"layer": index, "size": size, "channels": layer.outputs, **best})
    return rows


class Plain(torch.nn.Module):
    """`reference` with its filters as constants, so that a compiler can optimise them."""

    def __init__(self, layer: Plan):
        super().__init__()
        self.up, self.down, self.pad = layer.up, layer.down, layer.pad
        self.register_buffer("up_taps", torch.tensor(layer.up_filter).float() * layer.up)
        self.register_buffer("down_taps", torch.tensor(layer.down_filter).float())

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        before, after = self.pad
        x = F.pad(x[:, :, :, None, :, None], (0, self.up - 1, 0, 0, 0, self.up - 1))
        x = F.pad(x.reshape(b, c, h * self.up, w * self.up), (before, after, before, after))
        x = self.filtered(x, self.get_buffer("up_taps"))
        x = F.leaky_relu(x, LEAK) * GAIN
        return self.filtered(x, self.get_buffer("down_taps"))[:, :, :: self.down, :: self.down]

    @staticmethod
    def filtered(x: Tensor, taps: Tensor) -> Tensor:
        c = x.shape[1]
        x = F.conv2d(x, taps[None, None, :, None].expand(c, 1, -1, 1), groups=c)
        return F.conv2d(x, taps[None, None, None, :].expand(c, 1, 1, -1), groups=c)


def folded(x: Tensor, layer: Plan) -> Tensor:
    """Rows, then columns, as 1-D convolutions of one channel, everything else in the batch."""

    def along(x: Tensor, taps: Tensor, up: int, down: int, pad: tuple[int, int]) -> Tensor:
        b, c, h, w = x.shape
        rows = x.reshape(b * c * h, 1, w, 1)
        spread = F.pad(rows, (0, up - 1)).reshape(b * c * h, 1, w * up) if up > 1 else rows.reshape(b * c * h, 1, w)
        return F.conv1d(F.pad(spread, pad), taps[None, None], stride=down).reshape(b, c, h, -1)

    up, down = torch.tensor(layer.up_filter).to(x) * layer.up, torch.tensor(layer.down_filter).to(x)
    for _ in range(2):
        x = along(x, up, layer.up, 1, layer.pad).transpose(2, 3)
    x = F.leaky_relu(x, LEAK) * GAIN
    for _ in range(2):
        x = along(x, down, 1, layer.down, (0, 0)).transpose(2, 3)
    return x


def toeplitz(x: Tensor, layer: Plan) -> Tensor:
    """Each filter as one dense matrix along each axis."""

    def banded(taps: tuple[float, ...], inputs: int, up: int, down: int, pad: tuple[int, int]) -> Tensor:
        impulses = torch.eye(inputs)[:, None, :, None]
        spread = F.pad(impulses, (0, up - 1)).reshape(inputs, 1, inputs * up)
        return F.conv1d(F.pad(spread, pad), torch.tensor(taps).float()[None, None] * up, stride=down)[:, 0].T.contiguous()

    up = banded(layer.up_filter, x.shape[-1], layer.up, 1, layer.pad)
    down = banded(layer.down_filter, len(up), 1, layer.down, (0, 0))
    x = F.leaky_relu(up @ (x @ up.T), LEAK) * GAIN
    return down @ (x @ down.T)


def small(patch: int, batch: int, layers: int, width: int) -> AnyresGan:
    """A generator of `width` channels at most."""
    values = Params.load(PRESET).train.model_dump()
    network = {"z_dim": 64, "w_dim": 64, "mapping_layers": 2, "layers": layers, "channel_base": width * patch // 2}
    network |= {"channel_max": width, "input_octaves": 0, "output": "linear"}
    values |= {"method": "anyres_gan", "patch_px": (patch, patch), "batch": batch, "network": network}
    return AnyresGan(Train.model_validate(values))


def plain(generator: AnyresGan, scene: Scene, windows: list[Window]) -> Tensor:
    """Draw `generator(scene, windows)` by the naive implementation."""
    w = generator.styles(scene.z)
    scale = generator.scale(torch.ones(len(windows)))
    x = generator.input(w, windows).contiguous()
    for layer in generator.layers:
        x = layer.plain(x, w, scale)
    return x


def timed(generator: AnyresGan, batch: int, repeats: int) -> tuple[float, float]:
    """Return the fastest seconds of a forward and backward step of both implementations, interleaved."""
    windows = [Window((0.0, 0.0), generator.base_period, (generator.patch, generator.patch))] * batch
    scene = Scene.of(range(batch), generator.z_dim)
    variants: list[Callable[[], Tensor]] = [lambda: generator(scene, windows), lambda: plain(generator, scene, windows)]
    best = [float("inf"), float("inf")]
    for _ in range(repeats + 1):
        for index, variant in enumerate(variants):
            start = time.perf_counter()
            variant().square().mean().backward()
            best[index] = min(best[index], time.perf_counter() - start)
    return best[0], best[1]


if __name__ == "__main__":
    typer.run(main)
