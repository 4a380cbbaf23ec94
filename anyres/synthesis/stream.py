"""Render pictures larger than memory: tiles go to a canvas on disk, and from there into a file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from anyres.identity import code_version, digest, tensors_of
from anyres.networks.generator import Generator, device_of
from anyres.synthesis.canvas import open_canvas
from anyres.synthesis.formats import format_of, publish
from anyres.synthesis.render import Drawing, draw_in_process, render_passes
from anyres.synthesis.request import RenderRequest, check_request
from anyres.version import __version__


def render_to(
    path: str | Path,
    generator: Generator,
    request: RenderRequest,
    about: Mapping[str, str] | None = None,
    advance: Callable[[float], None] | None = None,
    resumed: Callable[[float], None] | None = None,
    draw: Drawing = draw_in_process,
) -> None:
    """Draw a request into a file, atomically.

    The suffix of `path` selects the format: .tif (BigTIFF with a pyramid), .png, .zarr (chunks of `request.tile` pixels), or .dzi
    (Deep Zoom, JPEG). The first three hold the picture of `render` to the bit. The file records the request, and `about`.

    Memory holds the tiles of one pass, whatever the size of the picture; for generators that are not exact also a strip
    between two rows of tiles. If the process ends early, the same call resumes after the last finished pass and writes the same
    bytes, whatever `draw` is: until then tiles wait in a folder beside the file, `.NAME.drawing`. `resumed` is then called
    with the megapixels that were finished before. `advance` is called with the megapixels of each pass.

    Raises ValueError where `render` does, for an unknown suffix, and while another process draws the same file; OSError if the
    disk is too small.
    """
    path = Path(path)
    file_format = format_of(path)
    # Refuse a bad request before anything is on disk.
    check_request(generator, request)
    tensors = tensors_of(generator)
    identity = digest(tensors, request, device_of(generator).type, code_version(__name__))
    metadata = _metadata(request) | {"tile": request.tile, "generator_sha256": tensors, **(about or {})}
    advance, resumed = advance or _ignore, resumed or _ignore
    with open_canvas(path, request.window.size, identity, file_format.share) as canvas:
        if canvas.px:
            resumed(canvas.px / 1e6)
            advance(canvas.px / 1e6)
        for tiles in render_passes(generator, request, first=canvas.tiles, draw=draw):
            canvas.put(tiles)
            advance(sum(cell.size[0] * cell.size[1] for cell, _ in tiles) / 1e6)
        with canvas.finishing() as folder:
            file_format.write(canvas, folder / path.name, request.tile, metadata)
            publish(folder, path)


def _metadata(request: RenderRequest) -> dict[str, Any]:
    """What a file records of its picture, so that it can be drawn again."""
    scene, window = request.scene, request.window
    metadata: dict[str, Any] = {"software": f"anyres {__version__}"}
    metadata |= {"seed": scene} if isinstance(scene, int) else {"scene_sha256": digest(scene)}
    metadata |= {"center": window.center, "period": window.period, "size": window.size, "psi": request.psi}
    return metadata if request.edit is None else metadata | {"edit_sha256": digest(request.edit)}


def _ignore(amount: float) -> None:
    """Discard a report of progress."""
