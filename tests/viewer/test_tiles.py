"""Tiles and views as a browser gets them, beside what the library draws."""

from __future__ import annotations

import http.client
import io
import itertools
import json

import numpy as np
import pytest
from PIL import Image

from anyres.plane.window import Window
from anyres.viewer.drawing import ServedModel, TileAddress, draw_tiles
from anyres.viewer.tilegrid import TILE_PX, Pyramid, TileNotFoundError
from tests.viewer.servers import ask, counted, pixels, serving

ROUNDING = 1


def tile(address: str, served: ServedModel, level: int, x: int, y: int, seed: int = 7, psi: float = 0.7) -> np.ndarray:
    status, headers, body = ask(address, f"/api/tile/{served.id}/{seed}/{level}/{x}_{y}.png?psi={psi}")
    assert (status, headers["content-type"]) == (200, "image/png"), body
    found = pixels(body)
    assert found.shape[:2] == (TILE_PX, TILE_PX)
    return found


def difference(a: np.ndarray, b: np.ndarray) -> int:
    assert a.shape == b.shape
    return int(np.abs(a.astype(int) - b.astype(int)).max())


def mosaic(address: str, served: ServedModel, level: int, columns: range, rows: range) -> np.ndarray:
    """Tiles side by side, uint8 (h, w, 4)."""
    lines = [[_opaque(tile(address, served, level, x, y)) for x in columns] for y in rows]
    return np.concatenate([np.concatenate(line, 1) for line in lines])


def _opaque(found: np.ndarray) -> np.ndarray:
    """With an alpha channel, whether it had one or not."""
    return np.dstack([found[..., :3], found[..., 3] if found.shape[2] == 4 else np.full(found.shape[:2], 255, np.uint8)])


@pytest.mark.parametrize("level", [0, 1])
def test_tiles_of_a_frame_are_one_picture_and_nothing_beyond_it(address: str, frame: ServedModel, level: int):
    # 3:2, 256 px high on level 0.
    height, width = 256 << level, 384 << level
    across, down = (-(-(side // 2) // TILE_PX) for side in (width, height))
    found = mosaic(address, frame, level, range(-across, across), range(-down, down))
    left, top = (found.shape[1] - width) // 2, (found.shape[0] - height) // 2
    inside = np.zeros(found.shape[:2], bool)
    inside[top : top + height, left : left + width] = True
    assert np.array_equal(found[..., 3] == 255, inside)
    assert not found[~inside].any()
    whole = frame.model.render(7, Window((0.0, 0.0), 2 / height, (height, width)), psi=0.7)
    assert whole.std() > 5
    assert difference(found[top : top + height, left : left + width, :3], whole) <= ROUNDING


def test_levels_go_beyond_training_and_say_so(address: str, frame: ServedModel):
    facts = json.loads(ask(address, "/api/models")[2])["models"][0]
    levels, trained = facts["pyramid"]["levels"], facts["trained_levels"]
    assert (facts["id"], facts["name"], facts["chart"]) == (frame.id, "frame", "frame")
    assert facts["weights_sha256"] == frame.weights
    assert levels - 1 - max(trained) == 4
    deepest = facts["pyramid"]["period"] / 2 ** (levels - 1)
    assert deepest < facts["trained_periods"][0]
    found = tile(address, frame, levels - 1, 3, -2)
    whole = Window((deepest * (3.5 * TILE_PX), -deepest * 1.5 * TILE_PX), deepest, (TILE_PX, TILE_PX))
    assert difference(found, frame.model.render(7, whole, psi=0.7)) <= ROUNDING
    assert ask(address, f"/api/tile/{frame.id}/7/{levels}/0_0.png")[0] == 404


@pytest.mark.parametrize(("x", "y"), [(-1, -1), (1_000_000, -3)])
def test_tiles_of_a_plane_are_one_picture_anywhere(address: str, plane: ServedModel, x: int, y: int):
    found = mosaic(address, plane, 0, range(x, x + 2), range(y, y + 2))
    period = plane.pyramid.period
    window = Window(((x + 1) * TILE_PX * period, (y + 1) * TILE_PX * period), period, (2 * TILE_PX, 2 * TILE_PX))
    whole = plane.model.render(7, window, psi=0.7)
    assert whole.std() > 5
    assert (found[..., 3] == 255).all()
    assert difference(found[..., :3], whole) <= ROUNDING


def test_a_ring_closes(address: str, ring: ServedModel):
    pyramid = ring.pyramid
    assert pyramid.wraps
    count = pyramid.columns << 1
    once, again = (tile(address, ring, 1, x, 0) for x in (1, 1 + 3 * count))
    assert np.array_equal(once, again)
    # About the place where the ring's ends meet.
    period = pyramid.period / 2
    found = np.concatenate([tile(address, ring, 1, x, 0) for x in (count // 2 - 1, count // 2)], 1)
    whole = ring.model.render(7, Window((1.0, TILE_PX * period / 2), period, (TILE_PX, 2 * TILE_PX)), psi=0.7)
    assert difference(found[..., :3], whole) <= ROUNDING


def test_inexact_tiles_look_around_them(address: str, inexact: ServedModel):
    # Level 1: the inner border of two tiles against both drawn at once.
    found = mosaic(address, inexact, 1, range(-1, 1), range(-1, 0))[..., :3]
    period = inexact.pyramid.period / 2
    window = Window((0.0, -TILE_PX * period / 2), period, (TILE_PX, 2 * TILE_PX))
    whole = inexact.model.render(7, window, psi=0.7).astype(int)
    middle = slice(TILE_PX - 4, TILE_PX + 4)
    step = np.abs(np.diff(found[:, middle].astype(int), axis=1)).mean(axis=(0, 2))
    # The border is no steeper than what is beside it.
    assert step[3] <= 1.5 * np.delete(step, 3).mean() + 0.5
    assert np.abs(found - whole).mean() < 4


def test_tiles_drawn_together_are_the_same(frame: ServedModel):
    addresses = [TileAddress(seed, 2, x, -1) for seed in (7, 8) for x in (-2, 0, 1)]
    together = draw_tiles(frame, addresses, 0.7)
    for address, drawn in zip(addresses, together, strict=True):
        assert difference(pixels(drawn), pixels(draw_tiles(frame, [address], 0.7)[0])) <= ROUNDING


def test_what_was_drawn_is_kept_and_outlives_the_server(frame: ServedModel, tmp_path):
    path = f"/api/tile/{frame.id}/3/2/0_0.png?psi=0.5"
    with serving([frame], tmp_path) as address:
        status, headers, first = ask(address, path)
        assert status == 200
        assert headers["cache-control"] == "private, max-age=31536000, immutable"
        assert ask(address, path)[2] == first
        status, again, body = ask(address, path, If_None_Match=headers["etag"])
        assert (status, body, again["etag"]) == (304, b"", headers["etag"])
        assert counted(address, "anyres_tiles_drawn_total") == 1
        assert counted(address, "anyres_tile_cache_hits_total") == 1
    with serving([frame], tmp_path) as address:
        assert ask(address, path)[2] == first
        assert counted(address, "anyres_tiles_drawn_total") == 0
        assert counted(address, "anyres_tile_cache_hits_total") == 1
        # A truncation apart is another picture.
        assert ask(address, path.replace("0.5", "0.55"))[2] != first


def test_kept_tiles_stay_within_their_bound(frame: ServedModel, tmp_path):
    limit = 600_000
    stray = tmp_path / "notes.txt"
    stray.write_text("mine")
    for _ in range(2):
        with serving([frame], tmp_path, limit) as address:
            for x, y in itertools.product(range(-2, 2), range(-2, 2)):
                tile(address, frame, 3, x, y)
        files = list(tmp_path.glob("??/*.png"))
        assert 0 < sum(path.stat().st_size for path in files) <= limit
    assert stray.read_text() == "mine"


@pytest.mark.parametrize(("form", "kind"), [("png", "PNG"), ("jpg", "JPEG"), ("webp", "WEBP")])
def test_a_view_is_what_the_library_draws_and_says_what_it_is(address: str, frame: ServedModel, form: str, kind: str):
    window = Window((0.13, -0.11), 2 / 733, (611, 517))
    query = f"model={frame.id}&scene=5&center_x=0.13&center_y=-0.11&period={2 / 733!r}&height=611&width=517&psi=0.8&format={form}"
    status, headers, body = ask(address, f"/api/render?{query}")
    assert status == 200, body
    assert headers["content-disposition"] == f'attachment; filename="frame-5-517x611.{form}"'
    picture = Image.open(io.BytesIO(body))
    assert (picture.format, picture.size) == (kind, (517, 611))
    whole = frame.model.render(5, window, psi=0.8)
    if form == "png":
        assert np.array_equal(np.array(picture), whole)
        about = picture.info
    else:
        assert np.abs(np.array(picture).astype(int) - whole).mean() < 6
        about = json.loads(picture.getexif()[0x010E])
    assert (about["Seed"], about["Psi"], about["Weights"], about["Software"]) == ("5", "0.8", frame.weights, "anyres")
    assert json.loads(about["Window"]) == {"center": [0.13, -0.11], "period": 2 / 733, "size": [611, 517]}


def test_a_large_view_arrives_in_pieces_while_tiles_are_drawn(address: str, plane: ServedModel, frame: ServedModel):
    period = plane.pyramid.period
    connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=60)
    connection.request("GET", f"/api/render?model={plane.id}&scene=5&period={period!r}&height=1500&width=1000")
    answer = connection.getresponse()
    assert answer.getheader("transfer-encoding") == "chunked"
    start = answer.read(20_000)
    tile(address, frame, 2, 1, 1, seed=99)
    found = pixels(start + answer.read())
    connection.close()
    assert np.array_equal(found, plane.model.render(5, Window((0.0, 0.0), period, (1500, 1000)), psi=0.7))


def test_a_pyramid_has_one_name_for_each_tile(frame: ServedModel, plane: ServedModel, ring: ServedModel):
    assert (plane.pyramid.levels, plane.pyramid.wraps) == (1, False)
    count = ring.pyramid.columns << 2
    assert ring.pyramid.canonical(2, count // 2, 1) == (-count // 2, 1)
    for level in range(frame.pyramid.levels):
        part = frame.pyramid.tile_window(level, 0, -1)
        (index_x, index_y), rest = part.window.phase()
        assert (index_x % frame.model.geometry.lattice_px, index_y % frame.model.geometry.lattice_px, rest) == (0, 0, (0.0, 0.0))
    with pytest.raises(TileNotFoundError, match="beyond the frame"):
        frame.pyramid.tile_window(0, 1, 0)
    assert Pyramid.of(frame.model.geometry) == frame.pyramid
