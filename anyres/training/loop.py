"""The training loop: a generator of small reports. Methods differ in network and params, not in this loop."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from anyres.networks.backbones import Lite0, lite0
from anyres.networks.generator import StyleGenerator
from anyres.networks.scene import Scene
from anyres.params import Train
from anyres.plane.geometry import Geometry
from anyres.plane.window import Window
from anyres.training.microbatch import MicroBatch, RealBatch, RealBatchPair, mixes, pass_size
from anyres.training.reduce import process_mean
from anyres.training.seam import draw_seam_patches
from anyres.training.state import TrainState, adam_settings
from anyres.training.steps import Step, always, d_step, g_step, generate, make_batches
from anyres.training.teacher import Teacher

# Scenes of the fakes of a training start here, times its seed; evaluation and users count from zero.
SCENE_STREAM = 1 << 40
W_MEAN_BETA = 0.998


@dataclass(frozen=True)
class Report:
    """One step: images seen so far, and the values of the step as detached scalars on the device."""

    nimg: int
    values: dict[str, Tensor]


def training_loop(
    state: TrainState,
    params: Train,
    batches: Iterable[RealBatch | RealBatchPair],
    accelerator: Accelerator,
    micro_batch: int | None = None,
) -> Iterator[Report]:
    """Train `state` in place, one batch a step, until `params.kimg`; yield a report after each step.

    Randomness is a function of (seed, nimg, position in the batch). A training that stops between two reports and resumes from
    the saved state is bit-identical; another number of processes changes only the order of sums. Gradients are averaged over
    processes by one reduction per step, without a wrapper module, because penalties need a double backward pass. `micro_batch`
    limits the pictures of one pass: less memory, more time, the same training. Raises ValueError, one line, where the batch
    cannot be divided: see `pass_size`. A pair of batches is one step: its two sizes share scenes and styles.
    """
    total = round(params.kimg * 1000)
    if state.nimg >= total:
        return
    size = pass_size(params.batch, accelerator.num_processes, micro_batch)
    geometry: Geometry = state.g.geometry
    # A ring is drawn in frames side by side. Where the generator is not exact, it must learn that they agree.
    draw = draw_seam_patches if geometry.chart.wraps and not geometry.exact else generate
    batches_of = partial(make_batches, state.g, params, accelerator, draw)
    backbone = matching_backbone(params)
    matching_maps = None if backbone is None else backbone.to(accelerator.device).maps
    teacher: Teacher | None = None
    for batch in batches:
        sizes = sizes_of(batch)
        state.start_stage(params)
        if teacher is None and state.teacher is not None:
            base = Window((0.0, 0.0), geometry.chart.short_side / min(params.patch_px), params.patch_px)
            teacher = Teacher(state.teacher, base, params.stages.teacher_direction, params.stages.perceptual).to(
                accelerator.device
            )
        set_learning_rates(state, params)
        scene = fake_scene(params, state.nimg, accelerator, state.g)
        micro_batches = MicroBatch(sizes, scene, mixes(params, state.nimg, accelerator, len(sizes))).split(size)
        # The fakes of one micro-batch are drawn once, for both players. Of several, memory holds one: the generator's step draws
        # them again.
        source = batches_of if len(micro_batches) > 1 else always(batches_of(micro_batches[0]))
        step = Step(state, params, accelerator, micro_batches, source, matching_maps)
        values, logits_real = d_step(step)
        values |= g_step(step, logits_real, teacher)
        state.nimg += params.batch
        with torch.no_grad():
            update_w_mean(state.g, scene, accelerator)
            ema_update(state.g_ema, state.g, ema_beta(params, state.nimg))
        yield Report(state.nimg, values)
        if state.nimg >= total:
            return


def matching_backbone(params: Train) -> Lite0 | None:
    """Return the frozen network whose features are matched; None if none is. Raises ValueError, one line, if it is missing."""
    return lite0() if params.loss.feature_matching and params.loss.matching_features == "lite0" else None


def sizes_of(batch: RealBatch | RealBatchPair) -> list[RealBatch]:
    """Return the batch of each size: one, or the two of a pair."""
    match batch:
        case (Tensor(), _):
            return [batch]
        case _:
            return list(batch)


def fake_scene(params: Train, nimg: int, accelerator: Accelerator, g: StyleGenerator) -> Scene:
    """Return this process's scenes of the global batch that starts at image `nimg`."""
    local = params.batch // accelerator.num_processes
    first = nimg + accelerator.process_index * local
    seeds = torch.arange(first, first + local) + SCENE_STREAM * (params.seed + 1)
    return Scene.of(seeds, g.z_dim, accelerator.device)


def set_learning_rates(state: TrainState, params: Train) -> None:
    """Set the rates of all optimizers: linear warm-up over `warmup_kimg`, times half a cosine from 1 down to `final_rate`."""
    settings = params.optimizer
    warmup = settings.warmup_kimg * 1000
    factor = min(1.0, (state.nimg + params.batch) / warmup) if warmup else 1.0
    done = min(state.nimg / (params.kimg * 1000), 1.0)
    factor *= settings.final_rate + (1 - settings.final_rate) * 0.5 * (1 + math.cos(math.pi * done))
    rates = [(o, adam.lr) for o, adam in zip((state.g_opt, state.d_opt), adam_settings(params), strict=True)]
    if state.projected_opt is not None:
        rates.append((state.projected_opt, params.loss.projected.lr))
    for optimizer, lr in rates:
        for group in optimizer.param_groups:
            group["lr"] = lr * factor


def ema_beta(params: Train, nimg: int) -> float:
    """Return the decay of a step: the half-life is `ema_half_life_kimg`, and at most a twentieth of the images seen."""
    half_life = min(params.optimizer.ema_half_life_kimg * 1000, 0.05 * nimg)
    return 0.5 ** (params.batch / max(half_life, 1e-8))


def ema_update(target: nn.Module, source: nn.Module, beta: float) -> None:
    """Set parameters: target <- beta target + (1 - beta) source. Copy buffers."""
    for average, new in zip(target.parameters(), source.parameters(), strict=True):
        average.lerp_(new, 1 - beta)
    for average, new in zip(target.buffers(), source.buffers(), strict=True):
        average.copy_(new)


def update_w_mean(g: StyleGenerator, scene: Scene, accelerator: Accelerator) -> None:
    """Update the mean style, towards which truncation moves, and the layers' mean magnitudes, over all processes."""
    mean = process_mean(accelerator)
    g.w_mean.lerp_(mean(g.mapping(scene.z).mean(dim=0)), 1 - W_MEAN_BETA)
    g.update_magnitude_ema(mean)
