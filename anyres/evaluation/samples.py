"""Seeded samples for metrics: which scenes, which windows, and their pixels."""

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
from anyres.evaluation.parallel import over_chunks
from anyres.networks.generator import SEED_LIMIT, Generator, device_of
from anyres.networks.scene import Scene
from anyres.params import Train
from anyres.plane.chart import Chart, chart_of
from anyres.plane.geometry import Geometry
from anyres.plane.resample import FRAME, KERNEL, render_real
from anyres.plane.window import Window, frame_window
from anyres.synthesis.render import render_many

Advance = Callable[[float], None]
# Training seeds are below this: no patch of a metric was drawn by a training of the same number.
SAMPLER_SEED = 1 << 32
CHUNK = 50
# Pictures drawn at once: a chunk of large ones would need gigabytes.
CHUNK_PX = 1 << 19
BASELINE_KERNEL = "lanczos3"
CPU = torch.device("cpu")


def ignore(amount: float) -> None:
    """Take no note of progress."""


@dataclass(frozen=True)
class Samples:
    """Pictures of one size that are drawn or read when they are asked for.

    `read` gives those of a slice, uint8 (n, h, w, 3). `key` determines the pixels, as far as the code stays; `lasting` says that
    they depend on data only, not on a model.
    """

    count: int
    size: tuple[int, int]
    read: Callable[[slice], np.ndarray]
    key: dict[str, Any]
    device: torch.device = CPU
    lasting: bool = False

    @property
    def chunks(self) -> list[slice]:
        step = max(1, min(CHUNK, CHUNK_PX // (self.size[0] * self.size[1])))
        return [slice(start, min(start + step, self.count)) for start in range(0, self.count, step)]

    def pixels(self, advance: Advance = ignore) -> np.ndarray:
        """All of them."""

        def draw(part: slice) -> np.ndarray:
            pixels = self.read(part)
            advance(len(pixels))
            return pixels

        return np.concatenate(over_chunks(draw, self.chunks, self.device))


def scene_seeds(seed: int, stream: str, count: int) -> list[int]:
    """`count` scenes for one use (`stream`) of an evaluation seed."""
    rng = np.random.default_rng([seed, *stream.encode()])
    return rng.integers(0, SEED_LIMIT, size=count).tolist()


def sampler_of(train: Train, store: Store, seed: int) -> PatchSampler:
    """The sampler of training under a seed of its own."""
    chart = chart_of(train.chart, fov=train.fov)
    law = PatchLaw(train.patch_px, train.zoom_max, train.period_law, train.flip)
    return PatchSampler(store, law, SAMPLER_SEED + seed, chart)


def real_patches(sampler: PatchSampler, first: int, count: int) -> tuple[Samples, list[Window]]:
    """Real patches number `first` and on, and their windows."""
    drawn = [sampler.draw(n) for n in range(first, first + count)]
    key = {"set": "patches", "data": sampler.store.hash, "kernel": KERNEL, "draws": _digest([asdict(draw) for draw in drawn])}
    windows = [draw.window for draw in drawn]
    return Samples(
        count, windows[0].size, lambda part: np.stack([sampler.read(draw) for draw in drawn[part]]), key, lasting=True
    ), windows


def fakes(generator: Generator, seeds: Sequence[int], windows: Sequence[Window]) -> Samples:
    """One scene a window."""

    def draw(part: slice) -> np.ndarray:
        return render_many(generator, seeds[part], windows[part])

    return Samples(len(windows), windows[0].size, draw, _fake_key("fakes", generator, seeds, windows), device_of(generator))


def upsampled_baseline(generator: Generator, seeds: Sequence[int], windows: Sequence[Window], patch_px: int) -> Samples:
    """The baseline: each scene drawn at the coarsest scale only, and upsampled by Lanczos to its window.

    What a generator of one size offers to one who asks for more: the number every other is read against.
    """
    period = generator.geometry.chart.short_side / patch_px
    height, width = (max(patch_px, *(math.ceil(w.extent[axis] / period - 1e-6) for w in windows)) for axis in (0, 1))
    chart, size = generator.geometry.chart, (height, width)
    frames = [Window(chart.clamp(window.center, period, size), period, size) for window in windows]

    def draw(part: slice) -> np.ndarray:
        coarse = render_many(generator, seeds[part], frames[part])
        found = zip(coarse, frames[part], windows[part], strict=True)
        return np.stack([_cut(Image.fromarray(pixels), frame, window) for pixels, frame, window in found])

    key = {**_fake_key("fixed", generator, seeds, windows), "patch_px": patch_px, "kernel": BASELINE_KERNEL}
    return Samples(len(windows), windows[0].size, draw, key, device_of(generator))


class Enlarged(nn.Module):
    """The baseline as a generator: a scene's square frame drawn once, `px` a side, enlarged by Lanczos to any window in it."""

    draws_regions = False

    def __init__(self, generator: Generator, px: int):
        super().__init__()
        self.inner, self.frame = generator, frame_of(generator, px)
        self.z_dim = generator.z_dim
        geometry = generator.geometry
        self.geometry = Geometry(geometry.chart, 1, 0, True, geometry.periods, geometry.native_sizes)

    def forward(self, scene: Scene, windows: Sequence[Window], psi: float = 1.0) -> Tensor:
        coarse = self.inner(scene, [self.frame] * len(windows), psi).float().cpu().numpy()
        found = []
        for pixels, window in zip(coarse, windows, strict=True):
            channels = [_cut(Image.fromarray(channel, mode="F"), self.frame, window) for channel in pixels]
            found.append(torch.from_numpy(np.stack(channels)))
        return torch.stack(found)


def _cut(picture: Image.Image, frame: Window, window: Window) -> np.ndarray:
    """The part of a picture of `frame` that `window` shows, at the window's size."""
    edges = zip(window.bounds, (0, 1, 0, 1), strict=True)
    left, top, right, bottom = ((edge - frame.origin[axis]) / frame.period for edge, axis in edges)
    height, width = frame.size
    box = (max(left, 0), max(top, 0), min(right, width), min(bottom, height))
    return np.asarray(picture.resize((window.size[1], window.size[0]), Image.Resampling.LANCZOS, box=box))


def chosen_frames(store: Store, size: int, limit: int, seed: int) -> list[int]:
    """Pictures whose native short side has `size` pixels or more, `limit` of them at most, chosen by seed."""
    large = np.flatnonzero(store.pictures.sizes.min(axis=1) >= size).tolist()
    if len(large) <= limit:
        return large
    chosen = np.random.default_rng(seed).permutation(len(large))[:limit]
    return [large[place] for place in sorted(chosen)]


def frame_of(generator: Generator, size: int) -> Window:
    """The square about the centre, a photograph's short side across, at `size` px."""
    return frame_window(1.0, size, generator.geometry.chart.short_side)


def real_frames(store: Store, indices: Sequence[int], size: int, chart: Chart = FRAME) -> Samples:
    """The square about the centre of each picture, its short side across, at `size` px."""
    window = frame_window(1.0, size, chart.short_side)

    def read(part: slice) -> np.ndarray:
        return np.stack([np.clip(np.rint(store.read(index, window, chart)), 0, 255).astype(np.uint8) for index in indices[part]])

    key = {"set": "frames", "data": store.hash, "kernel": KERNEL, "size": size, "chart": asdict(chart)}
    return Samples(len(indices), (size, size), read, {**key, "of": _digest(list(indices))}, lasting=True)


def scale_inv(generator: Generator, seeds: Sequence[int], base: Window, times: int) -> Samples:
    """Scenes on a canvas `times` as large as `base` at its period, brought down by `render_real` to its size.

    What a picture without end looks like from further away, ScaleInv (Lin et al., ICLR 2022, section 4.1). `base` is square.
    """
    size = base.size[0]
    canvas = Window(base.center, base.period, (size * times, size * times))

    def draw(part: slice) -> np.ndarray:
        found = []
        for seed in seeds[part]:
            pixels = render_many(generator, [seed], [canvas])[0]
            found.append(pixels if times == 1 else np.clip(np.rint(render_real(pixels, frame_window(1.0, size))), 0, 255))
        return np.stack(found).astype(np.uint8)

    key = {**_fake_key("scale_inv", generator, seeds, [base]), "times": times}
    return Samples(len(seeds), base.size, draw, key, device_of(generator))


def check_weights(generator: torch.nn.Module, name: str) -> None:
    """Raise ValueError, one line, where a weight is not finite: bytes would hide it."""
    for key, value in generator.state_dict().items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise ValueError(
                f"{name}: weights hold NaN or infinite values (first in {key}); train again with lower learning rates"
            )


def weights_hash(generator: torch.nn.Module) -> str:
    """SHA-256 over names and values of the weights."""
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
