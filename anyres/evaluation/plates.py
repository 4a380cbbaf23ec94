"""The pictures of the report: renders and photographs. Seeded, and not selected unless a docstring says so."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from anyres.data.store import Store
from anyres.evaluation import samples
from anyres.evaluation.distances import NEIGHBOURS
from anyres.evaluation.features import FeatureSpace
from anyres.networks.generator import Generator, device_of
from anyres.params import Params
from anyres.plane.window import Window
from anyres.synthesis.render import render, render_many
from anyres.synthesis.request import RenderRequest

HERO_PX = 512
HERO_SCENES = 24
HERO_SEARCH_PX = 256
HERO_PHOTOGRAPHS = 200
SCENES = 6
SCENE_PX = 192
REAL_EXAMPLES = 10
ZOOM_PX = 96
RING_PX = 256
ZOOMS = (1, 2, 4, 8, 16, 32)
PATCHES_A_SIDE = (3, 2)
NUM_TRAINING_SAMPLES = 6
DRAWS_SEARCHED = 4000


@dataclass(frozen=True)
class Plate:
    """A picture of the page: its data URI, its size in pixels, and what it shows in words."""

    src: str
    width: int
    height: int
    alt: str
    caption: str = ""


def plate(pixels: np.ndarray, alt: str, caption: str = "", lossless: bool = True) -> Plate:
    """Encode uint8 (h, w, 3) as WebP in a data URI."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="webp", lossless=lossless, quality=90, method=4)
    src = f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"
    return Plate(src, pixels.shape[1], pixels.shape[0], alt, caption)


def hero(params: Params, generator: Generator, store: Store) -> tuple[int, Plate]:
    """Return the seed and the large picture of the one selected scene of the page.

    It is, of the more varied half of HERO_SCENES scenes, the one with the smallest mean distance to its NEIGHBOURS nearest
    photographs, in the features of the metrics.
    """
    seeds = samples.scene_seeds(params.evaluate.seed, "hero", HERO_SCENES)
    frames = samples.fakes(generator, seeds, [samples.frame_of(generator, HERO_SEARCH_PX)] * len(seeds)).pixels()
    varied = np.argsort(-frames.astype(np.float64).std(axis=(1, 2)).mean(axis=-1))[: HERO_SCENES // 2]
    space = FeatureSpace(params.evaluate.features[0], device_of(generator))
    photographs = samples.choose_frames(store, HERO_SEARCH_PX, HERO_PHOTOGRAPHS, params.evaluate.seed)
    if photographs:
        reals = space(samples.real_frames(store, photographs, HERO_SEARCH_PX, generator.geometry.chart).pixels())
        distance = np.linalg.norm(space(frames[varied])[:, None] - reals[None], axis=-1)
        seed = seeds[varied[int(np.argmin(np.sort(distance)[:, :NEIGHBOURS].mean(axis=1)))]]
    else:
        seed = seeds[varied[0]]
    pixels = _frame(generator, seed, HERO_PX)
    return seed, plate(pixels, f"Generated picture, scene {seed}, {HERO_PX} by {HERO_PX} pixels", lossless=False)


def scenes(params: Params, generator: Generator) -> list[Plate]:
    """Draw the first scenes of the evaluation seed."""
    seeds = samples.scene_seeds(params.evaluate.seed, "scenes", SCENES)
    return [plate(_frame(generator, seed, SCENE_PX), f"Generated picture, scene {seed}", lossless=False) for seed in seeds]


def real_examples(params: Params, store: Store) -> list[Plate]:
    """Photographs of the store, chosen by seed, whole squares about their centres."""
    out = []
    for index in samples.choose_frames(store, SCENE_PX, REAL_EXAMPLES, params.evaluate.seed):
        picture = store.pictures[index]
        pixels = samples.real_frames(store, [index], SCENE_PX).pixels()[0]
        out.append(
            plate(pixels, f"Photograph {picture.name}", f"{picture.credits} ({picture.width} × {picture.height} px)", False)
        )
    return out


def over_scales(sizes: Sequence[int], generator: Generator, seed: int) -> list[Plate]:
    """Draw one scene at every size of the sweep."""
    return [plate(_frame(generator, seed, size), f"The scene drawn at {size} pixels", f"{size} px") for size in sizes]


def zoom_in(generator: Generator, seed: int, zooms: Sequence[int]) -> list[Plate]:
    """Draw windows of one size that zoom into the most detailed point of a scene."""
    finest, _ = generator.geometry.periods
    frame = samples.frame_of(generator, ZOOM_PX)
    unit = frame.extent[0] / 2
    point = _detailed_point(_frame(generator, seed, 128))
    out = []
    for zoom in zooms:
        slack = 1 - 1 / zoom
        center = (unit * float(np.clip(point[0], -slack, slack)), unit * float(np.clip(point[1], -slack, slack)))
        window = Window(center, frame.period / zoom, frame.size)
        beyond = window.period < finest * (1 - 1e-9)
        caption = f"×{zoom}" + (", beyond training" if beyond else "")
        out.append(
            plate(render(generator, RenderRequest(seed, window)), f"Zoom {zoom} into scene {seed}", caption, lossless=False)
        )
    return out


def patch_pairs(params: Params, generator: Generator, store: Store) -> list[tuple[str, Plate, Plate]]:
    """Return for each zoom octave its name, reals, and fakes at the same windows: the first that the sampler draws there."""
    train, seed = params.train, params.evaluate.seed
    sampler = samples.sampler_of(train, store, seed)
    count = PATCHES_A_SIDE[0] * PATCHES_A_SIDE[1]
    numbers_by_octave: dict[int, list[int]] = {}
    for n in range(DRAWS_SEARCHED):
        octave = max(int(np.log2(sampler.draw(n).window.zoom(sampler.base)) + 1e-9), 0)
        numbers_by_octave.setdefault(octave, [])
        if len(numbers_by_octave[octave]) < count:
            numbers_by_octave[octave].append(n)
    seeds = samples.scene_seeds(seed, "patches", DRAWS_SEARCHED)
    pairs = []
    for octave, numbers in sorted(numbers_by_octave.items()):
        if len(numbers) < count:
            continue
        draws = [sampler.draw(n) for n in numbers]
        reals = np.stack([sampler.read(draw) for draw in draws])
        fakes = render_many(generator, [seeds[n] for n in numbers], [draw.window for draw in draws])
        name = f"{2**octave}–{2 ** (octave + 1)}"
        alts = (f"{count} patches of photographs at zoom {name}", f"{count} generated patches at zoom {name}")
        pairs.append((name, plate(_sheet(reals), alts[0]), plate(_sheet(fakes), alts[1])))
    return pairs


def neighbours(
    params: Params, generator: Generator, store: Store, neighbour_pairs: Sequence[Mapping[str, Any]]
) -> list[tuple[Plate, Plate, float]]:
    """Return generated patches, the nearest patch of a photograph of each, and their distance, as evaluated."""
    sampler = samples.sampler_of(params.train, store, params.evaluate.seed)
    seeds = samples.scene_seeds(params.evaluate.seed, "patches", params.evaluate.num_samples)
    pairs = []
    for pair in neighbour_pairs:
        window, near = sampler.draw(pair["fake"]).window, sampler.draw(pair["real"])
        fake = render_many(generator, [seeds[pair["fake"]]], [window])[0]
        name = store.pictures[near.picture].name
        pairs.append((plate(fake, "Generated patch"), plate(sampler.read(near), f"Patch of {name}", name), pair["distance"]))
    return pairs


def training_samples(samples: Path) -> list[Plate]:
    """Return sample grids of the training from first to last, evenly spaced; captions in thousand images seen."""
    paths = sorted(samples.glob("*.png"))
    evenly_spaced = [paths[round(index)] for index in np.linspace(0, len(paths) - 1, min(NUM_TRAINING_SAMPLES, len(paths)))]
    return [
        plate(
            np.asarray(Image.open(path).convert("RGB")),
            f"Samples after {int(path.stem)} thousand images",
            f"{int(path.stem)} kimg",
        )
        for path in evenly_spaced
    ]


def ring(generator: Generator, seed: int) -> Plate | None:
    """Draw the whole ring of a 360 degree model, rotated so that its two ends meet in the middle; None for other charts."""
    chart = generator.geometry.chart
    if not chart.wraps:
        return None
    window = chart.ring_window(RING_PX, generator.geometry.lattice_px)
    pixels = np.roll(render(generator, RenderRequest(seed, window)), window.size[1] // 2, axis=1)
    return plate(pixels, f"Scene {seed} all round, its two ends side by side in the middle", lossless=False)


def seam_plates(tiled: np.ndarray, whole: np.ndarray, rows: Sequence[int], columns: Sequence[int], gain: float) -> list[Plate]:
    """Return the render in tiles, the same with tile borders marked, and its difference from a single pass times `gain`.

    Pictures float (h, w, 3) in about [-1, 1].
    """
    ruled = _bytes((tiled + 1) * 127.5)
    picture = ruled.copy()
    for row in rows:
        ruled[row] = 255 - ruled[row] // 2
    for column in columns:
        ruled[:, column] = 255 - ruled[:, column] // 2
    difference = _bytes(np.abs(tiled - whole) * 127.5 * gain)
    return [
        plate(picture, "The window drawn in tiles", "drawn in tiles", lossless=False),
        plate(ruled, "The same with the tile borders marked in white", "tile borders"),
        plate(difference, f"Difference from one whole render, times {gain:g}", f"difference from a whole render, ×{gain:,.0f}"),
    ]


def _frame(generator: Generator, seed: int, size: int) -> np.ndarray:
    """The whole frame of a scene, uint8 (h, w, 3), `size` pixels along its short side."""
    return render(generator, RenderRequest(seed, samples.frame_of(generator, size)))


def _detailed_point(pixels: np.ndarray) -> tuple[float, float]:
    """Return the plane position of the block of a whole square frame whose pixels vary most, away from the border."""
    side, block = len(pixels), len(pixels) // 16
    blocks = pixels.astype(np.float64).mean(-1)[: 16 * block, : 16 * block].reshape(16, block, 16, block)
    varied = blocks.std(axis=(1, 3))[2:-2, 2:-2]
    row, column = np.unravel_index(int(np.argmax(varied)), varied.shape)
    return (2 * (float(column) + 2.5) * block / side - 1, 2 * (float(row) + 2.5) * block / side - 1)


def _sheet(pictures: np.ndarray, gap: int = 2) -> np.ndarray:
    """Arrange patches (n, h, w, 3) in rows of PATCHES_A_SIDE[0] with dark gaps."""
    across, down = PATCHES_A_SIDE
    n, h, w, c = pictures.shape
    assert n == across * down
    sheet = np.full((down * (h + gap) - gap, across * (w + gap) - gap, c), 24, np.uint8)
    for place, picture in enumerate(pictures):
        top, left = place // across * (h + gap), place % across * (w + gap)
        sheet[top : top + h, left : left + w] = picture
    return sheet


def _bytes(picture: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(picture), 0, 255).astype(np.uint8)
