"""Commands that draw: render, panorama, fuse."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from anyres.cli.options import (
    BUNDLE,
    Bundle,
    Center,
    Dask,
    Json,
    LatentFile,
    Output,
    Psi,
    Seed,
    Size,
    app,
    drawn,
    numbers,
    one_line,
    opened,
    sides,
    tell,
    unbounded,
    write,
)


@app.command(epilog="Example: anyres render --seed 3 --size 768x1024 --magnify 2 --pull 0,0,1.5 --out picture.png")
def render(
    model: Bundle = BUNDLE,
    seed: Seed = 0,
    latent: LatentFile = None,
    size: Size = "512x512",
    center: Center = "0,0",
    zoom: Annotated[float, typer.Option(min=0.01, help="1: the short side of the picture is that of a frame.")] = 1.0,
    psi: Psi = 0.7,
    aspect: Annotated[float | None, typer.Option(help="Edit: so many times as wide.")] = None,
    magnify: Annotated[float | None, typer.Option(help="Edit: so many times as large; below 1 shows beyond the frame.")] = None,
    turn: Annotated[float | None, typer.Option(help="Edit: clockwise, in degrees.")] = None,
    pull: Annotated[str | None, typer.Option(help="Edit: x,y,power; a power above 1 swells what is there.")] = None,
    perspective: Annotated[str | None, typer.Option(help="Edit: tilt along x,y, each within ±0.9.")] = None,
    displace: Annotated[float | None, typer.Option(help="Edit: every place by about so much, smoothly.")] = None,
    resample: Annotated[
        list[str] | None,
        typer.Option(help="left,top,right,bottom,seed,structure|texture: draw that of a box anew; infinity_gan only."),
    ] = None,
    out: Output = Path("picture.png"),
    dask: Dask = None,
    as_json: Json = False,
) -> None:
    """Draw a window of a scene, or of a projected photograph; edits of its geometry apply in the order of the help.

    A latent that was fitted at one scale is drawn at it, whatever the zoom.

    Ends with 2 and one line where something does not fit.
    """
    from anyres.plane.window import Window
    from anyres.synthesis import edit
    from anyres.synthesis.request import RenderRequest

    began = time.perf_counter()
    with one_line():
        loaded = opened(model)
        window_size = sides("--size", size)
        scene, psi, named = _scene(loaded.generator, seed, latent, psi, resample or [])
        pin = getattr(scene, "pin", None)
        period = loaded.geometry.chart.short_side / min(window_size) / zoom if pin is None else pin.period
        x, y = numbers("--center", center, ",", 2)
        edits = []
        if aspect is not None:
            edits.append(edit.aspect(aspect))
        if magnify is not None:
            edits.append(edit.magnify(magnify))
        if turn is not None:
            edits.append(edit.turn(turn))
        if pull is not None:
            at_x, at_y, power = numbers("--pull", pull, ",", 3)
            edits.append(edit.pull((at_x, at_y), power))
        if perspective is not None:
            tilt_x, tilt_y = numbers("--perspective", perspective, ",", 2)
            edits.append(edit.perspective(tilt_x, tilt_y))
        if displace is not None:
            edits.append(edit.displace(displace, seed=seed))
        window = Window((x, y), period, window_size)
        write(out, loaded, RenderRequest(scene, window, psi, edit=edit.compose(edits)), dask)
        facts = _facts(window, seed, latent, psi)
        tell(as_json, drawn(out, window, named), out, loaded, began, **facts)


@app.command(epilog="Example: anyres panorama --seed 3 --height 512 --out panorama.png")
def panorama(
    model: Bundle = BUNDLE,
    seed: Seed = 0,
    latent: LatentFile = None,
    height: Annotated[int, typer.Option(min=16, max=16384, help="Pixels down; the width follows from the angle.")] = 512,
    psi: Psi = 0.7,
    out: Output = Path("panorama.png"),
    dask: Dask = None,
    as_json: Json = False,
) -> None:
    """Draw a scene all round, 360 degrees whose ends meet; needs a model trained with chart cylinder.

    Ends with 2 and one line where the model has no ring to draw.
    """
    from anyres.synthesis.request import RenderRequest

    began = time.perf_counter()
    with one_line():
        loaded = opened(model)
        window = loaded.geometry.chart.ring_window(height, loaded.geometry.lattice_px)
        scene, psi, named = _scene(loaded.generator, seed, latent, psi, [])
        write(out, loaded, RenderRequest(scene, window, psi), dask)
        facts = _facts(window, seed, latent, psi)
        tell(as_json, drawn(out, window, named), out, loaded, began, **facts)


@app.command(epilog="Example: anyres fuse --seeds 3,8,21 --size 256x1024 --out fused.png")
def fuse(
    model: Bundle = BUNDLE,
    seeds: Annotated[str, typer.Option(help="Scenes whose styles share the canvas, with commas between.")] = "0,1",
    size: Size = "256x1024",
    center: Center = "0,0",
    centers: Annotated[str, typer.Option(help="x,y of each style, with ; between; by default side by side.")] = "",
    mask: Annotated[
        Path | None, typer.Option(help="A painted picture in place of centres: grey 0 is the first seed, 1 the second, ...")
    ] = None,
    softness: Annotated[float, typer.Option(min=0.001, help="How wide styles fade into each other, in plane units.")] = 0.25,
    psi: Psi = 0.7,
    out: Output = Path("fused.png"),
    dask: Dask = None,
    as_json: Json = False,
) -> None:
    """Draw several styles over one canvas, about centres or as a mask is painted; needs a model of infinity_gan.

    Ends with 2 and one line where something does not fit.
    """
    import numpy as np
    from PIL import Image, UnidentifiedImageError

    from anyres.plane.window import Window
    from anyres.synthesis import fuse as fusion
    from anyres.synthesis.request import RenderRequest

    began = time.perf_counter()
    with one_line():
        loaded = unbounded(model)
        generator = loaded.generator
        height, width = sides("--size", size)
        x, y = numbers("--center", center, ",", 2)
        window = Window((x, y), generator.geometry.periods[0], (height, width))
        chosen = [int(seed) for seed in numbers("--seeds", seeds, ",")]
        if mask is not None:
            try:
                with Image.open(mask) as file:
                    painting = np.array(file if file.mode in ("L", "P") else file.convert("L"))
            except (OSError, UnidentifiedImageError) as error:
                raise ValueError(f"{mask}: not a picture that can be read ({error})") from None
            shares = fusion.mask_shares(painting, window, len(chosen), softness / window.period * painting.shape[1] / width)
        else:
            places = [tuple(numbers("--centers", place, ",", 2)) for place in centers.split(";")] if centers else None
            along = (np.arange(len(chosen)) + 0.5) / len(chosen) - 0.5
            found = places or [(x + window.extent[1] * float(at), y) for at in along]
            if len(found) != len(chosen):
                raise ValueError(f"--centers names {len(found)} places for {len(chosen)} seeds; give one each")
            shares = fusion.nearest_shares(found, softness)  # type: ignore[arg-type]
        scene = fusion.fuse_styles(chosen, generator.z_dim, shares)
        write(out, loaded, RenderRequest(scene, window, psi), dask)
        facts = {"size": window.size, "seeds": chosen, "window": asdict(window), "psi": psi}
        tell(as_json, drawn(out, window, f"scenes {seeds}"), out, loaded, began, **facts)


def _facts(window: Any, seed: int, latent: Path | None, psi: float) -> dict[str, Any]:
    """What machines are told of a picture of one scene."""
    scene = {"seed": seed} if latent is None else {"seed": None, "latent": str(latent)}
    return {"size": window.size, **scene, "window": asdict(window), "psi": psi}


def _scene(generator: Any, seed: int, latent: Path | None, psi: float, resample: list[str]) -> tuple[Any, float, str]:
    """What is drawn (seed, latent or scene), its truncation, and its name."""
    from dataclasses import replace

    from anyres.networks.scene import Region
    from anyres.synthesis.latent import Latent
    from anyres.synthesis.request import scene_of

    # Of a latent there is nothing to truncate: it is what it is.
    psi, named = (psi, f"scene {seed}") if latent is None else (1.0, str(latent))
    scene = seed if latent is None else Latent.load(latent)
    regions = []
    for text in resample:
        place, _, part = text.rpartition(",")
        if part.strip() not in ("structure", "texture"):
            raise ValueError(f"--resample takes left,top,right,bottom,seed and structure or texture, found {text!r}")
        left, top, right, bottom, other = numbers("--resample", place, ",", 5)
        regions.append(Region((left, top, right, bottom), int(other), part.strip()))  # type: ignore[arg-type]
    if regions:
        scene = replace(scene_of(generator, scene), regions=tuple(regions))
    return scene, psi, named
