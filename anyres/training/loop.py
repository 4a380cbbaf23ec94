"""The training loop: a generator of small reports. Methods differ in network and recipe, never here."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from anyres.networks.scene import Scene
from anyres.params import Train
from anyres.plane.geometry import Geometry
from anyres.plane.window import Window
from anyres.training.across import draw_across
from anyres.training.losses import LOSSES, PairLoss, feature_matching, gradient_penalty
from anyres.training.state import TrainState
from anyres.training.teacher import Teacher

# Fakes of one training seed take these scenes; evaluation and users count from zero.
SCENE_STREAM = 1 << 40
W_MEAN_BETA = 0.998

# Real pictures of this process, float (b, 3, h, w) in [-1, 1], and their windows.
Batch = tuple[Tensor, list[Window]]


@dataclass(frozen=True)
class Report:
    """One step: images seen so far and what was measured, as detached scalars still on the device."""

    nimg: int
    values: dict[str, Tensor]


def training_loop(state: TrainState, params: Train, batches: Iterable[Batch], accelerator: Accelerator) -> Iterator[Report]:
    """Train `state` in place, one batch a step, until `params.kimg`; yields a report after each step.

    Randomness is a function of (seed, nimg, place in the batch), so stopping between two reports and going on
    from the saved state changes nothing. Gradients are averaged over processes by one reduction a step: no
    wrapper stands between a penalty and its double backward.
    """
    total = round(params.kimg * 1000)
    if state.nimg >= total:
        return
    loss_d, loss_g = LOSSES[params.loss.name]
    geometry: Geometry = state.g.geometry  # type: ignore[assignment]
    # A ring is drawn in frames side by side: where they do not agree exactly, they must learn to.
    draw = draw_across if geometry.chart.name == "cylinder" and not geometry.exact else _draw
    teacher: Teacher | None = None
    for real, windows in batches:
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
            fake = draw(state.g, scene, windows)
        penalize = step % params.loss.penalty_every == 0
        values, logits_real = d_step(state, params, real, fake.detach(), loss_d, penalize, accelerator)
        lesson = None if teacher is None else params.stages.teacher_weight * teacher(fake, scene, windows)
        values |= g_step(state, params, real, logits_real, fake, loss_g, accelerator, lesson)
        state.nimg += params.batch
        with torch.no_grad():
            track_w_mean(state.g, scene, accelerator)
            ema_update(state.g_ema, state.g, ema_beta(params, state.nimg))
        yield Report(state.nimg, values)
        if state.nimg >= total:
            return


def _draw(g: nn.Module, scene: Scene, windows: Sequence[Window]) -> Tensor:
    return g(scene, windows)


def d_step(
    state: TrainState, params: Train, real: Tensor, fake: Tensor, loss_d: PairLoss, penalize: bool, accelerator: Accelerator
) -> tuple[dict[str, Tensor], Tensor]:
    """One step of the discriminator, main loss and lazy penalties in one backward pass.

    Returns what was measured and the logits of the real pictures (b,), detached.
    """
    real, fake = real.detach().requires_grad_(penalize), fake.requires_grad_(penalize)
    with accelerator.autocast():
        logits_real = state.d(real, twice_differentiable=penalize)
        logits_fake = state.d(fake, twice_differentiable=penalize)
    loss = loss_d(logits_real, logits_fake)
    values = {"loss/d": loss, "logits/real": logits_real.mean(), "logits/fake": logits_fake.mean()}
    if penalize:
        for name, gamma, pictures, logits in (
            ("penalty/r1", params.loss.r1_gamma, real, logits_real),
            ("penalty/r2", params.loss.r2_gamma, fake, logits_fake),
        ):
            if gamma:
                penalty = gradient_penalty(pictures, logits)
                values[name] = penalty
                loss = loss + penalty * (gamma / 2 * params.loss.penalty_every)
    optimize(loss, state.d, state.d_opt, accelerator)
    return {name: value.detach() for name, value in values.items()}, logits_real.detach()


def g_step(
    state: TrainState,
    params: Train,
    real: Tensor,
    logits_real: Tensor,
    fake: Tensor,
    loss_g: PairLoss,
    accelerator: Accelerator,
    lesson: Tensor | None = None,
) -> dict[str, Tensor]:
    """One step of the generator against the discriminator just updated, through pictures already drawn.

    `lesson`, a loss of the same pictures, is added. `logits_real` (b,) are those of the discriminator's own step: they only
    weigh each picture's gradient.
    """
    state.d.requires_grad_(False)
    with accelerator.autocast():
        logits_fake = state.d(fake)
        losses = {"loss/g": loss_g(logits_real, logits_fake)}
        if params.loss.feature_matching:
            losses["loss/matching"] = params.loss.feature_matching * feature_matching(state.d, real, fake)
    if lesson is not None:
        losses["loss/teacher"] = lesson
    optimize(torch.stack(list(losses.values())).sum(), state.g, state.g_opt, accelerator)
    state.d.requires_grad_(True)
    return {name: loss.detach() for name, loss in losses.items()}


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
