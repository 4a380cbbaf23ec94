"""What does not fit is refused, by number: never a fault of the server, never a file of the machine."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

from anyres.cli import app
from anyres.cli.view import short_names
from anyres.viewer.access import is_loopback
from anyres.viewer.drawing import ServedModel
from anyres.viewer.serve import with_token
from tests.viewer.servers import ask, counted, serving

ROOT = Path(__file__).resolve().parents[2]
HUGE = "9" * 5000
TILES = [
    "/api/tile/{m}/-1/0/0_0.png",
    "/api/tile/{m}/1099511627776/0/0_0.png",
    f"/api/tile/{{m}}/{HUGE}/0/0_0.png",
    "/api/tile/{m}/1.5/0/0_0.png",
    "/api/tile/{m}/nan/0/0_0.png",
    "/api/tile/{m}/0/-1/0_0.png",
    "/api/tile/{m}/0/39/0_0.png",
    "/api/tile/{m}/0/40/0_0.png",
    "/api/tile/{m}/0/99999999999999999999/0_0.png",
    "/api/tile/{m}/0/0/1_0.png",
    "/api/tile/{m}/0/0/-2_0.png",
    "/api/tile/{m}/0/0/2147483648_0.png",
    f"/api/tile/{{m}}/0/0/{HUGE}_0.png",
    f"/api/tile/{{m}}/0/0/0_-{HUGE}.png",
    "/api/tile/{m}/0/0/0_.png",
    "/api/tile/{m}/0/0/_0.png",
    "/api/tile/{m}/0/0/0_0_0.png",
    "/api/tile/{m}/0/0/0_0.jpg",
    "/api/tile/{m}/0/0/0_0.png?psi=nan",
    "/api/tile/{m}/0/0/0_0.png?psi=inf",
    "/api/tile/{m}/0/0/0_0.png?psi=-0.1",
    "/api/tile/{m}/0/0/0_0.png?psi=1e999",
    "/api/tile/{m}/0/0/0_0.png?psi=",
    "/api/tile/{m}/0/0/0_0.png?psi=%00",
    "/api/tile/nobody/0/0/0_0.png",
    "/api/tile/..%2f..%2fetc/0/0/0_0.png",
    "/api/tile/%2e%2e/0/0/0_0.png",
    f"/api/tile/{'m' * 3000}/0/0/0_0.png",
    "/api/tile/{m}%00/0/0/0_0.png",
    "/api/tile/%ff%fe/0/0/0_0.png",
]
VIEW = {"model": "{m}", "scene": "0", "center_x": "0", "center_y": "0", "period": "0.01", "height": "20", "width": "30"}
VIEWS = [
    {"height": "0"},
    {"height": "-5"},
    {"width": "1e3"},
    {"width": HUGE},
    {"height": "8001", "width": "8000", "period": "0.0001"},
    {"height": "1", "width": "65536", "period": "0.00001"},
    {"width": "16384", "format": "webp", "period": "0.0001"},
    {"period": "0"},
    {"period": "-1"},
    {"period": "nan"},
    {"period": "1e-300"},
    {"period": "1e-9"},
    {"period": "1e300"},
    {"period": "100"},
    {"center_x": "inf"},
    {"center_x": "1e308"},
    {"center_y": "-Infinity"},
    {"center_y": "3"},
    {"scene": "-1"},
    {"scene": "1e9"},
    {"scene": HUGE},
    {"psi": "nan"},
    {"psi": "3"},
    {"format": "exe"},
    {"format": "../png"},
    {"model": "../../etc/passwd"},
    {"model": "\x00"},
    {"period": None},
    {"model": None},
]
FILES = [
    "/static/..%2f..%2fapp.py",
    "/static/../app.py",
    "/static/%2e%2e/app.py",
    "/static/..\\app.py",
    "/static//etc/passwd",
    "/static/%2fetc%2fpasswd",
    "/static/index.html",
    "/static/main.js%00",
    "/static/",
    "/..%2f..%2fetc/passwd",
    "/etc/passwd",
    "/api/tile/",
    "/docs",
]


@pytest.mark.parametrize("path", [*TILES, *FILES], ids=lambda path: path[:60])
def test_paths_that_do_not_fit_are_refused(address: str, frame: ServedModel, path: str):
    status, headers, body = ask(address, path.replace("{m}", frame.id))
    assert 400 <= status < 500, body
    assert b"Traceback" not in body
    assert b"root:" not in body
    assert len(body) < 1000
    assert headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("change", VIEWS, ids=lambda change: str(change)[:50])
def test_views_that_do_not_fit_are_refused(address: str, frame: ServedModel, change: dict[str, str | None]):
    given = {name: value for name, value in (VIEW | change).items() if value is not None}
    query = str(httpx.QueryParams({name: value.replace("{m}", frame.id) for name, value in given.items()}))
    status, _, body = ask(address, f"/api/render?{query}")
    assert status in (404, 413, 422), body
    assert len(json.loads(body)["error"]) < 500


def test_every_period_that_is_let_through_is_drawn(
    address: str, frame: ServedModel, plane: ServedModel, ring: ServedModel, inexact: ServedModel
):
    for served in (frame, plane, ring, inexact):
        for period in served.pyramid.periods:
            status, _, body = ask(address, f"/api/render?model={served.id}&scene=0&period={period!r}&height=1&width=2")
            # As coarse as that only, a frame may be smaller than the view.
            assert status in (200, 422), body
            assert status == 200 or b"outside the" in body


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "TRACE", "OPTIONS"])
def test_nothing_can_be_written(address: str, method: str):
    assert ask(address, "/api/models", method)[0] in (404, 405)


def test_every_answer_is_guarded(address: str, frame: ServedModel):
    for path in ("/", "/static/main.js", "/api/models", f"/api/tile/{frame.id}/0/0/0_0.png", "/nothing", "/metrics"):
        headers = ask(address, path)[1]
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["x-content-type-options"] == "nosniff"
        assert "server" not in headers
    page = ask(address, "/")[2].decode()
    assert not re.search(r"<script(?![^>]*\bsrc=)|\son\w+=|\bstyle=|<style", page)
    assert "://" not in page


def test_views_wait_for_their_turn_and_give_it_back(plane: ServedModel, tmp_path: Path):
    path = f"/api/render?model={plane.id}&scene=5&period={plane.pyramid.period!r}&height=6000&width=4000"
    with serving([plane], tmp_path) as address:
        unread = [http.client.HTTPConnection(address.removeprefix("http://"), timeout=60) for _ in range(2)]
        for connection in unread:
            connection.request("GET", path)
            assert connection.getresponse().status == 200
        status, headers, _ = ask(address, path)
        assert (status, headers["retry-after"]) == (503, "1")
        for connection in unread:
            connection.close()
        until = time.monotonic() + 20
        small = path.replace("6000", "60")
        while ask(address, small)[0] == 503 and time.monotonic() < until:
            time.sleep(0.05)
        assert ask(address, small)[0] == 200


def test_pages_of_others_have_nothing_drawn(address: str, frame: ServedModel):
    path = f"/api/tile/{frame.id}/0/0/0_0.png"
    assert ask(address, path, Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="no-cors")[0] == 403
    assert ask(address, "/", Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="navigate")[0] == 200
    assert ask(address, path, Sec_Fetch_Site="same-origin", Sec_Fetch_Mode="cors")[0] == 200


def test_others_names_for_this_machine_are_refused(address: str):
    assert ask(address, "/api/models", Host="evil.example")[0] == 421
    assert ask(address, "/api/models", Host="[")[0] in (400, 421)
    assert ask(address, "/api/models", Host="localhost:1")[0] == 200


def test_a_token_is_asked_for_and_remembered(frame: ServedModel, tmp_path: Path):
    token = "päss".encode().hex() + "-long-enough"
    with serving([frame], tmp_path, token=token) as address:
        assert ask(address, "/healthz")[0] == 200
        for path in ("/", "/api/models", "/metrics", "/static/main.js", f"/?token={token}x", "/?token=", "/?token=%ff%00"):
            status, _, body = ask(address, path)
            assert (status, token.encode() in body) == (401, False)
        assert ask(address, "/", Cookie="anyres_token=wrong")[0] == 401
        assert ask(address, "/", Cookie='anyres_token="\\')[0] == 401
        assert ask(address, "/api/models", Authorization="Bearer nothing")[0] == 401
        assert ask(address, "/api/models", Authorization=f"Bearer {token}", Host="any.example")[0] == 200
        status, headers, _ = ask(address, f"/?token={token}")
        assert (status, headers["location"]) == (303, "/")
        assert "HttpOnly" in headers["set-cookie"]
        assert "samesite=strict" in headers["set-cookie"].lower()
        assert ask(address, "/api/models", Cookie=headers["set-cookie"].partition(";")[0])[0] == 200


async def _tiles(address: str, model: str, count: int, patience: float, distinct: bool) -> list[int]:
    """Statuses of so many requests at once, 0 where patience ended."""
    limits = httpx.Limits(max_connections=count)

    async def one(client: httpx.AsyncClient, index: int) -> int:
        psi = index / count if distinct else 0.7
        try:
            answer = await client.get(f"/api/tile/{model}/{index}/4/0_0.png", params={"psi": psi})
        except httpx.TimeoutException:
            return 0
        assert answer.status_code != 503 or int(answer.headers["retry-after"]) >= 1
        return answer.status_code

    async with httpx.AsyncClient(base_url=address, limits=limits, timeout=patience) as client:
        return list(await asyncio.gather(*(one(client, index) for index in range(count))))


def test_too_much_at_once_is_told_to_come_again(frame: ServedModel, tmp_path: Path):
    with serving([frame], tmp_path, queue=3, batch=1) as address:
        statuses = asyncio.run(_tiles(address, frame.id, 100, 60.0, True))
        assert set(statuses) == {200, 503}
        assert counted(address, "anyres_refused_total") == statuses.count(503)
        assert counted(address, "anyres_tiles_drawn_total") == statuses.count(200)
        assert ask(address, f"/api/tile/{frame.id}/1000/4/0_0.png")[0] == 200


def test_what_waits_together_is_drawn_together(frame: ServedModel, tmp_path: Path):
    with serving([frame], tmp_path) as address:
        assert set(asyncio.run(_tiles(address, frame.id, 32, 60.0, False))) == {200}
        assert counted(address, "anyres_tiles_drawn_total") == 32
        assert counted(address, "anyres_passes_total") <= 16
        assert counted(address, "anyres_request_seconds_count") >= 32


def test_what_nobody_waits_for_is_not_drawn(frame: ServedModel, tmp_path: Path):
    count, asked = 200, 0
    with serving([frame], tmp_path, batch=1) as address:
        # A busy machine may not have read a request when its sender leaves: then some leave later.
        for patience_s in (0.3, 1.0, 3.0):
            asked += count
            assert 0 in asyncio.run(_tiles(address, frame.id, count, patience_s, True))
            if counted(address, "anyres_tiles_dropped_total"):
                break
        until = time.monotonic() + 20
        while counted(address, "anyres_queue_length") and time.monotonic() < until:
            time.sleep(0.05)
        assert ask(address, f"/api/tile/{frame.id}/1000/4/0_0.png")[0] == 200
        drawn, dropped = counted(address, "anyres_tiles_drawn_total"), counted(address, "anyres_tiles_dropped_total")
        assert dropped > 0
        assert drawn + dropped <= asked + 1
        assert drawn < asked


def test_the_command_prints_one_line_opens_the_page_and_ends_cleanly(frame_bundle: Path, tmp_path: Path):
    # The desktop's opener, which writes down what it is told to open.
    opener = tmp_path / "xdg-open"
    opener.write_text(f'#!/bin/sh\nprintf %s "$1" > {tmp_path}/opened.part && mv {tmp_path}/opened.part {tmp_path}/opened\n')
    opener.chmod(0o755)
    words = ["view", str(frame_bundle), "--port", "0", "--cache", str(tmp_path / "tiles"), "--cache-mb", "8", "--open"]
    with subprocess.Popen(
        [sys.executable, "-m", "anyres", *words],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
    ) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            found = re.fullmatch(r"view: (http://127\.0\.0\.1:\d+)/ \(Ctrl-C ends\)\n", line)
            assert found, line
            assert ask(found[1], "/healthz")[2] == b"ok\n"
            until = time.monotonic() + 20
            while not (tmp_path / "opened").exists() and time.monotonic() < until:
                time.sleep(0.05)
            assert (tmp_path / "opened").read_text() == f"{found[1]}/"
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=20)
            assert (process.returncode, out, err) == (0, "", "")
        finally:
            process.kill()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nowhere"], "nowhere: no such bundle folder"),
        (["{b}", "{b}"], "a model is named twice"),
        (["{b}", "--token", "short"], "at least 8 ASCII characters"),
        (["{b}", "--host", "192.0.2.1", "--port", "0"], "192.0.2.1, port 0: "),
        (["{b}", "--cache", "{b}/generator.json"], "generator.json"),
    ],
)
def test_what_does_not_fit_ends_in_one_line(frame_bundle: Path, tmp_path: Path, words: list[str], said: str):
    given = [word.replace("{b}", str(frame_bundle)) for word in words]
    run = CliRunner().invoke(app, ["view", "--cache", str(tmp_path), *given])
    assert run.exit_code == 2
    assert said in run.stderr
    assert run.stderr.count("\n") == 1


def test_models_are_told_apart_by_the_end_of_their_names():
    assert short_names(["a/export/generator", "b/export/generator", "c"]) == ["a/export/generator", "b/export/generator", "c"]
    assert short_names(["./out/x/", "models:/anyres-generator@champion"]) == ["x", "anyres-generator@champion"]


@pytest.mark.parametrize(("host", "alone"), [("127.0.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False)])
def test_a_token_is_made_for_any_address_but_this_machines_own(host: str, alone: bool):
    assert is_loopback(host) == alone
    assert (with_token(None, host) is None) == alone
    assert with_token("chosen-by-hand", host) == "chosen-by-hand"


def test_a_crowd_is_served_and_sees_nothing_wrong(frame_bundle: Path, tmp_path: Path):
    words = [
        "benchmarks/tiles.py",
        str(frame_bundle),
        "--clients",
        "50",
        "--seconds",
        "3",
        "--threads",
        "1",
        "--out",
        str(tmp_path / "tiles.json"),
    ]
    run = subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True, timeout=200, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    crowd = json.loads((tmp_path / "tiles.json").read_text())["crowd"]
    assert (crowd["errors"], crowd["wrong"]) == (0, 0)
    assert crowd["tiles"] > 50
    assert crowd["checked"] > 5
    assert crowd["memory_mib"] < 600
