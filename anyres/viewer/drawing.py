"""Draws tiles and views: several tiles in one forward pass, views of any size band by band."""

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
from anyres.synthesis.render import align, pixels_per_pass, render_tiles
from anyres.synthesis.request import RenderRequest
from anyres.viewer.scenes import PreparedScene, fit_method
from anyres.viewer.tilegrid import TILE_PX, Pyramid

# zlib level: clients are mostly near, so that a fast encoder matters more than small files.
COMPRESSION = 3


@dataclass(frozen=True)
class TileAddress:
    """One tile of one scene; the scene is a seed or one that a page has sent."""

    scene: int | PreparedScene
    level: int
    x: int
    y: int


class ServedModel:
    """A model with its name, its pyramid, and an `id` that changes with anything that changes its pictures."""

    def __init__(self, name: str, model: Model) -> None:
        self.name, self.model = name, model
        self.pyramid = Pyramid.of(model.geometry)
        self.weights = str(model.meta["weights_sha256"])
        identity = [
            code_version(__name__),
            self.weights,
            model.meta["method"],
            model.meta["params"]["train"],
            model.meta["geometry"],
        ]
        self.digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
        self.id = f"{re.sub(r'[^A-Za-z0-9]+', '-', name).strip('-') or 'model'}-{self.digest[:10]}"

    def facts(self) -> dict[str, Any]:
        """What a page shows and needs of the model; JSON types."""
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
            "paints": self.model.generator.draws_regions,
            "photographs": fit_method(self.model.generator),
        }

    def key(self, address: TileAddress, psi: float) -> str:
        """The cache key of a tile: equal in every process for equal pixels."""
        identity = (self.digest, TILE_PX, str(address.scene), address.level, address.x, address.y, psi)
        return hashlib.sha256(repr(identity).encode()).hexdigest()


@torch.inference_mode()
def draw_tiles(served: ServedModel, addresses: Sequence[TileAddress], psi: float) -> list[bytes]:
    """Draw tiles as PNG files, those of one size in one pass. Pixels beyond a frame are transparent.

    With an exact generator a tile equals a crop of a picture of any size. Other generators draw `halo_px` more on each side,
    which is cut off.
    """
    generator, geometry = served.model.generator, served.model.geometry
    halo = 0 if geometry.exact else geometry.halo_px
    tiles = [served.pyramid.tile_window(address.level, address.x, address.y) for address in addresses]
    # The window that is drawn for each tile, and where the tile lies in it.
    padded = []
    for tile in tiles:
        height, width = tile.window.size
        window, top, left = align(tile.window.crop(-halo, -halo, (height + 2 * halo, width + 2 * halo)), geometry.lattice_px)
        padded.append((window, top + halo, left + halo))
    files: list[bytes] = [b""] * len(tiles)

    def batch_key(index: int) -> tuple[tuple[int, int], str]:
        scene = addresses[index].scene
        return padded[index][0].size, str(scene) if isinstance(scene, PreparedScene) else ""

    for (size, _), run in itertools.groupby(sorted(range(len(tiles)), key=batch_key), key=batch_key):
        indices = list(run)
        count = max(1, pixels_per_pass(generator) // (size[0] * size[1]))
        for start in range(0, len(indices), count):
            group = indices[start : start + count]
            pixels = _draw(generator, [addresses[index].scene for index in group], [padded[index][0] for index in group], psi)
            for index, picture in zip(group, pixels, strict=True):
                (height, width), (_, top, left) = tiles[index].window.size, padded[index]
                files[index] = _png(picture[top : top + height, left : left + width], tiles[index].top, tiles[index].left)
    return files


def _draw(generator: Any, scenes: Sequence[int | PreparedScene], windows: Sequence[Window], psi: float) -> np.ndarray:
    """uint8 (n, h, w, 3) of windows of one size; `scenes` are all seeds, or all the same prepared scene."""
    first = scenes[0]
    if isinstance(first, PreparedScene):
        settings: dict[str, Any] = {"psi": psi if first.psi is None else first.psi}
        if first.edit is not None:
            settings["edit"] = first.edit
        return to_uint8(generator(first.scene.repeated(len(windows)), windows, **settings))
    seeds = [scene for scene in scenes if isinstance(scene, int)]
    return to_uint8(generator(Scene.of(seeds, generator.z_dim, device_of(generator)), windows, psi=psi))


def draw_bands(served: ServedModel, subject: int | PreparedScene, window: Window, psi: float) -> Iterator[np.ndarray | None]:
    """Yield rows of a view from the top down, uint8 (rows, w, 3), and None after each pass that completes no row."""
    band: np.ndarray | None = None
    top = 0
    scene, edit = (subject.scene, subject.edit) if isinstance(subject, PreparedScene) else (subject, None)
    psi = psi if not isinstance(subject, PreparedScene) or subject.psi is None else subject.psi
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
    """A tile as a PNG file, with `pixels` from (top, left) on."""
    picture = Image.fromarray(pixels)
    if pixels.shape[:2] != (TILE_PX, TILE_PX):
        tile = Image.new("RGBA", (TILE_PX, TILE_PX), (0, 0, 0, 0))
        tile.paste(picture, (left, top))
        picture = tile
    stream = io.BytesIO()
    picture.save(stream, format="PNG", compress_level=COMPRESSION)
    return stream.getvalue()
