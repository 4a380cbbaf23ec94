"""Pictures too large for memory: tiles drawn one after the other onto a canvas on disk, and from there into a file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from anyres.identity import code_version, digest, tensors_of
from anyres.networks.generator import Edit, Generator, device_of
from anyres.networks.scene import Scene
from anyres.plane.window import Window
from anyres.synthesis.canvas import canvas_of
from anyres.synthesis.formats import format_of, publish
from anyres.synthesis.latent import Latent
from anyres.synthesis.render import Drawing, in_turn, render_passes
from anyres.version import __version__


def render_to(
    path: str | Path,
    generator: Generator,
    seed: int | Latent | Scene,
    window: Window,
    psi: float = 1.0,
    tile: int = 512,
    edit: Edit | None = None,
    advance: Callable[[float], None] | None = None,
    about: Mapping[str, str] | None = None,
    draw: Drawing = in_turn,
    resumed: Callable[[float], None] | None = None,
) -> None:
    """Draw a window into a file, whole or not at all; arguments as those of `render`.

    The end of the name says of which kind: .tif (BigTIFF with a pyramid), .png, .zarr (chunks of `tile` pixels), all three the
    picture of `render` to the bit, or .dzi (Deep Zoom, JPEG). Each tells what it shows, and what `about` says of the generator.

    Of an exact generator the tiles of one pass are held at a time, whatever the size of the picture; of others, whose tiles fade
    into each other, also a strip between two rows of them. However the process ends, the same call goes on from the last
    finished pass, to the same bytes, whatever draws: until then tiles wait in a folder beside the file, `.NAME.drawing`.
    `resumed` is then told first how many megapixels were finished before. Raises ValueError where `render` does, for another
    kind of file, and while another process draws the same; OSError where the disk is too small.
    """
    path = Path(path)
    kind = format_of(path)
    # Whatever does not fit is told here, before anything is on disk.
    render_passes(generator, seed, window, psi, tile, edit=edit)
    tensors, of = tensors_of(generator), seed if isinstance(seed, Latent | Scene) else int(seed)
    identity = digest(tensors, of, window, psi, tile, edit, device_of(generator).type, code_version())
    told = _told(of, window, psi, edit) | {"tile": tile, "generator_sha256": tensors, **(about or {})}
    advance, resumed = advance or _ignore, resumed or _ignore
    with canvas_of(path, window.size, identity, kind.share) as canvas:
        if canvas.px:
            resumed(canvas.px / 1e6)
            advance(canvas.px / 1e6)
        for drawn in render_passes(generator, seed, window, psi, tile, edit=edit, first=canvas.tiles, draw=draw):
            canvas.put(drawn)
            advance(sum(part.size[0] * part.size[1] for part, _ in drawn) / 1e6)
        with canvas.finishing() as folder:
            kind.write(canvas, folder / path.name, tile, told)
            publish(folder, path)


def _told(seed: int | Latent | Scene, window: Window, psi: float, edit: Edit | None) -> dict[str, Any]:
    """What a file says of its picture, so that it can be drawn again."""
    told: dict[str, Any] = {"software": f"anyres {__version__}"}
    told |= {"seed": seed} if isinstance(seed, int | np.integer) else {"scene_sha256": digest(seed)}
    told |= {"center": window.center, "period": window.period, "size": window.size, "psi": psi}
    return told if edit is None else told | {"edit_sha256": digest(edit)}


def _ignore(amount: float) -> None:
    """Take no note of progress."""
