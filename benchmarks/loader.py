"""Patches per second and core from photographs of 1 to 50 megapixels: the store against reading the files.

    python benchmarks/loader.py --out loader.json

For every side p, photograph and law of train.period_law (uniform_size is AnyRes-GAN's, log_uniform the default here),
windows lie anywhere, at eight scales that stand for an eighth of the law each. One thread, CPU seconds, means; the store
without a cache of tiles.

a   decode the file, Lanczos the whole picture to the drawn scale, crop
b   decode the file, Lanczos from the window's box alone
c   as b, the JPEG decoded at 1/2, 1/4 or 1/8 where the scale allows (draft mode)
"""

from __future__ import annotations

import os

# One core is what is measured: before numpy starts its own threads.
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VIPS_CONCURRENCY"):
    os.environ.setdefault(_name, "1")

import io
import itertools
import json
import math
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from PIL import Image
from rich.console import Console
from rich.table import Table

from anyres.data.intake import intake
from anyres.data.patches import PatchLaw, PatchSampler, PeriodLaw
from anyres.data.pyramid import Store, prepare
from anyres.data.sources.record import Access, LocalFile, Record
from anyres.params import Params
from anyres.plane.resample import FRAME, render_real
from anyres.plane.window import Window
from anyres.progress import progress_bar

SIZES = {1: (816, 1224), 8: (2304, 3456), 24: (4000, 6000), 50: (5760, 8640)}  # (height, width) by megapixels
SIDES = (128, 256, 1024)
LAWS: tuple[PeriodLaw, ...] = ("log_uniform", "uniform_size")
STRATA = 8
Image.MAX_IMAGE_PIXELS = None


def main(
    out: Annotated[Path | None, typer.Option(help="Where the results go, as JSON.")] = None,
    seconds: Annotated[float, typer.Option(help="Time for each measurement.")] = 2.0,
    photographs: Annotated[Path | None, typer.Option(help="JPEGs to use in place of made ones, by megapixels: 24.jpg")] = None,
) -> None:
    """Measure, print a table, write JSON."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = photographs_in(folder, photographs)
        stores = {codec: build(files, folder / codec, codec) for codec in ("deflate", "jpeg")}
        cases = [(law, side, size) for law in LAWS for side in SIDES for size in files if side <= min(SIZES[size])]
        rows = []
        with progress_bar("patches", len(cases), "cases") as advance:
            for law, side, size in cases:
                rows.append(measure(files[size], size, side, law, stores, seconds))
                advance(1)
        feed = {f"{codec} p={side}": fed(stores[codec].path, side, seconds) for codec in stores for side in SIDES}
        quality = {codec: fidelity(files, store) for codec, store in stores.items()}
    show(rows)
    report = {"per_core": rows, "patches_per_s_on_two_cores": feed, "against_render_real": quality}
    print(json.dumps({key: report[key] for key in ("patches_per_s_on_two_cores", "against_render_real")}, indent=2))
    if out is not None:
        out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def photographs_in(folder: Path, given: Path | None) -> dict[int, Path]:
    """Return a JPEG for each number of megapixels, as a camera writes it (quality 92, 4:2:0)."""
    files = {}
    with progress_bar("photographs", len(SIZES), "pictures") as advance:
        for size, (height, width) in SIZES.items():
            files[size] = folder / f"{size}.jpg" if given is None else given / f"{size}.jpg"
            if given is None:
                Image.fromarray(octaves(height, width)).save(files[size], quality=92)
            else:
                with Image.open(files[size]) as image:
                    SIZES[size] = image.height, image.width
            advance(1)
    return files


def octaves(height: int, width: int) -> np.ndarray:
    """Noise with the spectrum of photographs: uint8 (h, w, 3)."""
    rng = np.random.default_rng(height)
    total = np.full((height, width, 3), 127.5, np.float32)
    cells = 2
    while cells < 2 * width:
        noise = (rng.random((min(cells, height), min(cells, width), 3)) * 255).astype(np.uint8)
        total += (np.asarray(Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC), np.float32) - 127.5) * (
            1.3 * (2 / cells) ** 0.9
        )
        cells *= 2
    return np.clip(total, 0, 255).astype(np.uint8)


def build(files: dict[int, Path], folder: Path, codec: str) -> Store:
    """Store the files as the default parameters say, with a codec."""
    params = Params.load(Path(__file__).parent.parent / "params.yaml")
    records = [Record(path.name, LocalFile(path), path.name) for path in files.values()]
    keep = params.ingest.model_copy(update={"near_duplicates": "keep"})
    intake(records, keep, Access(folder / "cache"), folder / "ingested")
    return prepare(folder / "ingested", params.prepare.model_copy(update={"codec": codec}), folder / "store")


def windows(size: tuple[int, int], side: int, law: PeriodLaw, seed: int) -> list[Window]:
    """One window of a picture of `size` = (height, width) in each stratum of the law, from coarse to fine."""
    rng = np.random.default_rng(seed)
    finest, coarsest = FRAME.native_period(size), 2 / side
    windows_of_law = []
    for stratum in range(STRATA):
        scale = (stratum + rng.random()) / STRATA
        if law == "log_uniform":
            period = coarsest * (finest / coarsest) ** scale
        else:
            period = 1 / (1 / coarsest + scale * (1 / finest - 1 / coarsest))
        slack_x, slack_y = finest * size[1] / 2 - period * side / 2, finest * size[0] / 2 - period * side / 2
        windows_of_law.append(Window((rng.uniform(-1, 1) * slack_x, rng.uniform(-1, 1) * slack_y), period, (side, side)))
    return windows_of_law


def whole(data: bytes, size: tuple[int, int], window: Window) -> np.ndarray:
    """Variant a."""
    scale = FRAME.native_period(size) / window.period
    target = max(round(size[1] * scale), window.size[1]), max(round(size[0] * scale), window.size[0])
    image = Image.open(io.BytesIO(data)).convert("RGB").resize(target, Image.Resampling.LANCZOS)
    left, top = (round(edge) for edge in corner(size, window, target))
    left, top = min(left, target[0] - window.size[1]), min(top, target[1] - window.size[0])
    return np.asarray(image.crop((left, top, left + window.size[1], top + window.size[0])))


def boxed(data: bytes, size: tuple[int, int], window: Window, draft: bool = False) -> np.ndarray:
    """Variants b and c."""
    image = Image.open(io.BytesIO(data))
    if draft:
        scale = FRAME.native_period(size) / window.period
        image.draft("RGB", (math.ceil(size[1] * scale), math.ceil(size[0] * scale)))
    left, top = corner(size, window, image.size)
    reach = window.period * window.size[1] / (FRAME.native_period(size) * size[1]) * image.width
    box = max(left, 0.0), max(top, 0.0), min(left + reach, image.width), min(top + reach, image.height)
    return np.asarray(image.convert("RGB").resize((window.size[1], window.size[0]), Image.Resampling.LANCZOS, box=box))


def corner(size: tuple[int, int], window: Window, target: tuple[int, int]) -> tuple[float, float]:
    """Left and top of a window in pixels of the picture at `target` = (width, height)."""
    period = FRAME.native_period(size)
    x, y = window.center[0] - window.period * window.size[1] / 2, window.center[1] - window.period * window.size[0] / 2
    return (x / (period * size[1]) + 0.5) * target[0], (y / (period * size[0]) + 0.5) * target[1]


def measure(
    path: Path, megapixels: int, side: int, law: PeriodLaw, stores: dict[str, Store], seconds: float
) -> dict[str, float | str]:
    """Return the mean CPU milliseconds a patch of each variant."""
    data, size = path.read_bytes(), SIZES[megapixels]
    variants: dict[str, Callable[[Window], np.ndarray]] = {
        "a": lambda window: whole(data, size, window),
        "b": lambda window: boxed(data, size, window),
        "c": lambda window: boxed(data, size, window, draft=True),
    }
    for codec, store in stores.items():
        # Nothing is cached between patches.
        cold = Store.open(store.path, cache_bytes=0)
        number = next(i for i, picture in enumerate(store.pictures) if picture.name == path.name)
        variants[codec] = lambda window, cold=cold, number=number: cold.read(number, window)
    row: dict[str, float | str] = {"law": law, "p": side, "megapixels": megapixels}
    for name, read in variants.items():
        spent = []
        read(windows(size, side, law, seed=10**6)[0])
        start = time.perf_counter()
        # Whole rounds: every variant reads all scales equally often.
        for number in itertools.count():
            for window in windows(size, side, law, number):
                before = time.process_time()
                read(window)
                spent.append(time.process_time() - before)
            if time.perf_counter() - start > seconds:
                break
        row[name] = 1000 * statistics.mean(spent)
    return row


def fed(path: Path, side: int, seconds: float) -> float:
    """Patches a second that two processes draw, flips and rounding included, as training reads them."""
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        pool.map(abs, range(2))
        return sum(pool.starmap(draw_for, [(path, side, seconds, rank) for rank in range(2)], chunksize=1))


def draw_for(path: Path, side: int, seconds: float, rank: int) -> float:
    """Draw patches for a while; their number a second."""
    sampler = PatchSampler(Store.open(path), PatchLaw((side, side), 64.0, "log_uniform", 0.5), seed=rank)
    sampler.batch(0, 4)
    start, n = time.perf_counter(), 0
    while (spent := time.perf_counter() - start) < seconds:
        sampler.batch(n, 8)
        n += 8
    return n / spent


def fidelity(files: dict[int, Path], store: Store) -> dict[str, float]:
    """Worst PSNR and worst error in grey levels of 96-px windows of the 8-megapixel photograph."""
    original = np.asarray(Image.open(files[8]).convert("RGB"))
    number = next(i for i, picture in enumerate(store.pictures) if picture.name == "8.jpg")
    differences = [
        store.read(number, window) - render_real(original, window)
        for seed in range(5)
        for window in windows(original.shape[:2], 96, "log_uniform", seed)
    ]
    worst = max(float((difference**2).mean()) for difference in differences)
    return {
        "worst_psnr_db": 10 * math.log10(255**2 / max(worst, 1e-12)),
        "worst_levels": max(float(np.abs(difference).max()) for difference in differences),
    }


def show(rows: list[dict[str, Any]]) -> None:
    """Print a table for each law: milliseconds a patch and, of the stores, how many times faster than variant a."""
    for law in LAWS:
        table = Table("p", "MP", "a", "b", "c", "deflate", "jpeg", title=f"{law}: CPU ms a patch", title_justify="left")
        for row in (row for row in rows if row["law"] == law):
            stores = [f"{row[name]:.1f} ({row['a'] / row[name]:.0f}x)" for name in ("deflate", "jpeg")]
            table.add_row(str(row["p"]), str(row["megapixels"]), *(f"{row[name]:.1f}" for name in "abc"), *stores)
        Console().print(table)


if __name__ == "__main__":
    typer.run(main)
