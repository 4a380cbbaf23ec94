"""Photographs brought to the page: fitted while tiles are drawn, shown as scenes, given up, refused."""

from __future__ import annotations

import io
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from anyres.plane.chart import Frame
from anyres.plane.window import Window
from anyres.synthesis.latent import Latent
from anyres.synthesis.render import render
from anyres.synthesis.request import RenderRequest
from anyres.viewer.drawing import ServedModel
from anyres.viewer.photographs import WAITING_LIMIT, crop_to_chart
from tests.viewer.servers import ask, pixels, send, serving
from tests.viewer.test_scenes import told


def photograph(height: int = 90, width: int = 120, form: str = "JPEG") -> bytes:
    y, x = np.mgrid[:height, :width] / height
    colours = np.stack([np.sin(7 * x) * 80 + 128, np.cos(5 * y) * 80 + 128, 120 * x + 60], -1).clip(0, 255)
    stream = io.BytesIO()
    Image.fromarray(colours.astype(np.uint8)).save(stream, form)
    return stream.getvalue()


def brought(address: str, served: ServedModel, data: bytes, steps: int) -> dict[str, Any]:
    status, headers, body = send(address, f"/api/photographs/{served.id}?steps={steps}", data, content_type="image/jpeg")
    assert status == 202, body
    job = json.loads(body)
    assert headers["location"] == f"/api/photographs/jobs/{job['id']}"
    return job


def outcome(address: str, job: dict[str, Any], seconds: float = 90) -> dict[str, Any]:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        status, _, body = ask(address, f"/api/photographs/jobs/{job['id']}")
        assert status == 200, body
        job = json.loads(body)
        if job["state"] in ("done", "failed", "cancelled"):
            return job
        time.sleep(0.05)
    raise AssertionError(job)


@pytest.mark.parametrize("kind", ["frame", "plane", "ring"])
def test_a_photograph_becomes_a_scene(request: pytest.FixtureRequest, kind: str, tmp_path: Path):
    served = request.getfixturevalue(kind)
    with serving([served], tmp_path) as address:
        job = outcome(address, brought(address, served, photograph(), 6))
        assert (job["state"], job["step"], job["steps"]) == ("done", 6, 6), job
        assert " dB" in job["said"]
        scene = told(address, served, {"latent": job["latent"]})
        period = served.pyramid.period
        status, _, body = ask(
            address, f"/api/render?model={served.id}&scene={scene}&period={period!r}&height=64&width=80&psi=0.2"
        )
        assert status == 200, body
        latent = Latent.load(tmp_path / "photographs" / f"{job['latent']}.safetensors")
        # Whatever the truncation: a photograph is what it is.
        assert np.array_equal(
            pixels(body), render(served.model.generator, RenderRequest(latent, Window((0.0, 0.0), period, (64, 80))))
        )
        assert ask(address, f"/api/tile/{served.id}/{scene}/0/0_0.png")[0] == 200
    # It outlives the server.
    with serving([served], tmp_path) as address:
        assert told(address, served, {"latent": job["latent"], "edits": [{"kind": "turn", "degrees": 5}]})


def test_tiles_go_first_and_a_fit_can_be_given_up(frame: ServedModel, tmp_path: Path):
    with serving([frame], tmp_path) as address:
        job = brought(address, frame, photograph(), 2000)
        until = time.monotonic() + 60
        while json.loads(ask(address, f"/api/photographs/jobs/{job['id']}")[2])["state"] != "fitting":
            assert time.monotonic() < until
            time.sleep(0.02)
        waiting = brought(address, frame, photograph(), 5)
        assert ask(address, f"/api/tile/{frame.id}/1/3/0_0.png")[0] == 200
        assert send(address, f"/api/photographs/jobs/{waiting['id']}", b"", "DELETE")[0] == 200
        assert outcome(address, waiting)["state"] == "cancelled"
        assert send(address, f"/api/photographs/jobs/{job['id']}", b"", "DELETE")[0] == 200
        found = outcome(address, job)
        assert (found["state"], found["latent"]) == ("cancelled", None)
        assert found["step"] < 2000
        assert not list((tmp_path / "photographs").glob("*.safetensors"))
        # Those behind it are not kept waiting.
        assert outcome(address, brought(address, frame, photograph(), 2))["state"] == "done"


def test_too_many_photographs_are_told_to_come_again(frame: ServedModel, tmp_path: Path):
    with serving([frame], tmp_path) as address:
        found = [send(address, f"/api/photographs/{frame.id}?steps=2000", photograph()) for _ in range(WAITING_LIMIT + 2)]
        assert [status for status, _, _ in found].count(202) in (WAITING_LIMIT, WAITING_LIMIT + 1)
        assert found[-1][0] == 503
        assert int(found[-1][1]["retry-after"]) >= 1
    # And the server ends all the same, at once.


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "empty"),
        (b"no picture at all", "picture"),
        (photograph()[:400], "broken"),
        (photograph(8, 8, "PNG"), "too small"),
        (b"\x89PNG\r\n\x1a\n" + b"\0\0\0\rIHDR" + b"\0\xff\xff\xff" * 2 + b"\x08\x02\0\0\0" + b"\0" * 40, ""),
    ],
    ids=["empty", "text", "cut", "small", "vast"],
)
def test_what_is_no_picture_fails_in_one_line(address: str, frame: ServedModel, data: bytes, said: str):
    job = outcome(address, brought(address, frame, data, 2))
    assert job["state"] == "failed"
    assert said in job["said"]
    assert "\n" not in job["said"]
    assert ask(address, "/healthz")[0] == 200


def test_uploads_that_do_not_fit_are_refused(address: str, frame: ServedModel, monkeypatch: pytest.MonkeyPatch):
    path = f"/api/photographs/{frame.id}"
    assert send(address, f"{path}?steps=0", b"x")[0] == 422
    assert send(address, f"{path}?steps=1e9", b"x")[0] == 422
    assert send(address, "/api/photographs/..%2f..%2fetc", b"x")[0] == 404
    assert ask(address, "/api/photographs/jobs/nobody")[0] == 404
    assert send(address, path, b"", content_length=str(1 << 40))[0] == 413
    monkeypatch.setattr("anyres.viewer.access.BODY_LIMITS", {"/api/photographs/": (1000, 1.0)})
    assert send(address, path, photograph())[0] == 413


@pytest.mark.parametrize(("height", "width"), [(90, 120), (100, 300), (300, 100), (100, 100)])
def test_a_frame_holds_the_middle_of_a_photograph(height: int, width: int):
    chart = Frame((1.5, 1.0))
    photo = np.arange(height * width * 3, dtype=np.uint32).reshape(height, width, 3)
    part = crop_to_chart(photo, chart)
    half_width, half_height = chart.half_extent_of(part.shape[:2])
    assert half_width <= 1.5 + 1e-9
    assert half_height <= 1 + 1e-9
    assert min(part.shape[:2]) >= min(height, width) * 0.66
    assert crop_to_chart(part, chart).shape == part.shape
