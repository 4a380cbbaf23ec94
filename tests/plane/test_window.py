from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anyres.plane.chart import Frame
from anyres.plane.tiling import batches, plan
from anyres.plane.window import Window, frame_window

finite = st.floats(-1e6, 1e6)
windows = st.builds(
    Window,
    center=st.tuples(finite, finite),
    period=st.floats(1e-6, 1e3),
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
)


def test_coords_are_the_pixel_centres_of_the_formula():
    window = Window((0.3, -0.7), 0.25, (3, 5))
    expected = [[(0.3 + 0.25 * (j + 0.5 - 2.5), -0.7 + 0.25 * (i + 0.5 - 1.5)) for j in range(5)] for i in range(3)]
    np.testing.assert_allclose(window.coords(), expected, rtol=0, atol=1e-15)
    assert window.coords().dtype == np.float64


def test_extent_bounds_and_zoom():
    window = Window((1.0, 2.0), 0.5, (4, 6))
    assert window.extent == (2.0, 3.0)
    assert window.bounds == (-0.5, 1.0, 2.5, 3.0)
    assert window.zoom(2.0) == 4.0


@given(windows, st.integers(-5, 30), st.integers(-5, 30), st.integers(1, 9), st.integers(1, 9))
def test_crop_takes_the_same_samples(window, top, left, height, width):
    part = window.crop(top, left, (height, width))
    x, y = window.axes()
    scale = max(abs(window.center[0]), abs(window.center[1]), window.period * 80)
    for i in range(height):
        if 0 <= top + i < window.size[0]:
            assert part.axes()[1][i] == pytest.approx(y[top + i], abs=1e-14 * scale)
    for j in range(width):
        if 0 <= left + j < window.size[1]:
            assert part.axes()[0][j] == pytest.approx(x[left + j], abs=1e-14 * scale)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"period": 0.0}, r"period must be positive, found 0\.0"),
        ({"period": -1.0}, r"period must be positive, found -1\.0"),
        ({"period": math.nan}, "period must be a finite number, found nan"),
        ({"period": "1"}, "period must be a finite number, found '1'"),
        ({"center": (math.inf, 0.0)}, "center must be a finite number, found inf"),
        ({"center": 3.0}, r"center must be a pair, found 3\.0"),
        ({"size": (0, 4)}, "size must be whole pixels above zero, found 0"),
        ({"size": (4, 2.5)}, r"size must be whole pixels above zero, found 2\.5"),
        ({"size": (True, 4)}, "size must be whole pixels above zero, found True"),
    ],
)
def test_refuses_what_no_window_can_be(changes, message):
    with pytest.raises(ValueError, match=message):
        Window(**({"center": (0.0, 0.0), "period": 0.1, "size": (4, 6)} | changes))


def test_is_hashable_and_frozen():
    window = Window((0, 0), 1, (2, 3))
    assert {window: 1}[Window((0.0, 0.0), 1.0, (2, 3))] == 1
    with pytest.raises(AttributeError):
        window.period = 2.0  # type: ignore[misc]


@given(st.integers(-(10**9), 10**9), st.integers(-(10**9), 10**9), st.integers(1, 33), st.integers(1, 17))
def test_windows_on_the_pixel_grid_have_no_phase(ix, iy, height, width):
    period = 2 / 384
    window = Window((period * (ix + width / 2), period * (iy + height / 2)), period, (height, width))
    assert window.phase() == ((ix, iy), (0.0, 0.0))


def test_phase_keeps_a_fraction_of_a_pixel():
    index, rest = Window((0.5 * 7.25 + 0.5, 0.5 * -3.5 + 0.5), 0.5, (2, 2)).phase()
    assert index == (7, -4)
    assert rest == pytest.approx((0.25, 0.5), abs=1e-12)


def test_frame_window_spans_the_frame():
    assert frame_window(1.5, 40).bounds == pytest.approx((-1.5, -1.0, 1.5, 1.0))
    assert frame_window(0.5, 40).size == (80, 40)


@given(st.integers(8, 400), st.integers(8, 400), st.integers(8, 160))
def test_frame_window_never_leaves_the_frame(height, width, short_px):
    short = min(height, width)
    chart = Frame((width / short, height / short))
    window = frame_window(width / height, short_px)
    chart.check(window)
    assert 2 * max(chart.half_extent) - max(window.extent) < window.period * (1 + 1e-6)


@given(st.integers(1, 70), st.integers(1, 70), st.integers(1, 5), st.integers(1, 4))
def test_a_plan_covers_each_pixel_once(height, width, cells, lattice):
    tiles = plan((height, width), cells * lattice, lattice)
    seen = np.zeros((height, width), int)
    for tile in tiles:
        assert tile.top % lattice == tile.left % lattice == 0
        seen[tile.top : tile.top + tile.size[0], tile.left : tile.left + tile.size[1]] += 1
    assert (seen == 1).all()
    grouped = [tile for group in batches(tiles, 3) for tile in group]
    assert sorted(grouped) == sorted(tiles)
    assert all(len({tile.size for tile in group}) == 1 and len(group) <= 3 for group in batches(tiles, 3))


def test_a_plan_refuses_tiles_off_the_lattice():
    with pytest.raises(ValueError, match="tile side 12 must be a positive multiple of the lattice, 8"):
        plan((30, 40), 12, 8)


def test_tiles_of_a_window_are_its_crops():
    window = Window((0.2, 0.1), 0.05, (21, 34))
    parts = list(window.tiles(16, 8))
    assert [(top, left) for top, left, _ in parts] == [(0, 0), (0, 16), (0, 32), (16, 0), (16, 16), (16, 32)]
    top, left, last = parts[-1]
    np.testing.assert_allclose(last.coords(), window.coords()[top:, left:], atol=1e-15)
