"""The store gives what `render_real` gives, from the tiles a patch needs, and its files open in other tools."""

from __future__ import annotations

import io
import statistics
import tarfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import pyvips
from PIL import Image

from anyres.data.pyramid import Store, halve, halving_taps, prepare, pyramid
from anyres.data.tiff import DamagedTiffError, decode_tile, read_levels, write_pyramid
from anyres.plane.chart import Cylinder
from anyres.plane.resample import render_real
from anyres.plane.window import Window

from .conftest import Build
from .pictures import photograph, prepare_params


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / max(np.mean((a.astype(np.float64) - b) ** 2), 1e-9)))


def ramp(height: int, width: int) -> np.ndarray:
    """Red grows with x, green with y, by at most 255 over the longer side; blue is a constant."""
    y, x = np.mgrid[:height, :width] + 0.5
    return np.rint(np.dstack([x, y, np.full_like(x, 77)]) * [255 / width, 255 / height, 1]).astype(np.uint8)


@pytest.mark.parametrize("size", [(96, 160), (97, 161), (101, 163), (255, 130)])
def test_levels_halve_about_the_corner(size: tuple[int, int]) -> None:
    """Pixel k of level l has its centre at 2^l (k + 0.5) from the corner, to 0.05 native pixels, odd sides too."""
    height, width = size
    # A blob of known centre, moved over the picture; its centroid is where the level says it is.
    for x0, y0 in ((48.3, 41.6), (60.0, 52.25), (55.5, 48.5)):
        y, x = np.mgrid[:height, :width] + 0.5
        blob = 250 * np.exp(-((x - x0) ** 2 + (y - y0) ** 2) / (2 * 6.0**2))
        levels = list(pyramid(np.rint(np.dstack([blob] * 3)).astype(np.uint8)))
        for depth, level in enumerate(levels[:3]):
            assert level.shape[:2] == (-(-height // 2**depth), -(-width // 2**depth))
            weight = level[..., 0].astype(np.float64)
            rows, columns = (np.arange(count) + 0.5 for count in weight.shape)
            centre = weight.sum(0) @ columns / weight.sum() * 2**depth, weight.sum(1) @ rows / weight.sum() * 2**depth
            assert centre == pytest.approx((x0, y0), abs=0.05)


def plainly_halved(pixels: np.ndarray) -> np.ndarray:
    """`halve` in floating point, tap by tap, borders repeated."""
    taps = halving_taps()
    for axis in (0, 1):
        count = pixels.shape[axis]
        centres = 2 * np.arange(-(-count // 2))
        pixels = sum(
            tap * np.take(pixels.astype(np.float64), np.clip(centres + offset, 0, count - 1), axis)
            for offset, tap in zip(range(1 - len(taps) // 2, len(taps) // 2 + 1), taps, strict=True)
        )
    return pixels


@pytest.mark.parametrize("size", [(128, 200), (97, 161), (33, 18), (17, 700)])
def test_halving_in_whole_numbers_is_halving(size: tuple[int, int]) -> None:
    picture = photograph(*size, seed=5)
    once = halve(picture)
    assert once.dtype == np.int16
    assert np.abs(once - plainly_halved(picture)).max() <= 0.55  # rounding at the end, and of the taps
    assert np.abs(halve(once) - plainly_halved(once)).max() <= 0.55


def test_halving_keeps_constants_and_what_leaves_the_range() -> None:
    assert np.array_equal(halve(np.full((40, 61, 3), 255, np.uint8)), np.full((20, 31, 3), 255))
    edge = np.zeros((40, 60, 3), np.uint8)
    edge[:, 31:] = 255
    assert halve(edge).min() < -5
    assert halve(edge).max() > 260


def test_levels_end_at_a_few_pixels() -> None:
    sizes = [level.shape[:2] for level in pyramid(np.zeros((100, 260, 3), np.uint8))]
    assert sizes == [(100, 260), (50, 130), (25, 65), (13, 33)]


@pytest.mark.parametrize("tile_px", [16, 64, 128])
def test_native_windows_equal_render_real(build: Build, tile_px: int) -> None:
    picture = photograph(151, 233, seed=1)
    store = build({"a": picture}, tile_px=tile_px)
    period = 2 / 151
    for center, size in (((0, 0), (151, 233)), ((0.31, -0.17), (40, 72)), ((-1.2, 0.6), (33, 17))):
        for ratio in (1.0, 1.3):
            if max(size) * ratio > 151 and ratio > 1:
                continue
            window = Window(center, period * ratio, size)
            assert np.abs(store.read(0, window) - render_real(picture, window)).max() <= 1 / 255


@pytest.mark.parametrize("ratio", [1.5, 2.0, 3.0, 3.7, 4.0, 6.0, 9.5])
@pytest.mark.parametrize("codec", ["deflate", "jpeg"])
def test_coarser_windows_agree_with_render_real(build: Build, ratio: float, codec: str) -> None:
    picture = photograph(401, 603, seed=2)
    store = build({"a": picture}, codec=codec)
    size = (24, 40)
    period = 2 / 401 * ratio
    slack_x, slack_y = 603 / 401 - period * 20, 1 - period * 12
    for x, y in ((0, 0), (-1, -1), (1, 1), (0.37, -0.81)):  # the corners too
        window = Window((x * slack_x, y * slack_y), period, size)
        read, expected = store.read(0, window), render_real(picture, window)
        if codec == "deflate":
            assert np.abs(read - expected).max() <= 1.0
        assert psnr(read, expected) >= (50 if codec == "deflate" else 40)


def test_windows_of_stars_and_hard_edges_are_exact_to_one_level(build: Build) -> None:
    """Where filters ring: white points and squares on black, black ones on white."""
    rng = np.random.default_rng(3)
    sky = np.zeros((420, 500, 3), np.uint8)
    for y, x in rng.integers(8, 400, (150, 2)):
        sky[y : y + rng.integers(1, 6), x : x + rng.integers(1, 6)] = 255
    for picture in (sky, 255 - sky):
        store = build({"a": picture}, folder=f"store{picture[0, 0, 0]}")
        for ratio in np.geomspace(1.5, 12, 12):
            window = Window((0.05, -0.1), 2 / 420 * ratio, (int(300 / ratio), int(350 / ratio)))
            assert np.abs(store.read(0, window) - render_real(picture, window)).max() <= 1.0


def test_a_picture_of_its_coordinates_reads_as_the_windows_coordinates(build: Build) -> None:
    height, width = 301, 455
    store = build({"a": ramp(height, width)})
    half_width, half_height = store.pictures[0].half_extent
    for ratio, center in ((1.0, (0.2, -0.1)), (1.4, (-0.4, 0.3)), (2.9, (0.11, 0.07)), (3.3, (0, 0)), (6.1, (-0.2, 0.1))):
        window = Window(center, 2 / 301 * ratio, (28, 36))
        read = store.read(0, window)
        x, y = window.coords()[..., 0], window.coords()[..., 1]
        expected = np.dstack([(x + half_width) / (2 * half_width), (y + half_height) / (2 * half_height)]) * 255
        # Half a level of rounding in the file and in each level made from it: in the mean it cancels, so that a
        # shift of the whole patch by 0.05 native pixels (0.03 levels here) would show.
        assert np.abs(read[..., :2] - expected).max() <= 1.3
        assert np.abs((read[..., :2] - expected).mean((0, 1))).max() <= 0.05
        assert np.abs(read[..., 2] - 77).max() <= 1e-3


def test_reading_never_upsamples_nor_leaves_the_frame(build: Build) -> None:
    store = build({"a": photograph(101, 153)})
    with pytest.raises(ValueError, match=r"finer than the 0\.0198\d+ of a\.png; the store never upsamples"):
        store.read(0, Window((0, 0), 0.0197, (8, 9)))
    with pytest.raises(ValueError, match="outside the frame"):
        store.read(0, Window((0, 0.97), 0.04, (8, 9)))
    # The coarser levels of odd sides reach beyond the picture; windows may not.
    with pytest.raises(ValueError, match="outside the frame"):
        store.read(0, Window((0, 0), 2.01 / 8, (8, 9)))


@pytest.mark.parametrize(("size", "fov"), [((96, 64), 360.0), ((300, 600), 180.0)])
def test_a_picture_that_closes_a_cylinder_wraps(build: Build, size: tuple[int, int], fov: float) -> None:
    panorama = photograph(*size, seed=4)
    store = build({"a": panorama})
    chart = Cylinder((1.0, size[0] / size[1]), fov)
    native = 2 / size[1]
    # At the seam, beside it, and far from it where a coarser level serves.
    for x in (0.97, -1.0, 0.8, 0.1, 2.1):
        for zoom in (1.7, 4.0):
            window = Window((x, 0.1), native * zoom, (12, 10))
            assert np.abs(store.read(0, window, chart) - render_real(panorama, window, chart)).max() <= 1
    with pytest.raises(ValueError, match="outside the cylinder"):
        store.read(0, Window((0.0, size[0] / size[1]), native * 2, (8, 9)), chart)


def test_a_photograph_on_a_cylinder_is_a_frame(build: Build) -> None:
    picture = photograph(90, 120, seed=4)
    store = build({"a": picture})
    chart = Cylinder(fov=60.0)
    window = Window((0.03, -0.02), chart.native_period((90, 120)) * 2, (20, 30))
    assert np.abs(store.read(0, window, chart) - render_real(picture, window, chart)).max() <= 1
    with pytest.raises(ValueError, match="outside the frame"):
        store.read(0, Window((0.5, 0.0), window.period, (20, 30)), chart)


def file_of(store: Store) -> bytes:
    """The only picture's file, as `tar` would extract it."""
    (shard,) = (store.path / "shards").glob("*.tar")
    with tarfile.open(shard) as archive:
        (member,) = archive.getmembers()
        file = archive.extractfile(member)
        assert file is not None
        return file.read()


def test_other_tools_open_the_files(build: Build, tmp_path: Path) -> None:
    picture = photograph(201, 303, seed=6)
    for codec in ("deflate", "jpeg"):
        store = build({"a": picture}, folder=codec, codec=codec)
        path = tmp_path / f"{codec}.tif"
        path.write_bytes(file_of(store))
        for page, level in enumerate(pyramid(picture)):
            by_vips = pyvips.Image.new_from_file(str(path), page=page, fail_on="warning").numpy()
            if codec == "deflate":
                assert np.array_equal(by_vips, level)
            else:
                assert psnr(by_vips, np.clip(level, 0, 255)) > 35
        with Image.open(path) as by_pillow:
            assert psnr(np.asarray(by_pillow.convert("RGB")), picture) > (98 if codec == "deflate" else 35)


def test_tiles_are_cached_within_the_limit_and_change_no_pixel(build: Build) -> None:
    built = build({"a": photograph(301, 455), "b": photograph(303, 250, seed=1)}, tile_px=32)
    tile = 32 * 32 * 3
    stores = [Store.open(built.path, cache_bytes) for cache_bytes in (0, 5 * tile, 2**30)]
    rng = np.random.default_rng(0)
    for _ in range(40):
        window = Window((rng.uniform(-0.35, 0.35), rng.uniform(-0.4, 0.4)), rng.uniform(0.0101, 0.03), (24, 30))
        index = int(rng.integers(2))
        reads = [store.read(index, window) for store in stores]
        assert all(np.array_equal(reads[0], read) for read in reads)
        assert all(store._cache.size <= store._cache.limit for store in stores)
    assert stores[0]._cache.size == 0
    assert stores[2]._cache.size > 5 * tile


def test_the_cost_of_a_patch_does_not_grow_with_the_photograph(build: Build) -> None:
    """128-px patches of a 1 and a 50 megapixel photograph, no cached tile, within 1.3x and noise; medians of one run.

    Time of the processor: what else wants it does not count.
    """
    # Of few values: packed in less time.
    detail = photograph(1000, 1000, seed=7) & 0xC0
    pictures = {"large": np.tile(detail, (7, 8, 1))[:, :7150], "small": detail}
    store = Store.open(build(pictures, tile_px=128).path, cache_bytes=0)
    assert [round(p.width * p.height / 1e6) for p in store.pictures] == [50, 1]
    rng = np.random.default_rng(0)
    seconds: dict[tuple[int, float], list[float]] = {}
    for _ in range(60):
        for ratio in (1.0, 3.3):  # native, and through a coarser level
            place = rng.uniform(-1, 1, 2)
            for index, picture in enumerate(store.pictures):
                period = picture.period * ratio
                slack = 1 - 64 * period
                start = time.process_time()
                store.read(index, Window((place[0] * slack, place[1] * slack), period, (128, 128)))
                seconds.setdefault((index, ratio), []).append(time.process_time() - start)
    for ratio in (1.0, 3.3):
        assert statistics.median(seconds[0, ratio]) <= 1.5 * statistics.median(seconds[1, ratio])


def test_preparing_again_touches_nothing(build: Build, tmp_path: Path) -> None:
    store = build({"a": photograph(61, 83), "b": photograph(40, 50, seed=1)})
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in store.path.rglob("*") if path.is_file()}
    prepare(tmp_path / "store-ingested", prepare_params(), store.path, progress=False)
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in store.path.rglob("*") if path.is_file()} == before


def test_the_hash_follows_pixels_and_parameters(build: Build) -> None:
    pictures = {"a": photograph(61, 83), "b": photograph(40, 50, seed=1)}
    first = build(pictures, folder="first")
    assert first.stats["hash"] == first.hash
    assert build({"x": pictures["a"], "y": pictures["b"]}, folder="renamed").hash == first.hash
    assert build(pictures, folder="unused", jpeg_quality=80).hash == first.hash
    assert build(pictures, folder="tiles", tile_px=32).hash != first.hash
    assert build({"a": pictures["a"]}, folder="fewer").hash != first.hash
    assert build({"a": pictures["b"], "b": pictures["a"]}, folder="order").hash != first.hash
    jpegs = [build(pictures, folder=f"q{quality}", codec="jpeg", jpeg_quality=quality).hash for quality in (80, 90)]
    assert len({first.hash, *jpegs}) == 3


def test_figures_of_the_set(build: Build) -> None:
    stats = build({"a": photograph(161, 283), "b": photograph(40, 50, seed=1), "c": photograph(90, 40, seed=2)}).stats
    assert stats["pictures"] == 3
    assert stats["refused"] == 0
    assert stats["megapixels"] == pytest.approx((161 * 283 + 40 * 50 + 90 * 40) / 1e6, abs=5e-4)
    assert stats["short_side"] == {"min": 40, "median": 40.0, "max": 161, "pictures": {"under_128": 2, "from_128": 1}}


def test_pictures_carry_their_figures_and_credits(build: Build) -> None:
    store = build({"a": photograph(61, 83)})
    (picture,) = store.pictures
    assert len(store) == 1
    assert (picture.id, picture.width, picture.height, picture.short_side) == ("a.png", 83, 61, 61)
    assert picture.aspect == 83 / 61
    assert picture.half_extent == pytest.approx((83 / 61, 1))
    assert picture.credits == "a.png: author not stated, licence not stated"


def test_missing_and_damaged_stores_name_the_stage(build: Build, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"dataset\.json: no such file; run the stage prepare first"):
        Store.open(tmp_path)
    store = build({"a": photograph(101, 153)})
    assert list(store.damaged()) == [None]
    window = Window((0, 0), 2 / 101, (20, 30))
    (path,) = (store.path / "shards").glob("*.tar")
    data = path.read_bytes()
    path.write_bytes(data[:4000] + bytes(3000) + data[7000:])
    assert list(store.damaged()) == [f"{path}: a.png is damaged"]
    with pytest.raises(ValueError, match=r"00000\.tar: a\.png: damaged tile: .*; run the stage prepare again"):
        Store.open(store.path).read(0, window)
    path.write_bytes(data[: len(data) // 2])
    assert list(Store.open(store.path).damaged()) == [f"{path}: a.png is damaged"]
    with pytest.raises(ValueError, match=r"00000\.tar: a\.png: damaged page table: .*; run the stage prepare again"):
        Store.open(store.path).read(0, window)
    path.unlink()
    assert list(Store.open(store.path).damaged()) == [f"{path}: No such file or directory"]
    (store.path / "dataset.json").write_text("{")
    with pytest.raises(ValueError, match=r"store: damaged .*; run the stage prepare again"):
        Store.open(store.path)


def test_an_index_of_a_million_pictures_opens_in_milliseconds(build: Build) -> None:
    store = build({"a": photograph(61, 83)})
    np.save(store.path / "index.npy", np.repeat(np.load(store.path / "index.npy"), 1_000_000))
    start = time.perf_counter()
    million = Store.open(store.path)
    seconds = time.perf_counter() - start
    assert len(million) == 1_000_000
    assert million.pictures[999_999] == store.pictures[0]
    assert seconds < 0.05


def test_an_original_that_changed_since_the_intake_is_named(build: Build, tmp_path: Path) -> None:
    build({"a": photograph(61, 83)})
    ingested = tmp_path / "store-ingested"
    (shard,) = ingested.glob("shards/*.tar")
    data = bytearray(shard.read_bytes())
    data[2000] ^= 1
    shard.write_bytes(data)
    with pytest.raises(ValueError, match=r"a\.png changed since the intake; run the stage ingest again"):
        prepare(ingested, prepare_params(), tmp_path / "again", progress=False)


@pytest.mark.parametrize("start", [0, 1000])
def test_tiff_round_trip(tmp_path: Path, start: int) -> None:
    levels = list(pyramid(photograph(70, 133)))
    file = io.BytesIO()
    written = write_pyramid(file, levels, 32, "deflate", 90)
    data = bytes(start) + file.getvalue()
    read = read_levels(lambda offset, size: data[offset : offset + size], start, len(file.getvalue()))
    assert [level.size for level in read] == [(70, 133), (35, 67), (18, 34), (9, 17)]
    assert [level.dtype for level in read] == [np.uint8, np.int16, np.int16, np.int16]
    for one, other in zip(written, read, strict=True):
        assert np.array_equal(one.offsets + np.uint64(start), other.offsets)
        assert np.array_equal(one.counts, other.counts)
    for level, pixels in zip(read, levels, strict=True):
        tile = data[int(level.offsets[0]) : int(level.offsets[0]) + int(level.counts[0])]
        height, width = min(32, level.size[0]), min(32, level.size[1])
        assert np.array_equal(decode_tile(tile, level)[:height, :width], pixels[:height, :width])
    with pytest.raises(DamagedTiffError, match="damaged tile"):
        decode_tile(b"x", read[0])
    with pytest.raises(DamagedTiffError, match="damaged tile"):
        decode_tile(b"x", replace(read[0], codec="jpeg"))
