"""A folder as people really have it, and files made to hurt: nothing crashes, nothing is lost, everything has a reason."""

from __future__ import annotations

import io
import struct
import threading
import time
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

from anyres.data.process_pool import LimitedProcessPool, LimitError

from .conftest import take_in
from .pictures import encoded, photograph


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_claiming(width: int, height: int, data: bytes = b"") -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def frames(kind: str, seed: int) -> bytes:
    first, second = (Image.fromarray(photograph(40, 50, seed + offset)) for offset in (0, 1))
    return encoded(first, kind, save_all=True, append_images=[second], duration=100)


def zipped(data: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("picture.png", data)
    return stream.getvalue()


def picture(kind: str, seed: int, **options: object) -> bytes:
    return encoded(photograph(60 + seed % 7, 80, seed), kind, **options)


# Each way to break a file, from a seed, and the kind of reason it gets.
BROKEN: dict[str, tuple[Callable[[int], bytes], str]] = {
    "empty": (lambda seed: b"", "empty file"),
    "text": (lambda seed: b"no picture at all\n" * (seed + 1), "not a picture file that can be read here"),
    "page": (lambda seed: b"<html><body>404</body></html>" + bytes(seed), "not a picture file that can be read here"),
    "noise": (lambda seed: np.random.default_rng(seed).bytes(5000), "not a picture file that can be read here"),
    "drawing": (lambda seed: b"<svg xmlns='http://www.w3.org/2000/svg' width='99' height='99'/>", "not a picture"),
    "document": (lambda seed: b"%PDF-1.4\n1 0 obj\n<< >>\nendobj\n%%EOF", "not a picture file that can be read here"),
    "archive": (lambda seed: zipped(picture("PNG", seed)), "not a picture file that can be read here"),
    "jpeg of a header": (lambda seed: picture("JPEG", seed)[:300], "broken"),
    "half a jpeg": (lambda seed: (data := picture("JPEG", seed))[: len(data) // 2], "broken"),
    "half a png": (lambda seed: (data := picture("PNG", seed))[: len(data) // 2], "broken"),
    "bits of a png flipped": (lambda seed: (data := picture("PNG", seed))[:900] + bytes(64) + data[964:], "broken"),
    "half a webp": (lambda seed: (data := picture("WEBP", seed))[: len(data) // 2], "broken"),
    "half a tiff": (lambda seed: (data := picture("TIFF", seed))[: len(data) // 2], "broken"),
    "half a gif": (lambda seed: (data := picture("GIF", seed))[: len(data) // 2], "broken"),
    "bomb by header": (lambda seed: png_claiming(60000, 60000 + seed, zlib.compress(b"x")), "too large"),
    "bomb": (lambda seed: png_claiming(20000, 20000 + seed, zlib.compress(bytes(10**7), 9)), "too large"),
    "thumbnail": (lambda seed: encoded(photograph(12, 40, seed), "PNG"), "too small"),
    "moving gif": (lambda seed: frames("GIF", seed), "animated"),
    "moving png": (lambda seed: frames("PNG", seed), "animated"),
    "floating point": (lambda seed: encoded(Image.fromarray(np.ones((40, 50 + seed), np.float32)), "TIFF"), "float samples"),
}
GOOD = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "PPM", "JPEG2000")


class PeakMemory(threading.Thread):
    """Samples the resident memory of this process's children."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak = 0
        self.over = threading.Event()

    def run(self) -> None:
        me = psutil.Process()
        while not self.over.wait(0.05):
            total = 0
            for process in me.children(recursive=True):
                try:
                    total += process.memory_info().rss
                except psutil.NoSuchProcess:
                    continue
            self.peak = max(self.peak, total)


def test_a_thousand_files_of_which_two_hundred_are_broken_in_twenty_ways(tmp_path: Path) -> None:
    assert len(BROKEN) == 20
    folder = tmp_path / "in"
    folder.mkdir()
    for seed in range(800):
        kind = GOOD[seed % len(GOOD)]
        (folder / f"{seed:04d} good.{kind.lower()}").write_bytes(picture(kind, seed))
    for way, (make, _) in BROKEN.items():
        for seed in range(10):
            (folder / f"{seed * 101:04d} {way}.jpg").write_bytes(make(seed))
    memory = PeakMemory()
    before = psutil.Process().memory_info().rss
    memory.start()
    catalogue = take_in(folder, tmp_path / "out", near_duplicates="refuse", shard_files=64)
    memory.over.set()
    memory.join()
    assert len(catalogue.rows) == 1000
    assert sorted(row.id for row in catalogue.accepted) == sorted(path.name for path in folder.glob("* good.*"))
    assert all(row.reason and "\n" not in row.reason for row in catalogue.refused)
    for way, (_, reason) in BROKEN.items():
        reasons = Counter(row.reason[: len(reason)] for row in catalogue.refused if row.id.endswith(f" {way}.jpg"))
        assert reasons == {reason: 10}, way
    assert memory.peak + max(0, psutil.Process().memory_info().rss - before) < 1.5e9


# Expressions for workers that evaluate what they are given.
TASKS = {
    "good": "'a'.upper()",
    "sleeps": "__import__('time').sleep(60)",
    "good too": "'b'.upper()",
    "eats": "len(bytearray(2**31))",
    "crashes": "__import__('os').kill(__import__('os').getpid(), 11)",
    "good still": "'c'.upper()",
    "refuses": "(_ for _ in ()).throw(__import__('anyres.data.refusal', fromlist=['']).RefusedError('broken: on purpose'))",
    "good to the end": "'d'.upper()",
}


def test_a_task_over_its_limits_takes_only_itself_down() -> None:
    with LimitedProcessPool(eval, workers=2, seconds=2.0, megabytes=256) as pool:
        pending = {name: pool.submit(task) for name, task in TASKS.items()}
        results = {name: result() for name, result in pending.items()}
    assert [result for name, result in results.items() if name.startswith("good")] == ["A", "B", "C", "D"]
    assert str(results["sleeps"]) == "too slow: takes more than 2 s to decode"
    assert str(results["eats"]) == "too large in memory: takes more than 256 MB to decode"
    assert str(results["crashes"]).startswith("crashes its decoder: status -11")
    assert str(results["refuses"]) == "broken: on purpose"
    limited = [name for name, result in results.items() if isinstance(result, LimitError)]
    assert limited == ["sleeps", "eats", "crashes"]


def test_files_over_the_limit_of_size_are_not_opened(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.png").write_bytes(picture("PNG", 0))
    with (folder / "b.png").open("wb") as stream:
        stream.truncate(10**12)
    start = time.perf_counter()
    catalogue = take_in(folder, tmp_path / "out", max_mb=5.0)
    assert [row.reason for row in catalogue.refused] == ["too large: 1000000.0 MB, over 5"]
    assert time.perf_counter() - start < 30


@pytest.mark.parametrize("megabytes", [256])
def test_a_picture_too_large_for_the_memory_is_set_aside(tmp_path: Path, megabytes: int) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.png").write_bytes(picture("PNG", 0))
    rows = np.zeros(20000 * 20001 * 3 // 64, np.uint8)
    pressed = zlib.compressobj(1)
    data = b"".join([pressed.compress(rows.tobytes()) for _ in range(65)]) + pressed.flush()
    (folder / "b.png").write_bytes(png_claiming(20000, 20000, data))
    catalogue = take_in(folder, tmp_path / "out", max_mpx=1000.0, decode_mb=megabytes)
    (refused,) = catalogue.refused
    assert refused.id == "b.png"
    assert "memory" in refused.reason or "crashes its decoder" in refused.reason
    assert len(catalogue.accepted) == 1
