"""Draws are a pure function of (seed, n); windows lie in the frame; every probability is honoured."""

from __future__ import annotations

import math

import numpy as np
import pytest

from anyres.data.patches import PatchLaw, PatchSampler, Prefetch
from anyres.data.pyramid import Store
from anyres.plane.chart import Cylinder, Frame
from anyres.plane.resample import FRAME, render_real
from anyres.plane.window import Window

from .conftest import Build
from .pictures import photograph

PATCH = (12, 20)
PICTURES = {
    "a": photograph(96, 130, seed=1),
    "b": photograph(150, 61, seed=2),
    "c": photograph(200, 333, seed=3),
    "d": photograph(11, 90, seed=4).repeat(2, axis=0)[:16],  # 16 rows: a patch fits
    "e": photograph(90, 18, seed=5),  # 18 columns: none of 20 does
}


@pytest.fixture
def store(build: Build) -> Store:
    return build(PICTURES, tile_px=32)


def sampler(store: Store, **changes: object) -> PatchSampler:
    values: dict = {"patch_px": PATCH, "zoom_max": 16.0, "period": "log_uniform", "flip": 0.5, "seed": 3} | changes
    seed, chart = values.pop("seed"), values.pop("chart", FRAME)
    return PatchSampler(store, PatchLaw(**values), seed, chart)


def test_pictures_without_a_window_are_skipped_and_counted(store: Store) -> None:
    drawn = sampler(store)
    assert (drawn.usable, drawn.skipped) == ([0, 1, 2, 3], 1)
    assert {drawn.draw(n).picture for n in range(200)} == {0, 1, 2, 3}
    with pytest.raises(ValueError, match=r"none of 5 pictures holds a patch of 64x400 pixels .* lower train\.patch_px"):
        sampler(store, patch_px=(64, 400))


def test_a_picture_of_exactly_the_patch_has_one_window(build: Build) -> None:
    drawn = sampler(build({"a": photograph(17, 29)}), patch_px=(17, 29))
    for n in range(20):
        draw = drawn.draw(n)
        assert draw.window.period == pytest.approx(2 / 17, rel=1e-8)
        assert draw.window.center == pytest.approx((0, 0), abs=1e-8)
        assert drawn.read(draw).shape == (17, 29, 3)


@pytest.mark.parametrize("law", ["log_uniform", "uniform_size"])
@pytest.mark.parametrize("zoom_max", [1.7, 4.0, 64.0])
def test_windows_lie_in_the_frame_and_never_upsample(store: Store, law: str, zoom_max: float) -> None:
    drawn = sampler(store, period=law, zoom_max=zoom_max)
    for n in range(300):
        draw = drawn.draw(n)
        picture = store.pictures[draw.picture]
        Frame(picture.half_extent).check(draw.window)
        assert draw.window.size == PATCH
        assert draw.window.period >= picture.period * (1 - 1e-9)
        assert draw.window.zoom(drawn.base) <= zoom_max * (1 + 1e-9)
        assert drawn.read(draw).shape == (*PATCH, 3)


def test_one_scale_alone_skips_pictures_that_do_not_reach_it(store: Store) -> None:
    """Frames of 60 pixels: short sides of 96, 61 and 200 have them, 16 and 18 do not."""
    drawn = sampler(store, period="fixed", zoom_max=5.0)
    assert drawn.usable == [0, 1, 2]
    for n in range(100):
        draw = drawn.draw(n)
        assert draw.window.zoom(drawn.base) == pytest.approx(5.0)
        Frame(store.pictures[draw.picture].half_extent).check(draw.window)


def test_the_laws_of_the_period(build: Build) -> None:
    """Over the range of one picture: log_uniform has a uniform log zoom, uniform_size a uniform 1 / period."""
    store = build({"a": photograph(160, 300)})
    zooms = {
        law: [sampler(store, period=law).draw(n).window.zoom(2 / 12) for n in range(2000)]
        for law in ("log_uniform", "uniform_size")
    }
    # The frame of 160 x 300 holds 12 x 20 at most at zoom 1 (height) and natively has zoom 160 / 12.
    low, high = 1.0, 160 / 12
    logs = (np.log(zooms["log_uniform"]) - math.log(low)) / (math.log(high) - math.log(low))
    sizes = (np.array(zooms["uniform_size"]) - low) / (high - low)
    for uniform in (logs, sizes):
        assert uniform.min() >= -1e-6
        assert uniform.max() <= 1 + 1e-6
        # Kolmogorov-Smirnov: above 1.95 / sqrt(n) with probability 1e-3; seeds are fixed.
        distance = np.abs(np.sort(uniform) - (np.arange(2000) + 0.5) / 2000).max()
        assert distance < 1.95 / math.sqrt(2000)


def test_places_are_uniform_within_the_frame(build: Build) -> None:
    drawn = sampler(build({"a": photograph(160, 300)}))
    places = []
    for n in range(2000):
        window = drawn.draw(n).window
        slack_x, slack_y = 300 / 160 - window.period * 10, 1 - window.period * 6
        if slack_y > 1e-3:
            places.append((window.center[0] / slack_x, window.center[1] / slack_y))
    for axis in np.array(places).T:
        uniform = np.sort((axis + 1) / 2)
        assert np.abs(uniform - (np.arange(len(uniform)) + 0.5) / len(uniform)).max() < 1.95 / math.sqrt(len(uniform))


@pytest.mark.parametrize("probability", [0.0, 0.3, 1.0])
def test_flips_happen_with_their_probability(store: Store, probability: float) -> None:
    drawn = sampler(store, flip=probability)
    count = sum(drawn.draw(n).flip for n in range(2000))
    spread = 4 * math.sqrt(2000 * probability * (1 - probability))
    assert abs(count - 2000 * probability) <= spread


def test_pictures_are_drawn_equally_often(store: Store) -> None:
    drawn = sampler(store)
    counts = np.bincount([drawn.draw(n).picture for n in range(4000)], minlength=5)
    assert counts[4] == 0
    assert np.abs(counts[:4] - 1000).max() <= 4 * math.sqrt(4000 * 0.25 * 0.75)


def test_a_flipped_draw_is_the_window_of_the_mirrored_photograph(store: Store) -> None:
    drawn = sampler(store, flip=1.0)
    for n in range(30):
        draw = drawn.draw(n)
        mirrored = PICTURES["abcde"[draw.picture]][:, ::-1]
        expected = np.clip(render_real(np.ascontiguousarray(mirrored), draw.window), 0, 255)
        difference = np.abs(drawn.read(draw) - expected)
        assert drawn.read(draw).flags["C_CONTIGUOUS"]
        assert difference.mean() < 1.0  # rounding, and 40 dB where a coarser level served
        plain = sampler(store, flip=0.0).draw(n)
        assert (plain.picture, plain.window) == (draw.picture, draw.window)


def test_a_draw_by_a_symmetry_of_the_square_is_the_window_of_the_turned_photograph(store: Store) -> None:
    drawn = sampler(store, patch_px=(18, 18), square=True)
    assert drawn.half_extent[0] == drawn.half_extent[1]
    kinds = set()
    for n in range(60):
        draw = drawn.draw(n)
        kinds.add((draw.flip, draw.upturn, draw.transpose))
        # Three steps from the photograph: rows and columns change places, up and down, left and right.
        turned = PICTURES["abcde"[draw.picture]]
        turned = turned.transpose(1, 0, 2) if draw.transpose else turned
        turned = turned[::-1] if draw.upturn else turned
        turned = turned[:, ::-1] if draw.flip else turned
        expected = np.clip(render_real(np.ascontiguousarray(turned), draw.window), 0, 255)
        assert np.abs(drawn.read(draw) - expected).mean() < 1.0
    assert len(kinds) == 8


def test_draws_depend_on_seed_and_number_alone(store: Store) -> None:
    one, other = sampler(store), sampler(store)
    forward = [one.draw(n) for n in range(50)]
    assert [other.draw(n) for n in reversed(range(50))] == forward[::-1]
    assert len(set(forward)) == 50
    assert [sampler(store, seed=4).draw(n) for n in range(50)] != forward
    # Far away, and beyond 32 bits.
    assert one.draw(2**40) == other.draw(2**40) != one.draw(2**40 + 1)


def test_batches_do_not_depend_on_their_split(store: Store) -> None:
    drawn = sampler(store)
    pixels, windows = drawn.batch(5, 12)
    assert pixels.shape == (12, *PATCH, 3)
    assert pixels.dtype == np.uint8
    parts = [drawn.batch(5, 3), drawn.batch(8, 7), drawn.batch(15, 2)]
    assert np.array_equal(np.concatenate([part for part, _ in parts]), pixels)
    assert [window for _, some in parts for window in some] == windows
    assert windows == [drawn.draw(n).window for n in range(5, 17)]


def test_prefetch_gives_each_process_its_share_from_any_point(store: Store) -> None:
    drawn = sampler(store)
    whole = drawn.batch(30, 24)[0]
    with Prefetch(drawn, 30, 4, rank=0, world=2) as even, Prefetch(drawn, 30, 4, rank=1, world=2) as odd:
        shares = [next(stream)[0] for _ in range(3) for stream in (even, odd)]
    assert np.array_equal(np.concatenate(shares), whole)
    # Resumed at nimg 46, after two of the three steps.
    with Prefetch(drawn, 46, 4, rank=1, world=2) as odd:
        assert np.array_equal(next(odd)[0], whole[20:24])


def test_prefetch_raises_what_went_wrong_and_ends(store: Store) -> None:
    drawn = sampler(store)
    for path in store.path.glob("shards/*"):
        path.unlink()
    stream = Prefetch(drawn, 0, 4)
    with pytest.raises(ValueError, match="run the stage prepare again"):
        next(stream)
    with pytest.raises(StopIteration):
        next(stream)
    stream.close()
    with pytest.raises(ValueError, match="rank 2 of world 2"):
        Prefetch(drawn, 0, 4, rank=2, world=2)


@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_coordinates_and_pixels_agree_for_rectangular_patches(build: Build, flip: float) -> None:
    """Pixels that state their own x and y, read through draws of any zoom, state the window's coordinates."""
    height, width = 220, 345
    y, x = np.mgrid[:height, :width] + 0.5
    ramp = np.rint(np.dstack([x / width, y / height, x * 0]) * 255).astype(np.uint8)
    store = build({"a": ramp})
    drawn = sampler(store, flip=flip)
    half_width, half_height = store.pictures[0].half_extent
    sign = -1 if flip else 1  # the mirrored photograph has its own x at -x
    for n in range(40):
        draw = drawn.draw(n)
        coords = draw.window.coords()
        expected = np.dstack([(sign * coords[..., 0] / half_width + 1) / 2, (coords[..., 1] / half_height + 1) / 2]) * 255
        difference = drawn.read(draw)[..., :2] - expected
        # Within the kernel's reach of the frame a cut kernel keeps constants only: leave two pixels out.
        assert np.abs(difference[2:-2, 2:-2]).max() <= 1.8  # half a level each: file, level, patch, and a little more
        assert np.abs(difference[2:-2, 2:-2].mean((0, 1))).max() <= 0.3  # the same, averaged over few plateaus


def test_panoramas_are_drawn_from_all_round_and_turned(build: Build) -> None:
    """Every place of the picture and every place of the ring, each with its own pixels."""
    panorama = photograph(80, 160, seed=6)
    chart = Cylinder(fov=180.0)
    drawn = sampler(build({"a": panorama}), chart=chart, patch_px=(12, 12))
    draws = [drawn.draw(n) for n in range(400)]
    for values in ([d.window.center[0] for d in draws], [d.turn for d in draws], [d.window.center[0] - d.turn for d in draws]):
        counts = np.histogram((np.array(values) + 1) % 2, bins=8, range=(0, 2))[0]
        assert counts.min() > 25
    assert all(abs(d.window.bounds[1]) <= 0.5 + 1e-6 and abs(d.window.bounds[3]) <= 0.5 + 1e-6 for d in draws)
    assert drawn.half_extent == (1.0, 0.5)
    assert {round(d.window.zoom(drawn.base)) for d in draws} <= set(range(1, 8))
    for draw in draws[:12]:
        x = draw.window.center[0] - draw.turn
        place = Window((-x if draw.flip else x, draw.window.center[1]), draw.window.period, (12, 12))
        truth = render_real(panorama, place, chart)
        truth = truth[:, ::-1] if draw.flip else truth
        assert np.abs(drawn.read(draw).astype(float) - np.clip(truth, 0, 255)).max() <= 1.5


def test_photographs_stand_anywhere_about_the_ring(build: Build) -> None:
    """A window stays within its photograph, whose middle is somewhere; one wider than the ring is left out."""
    chart = Cylinder(fov=120.0)
    store = build({"a": photograph(80, 120, seed=1), "b": photograph(60, 200, seed=2)})
    drawn = sampler(store, chart=chart, patch_px=(12, 12))
    assert (drawn.usable, drawn.skipped) == ([0], 1)
    half_width, half_height = chart.half_extent_of((80, 120))
    middles = []
    for n in range(300):
        draw = drawn.draw(n)
        x = chart.wrap(draw.window.center[0] - draw.turn)
        assert abs(x) + draw.window.extent[1] / 2 <= half_width + 1e-6
        assert abs(draw.window.center[1]) + draw.window.extent[0] / 2 <= half_height + 1e-6
        assert drawn.read(draw).shape == (12, 12, 3)
        middles.append(draw.window.center[0])
    assert np.histogram(middles, bins=6, range=(-1, 1))[0].min() > 25
    assert drawn.half_extent == (1.0, half_height)
