"""Commands about data sets, models and presets: info, preset."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated, Any

import typer

from anyres.cli.options import Json, app, load_model, one_line_errors

# The metrics of a model that are shown here; the report has all of them.
SHOWN_METRICS = ("patch_kid", "patch_fd", "patch_recall", "self_ssim/mean", "seam/max")


@app.command(epilog="Example: anyres info data/store --verify")
def info(
    source: Annotated[
        str,
        typer.Argument(
            metavar="DATASET|MODEL",
            help="A folder that ingest or prepare wrote, a bundle, a finished training, one of `anyres models`, or "
            "models:/NAME@ALIAS.",
        ),
    ],
    verify: Annotated[bool, typer.Option("--verify", help="Data sets: read every picture and check its SHA-256.")] = False,
    as_json: Json = False,
) -> None:
    """Describe a data set or a model; with --verify, check all pictures of a data set.

    Exits with 1 if a picture is damaged, with 2 if there is neither a data set nor a model.
    """
    from anyres.networks.shipped import shipped
    from anyres.registry.client import SCHEME, lineage

    is_model = any((Path(source) / name).is_file() for name in ("generator.json", "train.json"))
    if source.startswith(SCHEME) or is_model or source in shipped():
        with one_line_errors():
            title, stats = _describe_model(source)
            if source.startswith(SCHEME):
                stats |= {"registered": lineage(source)}
                if not as_json:
                    stats["registered"] = _describe_version(stats["registered"])
        typer.echo(json.dumps(stats, indent=2)) if as_json else _print_table(title, stats)
    else:
        _describe_data(Path(source), verify, as_json)


@app.command(epilog="Example: anyres models")
def models(as_json: Json = False) -> None:
    """List the models that come with anyres. Every command that takes a model accepts their names."""
    from anyres.networks.shipped import shipped

    metadata = {name: json.loads((folder / "generator.json").read_text(encoding="utf-8")) for name, folder in shipped().items()}
    stats = {
        name: {
            "method": meta["method"],
            "images seen": meta["nimg"],
            "chart": meta["geometry"]["chart"]["name"],
            "patch KID": meta["metrics"].get("patch_kid"),
        }
        for name, meta in metadata.items()
    }
    if as_json:
        typer.echo(json.dumps(stats, indent=2))
    elif stats:
        for name, facts in stats.items():
            score = "" if facts["patch KID"] is None else f", patch KID {facts['patch KID']:.3f}"
            typer.echo(f"{name}  {facts['method']} on a {facts['chart']}, {facts['images seen']:,} images seen{score}")
        # Only a suggestion: each model is measured on windows of its own.
        best = min(stats, key=lambda name: stats[name]["patch KID"] or math.inf)
        typer.echo(f"\nanyres view {best}")
    else:
        typer.echo("none came with this copy; `make run` trains one")


def _describe_model(source: str) -> tuple[str, dict[str, Any]]:
    """A title and facts of a model."""
    model = load_model(source)
    geometry, meta = model.geometry, model.meta
    finest, coarsest = geometry.periods
    short = geometry.chart.short_side
    return f"{meta['method']}, {source}", {
        "parameters": sum(weight.numel() for weight in model.generator.parameters()),
        "images seen": meta["nimg"],
        "chart": geometry.chart.name,
        "half extent": list(geometry.chart.half_extent),
        "frames trained, px": f"{round(short / coarsest)} to {round(short / finest)}",
        "patches trained, px": " and ".join(f"{height} x {width}" for height, width in geometry.native_sizes),
        "tiles agree exactly": geometry.exact,
        "lattice, px": geometry.lattice_px,
        "metrics": {key: meta["metrics"][key] for key in SHOWN_METRICS if key in meta["metrics"]},
        "data": meta["data_hash"],
        "git commit": meta["git_commit"],
        "weights": meta["weights_sha256"],
    }


def _describe_version(registered: dict[str, Any]) -> dict[str, Any]:
    """What the registry stores about a version, for a person."""
    moves = {move["at"][:19]: f"version {move['version']} ({move['kind']}): {move['why']}" for move in registered["champions"]}
    rows = {name: value for name, value in registered.items() if name not in ("about", "metrics")}
    return rows | {"aliases": ", ".join(registered["aliases"]) or "none", "champions": moves or "none has been promoted"}


def _describe_data(folder: Path, verify: bool, as_json: bool) -> None:
    from anyres.data.dataset_summary import DatasetSummary

    try:
        contents = DatasetSummary.of(folder)
    except ValueError as error:
        typer.echo(error, err=True)
        raise typer.Exit(2) from None
    damaged = contents.damaged(progress=not as_json) if verify else None
    if as_json:
        typer.echo(json.dumps(contents.stats | ({"damaged": damaged} if verify else {}), indent=2, ensure_ascii=False))
    else:
        _print_table(contents.title, contents.stats)
        if damaged is not None:
            typer.echo("\n".join(damaged) or f"all {contents.stats['pictures']} pictures are sound")
    if damaged:
        raise typer.Exit(1)


@app.command(epilog="Example: anyres preset anyres_gan-small")
def preset(
    name: Annotated[str, typer.Argument(help="Name of the preset. Without a name, all presets are listed.")] = "",
    params: Annotated[Path, typer.Option(help="The file to write into.")] = Path("params.yaml"),
) -> None:
    """Write a preset (a method with its sizes, stages and rates) into params.yaml; other values and comments stay."""
    from anyres import presets
    from anyres.params import ParamsError

    if not name:
        for preset_name, path in presets.preset_files().items():
            typer.echo(f"{preset_name:20} {path.read_text(encoding='utf-8').splitlines()[0].lstrip('# ')}")
        return
    try:
        presets.apply_preset(name, params)
    except ParamsError as error:
        typer.echo(error, err=True)
        raise typer.Exit(2) from None
    typer.echo(f"{params} holds {name}; `make run` trains it")


def _print_table(title: str, stats: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left", show_header=False, box=None, pad_edge=False)
    for name, value in _flatten(stats):
        table.add_row(name, value)
    Console().print(table)


def _flatten(values: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Rows of names and values as text; nested names are indented."""
    rows = []
    for name, value in values.items():
        label = prefix + str(name).replace("_", " ")
        if isinstance(value, dict):
            rows.append((label, ""))
            rows += _flatten(value, prefix + "  ")
        else:
            rows.append((label, f"{value:,}" if isinstance(value, int | float) else str(value)))
    return rows
