"""The real application on a real port of this machine, and a browser to look at it."""

from __future__ import annotations

import http.client
import io
import os
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import anyres
from anyres.viewer.app import create_app
from anyres.viewer.drawing import ServedModel
from anyres.viewer.serve import make_server, open_socket

BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@contextmanager
def serving(served_models: list[ServedModel], cache: Path, cache_bytes: int = 1 << 26, **settings: Any) -> Iterator[str]:
    """The address of a viewer that runs until the block ends."""
    listening = open_socket("127.0.0.1", 0)
    running = make_server(create_app(served_models, cache, cache_bytes, **settings))
    thread = threading.Thread(target=running.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        while not running.started:
            assert thread.is_alive()
            time.sleep(0.01)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        running.should_exit = True
        thread.join(timeout=30)
        listening.close()
        assert not thread.is_alive()


def served(name: str, folder: Path) -> ServedModel:
    return ServedModel(name, anyres.load(folder))


def ask(address: str, path: str, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], bytes]:
    """Status, headers (small letters) and body of a request for the very path that is given."""
    connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=60)
    try:
        connection.request(method, path, headers={name.replace("_", "-"): value for name, value in headers.items()})
        answer = connection.getresponse()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
    finally:
        connection.close()


def send(address: str, path: str, body: bytes, method: str = "POST", **headers: str) -> tuple[int, dict[str, str], bytes]:
    """`ask` with a body; a `content_length` among the headers need not be true."""
    connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=60)
    try:
        connection.putrequest(method, path)
        for name, value in ({"content_length": str(len(body))} | headers).items():
            connection.putheader(name.replace("_", "-"), value)
        connection.endheaders(body)
        answer = connection.getresponse()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
    finally:
        connection.close()


def pixels(png: bytes) -> np.ndarray:
    """uint8 (h, w, 3 or 4)."""
    return np.array(Image.open(io.BytesIO(png)))


def counted(address: str, name: str) -> float:
    """A number of /metrics, over all its labels."""
    text = ask(address, "/metrics")[2].decode()
    return sum(float(value) for value in re.findall(rf"^{name}(?:{{[^}}]*}})? (\S+)$", text, re.MULTILINE))


def chromium() -> str:
    """The path of a browser; Debian's is installed where there is none and this may be done. Fails where none can be had."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None and os.geteuid() == 0 and shutil.which("apt-get"):
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        for words in (["update"], ["install", "-y", "--no-install-recommends", "chromium"]):
            subprocess.run(["apt-get", "-qq", *words], check=True, capture_output=True, timeout=240, env=environment)
        found = shutil.which("chromium")
    if found is None:
        pytest.fail("no Chromium on PATH: install the package `chromium`, the tests of the page need it")
    return found
