"""A picture being drawn, on disk: raw pixels beside the output, and how far they are finished.

`.NAME.drawing/` holds `pixels.tif`, an uncompressed TIFF that fills as tiles arrive, `record`, and `lock`. Whatever ends the
process, the record never says more than what is on disk: pixels are flushed before a line is added to it, and a line
counts only with its end.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator, Sequence
from io import FileIO
from pathlib import Path

import numpy as np
import tifffile
import torch
from filelock import FileLock, Timeout
from torch import Tensor

from anyres.files import write_process_id
from anyres.networks.pixels import to_uint8
from anyres.plane.tiling import Tile

PIXELS, RECORD, LOCK, FINISHED = "pixels.tif", "record", "lock", "finished"
# Strips of the raw file are about this large.
STRIP_BYTES = 1 << 20
# What strikes from outside; what was drawn before is kept for another attempt.
OUTSIDE = (OSError, MemoryError, torch.OutOfMemoryError)


class Pixels:
    """uint8 (h, w, 3) in rows, from byte `offset` of a file on; nothing of it is held in memory."""

    def __init__(self, file: FileIO, size: tuple[int, int], offset: int = 0) -> None:
        self.file, self.size, self.offset = file, size, offset

    def read(self, part: Tile) -> np.ndarray:
        """The pixels of a rectangle."""
        out = np.empty((*part.size, 3), np.uint8)
        for row, line in enumerate(out):
            self._seek(part, row)
            if self.file.readinto(line.data) != line.nbytes:
                raise OSError("a file of pixels was cut short by something else")
        return out

    def write(self, part: Tile, pixels: np.ndarray) -> None:
        """Put pixels where a rectangle is."""
        for row, line in enumerate(pixels):
            self._seek(part, row)
            if self.file.write(line) != line.nbytes:
                raise OSError("no room is left on the disk")

    def flush(self) -> None:
        """Return when all is on disk."""
        os.fdatasync(self.file.fileno())

    def _seek(self, part: Tile, row: int) -> None:
        self.file.seek(self.offset + 3 * ((part.top + row) * self.size[1] + part.left))


class Canvas:
    """Pixels of a file of `folder`, of which the first `tiles` tiles, together `px` pixels, are finished."""

    def __init__(self, folder: Path, size: tuple[int, int], identity: str) -> None:
        self.folder, self.file = folder, folder / PIXELS
        self.tiles, self.px = _finished(folder, identity)
        if self.tiles:
            _clear(folder, (LOCK, RECORD, PIXELS))
        else:
            _clear(folder, (LOCK,))
            _create(self.file, size)
            (folder / RECORD).write_text(f"{identity}\n", encoding="ascii")
        with tifffile.TiffFile(self.file) as file:
            offset = file.pages.first.dataoffsets[0]
        self.pixels = Pixels(FileIO(self.file, "r+"), size, offset)
        self._record = _mended(folder / RECORD)

    def put(self, drawn: Sequence[tuple[Tile, Tensor]]) -> None:
        """Take the next tiles, values (3, h, w) in [-1, 1]; when this returns they are finished."""
        for part, values in drawn:
            self.pixels.write(part, to_uint8(values[None])[0])
        self.pixels.flush()
        self.tiles += len(drawn)
        self.px += sum(part.size[0] * part.size[1] for part, _ in drawn)
        self._record.write(f"{self.tiles} {self.px}\n".encode())

    @contextlib.contextmanager
    def finishing(self) -> Iterator[Path]:
        """A folder for files that are not whole yet; what is left in it afterwards is removed."""
        folder = self.folder / FINISHED
        folder.mkdir()
        try:
            yield folder
        finally:
            shutil.rmtree(folder)

    def close(self) -> None:
        self.pixels.file.close()
        self._record.close()


@contextlib.contextmanager
def canvas_of(path: Path, size: tuple[int, int], identity: str, output_share: float) -> Iterator[Canvas]:
    """The canvas of an output, this process's alone; goes on with that of a former process if it is of the same `identity`.

    It is removed at the end, except after an interruption or a fault from outside, when some of it is finished. Raises
    ValueError, one line, where another process has it, and OSError where the disk has no room for the canvas and
    `output_share` times as much.
    """
    folder = path.with_name(f".{path.name}.drawing")
    with _held(folder, path):
        keep = False
        try:
            _check_room(path, folder / PIXELS, size, output_share)
            canvas = Canvas(folder, size, identity)
            with contextlib.closing(canvas):
                yield canvas
        except BaseException as error:
            outside = isinstance(error, OUTSIDE) or not isinstance(error, Exception)
            keep = outside and _finished(folder, identity)[0] > 0
            raise
        finally:
            if not keep:
                _clear(folder, (LOCK,))
                (folder / LOCK).unlink()
                # Who comes next may have put a lock of its own there already.
                with contextlib.suppress(OSError):
                    folder.rmdir()


@contextlib.contextmanager
def _held(folder: Path, path: Path) -> Iterator[None]:
    """Hold the lock of a canvas, which the system releases however its holder ends."""
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            held = FileLock(folder / LOCK, timeout=0.0, on_acquired=write_process_id).acquire()
        except FileNotFoundError:
            continue  # A former holder removed the folder after it was made.
        except Timeout:
            try:
                holder = (folder / LOCK).read_text(encoding="ascii").strip() or "another"
            except FileNotFoundError:
                continue  # A former holder removed its lock during the attempt.
            raise ValueError(f"{path}: process {holder} is drawing it; wait for it, end it, or name another file") from None
        with held:
            yield
        return


def _check_room(path: Path, pixels: Path, size: tuple[int, int], output_share: float) -> None:
    raw = 3 * size[0] * size[1]
    there = pixels.stat().st_blocks * 512 if pixels.exists() else 0
    needed, free = raw * (1 + output_share) - there, shutil.disk_usage(path.parent).free
    if needed > free:
        raise OSError(f"{path}: drawing it takes up to {needed / 1e9:.2f} GB of disk, {free / 1e9:.2f} GB are free there")


def _create(path: Path, size: tuple[int, int]) -> None:
    """An empty file of the size of the picture, that takes disk only where something is written to it."""
    rows = max(1, min(size[0], STRIP_BYTES // (3 * size[1])))
    tifffile.imwrite(path, shape=(*size, 3), dtype=np.uint8, bigtiff=True, photometric="rgb", rowsperstrip=rows, metadata=None)


def _finished(folder: Path, identity: str) -> tuple[int, int]:
    """Tiles and pixels that the record of a canvas of this identity tells of; none where there is no such canvas."""
    if not (folder / RECORD).is_file() or not (folder / PIXELS).is_file():
        return 0, 0
    lines = (folder / RECORD).read_bytes().split(b"\n")[:-1]
    if len(lines) < 2 or lines[0] != identity.encode():
        return 0, 0
    tiles, px = lines[-1].split()
    return int(tiles), int(px)


def _mended(record: Path) -> FileIO:
    """Open a record to add lines to it, without a last one that was not finished."""
    file = FileIO(record, "r+")
    file.seek(record.read_bytes().rfind(b"\n") + 1)
    file.truncate()
    return file


def _clear(folder: Path, but: Sequence[str]) -> None:
    """Remove what is in a folder except some."""
    for entry in folder.iterdir():
        if entry.name not in but:
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
