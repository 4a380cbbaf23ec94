"""Commands that draw: render, panorama, fuse."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from anyres.cli.options import (
    BUNDLE,
    Bundle,
    Center,
    DrawOptions,
    Json,
    Output,
    Psi,
    SceneOptions,
    Size,
    app,
    check_zoom,
    describe_picture,
    load_infinity_gan,
    load_model,
    one_line_errors,
    parse_numbers,
    parse_size,
    report,
    with_groups,
    write_picture,
)


@dataclass(frozen=True)
class ViewOptions:
    """Which window of the plane a picture shows."""

    size: Size = "512x512"
    center: Center = "0,0"
    zoom: Annotated[
        float, typer.Option(min=0.01, help="Zoom: at 1 the short side of the picture spans the short side of a frame.")
    ] = 1.0


@dataclass(frozen=True)
class EditOptions:
    """Edits of the geometry of a picture, in the order in which they apply."""

    aspect: Annotated[float | None, typer.Option(help="Edit: stretch the width by this factor.")] = None
    magnify: Annotated[
        float | None, typer.Option(help="Edit: enlarge by this factor; below 1 shows what lies beyond the frame.")
    ] = None
    turn: Annotated[float | None, typer.Option(help="Edit: rotate clockwise, in degrees.")] = None
    pull: Annotated[
        str | None, typer.Option(help="Edit: x,y,power: a power above 1 swells the picture around x,y, below 1 pinches it.")
    ] = None
    perspective: Annotated[str | None, typer.Option(help="Edit: tilt along x,y, each within ±0.9.")] = None
    displace: Annotated[
        float | None, typer.Option(help="Edit: move every point smoothly by about this distance in plane units.")
    ] = None


@app.command(epilog="Example: anyres render --seed 3 --size 768x1024 --magnify 2 --pull 0,0,1.5 --out picture.png")
@with_groups
def render(
    *,
    model: Bundle = BUNDLE,
    subject: SceneOptions,
    view: ViewOptions,
    edits: EditOptions,
    resample: Annotated[
        list[str] | None,
        typer.Option(
            help="left,top,right,bottom,seed,structure|texture: draw the structure or the texture of this box from another "
            "seed; needs a model of infinity_gan."
        ),
    ] = None,
    out: Output = Path("picture.png"),
    drawing: DrawOptions,
    as_json: Json = False,
) -> None:
    """Draw a window of a scene or of a projected photograph. Edits of the geometry apply in the order of this help.

    A latent that was fitted at one scale is drawn at that scale, whatever the zoom.

    Exits with 2 and prints one line if an argument is wrong.
    """
    from anyres.plane.window import Window
    from anyres.synthesis.request import RenderRequest

    began = time.perf_counter()
    with one_line_errors():
        loaded = load_model(model)
        check_zoom(loaded, model, view.zoom)
        size = parse_size("--size", view.size)
        scene, psi = _scene(loaded.generator, subject, resample or [])
        pin = getattr(scene, "pin", None)
        period = loaded.geometry.chart.short_side / min(size) / view.zoom if pin is None else pin.period
        x, y = parse_numbers("--center", view.center, ",", 2)
        window = Window((x, y), period, size)
        request = RenderRequest(scene, window, psi, edit=_compose(edits, subject.seed), **drawing.of_request(loaded))
        write_picture(out, loaded, request, drawing.dask)
        message = describe_picture(out, window, _name(subject))
        report(as_json, message, out, loaded, began, **_facts(window, subject, psi))


@app.command(epilog="Example: anyres panorama --seed 3 --height 512 --out panorama.png")
@with_groups
def panorama(
    *,
    model: Bundle = BUNDLE,
    subject: SceneOptions,
    height: Annotated[
        int, typer.Option(min=16, max=16384, help="Height in pixels. The width follows from the model's vertical angle.")
    ] = 512,
    out: Output = Path("panorama.png"),
    drawing: DrawOptions,
    as_json: Json = False,
) -> None:
    """Draw a scene as a panorama of 360 degrees whose ends meet; needs a model trained with chart cylinder.

    Exits with 2 and prints one line if the model has another chart or an argument is wrong.
    """
    from anyres.synthesis.request import RenderRequest

    began = time.perf_counter()
    with one_line_errors():
        loaded = load_model(model)
        window = loaded.geometry.chart.ring_window(height, loaded.geometry.lattice_px)
        scene, psi = _scene(loaded.generator, subject, [])
        write_picture(out, loaded, RenderRequest(scene, window, psi, **drawing.of_request(loaded)), drawing.dask)
        message = describe_picture(out, window, _name(subject))
        report(as_json, message, out, loaded, began, **_facts(window, subject, psi))


@dataclass(frozen=True)
class StyleOptions:
    """Which styles share a canvas, and where each of them lies."""

    seeds: Annotated[str, typer.Option(help="Seeds whose styles share the canvas, with commas between.")] = "0,1"
    centers: Annotated[
        str, typer.Option(help="x,y of the centre of each style, with ; between. By default the styles lie side by side.")
    ] = ""
    mask: Annotated[
        Path | None,
        typer.Option(help="A painted picture instead of centres: grey 0 is the first seed, 1 the second, and so on."),
    ] = None
    softness: Annotated[float, typer.Option(min=0.001, help="Width of the transition between styles, in plane units.")] = 0.25


@app.command(epilog="Example: anyres fuse --seeds 3,8,21 --size 256x1024 --out fused.png")
@with_groups
def fuse(
    *,
    model: Bundle = BUNDLE,
    styles: StyleOptions,
    size: Size = "256x1024",
    center: Center = "0,0",
    psi: Psi = 0.7,
    out: Output = Path("fused.png"),
    drawing: DrawOptions,
    as_json: Json = False,
) -> None:
    """Draw several styles over one canvas, placed by centres or by a mask; needs a model of infinity_gan.

    Exits with 2 and prints one line if an argument is wrong.
    """
    from anyres.plane.window import Window
    from anyres.synthesis import fuse as fusion
    from anyres.synthesis.request import RenderRequest

    began = time.perf_counter()
    with one_line_errors():
        loaded = load_infinity_gan(model)
        generator = loaded.generator
        x, y = parse_numbers("--center", center, ",", 2)
        window = Window((x, y), generator.geometry.periods[0], parse_size("--size", size))
        seeds = [int(seed) for seed in parse_numbers("--seeds", styles.seeds, ",")]
        scene = fusion.fuse_styles(seeds, generator.z_dim, _shares(styles, len(seeds), window))
        write_picture(out, loaded, RenderRequest(scene, window, psi, **drawing.of_request(loaded)), drawing.dask)
        facts = {"size": window.size, "seeds": seeds, "window": asdict(window), "psi": psi}
        report(as_json, describe_picture(out, window, f"scenes {styles.seeds}"), out, loaded, began, **facts)


def _compose(edits: EditOptions, seed: int) -> Any:
    """The edits of the options as one edit; `seed` is that of a displacement."""
    from anyres.synthesis import edit

    chain = []
    if edits.aspect is not None:
        chain.append(edit.aspect(edits.aspect))
    if edits.magnify is not None:
        chain.append(edit.magnify(edits.magnify))
    if edits.turn is not None:
        chain.append(edit.turn(edits.turn))
    if edits.pull is not None:
        x, y, power = parse_numbers("--pull", edits.pull, ",", 3)
        chain.append(edit.pull((x, y), power))
    if edits.perspective is not None:
        tilt_x, tilt_y = parse_numbers("--perspective", edits.perspective, ",", 2)
        chain.append(edit.perspective(tilt_x, tilt_y))
    if edits.displace is not None:
        chain.append(edit.displace(edits.displace, seed=seed))
    return edit.compose(chain)


def _shares(styles: StyleOptions, num_styles: int, window: Any) -> Any:
    """The share of each style at each point of the canvas, from a mask or from centres."""
    import numpy as np
    from PIL import Image, UnidentifiedImageError

    from anyres.synthesis import fuse as fusion

    if styles.mask is not None:
        try:
            with Image.open(styles.mask) as file:
                mask = np.array(file if file.mode in ("L", "P") else file.convert("L"))
        except (OSError, UnidentifiedImageError) as error:
            raise ValueError(f"{styles.mask}: not a picture that can be read ({error})") from None
        softness_px = styles.softness / window.period * mask.shape[1] / window.size[1]
        return fusion.mask_shares(mask, window, num_styles, softness_px)
    if styles.centers:
        pairs = [parse_numbers("--centers", pair, ",", 2) for pair in styles.centers.split(";")]
        centers = [(x, y) for x, y in pairs]
    else:
        x, y = window.center
        along = (np.arange(num_styles) + 0.5) / num_styles - 0.5
        centers = [(x + window.extent[1] * float(share), y) for share in along]
    if len(centers) != num_styles:
        raise ValueError(f"--centers names {len(centers)} places for {num_styles} seeds; give one each")
    return fusion.nearest_shares(centers, styles.softness)


def _name(subject: SceneOptions) -> str:
    return f"scene {subject.seed}" if subject.latent is None else str(subject.latent)


def _facts(window: Any, subject: SceneOptions, psi: float) -> dict[str, Any]:
    """What --json prints about a picture of one scene."""
    scene = {"seed": subject.seed} if subject.latent is None else {"seed": None, "latent": str(subject.latent)}
    return {"size": window.size, **scene, "window": asdict(window), "psi": psi}


def _scene(generator: Any, subject: SceneOptions, resample: list[str]) -> tuple[Any, float]:
    """The seed, latent or scene to draw, and its truncation."""
    from dataclasses import replace

    from anyres.networks.scene import Region
    from anyres.synthesis.latent import Latent
    from anyres.synthesis.request import scene_of

    # A fitted latent is drawn as it is, without truncation.
    psi = subject.psi if subject.latent is None else 1.0
    scene = subject.seed if subject.latent is None else Latent.load(subject.latent)
    regions = []
    for text in resample:
        box, _, part = (field.strip() for field in text.rpartition(","))
        if part != "structure" and part != "texture":
            raise ValueError(f"--resample takes left,top,right,bottom,seed and structure or texture, found {text!r}")
        left, top, right, bottom, seed = parse_numbers("--resample", box, ",", 5)
        regions.append(Region((left, top, right, bottom), int(seed), part))
    if regions:
        scene = replace(scene_of(generator, scene), regions=tuple(regions))
    return scene, psi
