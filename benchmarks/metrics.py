"""Do the metrics measure what they say? Agreement with references, and the order of pictures damaged more and more.

    python benchmarks/metrics.py --store data/store --out out/metrics

No generator takes part. Photographs are drawn twice by seed: A are the reals, B takes the place of the fakes.

agreement    closed forms, torch-fidelity, scipy and scikit-image on equal features and pictures
damage       B blurred, compressed, shrunk and enlarged, or noisy: FD and KID should rise from level to level
duplicates   few patches of B many times over: recall should fall, precision should not
upsampler    photographs at 32 px enlarged: SelfSSIM should praise them, FD and KID should not

Writes one page, index.html, and metrics.json; prints tables. Exit code 1 where a bound or an expected order does not hold.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import torch
import typer
from jinja2 import Environment, StrictUndefined
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from references import SEED, agreement
from rich.console import Console
from rich.table import Table
from scipy.ndimage import gaussian_filter

from anyres.data.patches import PatchLaw, PatchSampler
from anyres.data.store import Store
from anyres.evaluation import figures
from anyres.evaluation.consistency import resized, self_ssim
from anyres.evaluation.distances import (
    FD_UNBIASED,
    NEIGHBOURS,
    frechet,
    frechet_estimate,
    kid,
    kid_estimate,
    precision_recall,
)
from anyres.evaluation.features import SPACES, FeatureSpace
from anyres.evaluation.pages import number, three_places
from anyres.evaluation.plates import Plate, plate
from anyres.files import write_atomic
from anyres.plane.resample import KERNEL
from anyres.plane.window import frame_window
from anyres.progress import progress_bar

TEMPLATE = Path(__file__).with_name("metrics.html")
ZOOM_MAX = 16.0
SHARES = (1.0, 0.5, 0.2, 0.05)
# Sizes of the upsampler; scenes of its SelfSSIM.
SIZES = (32, 48, 64, 96, 128)
SCENES = 24
LEAST_SSIM = 0.99
# Share of the band of the smallest size that scenes without the finest details have.
BAND = 0.75
LIMITED = "upsampler, band-limited"
RESAMPLES = 200

Extract = Callable[[np.ndarray], np.ndarray]


class Damage(NamedTuple):
    """A way to spoil uint8 pictures (n, h, w, 3), mildest level first; `label` is the format of a level."""

    name: str
    label: str
    levels: tuple[float, ...]
    apply: Callable[[np.ndarray, float], np.ndarray]


def main(
    store: Annotated[Path, typer.Option(help="What the stage prepare wrote.")] = Path("data/store"),
    out: Annotated[Path, typer.Option(help="The page and its numbers.")] = Path("out/metrics"),
    samples: Annotated[int, typer.Option(min=40, help="Patches of A, and of B.")] = 500,
    patch: Annotated[int, typer.Option(min=32, max=SIZES[-1], help="Pixels a side.")] = 64,
    features: Annotated[str, typer.Option(help=f"Feature space: {', '.join(SPACES)}.")] = "lite0",
    threads: Annotated[int, typer.Option(help="Of torch.")] = 1,
) -> None:
    """Measure, print tables, write metrics.json and index.html."""
    torch.set_num_threads(threads)
    if features not in SPACES:
        raise typer.BadParameter(f"no feature space {features!r}; there are {', '.join(SPACES)}")
    try:
        results, plates = measure(Store.open(store), FeatureSpace(features), samples, patch)
    except ValueError as error:
        Console(stderr=True, soft_wrap=True).print(str(error), style="red", highlight=False, markup=False)
        raise typer.Exit(2) from None
    show(results)
    print(write(results, plates, out))
    if not all(check["holds"] for check in results["checks"]):
        raise typer.Exit(1)


def measure(
    store: Store, space: FeatureSpace, samples: int, patch: int, progress: bool = True
) -> tuple[dict[str, Any], dict[str, Any]]:
    """All numbers of the page, and its pictures. Raises ValueError where the store has too few pictures."""
    sampler = PatchSampler(store, PatchLaw((patch, patch), ZOOM_MAX, "log_uniform", 0.0), SEED)
    reals, others = (sampler.batch(first, samples)[0] for first in (0, samples))
    passes = 2 + sum(len(damage.levels) for damage in DAMAGES) + 3
    with progress_bar("features", passes * samples, "img", progress) as advance:

        def extract(pictures: np.ndarray) -> np.ndarray:
            return space(pictures, advance)

        real, other = extract(reals), extract(others)
        example = others[varied(others)]
        damages, examples = damaged(others, example, other, real, extract)
        upsampler, enlarged = upsampled(store, samples, patch, extract)
    blurred = blur(example[None], 1.0)[0]
    results = {
        "protocol": {
            "data_hash": store.hash,
            "pictures": len(store),
            "samples": samples,
            "patch_px": patch,
            "features": space.name,
            "features_kernel": space.kernel,
            "reals_kernel": KERNEL,
            "seed": SEED,
            "zoom_max": ZOOM_MAX,
            "fd_biased_below": FD_UNBIASED,
        },
        "agreement": agreement(real, other, [(example, blurred), (example, reals[0]), (reals[0], noise(reals[:1], 16.0)[0])]),
        "damage": damages,
        "duplicates": duplicates(other, real),
        "upsampler": upsampler,
    }
    results["checks"] = list(checks(results))
    return results, {"examples": examples, **enlarged}


# Damage of known order.


def blur(pictures: np.ndarray, sigma: float) -> np.ndarray:
    return to_bytes(gaussian_filter(pictures.astype(np.float64), (0, sigma, sigma, 0)))


def jpeg(pictures: np.ndarray, quality: float) -> np.ndarray:
    def packed(picture: np.ndarray) -> np.ndarray:
        buffer = io.BytesIO()
        Image.fromarray(picture).save(buffer, format="jpeg", quality=int(quality))
        return np.asarray(Image.open(buffer))

    return np.stack([packed(picture) for picture in pictures])


def shrink(pictures: np.ndarray, times: float) -> np.ndarray:
    """Antialiased down, and by Lanczos up again."""
    size = pictures.shape[1]
    return np.stack([to_bytes(resized(resized(picture, round(size / times)), size)) for picture in pictures])


def noise(pictures: np.ndarray, sigma: float) -> np.ndarray:
    """The same noise at every level, stronger."""
    return to_bytes(pictures + sigma * np.random.default_rng(SEED).normal(size=pictures.shape))


DAMAGES = (
    Damage("blur", "σ {:g} px", (0.5, 1.0, 2.0, 4.0), blur),
    Damage("JPEG", "quality {:g}", (90, 60, 30, 10), jpeg),
    Damage("shrunk and enlarged", "÷ {:g}", (1.5, 2.0, 4.0, 8.0), shrink),
    Damage("noise", "σ {:g} of 255", (4, 8, 16, 32), noise),
)


def damaged(
    pictures: np.ndarray, example: np.ndarray, other: np.ndarray, real: np.ndarray, extract: Extract
) -> tuple[list[dict[str, Any]], dict[str, list[Plate]]]:
    """FD and KID of `pictures` against the reals' features at every level of every damage, and `example` at each.

    Level 0 is undamaged: the features `other`.
    """
    rows, plates = [], {}
    start = {"label": "none", "level": 0.0, "fd": frechet(other, real), "kid": kid(other, real)}
    for damage in DAMAGES:
        levels = [start]
        plates[damage.name] = [plate(example, "A patch of a photograph", "undamaged")]
        for level in damage.levels:
            features, label = extract(damage.apply(pictures, level)), damage.label.format(level)
            levels.append({"label": label, "level": level, "fd": frechet(features, real), "kid": kid(features, real)})
            plates[damage.name].append(plate(damage.apply(example[None], level)[0], f"{damage.name}, {label}", label))
        rises = {f"{key}_rises": rising([row[key] for row in levels]) for key in ("fd", "kid")}
        rows.append({"name": damage.name, "levels": levels, **rises})
    return rows, plates


def rising(values: Sequence[float]) -> bool:
    return bool((np.diff(values) > 0).all())


# Sets that one metric alone would let pass.


def duplicates(other: np.ndarray, real: np.ndarray) -> list[dict[str, Any]]:
    """Return the scores where only a share of the fakes' features is used, repeated to the full number; the first row has all.

    `chance` is three standard errors of precision at so few distinct ones.
    """
    rows: list[dict[str, Any]] = []
    order = np.random.default_rng(SEED).permutation(len(other))
    for share in SHARES:
        distinct = max(NEIGHBOURS + 1, round(share * len(other)))
        repeated = np.resize(order[:distinct], len(other))
        fake = other[repeated]
        precision, recall = precision_recall(fake, real)
        scores = {"precision": precision, "recall": recall, "fd": frechet(fake, real), "kid": kid(fake, real)}
        p = rows[0]["precision"] if rows else precision
        rows.append({"share": share, "distinct": distinct, **scores, "chance": 3 * float(np.sqrt(p * (1 - p) / distinct))})
    return rows


def upsampled(store: Store, samples: int, patch: int, extract: Extract) -> tuple[dict[str, Any], dict[str, list[Plate]]]:
    """Frames shrunk to the smallest of SIZES and enlarged, beside those left as they are, against frames of other pictures.

    FD, KID, precision and recall are of crops of the largest size at the same places; SelfSSIM between all sizes.
    """
    order = np.random.default_rng(SEED).permutation(len(store)).tolist()
    reals, others = (frames(store, half, SIZES[-1], samples) for half in (order[::2], order[1::2]))
    enlarged = to_bytes(np.stack([scene(frame, SIZES[0])[-1] for frame in others]))
    corners = np.random.default_rng(SEED).integers(0, SIZES[-1] - patch + 1, size=(samples, 2))
    crops = [cropped(pictures, corners, patch) for pictures in (reals, others, enlarged)]
    real, *features_of_sets = (extract(pictures) for pictures in crops)
    shown = others[:SCENES]
    matrices = {
        "photographs": self_ssim([[resized(frame, size) for size in SIZES] for frame in shown]),
        "upsampler": self_ssim([scene(frame, SIZES[0]) for frame in shown]),
        LIMITED: self_ssim([scene(frame, SIZES[0], BAND) for frame in shown]),
    }
    rows = []
    for name, features in zip(("photographs", "upsampler"), features_of_sets, strict=True):
        precision, recall = precision_recall(features, real)
        scores = {"precision": precision, "recall": recall}
        for key, estimate in (("fd", frechet_estimate), ("kid", kid_estimate)):
            scores[key], scores[f"{key}_low"], scores[f"{key}_high"] = estimate(features, real, RESAMPLES, SEED)
        rows.append({"name": name, **scores})
    result = {
        "sizes": list(SIZES),
        "scenes": len(shown),
        "frames": [len(reals), len(others)],
        "rows": rows,
        "self_ssim": {name: {"matrix": matrix.tolist(), **extremes(matrix)} for name, matrix in matrices.items()},
    }
    best = varied(shown)
    plates = [plate(to_bytes(picture), f"At {len(picture)} px", f"{len(picture)} px") for picture in scene(shown[best], SIZES[0])]
    photographs = [plate(to_bytes(resized(shown[best], size)), f"Photograph at {size} px", f"{size} px") for size in SIZES]
    return result, {"enlarged": plates, "photographs": photographs}


def scene(frame: np.ndarray, base: int, band: float = 1.0) -> list[np.ndarray]:
    """A square picture shrunk to `base` px, there limited to a share `band` of what it can hold, enlarged to all SIZES."""
    small = resized(resized(frame, round(base * band)), base)
    return [resized(small, size) for size in SIZES]


def extremes(matrix: np.ndarray) -> dict[str, Any]:
    """The mean off the diagonal, and the least with its place: sizes (compared at, drawn at)."""
    row, column = np.unravel_index(int(matrix.argmin()), matrix.shape)
    others = ~np.eye(len(matrix), dtype=bool)
    return {"mean": float(matrix[others].mean()), "least": float(matrix.min()), "least_at": [SIZES[row], SIZES[column]]}


def cropped(pictures: np.ndarray, corners: np.ndarray, patch: int) -> np.ndarray:
    """One crop a corner (top, left), pictures in turn."""
    return np.stack([pictures[i % len(pictures)][y : y + patch, x : x + patch] for i, (y, x) in enumerate(corners)])


# Pictures of the store.


def frames(store: Store, half: Iterable[int], size: int, limit: int) -> np.ndarray:
    """Central squares at `size` px of the pictures that are so large, at most `limit`: uint8 (n, size, size, 3)."""
    large = [index for index in half if store.frame(index).short_side >= size][:limit]
    if len(large) < 2:
        raise ValueError(f"{store.path}: {len(large)} pictures of a half are {size} px or larger; 2 are needed")
    return np.stack([to_bytes(store.read(index, frame_window(1.0, size))) for index in large])


def varied(pictures: np.ndarray) -> int:
    """The one whose pixels differ most from their neighbours."""
    steps = np.abs(np.diff(pictures.astype(np.float32), axis=2)).mean(axis=(1, 2, 3))
    return int(steps.argmax())


def to_bytes(pixels: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)


# What people see.


def checks(results: dict[str, Any]) -> Iterable[dict[str, Any]]:
    """Every expectation of the page and whether it holds."""

    def check(section: str, name: str, holds: bool) -> dict[str, Any]:
        return {"section": section, "name": name, "holds": bool(holds)}

    for row in results["agreement"]:
        yield check("agreement", f"{row['name']}: within {row['bound']:g}", row["holds"])
    for row in results["damage"]:
        for key in ("fd", "kid"):
            yield check("damage", f"{key.upper()} rises with {row['name']}", row[f"{key}_rises"])
    whole, fewest = results["duplicates"][0], results["duplicates"][-1]
    yield check("duplicates", "recall falls with duplicates", fewest["recall"] < whole["recall"])
    same = abs(fewest["precision"] - whole["precision"]) <= fewest["chance"]
    yield check("duplicates", "precision stays with duplicates, but for chance", same)
    photographs, upsampler = results["upsampler"]["rows"]
    mean, least = (results["upsampler"]["self_ssim"][name][key] for name, key in (("upsampler", "mean"), (LIMITED, "least")))
    yield check("upsampler", f"SelfSSIM of an upsampler is {LEAST_SSIM:g} or more, mean over sizes", mean >= LEAST_SSIM)
    # The way down dims what lies at the limit of the smallest size, the more of it the scene has.
    yield check(
        "upsampler", f"SelfSSIM without the finest details is {LEAST_SSIM:g} or more between any two sizes", least >= LEAST_SSIM
    )
    for key in ("fd", "kid"):
        apart = upsampler[f"{key}_low"] > photographs[f"{key}_high"]
        yield check("upsampler", f"{key.upper()} of an upsampler lies above that of photographs, intervals apart", apart)


def show(results: dict[str, Any]) -> None:
    """Print the four tables and what does not hold."""
    table = Table("agreement", "ours", "theirs", "relative difference", "bound", "")
    for row in results["agreement"]:
        numbers = [f"{row[key]:.8g}" for key in ("ours", "theirs")] + [f"{row[key]:.0e}" for key in ("difference", "bound")]
        table.add_row(row["name"], *numbers, mark(row["holds"]))
    tables = [table]
    tables.append(Table("damage", *(f"level {place}: FD, KID" for place in range(5)), "FD rises", "KID rises"))
    for row in results["damage"]:
        levels = [f"{level['label']}: {level['fd']:.1f} {level['kid']:.4f}" for level in row["levels"]]
        tables[-1].add_row(row["name"], *levels, mark(row["fd_rises"]), mark(row["kid_rises"]))
    names = ("precision", "recall", "fd", "kid")
    tables.append(Table("distinct patches", *names))
    for row in results["duplicates"]:
        tables[-1].add_row(f"{row['distinct']} ({row['share']:.0%})", *(f"{row[name]:.3f}" for name in names))
    tables.append(Table("crops of whole frames", *names, "SelfSSIM, mean", "least"))
    upsampler = results["upsampler"]
    for row in upsampler["rows"]:
        same = [f"{upsampler['self_ssim'][row['name']][key]:.4f}" for key in ("mean", "least")]
        tables[-1].add_row(row["name"], *(f"{row[name]:.3f}" for name in names), *same)
    console = Console(width=190)
    for table in tables:
        console.print(table)
    failed = [check["name"] for check in results["checks"] if not check["holds"]]
    console.print(f"{len(results['checks']) - len(failed)} of {len(results['checks'])} hold", *failed, sep="\n  not: ")


def mark(holds: bool) -> str:
    return "holds" if holds else "[red]fails[/]"


def write(results: dict[str, Any], plates: dict[str, Any], out: Path) -> Path:
    """Write metrics.json and the page; return the page's path."""
    write_atomic(out / "metrics.json", (json.dumps(results, indent=2) + "\n").encode())
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"number": number, "kid": three_places}
    curves = figures.to_svg(
        draw_damages(results["damage"]), "damages", "FD and KID over the levels of each damage; numbers under the pictures"
    )
    page = environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(**results, plates=plates, curves=curves)
    write_atomic(out / "index.html", page.encode())
    return out / "index.html"


def draw_damages(rows: Sequence[dict[str, Any]]) -> Figure:
    """FD above, KID below, a column a damage."""
    figure = Figure(figsize=(9.6, 4.6), dpi=160, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, len(rows), sharex="col", sharey="row", gridspec_kw={"wspace": 0.08, "hspace": 0.08})
    for line, (key, colour) in enumerate((("fd", figures.MODEL), ("kid", figures.BASELINE))):
        for column, row in enumerate(rows):
            axis, values = axes[line, column], [level[key] for level in row["levels"]]
            axis.plot(values, "o-", color=colour, lw=2, ms=5)
            axis.plot(values[:1], "o", color=figures.UNTRAINED, ms=7)
            axis.spines[["top", "right", "left"]].set_visible(False)
            axis.spines["bottom"].set_color(figures.LINE)
            axis.tick_params(length=0, colors=figures.MUTED)
            axis.grid(axis="y", color=figures.LINE, lw=0.7)
            axis.set_xticks(
                range(len(values)), [f"{level['level']:g}" if place else "–" for place, level in enumerate(row["levels"])]
            )
            if line == 0:
                axis.set_title(row["name"], color=figures.INK, fontsize=11)
            else:
                axis.set_xlabel(row["levels"][1]["label"].replace(f"{row['levels'][1]['level']:g}", "…"), color=figures.MUTED)
            if column == 0:
                axis.set_ylabel(key.upper(), color=figures.INK)
    return figure


if __name__ == "__main__":
    typer.run(main)
