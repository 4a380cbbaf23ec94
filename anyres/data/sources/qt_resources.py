"""Reader of Qt's binary resource files (.rcc): a tree of named files, some of them compressed."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

MAGIC = b"qres"
COMPRESSED, DIRECTORY, ZSTANDARD = 1, 2, 4


def members(data: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield (path, bytes) of the files in a resource file. Raises ValueError if `data` is not one or is damaged.

    Header: magic, then as big-endian integers the version and the offsets of the tree, the data and the names. A node of the
    tree: offset of its name, flags; then for a folder the number of children and the index of the first; for a file a locale
    and the offset of its data. The first four bytes of the data are its length.
    """
    if data[:4] != MAGIC:
        raise ValueError("not a Qt resource file")
    try:
        version, tree, contents, names = struct.unpack_from(">IIII", data, 4)
        size = 22 if version >= 2 else 14  # from version 2 with a modification time

        def name(offset: int) -> str:
            (length,) = struct.unpack_from(">H", data, names + offset)
            start = names + offset + 6  # after the length and a hash
            return data[start : start + 2 * length].decode("utf-16-be")

        def walk(node: int, path: str) -> Iterator[tuple[str, bytes]]:
            name_offset, flags = struct.unpack_from(">IH", data, tree + node * size)
            inner = f"{path}/{name(name_offset)}".lstrip("/") if node else ""
            if flags & DIRECTORY:
                count, first = struct.unpack_from(">II", data, tree + node * size + 6)
                if first <= node and count:
                    raise ValueError("a folder contains itself")
                for child in range(first, first + count):
                    yield from walk(child, inner)
                return
            (offset,) = struct.unpack_from(">I", data, tree + node * size + 10)
            (length,) = struct.unpack_from(">I", data, contents + offset)
            start = contents + offset + 4
            content = data[start : start + length]
            if flags & ZSTANDARD:
                return  # not used for pictures, which are already compressed
            yield inner, zlib.decompress(content[4:]) if flags & COMPRESSED else content

        yield from walk(0, "")
    except (struct.error, zlib.error, UnicodeDecodeError) as error:
        raise ValueError(f"a damaged Qt resource file: {error}") from None
