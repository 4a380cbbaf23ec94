"""Commands about your own photographs: invert, outpaint, blend."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from anyres.cli.options import (
    BUNDLE,
    Json,
    ModelOption,
    Output,
    Photo,
    app,
    check_output,
    drawn,
    numbers,
    one_line,
    opened,
    photograph,
    tell,
    unbounded,
    write,
)


@app.command(
    epilog="Example: anyres invert photo.jpg --sizes 64,96 --steps 80 --out it.safetensors; anyres render --latent it.safetensors"
)
def invert(
    photo: Photo,
    model: ModelOption = BUNDLE,
    sizes: Annotated[str, typer.Option(help="Short sides to fit at once, in pixels; by default those that training drew.")] = "",
    steps: Annotated[int, typer.Option(min=1, help="Steps of the fit.")] = 1000,
    seed: Annotated[int, typer.Option(help="Of the noise that the scene takes.")] = 0,
    out: Annotated[Path, typer.Option(help="The latent that is written.")] = Path("photo.safetensors"),
    as_json: Json = False,
) -> None:
    """Project a photograph: find the styles whose pictures come nearest to it, at all sizes at once.

    Stopped, it goes on where it was. What it writes takes the place of a seed in other commands.
    """
    from anyres.progress import progress_bar
    from anyres.synthesis import invert as projection

    began = time.perf_counter()
    with one_line():
        loaded = opened(model)
        generator = loaded.generator
        pixels = photograph(photo)
        wanted_sizes = [int(value) for value in numbers("--sizes", sizes, ",")] if sizes else None
        if wanted_sizes is None:
            wanted_sizes = [min(size) for size in generator.geometry.native_sizes]
        wanted = projection.targets(pixels, generator, wanted_sizes)
        with progress_bar("invert", steps, "steps") as advance:
            found = projection.invert(generator, wanted, steps, seed, work=out.with_suffix(".partial"), advance=advance)
        found.save(out)
        fits = {min(target.window.size): projection.psnr(generator, found, target) for target in wanted}
    words = ", ".join(f"{short} px {fit:.1f} dB" for short, fit in fits.items())
    facts = {"sizes": list(fits), "psnr_db": list(fits.values()), "seed": seed, "photo": str(photo), "steps": steps}
    tell(as_json, f"{out}: {words}", out, loaded, began, **facts)


ShortSide = Annotated[int | None, typer.Option("--size", min=8, help="Pixels along the short side; by default a frame's.")]
Steps = Annotated[int, typer.Option(min=1, help="Steps of the fit.")]


@app.command(epilog="Example: anyres outpaint photo.jpg --times 2 --side right --out wide.png")
def outpaint(
    photo: Photo,
    model: ModelOption = BUNDLE,
    size: ShortSide = None,
    times: Annotated[float, typer.Option(min=1, max=64, help="How many times as wide as the photograph.")] = 2.0,
    side: Annotated[str, typer.Option(help="Where the canvas goes on: right, left or both.")] = "right",
    steps: Steps = 500,
    seed: Annotated[int, typer.Option(help="Of what lies beyond the photograph.")] = 0,
    out: Output = Path("outpainted.png"),
    as_json: Json = False,
) -> None:
    """Draw a photograph and what might lie beside it; needs a model of infinity_gan.

    Writes the latent beside the picture, for `anyres render --latent`. Stopped, it goes on where it was. Says how near the given
    part is, and which share of the steps between columns is smaller than the one at its border.
    """
    from anyres.synthesis import outpaint as beyond
    from anyres.synthesis.render import render
    from anyres.synthesis.request import RenderRequest

    began = time.perf_counter()
    with one_line():
        check_output(out)
        loaded = unbounded(model)
        generator = loaded.generator
        target = beyond.place_photo(photograph(photo), generator, size or _frame_px(generator))
        target, canvas = beyond.extend_canvas(target, times, side)  # type: ignore[arg-type]
        found = _fitted(generator, target, steps, seed, out)
        request = RenderRequest(found, canvas)
        write(out, loaded, request)
        pixels = render(generator, request)
        left = round((target.window.origin[0] - canvas.origin[0]) / canvas.period)
        right = left + target.window.size[1]
        seams = [beyond.seam_rank(pixels, edge) for edge in (left, right) if 0 < edge < canvas.size[1]]
        near = beyond.fidelity(pixels[:, left:right], target)
    shares = ", ".join(f"{share:.0%}" for share in seams) or "none"
    words = f"{drawn(out, canvas, str(photo))}\ngiven part {near:.1f} dB; smaller steps than at its border: {shares}"
    facts = {"size": canvas.size, "seed": seed, "photo": str(photo), "latent": str(out.with_suffix(".safetensors"))}
    facts |= {"window": asdict(canvas), "psi": 1.0, "psnr_db": near, "smaller_steps": seams}
    tell(as_json, words, out, loaded, began, **facts)


@app.command(epilog="Example: anyres blend left.jpg right.jpg --gap 1.5 --steps 100 --out between.png")
def blend(
    first: Annotated[Path, typer.Argument(metavar="A", help="The photograph at the left.")],
    second: Annotated[Path, typer.Argument(metavar="B", help="The photograph at the right.")],
    model: ModelOption = BUNDLE,
    size: ShortSide = None,
    gap: Annotated[float, typer.Option(min=0, max=64, help="Width of what lies between, in widths of the left one.")] = 1.0,
    steps: Steps = 500,
    seed: Annotated[int, typer.Option(help="Of what lies between.")] = 0,
    out: Output = Path("between.png"),
    as_json: Json = False,
) -> None:
    """Draw two photographs on one canvas and what might lie between them; needs a model of infinity_gan."""
    from anyres.synthesis import outpaint as beyond
    from anyres.synthesis.request import RenderRequest

    began = time.perf_counter()
    with one_line():
        check_output(out)
        loaded = unbounded(model)
        generator = loaded.generator
        short = size or _frame_px(generator)
        a, b = (beyond.place_photo(photograph(path), generator, short) for path in (first, second))
        a, b, canvas = beyond.side_by_side(a, b, gap)
        files = [out.with_name(f"{out.stem}.{name}{out.suffix}") for name in ("a", "b")]
        found = [_fitted(generator, part, steps, seed, file) for part, file in zip((a, b), files, strict=True)]
        span = (a.window.bounds[2], b.window.bounds[0])
        write(out, loaded, RenderRequest(beyond.blend_scenes(found[0], found[1], span), canvas))
    facts = {"size": canvas.size, "seed": seed, "photos": [str(first), str(second)]}
    facts |= {"latents": [str(file.with_suffix(".safetensors")) for file in files], "window": asdict(canvas), "psi": 1.0}
    tell(as_json, drawn(out, canvas, f"{first}, {second}"), out, loaded, began, **facts)


def _frame_px(generator: Any) -> int:
    """Pixels of a frame's short side at the one period that a generator was trained at."""
    return round(generator.geometry.chart.short_side / generator.geometry.periods[0])


def _fitted(generator: Any, target: Any, steps: int, seed: int, out: Path) -> Any:
    """Fit a scene, resumable, and keep it as a latent beside `out`."""
    from anyres.progress import progress_bar
    from anyres.synthesis.outpaint import fit

    with progress_bar("fit", steps, "steps") as advance:
        found = fit(generator, target, steps, seed, work=out.with_suffix(".partial"), advance=advance)
    found.save(out.with_suffix(".safetensors"))
    return found
