"""Judge one file: decode it under the limits of the parameters and say what it is. Runs in a guarded process."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import imagehash
import numpy as np
import pyvips
from PIL import Image

from anyres.data.decode import decode, quiet_decoders
from anyres.params import Ingest

# Part of every remembered verdict: raise it when a verdict changes for equal bytes and parameters.
FORMAT = 2
HASH_PX = 32
THUMBNAIL_PX = 8
THUMBNAIL_SCALE = 32
# Grey levels: flatter pictures have no likeness to tell.
FLAT = 1.0


@dataclass(frozen=True)
class Verdict:
    """What an accepted file is; see anyres.data.catalogue.Row for the fields."""

    width: int
    height: int
    mode: str
    converted: tuple[str, ...]
    pixels: str
    phash: str
    thumbnail: bytes
    suffix: str


SUFFIXES = {b"\xff\xd8": "jpg", b"\x89P": "png", b"GI": "gif", b"II": "tif", b"MM": "tif", b"RI": "webp", b"BM": "bmp"}


def judge(item: tuple[Path | bytes, Ingest]) -> Verdict:
    """Decode (content, parameters). Raises RefusedError with the reason, MemoryError."""
    content, params = item
    data = content if isinstance(content, bytes) else content.read_bytes()
    # One decoder a process is the unit of parallel work, and libvips's cache would hold what is never asked again.
    pyvips.cache_set_max(0)
    with quiet_decoders():
        decoded = decode(data, params.background, params.animated, params.min_side_px, params.max_mpx)
    height, width, _ = decoded.pixels.shape
    pixels = hashlib.sha256(f"{height}x{width}:".encode())
    pixels.update(decoded.pixels.data)
    phash, thumbnail = likeness(decoded.pixels)
    suffix = SUFFIXES.get(data[:2], "img")
    return Verdict(width, height, decoded.mode, decoded.converted, pixels.hexdigest(), phash, thumbnail, suffix)


def likeness(pixels: np.ndarray) -> tuple[str, bytes]:
    """Return the perceptual hash and the normalised thumbnail of a picture, both empty where it is flat."""
    image = pyvips.Image.new_from_array(pixels)
    small = image.thumbnail_image(HASH_PX, height=HASH_PX, size="force").numpy()
    step = HASH_PX // THUMBNAIL_PX
    coarse = small.reshape(THUMBNAIL_PX, step, THUMBNAIL_PX, step, 3).mean(axis=(1, 3))
    deviation = coarse.std()
    if deviation < FLAT:
        return "", b""
    normal = np.clip(np.rint((coarse - coarse.mean()) / deviation * THUMBNAIL_SCALE), -127, 127).astype(np.int8)
    return str(imagehash.phash(Image.fromarray(small))), normal.tobytes()
