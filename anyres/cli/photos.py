"""Commands about your own photographs: invert, outpaint, blend."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from anyres.cli.options import (
    BUNDLE,
    Json,
    ModelOption,
    Output,
    Photo,
    TileOptions,
    app,
    check_output,
    describe_picture,
    load_infinity_gan,
    load_model,
    one_line_errors,
    parse_numbers,
    read_photograph,
    report,
    with_groups,
    write_picture,
)


@app.command(
    epilog="Example: anyres invert photo.jpg --sizes 64,96 --steps 80 --out it.safetensors; anyres render --latent it.safetensors"
)
def invert(
    photo: Photo,
    model: ModelOption = BUNDLE,
    sizes: Annotated[
        str, typer.Option(help="Short sides in pixels to fit together, with commas between. By default the trained sizes.")
    ] = "",
    steps: Annotated[int, typer.Option(min=1, help="Steps of the fit.")] = 1000,
    seed: Annotated[int, typer.Option(help="Seed of the scene's noise.")] = 0,
    out: Annotated[Path, typer.Option(help="The latent to write.")] = Path("photo.safetensors"),
    as_json: Json = False,
) -> None:
    """Project a photograph: find the styles whose pictures are nearest to it at all sizes.

    The same command resumes an interrupted fit. Other commands take the latent that it writes instead of a seed.
    """
    from anyres.progress import progress_bar
    from anyres.synthesis import invert as projection

    began = time.perf_counter()
    with one_line_errors():
        loaded = load_model(model)
        generator = loaded.generator
        pixels = read_photograph(photo)
        if sizes:
            short_sides = [int(value) for value in parse_numbers("--sizes", sizes, ",")]
        else:
            short_sides = [min(size) for size in generator.geometry.native_sizes]
        targets = projection.targets(pixels, generator, short_sides)
        with progress_bar("invert", steps, "steps") as advance:
            latent = projection.invert(generator, targets, steps, seed, work=out.with_suffix(".partial"), advance=advance)
        latent.save(out)
        fits = {min(target.window.size): projection.psnr(generator, latent, target) for target in targets}
    message = ", ".join(f"{short} px {fit:.1f} dB" for short, fit in fits.items())
    facts = {"sizes": list(fits), "psnr_db": list(fits.values()), "seed": seed, "photo": str(photo), "steps": steps}
    report(as_json, f"{out}: {message}", out, loaded, began, **facts)


@dataclass(frozen=True)
class FitOptions:
    """How a photograph is fitted on an unbounded canvas."""

    size: Annotated[int | None, typer.Option("--size", min=8, help="Short side in pixels; by default that of a frame.")] = None
    steps: Annotated[int, typer.Option(min=1, help="Steps of the fit.")] = 500
    seed: Annotated[int, typer.Option(help="Seed of what lies beyond the photograph.")] = 0


@app.command(epilog="Example: anyres outpaint photo.jpg --times 2 --side right --out wide.png")
@with_groups
def outpaint(
    *,
    photo: Photo,
    model: ModelOption = BUNDLE,
    times: Annotated[float, typer.Option(min=1, max=64, help="Width of the canvas, in widths of the photograph.")] = 2.0,
    side: Annotated[str, typer.Option(help="Where the canvas continues: right, left or both.")] = "right",
    options: FitOptions,
    tiles: TileOptions,
    out: Output = Path("outpainted.png"),
    as_json: Json = False,
) -> None:
    """Draw a photograph and what might lie beside it; needs a model of infinity_gan.

    Writes the latent beside the picture, for `anyres render --latent`. The same command resumes an interrupted fit. Prints how
    well the photograph is reproduced, and which share of the steps between columns is smaller than the step at its border.
    """
    from anyres.synthesis import outpaint as outpainting
    from anyres.synthesis.render import render
    from anyres.synthesis.request import RenderRequest

    began = time.perf_counter()
    with one_line_errors():
        check_output(out)
        if side != "right" and side != "left" and side != "both":
            raise ValueError(f"--side takes right, left or both, found {side!r}")
        loaded = load_infinity_gan(model)
        tiled, generator = tiles.of_request(loaded), loaded.generator
        target = outpainting.place_photo(read_photograph(photo), generator, options.size or _frame_px(generator))
        target, canvas = outpainting.extend_canvas(target, times, side)
        request = RenderRequest(_fit(generator, target, options, out), canvas, **tiled)
        write_picture(out, loaded, request)
        pixels = render(generator, request)
        left = round((target.window.origin[0] - canvas.origin[0]) / canvas.period)
        right = left + target.window.size[1]
        seams = [outpainting.seam_rank(pixels, edge) for edge in (left, right) if 0 < edge < canvas.size[1]]
        psnr_db = outpainting.fidelity(pixels[:, left:right], target)
    shares = ", ".join(f"{share:.0%}" for share in seams) or "none"
    picture = describe_picture(out, canvas, str(photo))
    message = f"{picture}\ngiven part {psnr_db:.1f} dB; smaller steps than at its border: {shares}"
    facts = {"size": canvas.size, "seed": options.seed, "photo": str(photo), "latent": str(out.with_suffix(".safetensors"))}
    facts |= {"window": asdict(canvas), "psi": 1.0, "psnr_db": psnr_db, "smaller_steps": seams}
    report(as_json, message, out, loaded, began, **facts)


@app.command(epilog="Example: anyres blend left.jpg right.jpg --gap 1.5 --steps 100 --out between.png")
@with_groups
def blend(
    *,
    first: Annotated[Path, typer.Argument(metavar="A", help="The photograph on the left.")],
    second: Annotated[Path, typer.Argument(metavar="B", help="The photograph on the right.")],
    model: ModelOption = BUNDLE,
    gap: Annotated[float, typer.Option(min=0, max=64, help="Width of the gap, in widths of the left photograph.")] = 1.0,
    options: FitOptions,
    tiles: TileOptions,
    out: Output = Path("between.png"),
    as_json: Json = False,
) -> None:
    """Draw two photographs on one canvas and what might lie between them; needs a model of infinity_gan."""
    from anyres.synthesis import outpaint as outpainting
    from anyres.synthesis.request import RenderRequest

    began = time.perf_counter()
    with one_line_errors():
        check_output(out)
        loaded = load_infinity_gan(model)
        tiled, generator = tiles.of_request(loaded), loaded.generator
        short = options.size or _frame_px(generator)
        a, b = (outpainting.place_photo(read_photograph(path), generator, short) for path in (first, second))
        a, b, canvas = outpainting.side_by_side(a, b, gap)
        files = [out.with_name(f"{out.stem}.{name}{out.suffix}") for name in ("a", "b")]
        left, right = (_fit(generator, target, options, file) for target, file in zip((a, b), files, strict=True))
        span = (a.window.bounds[2], b.window.bounds[0])
        write_picture(out, loaded, RenderRequest(outpainting.blend_scenes(left, right, span), canvas, **tiled))
    facts = {"size": canvas.size, "seed": options.seed, "photos": [str(first), str(second)]}
    facts |= {"latents": [str(file.with_suffix(".safetensors")) for file in files], "window": asdict(canvas), "psi": 1.0}
    report(as_json, describe_picture(out, canvas, f"{first}, {second}"), out, loaded, began, **facts)


def _frame_px(generator: Any) -> int:
    """Pixels along the short side of a frame, at the single period that a generator was trained at."""
    return round(generator.geometry.chart.short_side / generator.geometry.periods[0])


def _fit(generator: Any, target: Any, options: FitOptions, out: Path) -> Any:
    """Fit a scene, resumable, and write its latent beside `out`."""
    from anyres.progress import progress_bar
    from anyres.synthesis.outpaint import fit

    with progress_bar("fit", options.steps, "steps") as advance:
        latent = fit(generator, target, options.steps, options.seed, work=out.with_suffix(".partial"), advance=advance)
    latent.save(out.with_suffix(".safetensors"))
    return latent
