"""Edited and painted scenes over the wire, beside what the library draws of them."""

from __future__ import annotations

import http.client
import json
from typing import Any

import numpy as np
import pytest

from anyres.plane.window import Window
from anyres.synthesis import edit, fuse
from anyres.synthesis.render import render
from anyres.synthesis.request import RenderRequest
from anyres.viewer.drawing import ServedModel
from anyres.viewer.tilegrid import TILE_PX
from tests.viewer.servers import ask, pixels, send

EDITS = [
    {"kind": "displace", "strength": 0.05, "scale": 0.4, "seed": 3},
    {"kind": "aspect", "factor": 1.3},
    {"kind": "turn", "degrees": 12, "center": [0.1, 0]},
    {"kind": "perspective", "tilt": [0.2, -0.1]},
    {"kind": "magnify", "factor": 1.5},
    {"kind": "pull", "point": [0.2, -0.1], "power": 1.8, "radius": 0.6},
]


def told(address: str, served: ServedModel, recipe: Any) -> str:
    status, _, body = send(address, f"/api/scenes/{served.id}", json.dumps(recipe).encode(), content_type="application/json")
    assert status == 200, body
    return json.loads(body)["id"]


def view(address: str, served: ServedModel, scene: str, window: Window, psi: float = 0.7) -> tuple[np.ndarray, dict[str, str]]:
    x, y = window.center
    (height, width), place = window.size, f"center_x={x!r}&center_y={y!r}&period={window.period!r}"
    status, headers, body = ask(
        address, f"/api/render?model={served.id}&scene={scene}&{place}&height={height}&width={width}&psi={psi}"
    )
    assert status == 200, body
    return pixels(body), headers


def test_edits_are_those_of_the_library_in_their_order(address: str, frame: ServedModel):
    scene = told(address, frame, {"seed": 5, "edits": EDITS})
    window = Window((0.1, 0.05), 2 / 500, (211, 307))
    composed = edit.compose(
        [
            edit.displace(0.05, 0.4, 3),
            edit.aspect(1.3),
            edit.turn(12, (0.1, 0.0)),
            edit.perspective(0.2, -0.1),
            edit.magnify(1.5),
            edit.pull((0.2, -0.1), 1.8, 0.6),
        ]
    )
    found, headers = view(address, frame, scene, window)
    assert np.array_equal(found, render(frame.model.generator, RenderRequest(5, window, 0.7, edit=composed)))
    assert not np.array_equal(found, frame.model.render(5, window))
    assert headers["content-disposition"] == f'attachment; filename="frame-{scene[:9]}-307x211.png"'
    # Each of them alone changes the picture.
    for only in EDITS:
        assert not np.array_equal(
            view(address, frame, told(address, frame, {"seed": 5, "edits": [only]}), window)[0], frame.model.render(5, window)
        )


def test_tiles_of_an_edited_scene_are_one_picture(address: str, frame: ServedModel):
    scene = told(address, frame, {"seed": 7, "edits": EDITS})
    rows = []
    for y in (-1, 0):
        line = [ask(address, f"/api/tile/{frame.id}/{scene}/2/{x}_{y}.png") for x in (-1, 0)]
        assert [status for status, _, _ in line] == [200, 200]
        rows.append(np.concatenate([pixels(body)[..., :3] for _, _, body in line], 1))
    period = frame.pyramid.period / 4
    whole, _ = view(address, frame, scene, Window((0.0, 0.0), period, (2 * TILE_PX, 2 * TILE_PX)))
    assert np.abs(np.concatenate(rows).astype(int) - whole).max() <= 1


def test_strokes_are_styles_over_the_canvas(address: str, plane: ServedModel):
    period = plane.pyramid.period
    window = Window((0.0, 0.0), period, (96, 128))
    left, top, right, _ = window.bounds
    stroke = {"seed": 9, "points": [[left, top / 2], [0, 0], [right, top / 2]], "radius": 10 * period}
    scene = told(address, plane, {"seed": 2, "strokes": [stroke], "softness": 0.4})
    found, _ = view(address, plane, scene, window)
    brush = fuse.Stroke(1, ((left, top / 2), (0.0, 0.0), (right, top / 2)), 10 * period)
    shares = fuse.brush_shares([brush], 2, 0.4)
    expected = render(
        plane.model.generator, RenderRequest(fuse.fuse_styles([2, 9], plane.model.generator.z_dim, shares), window, 0.7)
    )
    assert np.array_equal(found, expected)
    # Far from the brush the scene is as it was.
    plain = plane.model.render(2, window)
    changed = np.abs(found.astype(int) - plain).max(axis=(1, 2))
    assert changed[:48].max() > 3
    assert changed[-8:].max() == 0


def test_a_scene_has_one_name_and_a_file_says_how_it_was_made(address: str, frame: ServedModel):
    recipe = {"seed": 5, "edits": [{"kind": "turn", "degrees": 30.0}]}
    scene = told(address, frame, recipe)
    assert told(address, frame, {"edits": [{"degrees": 30, "kind": "turn", "center": [0, 0]}], "seed": 5}) == scene
    assert told(address, frame, {**recipe, "seed": 6}) != scene
    _, _, body = ask(address, f"/api/render?model={frame.id}&scene={scene}&period=0.05&height=20&width=30")
    import io

    from PIL import Image

    assert json.loads(Image.open(io.BytesIO(body)).info["Scene"]) == recipe


@pytest.mark.parametrize(
    ("recipe", "said"),
    [
        ({"seed": -1}, "seed"),
        ({"seed": 1.5}, "seed"),
        ({"seed": 1 << 40}, "seed"),
        ({"sed": 1}, "sed"),
        ({"edits": [{"kind": "aspect", "factor": 0}]}, "factor"),
        ({"edits": [{"kind": "aspect", "factor": 1e300}]}, "factor"),
        ({"edits": [{"kind": "explode"}]}, "kind"),
        ({"edits": [{"kind": "turn", "degrees": 1}] * 33}, "edits"),
        ({"edits": [{"kind": "perspective", "tilt": [0.95, 0]}]}, ""),
        ({"edits": [{"kind": "pull", "point": [0], "power": 1, "radius": 1}]}, ""),
        ({"strokes": [{"seed": 1, "points": [], "radius": 1}]}, "points"),
        ({"strokes": [{"seed": 1, "points": [[0, 0]] * 257, "radius": 1}]}, "points"),
        ({"strokes": [{"seed": 1, "points": [[0, 0]], "radius": 1}]}, "one style per picture"),
        ({"latent": "../../../../etc/passwd"}, "latent"),
        ({"latent": "0" * 32}, "not stored here"),
        ([], ""),
        (None, ""),
    ],
)
def test_recipes_that_do_not_fit_are_refused(address: str, frame: ServedModel, recipe: Any, said: str):
    status, _, body = send(address, f"/api/scenes/{frame.id}", json.dumps(recipe).encode(), content_type="application/json")
    assert status == 422, body
    assert said in json.loads(body)["error"]


@pytest.mark.parametrize(
    "body", [b"", b"{", b"\xff\xfe", b'{"seed": NaN}', b'{"seed": 1', b"[" * 100_000, b'{"seed": 1' + b"0" * 5000 + b"}"]
)
def test_words_that_are_no_json_are_refused(address: str, frame: ServedModel, body: bytes):
    status, _, answer = send(address, f"/api/scenes/{frame.id}", body, content_type="application/json")
    assert status in (400, 422), answer
    assert len(answer) < 1000


def test_a_scene_that_was_never_told_of_is_not_there(address: str, frame: ServedModel):
    status, _, body = ask(address, f"/api/tile/{frame.id}/s{'0' * 32}/0/0_0.png")
    assert (status, b"/api/scenes" in body) == (404, True)
    assert ask(address, f"/api/tile/{frame.id}/s{'0' * 31}/0/0_0.png")[0] == 422
    assert send(address, "/api/scenes/nobody", b"{}", content_type="application/json")[0] == 404


def test_too_much_and_too_slow_bodies_are_refused(address: str, frame: ServedModel, monkeypatch: pytest.MonkeyPatch):
    path = f"/api/scenes/{frame.id}"
    assert send(address, path, b" " * (300 << 10), content_type="application/json")[0] == 413
    connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=60)
    # A size that is not told beforehand.
    connection.request("POST", path, iter([b" " * (200 << 10)] * 2), {"Content-Type": "application/json"}, encode_chunked=True)
    assert connection.getresponse().status == 413
    connection.close()
    monkeypatch.setattr("anyres.viewer.access.DEFAULT_BODY_LIMIT", (1000, 0.3))
    connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=60)
    connection.putrequest("POST", path)
    connection.putheader("Content-Length", "100")
    connection.endheaders(b'{"seed"')
    assert connection.getresponse().status == 408
    connection.close()
    assert ask(address, "/healthz")[0] == 200


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1", "http://[", ""])
def test_pages_of_others_may_not_tell_of_scenes(address: str, frame: ServedModel, origin: str):
    path = f"/api/scenes/{frame.id}"
    assert send(address, path, b"{}", content_type="application/json", origin=origin)[0] == 403
    assert send(address, path, b"{}", content_type="application/json", origin=address)[0] == 200
    crossing = {"sec_fetch_site": "cross-site", "sec_fetch_mode": "navigate"}
    assert send(address, path, b"{}", content_type="application/json", **crossing)[0] == 403
