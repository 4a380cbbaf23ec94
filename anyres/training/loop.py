"""The training loop: a generator of small reports. Methods differ in network and recipe, never here."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from anyres.networks.scene import Scene
from anyres.params import Train
from anyres.plane import fields
from anyres.plane.geometry import Geometry
from anyres.plane.window import Window
from anyres.training.across import draw_across
from anyres.training.losses import LOSSES, PairLoss, feature_matching, gradient_penalty
from anyres.training.mixing import Mix
from anyres.training.state import TrainState
from anyres.training.teacher import Teacher

# Fakes of one training seed take these scenes; evaluation and users count from zero.
SCENE_STREAM = 1 << 40
W_MEAN_BETA = 0.998
# Of the running mean of path lengths.
PATH_DECAY = 0.01
# Independent draws of one seed.
MIX_STREAM, PATH_STREAM, STYLE_STREAM, OTHER_STREAM = -4, -5, -6, -7

# Real pictures of this process, float (b, 3, h, w) in [-1, 1], and their windows.
Batch = tuple[Tensor, list[Window]]
# The same windows at two sizes, the smaller first.
BatchPair = tuple[Batch, Batch]


@dataclass(frozen=True)
class Report:
    """One step: images seen so far and what was measured, as detached scalars still on the device."""

    nimg: int
    values: dict[str, Tensor]


@dataclass(frozen=True)
class Judged:
    """Pictures of one size, (b, 3, h, w): as they are, and as the discriminator sees them, which mixing may change.

    `height` (b,) is where their middles lie, in half short sides.
    """

    real: Tensor
    fake: Tensor
    shown_real: Tensor
    shown_fake: Tensor
    height: Tensor

    @property
    def mixed(self) -> bool:
        return self.shown_real is not self.real


def training_loop(
    state: TrainState, params: Train, batches: Iterable[Batch | BatchPair], accelerator: Accelerator
) -> Iterator[Report]:
    """Train `state` in place, one batch a step, until `params.kimg`; yields a report after each step.

    Randomness is a function of (seed, nimg, place in the batch), so stopping between two reports and going on
    from the saved state changes nothing. Gradients are averaged over processes by one reduction a step: no
    wrapper stands between a penalty and its double backward. A pair of batches is one step: its two sizes share scenes and
    styles.
    """
    total = round(params.kimg * 1000)
    if state.nimg >= total:
        return
    loss_d, loss_g = LOSSES[params.loss.name]
    geometry: Geometry = state.g.geometry  # type: ignore[assignment]
    # A ring is drawn in frames side by side: where they do not agree exactly, they must learn to.
    draw = draw_across if geometry.chart.name == "cylinder" and not geometry.exact else _draw
    teacher: Teacher | None = None
    for batch in batches:
        sizes: list[Batch] = [batch] if isinstance(batch[0], Tensor) else list(batch)  # type: ignore[list-item]
        step = state.nimg // params.batch
        state.enter(params)
        if teacher is None and state.teacher is not None:
            base = Window((0.0, 0.0), geometry.chart.short_side / min(params.patch_px), params.patch_px)
            teacher = Teacher(state.teacher, base, params.stages.teacher_direction, params.stages.perceptual).to(
                accelerator.device
            )
        set_learning_rates(state, params)
        scene = fake_scene(params, state.nimg, accelerator, state.g)
        with accelerator.autocast():
            styled = mix_styles(state.g, scene, params.loss.style_mixing)
            fakes = [draw(state.g, styled, windows) for _, windows in sizes]
        unit = geometry.chart.short_side / 2
        heights = [torch.tensor([v.center[1] / unit for v in windows], device=accelerator.device) for _, windows in sizes]
        judged = show(params, state.nimg, accelerator, [real for real, _ in sizes], fakes, heights)
        penalize = step % params.loss.penalty_every == 0
        values, logits_real = d_step(state, params, judged, loss_d, penalize, accelerator)
        lessons = []
        if teacher is not None:
            taught = mix_styles(teacher.generator, scene, params.loss.style_mixing)
            lessons = [teacher(fake, taught, windows) for fake, (_, windows) in zip(fakes, sizes, strict=True)]
        extra = {"loss/teacher": params.stages.teacher_weight * torch.stack(lessons).mean()} if lessons else {}
        if params.loss.diversity:
            extra["loss/diversity"] = params.loss.diversity * state.g.diversity(scene, sizes[0][1])  # type: ignore[operator]
        if params.loss.path_length and step % params.loss.path_every == 0:
            extra["penalty/path"] = path_penalty(state, params, scene, sizes[0][1], accelerator)
        values |= g_step(state, params, judged, logits_real, loss_g, accelerator, extra)
        state.nimg += params.batch
        with torch.no_grad():
            track_w_mean(state.g, scene, accelerator)
            ema_update(state.g_ema, state.g, ema_beta(params, state.nimg))
        yield Report(state.nimg, values)
        if state.nimg >= total:
            return


def _draw(g: nn.Module, scene: Scene, windows: Sequence[Window]) -> Tensor:
    return g(scene, windows)


def show(
    params: Train, nimg: int, accelerator: Accelerator, reals: list[Tensor], fakes: list[Tensor], heights: list[Tensor]
) -> list[Judged]:
    """What the discriminator sees of each size: pictures as they are, or a pair of sizes mixed into each other."""
    if len(reals) == 1 or not (params.pairs.cutmix or params.pairs.channelmix):
        return [Judged(real, fake, real, fake, height) for real, fake, height in zip(reals, fakes, heights, strict=True)]
    generator = torch.Generator().manual_seed(_stream(params, nimg, accelerator, MIX_STREAM))
    shown = []
    for small, large in (reals, fakes):
        mix = Mix.draw(len(small), generator, cutmix=params.pairs.cutmix, channelmix=params.pairs.channelmix)
        shown.append(mix(small, large))
    return [Judged(*parts) for parts in zip(reals, fakes, *shown, heights, strict=True)]


def d_step(
    state: TrainState, params: Train, judged: Sequence[Judged], loss_d: PairLoss, penalize: bool, accelerator: Accelerator
) -> tuple[dict[str, Tensor], list[Tensor]]:
    """One step of the discriminator, main loss and lazy penalties of every size in one backward pass.

    Penalties act on pictures that are not mixed. Returns what was measured, means over sizes, and for each size the logits of the
    real pictures (b,), detached.
    """
    losses, logits, measured = [], [], []
    for pictures in judged:
        real, fake = (part.detach().requires_grad_(penalize) for part in (pictures.real, pictures.fake))
        shown = [pictures.shown_real.detach(), pictures.shown_fake.detach()] if pictures.mixed else [real, fake]
        with accelerator.autocast():
            found = [state.d.judge(part, twice_differentiable=penalize and not pictures.mixed) for part in shown]  # type: ignore[operator]
        seen = [logit for logit, _ in found]
        loss = loss_d(*seen)
        values = {"loss/d": loss, "logits/real": seen[0].mean(), "logits/fake": seen[1].mean()}
        if params.loss.vertical:
            values["loss/d_height"] = sum((height - pictures.height).abs().mean() for _, height in found)
            loss = loss + params.loss.vertical * values["loss/d_height"]
        for name, gamma, part, known in (
            ("penalty/r1", params.loss.r1_gamma, real, seen[0]),
            ("penalty/r2", params.loss.r2_gamma, fake, seen[1]),
        ):
            if penalize and gamma:
                with accelerator.autocast():
                    own = state.d(part, twice_differentiable=True) if pictures.mixed else known
                penalty = gradient_penalty(part, own)
                values[name] = penalty
                loss = loss + penalty * (gamma / 2 * params.loss.penalty_every)
        losses.append(loss)
        logits.append(seen[0].detach())
        measured.append(values)
    optimize(torch.stack(losses).mean(), state.d, state.d_opt, accelerator)
    return {name: torch.stack([values[name].detach() for values in measured]).mean() for name in measured[0]}, logits


def g_step(
    state: TrainState,
    params: Train,
    judged: Sequence[Judged],
    logits_real: Sequence[Tensor],
    loss_g: PairLoss,
    accelerator: Accelerator,
    extra: dict[str, Tensor],
) -> dict[str, Tensor]:
    """One step of the generator against the discriminator just updated, through pictures already drawn.

    `extra` losses are added. `logits_real`, (b,) for each size, are those of the discriminator's own step: they only weigh each
    picture's gradient.
    """
    state.d.requires_grad_(False)
    with accelerator.autocast():
        found = [state.d.judge(pictures.shown_fake) for pictures in judged]  # type: ignore[operator]
        against = [loss_g(real, fake) for real, (fake, _) in zip(logits_real, found, strict=True)]
        losses = {"loss/g": torch.stack(against).mean(), **extra}
        if params.loss.vertical:
            misses = [(height - pictures.height).abs().mean() for (_, height), pictures in zip(found, judged, strict=True)]
            losses["loss/height"] = params.loss.vertical * torch.stack(misses).mean()
        if params.loss.feature_matching:
            distances = [feature_matching(state.d, pictures.real, pictures.fake) for pictures in judged]
            losses["loss/matching"] = params.loss.feature_matching * torch.stack(distances).mean()
    optimize(torch.stack(list(losses.values())).sum(), state.g, state.g_opt, accelerator)
    state.d.requires_grad_(True)
    return {name: loss.detach() for name, loss in losses.items()}


def mix_styles(g: nn.Module, scene: Scene, probability: float) -> Scene:
    """The scene with styles of a second z from a random layer on, for a share `probability` of its pictures.

    Karras et al., CVPR 2019, section 3.1. Second z and layer are functions of the scene's seed: windows of one scene agree.
    """
    if probability == 0:
        return scene
    num_ws: int = g.num_ws  # type: ignore[assignment]
    bits = fields.mix(fields.key(scene.seeds, STYLE_STREAM)) & 0x7FFFFFFFFFFFFFFF
    chosen = (bits & 0xFFFFFF).double() / 2**24 < probability
    cut = torch.where(chosen, 1 + (bits >> 24) % (num_ws - 1), num_ws)
    other = fields.latent(fields.mix(fields.key(scene.seeds, OTHER_STREAM)), scene.z.shape[1])
    first, second = g.mapping(scene.z), g.mapping(other)  # type: ignore[operator]
    layers = torch.arange(num_ws, device=scene.z.device)
    w = torch.where((layers[None, :] < cut[:, None])[:, :, None], first[:, None], second[:, None])
    return replace(scene, w=w)


def path_penalty(state: TrainState, params: Train, scene: Scene, windows: Sequence[Window], accelerator: Accelerator) -> Tensor:
    """Path length regularisation of half of the batch, weighed and made up for its laziness.

    Karras et al., CVPR 2020, section 3.2: the picture should change with the style at one pace, whose running mean is kept.
    """
    half = max(len(windows) // 2, 1)
    generator = torch.Generator().manual_seed(_stream(params, state.nimg, accelerator, PATH_STREAM))
    w = state.g.mapping(scene.z[:half])[:, None].repeat(1, state.g.num_ws, 1)  # type: ignore[operator]
    pictures = state.g.synthesize(w, scene.part(0, half), list(windows[:half]))  # type: ignore[operator]
    noise = torch.randn(pictures.shape, generator=generator).to(pictures) / math.sqrt(pictures[0, 0].numel())
    (gradient,) = torch.autograd.grad((pictures * noise).sum(), w, create_graph=True)
    lengths = gradient.square().sum(dim=2).mean(dim=1).sqrt()
    mean = accelerator.reduce(lengths.detach().mean(), reduction="mean")
    state.path_mean.lerp_(mean.to(state.path_mean), PATH_DECAY)  # type: ignore[union-attr]
    return (lengths - state.path_mean.to(lengths)).square().mean() * (params.loss.path_length * params.loss.path_every)


def _stream(params: Train, nimg: int, accelerator: Accelerator, stream: int) -> int:
    """A seed for one use of one step of one process."""
    place = torch.tensor([(params.seed << 24) + accelerator.process_index])
    return int(fields.mix(fields.key(place, stream) + nimg)) & 0x7FFFFFFFFFFFFFFF


def optimize(loss: Tensor, module: nn.Module, optimizer: torch.optim.Optimizer, accelerator: Accelerator) -> None:
    """Backward, average over processes, step."""
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    if accelerator.num_processes > 1:
        gradients = [p.grad for p in module.parameters() if p.grad is not None]
        flat = accelerator.reduce(torch.cat([g.flatten() for g in gradients]), reduction="mean")
        for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):  # type: ignore[union-attr]
            gradient.copy_(part.view_as(gradient))
    optimizer.step()


def fake_scene(params: Train, nimg: int, accelerator: Accelerator, g: nn.Module) -> Scene:
    """This process's scenes of the global batch that starts at image `nimg`."""
    local = params.batch // accelerator.num_processes
    first = nimg + accelerator.process_index * local
    seeds = torch.arange(first, first + local) + SCENE_STREAM * (params.seed + 1)
    return Scene.of(seeds, g.z_dim, accelerator.device)  # type: ignore[arg-type]


def set_learning_rates(state: TrainState, params: Train) -> None:
    """Linear warm-up over `warmup_kimg`, then constant."""
    warmup = params.optimizer.warmup_kimg * 1000
    factor = min(1.0, (state.nimg + params.batch) / warmup) if warmup else 1.0
    for optimizer, lr in ((state.g_opt, params.optimizer.g_lr), (state.d_opt, params.optimizer.d_lr)):
        for group in optimizer.param_groups:
            group["lr"] = lr * factor


def ema_beta(params: Train, nimg: int) -> float:
    """Decay of a step: half-life of `ema_half_life_kimg`, shorter while few images have been seen."""
    half_life = min(params.optimizer.ema_half_life_kimg * 1000, 0.05 * nimg)
    return 0.5 ** (params.batch / max(half_life, 1e-8))


def ema_update(target: nn.Module, source: nn.Module, beta: float) -> None:
    """target <- beta target + (1 - beta) source for parameters; buffers are copied."""
    for kept, new in zip(target.parameters(), source.parameters(), strict=True):
        kept.lerp_(new, 1 - beta)
    for kept, new in zip(target.buffers(), source.buffers(), strict=True):
        kept.copy_(new)


def track_w_mean(g: nn.Module, scene: Scene, accelerator: Accelerator) -> None:
    """Follow the mean style that truncation draws towards, and what layers measure of themselves, over all processes."""
    mean = accelerator.reduce(g.mapping(scene.z).mean(dim=0), reduction="mean")  # type: ignore[operator]
    g.w_mean.lerp_(mean, 1 - W_MEAN_BETA)  # type: ignore[operator, union-attr]
    measured = [buffer for name, buffer in g.named_buffers() if name.endswith("magnitude")]
    if accelerator.num_processes > 1 and measured:
        means = accelerator.reduce(torch.stack(measured), reduction="mean")
        for buffer, mean in zip(measured, means, strict=True):  # type: ignore[arg-type]
            buffer.copy_(mean)
