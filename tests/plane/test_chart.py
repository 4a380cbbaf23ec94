from __future__ import annotations

import numpy as np
import pytest

from anyres.plane.chart import Chart, ring_window, wrap
from anyres.plane.geometry import Geometry
from anyres.plane.window import Window


def test_a_frame_refuses_windows_outside_and_says_where():
    chart = Chart("frame", (1.5, 1.0))
    chart.check(Window((0.0, 0.0), 0.1, (20, 30)))
    with pytest.raises(ValueError, match=r"window spans x -1\.4\.\.1\.6.* outside the frame \(x within ±1\.5"):
        chart.check(Window((0.1, 0.0), 0.1, (20, 30)))


def test_a_plane_has_no_edge_and_a_cylinder_only_two():
    far = Window((1e6, 0.0), 0.1, (20, 30))
    Chart("plane").check(far)
    Chart("cylinder").check(far)
    with pytest.raises(ValueError, match=r"outside the cylinder \(y within ±1\)"):
        Chart("cylinder").check(Window((0.0, 0.5), 0.1, (20, 30)))


def test_an_unknown_chart_is_refused():
    with pytest.raises(ValueError, match="chart must be frame, plane or cylinder, found 'torus'"):
        Chart("torus")  # type: ignore[arg-type]


def test_a_cylinder_makes_frequencies_periodic_along_x_only():
    frequencies = np.array([[0.3, 0.7], [1.2, -0.1], [0.1, 0.2]])
    snapped = Chart("cylinder").snap_frequencies(frequencies)
    np.testing.assert_array_equal(snapped[:, 0], [0.5, 1.0, 0.0])
    np.testing.assert_array_equal(snapped[:, 1], frequencies[:, 1])
    np.testing.assert_array_equal(Chart("frame").snap_frequencies(frequencies), frequencies)


def test_lattices_wrap_on_the_cylinder_alone():
    assert Chart("cylinder").wrap_cells(3) == 16
    assert Chart("plane").wrap_cells(3) is None
    with pytest.raises(ValueError, match="octave -2 has cells wider than the cylinder"):
        Chart("cylinder").wrap_cells(-2)


def test_geometry_survives_json():
    geometry = Geometry(Chart("frame", (1.5, 1.0)), 8, 32, True, (0.01, 0.1), ((32, 48),))
    assert Geometry.from_json(geometry.to_json()) == geometry


def test_the_angle_of_a_picture_sets_the_unit_of_a_ring():
    chart = Chart("cylinder", fov=60.0)
    assert chart.short_side == pytest.approx(1 / 3)
    assert chart.native_period((100, 300)) == pytest.approx(1 / 300)
    assert chart.half_extent_of((100, 300)) == pytest.approx((0.5, 1 / 6))
    assert Chart("frame", fov=60.0).short_side == Chart("plane").short_side == 2.0
    for fov in (0.0, 361.0):
        with pytest.raises(ValueError, match="fov must be above 0 and at most 360"):
            Chart("cylinder", fov=fov)


@pytest.mark.parametrize(("fov", "size"), [(180.0, (256, 512)), (60.0, (256, 1536)), (360.0, (256, 256))])
def test_a_whole_ring_is_one_window(fov: float, size: tuple[int, int]):
    chart = Chart("cylinder", (1.0, 0.5), fov)
    window = ring_window(chart, 256, lattice=16)
    assert window.size == size
    assert window.extent[1] == pytest.approx(2.0)
    assert ring_window(chart, 100, lattice=16).size[1] % 16 == 0
    with pytest.raises(ValueError, match="needs the chart cylinder, this is a frame"):
        ring_window(Chart("frame"), 256)


def test_places_on_the_ring_come_back():
    assert [wrap(x) for x in (-1.0, 0.25, 1.0, 2.5, -3.25)] == pytest.approx([-1.0, 0.25, -1.0, 0.5, 0.75])
