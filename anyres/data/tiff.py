"""Write and read tiled multi-page BigTIFF files, which libtiff, libvips, tifffile and GDAL can open.

Each level of a pyramid is one page. The pages after the first have NewSubfileType = 1, reduced resolution.
Source: TIFF 6.0 (Adobe 1992), sections 2, 15 and 22, and the BigTIFF layout of libtiff 4.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import IO, Literal, cast

import numpy as np
from isal import isal_zlib
from PIL import Image

Codec = Literal["deflate", "jpeg"]
COMPRESSION = {"deflate": 8, "jpeg": 7}
RGB, YCBCR = 2, 6
# Photographs take at most 3 % more bytes than with the default level, in half the time.
DEFLATE_LEVEL = 4
HEADER = struct.Struct("<2sHHHQ")
TAG_ENTRY = struct.Struct("<HHQ8s")
SHORT, LONG, LONG8 = 3, 4, 16
TAGS_READ = {256, 257, 258, 259, 322, 324, 325}  # the other tags of our files are constant
FIELD_FORMATS = {SHORT: "H", LONG: "I", LONG8: "Q"}

# The stub of isal declares its error as an instance.
INFLATE_ERROR = cast("type[Exception]", isal_zlib.error)


class DamagedTiffError(ValueError):
    """A file is damaged, or was not written by this module."""


@dataclass(frozen=True)
class Level:
    """One page: `size` = (h, w) in pixels, and the position of each tile in the file, in row order."""

    size: tuple[int, int]
    tile_px: int
    codec: Codec
    dtype: np.dtype  # of a sample: uint8, or int16 if values leave 0..255
    offsets: np.ndarray  # uint64 (tiles,), from the start of the shard that contains the file
    counts: np.ndarray  # uint32 (tiles,), bytes

    @property
    def across(self) -> int:
        """The number of tiles in a row."""
        return -(-self.size[1] // self.tile_px)


def write_pyramid(stream: IO[bytes], levels: Iterable[np.ndarray], tile_px: int, codec: Codec, jpeg_quality: int) -> list[Level]:
    """Write sRGB levels (h, w, 3), finest first, to an empty seekable stream. Return the levels as written.

    Levels are uint8, or int16 if values leave 0..255. JPEG has 8 bits only, so these values are clipped.
    """
    stream.write(HEADER.pack(b"II", 43, 8, 0, 0))
    written: list[Level] = []
    for pixels in levels:
        if codec == "jpeg":
            pixels = np.clip(pixels, 0, 255).astype(np.uint8)
        offsets, counts = [], []
        for tile in _split_into_tiles(pixels, tile_px):
            data = encode_tile(tile, codec, jpeg_quality)
            offsets.append(stream.tell())
            counts.append(len(data))
            stream.write(data)
        positions = np.array(offsets, np.uint64), np.array(counts, np.uint32)
        written.append(Level((pixels.shape[0], pixels.shape[1]), tile_px, codec, pixels.dtype, *positions))
    stream.write(b"\0" * (-stream.tell() % 8))
    first_page = stream.tell()
    stream.writelines(
        _page(level, stream.tell(), reduced=index > 0, last=index == len(written) - 1) for index, level in enumerate(written)
    )
    stream.seek(0)
    stream.write(HEADER.pack(b"II", 43, 8, 0, first_page))
    return written


def read_levels(read: Callable[[int, int], bytes], start: int, size: int) -> list[Level]:
    """Read the page table of a file that `write_pyramid` wrote.

    `read(offset, size)` reads the shard in which the file takes `size` bytes from `start`. It is called twice. Raises
    DamagedTiffError for any other file.
    """
    try:
        magic, version, width, _, first_page = HEADER.unpack(read(start, HEADER.size))
        if (magic, version, width) != (b"II", 43, 8):
            raise DamagedTiffError("not a BigTIFF in little-endian order")
        return list(_parse(read(start + first_page, size - first_page), first_page, start))
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
    """Return a tile of a level, (t, t, 3), read-only. Raises DamagedTiffError if the data is not a tile."""
    shape = level.tile_px, level.tile_px, 3
    try:
        if level.codec == "jpeg":
            return _decode_jpeg(data).reshape(shape)
        # ISA-L inflates two to three times faster than zlib.
        return np.frombuffer(isal_zlib.decompress(data), level.dtype).reshape(shape)
    except (INFLATE_ERROR, RuntimeError, ValueError) as error:
        raise DamagedTiffError(f"damaged tile: {' '.join(str(error).split())[:150]}") from None


def _decode_jpeg(data: bytes) -> np.ndarray:
    """Decode a JPEG to uint8 (h, w, 3)."""
    import torch
    from torchvision.io import ImageReadMode, decode_jpeg

    # Takes half the time of Pillow, which parses the markers in Python.
    pixels = decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8), ImageReadMode.RGB)
    return np.moveaxis(np.asarray(pixels), 0, 2)


def _split_into_tiles(pixels: np.ndarray, tile_px: int) -> Iterator[np.ndarray]:
    """Yield tiles in row order. Tiles across the edge repeat the last pixels, which readers ignore."""
    height, width, _ = pixels.shape
    for top in range(0, height, tile_px):
        for left in range(0, width, tile_px):
            tile = pixels[top : top + tile_px, left : left + tile_px]
            padding = (0, tile_px - tile.shape[0]), (0, tile_px - tile.shape[1]), (0, 0)
            yield np.pad(tile, padding, mode="edge") if any(map(any, padding)) else tile


def _page(level: Level, start: int, reduced: bool, last: bool) -> bytes:
    """Encode one page at `start`: its table of tags, the offset of the next page, and the arrays too long for the table."""
    height, width = level.size
    is_jpeg = level.codec == "jpeg"
    tags: list[tuple[int, int, np.ndarray | list[int]]] = [
        (254, LONG, [int(reduced)]),  # NewSubfileType
        (256, LONG, [width]),
        (257, LONG, [height]),
        (258, SHORT, [8 * level.dtype.itemsize] * 3),  # BitsPerSample
        (259, SHORT, [COMPRESSION[level.codec]]),
        (262, SHORT, [YCBCR if is_jpeg else RGB]),  # PhotometricInterpretation
        (277, SHORT, [3]),  # SamplesPerPixel
        (284, SHORT, [1]),  # PlanarConfiguration: interleaved
        (322, LONG, [level.tile_px]),  # TileWidth
        (323, LONG, [level.tile_px]),  # TileLength
        (324, LONG8, level.offsets),
        (325, LONG, level.counts),
    ]
    if level.dtype == np.int16:
        tags.append((339, SHORT, [2, 2, 2]))  # SampleFormat: signed
    if is_jpeg:
        tags.append((530, SHORT, [1, 1]))  # YCbCrSubSampling: 4:4:4
    arrays_start = start + 8 + len(tags) * TAG_ENTRY.size + 8
    table, arrays = struct.pack("<Q", len(tags)), b""
    for tag, field_type, values in tags:
        data = np.asarray(values, dtype=f"<{FIELD_FORMATS[field_type]}").tobytes()
        if len(data) > 8:
            value = struct.pack("<Q", arrays_start + len(arrays))
            arrays += data + b"\0" * (-len(data) % 8)
        else:
            value = data.ljust(8, b"\0")
        table += TAG_ENTRY.pack(tag, field_type, len(values), value)
    return table + struct.pack("<Q", 0 if last else arrays_start + len(arrays)) + arrays


def _parse(data: bytes, base: int, start: int) -> Iterator[Level]:
    """Yield the pages in `data`: the end of a file, from its byte `base`. The file begins at `start`."""
    codecs: dict[int, Codec] = {8: "deflate", 7: "jpeg"}
    dtypes = {8: np.dtype(np.uint8), 16: np.dtype("<i2")}
    position = base
    while position:
        at = position - base
        (count,) = struct.unpack_from("<Q", data, at)
        values = {}
        for index in range(count):
            tag, field_type, length, value = TAG_ENTRY.unpack_from(data, at + 8 + index * TAG_ENTRY.size)
            if tag not in TAGS_READ:
                continue
            dtype = np.dtype(f"<{FIELD_FORMATS[field_type]}")
            is_inline = length * dtype.itemsize <= 8
            offset = 0 if is_inline else struct.unpack("<Q", value)[0] - base
            values[tag] = np.frombuffer(value if is_inline else data, dtype, length, offset)
        (position,) = struct.unpack_from("<Q", data, at + 8 + count * TAG_ENTRY.size)
        size = int(values[257][0]), int(values[256][0])
        dtype = dtypes[int(values[258][0])]
        offsets = values[324] + np.uint64(start)
        yield Level(size, int(values[322][0]), codecs[int(values[259][0])], dtype, offsets, values[325].copy())
