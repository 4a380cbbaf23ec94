"""Panoramas of 360 degrees: high dynamic range environments, tone-mapped to pictures.

Source: Reinhard et al. 2002, equations 1, 2 and 4.
"""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from anyres.data.sources import debian, npm
from anyres.data.sources.record import IntakeError, LocalFile, Record
from anyres.files import write_atomic

BLENDER = "usr/share/blender/datafiles/studiolights/world/"
# The geometric mean of a scene's luminance is mapped to GREY. A luminance of WHITE times GREY is mapped to white.
GREY, WHITE = 0.18, 32.0
# A light brighter than SUN times the mean causes artefacts in its block of BLOCK x BLOCK pixels of a lossy file.
SUN, BLOCK = 300.0, 8
LUMINANCE = np.array([0.2126, 0.7152, 0.0722], np.float32)  # of linear sRGB (ITU-R BT.709)


def blender(package_file: Path, unpacked: Path) -> list[Record]:
    """List the environments of blender-data."""
    files = {
        path.removeprefix(BLENDER): data
        for path, data in debian.members(package_file)
        if path.startswith(BLENDER) and path.endswith(".exr")
    }
    return _records(files, package_file, unpacked, "Greg Zaal, HDRI Haven", "https://hdrihaven.com")


def pmndrs(package_file: Path, unpacked: Path) -> list[Record]:
    """List the environments of @pmndrs/assets, which are JavaScript modules with base64 content."""
    files = {}
    for path, data in npm.members(package_file):
        if path.startswith("hdri/") and path.endswith(".exr.js"):
            match = re.search(rb"base64,([A-Za-z0-9+/=]+)", data)
            if match:
                files[PurePosixPath(path).name.removesuffix(".js")] = base64.b64decode(match[1])
    return _records(files, package_file, unpacked, "Poly Haven, packed by pmndrs", "https://github.com/pmndrs/assets")


def tone_mapped(light: np.ndarray) -> np.ndarray:
    """Map linear light (h, w, 3), any scale, to sRGB uint8: exposure by the mean of a full sphere, then Reinhard's curve.

    Reinhard et al. 2002, equations 1, 2 and 4, on luminance. Colours keep their ratios until they are near white.
    """
    light = np.maximum(light, 0.0).astype(np.float32)
    # Weight the rows of the equirectangular picture by their area on the sphere.
    weights = np.sin(np.pi * (np.arange(len(light)) + 0.5) / len(light))
    mean = np.exp((np.log(light @ LUMINANCE + 1e-6).mean(axis=1) * weights).sum() / weights.sum())
    light = _without_ringing(light, SUN * mean) * np.float32(GREY / mean)
    # Colours much brighter than white are desaturated, as the eye sees them.
    brightest = light.max(axis=2, keepdims=True)
    light += (brightest - light) * np.clip(brightest / (GREY * WHITE) - 0.5, 0.0, 1.0)
    luminance = light @ LUMINANCE
    mapped = luminance * (1 + luminance / (GREY * WHITE) ** 2) / (1 + luminance)
    linear = np.clip(light * (mapped / np.maximum(luminance, 1e-9))[..., None], 0.0, 1.0)
    curve = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.rint(255 * curve).astype(np.uint8)


def _without_ringing(light: np.ndarray, sun: float) -> np.ndarray:
    """Raise blocks of 8 x 8 pixels that contain a light above `sun` to the median of their surroundings.

    Lossy OpenEXR rings to black beside such a light.
    """
    light = light.copy()
    rows, columns = len(light) // BLOCK, light.shape[1] // BLOCK
    blocks = light[: rows * BLOCK, : columns * BLOCK].reshape(rows, BLOCK, columns, BLOCK, 3)
    for row, column in np.argwhere(blocks.max(axis=(1, 3, 4)) > sun):
        y, x = row * BLOCK, column * BLOCK
        around = light[max(y - 2, 0) : y + BLOCK + 2, max(x - 2, 0) : x + BLOCK + 2]
        ring = np.ones(around.shape[:2], bool)
        ring[min(y, 2) : min(y, 2) + BLOCK, min(x, 2) : min(x, 2) + BLOCK] = False
        block = light[y : y + BLOCK, x : x + BLOCK]
        np.maximum(block, np.median(around[ring], axis=0), out=block)
    return light


def _records(files: dict[str, bytes], package_file: Path, unpacked: Path, author: str, page: str) -> list[Record]:
    if not files:
        raise IntakeError(f"{package_file}: holds none of the panoramas of this set")
    panoramas = []
    for name, data in sorted(files.items()):
        picture = unpacked / f"{PurePosixPath(name).stem}.png"
        if not picture.exists():
            stream = io.BytesIO()
            Image.fromarray(tone_mapped(_read(data, unpacked / name))).save(stream, "PNG")
            write_atomic(picture, stream.getvalue())
        panoramas.append(Record(picture.name, LocalFile(picture), picture.name, author=author, licence="CC0-1.0", page=page))
    return panoramas


def _read(data: bytes, path: Path) -> np.ndarray:
    """Decode an OpenEXR file to float32 (h, w, 3). The library can only read from disk, so write the file to `path`."""
    import OpenEXR

    write_atomic(path, data)
    with OpenEXR.File(str(path)) as file:
        channels = file.channels()
        return np.asarray(channels["RGB" if "RGB" in channels else "RGBA"].pixels, np.float32)[..., :3]
