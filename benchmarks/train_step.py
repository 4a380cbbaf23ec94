"""Throughput of a training step, against a reference implementation of the same step, interleaved in one process.

    python benchmarks/train_step.py --out train_step.json

The reference for continuum, with the default params, is StyleGAN2 of equal widths and depth, as public fallbacks compute it
without compiled kernels: one weight for each picture in grouped convolutions, transposed convolutions, inserted zeros that are
then filtered, and fakes drawn once for each player. It is measured twice: with the same losses, and as shipped, where
loss.consistency, which the reference does not have, draws each scene a second time. The reference for anyres_gan, with its small
preset (its patches, without a teacher), is its own trunk computed in that way. All other losses, penalties and their intervals,
batches and optimizers are equal. Each measurement is one interval of the lazy penalties. Reading pictures is not included: see
loader.py.
"""

from __future__ import annotations

import itertools
import json
import math
import shutil
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
import torch.nn.functional as F
import typer
from accelerate import Accelerator
from machine import cost, describe, interleave, median, peak_memory
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.optim import Adam

from anyres import presets
from anyres.networks import AnyresGan, Scene
from anyres.networks.discriminator import deviation
from anyres.networks.layers import LEAK
from anyres.params import DiscriminatorNetwork, Params, Train
from anyres.plane.window import Window
from anyres.training.loop import ema_beta, training_loop
from anyres.training.losses import LOSSES, gradient_penalties
from anyres.training.state import TrainState

ROOT = Path(__file__).parent.parent
GAIN = math.sqrt(2)
HALF_EXTENT = (1.0, 1.0)


def main(
    out: Annotated[Path | None, typer.Option(help="Where the results go, as JSON.")] = None,
    threads: Annotated[int, typer.Option(help="Of torch.")] = 2,
    repeats: Annotated[int, typer.Option(help="Intervals of each, of which the median counts.")] = 5,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
) -> None:
    """Measure, print a table, write JSON."""
    torch.set_num_threads(threads)
    where = torch.device(device)
    accelerator = Accelerator(cpu=where.type == "cpu")
    facts = describe(where)
    table = Table(
        "method", "img/s", "reference, img/s", "ratio", "Gflop/img", "of peak", "moved, MB/img", "params", "reference params"
    )
    rows = []
    cases = {"continuum, the same losses": partial(continuum, False), "continuum, as shipped": partial(continuum, True)}
    for name, case in (cases | {"anyres_gan": anyres_gan}).items():
        with peak_memory(where) as peak:
            row = measured(case(accelerator), where, repeats, facts)
        row |= {"method": name, "peak_mib": peak[0]}
        rows.append(row)
        table.add_row(
            name,
            f"{row['img_per_s']:.1f}",
            f"{row['plain_img_per_s']:.1f}",
            f"{row['ratio']:.2f}",
            f"{row['gflop_per_img']:.3f}",
            f"{row['of_floor']:.2f}",
            f"{row['moved_mb_per_img']:.0f}",
            f"{row['params']:,}",
            f"{row['plain_params']:,}",
        )
    Console(width=130).print(table)
    print(f"{facts['machine']}; {facts['gflop_per_s']:.0f} Gflop/s, {facts['gb_per_s']:.1f} GB/s")
    if out is not None:
        out.write_text(json.dumps({**facts, "rows": rows}, indent=2) + "\n", encoding="utf-8")


class Case:
    """Two implementations: `ours` and `plain` train one interval of the lazy penalties each, of `images` images."""

    def __init__(self, ours: Iterator[object], plain: PlainStep, params: Train, state: TrainState):
        self.interval, self.images = params.loss.penalty_every, params.loss.penalty_every * params.batch
        self._ours, self._plain, self._state = ours, plain, state

    def ours(self) -> None:
        for _ in range(self.interval):
            next(self._ours)

    def plain(self) -> None:
        for step in range(self.interval):
            self._plain(penalize=step == 0)

    def params(self) -> tuple[int, int]:
        """Return the number of parameters of both networks, for each implementation."""

        def count(*modules: nn.Module) -> int:
            return sum(p.numel() for module in modules for p in module.parameters())

        return count(self._state.g, self._state.d), count(self._plain.g, self._plain.d)


def measured(case: Case, device: torch.device, repeats: int, facts: dict[str, Any]) -> dict[str, Any]:
    """Return the medians of both implementations, interleaved, and the cost of each."""
    times = interleave({"ours": case.ours, "plain": case.plain}, device, repeats)
    flop, moved = (part / case.images for part in cost(case.ours))
    plain_flop, plain_moved = (part / case.images for part in cost(case.plain))
    ours, plain = (case.images / median(times[name]) for name in ("ours", "plain"))
    count, plain_count = case.params()
    return {
        "img_per_s": ours,
        "plain_img_per_s": plain,
        "ratio": median([b / a for a, b in zip(times["ours"], times["plain"], strict=True)]),
        "gflop_per_img": flop / 1e9,
        "plain_gflop_per_img": plain_flop / 1e9,
        "moved_mb_per_img": moved / 1e6,
        "plain_moved_mb_per_img": plain_moved / 1e6,
        "of_floor": ours * flop / 1e9 / facts["gflop_per_s"],
        "params": count,
        "plain_params": plain_count,
    }


# ---- both cases


def continuum(consistent: bool, accelerator: Accelerator) -> Case:
    params = Params.load(ROOT / "params.yaml").train.model_copy(update={"kimg": 1e9})
    if not consistent:
        params = params.model_copy(update={"loss": params.loss.model_copy(update={"consistency": 0.0})})
    state, batch = begun(params, accelerator)
    network: Any = params.network
    generator = StyleGan2(network.z_dim, network.w_dim, network.mapping_layers, network.channels, params.patch_px)
    plain = PlainStep(generator, PlainDiscriminator(params.discriminator), params, batch[0], accelerator)
    return Case(training_loop(state, params, itertools.repeat(batch), accelerator), plain, params, state)


def anyres_gan(accelerator: Accelerator) -> Case:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "params.yaml")
        shutil.copy(ROOT / "params.yaml", path)
        presets.apply_preset("anyres_gan-small", path)
        params = Params.load(path).train
    stages = params.stages.model_copy(update={"global_kimg": 0.0, "teacher_weight": 0.0})
    params = params.model_copy(update={"stages": stages, "kimg": 1e9})
    state, batch = begun(params, accelerator)
    generator = NaiveAnyresGan(params, batch[1])
    plain = PlainStep(generator, PlainDiscriminator(params.discriminator), params, batch[0], accelerator)
    return Case(training_loop(state, params, itertools.repeat(batch), accelerator), plain, params, state)


def begun(params: Train, accelerator: Accelerator) -> tuple[TrainState, tuple[Tensor, list[Window]]]:
    """Fresh networks and a batch of noise at windows of many scales."""
    state = TrainState.fresh(params, HALF_EXTENT, accelerator.device)
    base = 2 / min(params.patch_px)
    windows = [
        Window((0.0, 0.0), base / params.zoom_max ** (index / params.batch), params.patch_px) for index in range(params.batch)
    ]
    real = torch.rand(params.batch, 3, *params.patch_px, device=accelerator.device) * 2 - 1
    return state, (real, windows)


# ---- the reference implementation


class PlainStep:
    """A step of each player in the usual way."""

    def __init__(self, g: nn.Module, d: nn.Module, params: Train, real: Tensor, accelerator: Accelerator):
        self.g, self.d, self.params, self.real = g.to(real.device), d.to(real.device), params, real
        self.average = [p.detach().clone() for p in self.g.parameters()]
        betas = (params.optimizer.beta1, params.optimizer.beta2)
        self.g_opt = Adam(self.g.parameters(), lr=params.optimizer.g_lr, betas=betas)
        self.d_opt = Adam(self.d.parameters(), lr=params.optimizer.d_lr, betas=betas)
        self.autocast = accelerator.autocast

    def __call__(self, penalize: bool) -> None:
        loss, batch = self.params.loss, self.params.batch
        d_loss, g_loss = LOSSES[loss.name]
        with torch.no_grad(), self.autocast():
            fake = self.g(batch)
        real, fake = self.real.detach().requires_grad_(penalize), fake.requires_grad_(penalize)
        self.d_opt.zero_grad(set_to_none=True)
        with self.autocast():
            on_real, on_fake = self.d(real), self.d(fake)
        total = d_loss(on_real, on_fake)
        if penalize:
            for pictures, logits, gamma in ((real, on_real, loss.r1_gamma), (fake, on_fake, loss.r2_gamma)):
                (penalty,) = gradient_penalties([pictures], [logits])
                total = total + penalty * (gamma / 2 * loss.penalty_every)
        total.backward()
        self.d_opt.step()
        self.d.requires_grad_(False)
        self.g_opt.zero_grad(set_to_none=True)
        with torch.no_grad(), self.autocast():
            on_real = self.d(self.real)
        with self.autocast():
            on_fake = self.d(self.g(batch))
        g_loss(on_real, on_fake).backward()
        self.g_opt.step()
        self.d.requires_grad_(True)
        beta = ema_beta(self.params, 10**6)
        with torch.no_grad():
            for average, new in zip(self.average, self.g.parameters(), strict=True):
                average.copy_(new.lerp(average, beta))


class StyleGan2(nn.Module):
    """StyleGAN2 with skips and zeros at its borders, from a constant: n -> pictures (n, 3, h, w) of new latents.

    Karras et al., CVPR 2020. `channels` holds the width of the constant's level and of each that doubles.
    """

    def __init__(self, z_dim: int, w_dim: int, mapping_layers: int, channels: list[int], patch: tuple[int, int]):
        super().__init__()
        self.z_dim = z_dim
        widths = [z_dim] + [w_dim] * mapping_layers
        self.mapping = nn.ModuleList(PlainLinear(a, b) for a, b in itertools.pairwise(widths))
        scale = 2 ** (len(channels) - 1)
        self.constant = nn.Parameter(torch.randn(1, channels[0], patch[0] // scale, patch[1] // scale))
        pairs = list(itertools.pairwise(channels))
        self.first = PlainStyled(channels[0], channels[0], w_dim)
        self.ups = nn.ModuleList(PlainStyled(a, b, w_dim, up=True) for a, b in pairs)
        self.convs = nn.ModuleList(PlainStyled(b, b, w_dim) for _, b in pairs)
        self.to_rgb = nn.ModuleList(PlainModulated(c, 3, w_dim, kernel=1, demodulates=False) for c in channels)

    def forward(self, count: int) -> Tensor:
        return self.draw(self.style(count), self.constant.expand(count, -1, -1, -1))

    def style(self, count: int) -> Tensor:
        w = torch.randn(count, self.z_dim, device=self.constant.device)
        w = w * torch.rsqrt(w.square().mean(dim=1, keepdim=True) + 1e-8)
        for layer in self.mapping:
            w = F.leaky_relu(layer(w), LEAK) * GAIN
        return w

    def draw(self, w: Tensor, constant: Tensor) -> Tensor:
        x = self.first(constant, w)
        rgb = self.to_rgb[0](x, w)
        for up, conv, to_rgb in zip(self.ups, self.convs, list(self.to_rgb)[1:], strict=True):
            x = conv(up(x, w), w)
            rgb = to_rgb(x, w) + upsampled(rgb)
        return rgb


class PlainLinear(nn.Module):
    def __init__(self, inputs: int, outputs: int, bias: float = 0.0):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(outputs, inputs)), nn.Parameter(torch.full((outputs,), bias))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight / math.sqrt(x.shape[1]), self.bias)


class PlainModulated(nn.Module):
    """One weight for each picture; upsampling by transposed convolution, then a filter."""

    def __init__(self, inputs: int, outputs: int, w_dim: int, kernel: int = 3, *, up: bool = False, demodulates: bool = True):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, kernel, kernel))
        self.style, self.up, self.demodulates = PlainLinear(w_dim, inputs, bias=1.0), up, demodulates

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        b, inputs, height, width = x.shape
        outputs, _, kernel, _ = self.weight.shape
        weight = self.weight[None] * self.style(w)[:, None, :, None, None] / math.sqrt(inputs * kernel**2)
        if self.demodulates:
            weight = weight * torch.rsqrt(weight.square().sum(dim=(2, 3, 4), keepdim=True) + 1e-8)
        x = x.reshape(1, b * inputs, height, width)
        if self.up:
            own = weight.transpose(1, 2).reshape(b * inputs, outputs, kernel, kernel)
            y = F.conv_transpose2d(x, own, stride=2, groups=b)
            y = y.reshape(b, outputs, *y.shape[2:])
            return blurred(y, 4.0, (1, 1))
        y = F.conv2d(x, weight.reshape(b * outputs, inputs, kernel, kernel), padding=kernel // 2, groups=b)
        return y.reshape(b, outputs, *y.shape[2:])


class PlainStyled(nn.Module):
    def __init__(self, inputs: int, outputs: int, w_dim: int, *, up: bool = False):
        super().__init__()
        self.conv = PlainModulated(inputs, outputs, w_dim, up=up)
        self.noise, self.bias = nn.Parameter(torch.zeros(())), nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        x = self.conv(x, w)
        x = x + self.noise * torch.randn(len(x), 1, *x.shape[2:], device=x.device)
        x = x + self.bias[:, None, None]
        return F.leaky_relu(x, LEAK) * GAIN


def blurred(x: Tensor, gain: float, pad: tuple[int, int]) -> Tensor:
    """[1, 3, 3, 1] along both axes, depthwise."""
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0], device=x.device, dtype=x.dtype) / 8
    kernel = (torch.outer(taps, taps) * gain).expand(x.shape[1], 1, 4, 4)
    return F.conv2d(F.pad(x, (*pad, *pad)), kernel, groups=x.shape[1])


def upsampled(x: Tensor) -> Tensor:
    """Zeros inserted, then filtered."""
    b, c, h, w = x.shape
    x = F.pad(x[:, :, :, None, :, None], (0, 1, 0, 0, 0, 1)).reshape(b, c, 2 * h, 2 * w)
    return blurred(x, 4.0, (2, 1))


class PlainDiscriminator(nn.Module):
    """The residual discriminator: pictures (b, 3, h, w) -> logits (b,). Karras et al., CVPR 2020, section 4.1."""

    def __init__(self, params: DiscriminatorNetwork):
        super().__init__()
        channels, pooled = params.channels, params.pooled_px
        self.from_rgb = PlainConv(3, channels[0], 1)
        self.blocks = nn.ModuleList(PlainBlock(a, b) for a, b in itertools.pairwise(channels))
        last = channels[-1]
        self.conv = PlainConv(last + 1, last, 3)
        self.pooled = pooled
        self.hidden, self.logit = PlainLinear(last * pooled**2, last), PlainLinear(last, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.leaky_relu(self.from_rgb(x), LEAK) * GAIN
        for block in self.blocks:
            x = block(x)
        x = torch.cat([x, deviation(x)], dim=1)
        x = F.adaptive_avg_pool2d(F.leaky_relu(self.conv(x), LEAK) * GAIN, self.pooled)
        x = F.leaky_relu(self.hidden(x.flatten(1)), LEAK) * GAIN
        return self.logit(x).squeeze(1).float()


class PlainConv(nn.Module):
    def __init__(self, inputs: int, outputs: int, kernel: int, *, down: bool = False, bias: bool = True):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None
        self.down = down

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight / math.sqrt(self.weight[0].numel())
        kernel = weight.shape[-1]
        if self.down:
            edge = (4 - 1 + kernel - 1) // 2
            y = F.conv2d(blurred(x, 1.0, (edge, edge)), weight, stride=2)
        else:
            y = F.conv2d(x, weight, padding=kernel // 2)
        return y if self.bias is None else y + self.bias[:, None, None]


class PlainBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.conv, self.down = PlainConv(inputs, inputs, 3), PlainConv(inputs, outputs, 3, down=True)
        self.skip = PlainConv(inputs, outputs, 1, down=True, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = F.leaky_relu(self.conv(x), LEAK) * GAIN
        y = F.leaky_relu(self.down(y), LEAK) * GAIN
        return (y + self.skip(x)) / GAIN


class NaiveAnyresGan(nn.Module):
    """The alias-free trunk with a weight for each picture and filters at the temporary rate, zeros inserted."""

    def __init__(self, params: Train, windows: list[Window]):
        super().__init__()
        self.generator, self.windows = AnyresGan(params, HALF_EXTENT), windows

    def forward(self, count: int) -> Tensor:
        g = self.generator
        scene = Scene.of(torch.randint(2**31, (count,)), g.z_dim, g.w_mean.device)
        w = g.styles(scene.z)
        zoom = torch.tensor([window.zoom(g.base_period) for window in self.windows], device=w.device)
        scale = g.scale(zoom)
        x = g.input(w, self.windows).contiguous()
        for layer in g.layers:
            x = layer.plain(x, w, scale)
        return torch.tanh(x.float())


if __name__ == "__main__":
    typer.run(main)
