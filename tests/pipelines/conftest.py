"""No test of this folder sends usage reports; stages of several tests report to one Prefect server."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest

from pipelines.environment import silence_telemetry
from pipelines.process.private_api import SERVER_VARIABLES

silence_telemetry()


@pytest.fixture(scope="session")
def prefect_api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a Prefect server, for PREFECT_API_URL. A stage without it starts one of its own, which takes ten seconds."""
    home = tmp_path_factory.mktemp("prefect")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    environ = kept | SERVER_VARIABLES | {"PREFECT_HOME": str(home), "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
    command = [sys.executable, "-m", "uvicorn", "--factory", "prefect.server.api.server:create_app", "--log-level", "error"]
    command += ["--lifespan", "on", "--host", "127.0.0.1", "--port", str(port)]
    address = f"http://127.0.0.1:{port}/api"
    with (home / "server.log").open("wb") as log:
        server = subprocess.Popen(command, cwd=home, env=environ, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 120
        while True:
            assert server.poll() is None, (home / "server.log").read_text()
            with contextlib.suppress(urllib.error.URLError, OSError), urllib.request.urlopen(f"{address}/health", timeout=2):
                break
            assert time.monotonic() < deadline, (home / "server.log").read_text()
            time.sleep(0.1)
        yield address
    finally:
        server.terminate()
        server.wait(30)
