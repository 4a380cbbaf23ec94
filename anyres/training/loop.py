"""The training loop: a generator of small reports. Methods differ in network and recipe, never here."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from anyres.networks.generator import StyleGenerator
from anyres.networks.scene import Scene
from anyres.params import Train
from anyres.plane.geometry import Geometry
from anyres.plane.window import Window
from anyres.training.microbatch import Batch, BatchPair, MicroBatch, mixes, pass_size
from anyres.training.reduce import process_mean
from anyres.training.seam import draw_seam_patches
from anyres.training.state import TrainState
from anyres.training.steps import Step, cached, d_step, g_step, generate, make_fakes
from anyres.training.teacher import Teacher

# Fakes of one training seed take these scenes; evaluation and users count from zero.
SCENE_STREAM = 1 << 40
W_MEAN_BETA = 0.998


@dataclass(frozen=True)
class Report:
    """One step: images seen so far and what was measured, as detached scalars still on the device."""

    nimg: int
    values: dict[str, Tensor]


def training_loop(
    state: TrainState,
    params: Train,
    batches: Iterable[Batch | BatchPair],
    accelerator: Accelerator,
    micro_batch: int | None = None,
) -> Iterator[Report]:
    """Train `state` in place, one batch a step, until `params.kimg`; yields a report after each step.

    Randomness is a function of (seed, nimg, place in the batch), so stopping between two reports and going on
    from the saved state changes nothing, and the number of processes nothing but the order of sums. Gradients are averaged over
    processes by one reduction a step: no wrapper stands between a penalty and its double backward. With `micro_batch` no pass
    takes more pictures than that: less memory, more time, the same training. Raises ValueError, one line, where the batch cannot
    be divided so: see `pass_size`. A pair of batches is one step: its two sizes share scenes and styles.
    """
    total = round(params.kimg * 1000)
    if state.nimg >= total:
        return
    size = pass_size(params.batch, accelerator.num_processes, micro_batch)
    geometry: Geometry = state.g.geometry
    # A ring is generate in frames side by side: where they do not agree exactly, they must learn to.
    draw = draw_seam_patches if geometry.chart.wraps and not geometry.exact else generate
    show = partial(make_fakes, state.g, params, accelerator, draw)
    teacher: Teacher | None = None
    for batch in batches:
        sizes: list[Batch] = [batch] if isinstance(batch[0], Tensor) else list(batch)  # type: ignore[list-item]
        state.start_stage(params)
        if teacher is None and state.teacher is not None:
            base = Window((0.0, 0.0), geometry.chart.short_side / min(params.patch_px), params.patch_px)
            teacher = Teacher(state.teacher, base, params.stages.teacher_direction, params.stages.perceptual).to(
                accelerator.device
            )
        set_learning_rates(state, params)
        scene = fake_scene(params, state.nimg, accelerator, state.g)
        parts = MicroBatch(sizes, scene, mixes(params, state.nimg, accelerator, len(sizes))).split(size)
        # One part is generate once, for both players. Of several, memory holds one: the generator draws again what was judged.
        step = Step(state, params, accelerator, parts, show if len(parts) > 1 else cached(show(parts[0])))
        values, logits_real = d_step(step)
        values |= g_step(step, logits_real, teacher)
        state.nimg += params.batch
        with torch.no_grad():
            update_w_mean(state.g, scene, accelerator)
            ema_update(state.g_ema, state.g, ema_beta(params, state.nimg))
        yield Report(state.nimg, values)
        if state.nimg >= total:
            return


def fake_scene(params: Train, nimg: int, accelerator: Accelerator, g: StyleGenerator) -> Scene:
    """This process's scenes of the global batch that starts at image `nimg`."""
    local = params.batch // accelerator.num_processes
    first = nimg + accelerator.process_index * local
    seeds = torch.arange(first, first + local) + SCENE_STREAM * (params.seed + 1)
    return Scene.of(seeds, g.z_dim, accelerator.device)


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


def update_w_mean(g: StyleGenerator, scene: Scene, accelerator: Accelerator) -> None:
    """Follow the mean style that truncation draws towards, and what layers note of themselves, over all processes."""
    mean = process_mean(accelerator)
    g.w_mean.lerp_(mean(g.mapping(scene.z).mean(dim=0)), 1 - W_MEAN_BETA)
    g.update_magnitude_ema(mean)
