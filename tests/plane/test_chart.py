from __future__ import annotations

import numpy as np
import pytest

from anyres.plane.chart import Cylinder, Frame, Plane, chart_of
from anyres.plane.geometry import Geometry
from anyres.plane.window import Window


def test_a_frame_refuses_windows_outside_and_says_where():
    chart = Frame((1.5, 1.0))
    chart.check(Window((0.0, 0.0), 0.1, (20, 30)))
    with pytest.raises(ValueError, match=r"window spans x -1\.4\.\.1\.6.* outside the frame \(x within ±1\.5"):
        chart.check(Window((0.1, 0.0), 0.1, (20, 30)))


def test_a_plane_has_no_edge_and_a_cylinder_only_two():
    far = Window((1e6, 0.0), 0.1, (20, 30))
    Plane().check(far)
    Cylinder().check(far)
    with pytest.raises(ValueError, match=r"outside the cylinder \(y within ±1\)"):
        Cylinder().check(Window((0.0, 0.5), 0.1, (20, 30)))


def test_an_unknown_chart_is_refused():
    with pytest.raises(ValueError, match="chart must be frame, plane or cylinder, found 'torus'"):
        chart_of("torus")  # type: ignore[arg-type]


def test_a_cylinder_makes_frequencies_periodic_along_x_only():
    frequencies = np.array([[0.3, 0.7], [1.2, -0.1], [0.1, 0.2]])
    snapped = Cylinder().snap_frequencies(frequencies)
    np.testing.assert_array_equal(snapped[:, 0], [0.5, 1.0, 0.0])
    np.testing.assert_array_equal(snapped[:, 1], frequencies[:, 1])
    np.testing.assert_array_equal(Frame().snap_frequencies(frequencies), frequencies)


def test_lattices_wrap_on_the_cylinder_alone():
    assert Cylinder().wrap_cells(3) == 16
    assert Plane().wrap_cells(3) is None
    with pytest.raises(ValueError, match="octave -2 has cells wider than the cylinder"):
        Cylinder().wrap_cells(-2)


def test_geometry_survives_json():
    geometry = Geometry(Frame((1.5, 1.0)), 8, 32, True, (0.01, 0.1), ((32, 48),))
    assert Geometry.from_json(geometry.to_json()) == geometry
    assert geometry.to_json()["chart"] == {"name": "frame", "half_extent": (1.5, 1.0), "fov": 360.0}
    assert list(geometry.to_json()["chart"]) == ["name", "half_extent", "fov"]


@pytest.mark.parametrize(
    ("name", "is_unbounded", "circumference", "limits", "aspect", "domain"),
    [
        ("frame", False, None, (1.5, 0.9), 1.5 / 0.9, "x within ±1.5, y within ±0.9"),
        ("plane", True, None, None, 1.0, "without end"),
        ("cylinder", False, 2.0, (1.0, 0.9), 1.0, "x around the ring, from -1 to 1 and on, y within ±0.9"),
    ],
)
def test_what_each_chart_says_of_itself(name, is_unbounded, circumference, limits, aspect, domain):
    chart = chart_of(name, (1.5, 0.9), 90.0)
    assert (chart.name, chart.half_extent, chart.fov) == (name, (1.5, 0.9), 90.0)
    assert (chart.is_unbounded, chart.circumference, chart.limits) == (is_unbounded, circumference, limits)
    assert (chart.frame_aspect, chart.domain, chart.wraps) == (aspect, domain, circumference is not None)
    assert len(chart.encode(np.zeros(3), np.zeros(3))) == chart.position_channels
    assert chart == chart_of(name, (1.5, 0.9), 90.0)
    assert hash(chart) == hash(chart_of(name, (1.5, 0.9), 90.0))
    assert len({chart_of(each) for each in ("frame", "plane", "cylinder")}) == 3


def test_a_frame_moves_windows_inside():
    frame = Frame((1.5, 1.0))
    assert frame.clamp((1.4, -0.2), 0.1, (10, 8)) == pytest.approx((1.1, -0.2))
    assert frame.clamp((1.4, -0.9), 0.1, (30, 8)) == pytest.approx((1.1, 0.0))
    assert Plane().clamp((1.4, -0.9), 0.1, (30, 8)) == (1.4, -0.9)


def test_the_angle_of_a_picture_sets_the_unit_of_a_ring():
    chart = Cylinder(fov=60.0)
    assert chart.short_side == pytest.approx(1 / 3)
    assert chart.native_period((100, 300)) == pytest.approx(1 / 300)
    assert chart.half_extent_of((100, 300)) == pytest.approx((0.5, 1 / 6))
    assert Frame(fov=60.0).short_side == Plane().short_side == 2.0
    for fov in (0.0, 361.0):
        with pytest.raises(ValueError, match="fov must be above 0 and at most 360"):
            Cylinder(fov=fov)


@pytest.mark.parametrize(("fov", "size"), [(180.0, (256, 512)), (60.0, (256, 1536)), (360.0, (256, 256))])
def test_a_whole_ring_is_one_window(fov: float, size: tuple[int, int]):
    chart = Cylinder((1.0, 0.5), fov)
    window = chart.ring_window(256, lattice=16)
    assert window.size == size
    assert window.extent[1] == pytest.approx(2.0)
    assert chart.ring_window(100, lattice=16).size[1] % 16 == 0
    with pytest.raises(ValueError, match="needs the chart cylinder, this is a frame"):
        Frame().ring_window(256)


def test_places_on_the_ring_come_back():
    assert [Cylinder().wrap(x) for x in (-1.0, 0.25, 1.0, 2.5, -3.25)] == pytest.approx([-1.0, 0.25, -1.0, 0.5, 0.75])
