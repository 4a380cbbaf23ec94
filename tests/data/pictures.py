"""Pictures and parameters that the tests of the data room share."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from anyres.params import Ingest, Prepare


def ingest_params(**changes: object) -> Ingest:
    values = {
        "source": "folder",
        "set": "deepsky",
        "folder": "pictures",
        "list": "addresses.txt",
        "queries": (),
        "licences": ("cc0", "by"),
        "dataset": "",
        "split": "train",
        "column": "image",
        "limit": 1000,
        "min_side_px": 16,
        "max_mpx": 60.0,
        "animated": "refuse",
        "background": (0, 0, 0),
        "max_mb": 50.0,
        "near_duplicates": "refuse",
        "decode_s": 20.0,
        "decode_mb": 1024,
        "shard_files": 8,
    }
    return Ingest.model_validate(values | changes)


def prepare_params(**changes: object) -> Prepare:
    return Prepare.model_validate({"tile_px": 64, "codec": "deflate", "jpeg_quality": 95} | changes)


def photograph(height: int, width: int, seed: int = 0) -> np.ndarray:
    """A picture with detail in every octave, as photographs have: uint8 (h, w, 3)."""
    rng = np.random.default_rng(seed)
    total = np.zeros((height, width, 3), np.float32)
    cells = 2
    while cells < 2 * max(height, width):
        noise = (rng.random((min(cells, height), min(cells, width), 3)) * 255).astype(np.uint8)
        octave = Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)
        total += (np.asarray(octave, np.float32) - 127.5) * (2 / cells) ** 0.75
        cells *= 2
    return np.clip(total + 127.5, 0, 255).astype(np.uint8)


def encoded(pixels: np.ndarray | Image.Image, kind: str, **options: object) -> bytes:
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()
