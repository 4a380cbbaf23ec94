"""The command `anyres`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
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


BUNDLE = Path("out/export/generator")
Bundle = Annotated[Path, typer.Argument(metavar="MODEL", help="A bundle folder, as the stage export writes it.")]
Seed = Annotated[int, typer.Option(help="Which scene.")]
LatentFile = Annotated[Path | None, typer.Option("--latent", help="A file of `anyres invert`, in place of a seed.")]
Psi = Annotated[float, typer.Option(help="Truncation: 0 the average picture, 1 none.")]
Output = Annotated[Path, typer.Option(help="A .png, .jpg, .webp or .tif file.")]


@app.command(epilog="Example: anyres render --seed 3 --size 768x1024 --magnify 2 --pull 0,0,1.5 --out picture.png")
def render(
    model: Bundle = BUNDLE,
    seed: Seed = 0,
    latent: LatentFile = None,
    size: Annotated[str, typer.Option(help="Height x width in pixels.")] = "512x512",
    center: Annotated[str, typer.Option(help="x,y of the middle; the short side of a frame spans -1 to 1.")] = "0,0",
    zoom: Annotated[float, typer.Option(min=0.01, help="1: the short side of the picture is that of a frame.")] = 1.0,
    psi: Psi = 0.7,
    aspect: Annotated[float | None, typer.Option(help="Edit: so many times as wide.")] = None,
    magnify: Annotated[float | None, typer.Option(help="Edit: so many times as large; below 1 shows beyond the frame.")] = None,
    turn: Annotated[float | None, typer.Option(help="Edit: clockwise, in degrees.")] = None,
    pull: Annotated[str | None, typer.Option(help="Edit: x,y,power; a power above 1 swells what is there.")] = None,
    perspective: Annotated[str | None, typer.Option(help="Edit: tilt along x,y, each within ±0.9.")] = None,
    displace: Annotated[float | None, typer.Option(help="Edit: every place by about so much, smoothly.")] = None,
    out: Output = Path("picture.png"),
) -> None:
    """Draw a window of a scene, or of a projected photograph; edits of its geometry apply in the order of the help.

    Ends with 2 and one line where something does not fit.
    """
    from anyres.plane.window import Window
    from anyres.synthesis import edit

    with _one_line():
        loaded = _model(model)
        height, width = _numbers("--size", size, "x", 2)
        window_size = (int(height), int(width))
        period = loaded.geometry.chart.short_side / min(window_size) / zoom
        x, y = _numbers("--center", center, ",", 2)
        edits = []
        if aspect is not None:
            edits.append(edit.aspect(aspect))
        if magnify is not None:
            edits.append(edit.magnify(magnify))
        if turn is not None:
            edits.append(edit.turn(turn))
        if pull is not None:
            at_x, at_y, power = _numbers("--pull", pull, ",", 3)
            edits.append(edit.pull((at_x, at_y), power))
        if perspective is not None:
            tilt_x, tilt_y = _numbers("--perspective", perspective, ",", 2)
            edits.append(edit.perspective(tilt_x, tilt_y))
        if displace is not None:
            edits.append(edit.displace(displace, seed=seed))
        _write(out, loaded, seed, latent, Window((x, y), period, window_size), psi, edit.compose(edits))


@app.command(epilog="Example: anyres panorama --seed 3 --height 512 --out panorama.png")
def panorama(
    model: Bundle = BUNDLE,
    seed: Seed = 0,
    latent: LatentFile = None,
    height: Annotated[int, typer.Option(min=16, max=16384, help="Pixels down; the width follows from the angle.")] = 512,
    psi: Psi = 0.7,
    out: Output = Path("panorama.png"),
) -> None:
    """Draw a scene all round, 360 degrees whose ends meet; needs a model trained with chart cylinder.

    Ends with 2 and one line where the model has no ring to draw.
    """
    from anyres.plane.chart import ring_window

    with _one_line():
        loaded = _model(model)
        window = ring_window(loaded.geometry.chart, height, loaded.geometry.lattice_px)
        _write(out, loaded, seed, latent, window, psi, None)


@app.command(
    epilog="Example: anyres invert photo.jpg --sizes 64,96 --out photo.safetensors; anyres render --latent photo.safetensors"
)
def invert(
    photo: Annotated[Path, typer.Argument(metavar="PHOTO", help="A picture file.")],
    model: Annotated[Path, typer.Option(metavar="MODEL", help="A bundle folder, as the stage export writes it.")] = BUNDLE,
    sizes: Annotated[str, typer.Option(help="Short sides to fit at once, in pixels; by default those that training drew.")] = "",
    steps: Annotated[int, typer.Option(min=1, help="Steps of the fit.")] = 1000,
    seed: Annotated[int, typer.Option(help="Of the noise that the scene takes.")] = 0,
    out: Annotated[Path, typer.Option(help="The latent that is written.")] = Path("photo.safetensors"),
) -> None:
    """Project a photograph: find the styles whose pictures come nearest to it, at all sizes at once.

    Stopped, it goes on where it was. What it writes takes the place of a seed in other commands.
    """
    import numpy as np
    from PIL import Image, ImageOps, UnidentifiedImageError

    from anyres.progress import progress_bar
    from anyres.synthesis import invert as projection

    with _one_line():
        generator = _model(model).generator
        try:
            with Image.open(photo) as opened:
                pixels = np.array(ImageOps.exif_transpose(opened).convert("RGB"))
        except (OSError, UnidentifiedImageError) as error:
            raise ValueError(f"{photo}: not a picture that can be read ({error})") from None
        wanted_sizes = [int(value) for value in _numbers("--sizes", sizes, ",")] if sizes else None
        if wanted_sizes is None:
            wanted_sizes = [min(size) for size in generator.geometry.native_sizes]
        wanted = projection.targets(pixels, generator, wanted_sizes)
        with progress_bar("invert", steps, "steps") as advance:
            found = projection.invert(generator, wanted, steps, seed, work=out.with_suffix(".partial"), advance=advance)
        found.save(out)
        fits = ", ".join(f"{min(t.window.size)} px {projection.psnr(generator, found, t):.1f} dB" for t in wanted)
    typer.echo(f"{out}: {fits}")


@contextmanager
def _one_line() -> Iterator[None]:
    """Turn what does not fit into one line and the code 2."""
    try:
        yield
    except (ValueError, OSError) as error:
        typer.echo(" ".join(str(error).split()), err=True)
        raise typer.Exit(2) from None


def _model(folder: Path) -> Any:
    import anyres

    return anyres.load(str(folder))


def _numbers(option: str, text: str, separator: str, count: int | None = None) -> list[float]:
    try:
        values = [float(part) for part in text.split(separator)]
        if count is not None and len(values) != count:
            raise ValueError
    except ValueError:
        wanted = "numbers" if count is None else f"{count} numbers"
        raise ValueError(f"{option} takes {wanted} with {separator!r} between, found {text!r}") from None
    return values


def _write(out: Path, loaded: Any, seed: int, latent: Path | None, window: Any, psi: float, edit: Any) -> None:
    """Draw a window into a picture file."""
    from PIL import Image

    from anyres.files import replacing
    from anyres.progress import progress_bar
    from anyres.synthesis.latent import Latent
    from anyres.synthesis.render import render as draw

    if out.suffix.lower() not in PICTURES:
        raise ValueError(f"{out}: not a kind of picture that is written here; end its name with {', '.join(PICTURES)}")
    scene = seed if latent is None else Latent.load(latent)
    # Of a latent there is nothing to truncate: it is what it is.
    psi = psi if latent is None else 1.0
    with progress_bar("draw", round(window.size[0] * window.size[1] / 1e6, 2), "MP") as advance:
        pixels = draw(loaded.generator, scene, window, psi, edit=edit, advance=advance)
    with replacing(out) as stream:
        Image.fromarray(pixels).save(stream, format=PICTURES[out.suffix.lower()])
    named = f"scene {seed}" if latent is None else str(latent)
    typer.echo(f"{out}: {window.size[1]} x {window.size[0]} px, {named}")


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
