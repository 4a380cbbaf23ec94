"""Encodes views as files: PNG band by band, JPEG and WebP at once, each with metadata of what it shows."""

from __future__ import annotations

import io
import json
import struct
import zlib
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from PIL import Image

PictureFormat = Literal["png", "jpg", "webp"]
MEDIA_TYPES: dict[PictureFormat, str] = {"png": "image/png", "jpg": "image/jpeg", "webp": "image/webp"}
# The most pixels that a file of each format holds along a side.
SIDE_LIMIT: dict[PictureFormat, int] = {"png": 65535, "jpg": 65535, "webp": 16383}

SIGNATURE = b"\x89PNG\r\n\x1a\n"
COMPRESSION = 3
# The filter type Sub, which stores the difference to the pixel on the left: PNG specification, section 9.
SUB = 1
IMAGE_DESCRIPTION, SOFTWARE = 0x010E, 0x0131


class PngStream:
    """Encodes a PNG of `size` = (h, w), 8-bit RGB, piece by piece: `head`, then `rows` for each band, then `tail`."""

    def __init__(self, size: tuple[int, int], texts: Mapping[str, str]) -> None:
        self._size, self._texts = size, texts
        self._deflate = zlib.compressobj(COMPRESSION)

    def head(self) -> bytes:
        height, width = self._size
        header = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
        # sRGB with the perceptual rendering intent.
        return SIGNATURE + header + _chunk(b"sRGB", b"\0") + b"".join(_text(key, value) for key, value in self._texts.items())

    def rows(self, band: np.ndarray) -> bytes:
        """Encode the next rows, uint8 (rows, w, 3). The result is often empty, because the compressor buffers."""
        lines = np.empty((len(band), 1 + band.shape[1] * 3), np.uint8)
        lines[:, 0] = SUB
        lines[:, 1:4] = band[:, 0]
        lines[:, 4:] = (band[:, 1:] - band[:, :-1]).reshape(len(band), -1)
        packed = self._deflate.compress(lines.tobytes())
        return _chunk(b"IDAT", packed) if packed else b""

    def tail(self) -> bytes:
        return _chunk(b"IDAT", self._deflate.flush()) + _chunk(b"IEND", b"")


def encode(pixels: np.ndarray, form: PictureFormat, texts: Mapping[str, str]) -> bytes:
    """Encode a view, uint8 (h, w, 3), as a JPEG or WebP file; `texts` go into its EXIF as JSON."""
    exif = Image.Exif()
    exif[SOFTWARE] = texts["Software"]
    exif[IMAGE_DESCRIPTION] = json.dumps(dict(texts), sort_keys=True)
    stream = io.BytesIO()
    if form == "jpg":
        Image.fromarray(pixels).save(stream, format="JPEG", quality=92, subsampling=0, exif=exif)
    else:
        Image.fromarray(pixels).save(stream, format="WEBP", quality=90, exif=exif)
    return stream.getvalue()


def texts_of(facts: Mapping[str, Any]) -> dict[str, str]:
    """Facts as the text chunks of a picture file, in ASCII."""
    return {"Software": "anyres"} | {
        key: value if isinstance(value, str) and value.isascii() else json.dumps(value) for key, value in facts.items()
    }


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _text(key: str, value: str) -> bytes:
    return _chunk(b"tEXt", key.encode("ascii") + b"\0" + value.encode("ascii"))
