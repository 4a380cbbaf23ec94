"""What commands share: the application, options that several take, errors of one line, and writing of pictures."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(help="One GAN from photographs of any size, drawn at any resolution.", no_args_is_help=True)

# Endings of pictures that are drawn in memory, and what Pillow calls their format.
PICTURES = {".png": "PNG", ".jpg": "JPEG", ".webp": "WEBP"}
# Those of pictures that may be larger than memory; PNG too, from so many megapixels on.
STREAMED = (".tif", ".tiff", ".dzi", ".zarr")
STREAMED_MP = 64.0

BUNDLE = "out/export/generator"
MODEL_HELP = (
    "A bundle folder, as the stage export writes it, a model that comes with anyres (`anyres models`), or models:/NAME@ALIAS of "
    "an MLflow registry."
)
Bundle = Annotated[str, typer.Argument(metavar="MODEL", help=MODEL_HELP)]
ModelOption = Annotated[str, typer.Option("--model", metavar="MODEL", help=MODEL_HELP)]
Photo = Annotated[Path, typer.Argument(metavar="PHOTO", help="A picture file.")]
Seed = Annotated[int, typer.Option(help="Which scene.")]
LatentFile = Annotated[Path | None, typer.Option("--latent", help="A file of `anyres invert` or `outpaint`, in place of a seed.")]
Psi = Annotated[float, typer.Option(help="Truncation: 0 the average picture, 1 none.")]
Size = Annotated[str, typer.Option(help="Height x width in pixels.")]
Center = Annotated[str, typer.Option(help="x,y of the middle; the short side of a frame spans -1 to 1.")]
Output = Annotated[
    Path,
    typer.Option(help="A .png, .jpg or .webp; or .tif (a pyramid), .dzi (Deep Zoom) or .zarr, for pictures larger than memory."),
]
Dask = Annotated[
    str | None,
    typer.Option(metavar="ADDRESS", help="A Dask scheduler, tcp://host:8786, whose workers draw the tiles: the same file."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for machines.")]


@app.callback()
def main() -> None:
    """One GAN from photographs of any size, drawn at any resolution."""


@contextmanager
def one_line() -> Iterator[None]:
    """Turn what does not fit into one line and the code 2."""
    try:
        yield
    except (ValueError, OSError) as error:
        typer.echo(" ".join(str(error).split()), err=True)
        raise typer.Exit(2) from None


def opened(model: str) -> Any:
    """The model in a bundle folder or a registry."""
    import anyres

    return anyres.load(model)


def unbounded(model: str) -> Any:
    """A model that draws several styles and pinned fields. Raises ValueError, one line, for another."""
    loaded = opened(model)
    if not loaded.generator.draws_regions:
        raise ValueError(f"{model} holds a {type(loaded.generator).__name__}, this needs infinity_gan; see `anyres preset`")
    return loaded


def photograph(path: Path) -> Any:
    """Pixels of a picture file, uint8 (h, w, 3), turned as its EXIF says."""
    import numpy as np
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(path) as file:
            return np.array(ImageOps.exif_transpose(file).convert("RGB"))
    except (OSError, UnidentifiedImageError) as error:
        raise ValueError(f"{path}: not a picture that can be read ({error})") from None


def numbers(option: str, text: str, separator: str, count: int | None = None) -> list[float]:
    """Numbers of an option's value. Raises ValueError, one line, where they are none or not as many."""
    try:
        values = [float(part) for part in text.split(separator)]
        if count is not None and len(values) != count:
            raise ValueError
    except ValueError:
        wanted = "numbers" if count is None else f"{count} numbers"
        raise ValueError(f"{option} takes {wanted} with {separator!r} between, found {text!r}") from None
    return values


def sides(option: str, text: str) -> tuple[int, int]:
    """Height and width of an option's value, 512x768. Raises ValueError, one line, where they are no sides of a picture."""
    height, width = numbers(option, text, "x", 2)
    if height != int(height) or width != int(width) or min(height, width) < 1:
        raise ValueError(f"{option} takes two whole numbers of pixels from 1 on, height x width, found {text!r}")
    return int(height), int(width)


def check_output(out: Path) -> None:
    """Raise ValueError, one line, for a kind of file that is not written here: before hours of work, not after."""
    if out.suffix.lower() not in (*PICTURES, *STREAMED):
        raise ValueError(
            f"{out}: not a kind of picture that is written here; end its name with {', '.join((*PICTURES, *STREAMED))}"
        )


def write(out: Path, model: Any, request: Any, dask: str | None = None) -> None:
    """Draw a `RenderRequest` into a picture file."""
    from PIL import Image

    from anyres.files import atomic_file
    from anyres.progress import progress_bar
    from anyres.synthesis.render import render

    check_output(out)
    kind, (height, width) = out.suffix.lower(), request.window.size
    megapixels = height * width / 1e6

    def resumed(done: float) -> None:
        typer.echo(f"{out}: goes on at {done:.2f} of {megapixels:.2f} MP, which were drawn before", err=True)

    with progress_bar("draw", megapixels, "MP") as advance:
        if kind in STREAMED or (kind == ".png" and megapixels >= STREAMED_MP):
            model.write(out, request, advance, resumed, dask)
        else:
            with model.drawing_on(dask) as draw:
                pixels = render(model.generator, request, advance, draw)
            with atomic_file(out) as stream:
                Image.fromarray(pixels).save(stream, format=PICTURES[kind])


def drawn(out: Path, window: Any, named: str) -> str:
    """What is said of a picture that was drawn."""
    return f"{out}: {window.size[1]} x {window.size[0]} px, {named}"


def tell(as_json: bool, words: str, out: Path, model: Any, began: float, **facts: Any) -> None:
    """Say in words what was written, or for machines in one JSON object; `began` is when work began, by `time.perf_counter`."""
    if as_json:
        facts = {"path": str(out), **facts, "weights": model.meta["weights_sha256"]}
        words = json.dumps(facts | {"seconds": round(time.perf_counter() - began, 3)}, indent=2)
    typer.echo(words)
