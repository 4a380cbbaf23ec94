"""Measurements of one scene: consistency over scales, seams of tiles, the ends of a ring, equivariance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import numpy as np

from anyres.evaluation import samples
from anyres.evaluation.consistency import (
    Ring,
    Seams,
    fractional_psnr,
    mean_seams,
    resized,
    ring_error,
    seam_error,
    self_ssim,
    shift_psnr,
)
from anyres.evaluation.extraction import Extractor
from anyres.evaluation.parallel import map_chunks
from anyres.evaluation.scores import Scores
from anyres.networks.generator import Generator, device_of
from anyres.params import Evaluate
from anyres.plane.window import Window
from anyres.progress import progress_bar
from anyres.synthesis.render import render, render_tiles
from anyres.synthesis.request import RenderRequest, Stitch

# Rectangular and off the centre, its origin on no lattice point. It fits into every frame. In units of half a short side.
SEAM_WINDOW = Window((0.0617, -0.2043), 2.0 / 256, (152, 232))

SEAM_TILE = 64

# Exact generators need only the first.
STITCHES: tuple[Stitch, ...] = ("grid", "overlap")

SHIFT = (3, 5)

# Fractions of a pixel, down and right.
SHIFTS = ((0.5, 0.25), (-0.3, 0.4), (0.125, -0.5), (-0.45, -0.2))

RING_PX = 128

RINGS = 8

# Stands for two equal renders: JSON has no infinity.
MOST_DB = 200.0


def score_scales(
    generator: Generator, sizes: Sequence[int], extractor: Extractor, settings: Evaluate, title: str
) -> list[Scores]:
    """Return SelfSSIM and the distance of features (1 - cosine) between one scene's renders, for every pair of sizes."""
    seeds, group = samples.scene_seeds(settings.seed, "scenes", settings.num_scenes), extractor.group
    with progress_bar(title, len(seeds), "scenes", group.is_main) as advance:

        def compare(seed: int) -> tuple[np.ndarray, list[np.ndarray]]:
            scene = [render(generator, RenderRequest(seed, samples.frame_of(generator, size))) for size in sizes]
            distances = [np.zeros((len(sizes), len(sizes))) for _ in extractor.spaces]
            for i, reference in enumerate(sizes):
                pictures = np.stack([_bytes(resized(picture, reference)) for picture in scene])
                for matrix, space in zip(distances, extractor.spaces, strict=True):
                    features = space(pictures)
                    matrix[i] = 1 - _cosine(features[i][None], features)
            advance(group.size)
            return self_ssim([scene]), distances

        of_scenes = group.gather(map_chunks(compare, group.share(seeds), device_of(generator)))
    similarity = np.mean([matrix for matrix, _ in of_scenes], axis=0)
    return [
        _scale_scores(sizes, similarity, np.mean([distances[index] for _, distances in of_scenes], axis=0))
        for index in range(len(extractor.spaces))
    ]


def _scale_scores(sizes: Sequence[int], similarity: np.ndarray, distance: np.ndarray) -> Scores:
    rows = [
        {"reference": reference, "size": size, "ssim": float(similarity[i, j]), "features": float(distance[i, j])}
        for i, reference in enumerate(sizes)
        for j, size in enumerate(sizes)
    ]
    others = [row for row in rows if row["reference"] != row["size"]]
    numbers = {}
    if others:
        numbers["self_ssim/mean"] = float(np.mean([row["ssim"] for row in others]))
        numbers["self_ssim/min"] = float(np.min([row["ssim"] for row in others]))
        numbers["self_features/mean"] = float(np.mean([row["features"] for row in others]))
    return Scores(numbers, rows)


def consistency(generator: Generator, settings: Evaluate) -> dict[str, float]:
    """Return the metrics of seams, of the ends of a ring, and of equivariance."""
    metrics: dict[str, float] = {}
    seed = settings.seed
    for stitch in STITCHES[:1] if generator.geometry.exact else STITCHES:
        seams = measure_seams(generator, seed, settings.num_scenes, stitch)
        metrics |= {f"seam/{key}" if stitch == "grid" else f"seam_{stitch}/{key}": v for key, v in asdict(seams).items()}
    if generator.geometry.chart.wraps and not isinstance(generator, samples.UpsampledGenerator):
        metrics |= {f"ring/{key}": value for key, value in asdict(measure_ring(generator, seed)).items()}
    metrics["equivariance/integer_db"] = measure_equivariance(generator, seed)
    metrics["equivariance/fractional_db"] = measure_fractional_equivariance(generator, seed)
    return metrics


def measure_seams(generator: Generator, seed: int, num_scenes: int, stitch: Stitch | None = None) -> Seams:
    """Compare a rectangular, off-centre window of many scenes drawn in tiles with the same window drawn in one pass.

    The steps of a single scene depend on its content more than on its tiles.
    """
    window = seam_window(generator)
    scenes = []
    for scene in samples.scene_seeds(seed, "seams", num_scenes):
        tiled, rows, columns = draw_tiled(generator, scene, window, SEAM_TILE, stitch)
        whole, _, _ = draw_tiled(generator, scene, window, 4 * max(window.size))
        scenes.append(seam_error(tiled, whole, rows, columns))
    return mean_seams(scenes)


def seam_window(generator: Generator) -> Window:
    """Return SEAM_WINDOW on the plane of the generator."""
    unit, (x, y) = generator.geometry.chart.short_side / 2, SEAM_WINDOW.center
    return Window((x * unit, y * unit), SEAM_WINDOW.period * unit, SEAM_WINDOW.size)


def measure_ring(generator: Generator, seed: int) -> Ring:
    """Draw whole rings in tiles, as any large picture, and compare their two ends."""
    window = generator.geometry.chart.ring_window(RING_PX, generator.geometry.lattice_px)
    seeds = samples.scene_seeds(seed, "rings", RINGS)
    return ring_error([draw_tiled(generator, scene, window, RING_PX)[0] for scene in seeds])


def measure_equivariance(generator: Generator, seed: int) -> float:
    """Return the decibels between a window moved by whole pixels, off the lattice, and the moved render of the window."""
    scene = samples.scene_seeds(seed, "equivariance", 1)[0]
    down, right = SHIFT
    still = samples.frame_of(generator, 128).crop(0, 0, (96, 120))
    pictures = [draw_tiled(generator, scene, w, 256)[0] for w in (still.crop(down, right, still.size), still)]
    return min(shift_psnr(pictures[0], pictures[1], right, down), MOST_DB)


def measure_fractional_equivariance(generator: Generator, seed: int) -> float:
    """The same for moves of parts of a pixel, mean over SHIFTS: what the network folds back shows here."""
    decibels = []
    for scene, (down, right) in zip(samples.scene_seeds(seed, "shifts", len(SHIFTS)), SHIFTS, strict=True):
        still = samples.frame_of(generator, 128).crop(8, 8, (112, 112))
        moved = Window((still.center[0] + right * still.period, still.center[1] + down * still.period), still.period, still.size)
        pictures = [draw_tiled(generator, scene, window, 256)[0] for window in (moved, still)]
        decibels.append(min(fractional_psnr(pictures[0], pictures[1], right, down), MOST_DB))
    return float(np.mean(decibels))


def draw_tiled(
    generator: Generator, seed: int, window: Window, tile: int, stitch: Stitch | None = None
) -> tuple[np.ndarray, list[int], list[int]]:
    """Draw in tiles without rounding to bytes: float32 (h, w, 3), rows and columns where tiles begin beyond 0."""
    out = np.empty((*window.size, 3), np.float32)
    rows, columns = set(), set()
    for at, pixels in render_tiles(generator, RenderRequest(seed, window, tile=tile, stitch=stitch)):
        out[at.top : at.top + at.size[0], at.left : at.left + at.size[1]] = pixels.permute(1, 2, 0).float().cpu().numpy()
        rows.add(at.top)
        columns.add(at.left)
    return out, sorted(rows - {0}), sorted(columns - {0})


def _cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


def _bytes(picture: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(picture), 0, 255).astype(np.uint8)
