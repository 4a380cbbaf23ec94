"""One step of each player: the discriminator's, then the generator's against it, over the parts of one batch."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from anyres.networks.generator import StyleGenerator
from anyres.networks.scene import Scene
from anyres.networks.warp import warp
from anyres.params import Train
from anyres.plane import fields
from anyres.plane.window import Window
from anyres.training.losses import LOSSES, feature_matching, gradient_penalties
from anyres.training.microbatch import MicroBatch
from anyres.training.reduce import Mean, process_mean, two_pass_mean
from anyres.training.state import TrainState
from anyres.training.teacher import Teacher

# Of the running mean of path lengths.
PATH_DECAY = 0.01


@dataclass(frozen=True)
class RealFakeBatch:
    """Pictures of one size, (b, 3, h, w): as they are, and as the discriminator sees them, which mixing may change.

    `height` (b,) is where their middles lie, in half short sides.
    """

    real: Tensor
    fake: Tensor
    d_input_real: Tensor
    d_input_fake: Tensor
    height: Tensor

    @property
    def mixed(self) -> bool:
        return self.d_input_real is not self.real


# Draws windows of one size, (b, 3, h, w).
Draw = Callable[[StyleGenerator, Scene, Sequence[Window]], Tensor]
# Draws the fakes of a part and puts them beside its real pictures, for each size.
Show = Callable[[MicroBatch], list[RealFakeBatch]]


@dataclass(frozen=True)
class Step:
    """What the steps of both players on one batch share."""

    state: TrainState
    params: Train
    accelerator: Accelerator
    parts: list[MicroBatch]
    show: Show

    def due(self, every: int) -> bool:
        """Whether what happens in one of `every` steps happens in this one."""
        return self.state.nimg // self.params.batch % every == 0


# ---- what is shown


def generate(g: StyleGenerator, scene: Scene, windows: Sequence[Window]) -> Tensor:
    """What a generator draws."""
    return g(scene, windows)


def make_fakes(g: StyleGenerator, params: Train, accelerator: Accelerator, draw: Draw, part: MicroBatch) -> list[RealFakeBatch]:
    """Draw the fakes of a part; of each size, what the discriminator sees: pictures as they are, or mixed into each other."""
    with accelerator.autocast():
        styled = mix_styles(g, part.scene, params.loss.style_mixing)
        fakes = [draw(g, styled, windows) for _, windows in part.sizes]
    reals = [real for real, _ in part.sizes]
    unit = g.geometry.chart.short_side / 2
    heights = [torch.tensor([v.center[1] / unit for v in windows], device=accelerator.device) for _, windows in part.sizes]
    seen = [reals, fakes]
    if part.mixes is not None:
        seen = [list(mix(small, large)) for mix, (small, large) in zip(part.mixes, seen, strict=True)]
    return [RealFakeBatch(*each) for each in zip(reals, fakes, *seen, heights, strict=True)]


def cached(judged: list[RealFakeBatch]) -> Show:
    """Show what has been drawn, whatever the part."""
    return lambda part: judged


def mix_styles(g: StyleGenerator, scene: Scene, probability: float) -> Scene:
    """The scene with styles of a second z from a random layer on, for a share `probability` of its pictures.

    Karras et al., CVPR 2019, section 3.1. Second z and layer are functions of the scene's seed: windows of one scene agree.
    """
    if probability == 0:
        return scene
    num_ws: int = g.num_ws
    bits = fields.mix(fields.key(scene.seeds, fields.Stream.MIXED_LAYER)) & 0x7FFFFFFFFFFFFFFF
    chosen = (bits & 0xFFFFFF).double() / 2**24 < probability
    cut = torch.where(chosen, 1 + (bits >> 24) % (num_ws - 1), num_ws)
    other = fields.latent(fields.mix(fields.key(scene.seeds, fields.Stream.MIXED_LATENT)), scene.z.shape[1])
    first, second = g.mapping(scene.z), g.mapping(other)
    layers = torch.arange(num_ws, device=scene.z.device)
    w = torch.where((layers[None, :] < cut[:, None])[:, :, None], first[:, None], second[:, None])
    return replace(scene, w=w)


# ---- the discriminator


def d_step(step: Step) -> tuple[dict[str, Tensor], list[list[Tensor]]]:
    """One step of the discriminator, main loss and lazy penalties of all sizes in one backward pass a part.

    Returns what was measured, means over parts and sizes, and for each part and size the logits of the real pictures (b,),
    detached.
    """
    state, count = step.state, len(step.parts)
    state.d_opt.zero_grad(set_to_none=True)
    measured, logits_real = [], []
    for part in step.parts:
        with torch.no_grad():
            judged = step.show(part)
        found = [d_losses(step, pictures) for pictures in judged]
        (torch.stack([loss for loss, _, _ in found]).mean() / count).backward()
        measured += [values for _, values, _ in found]
        logits_real.append([logits for _, _, logits in found])
    optimize(state.d, state.d_opt, step.accelerator)
    return _means(measured), logits_real


def d_losses(step: Step, pictures: RealFakeBatch) -> tuple[Tensor, dict[str, Tensor], Tensor]:
    """The discriminator's loss, what was measured on the way, and the logits of the real pictures (b,), detached.

    Penalties act on pictures that are not mixed.
    """
    d, loss, autocast = step.state.d, step.params.loss, step.accelerator.autocast
    penalize = step.due(loss.penalty_every)
    plain = [part.detach().requires_grad_(penalize) for part in (pictures.real, pictures.fake)]
    seen = [pictures.d_input_real.detach(), pictures.d_input_fake.detach()] if pictures.mixed else plain
    with autocast():
        found = d.forward_pairs(seen, twice_differentiable=penalize and not pictures.mixed)
    logits = [logit for logit, _ in found]
    total = LOSSES[loss.name][0](*logits)
    values = {"loss/d": total, "logits/real": logits[0].mean(), "logits/fake": logits[1].mean()}
    if loss.vertical:
        misses = [(height - pictures.height).abs().mean() for _, height in found if height is not None]
        values["loss/d_height"] = torch.stack(misses).sum()
        total = total + loss.vertical * values["loss/d_height"]
    weighed = {"penalty/r1": loss.r1_gamma, "penalty/r2": loss.r2_gamma}
    if penalize and any(weighed.values()):
        if pictures.mixed:
            with autocast():
                found = d.forward_pairs(plain, twice_differentiable=True)
        penalties = gradient_penalties(plain, [logit for logit, _ in found])
        for (name, gamma), penalty in zip(weighed.items(), penalties, strict=True):
            if gamma:
                values[name] = penalty
                total = total + penalty * (gamma / 2 * loss.penalty_every)
    return total, {name: value.detach() for name, value in values.items()}, logits[0].detach()


# ---- the generator


def g_step(step: Step, logits_real: Sequence[Sequence[Tensor]], teacher: Teacher | None) -> dict[str, Tensor]:
    """One step of the generator against the discriminator just updated, and on what else the params weigh.

    `logits_real`, (b,) for each part and size, are those of the discriminator's own step: they only weigh each picture's
    gradient. Returns what was measured, means over parts.
    """
    state, loss, count = step.state, step.params.loss, len(step.parts)
    path = loss.path_length > 0 and step.due(loss.path_every)
    path_length_mean = state.path_mean

    def losses(index: int, mean: Mean) -> dict[str, Tensor]:
        part = step.parts[index]
        judged = step.show(part)
        found = adversarial_losses(step, judged, logits_real[index], mean)
        if teacher is not None:
            taught = mix_styles(teacher.generator, part.scene, loss.style_mixing)
            lessons = [teacher(each.fake, taught, windows, mean) for each, (_, windows) in zip(judged, part.sizes, strict=True)]
            found["loss/teacher"] = step.params.stages.teacher_weight * torch.stack(lessons).mean()
        if loss.consistency:
            styled = mix_styles(state.g, part.scene, loss.style_mixing)
            found["loss/consistency"] = loss.consistency * scale_consistency_loss(
                step, judged[0].fake, styled, part.windows, mean
            )
        if loss.diversity:
            found["loss/diversity"] = loss.diversity * state.g.diversity(*part.half(step.params.batch), mean)
        if path:
            found["penalty/path"] = path_penalty(step, part, path_length_mean, mean)
        return found

    state.d.requires_grad_(False)
    state.g_opt.zero_grad(set_to_none=True)
    # What only the whole batch can tell must be known before the first of several passes.
    whole = loss.diversity or loss.feature_matching or loss.consistency
    rehearsed = count > 1 and (teacher is not None or path or whole)
    means = two_pass_mean(losses, count, step.accelerator) if rehearsed else [process_mean(step.accelerator)] * count
    measured = []
    for index, mean in enumerate(means):
        found = losses(index, mean)
        (torch.stack(list(found.values())).sum() / count).backward()
        measured.append({name: value.detach() for name, value in found.items()})
    optimize(state.g, state.g_opt, step.accelerator)
    state.d.requires_grad_(True)
    return _means(measured)


def adversarial_losses(
    step: Step, judged: Sequence[RealFakeBatch], logits_real: Sequence[Tensor], mean: Mean
) -> dict[str, Tensor]:
    """The generator's losses in the eyes of the discriminator, means over sizes."""
    d, loss = step.state.d, step.params.loss
    with step.accelerator.autocast():
        seen = [d.forward_heads(pictures.d_input_fake) for pictures in judged]
        played = [LOSSES[loss.name][1](real, fake) for real, (fake, _) in zip(logits_real, seen, strict=True)]
        losses = {"loss/g": torch.stack(played).mean()}
        if loss.vertical:
            heights = [(height, pictures.height) for (_, height), pictures in zip(seen, judged, strict=True)]
            misses = [(read - actual).abs().mean() for read, actual in heights if read is not None]
            losses["loss/height"] = loss.vertical * torch.stack(misses).mean()
        if loss.feature_matching:
            distances = [feature_matching(d, pictures.real, pictures.fake, mean) for pictures in judged]
            losses["loss/matching"] = loss.feature_matching * torch.stack(distances).mean()
    return losses


def scale_consistency_loss(step: Step, fake: Tensor, scene: Scene, windows: Sequence[Window], mean: Mean) -> Tensor:
    """Mean L1 distance of pictures at half the resolution to `fake` (b, 3, h, w), the same windows, brought down.

    Of the windows that lie an octave or more below the coarsest scale. A scene that looks alike at neighbouring scales does so,
    octave by octave, at all of them; to the discriminator, which judges each scale by itself, it could be another one at each.
    """
    g = step.state.g
    coarsest = g.geometry.periods[1]
    coarse = [window.resized((window.size[0] // 2, window.size[1] // 2)) for window in windows]
    # All are drawn, though some do not count: shapes that change with every step cost more than that.
    counts = torch.tensor([float(window.period <= coarsest * (1 + 1e-9)) for window in coarse], device=fake.device)
    with step.accelerator.autocast():
        drawn = g(scene, coarse)
    down, across, inside = warp(coarse, windows, fake.device)
    mask = inside * counts[:, None, None, None]
    brought = torch.einsum("bij,bcjk,blk->bcil", down, fake.float(), across)
    return mean(((brought - drawn.float()).abs() * mask).sum()) / mean(3 * mask.sum()).clamp_min(1.0)


def path_penalty(step: Step, part: MicroBatch, path_length_mean: Tensor, mean: Mean) -> Tensor:
    """Path length regularisation of half of the pictures, weighed and made up for its laziness.

    Karras et al., CVPR 2020, section 3.2: the picture should change with the style at one pace. Its running mean, `path_mean` of
    the state, goes on from `path_length_mean`.
    """
    state, loss = step.state, step.params.loss
    scene, windows = part.half(step.params.batch)
    w = state.g.mapping(scene.z)[:, None].repeat(1, state.g.num_ws, 1)
    pictures = state.g.synthesize(w, scene, windows)
    noise = fields.latent(fields.mix(fields.key(scene.seeds, fields.Stream.PATH_LENGTH)), pictures[0].numel())
    noise = noise.view_as(pictures).to(pictures) / math.sqrt(pictures[0, 0].numel())
    (gradient,) = torch.autograd.grad((pictures * noise).sum(), w, create_graph=True)
    lengths = gradient.square().sum(dim=2).mean(dim=1).sqrt()
    state.path_mean = path_length_mean.lerp(mean(lengths.detach().mean()).to(path_length_mean), PATH_DECAY)
    return (lengths - state.path_mean.to(lengths)).square().mean() * (loss.path_length * loss.path_every)


# ---- both


def optimize(module: nn.Module, optimizer: torch.optim.Optimizer, accelerator: Accelerator) -> None:
    """Average gradients over processes, then step."""
    if accelerator.num_processes > 1:
        gradients = [p.grad for p in module.parameters() if p.grad is not None]
        flat = accelerator.reduce(torch.cat([g.flatten() for g in gradients]), reduction="mean")
        for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):  # type: ignore[union-attr]
            gradient.copy_(part.view_as(gradient))
    optimizer.step()


def _means(measured: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.stack([values[name] for values in measured]).mean() for name in measured[0]}
