"""One private Prefect API for the length of a command, where no API address is set.

Prefect's built-in ephemeral API costs 8 to 17 s in every process, hangs on Ctrl-C and leaves servers behind.
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
from pipelines.process.supervise import leash

HOME = Path(".anyres/prefect")
START_TIMEOUT_S = 120.0
# For a configured API to answer.
ANSWER_S = 5.0

# Held open for as long as this process lives.
_running: list[subprocess.Popen[bytes]] = []

# What the private server needs no part of: its pages, block types, and console lines about it.
SERVER = {
    "PREFECT_UI_ENABLED": "false",
    "PREFECT_API_BLOCKS_REGISTER_ON_START": "false",
    "PREFECT__SERVER_EPHEMERAL": "1",
    "PREFECT__SERVER_FINAL": "1",
}


class ApiError(RuntimeError):
    """No Prefect API answers; the message is one line with the cure."""


def configured_api() -> str | None:
    """The API address that the person set: in the environment, or in the active Prefect profile."""
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
    """Have PREFECT_API_URL point to a running API: the configured one, or a private one that ends with this process.

    It ends after the process, not before: at exit Prefect still sends what it has queued, and waits long for an
    API that has gone. Prefect must not have been imported before. Raises ApiError where the API does not answer.
    """
    # On a person's terminal our own lines say what matters; Prefect's still reach its API.
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
    address = configured_api()
    if address is not None:
        os.environ["PREFECT_API_URL"] = address
        _require(address)
        return
    home = HOME.resolve()
    home.mkdir(parents=True, exist_ok=True)
    port = _free_port()
    os.environ["PREFECT_HOME"] = str(home)
    command = [sys.executable, "-m", "uvicorn", "--factory", "prefect.server.api.server:create_app", "--log-level", "error"]
    command += ["--lifespan", "on", "--host", "127.0.0.1", "--port", str(port)]
    # Two servers that migrate one database at once break it.
    with locked("prefect", wait_s=START_TIMEOUT_S):
        server = leash(command, {**os.environ, **SERVER}, grace_s=5.0)
        os.environ["PREFECT_API_URL"] = f"http://127.0.0.1:{port}/api"
        import prefect  # noqa: F401 - loads while the server starts

        _wait_until_healthy(server, os.environ["PREFECT_API_URL"])
    _running.append(server)


def _require(address: str) -> None:
    """Raise ApiError where the configured API does not answer: Prefect itself would try for minutes."""
    try:
        with urllib.request.urlopen(f"{address.rstrip('/')}/health", timeout=ANSWER_S):
            return
    except urllib.error.HTTPError as error:
        # Somebody is there: who may do what is between Prefect and them.
        if error.code in (401, 403, 404, 405):
            return
        reason = f"HTTP {error.code}"
    except (urllib.error.URLError, OSError, ValueError) as error:
        reason = str(getattr(error, "reason", error))
    raise ApiError(f"no Prefect API answers at {address} ({reason}); correct or start it, or unset PREFECT_API_URL to do without")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _wait_until_healthy(server: subprocess.Popen[bytes], address: str) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    # A proxy set for the outside world must not stand between us and our own machine.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    while server.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(urllib.error.URLError, OSError), opener.open(f"{address}/health", timeout=2):
            return
        time.sleep(0.05)
    raise ApiError(f"the private Prefect API did not come up (code {server.poll()}); set PREFECT_API_URL to a running one")
