"""Inspect one file: decode it within the limits of the parameters. Runs in a `LimitedProcessPool`."""

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

# Part of the key of every cached verdict: raise it when the verdict on equal bytes and parameters changes.
VERDICT_VERSION = 2
HASH_PX = 32
THUMBNAIL_PX = 8
THUMBNAIL_SCALE = 32
# Grey levels: a picture with less deviation than this has no signature.
MIN_DEVIATION = 1.0


@dataclass(frozen=True)
class Verdict:
    """The facts about an accepted file; `anyres.data.catalogue.CatalogueRow` describes the fields."""

    width: int
    height: int
    mode: str
    converted: tuple[str, ...]
    pixels: str
    phash: str
    thumbnail: bytes
    suffix: str


SUFFIXES = {b"\xff\xd8": "jpg", b"\x89P": "png", b"GI": "gif", b"II": "tif", b"MM": "tif", b"RI": "webp", b"BM": "bmp"}


def inspect_file(task: tuple[Path | bytes, Ingest]) -> Verdict:
    """Decode a file, given as (content, parameters). Raises RefusedError with the reason, or MemoryError."""
    content, params = task
    data = content if isinstance(content, bytes) else content.read_bytes()
    # Each file is decoded once, so libvips's cache would only take memory.
    pyvips.cache_set_max(0)
    with quiet_decoders():
        decoded = decode(data, params.background, params.animated, params.min_side_px, params.max_mpx)
    height, width, _ = decoded.pixels.shape
    pixels = hashlib.sha256(f"{height}x{width}:".encode())
    pixels.update(decoded.pixels.data)
    phash, thumbnail = picture_signature(decoded.pixels)
    suffix = SUFFIXES.get(data[:2], "img")
    return Verdict(width, height, decoded.mode, decoded.converted, pixels.hexdigest(), phash, thumbnail, suffix)


def picture_signature(pixels: np.ndarray) -> tuple[str, bytes]:
    """Return the perceptual hash and the normalised thumbnail of a picture. Both are empty if the picture is nearly constant."""
    image = pyvips.Image.new_from_array(pixels)
    small = image.thumbnail_image(HASH_PX, height=HASH_PX, size="force").numpy()
    step = HASH_PX // THUMBNAIL_PX
    coarse = small.reshape(THUMBNAIL_PX, step, THUMBNAIL_PX, step, 3).mean(axis=(1, 3))
    deviation = coarse.std()
    if deviation < MIN_DEVIATION:
        return "", b""
    normalised = np.clip(np.rint((coarse - coarse.mean()) / deviation * THUMBNAIL_SCALE), -127, 127).astype(np.int8)
    return str(imagehash.phash(Image.fromarray(small))), normalised.tobytes()
