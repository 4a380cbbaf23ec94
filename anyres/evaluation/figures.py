"""Figures of an evaluation, in one style: thin lines, no frames, colours safe for colour-blind readers.

Each `draw_*` returns a Figure, or None where there is no data; `save_png` and `to_svg` write it.
"""

from __future__ import annotations

import io
import itertools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator, ScalarFormatter

from anyres.files import write_atomic

INK, MUTED, LINE = "#1d2433", "#6b7486", "#d9dde5"
MODEL, BASELINE, REALS, UNTRAINED, FIRST = "#3b5bdb", "#d9822b", "#2b8a5f", "#9aa3b2", "#c9a227"
# Colours of compared models, which also differ as greys.
CANDIDATE_COLOURS = (MODEL, "#d9822b", "#2b8a5f", "#b0306a", "#6b7486", "#12a4b4", "#8c6d1f", "#7048e8")
# In an inline SVG these become variables of the page, so figures follow its light or dark theme.
THEME = {INK: "ink", MUTED: "muted", LINE: "line", MODEL: "model", BASELINE: "baseline", REALS: "reals", UNTRAINED: "untrained"}
TableRow = Mapping[str, Any]


def draw_sweep(rows: Sequence[TableRow], base_px: int, space: str) -> Figure | None:
    """Draw FD and KID of whole frames over their size, with intervals, and the upsampled baseline."""
    rows = [row for row in rows if "fd" in row]
    if not rows:
        return None
    figure, axes = _panels(2)
    sizes = [row["size"] for row in rows]
    for axis, key, title in zip(axes, ("fd", "kid"), ("FD", "KID"), strict=True):
        low, high = ([row[f"{key}_{end}"] for row in rows] for end in ("low", "high"))
        axis.fill_between(sizes, low, high, color=MODEL, alpha=0.15, lw=0)
        axis.plot(sizes, [row[key] for row in rows], color=MODEL, lw=2, label="this model")
        axis.plot(sizes, [row[f"fixed_{key}"] for row in rows], "--", color=BASELINE, lw=1.6, label=f"{base_px} px, enlarged")
        trained = [row for row in rows if row["trained"]]
        at, values = [row["size"] for row in trained], [row[key] for row in trained]
        axis.plot(at, values, "o", color=MODEL, ms=5.5, label="scale seen in training")
        _log2(axis, sizes)
        axis.set_ylim(bottom=min(0, axis.get_ylim()[0]))
        axis.set_xlabel("short side of the frame, px")
        axis.set_title(f"{title} in {space}")
    axes[0].legend(frameon=False, labelcolor=INK, fontsize=9)
    return figure


def draw_octaves(rows: Sequence[TableRow], space: str) -> Figure | None:
    """Draw the patch KID by zoom octave: untrained generator, baselines, model."""
    if not rows:
        return None
    figure, (axis,) = _panels(1)
    place = np.arange(len(rows))
    series = [
        ("kid_init", "before training", UNTRAINED),
        ("kid_first", "first stage, enlarged", FIRST),
        ("kid_fixed", "coarsest scale, enlarged", BASELINE),
        ("kid", "this model", MODEL),
    ]
    series = [part for part in series if part[0] in rows[0]]
    step = 0.81 / len(series)
    for number, (key, label, colour) in enumerate(series):
        values, shift = [row[key] for row in rows], step * (number - (len(series) - 1) / 2)
        axis.bar(place + shift, values, 0.93 * step, color=colour, label=label)
        for x, value in zip(place + shift, values, strict=True):
            axis.annotate(
                f"{value:.2g}", (x, max(value, 0)), (0, 3), textcoords="offset points", ha="center", fontsize=8, color=MUTED
            )
    # Room above the bars for the legend.
    axis.set_ylim(min(0, axis.get_ylim()[0]), axis.get_ylim()[1] * 1.18)
    axis.set_xticks(place, [f"zoom {row['zoom'].replace('-', '–')}\n{row['samples']} patches" for row in rows])
    axis.set_title(f"patch KID in {space}")
    axis.legend(frameon=False, labelcolor=INK, fontsize=9, ncols=len(series), loc="upper center")
    return figure


def draw_monitor(history: Sequence[TableRow]) -> Figure | None:
    """Draw the patch KID of the small evaluations during a training over images seen, its best value marked."""
    lines = [line for line in history if "monitor/patch_kid" in line]
    if len(lines) < 2:
        return None
    figure, (axis,) = _panels(1)
    for key, colour, label in (("patch_kid", MODEL, "all windows"), ("patch_kid_zoomed", BASELINE, "zoom 2 and more")):
        rows = [line for line in lines if f"monitor/{key}" in line]
        kimg, values = [line["nimg"] / 1000 for line in rows], [line[f"monitor/{key}"] for line in rows]
        axis.plot(kimg, values, color=colour, lw=1.8, label=label)
        if rows and key == "patch_kid":
            best = int(np.argmin(values))
            axis.plot(kimg[best], values[best], "o", color=colour, ms=6)
    axis.set_ylim(bottom=min(0, axis.get_ylim()[0]))
    axis.set_xlabel("thousand images seen")
    axis.set_title("patch KID during training")
    axis.legend(frameon=False, labelcolor=INK, fontsize=9)
    return figure


def draw_candidates(tables: Mapping[str, Sequence[TableRow]], over: str, keys: Sequence[str], space: str) -> Figure | None:
    """Draw several models over sizes, one line each with its interval, a panel for each of `keys`."""
    figure, axes = _panels(len(keys))
    has_data = False
    for axis, key in zip(axes, keys, strict=True):
        sizes: list[int] = []
        for (name, rows), colour in zip(tables.items(), itertools.cycle(CANDIDATE_COLOURS), strict=False):
            rows = [row for row in rows if key in row]
            at = [row[over] for row in rows]
            axis.plot(at, [row[key] for row in rows], color=colour, lw=2, label=name)
            axis.fill_between(
                at, [row[f"{key}_low"] for row in rows], [row[f"{key}_high"] for row in rows], color=colour, alpha=0.12, lw=0
            )
            trained = [row for row in rows if row["trained"]]
            axis.plot([row[over] for row in trained], [row[key] for row in trained], "o", color=colour, ms=5)
            sizes += at
            has_data = has_data or bool(rows)
        if sizes:
            _log2(axis, sorted(set(sizes)))
        axis.set_ylim(bottom=min(0, axis.get_ylim()[0]))
        axis.set_xlabel("short side of the frame, px; dots: scale seen in training")
        axis.set_title(f"{key.upper()} in {space}")
    axes[0].legend(frameon=False, labelcolor=INK, fontsize=9)
    return figure if has_data else None


def draw_candidate_octaves(tables: Mapping[str, Sequence[TableRow]], space: str) -> Figure | None:
    """Draw the patch KID by zoom octave, one bar for each model."""
    zooms = list(dict.fromkeys(row["zoom"] for rows in tables.values() for row in rows))
    if not zooms:
        return None
    figure, (axis,) = _panels(1)
    step = 0.81 / len(tables)
    for number, ((name, rows), colour) in enumerate(zip(tables.items(), itertools.cycle(CANDIDATE_COLOURS), strict=False)):
        place = [zooms.index(row["zoom"]) + step * (number - (len(tables) - 1) / 2) for row in rows]
        axis.bar(place, [row["kid"] for row in rows], 0.93 * step, color=colour, label=name)
    axis.set_xticks(range(len(zooms)), [f"zoom {zoom.replace('-', '–')}" for zoom in zooms])
    axis.set_ylim(min(0, axis.get_ylim()[0]), axis.get_ylim()[1] * 1.15)
    axis.set_title(f"patch KID in {space}")
    axis.legend(frameon=False, labelcolor=INK, fontsize=9, ncols=min(len(tables), 4), loc="upper center")
    return figure


def draw_self_ssim(rows: Sequence[TableRow]) -> Figure:
    """Draw the SelfSSIM matrix as a heat map with its values."""
    sizes = list(dict.fromkeys(row["reference"] for row in rows))
    matrix = np.array([row["ssim"] for row in rows]).reshape(len(sizes), len(sizes))
    side = 1.6 + 0.62 * len(sizes)
    figure = _figure(side, side)
    axis = figure.add_subplot()
    axis.imshow(matrix, cmap="Blues", vmin=min(0.0, float(matrix.min())), vmax=1.15)
    for i, j in np.ndindex(matrix.shape):
        axis.text(j, i, f"{matrix[i, j]:.2f}", ha="center", va="center", color="white" if matrix[i, j] > 0.7 else INK, fontsize=9)
    axis.set_xticks(range(len(sizes)), [str(size) for size in sizes])
    axis.set_yticks(range(len(sizes)), [str(size) for size in sizes])
    axis.set_xlabel("drawn at, px", color=MUTED)
    axis.set_ylabel("compared at, px", color=MUTED)
    axis.tick_params(length=0, colors=MUTED)
    axis.spines[:].set_visible(False)
    return figure


def draw_history(history: Sequence[TableRow]) -> Figure | None:
    """Draw losses, logits and penalties over images seen, from the lines of history.jsonl."""
    keys_by_kind = (
        [[key for key in history[0] if key.startswith(prefix)] for prefix in ("loss/", "logits/", "penalty/")] if history else []
    )
    groups = [keys for keys in keys_by_kind if keys]
    if len(history) < 2 or not groups:
        return None
    figure, axes = _panels(len(groups), width=3.6)
    kimg = [line["nimg"] / 1000 for line in history]
    for axis, keys in zip(axes, groups, strict=True):
        for key, colour in zip(keys, (MODEL, BASELINE, REALS, UNTRAINED), strict=False):
            axis.plot(kimg, [line.get(key, np.nan) for line in history], color=colour, lw=1.6, label=key.split("/")[1])
        axis.set_title(keys[0].split("/")[0])
        axis.set_xlabel("thousand images seen")
        axis.legend(frameon=False, labelcolor=INK, fontsize=9)
    return figure


def save_png(figure: Figure | None, path: Path) -> None:
    """Write a figure on white, byte-identical for equal data."""
    if figure is None:
        return
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", facecolor="white", metadata={"Software": None})
    write_atomic(path, buffer.getvalue())


def to_svg(figure: Figure | None, name: str, description: str) -> str:
    """Return an inline <svg>: transparent, with selectable text, its colours as variables of the page.

    `name` makes the ids of several figures distinct. Screen readers read `description`.
    """
    if figure is None:
        return ""
    text = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = text.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    # Ids get the name of the figure, and so do references to them.
    svg = re.sub(r'id="', f'id="{name}-', svg)
    svg = re.sub(r'(href="#|url\(#)', rf"\g<1>{name}-", svg)
    svg = re.sub(r"font-family: [^;\"]+;?|font: ([\d.]+px) [^;\"]+", lambda m: f"font-size: {m[1]}" if m[1] else "", svg)
    for colour, variable in THEME.items():
        svg = svg.replace(colour, f"var(--{variable})")
    label = description.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")
    opening = re.sub(r' (width|height)="[^"]*"', "", svg[: svg.index(">")])
    # About the size it was drawn at: a figure must not fill a wide page.
    width = round(figure.get_figwidth() * 115)
    return f'{opening} style="max-width:{width}px" role="img" aria-label="{label}"{svg[svg.index(">") :]}'


def _log2(axis: Axes, sizes: Sequence[int]) -> None:
    axis.set_xscale("log", base=2)
    axis.xaxis.set_major_locator(FixedLocator(list(sizes)))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_formatter(ScalarFormatter())


def _panels(count: int, width: float = 4.6) -> tuple[Figure, list[Axes]]:
    figure = _figure(width * count if count > 1 else 6.8, 3.3)
    axes = [figure.add_subplot(1, count, place + 1) for place in range(count)]
    for axis in axes:
        axis.spines[["top", "right", "left"]].set_visible(False)
        axis.spines["bottom"].set_color(LINE)
        axis.tick_params(which="both", length=0, colors=MUTED)
        axis.grid(axis="y", color=LINE, lw=0.7)
        axis.set_axisbelow(True)
        axis.xaxis.label.set_color(MUTED)
        axis.title.set_color(INK)
        axis.title.set_fontsize(11)
    return figure, axes


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), dpi=160, layout="constrained")
    FigureCanvasAgg(figure)
    return figure
