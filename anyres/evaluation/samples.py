"""Seeded samples of the metrics: scenes, windows and their pixels."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from anyres.data.patches import PatchLaw, PatchSampler
from anyres.data.store import Store
from anyres.evaluation.parallel import map_chunks
from anyres.networks.generator import SEED_LIMIT, Generator, device_of
from anyres.networks.scene import Scene
from anyres.params import Train
from anyres.plane.chart import Chart, chart_of
from anyres.plane.geometry import Geometry
from anyres.plane.resample import FRAME, KERNEL, render_real
from anyres.plane.window import Window, frame_window
from anyres.synthesis.render import render_many

Advance = Callable[[float], None]
# Training seeds are below this: a training never draws the patches of a metric.
SAMPLER_SEED = 1 << 32
CHUNK = 50
# Pixels of a chunk at most: a chunk of large pictures would need gigabytes.
CHUNK_PX = 1 << 19
BASELINE_KERNEL = "lanczos3"
CPU = torch.device("cpu")


def ignore(amount: float) -> None:
    """Ignore progress."""


@dataclass(frozen=True)
class Samples:
    """Pictures of one size, drawn or read on demand.

    `read` returns those of a slice, uint8 (n, h, w, 3). With equal code, `key` determines the pixels. `is_real`: they depend on
    the data only, not on a model.
    """

    count: int
    size: tuple[int, int]
    read: Callable[[slice], np.ndarray]
    key: dict[str, Any]
    device: torch.device = CPU
    is_real: bool = False

    @property
    def chunks(self) -> list[slice]:
        step = max(1, min(CHUNK, CHUNK_PX // (self.size[0] * self.size[1])))
        return [slice(start, min(start + step, self.count)) for start in range(0, self.count, step)]

    def pixels(self, advance: Advance = ignore) -> np.ndarray:
        """Return all of them."""

        def draw(chunk: slice) -> np.ndarray:
            pixels = self.read(chunk)
            advance(len(pixels))
            return pixels

        return np.concatenate(map_chunks(draw, self.chunks, self.device))


def scene_seeds(seed: int, stream: str, count: int) -> list[int]:
    """Return `count` scenes for one use (`stream`) of an evaluation seed."""
    rng = np.random.default_rng([seed, *stream.encode()])
    return rng.integers(0, SEED_LIMIT, size=count).tolist()


def sampler_of(train: Train, store: Store, seed: int) -> PatchSampler:
    """Return the sampler of the training, with a seed of the evaluation."""
    chart = chart_of(train.chart, fov=train.fov)
    law = PatchLaw(train.patch_px, train.zoom_max, train.period_law, train.flip)
    return PatchSampler(store, law, SAMPLER_SEED + seed, chart)


def real_patches(sampler: PatchSampler, first: int, count: int) -> tuple[Samples, list[Window]]:
    """Return `count` real patches from number `first` on, and their windows."""
    draws = [sampler.draw(n) for n in range(first, first + count)]
    key = {"set": "patches", "data": sampler.store.hash, "kernel": KERNEL, "draws": _digest([asdict(draw) for draw in draws])}
    windows = [draw.window for draw in draws]
    return Samples(
        count, windows[0].size, lambda chunk: np.stack([sampler.read(draw) for draw in draws[chunk]]), key, is_real=True
    ), windows


def fakes(generator: Generator, seeds: Sequence[int], windows: Sequence[Window]) -> Samples:
    """Return generated pictures, one scene for each window."""

    def draw(chunk: slice) -> np.ndarray:
        return render_many(generator, seeds[chunk], windows[chunk])

    return Samples(len(windows), windows[0].size, draw, _fake_key("fakes", generator, seeds, windows), device_of(generator))


def upsampled_baseline(generator: Generator, seeds: Sequence[int], windows: Sequence[Window], patch_px: int) -> Samples:
    """Return the baseline: each scene drawn at the coarsest scale only, and upsampled to its window by Lanczos.

    This is what a generator of one size can give at other sizes.
    """
    period = generator.geometry.chart.short_side / patch_px
    height, width = (max(patch_px, *(math.ceil(w.extent[axis] / period - 1e-6) for w in windows)) for axis in (0, 1))
    chart, size = generator.geometry.chart, (height, width)
    frames = [Window(chart.clamp(window.center, period, size), period, size) for window in windows]

    def draw(chunk: slice) -> np.ndarray:
        coarse = zip(render_many(generator, seeds[chunk], frames[chunk]), frames[chunk], windows[chunk], strict=True)
        return np.stack([_cut(Image.fromarray(pixels), frame, window) for pixels, frame, window in coarse])

    key = {**_fake_key("fixed", generator, seeds, windows), "patch_px": patch_px, "kernel": BASELINE_KERNEL}
    return Samples(len(windows), windows[0].size, draw, key, device_of(generator))


class UpsampledGenerator(nn.Module):
    """The baseline as a generator: a scene's square frame drawn once, `px` a side, upsampled by Lanczos to any window in it."""

    draws_regions = False

    def __init__(self, generator: Generator, px: int):
        super().__init__()
        self.inner, self.frame = generator, frame_of(generator, px)
        self.z_dim, self.bytes_per_px = generator.z_dim, 0
        geometry = generator.geometry
        self.geometry = Geometry(geometry.chart, 1, 0, True, geometry.periods, geometry.native_sizes)

    def forward(self, scene: Scene, windows: Sequence[Window], psi: float = 1.0) -> Tensor:
        coarse = self.inner(scene, [self.frame] * len(windows), psi).float().cpu().numpy()
        pictures = []
        for pixels, window in zip(coarse, windows, strict=True):
            channels = [_cut(Image.fromarray(channel, mode="F"), self.frame, window) for channel in pixels]
            pictures.append(torch.from_numpy(np.stack(channels)))
        return torch.stack(pictures)


def _cut(picture: Image.Image, frame: Window, window: Window) -> np.ndarray:
    """Return the region of a picture of `frame` that `window` shows, at the window's size."""
    edges = zip(window.bounds, (0, 1, 0, 1), strict=True)
    left, top, right, bottom = ((edge - frame.origin[axis]) / frame.period for edge, axis in edges)
    height, width = frame.size
    box = (max(left, 0), max(top, 0), min(right, width), min(bottom, height))
    return np.asarray(picture.resize((window.size[1], window.size[0]), Image.Resampling.LANCZOS, box=box))


def choose_frames(store: Store, size: int, limit: int, seed: int) -> list[int]:
    """Return pictures whose native short side has `size` pixels or more: at most `limit`, chosen by seed."""
    large = np.flatnonzero(store.pictures.sizes.min(axis=1) >= size).tolist()
    if len(large) <= limit:
        return large
    permuted = np.random.default_rng(seed).permutation(len(large))[:limit]
    return [large[index] for index in sorted(permuted)]


def frame_of(generator: Generator, size: int) -> Window:
    """Return the central square with a photograph's short side as its side, at `size` px."""
    return frame_window(1.0, size, generator.geometry.chart.short_side)


def real_frames(store: Store, indices: Sequence[int], size: int, chart: Chart = FRAME) -> Samples:
    """Return the central square of each picture, with its short side as its side, at `size` px."""
    window = frame_window(1.0, size, chart.short_side)

    def read(chunk: slice) -> np.ndarray:
        return np.stack([np.clip(np.rint(store.read(index, window, chart)), 0, 255).astype(np.uint8) for index in indices[chunk]])

    key = {"set": "frames", "data": store.hash, "kernel": KERNEL, "size": size, "chart": asdict(chart)}
    return Samples(len(indices), (size, size), read, {**key, "of": _digest(list(indices))}, is_real=True)


def scale_inv(generator: Generator, seeds: Sequence[int], base: Window, times: int) -> Samples:
    """Return scenes on a canvas `times` as large as `base` at its period, downsampled by `render_real` to the size of `base`.

    ScaleInv (Lin et al., ICLR 2022, section 4.1): an unbounded picture seen from further away. `base` must be square.
    """
    size = base.size[0]
    canvas = Window(base.center, base.period, (size * times, size * times))

    def draw(chunk: slice) -> np.ndarray:
        pictures = []
        for seed in seeds[chunk]:
            pixels = render_many(generator, [seed], [canvas])[0]
            pictures.append(pixels if times == 1 else np.clip(np.rint(render_real(pixels, frame_window(1.0, size))), 0, 255))
        return np.stack(pictures).astype(np.uint8)

    key = {**_fake_key("scale_inv", generator, seeds, [base]), "times": times}
    return Samples(len(seeds), base.size, draw, key, device_of(generator))


def check_weights(generator: torch.nn.Module, name: str) -> None:
    """Raise ValueError, one line, where a weight is not finite. Pictures in bytes would hide it."""
    for key, value in generator.state_dict().items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise ValueError(
                f"{name}: weights hold NaN or infinite values (first in {key}); train again with lower learning rates"
            )


def weights_hash(generator: torch.nn.Module) -> str:
    """Return the SHA-256 of names and values of the weights."""
    total = hashlib.sha256()
    for name, value in sorted(generator.state_dict().items()):
        total.update(name.encode())
        total.update(value.detach().cpu().contiguous().numpy().tobytes())
    return total.hexdigest()


def _fake_key(kind: str, generator: Generator, seeds: Sequence[int], windows: Sequence[Window]) -> dict[str, Any]:
    assert isinstance(generator, nn.Module)
    return {
        "set": kind,
        "weights": weights_hash(generator),
        "geometry": _digest(generator.geometry.to_json()),
        "scenes": _digest(list(seeds)),
        "windows": _digest([asdict(window) for window in windows]),
    }


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
