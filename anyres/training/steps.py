"""One step of the discriminator, then one of the generator against it, over the micro-batches of one batch."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor, nn

from anyres.networks.generator import StyleGenerator
from anyres.networks.scene import Scene
from anyres.networks.warp import warp
from anyres.params import Train
from anyres.plane import fields
from anyres.plane.shapes import Float
from anyres.plane.window import Window
from anyres.training.losses import LOSSES, Maps, feature_matching, gradient_penalties
from anyres.training.microbatch import MicroBatch
from anyres.training.reduce import Mean, all_reduce, process_mean, two_pass_mean
from anyres.training.state import TrainState
from anyres.training.teacher import Teacher

# Decay of the running mean of path lengths.
PATH_DECAY = 0.01


@dataclass(frozen=True)
class RealFakeBatch:
    """Pictures of one size, (b, 3, h, w): unmixed, and as the input of the discriminator, which may be mixed.

    `height` (b,) is the vertical position of their centres, in half short sides.
    """

    real: Tensor
    fake: Tensor
    d_input_real: Tensor
    d_input_fake: Tensor
    height: Tensor

    @property
    def mixed(self) -> bool:
        return self.d_input_fake is not self.fake


# Draws windows of one size, (b, 3, h, w).
Draw = Callable[[StyleGenerator, Scene, Sequence[Window]], Tensor]
# Draws the fakes of a micro-batch and returns them with its real pictures, for each size.
BatchSource = Callable[[MicroBatch], list[RealFakeBatch]]


@dataclass(frozen=True)
class Step:
    """What the steps of discriminator and generator on one batch share.

    `matching_maps` gives the features of `loss.feature_matching`; None: those of the discriminator.
    """

    state: TrainState
    params: Train
    accelerator: Accelerator
    micro_batches: list[MicroBatch]
    source: BatchSource
    matching_maps: Maps | None = None

    def is_due(self, every: int) -> bool:
        """Whether this step is one of those that come once in `every` steps."""
        return self.state.nimg // self.params.batch % every == 0


# ---- the input of the discriminator


def generate(g: StyleGenerator, scene: Scene, windows: Sequence[Window]) -> Float[Tensor, "b 3 h w"]:
    """Draw windows of one size, (b, 3, h, w)."""
    return g(scene, windows)


def make_batches(
    g: StyleGenerator, params: Train, accelerator: Accelerator, draw: Draw, micro_batch: MicroBatch
) -> list[RealFakeBatch]:
    """Draw the fakes of a micro-batch; return real and fake pictures of each size, mixed where the micro-batch says so."""
    with accelerator.autocast():
        styled = mix_styles(g, micro_batch.scene, params.loss.style_mixing)
        fakes = [draw(g, styled, windows) for _, windows in micro_batch.sizes]
    reals = [real for real, _ in micro_batch.sizes]
    unit = g.geometry.chart.short_side / 2
    heights = [
        torch.tensor([window.center[1] / unit for window in windows], device=accelerator.device)
        for _, windows in micro_batch.sizes
    ]
    d_inputs = [reals, fakes]
    if micro_batch.mixes is not None:
        mixed = [list(mix(*pair)) for mix, pair in zip(micro_batch.mixes, d_inputs, strict=True)]
        d_inputs = mixed if params.pairs.mix_reals else [reals, mixed[1]]
    return [RealFakeBatch(*values) for values in zip(reals, fakes, *d_inputs, heights, strict=True)]


def always(batches: list[RealFakeBatch]) -> BatchSource:
    """Return a source that gives `batches`, which are already drawn, for any micro-batch."""
    return lambda micro_batch: batches


def mix_styles(g: StyleGenerator, scene: Scene, probability: float) -> Scene:
    """Return the scene with styles of a second z from a random layer on, for a share `probability` of its pictures.

    Karras et al., CVPR 2019, section 3.1. The second z and the layer are functions of the scene's seed, so windows of one scene
    agree.
    """
    if probability == 0:
        return scene
    num_ws: int = g.num_ws
    bits = fields.mix(fields.key(scene.seeds, fields.Stream.MIXED_LAYER)) & 0x7FFFFFFFFFFFFFFF
    is_mixed = (bits & 0xFFFFFF).double() / 2**24 < probability
    cut = torch.where(is_mixed, 1 + (bits >> 24) % (num_ws - 1), num_ws)
    other = fields.latent(fields.mix(fields.key(scene.seeds, fields.Stream.MIXED_LATENT)), scene.z.shape[1])
    first, second = g.mapping(scene.z), g.mapping(other)
    layers = torch.arange(num_ws, device=scene.z.device)
    w = torch.where((layers[None, :] < cut[:, None])[:, :, None], first[:, None], second[:, None])
    return replace(scene, w=w)


# ---- the discriminator


def d_step(step: Step) -> tuple[dict[str, Tensor], list[list[Tensor]]]:
    """Take one step of the discriminator and the projected heads: main losses and lazy penalties of all sizes, one backward pass
    per micro-batch.

    Returns the values to report, means over micro-batches and sizes, and for each micro-batch and size the logits of the real
    pictures (b,), detached.
    """
    state, count = step.state, len(step.micro_batches)
    state.d_opt.zero_grad(set_to_none=True)
    if state.projected is not None and state.projected_opt is not None:
        state.projected_opt.zero_grad(set_to_none=True)
        state.projected.update_norms()
    values, logits_real = [], []
    for micro_batch in step.micro_batches:
        with torch.no_grad():
            batches = step.source(micro_batch)
        results = [d_losses(step, batch) for batch in batches]
        (torch.stack([loss for loss, _, _ in results]).mean() / count).backward()
        values += [values_of_size for _, values_of_size, _ in results]
        logits_real.append([logits for _, _, logits in results])
    optimize(state.d, state.d_opt, step.accelerator)
    if state.projected is not None and state.projected_opt is not None:
        optimize(state.projected.heads, state.projected_opt, step.accelerator)
    return _means(values), logits_real


def d_losses(step: Step, batch: RealFakeBatch) -> tuple[Float[Tensor, ""], dict[str, Float[Tensor, ""]], Float[Tensor, " b"]]:
    """Return the discriminator's loss, the values to report, and the logits of the real pictures (b,), detached.

    Penalties are computed on unmixed pictures.
    """
    d, loss, autocast = step.state.d, step.params.loss, step.accelerator.autocast
    penalize = step.is_due(loss.penalty_every)
    unmixed = [pictures.detach().requires_grad_(penalize) for pictures in (batch.real, batch.fake)]
    d_inputs = [batch.d_input_real.detach(), batch.d_input_fake.detach()] if batch.mixed else unmixed
    with autocast():
        heads = d.forward_pairs(d_inputs, twice_differentiable=penalize and not batch.mixed)
    logits = [logit for logit, _ in heads]
    total = LOSSES[loss.name][0](*logits)
    values = {"loss/d": total, "logits/real": logits[0].mean(), "logits/fake": logits[1].mean()}
    if loss.vertical:
        errors = [(height - batch.height).abs().mean() for _, height in heads if height is not None]
        values["loss/d_height"] = torch.stack(errors).sum()
        total = total + loss.vertical * values["loss/d_height"]
    if step.state.projected is not None:
        with autocast():
            values["loss/d_projected"] = step.state.projected.d_loss(batch.real, batch.fake)
        # No weight: the heads share no parameters with the discriminator, and Adam ignores the scale of a loss.
        total = total + values["loss/d_projected"]
    gammas = {"penalty/r1": loss.r1_gamma, "penalty/r2": loss.r2_gamma}
    if penalize and any(gammas.values()):
        if batch.mixed:
            with autocast():
                heads = d.forward_pairs(unmixed, twice_differentiable=True)
        penalties = gradient_penalties(unmixed, [logit for logit, _ in heads])
        for (name, gamma), penalty in zip(gammas.items(), penalties, strict=True):
            if gamma:
                values[name] = penalty
                total = total + penalty * (gamma / 2 * loss.penalty_every)
    return total, {name: value.detach() for name, value in values.items()}, logits[0].detach()


# ---- the generator


def g_step(step: Step, logits_real: Sequence[Sequence[Tensor]], teacher: Teacher | None) -> dict[str, Tensor]:
    """Take one step of the generator: against the discriminator just updated, and on the other losses that have a weight.

    `logits_real`, (b,) for each micro-batch and size, come from the discriminator's own step: they only weight each picture's
    gradient. Returns the values to report, means over micro-batches.
    """
    state, loss, count = step.state, step.params.loss, len(step.micro_batches)
    path = loss.path_length > 0 and step.is_due(loss.path_every)
    path_length_mean = state.path_mean

    def losses(index: int, mean: Mean) -> dict[str, Tensor]:
        micro_batch = step.micro_batches[index]
        batches = step.source(micro_batch)
        terms = adversarial_losses(step, batches, logits_real[index], mean)
        if teacher is not None:
            styled = mix_styles(teacher.generator, micro_batch.scene, loss.style_mixing)
            distances = [
                teacher(batch.fake, styled, windows) for batch, (_, windows) in zip(batches, micro_batch.sizes, strict=True)
            ]
            terms["loss/teacher"] = step.params.stages.teacher_weight * torch.stack(distances).mean()
        if step.params.pairs.l1 and len(batches) > 1:
            terms["loss/pair"] = step.params.pairs.l1 * pair_distance(*(batch.fake for batch in batches))
        if loss.consistency:
            styled = mix_styles(state.g, micro_batch.scene, loss.style_mixing)
            terms["loss/consistency"] = loss.consistency * scale_consistency_loss(
                step, batches[0].fake, styled, micro_batch.windows, mean
            )
        if loss.diversity:
            terms["loss/diversity"] = loss.diversity * state.g.diversity(*micro_batch.half(step.params.batch), mean)
        if path:
            terms["penalty/path"] = path_penalty(step, micro_batch, path_length_mean, mean)
        return terms

    _train_discriminators(state, enabled=False)
    state.g_opt.zero_grad(set_to_none=True)
    # Means over the whole batch must be known before the first of several passes.
    needs_batch_means = path or loss.diversity or loss.feature_matching or loss.consistency
    means = (
        two_pass_mean(losses, count, step.accelerator)
        if count > 1 and needs_batch_means
        else [process_mean(step.accelerator)] * count
    )
    values = []
    for index, mean in enumerate(means):
        terms = losses(index, mean)
        (torch.stack(list(terms.values())).sum() / count).backward()
        values.append({name: value.detach() for name, value in terms.items()})
    optimize(state.g, state.g_opt, step.accelerator)
    _train_discriminators(state, enabled=True)
    return _means(values)


def _train_discriminators(state: TrainState, *, enabled: bool) -> None:
    state.d.requires_grad_(enabled)
    if state.projected is not None:
        state.projected.heads.requires_grad_(enabled)


def adversarial_losses(
    step: Step, batches: Sequence[RealFakeBatch], logits_real: Sequence[Tensor], mean: Mean
) -> dict[str, Tensor]:
    """Return the generator's losses that the discriminator gives, means over sizes."""
    d, loss = step.state.d, step.params.loss
    with step.accelerator.autocast():
        heads = [d.forward_heads(batch.d_input_fake) for batch in batches]
        losses_of_sizes = [LOSSES[loss.name][1](real, fake) for real, (fake, _) in zip(logits_real, heads, strict=True)]
        losses = {"loss/g": torch.stack(losses_of_sizes).mean()}
        if loss.vertical:
            heights = [(height, batch.height) for (_, height), batch in zip(heads, batches, strict=True)]
            errors = [(predicted - actual).abs().mean() for predicted, actual in heights if predicted is not None]
            losses["loss/height"] = loss.vertical * torch.stack(errors).mean()
        if loss.feature_matching:
            maps = step.matching_maps or d.features
            distances = [feature_matching(maps, batch.real, batch.fake, mean) for batch in batches]
            losses["loss/matching"] = loss.feature_matching * torch.stack(distances).mean()
        if step.state.projected is not None:
            of_sizes = [step.state.projected.g_loss(batch.fake) for batch in batches]
            losses["loss/projected"] = loss.projected.weight * torch.stack(of_sizes).mean()
    return losses


def pair_distance(small: Float[Tensor, "b 3 h w"], large: Float[Tensor, "b 3 _ _"]) -> Float[Tensor, ""]:
    """Return the mean L1 distance of the same windows at two sizes, the larger one resized: Ntavelis et al. 2022, figure 4."""
    resized = F.interpolate(large.float(), size=small.shape[2:], mode="bilinear", align_corners=False, antialias=True)
    return (resized - small.float()).abs().mean()


def scale_consistency_loss(
    step: Step, fake: Float[Tensor, "b 3 h w"], scene: Scene, windows: Sequence[Window], mean: Mean
) -> Float[Tensor, ""]:
    """Return the mean L1 distance between pictures at half the resolution and `fake` (b, 3, h, w) downsampled to it.

    Only windows an octave or more below the coarsest scale count. The discriminator judges each scale by itself and would accept
    another scene at each. A scene that agrees with itself one octave apart agrees, octave by octave, at all scales.
    """
    g = step.state.g
    coarsest = g.geometry.periods[1]
    coarse = [window.resized((window.size[0] // 2, window.size[1] // 2)) for window in windows]
    # All are drawn, although some do not count: shapes that change with every step would cost more.
    counts = torch.tensor([float(window.period <= coarsest * (1 + 1e-9)) for window in coarse], device=fake.device)
    with step.accelerator.autocast():
        coarse_fake = g(scene, coarse)
    down, across, inside = warp(coarse, windows, fake.device)
    mask = inside * counts[:, None, None, None]
    downsampled = torch.einsum("bij,bcjk,blk->bcil", down, fake.float(), across)
    return mean(((downsampled - coarse_fake.float()).abs() * mask).sum()) / mean(3 * mask.sum()).clamp_min(1.0)


def path_penalty(step: Step, micro_batch: MicroBatch, path_length_mean: Float[Tensor, ""], mean: Mean) -> Float[Tensor, ""]:
    """Return the path length regularisation of half of the pictures, times its weight and its interval in steps.

    Karras et al., CVPR 2020, section 3.2: a step in the style should change the picture by a constant amount. With `path_norm`
    mean, a length takes the mean over the style's channels instead of the sum: the penalty is smaller by their number.
    `path_mean` of the state, the running mean of path lengths, is set from `path_length_mean`.
    """
    state, loss = step.state, step.params.loss
    scene, windows = micro_batch.half(step.params.batch)
    w = state.g.mapping(scene.z)[:, None].repeat(1, state.g.num_ws, 1)
    pictures = state.g.synthesize(w, scene, windows)
    noise = fields.latent(fields.mix(fields.key(scene.seeds, fields.Stream.PATH_LENGTH)), pictures[0].numel())
    noise = noise.view_as(pictures).to(pictures) / math.sqrt(pictures[0, 0].numel())
    (gradient,) = torch.autograd.grad((pictures * noise).sum(), w, create_graph=True)
    squares = gradient.square()
    lengths = (squares.sum(dim=2) if loss.path_norm == "sum" else squares.mean(dim=2)).mean(dim=1).sqrt()
    state.path_mean = path_length_mean.lerp(mean(lengths.detach().mean()).to(path_length_mean), PATH_DECAY)
    return (lengths - state.path_mean.to(lengths)).square().mean() * (loss.path_length * loss.path_every)


# ---- both


def optimize(module: nn.Module, optimizer: torch.optim.Optimizer, accelerator: Accelerator) -> None:
    """Average gradients over processes, then step."""
    if accelerator.num_processes > 1:
        gradients = [p.grad for p in module.parameters() if p.grad is not None]
        flat = all_reduce(torch.cat([g.flatten() for g in gradients]), accelerator)
        for gradient, average in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(average.view_as(gradient))
    optimizer.step()


def _means(values: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.stack([value[name] for value in values]).mean() for name in values[0]}
