"""One private Prefect API for the duration of a command, if no API address is set.

It replaces Prefect's ephemeral API, which costs 8 to 17 s in every process, hangs on Ctrl-C and leaves servers running.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
import tomllib
import urllib.error
import urllib.request
from pathlib import Path

from pipelines.process.locks import locked
from pipelines.process.supervise import start_supervised

HOME = Path(".anyres/prefect")
START_TIMEOUT_S = 120.0
# Time for a configured API to answer.
ANSWER_TIMEOUT_S = 5.0

# Keeps the input of the server's supervisor open until this process ends.
_running: list[subprocess.Popen[bytes]] = []

# Variables of the private server: without its web pages, block types and console lines.
SERVER_VARIABLES = {
    "PREFECT_UI_ENABLED": "false",
    "PREFECT_API_BLOCKS_REGISTER_ON_START": "false",
    "PREFECT__SERVER_EPHEMERAL": "1",
    "PREFECT__SERVER_FINAL": "1",
}


class ApiError(RuntimeError):
    """No Prefect API answers; the message is one line that says what to do."""


def configured_api() -> str | None:
    """Return the API address that is set in the environment or in the active Prefect profile."""
    if os.environ.get("PREFECT_API_URL"):
        return os.environ["PREFECT_API_URL"]
    profiles = Path(os.environ.get("PREFECT_HOME", "~/.prefect")).expanduser() / "profiles.toml"
    try:
        values = tomllib.loads(profiles.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError):
        return None
    active = os.environ.get("PREFECT_PROFILE", values.get("active", ""))
    return values.get("profiles", {}).get(active, {}).get("PREFECT_API_URL")


def ensure_prefect_api() -> None:
    """Set PREFECT_API_URL to a running API: the configured one, or a private one that ends with this process.

    The private one ends after this process, not before: at exit Prefect still sends its queue, and waits long for an API
    that is gone. Call it before Prefect is imported. Raises ApiError if the API does not answer.
    """
    # The terminal shows the lines of the pipeline. Prefect's own log lines go only to its API.
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
    address = configured_api()
    if address is not None:
        os.environ["PREFECT_API_URL"] = address
        _check_health(address)
        return
    home = HOME.resolve()
    home.mkdir(parents=True, exist_ok=True)
    port = _free_port()
    os.environ["PREFECT_HOME"] = str(home)
    command = [sys.executable, "-m", "uvicorn", "--factory", "prefect.server.api.server:create_app", "--log-level", "error"]
    command += ["--lifespan", "on", "--host", "127.0.0.1", "--port", str(port)]
    # Two servers that migrate one database at the same time break it.
    with locked("prefect", wait_s=START_TIMEOUT_S):
        server = start_supervised(command, {**os.environ, **SERVER_VARIABLES}, grace_s=5.0)
        os.environ["PREFECT_API_URL"] = f"http://127.0.0.1:{port}/api"
        import prefect  # noqa: F401 - loads while the server starts

        _wait_until_healthy(server, os.environ["PREFECT_API_URL"])
    _running.append(server)


def _check_health(address: str) -> None:
    """Raise ApiError if the configured API does not answer: Prefect itself would try for minutes."""
    try:
        with urllib.request.urlopen(f"{address.rstrip('/')}/health", timeout=ANSWER_TIMEOUT_S):
            return
    except urllib.error.HTTPError as error:
        # A server answers. Authentication is the task of Prefect's client.
        if error.code in (401, 403, 404, 405):
            return
        reason = f"HTTP {error.code}"
    except (urllib.error.URLError, OSError, ValueError) as error:
        reason = str(getattr(error, "reason", error))
    raise ApiError(f"no Prefect API answers at {address} ({reason}); correct or start it, or unset PREFECT_API_URL")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _wait_until_healthy(server: subprocess.Popen[bytes], address: str) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    # No proxy: the server is on this machine.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    while server.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(urllib.error.URLError, OSError), opener.open(f"{address}/health", timeout=2):
            return
        time.sleep(0.05)
    raise ApiError(f"the private Prefect API did not start (code {server.poll()}); set PREFECT_API_URL to a running one")
