"""Tiles and views as pixels: several tiles in one pass, views of any size band by band."""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

from anyres.export.bundle import Model
from anyres.identity import code_version
from anyres.networks.generator import device_of
from anyres.networks.pixels import to_uint8
from anyres.networks.scene import Scene
from anyres.plane.window import Window
from anyres.synthesis.render import BATCH_PX, align, render_tiles
from anyres.synthesis.request import RenderRequest
from anyres.viewer.scenes import Subject, paints, takes
from anyres.viewer.tilegrid import TILE_PX, Pyramid

# zlib's: tiles are sent to the next room more often than across the world.
COMPRESSION = 3


@dataclass(frozen=True)
class Address:
    """One tile of one scene: of a seed, or of what a page has told of."""

    scene: int | Subject
    level: int
    x: int
    y: int


class ServedModel:
    """A model on show: its name, its pyramid, and an `id` that changes with anything that changes its pictures."""

    def __init__(self, name: str, model: Model) -> None:
        self.name, self.model = name, model
        self.pyramid = Pyramid.of(model.geometry)
        self.weights = str(model.meta["weights_sha256"])
        about = [
            code_version(__name__),
            self.weights,
            model.meta["method"],
            model.meta["params"]["train"],
            model.meta["geometry"],
        ]
        self.digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()
        self.id = f"{re.sub(r'[^A-Za-z0-9]+', '-', name).strip('-') or 'model'}-{self.digest[:10]}"

    def facts(self) -> dict[str, Any]:
        """What is told of it; JSON types."""
        meta, geometry = self.model.meta, self.model.geometry
        finest, coarsest = geometry.periods
        pyramid = self.pyramid
        trained = [level for level in range(pyramid.levels) if finest * 0.999 <= pyramid.period / 2**level <= coarsest * 1.001]
        return {
            "id": self.id,
            "name": self.name,
            "method": meta["method"],
            "chart": geometry.chart.name,
            "geometry": geometry.to_json(),
            "short_side": geometry.chart.short_side,
            "trained_periods": [finest, coarsest],
            "trained_levels": trained,
            "patch_px": list(meta["params"]["train"]["patch_px"]),
            "nimg": meta["nimg"],
            "data_hash": meta["data_hash"],
            "weights_sha256": self.weights,
            "pyramid": pyramid.facts(),
            "paints": paints(self.model),
            "photographs": takes(self.model.generator),
        }

    def key(self, address: Address, psi: float) -> str:
        """The name of a tile's picture, the same wherever it is drawn."""
        about = (self.digest, TILE_PX, str(address.scene), address.level, address.x, address.y, psi)
        return hashlib.sha256(repr(about).encode()).hexdigest()


@torch.inference_mode()
def draw_tiles(served: ServedModel, addresses: Sequence[Address], psi: float) -> list[bytes]:
    """PNG files of tiles, those of one size drawn in one pass; what lies beyond a frame is transparent.

    Of an exact generator a tile is what a picture of any size shows there. Others look `halo_px` further and are cut.
    """
    generator, geometry = served.model.generator, served.model.geometry
    halo = 0 if geometry.exact else geometry.halo_px
    parts = [served.pyramid.part(address.level, address.x, address.y) for address in addresses]
    grown = []
    for part in parts:
        height, width = part.window.size
        window, top, left = align(part.window.crop(-halo, -halo, (height + 2 * halo, width + 2 * halo)), geometry.lattice_px)
        grown.append((window, top + halo, left + halo))
    out: list[bytes] = [b""] * len(parts)

    def alike(index: int) -> tuple[tuple[int, int], str]:
        scene = addresses[index].scene
        return grown[index][0].size, str(scene) if isinstance(scene, Subject) else ""

    for (size, _), run in itertools.groupby(sorted(range(len(parts)), key=alike), key=alike):
        indices = list(run)
        count = max(1, BATCH_PX // (size[0] * size[1]))
        for start in range(0, len(indices), count):
            group = indices[start : start + count]
            pixels = _pixels(generator, [addresses[index].scene for index in group], [grown[index][0] for index in group], psi)
            for index, picture in zip(group, pixels, strict=True):
                (height, width), (_, top, left) = parts[index].window.size, grown[index]
                out[index] = _png(picture[top : top + height, left : left + width], parts[index].top, parts[index].left)
    return out


def _pixels(generator: Any, scenes: Sequence[int | Subject], windows: Sequence[Window], psi: float) -> np.ndarray:
    """uint8 (n, h, w, 3) of windows of one size, of seeds, or all of one subject."""
    first = scenes[0]
    if isinstance(first, Subject):
        settings: dict[str, Any] = {"psi": psi if first.psi is None else first.psi}
        if first.edit is not None:
            settings["edit"] = first.edit
        return to_uint8(generator(first.scene.repeated(len(windows)), windows, **settings))
    return to_uint8(generator(Scene.of(scenes, generator.z_dim, device_of(generator)), windows, psi=psi))  # type: ignore[arg-type]


def draw_bands(served: ServedModel, shown: int | Subject, window: Window, psi: float) -> Iterator[np.ndarray | None]:
    """Rows of a view from the top down, uint8 (rows, w, 3), as they are complete; None after each pass that completes none."""
    band: np.ndarray | None = None
    top = 0
    scene, edit = (shown.scene, shown.edit) if isinstance(shown, Subject) else (shown, None)
    psi = psi if not isinstance(shown, Subject) or shown.psi is None else shown.psi
    for at, pixels in render_tiles(served.model.generator, RenderRequest(scene, window, psi, edit=edit)):
        if band is not None and at.top != top:
            yield band
            band = None
        if band is None:
            band, top = np.empty((at.size[0], window.size[1], 3), np.uint8), at.top
        band[:, at.left : at.left + at.size[1]] = to_uint8(pixels[None])[0]
        yield None
    assert band is not None
    yield band


def _png(pixels: np.ndarray, top: int, left: int) -> bytes:
    """A tile that shows `pixels` from (top, left) on."""
    picture = Image.fromarray(pixels)
    if pixels.shape[:2] != (TILE_PX, TILE_PX):
        whole = Image.new("RGBA", (TILE_PX, TILE_PX), (0, 0, 0, 0))
        whole.paste(picture, (left, top))
        picture = whole
    stream = io.BytesIO()
    picture.save(stream, format="PNG", compress_level=COMPRESSION)
    return stream.getvalue()
