"""An unfinished picture on disk: raw pixels in a folder beside the output, and a record of the finished tiles.

`.NAME.drawing/` holds `pixels.tif`, an uncompressed TIFF that fills as tiles arrive, `record`, and `lock`. The record never
claims more than is on disk, however the process ends: pixels are flushed before a line is added to it, and a line without
its end does not count.
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
# After these errors, and after an interruption, the canvas stays on disk so that the next attempt resumes.
RESUMABLE_ERRORS = (OSError, MemoryError, torch.OutOfMemoryError)


class Pixels:
    """Pixels uint8 (h, w, 3) in rows, from byte `offset` of a file on. None are held in memory."""

    def __init__(self, file: FileIO, size: tuple[int, int], offset: int = 0) -> None:
        self.file, self.size, self.offset = file, size, offset

    def read(self, cell: Tile) -> np.ndarray:
        """Read the pixels of a rectangle."""
        out = np.empty((*cell.size, 3), np.uint8)
        for row, line in enumerate(out):
            self._seek(cell, row)
            if self.file.readinto(line.data) != line.nbytes:
                raise OSError("a file of pixels was truncated by another process")
        return out

    def write(self, cell: Tile, pixels: np.ndarray) -> None:
        """Write the pixels of a rectangle."""
        for row, line in enumerate(pixels):
            self._seek(cell, row)
            if self.file.write(line) != line.nbytes:
                raise OSError("no room is left on the disk")

    def flush(self) -> None:
        """Block until all pixels are on disk."""
        os.fdatasync(self.file.fileno())

    def _seek(self, cell: Tile, row: int) -> None:
        self.file.seek(self.offset + 3 * ((cell.top + row) * self.size[1] + cell.left))


class Canvas:
    """The picture in `folder`. Its first `tiles` tiles, together `px` pixels, are finished."""

    def __init__(self, folder: Path, size: tuple[int, int], identity: str) -> None:
        self.folder, self.file = folder, folder / PIXELS
        self.tiles, self.px = _finished_counts(folder, identity)
        if self.tiles:
            _clear(folder, (LOCK, RECORD, PIXELS))
        else:
            _clear(folder, (LOCK,))
            _create(self.file, size)
            (folder / RECORD).write_text(f"{identity}\n", encoding="ascii")
        with tifffile.TiffFile(self.file) as file:
            offset = file.pages.first.dataoffsets[0]
        self.pixels = Pixels(FileIO(self.file, "r+"), size, offset)
        self._record = _open_record(folder / RECORD)

    def put(self, tiles: Sequence[tuple[Tile, Tensor]]) -> None:
        """Write the next tiles, values (3, h, w) in [-1, 1]. They are on disk when this returns."""
        for cell, values in tiles:
            self.pixels.write(cell, to_uint8(values[None])[0])
        self.pixels.flush()
        self.tiles += len(tiles)
        self.px += sum(cell.size[0] * cell.size[1] for cell, _ in tiles)
        self._record.write(f"{self.tiles} {self.px}\n".encode())

    @contextlib.contextmanager
    def finishing(self) -> Iterator[Path]:
        """Yield a folder for unfinished output files. It is removed at the end."""
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
def open_canvas(path: Path, size: tuple[int, int], identity: str, output_share: float) -> Iterator[Canvas]:
    """Yield the canvas of an output, locked for this process. It resumes an earlier canvas with the same `identity`.

    It is removed at the end, except after an interruption or one of RESUMABLE_ERRORS if some tiles are finished. Raises
    ValueError, one line, if another process has it, and OSError if the disk has no room for the canvas and an output of
    `output_share` times its size.
    """
    folder = path.with_name(f".{path.name}.drawing")
    with _locked(folder, path):
        keep = False
        try:
            _check_room(path, folder / PIXELS, size, output_share)
            canvas = Canvas(folder, size, identity)
            with contextlib.closing(canvas):
                yield canvas
        except BaseException as error:
            resumable = isinstance(error, RESUMABLE_ERRORS) or not isinstance(error, Exception)
            keep = resumable and _finished_counts(folder, identity)[0] > 0
            raise
        finally:
            if not keep:
                _clear(folder, (LOCK,))
                (folder / LOCK).unlink()
                # The next process may have put its lock there already.
                with contextlib.suppress(OSError):
                    folder.rmdir()


@contextlib.contextmanager
def _locked(folder: Path, path: Path) -> Iterator[None]:
    """Hold the lock of a canvas. The system releases it however the process ends."""
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            lock = FileLock(folder / LOCK, timeout=0.0, on_acquired=write_process_id).acquire()
        except FileNotFoundError:
            continue  # A former holder removed the folder after it was made.
        except Timeout:
            try:
                holder = (folder / LOCK).read_text(encoding="ascii").strip() or "another"
            except FileNotFoundError:
                continue  # A former holder removed its lock during the attempt.
            raise ValueError(f"{path}: process {holder} is drawing it; wait for it, end it, or name another file") from None
        with lock:
            yield
        return


def _check_room(path: Path, pixels: Path, size: tuple[int, int], output_share: float) -> None:
    raw = 3 * size[0] * size[1]
    there = pixels.stat().st_blocks * 512 if pixels.exists() else 0
    needed, free = raw * (1 + output_share) - there, shutil.disk_usage(path.parent).free
    if needed > free:
        raise OSError(f"{path}: drawing it takes up to {needed / 1e9:.2f} GB of disk, {free / 1e9:.2f} GB are free there")


def _create(path: Path, size: tuple[int, int]) -> None:
    """Create a sparse file of the size of the picture."""
    rows = max(1, min(size[0], STRIP_BYTES // (3 * size[1])))
    tifffile.imwrite(path, shape=(*size, 3), dtype=np.uint8, bigtiff=True, photometric="rgb", rowsperstrip=rows, metadata=None)


def _finished_counts(folder: Path, identity: str) -> tuple[int, int]:
    """Return the finished tiles and pixels of a canvas with this identity, from its record; zeros if there is none."""
    if not (folder / RECORD).is_file() or not (folder / PIXELS).is_file():
        return 0, 0
    lines = (folder / RECORD).read_bytes().split(b"\n")[:-1]
    if len(lines) < 2 or lines[0] != identity.encode():
        return 0, 0
    tiles, px = lines[-1].split()
    return int(tiles), int(px)


def _open_record(record: Path) -> FileIO:
    """Open a record to append lines. An unfinished last line is cut off."""
    file = FileIO(record, "r+")
    file.seek(record.read_bytes().rfind(b"\n") + 1)
    file.truncate()
    return file


def _clear(folder: Path, keep: Sequence[str]) -> None:
    """Remove the entries of a folder, except those named in `keep`."""
    for entry in folder.iterdir():
        if entry.name not in keep:
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
