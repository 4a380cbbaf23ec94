"""The command `anyres`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(help="One GAN from photographs of any size, drawn at any resolution.", no_args_is_help=True)


# Endings of picture files, and what Pillow calls their format.
PICTURES = {".png": "PNG", ".jpg": "JPEG", ".webp": "WEBP", ".tif": "TIFF"}


@app.callback()
def main() -> None:
    """One GAN from photographs of any size, drawn at any resolution."""


@app.command(epilog="Example: anyres info data/store --verify")
def info(
    place: Annotated[Path, typer.Argument(metavar="DATASET", help="A folder that ingest or prepare wrote.")],
    verify: Annotated[bool, typer.Option("--verify", help="Read every picture whole and check its SHA-256.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for machines.")] = False,
) -> None:
    """Say what a data set holds and why files were set aside; with --verify whether all of it is still sound.

    Ends with 1 where something is damaged, with 2 where there is no data set.
    """
    from anyres.data.contents import Contents

    try:
        contents = Contents.of(place)
    except ValueError as error:
        typer.echo(error, err=True)
        raise typer.Exit(2) from None
    damaged = contents.damaged(progress=not as_json) if verify else None
    if as_json:
        typer.echo(json.dumps(contents.figures | ({"damaged": damaged} if verify else {}), indent=2, ensure_ascii=False))
    else:
        _show(contents.title, contents.figures)
        if damaged is not None:
            typer.echo("\n".join(damaged) or f"all {contents.figures['pictures']} pictures are sound")
    if damaged:
        raise typer.Exit(1)


@app.command(epilog="Example: anyres preset anyres_gan-small")
def preset(
    name: Annotated[str, typer.Argument(help="Its name; without one, all names are listed.")] = "",
    params: Annotated[Path, typer.Option(help="The file to write into.")] = Path("params.yaml"),
) -> None:
    """Write a preset (a method with its sizes, stages and rates) into params.yaml; other values and comments stay."""
    from anyres import presets
    from anyres.params import ParamsError

    if not name:
        for known, path in presets.shipped().items():
            typer.echo(f"{known:20} {path.read_text(encoding='utf-8').splitlines()[0].lstrip('# ')}")
        return
    try:
        presets.use(name, params)
    except ParamsError as error:
        typer.echo(error, err=True)
        raise typer.Exit(2) from None
    typer.echo(f"{params} holds {name}; `make run` trains it")


@app.command(epilog="Example: anyres panorama out/export/generator --seed 3 --height 512 --out panorama.png")
def panorama(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A bundle folder of a generator trained with chart cylinder.")],
    seed: Annotated[int, typer.Option(help="Which scene.")] = 0,
    height: Annotated[int, typer.Option(min=16, max=16384, help="Pixels down; the width follows from the angle.")] = 512,
    psi: Annotated[float, typer.Option(help="Truncation: 0 the average picture, 1 none.")] = 0.7,
    out: Annotated[Path, typer.Option(help="A .png, .jpg, .webp or .tif file.")] = Path("panorama.png"),
) -> None:
    """Draw a scene all round, 360 degrees whose ends meet.

    Ends with 2 and one line where the model has no ring to draw.
    """
    from PIL import Image

    import anyres
    from anyres.files import replacing
    from anyres.plane.chart import ring_window
    from anyres.progress import progress_bar
    from anyres.synthesis.render import render

    try:
        if out.suffix.lower() not in PICTURES:
            raise ValueError(f"{out}: not a kind of picture that is written here; end its name with {', '.join(PICTURES)}")
        loaded = anyres.load(str(model))
        window = ring_window(loaded.geometry.chart, height, loaded.geometry.lattice_px)
        with progress_bar("panorama", window.size[0] * window.size[1] / 1e6, "MP") as advance:
            pixels = render(loaded.generator, seed, window, psi, advance=advance)
        with replacing(out) as stream:
            Image.fromarray(pixels).save(stream, format=PICTURES[out.suffix.lower()])
    except (ValueError, OSError) as error:
        typer.echo(error, err=True)
        raise typer.Exit(2) from None
    typer.echo(f"{out}: {window.size[1]} x {window.size[0]} px, scene {seed}")


def _show(title: str, figures: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left", show_header=False, box=None, pad_edge=False)
    for name, value in _flat(figures):
        table.add_row(name, value)
    Console().print(table)


def _flat(values: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Names and values as words, nested names indented."""
    rows = []
    for name, value in values.items():
        words = prefix + str(name).replace("_", " ")
        if isinstance(value, dict):
            rows.append((words, ""))
            rows += _flat(value, prefix + "  ")
        else:
            rows.append((words, f"{value:,}" if isinstance(value, int | float) else str(value)))
    return rows
