from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from anyres.evaluation.measures import STITCHES
from anyres.networks import Scene, build_generator
from anyres.networks.pixels import from_uint8, to_uint8
from anyres.params import Train
from anyres.plane.chart import Chart, Cylinder, Frame
from anyres.plane.geometry import Geometry
from anyres.plane.window import Window
from anyres.synthesis.render import align, render, render_many, render_passes, render_tiles
from anyres.synthesis.request import RenderRequest, Stitch

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def generator(tiny: Train) -> torch.nn.Module:
    torch.manual_seed(4)
    generator = build_generator(tiny, (1.5, 1.0))
    with torch.no_grad():
        for name, parameter in generator.named_parameters():
            if "noise_strength" in name or "scale_style" in name:
                parameter.normal_(0, 0.3)
    return generator.eval().requires_grad_(False)


def pixels(generator, window: Window, tile: int) -> np.ndarray:
    out = np.full((3, *window.size), np.nan, np.float32)
    for part, values in render_tiles(generator, RenderRequest(5, window, tile=tile)):
        out[:, part.top : part.top + part.size[0], part.left : part.left + part.size[1]] = values
    assert not np.isnan(out).any()
    return out


@pytest.mark.parametrize("size", [(37, 61), (64, 24), (5, 90)])
def test_tiles_of_any_size_make_the_whole(generator, size):
    window = Window((0.131, -0.077), 2 / 121, size)
    whole = pixels(generator, window, 512)
    for tile in (4, 20, 32):
        assert np.abs(pixels(generator, window, tile) - whole).max() <= 1e-5


def test_a_pass_is_bounded_by_the_bytes_of_its_maps(generator, monkeypatch):
    """A network of twice the bytes draws half the pixels in a pass; the picture stays."""
    window = Window((0.131, -0.077), 2 / 121, (61, 83))
    whole = pixels(generator, window, 512)
    lattice = generator.geometry.lattice_px
    sizes: list[int] = []

    def count(_, args) -> None:
        sizes.append(len(args[1]) * args[1][0].size[0] * args[1][0].size[1])

    handle = generator.register_forward_pre_hook(count)
    for most in (32 * 32, 16 * 16, 12 * 12 + 1, 1):
        monkeypatch.setattr(sys.modules["anyres.synthesis.render"], "PASS_BYTES", most * generator.bytes_per_px)
        assert np.abs(pixels(generator, window, 512) - whole).max() <= 1e-5
        assert max(sizes) <= max(most, lattice**2)
        # The bound is used: four times as many tiles would fit into no pass.
        assert max(sizes) * 4 > most
        sizes.clear()
    handle.remove()


def test_windows_of_one_pixel_grid_agree_where_they_overlap(generator):
    """Access is stateless: any two windows, at any pixel of the plane, show one picture."""
    wide = Window((0.1, 0.0), 2 / 128, (60, 90))
    whole = pixels(generator, wide, 512)
    for top, left, size in [(1, 2, (30, 41)), (17, 33, (19, 50)), (59, 0, (1, 90))]:
        part = pixels(generator, wide.crop(top, left, size), 16)
        assert np.abs(part - whole[:, top : top + size[0], left : left + size[1]]).max() <= 1e-5


def test_alignment_grows_to_whole_cells():
    window = Window((0.0, 0.0), 0.25, (6, 10))
    grown, top, left = align(window, 8)
    assert grown.size == (16, 16)
    assert (top, left) == (5, 3)
    np.testing.assert_allclose(grown.coords()[top : top + 6, left : left + 10], window.coords(), atol=1e-12)


def test_two_processes_draw_the_same_pixels(tiny: Train, tmp_path):
    script = (
        "import hashlib, sys, torch; torch.set_num_threads(1); torch.manual_seed(4)\n"
        "from anyres.networks import build_generator; from anyres.params import Train\n"
        "from anyres.plane.window import Window; from anyres.synthesis.render import render\n"
        "from anyres.synthesis.request import RenderRequest\n"
        f"generator = build_generator(Train.model_validate_json({tiny.model_dump_json()!r}))\n"
        "request = RenderRequest(3, Window((0.1, 0.05), 2 / 80, (40, 56)), tile=int(sys.argv[1]))\n"
        "picture = render(generator.eval(), request)\n"
        "print(hashlib.sha256(picture.tobytes()).hexdigest())\n"
    )
    environ = os.environ | {"PYTHONPATH": str(ROOT)}
    run = [
        subprocess.run([sys.executable, "-c", script, tile], capture_output=True, text=True, check=True, env=environ).stdout
        for tile in ("512", "512")
    ]
    assert run[0] == run[1]
    torch.manual_seed(4)
    here = render(build_generator(tiny).eval(), RenderRequest(3, Window((0.1, 0.05), 2 / 80, (40, 56))))
    assert hashlib.sha256(here.tobytes()).hexdigest() == run[0].strip()


def test_many_windows_equal_each_alone(generator):
    windows = [Window((0.1 * i, 0.0), 2 / 60, (18, 26)) for i in range(5)]
    together = render_many(generator, range(5), windows, batch=3)
    assert together.shape == (5, 18, 26, 3)
    alone = np.concatenate([render_many(generator, [i], [window]) for i, window in enumerate(windows)])
    assert np.abs(together.astype(int) - alone).max() <= 1
    direct = generator(Scene.of([2], generator.z_dim), [windows[2].crop(0, 0, (20, 28))])[:, :, :18, :26]
    assert np.abs(together[2].astype(int) - to_uint8(direct)[0]).max() <= 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scene": -1}, "seed must be a whole number from 0 to .* found -1"),
        ({"scene": 1.5}, "seed must be a whole number"),
        ({"psi": float("nan")}, "psi must be from 0 to 2, found nan"),
        ({"tile": 3}, "tile must be at least the generator's lattice, 4 pixels, found 3"),
        ({"window": Window((1.0, 0.0), 0.05, (20, 40))}, "outside the frame"),
    ],
)
def test_refuses_by_name(generator, changes, message):
    values = {"scene": 1, "window": Window((0.0, 0.0), 0.05, (20, 40)), "psi": 1.0, "tile": 512} | changes
    with pytest.raises(ValueError, match=message):
        render(generator, RenderRequest(**values))


def test_bytes_and_networks_speak_of_the_same_picture():
    bytes_ = np.random.default_rng(0).integers(0, 256, (2, 5, 7, 3), dtype=np.uint8)
    assert from_uint8(bytes_).shape == (2, 3, 5, 7)
    np.testing.assert_array_equal(to_uint8(from_uint8(bytes_)), bytes_)


class Bordered(torch.nn.Module):
    """Draws one function of the plane, spoilt towards the border of every pass: what an approximate generator does."""

    draws_regions = False
    bytes_per_px = 0

    def __init__(self, spoil: float, chart: Chart | None = None):
        super().__init__()
        self.strength = torch.nn.Parameter(torch.tensor(spoil))
        self.z_dim = 3
        self.geometry = Geometry(chart or Frame((1.5, 1.0)), 4, 8, False, (0.01, 0.1), ((16, 16),))

    def forward(self, scene: Scene, windows, psi: float = 1.0) -> torch.Tensor:
        coords = torch.from_numpy(np.stack([window.coords() for window in windows])).float()
        height, width = windows[0].size
        near = torch.minimum(
            torch.minimum(torch.arange(width)[None, :], width - 1 - torch.arange(width)[None, :]),
            torch.minimum(torch.arange(height)[:, None], height - 1 - torch.arange(height)[:, None]),
        )
        plane = torch.sin(2 * torch.pi * coords[..., 0]) * torch.cos(5 * coords[..., 1])
        return (plane + self.strength * torch.exp(-near / 2))[:, None].expand(-1, 3, -1, -1)


def stitched(generator, window: Window, tile: int, stitch: Stitch) -> np.ndarray:
    out = np.full((3, *window.size), np.nan, np.float32)
    for part, values in render_tiles(generator, RenderRequest(5, window, tile=tile, stitch=stitch)):
        at = out[:, part.top : part.top + part.size[0], part.left : part.left + part.size[1]]
        assert np.isnan(at).all()
        at[:] = values
    assert not np.isnan(out).any()
    return out


@pytest.mark.parametrize("size", [(37, 61), (64, 24), (5, 90), (33, 33), (97, 130)])
@pytest.mark.parametrize("tile", [8, 20, 32, 48])
def test_overlapping_tiles_cover_once_and_weigh_one(size, tile):
    """Of a generator without borders nothing can be told of them: weights sum to one at every pixel."""
    window = Window((0.131, -0.077), 2 / 121, size)
    whole = stitched(Bordered(0.0), window, 512, "grid")
    assert np.abs(stitched(Bordered(0.0), window, tile, "overlap") - whole).max() <= 1e-5


def test_overlap_hides_the_borders_that_a_grid_shows():
    generator = Bordered(0.5)
    window = Window((0.1, 0.05), 2 / 160, (96, 128))

    def step(picture: np.ndarray) -> float:
        clean = stitched(Bordered(0.0), window, 512, "grid")
        return float(np.abs(np.diff((picture - clean)[:, 16:-16, 16:-16], axis=2)).max())

    grid, overlap = (stitched(generator, window, 48, stitch) for stitch in STITCHES)
    assert step(overlap) < 0.75 * step(grid)
    # The default of a generator that is not exact.
    by_default = render(generator, RenderRequest(5, window, tile=48))
    np.testing.assert_array_equal(by_default, to_uint8(torch.from_numpy(overlap)[None])[0])


RING = Cylinder((1.0, 0.5), 180.0)


@pytest.mark.parametrize("width", [120, 124, 68])
@pytest.mark.parametrize("tile", [8, 20, 48, 512])
def test_tiles_of_a_ring_weigh_one_and_meet_at_its_ends(width: int, tile: int) -> None:
    """Half of 124 and of 68 is no multiple of the lattice. The border of a pass hides at the ends as it does elsewhere."""
    window = Window((0.0, 0.0), 2 / width, (32, width))
    clean = stitched(Bordered(0.0, RING), window, 512, "grid")
    assert np.abs(stitched(Bordered(0.0, RING), window, tile, "overlap") - clean).max() <= 1e-5
    error = (stitched(Bordered(0.5, RING), window, tile, "overlap") - clean)[:, 20]
    steps = np.abs(np.roll(error, -1, axis=1) - error).max(axis=0)
    if tile == 8:
        # The borders of such tiles reach over the whole of them.
        return
    if tile < 512:
        assert steps[-1] <= 1.05 * steps[:-1].max()
    # Without the ramp, both ends show the border of a pass.
    grid = (stitched(Bordered(0.5, RING), window, tile, "grid") - clean)[:, 20]
    assert np.abs(error[:, [0, -1]]).max() < 0.75 * np.abs(grid[:, [0, -1]]).max()


def test_the_tiles_of_a_ring_resume() -> None:
    generator = Bordered(0.5, RING)
    request = RenderRequest(5, Window((0.0, 0.0), 2 / 124, (62, 124)), tile=20)
    tiles = [tile for tiles in render_passes(generator, request) for tile in tiles]
    for first in (1, 8, len(tiles) - 1):
        again = [tile for tiles in render_passes(generator, request, first) for tile in tiles]
        for (cell, pixels), (expected_cell, expected) in zip(again, tiles[first:], strict=True):
            assert cell == expected_cell
            assert torch.equal(pixels, expected)
