"""Tiled multi-page BigTIFF, written and read here, opened by libtiff, libvips, tifffile and GDAL alike.

Each level of a pyramid is one page; those after the first carry NewSubfileType = 1, reduced resolution.
Source: TIFF 6.0 (Adobe 1992), sections 2, 15 and 22, and the BigTIFF layout of libtiff 4.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import BinaryIO, Literal

import numpy as np
from isal import isal_zlib
from PIL import Image

Codec = Literal["deflate", "jpeg"]
COMPRESSION = {"deflate": 8, "jpeg": 7}
RGB, YCBCR = 2, 6
# Photographs come out within 3 % of the default level's size, in half its time.
DEFLATE_LEVEL = 4
HEADER = struct.Struct("<2sHHHQ")
ENTRY = struct.Struct("<HHQ8s")
SHORT, LONG, LONG8 = 3, 4, 16
READ = {256, 257, 258, 259, 322, 324, 325}  # tags that say something new
WIDTHS = {SHORT: "H", LONG: "I", LONG8: "Q"}


class DamagedTiffError(ValueError):
    """A file is not what this module writes."""


@dataclass(frozen=True)
class Level:
    """One page: `size` = (h, w) in pixels, and for each tile in row order its place in the file."""

    size: tuple[int, int]
    tile_px: int
    codec: Codec
    dtype: np.dtype  # of a sample: uint8, or int16 where values leave 0..255
    offsets: np.ndarray  # uint64 (tiles,), from the beginning of what holds the file
    counts: np.ndarray  # uint32 (tiles,)

    @property
    def across(self) -> int:
        """Tiles in a row."""
        return -(-self.size[1] // self.tile_px)


def write_pyramid(stream: BinaryIO, levels: Iterable[np.ndarray], tile_px: int, codec: Codec, jpeg_quality: int) -> list[Level]:
    """Write sRGB levels (h, w, 3), finest first, to an empty seekable stream; return what was written.

    uint8, or int16 for values that leave 0..255; JPEG, which holds 8 bits only, cuts these off.
    """
    stream.write(HEADER.pack(b"II", 43, 8, 0, 0))
    written = []
    for pixels in levels:
        if codec == "jpeg":
            pixels = np.clip(pixels, 0, 255).astype(np.uint8)
        offsets, counts = [], []
        for tile in _cut(pixels, tile_px):
            data = encode_tile(tile, codec, jpeg_quality)
            offsets.append(stream.tell())
            counts.append(len(data))
            stream.write(data)
        places = np.array(offsets, np.uint64), np.array(counts, np.uint32)
        written.append(Level((pixels.shape[0], pixels.shape[1]), tile_px, codec, pixels.dtype, *places))
    stream.write(b"\0" * (-stream.tell() % 8))
    first = stream.tell()
    stream.writelines(
        _page(level, stream.tell(), reduced=index > 0, last=index == len(written) - 1) for index, level in enumerate(written)
    )
    stream.seek(0)
    stream.write(HEADER.pack(b"II", 43, 8, 0, first))
    return written


def read_levels(read: Callable[[int, int], bytes], start: int, size: int) -> list[Level]:
    """Read the pages of a file of `write_pyramid` that is `size` bytes from `start` of what `read(offset, size)` reads.

    Two reads in all. Raises DamagedTiffError for any other file.
    """
    try:
        magic, version, width, _, first = HEADER.unpack(read(start, HEADER.size))
        if (magic, version, width) != (b"II", 43, 8):
            raise DamagedTiffError("not a BigTIFF in little-endian order")
        return list(_parse(read(start + first, size - first), first, start))
    except (struct.error, KeyError, IndexError, ValueError) as error:
        raise DamagedTiffError(f"damaged page table: {error}") from None


def encode_tile(tile: np.ndarray, codec: Codec, jpeg_quality: int) -> bytes:
    """Compress one tile, (t, t, 3) uint8 or, with deflate, int16."""
    if codec == "deflate":
        return zlib.compress(tile.astype(tile.dtype.newbyteorder("<")).tobytes(), DEFLATE_LEVEL)
    stream = io.BytesIO()
    Image.fromarray(tile).save(stream, "JPEG", quality=jpeg_quality, subsampling="4:4:4")
    return stream.getvalue()


def decode_tile(data: bytes, level: Level) -> np.ndarray:
    """Return a tile of a level, (t, t, 3), read-only. Raises DamagedTiffError where the data is no tile."""
    shape = level.tile_px, level.tile_px, 3
    try:
        if level.codec == "jpeg":
            return _jpeg(data).reshape(shape)
        # ISA-L inflates two to three times as fast as zlib.
        return np.frombuffer(isal_zlib.decompress(data), level.dtype).reshape(shape)
    except (isal_zlib.error, RuntimeError, ValueError) as error:  # type: ignore[misc]
        raise DamagedTiffError(f"damaged tile: {' '.join(str(error).split())[:150]}") from None


def _jpeg(data: bytes) -> np.ndarray:
    """Decode a JPEG to uint8 (h, w, 3)."""
    import torch
    from torchvision.io import ImageReadMode, decode_jpeg

    # In half of Pillow's time, which reads the markers in Python.
    pixels = decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8), ImageReadMode.RGB)
    return np.moveaxis(np.asarray(pixels), 0, 2)


def _cut(pixels: np.ndarray, tile_px: int) -> Iterator[np.ndarray]:
    """Tiles in row order; those over the edge repeat the last pixels, which no reader shows."""
    height, width, _ = pixels.shape
    for top in range(0, height, tile_px):
        for left in range(0, width, tile_px):
            tile = pixels[top : top + tile_px, left : left + tile_px]
            missing = (0, tile_px - tile.shape[0]), (0, tile_px - tile.shape[1]), (0, 0)
            yield np.pad(tile, missing, mode="edge") if any(map(any, missing)) else tile


def _page(level: Level, start: int, reduced: bool, last: bool) -> bytes:
    """One page: its table of tags at `start`, the arrays that do not fit into it, and where the next page is."""
    height, width = level.size
    jpeg = level.codec == "jpeg"
    tags: list[tuple[int, int, np.ndarray | list[int]]] = [
        (254, LONG, [int(reduced)]),  # NewSubfileType
        (256, LONG, [width]),
        (257, LONG, [height]),
        (258, SHORT, [8 * level.dtype.itemsize] * 3),  # BitsPerSample
        (259, SHORT, [COMPRESSION[level.codec]]),
        (262, SHORT, [YCBCR if jpeg else RGB]),  # PhotometricInterpretation
        (277, SHORT, [3]),  # SamplesPerPixel
        (284, SHORT, [1]),  # PlanarConfiguration: interleaved
        (322, LONG, [level.tile_px]),  # TileWidth
        (323, LONG, [level.tile_px]),  # TileLength
        (324, LONG8, level.offsets),
        (325, LONG, level.counts),
    ]
    if level.dtype == np.int16:
        tags.append((339, SHORT, [2, 2, 2]))  # SampleFormat: signed
    if jpeg:
        tags.append((530, SHORT, [1, 1]))  # YCbCrSubSampling: 4:4:4
    beyond = start + 8 + len(tags) * ENTRY.size + 8
    table, arrays = struct.pack("<Q", len(tags)), b""
    for tag, kind, values in tags:
        data = np.asarray(values, dtype=f"<{WIDTHS[kind]}").tobytes()
        if len(data) > 8:
            place = struct.pack("<Q", beyond + len(arrays))
            arrays += data + b"\0" * (-len(data) % 8)
        else:
            place = data.ljust(8, b"\0")
        table += ENTRY.pack(tag, kind, len(values), place)
    return table + struct.pack("<Q", 0 if last else beyond + len(arrays)) + arrays


def _parse(data: bytes, base: int, start: int) -> Iterator[Level]:
    """Pages in `data`, the end of a file from its byte `base` on; the file begins at `start`."""
    codecs: dict[int, Codec] = {8: "deflate", 7: "jpeg"}
    dtypes = {8: np.dtype(np.uint8), 16: np.dtype("<i2")}
    position = base
    while position:
        at = position - base
        (count,) = struct.unpack_from("<Q", data, at)
        values = {}
        for index in range(count):
            tag, kind, length, place = ENTRY.unpack_from(data, at + 8 + index * ENTRY.size)
            if tag not in READ:
                continue
            dtype = np.dtype(f"<{WIDTHS[kind]}")
            inside = length * dtype.itemsize <= 8
            offset = 0 if inside else struct.unpack("<Q", place)[0] - base
            values[tag] = np.frombuffer(place if inside else data, dtype, length, offset)
        (position,) = struct.unpack_from("<Q", data, at + 8 + count * ENTRY.size)
        size = int(values[257][0]), int(values[256][0])
        dtype = dtypes[int(values[258][0])]
        offsets = values[324] + np.uint64(start)
        yield Level(size, int(values[322][0]), codecs[int(values[259][0])], dtype, offsets, values[325].copy())
