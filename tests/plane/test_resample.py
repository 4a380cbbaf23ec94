from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from anyres.plane import resample as resampler
from anyres.plane.chart import Cylinder
from anyres.plane.resample import FRAME, footprint, lanczos, render_real
from anyres.plane.window import Window, frame_window

SIZE = (90, 140)
NATIVE = FRAME.native_period(SIZE)


def coordinate_image(size: tuple[int, int]) -> np.ndarray:
    """Each pixel holds its own plane position."""
    return Window((0.0, 0.0), FRAME.native_period(size), size).coords()


@pytest.mark.parametrize("ratio", [1.0, 1.37, 2.0, 3.3])
@pytest.mark.parametrize("center", [(0.0, 0.0), (0.1234, -0.0567)])
def test_a_picture_of_its_own_coordinates_gives_the_windows_coordinates(ratio, center):
    window = Window(center, NATIVE * ratio, (11, 17))
    error = np.abs(render_real(coordinate_image(SIZE), window) - window.coords()) / window.period
    assert error.max() <= 1e-3


def test_the_native_window_returns_the_picture():
    picture = np.random.default_rng(1).uniform(0, 255, (*SIZE, 3)).astype(np.float32)
    window = Window((0.0, 0.0), NATIVE, SIZE)
    np.testing.assert_allclose(render_real(picture, window), picture, atol=2e-3)


def test_agrees_with_pillow_where_both_can():
    # Mid-range noise: no overshoot for Pillow to clip.
    picture = np.random.default_rng(2).integers(96, 160, (*SIZE, 3), dtype=np.uint8)
    window = frame_window(140 / 90, 45)
    ours = render_real(picture, window)
    theirs = np.asarray(Image.fromarray(picture).resize((70, 45), Image.Resampling.LANCZOS)).astype(float)
    # Pillow rounds to bytes twice; away from the border nothing else differs but the kept first moment.
    assert np.abs(ours - theirs)[4:-4, 4:-4].max() <= 1.5


def plainly(picture, window):
    """The same sums, pixel by pixel in float64."""
    period = FRAME.native_period(picture.shape[:2])
    x, y = (axis / period + side / 2 for axis, side in zip(window.axes(), picture.shape[1::-1], strict=True))
    ratio = window.period / period
    (columns, across), (rows, down) = (
        resampler._taps(axis, ratio, side, wraps=False) for axis, side in zip((x, y), picture.shape[1::-1], strict=True)
    )
    out = np.zeros((len(rows), len(columns), picture.shape[2]))
    for i, (row, weights) in enumerate(zip(rows, down, strict=True)):
        for j, (column, others) in enumerate(zip(columns, across, strict=True)):
            for u in np.flatnonzero(weights):
                for v in np.flatnonzero(others):
                    out[i, j] += weights[u] * others[v] * picture[row + u, column + v]
    return out


@pytest.mark.parametrize("size", [(38, 52), (60, 38)])
def test_the_products_of_matrices_equal_the_plain_sums(size):
    picture = np.random.default_rng(5).uniform(0, 255, (*size, 3))
    # More outputs than a block, a whole frame and an inner piece.
    for window in (frame_window(size[1] / size[0], 19), Window((0.1, -0.05), FRAME.native_period(size) * 1.3, (18, 17))):
        np.testing.assert_allclose(render_real(picture, window), plainly(picture, window), atol=2e-3)


def test_a_frequency_above_the_new_nyquist_vanishes():
    x = np.arange(SIZE[1])
    wave = np.broadcast_to(np.cos(2 * np.pi * 0.4 * x)[None, :, None], (*SIZE, 1))
    out = render_real(wave, Window((0.0, 0.0), 2 * NATIVE, (20, 30)))
    assert np.abs(out).max() < 0.05


def test_never_upsamples_and_never_looks_outside():
    picture = np.zeros((*SIZE, 3), np.uint8)
    with pytest.raises(ValueError, match=r"finer than the photograph's .* never upsamples"):
        render_real(picture, Window((0.0, 0.0), NATIVE * 0.99, (8, 9)))
    with pytest.raises(ValueError, match="outside the photograph's 0 to 140"):
        render_real(picture, Window((1.5, 0.0), NATIVE * 2, (8, 9)))


@pytest.mark.parametrize(("size", "fov"), [((32, 64), 180.0), ((40, 30), 360.0), ((20, 60), 120.0)])
def test_a_picture_that_closes_the_cylinder_wraps_along_x(size: tuple[int, int], fov: float):
    picture = np.random.default_rng(3).uniform(0, 1, (*size, 2))
    chart = Cylinder(fov=fov)
    period = 2.0 / size[1]
    assert chart.native_period(size) == pytest.approx(period)
    assert chart.closes(size)
    across = render_real(picture, Window((1.0, 0.0), 2 * period, (6, 10)), chart)
    turned = render_real(np.roll(picture, size[1] // 2, axis=1), Window((0.0, 0.0), 2 * period, (6, 10)), chart)
    np.testing.assert_allclose(across, turned, atol=1e-6)


def test_a_smaller_picture_on_the_cylinder_has_borders():
    picture = np.random.default_rng(3).uniform(0, 1, (30, 40, 2))
    chart = Cylinder(fov=60.0)
    period = chart.native_period((30, 40))
    assert period * 30 == pytest.approx(2 / 6)
    assert not chart.closes((30, 40))
    on_frame = render_real(picture, Window((0.1, 0.2), FRAME.native_period((30, 40)) * 1.5, (7, 8)))
    on_ring = render_real(picture, Window((0.1 / 6, 0.2 / 6), period * 1.5, (7, 8)), chart)
    np.testing.assert_allclose(on_ring, on_frame, atol=1e-5)
    with pytest.raises(ValueError, match="outside the photograph's 0 to 40"):
        render_real(picture, Window((0.9, 0.0), period * 2, (6, 10)), chart)


def test_the_footprint_holds_all_that_is_read():
    window = Window((0.31, -0.22), NATIVE * 1.7, (9, 14))
    corner = (-NATIVE * SIZE[1] / 2, -NATIVE * SIZE[0] / 2)
    top, left, bottom, right = footprint(window, corner, NATIVE, SIZE)
    picture = np.random.default_rng(4).uniform(0, 1, (*SIZE, 3))
    blanked = np.full_like(picture, 1e6)
    blanked[top:bottom, left:right] = picture[top:bottom, left:right]
    np.testing.assert_array_equal(render_real(picture, window), render_real(blanked, window))
    assert (bottom - top) * (right - left) < 40 * 50


def test_lanczos_is_its_formula():
    t = np.array([0.0, 0.5, 1.0, 2.5, 3.0, 4.0])
    expected = [1.0, (2 / np.pi) * (6 / np.pi) * np.sin(np.pi / 6), 0.0, np.sinc(2.5) * np.sinc(2.5 / 3), 0.0, 0.0]
    np.testing.assert_allclose(lanczos(t), expected, atol=1e-12)
