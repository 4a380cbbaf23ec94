"""What commands share: the application, options that several take, errors of one line, and writing of pictures."""

from __future__ import annotations

import functools
import inspect
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, is_dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(help="One GAN from photographs of any size, drawn at any resolution.", no_args_is_help=True)

# Pillow's format for each suffix of a picture that is drawn in memory.
PICTURES = {".png": "PNG", ".jpg": "JPEG", ".webp": "WEBP"}
# Suffixes of pictures that may be larger than memory. A PNG is streamed from STREAMED_MP megapixels on.
STREAMED = (".tif", ".tiff", ".dzi", ".zarr")
STREAMED_MP = 64.0

BUNDLE = "out/export/generator"
MODEL_HELP = (
    "A bundle folder, as the stage export writes it; the folder of a finished training, out/train; a model that comes with "
    "anyres (`anyres models`); or models:/NAME@ALIAS of an MLflow registry."
)
Bundle = Annotated[str, typer.Argument(metavar="MODEL", help=MODEL_HELP)]
ModelOption = Annotated[str, typer.Option("--model", metavar="MODEL", help=MODEL_HELP)]
Photo = Annotated[Path, typer.Argument(metavar="PHOTO", help="A picture file.")]
Seed = Annotated[int, typer.Option(help="Seed of the scene.")]
LatentFile = Annotated[
    Path | None, typer.Option("--latent", help="A file that `anyres invert` or `outpaint` wrote, instead of a seed.")
]
Psi = Annotated[float, typer.Option(help="Truncation: 0 draws the average picture, 1 does not truncate.")]
Size = Annotated[str, typer.Option(help="Height x width in pixels.")]
Center = Annotated[str, typer.Option(help="x,y of the middle. The short side of a frame spans -1 to 1.")]
Output = Annotated[
    Path,
    typer.Option(
        help="The picture to write: .png, .jpg or .webp; or .tif (a pyramid), .dzi (Deep Zoom) or .zarr, which may be larger "
        "than memory."
    ),
]
Dask = Annotated[
    str | None,
    typer.Option(metavar="ADDRESS", help="A Dask scheduler, tcp://host:8786, whose workers draw the tiles of the same file."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


@dataclass(frozen=True)
class SceneOptions:
    """Which scene is drawn, and its truncation."""

    seed: Seed = 0
    latent: LatentFile = None
    psi: Psi = 0.7


@dataclass(frozen=True)
class TileOptions:
    """How a picture is divided into tiles."""

    tile: Annotated[int, typer.Option(min=1, help="Side in pixels of the largest tile that is drawn at once.")] = 512
    stitch: Annotated[
        str | None,
        typer.Option(
            metavar="grid|overlap",
            help="How tiles meet: side by side, or larger by an eighth and faded into each other. By default grid for models "
            "whose tiles agree exactly, overlap for others.",
        ),
    ] = None

    def of_request(self, model: Any) -> dict[str, Any]:
        """What a `RenderRequest` takes of them. Raises ValueError, one line, for another stitch or too small a tile."""
        if self.stitch not in (None, "grid", "overlap"):
            raise ValueError(f"--stitch takes grid or overlap, found {self.stitch!r}")
        if self.tile < model.geometry.lattice_px:
            raise ValueError(f"--tile takes at least the lattice of the model, {model.geometry.lattice_px} px, found {self.tile}")
        return {"tile": self.tile, "stitch": self.stitch}


@dataclass(frozen=True)
class DrawOptions(TileOptions):
    """How a picture is divided into tiles, and where they are drawn."""

    dask: Dask = None


@app.callback()
def main() -> None:
    """One GAN from photographs of any size, drawn at any resolution."""


def with_groups(command: Callable[..., None]) -> Callable[..., None]:
    """Let a command take groups of options: typer gets one option for each field of a parameter that is a dataclass."""
    signature = inspect.signature(command, eval_str=True)
    groups: dict[str, tuple[Callable[..., Any], list[str]]] = {}
    parameters: list[inspect.Parameter] = []
    for parameter in signature.parameters.values():
        options = [parameter]
        if isinstance(parameter.annotation, type) and is_dataclass(parameter.annotation):
            options = list(inspect.signature(parameter.annotation, eval_str=True).parameters.values())
            groups[parameter.name] = parameter.annotation, [option.name for option in options]
        parameters += [option.replace(kind=inspect.Parameter.KEYWORD_ONLY) for option in options]

    @functools.wraps(command)
    def run(**values: Any) -> None:
        for name, (group, options) in groups.items():
            values[name] = group(**{option: values.pop(option) for option in options})
        command(**values)

    vars(run)["__signature__"] = signature.replace(parameters=parameters)
    run.__annotations__ = {option.name: option.annotation for option in parameters}
    return run


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Print a ValueError or OSError as one line and exit with 2."""
    try:
        yield
    except (ValueError, OSError) as error:
        typer.echo(" ".join(str(error).split()), err=True)
        raise typer.Exit(2) from None


def load_model(model: str) -> Any:
    """Load the model of a bundle folder or a registry."""
    import anyres

    return anyres.load(model)


def load_infinity_gan(model: str) -> Any:
    """Load a model that draws several styles and pinned fields. Raises ValueError, one line, for another one."""
    loaded = load_model(model)
    if not loaded.generator.draws_regions:
        raise ValueError(f"{model} holds a {type(loaded.generator).__name__}, this needs infinity_gan; see `anyres preset`")
    return loaded


def read_photograph(path: Path) -> Any:
    """Pixels of a picture file, uint8 (h, w, 3), oriented as its EXIF says."""
    import numpy as np
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(path) as file:
            return np.array(ImageOps.exif_transpose(file).convert("RGB"))
    except (OSError, UnidentifiedImageError) as error:
        raise ValueError(f"{path}: not a picture that can be read ({error})") from None


def parse_numbers(option: str, text: str, separator: str, count: int | None = None) -> list[float]:
    """Parse numbers from an option's value. Raises ValueError, one line, for something else or another count."""
    try:
        values = [float(number) for number in text.split(separator)]
        if count is not None and len(values) != count:
            raise ValueError
    except ValueError:
        expected = "numbers" if count is None else f"{count} numbers"
        raise ValueError(f"{option} takes {expected} with {separator!r} between, found {text!r}") from None
    return values


def parse_size(option: str, text: str) -> tuple[int, int]:
    """Parse height and width from an option's value, for example 512x768. Raises ValueError, one line, for something else."""
    height, width = parse_numbers(option, text, "x", 2)
    if height != int(height) or width != int(width) or min(height, width) < 1:
        raise ValueError(f"{option} takes two whole numbers of pixels from 1 on, height x width, found {text!r}")
    return int(height), int(width)


def check_output(out: Path) -> None:
    """Raise ValueError, one line, for a suffix that is not supported: before hours of work, not after."""
    if out.suffix.lower() not in (*PICTURES, *STREAMED):
        raise ValueError(
            f"{out}: not a kind of picture that is written here; end its name with {', '.join((*PICTURES, *STREAMED))}"
        )


def write_picture(out: Path, model: Any, request: Any, dask: str | None = None) -> None:
    """Draw a `RenderRequest` into a picture file."""
    from PIL import Image

    from anyres.files import atomic_file
    from anyres.progress import progress_bar
    from anyres.synthesis.render import render

    check_output(out)
    kind, (height, width) = out.suffix.lower(), request.window.size
    megapixels = height * width / 1e6

    def resumed(done: float) -> None:
        typer.echo(f"{out}: resumes at {done:.2f} of {megapixels:.2f} MP, which were drawn before", err=True)

    with progress_bar("draw", megapixels, "MP") as advance:
        if kind in STREAMED or (kind == ".png" and megapixels >= STREAMED_MP):
            model.write(out, request, advance, resumed, dask)
        else:
            with model.drawing_on(dask) as draw:
                pixels = render(model.generator, request, advance, draw)
            with atomic_file(out) as stream:
                Image.fromarray(pixels).save(stream, format=PICTURES[kind])
    warn_beyond(model, [request.window])


def has_one_scale(geometry: Any) -> bool:
    """Whether a model draws one scale only: a zoom changes nothing."""
    finest, coarsest = geometry.periods
    return coarsest <= finest * (1 + 1e-9)


def check_zoom(model: Any, name: str, zoom: float) -> None:
    """Raise ValueError, one line, for a --zoom of a model of one scale."""
    if zoom != 1.0 and has_one_scale(model.geometry):
        finest = round(model.geometry.chart.short_side / model.geometry.periods[0])
        raise ValueError(
            f"--zoom {zoom:g}: {name} has one scale, that of frames of {finest} px; leave --zoom out, and choose --size"
        )


def warn_beyond(model: Any, windows: Sequence[Any]) -> None:
    """Print one line on stderr where windows are finer or coarser than the scales of the training."""
    geometry = model.geometry
    finest, coarsest = geometry.periods
    slack = 1 + 1e-6
    beyond = [window for window in windows if window.period * slack < finest or window.period > coarsest * slack]
    if not beyond or has_one_scale(geometry):
        return
    height, width = beyond[-1].size
    zooms = [geometry.chart.short_side / min(height, width) / period for period in (coarsest, finest)]
    frames = [round(geometry.chart.short_side / period) for period in (coarsest, finest, beyond[-1].period)]
    typer.echo(
        f"warning: trained on frames of {frames[0]} to {frames[1]} px, this is of one of {frames[2]} px; at {height}x{width} "
        f"the trained range is zoom {zooms[0]:.3g} to {zooms[1]:.3g}, beyond it detail is missing or wrong",
        err=True,
    )


def describe_picture(out: Path, window: Any, subject: str) -> str:
    """The line that a command prints about a picture."""
    return f"{out}: {window.size[1]} x {window.size[0]} px, {subject}"


def report(as_json: bool, message: str, out: Path, model: Any, began: float, **facts: Any) -> None:
    """Print what was written: a message, or one JSON object. `began` is when work began, by `time.perf_counter`."""
    if as_json:
        facts = {"path": str(out), **facts, "weights": model.meta["weights_sha256"]}
        message = json.dumps(facts | {"seconds": round(time.perf_counter() - began, 3)}, indent=2)
    typer.echo(message)
