"""Figures of an evaluation as PNG files. One look: thin lines, no frames, colours that the blind to red tell apart."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator, ScalarFormatter

from anyres.data.atomic import write_atomic

INK, MUTED, LINE = "#1d2433", "#6b7486", "#d9dde5"
MODEL, BASELINE, REALS, UNTRAINED = "#3b5bdb", "#d9822b", "#2b8a5f", "#9aa3b2"


def draw_sweep(rows: list[dict[str, Any]], base_px: int, space: str, path: Path) -> None:
    """FD and KID of whole frames over their size, with intervals, beside the fixed-scale baseline."""
    rows = [row for row in rows if "fd" in row]
    if not rows:
        return
    figure, axes = _panels(2)
    sizes = [row["size"] for row in rows]
    for axis, key, title in zip(axes, ("fd", "kid"), ("FD", "KID"), strict=True):
        _interval_line(axis, sizes, rows, key, "this model", MODEL)
        axis.plot(sizes, [row[f"fixed_{key}"] for row in rows], "--", color=BASELINE, lw=1.6, label=f"{base_px} px, enlarged")
        trained = [row for row in rows if row["trained"]]
        axis.plot(
            [row["size"] for row in trained],
            [row[key] for row in trained],
            "o",
            color=MODEL,
            ms=5.5,
            label="scale seen in training",
        )
        _log2(axis, sizes)
        axis.set_ylim(bottom=min(0, axis.get_ylim()[0]))
        axis.set_xlabel("short side of the frame, px")
        axis.set_title(f"{title} in {space} (lower is better)")
    axes[0].legend(frameon=False, labelcolor=INK)
    _save(figure, path)


def draw_octaves(rows: list[dict[str, Any]], space: str, path: Path) -> None:
    """KID of patches by zoom octave on a logarithmic axis: untrained, baseline, model, reals."""
    if not rows:
        return
    figure, (axis,) = _panels(1)
    place = np.arange(len(rows))
    series = (
        ("kid_init", "before training", UNTRAINED),
        ("kid_fixed", "coarsest scale, enlarged", BASELINE),
        ("kid", "this model", MODEL),
    )
    for shift, (key, label, colour) in zip((-0.26, 0, 0.26), series, strict=True):
        axis.bar(place + shift, [max(row[key], 1e-6) for row in rows], 0.24, color=colour, label=label)
    floor = max(min(row[key] for row in rows for key, _, _ in series), 1e-5)
    axis.set_yscale("log")
    axis.set_ylim(bottom=floor / 2)
    axis.set_xticks(place, [f"zoom {row['zoom'].replace('-', '–')}\n{row['samples']} patches" for row in rows])
    axis.set_title(f"patch KID in {space} (lower is better)")
    axis.legend(frameon=False, labelcolor=INK)
    _save(figure, path)


def draw_self_ssim(rows: list[dict[str, Any]], path: Path) -> None:
    """The SelfSSIM matrix as a heat map with its numbers."""
    sizes = list(dict.fromkeys(row["reference"] for row in rows))
    matrix = np.array([row["ssim"] for row in rows]).reshape(len(sizes), len(sizes))
    side = 1.6 + 0.62 * len(sizes)
    figure = _figure(side + 0.6, side)
    axis = figure.add_subplot()
    axis.imshow(matrix, cmap="Blues", vmin=min(0.0, float(matrix.min())), vmax=1.15)
    for i, j in np.ndindex(matrix.shape):
        axis.text(j, i, f"{matrix[i, j]:.2f}", ha="center", va="center", color="white" if matrix[i, j] > 0.7 else INK, fontsize=9)
    axis.set_xticks(range(len(sizes)), [str(size) for size in sizes])
    axis.set_yticks(range(len(sizes)), [str(size) for size in sizes])
    axis.set_xlabel("drawn at, px")
    axis.set_ylabel("compared at, px")
    axis.tick_params(length=0, colors=MUTED)
    for spine in axis.spines.values():
        spine.set_visible(False)
    _save(figure, path)


def draw_history(history: list[dict[str, float]], path: Path) -> None:
    """Losses, logits and penalties over images seen, from the lines of history.jsonl."""
    groups = [[key for key in history[0] if key.startswith(prefix)] for prefix in ("loss/", "logits/", "penalty/")]
    groups = [group for group in groups if group]
    if len(history) < 2 or not groups:
        return
    figure, axes = _panels(len(groups))
    kimg = [line["nimg"] / 1000 for line in history]
    for axis, keys in zip(axes, groups, strict=True):
        for key, colour in zip(keys, (MODEL, BASELINE, REALS, UNTRAINED), strict=False):
            axis.plot(kimg, [line.get(key, np.nan) for line in history], color=colour, lw=1.6, label=key.split("/")[1])
        axis.set_title(keys[0].split("/")[0])
        axis.set_xlabel("thousand images seen")
        axis.legend(frameon=False, labelcolor=INK)
    _save(figure, path)


def _interval_line(axis: Axes, x: Sequence[float], rows: list[dict[str, Any]], key: str, label: str, colour: str) -> None:
    axis.fill_between(
        x, [row[f"{key}_low"] for row in rows], [row[f"{key}_high"] for row in rows], color=colour, alpha=0.15, lw=0
    )
    axis.plot(x, [row[key] for row in rows], color=colour, lw=2, label=label)


def _log2(axis: Axes, sizes: Sequence[int]) -> None:
    axis.set_xscale("log", base=2)
    axis.xaxis.set_major_locator(FixedLocator(list(sizes)))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_formatter(ScalarFormatter())


def _panels(count: int) -> tuple[Figure, list[Axes]]:
    figure = _figure(4.6 * count if count > 1 else 6.4, 3.4)
    axes = [figure.add_subplot(1, count, place + 1) for place in range(count)]
    for axis in axes:
        axis.spines[["top", "right", "left"]].set_visible(False)
        axis.spines["bottom"].set_color(LINE)
        axis.tick_params(length=0, colors=MUTED)
        axis.grid(axis="y", color=LINE, lw=0.7)
        axis.set_axisbelow(True)
        axis.xaxis.label.set_color(MUTED)
        axis.title.set_color(INK)
        axis.title.set_fontsize(11)
    return figure, axes


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), dpi=160, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def _save(figure: Figure, path: Path) -> None:
    buffer = io.BytesIO()
    # No date and no version in the file: equal figures are equal bytes.
    figure.savefig(buffer, format="png", metadata={"Software": None})
    write_atomic(path, buffer.getvalue())
