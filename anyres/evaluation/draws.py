"""Seeded samples for metrics: which scenes, which windows, and their pixels."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from PIL import Image

from anyres.data.patches import PatchSampler
from anyres.data.store import Store
from anyres.evaluation.parallel import over_chunks
from anyres.params import Train
from anyres.plane.chart import Chart
from anyres.plane.resample import FRAME, render_real
from anyres.plane.window import Window, frame_window
from anyres.synthesis.render import SEED_LIMIT, Generator, device_of, render_many

Advance = Callable[[float], None]
# Training seeds are below this: no patch of a metric was drawn by a training of the same number.
SAMPLER_SEED = 1 << 32
CHUNK = 50
BASELINE_KERNEL = "lanczos3"


def scene_seeds(seed: int, stream: str, count: int) -> list[int]:
    """`count` scenes for one use (`stream`) of an evaluation seed."""
    rng = np.random.default_rng([seed, *stream.encode()])
    return rng.integers(0, SEED_LIMIT, size=count).tolist()


def sampler_of(train: Train, store: Store, seed: int) -> PatchSampler:
    """The sampler of training under a seed of its own."""
    chart = Chart(train.chart, fov=train.fov)
    return PatchSampler(store, train.patch_px, train.zoom_max, train.period_law, train.flip, SAMPLER_SEED + seed, chart=chart)


def draw_reals(sampler: PatchSampler, first: int, count: int, advance: Advance) -> tuple[np.ndarray, list[Window]]:
    """Real patches uint8 (count, h, w, 3) number `first` and on, and their windows."""
    pixels, windows = [], []
    for start in range(first, first + count, CHUNK):
        size = min(CHUNK, first + count - start)
        part, at = sampler.batch(start, size)
        pixels.append(part)
        windows += at
        advance(size)
    return np.concatenate(pixels), windows


def draw_fakes(generator: Generator, seeds: Sequence[int], windows: Sequence[Window], advance: Advance) -> np.ndarray:
    """One scene a window, uint8 (n, h, w, 3)."""

    def draw(start: int) -> np.ndarray:
        part = windows[start : start + CHUNK]
        pixels = render_many(generator, seeds[start : start + CHUNK], part)
        advance(len(part))
        return pixels

    return np.concatenate(over_chunks(draw, range(0, len(windows), CHUNK), device_of(generator)))


def draw_fixed(
    generator: Generator, seeds: Sequence[int], windows: Sequence[Window], patch_px: int, advance: Advance
) -> np.ndarray:
    """The baseline: each scene drawn at the coarsest scale only, and upsampled by Lanczos to its window.

    What a generator of one size offers to one who asks for more: the number every other is read against.
    """
    period = generator.geometry.chart.short_side / patch_px
    height, width = (max(patch_px, *(math.ceil(w.extent[axis] / period - 1e-6) for w in windows)) for axis in (0, 1))
    frames = [Window(_inward(generator, window, period, (height, width)), period, (height, width)) for window in windows]
    coarse = draw_fakes(generator, seeds, frames, advance)
    out = []
    for pixels, frame, window in zip(coarse, frames, windows, strict=True):
        left, top, right, bottom = (
            (edge - frame.origin[axis]) / period for edge, axis in zip(window.bounds, (0, 1, 0, 1), strict=True)
        )
        box = (max(left, 0), max(top, 0), min(right, width), min(bottom, height))
        out.append(
            np.asarray(Image.fromarray(pixels).resize((window.size[1], window.size[0]), Image.Resampling.LANCZOS, box=box))
        )
    return np.stack(out)


def real_frames(store: Store, size: int, limit: int, seed: int) -> list[int]:
    """Pictures whose native short side has `size` pixels or more, `limit` of them at most, chosen by seed."""
    large = np.flatnonzero(store.pictures.sizes.min(axis=1) >= size).tolist()
    if len(large) <= limit:
        return large
    chosen = np.random.default_rng(seed).permutation(len(large))[:limit]
    return [large[place] for place in sorted(chosen)]


def frame_of(generator: Generator, size: int) -> Window:
    """The square about the centre, a photograph's short side across, at `size` px."""
    return frame_window(1.0, size, generator.geometry.chart.short_side)


def read_frames(store: Store, indices: Sequence[int], size: int, advance: Advance, chart: Chart = FRAME) -> np.ndarray:
    """The square about the centre of each picture, its short side across, at `size` px: uint8 (n, size, size, 3)."""
    out = np.empty((len(indices), size, size, 3), np.uint8)
    window = frame_window(1.0, size, chart.short_side)
    for place, index in enumerate(indices):
        out[place] = np.clip(np.rint(store.read(index, window, chart)), 0, 255)
        advance(1)
    return out


def draw_scale_inv(generator: Generator, seeds: Sequence[int], base: Window, times: int, advance: Advance) -> np.ndarray:
    """Scenes on a canvas `times` as large as `base` at its period, brought down by `render_real` to its size: uint8 (n, h, w, 3).

    What a picture without end looks like from further away, ScaleInv (Lin et al., ICLR 2022, section 4.1). `base` is square.
    """
    size = base.size[0]
    canvas = Window(base.center, base.period, (size * times, size * times))

    def draw(seed: int) -> np.ndarray:
        pixels = render_many(generator, [seed], [canvas])[0]
        advance(1)
        small = pixels if times == 1 else np.clip(np.rint(render_real(pixels, frame_window(1.0, size))), 0, 255)
        return small.astype(np.uint8)[None]

    return np.concatenate(over_chunks(draw, seeds, device_of(generator)))


def check_weights(generator: torch.nn.Module, name: str) -> None:
    """Raise ValueError, one line, where a weight is not finite: bytes would hide it."""
    for key, value in generator.state_dict().items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise ValueError(
                f"{name}: weights hold NaN or infinite values (first in {key}); train again with lower learning rates"
            )


def _inward(generator: Generator, window: Window, period: float, size: tuple[int, int]) -> tuple[float, float]:
    """The center of a frame about `window`, moved into the chart where that is bounded and large enough."""
    x, y = window.center
    if generator.geometry.chart.name != "frame":
        return x, y
    slack_x, slack_y = (
        max(half - period * side / 2, 0.0) for half, side in zip(generator.geometry.chart.half_extent, size[::-1], strict=True)
    )
    return min(max(x, -slack_x), slack_x), min(max(y, -slack_y), slack_y)
