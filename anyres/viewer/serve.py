"""Run the viewer on a socket of this machine."""

from __future__ import annotations

import re
import secrets
import socket
from collections.abc import Callable, Sequence
from pathlib import Path

import uvicorn
from fastapi import FastAPI

from anyres.viewer.access import is_loopback
from anyres.viewer.app import create_app
from anyres.viewer.drawing import ServedModel
from anyres.viewer.models import Registry

# Connections that are still open at the end are given so long.
GRACE_S = 3
# A connection that waits is kept longer than a busy visitor pauses: closed in the very moment of his next request, it fails.
KEEP_ALIVE_S = 75
# What stands in an address and in a cookie as it is.
TOKEN = re.compile(r"[A-Za-z0-9._~-]{8,}")


def serve(
    served_models: Sequence[ServedModel],
    host: str,
    port: int,
    token: str | None,
    cache: Path,
    cache_bytes: int,
    announce: Callable[[str], None],
    registry: Registry | None = None,
) -> None:
    """Serve until Ctrl-C; `announce` is told the address once it is taken.

    Whoever reaches another address than this machine's own must know the token: without one, one is made. Raises OSError where
    the address cannot be had, and ValueError for a token that could be guessed.
    """
    token = with_token(token, host)
    app = create_app(served_models, cache, cache_bytes, token, registry=registry)
    with listening_at(host, port) as listening:
        shown = f"[{host}]" if ":" in host else host
        suffix = "" if token is None else f"?token={token}"
        announce(f"http://{shown}:{listening.getsockname()[1]}/{suffix}")
        try:
            server(app).run(sockets=[listening])
        except KeyboardInterrupt:
            return


def listening_at(host: str, port: int) -> socket.socket:
    """A socket that takes connections. Raises OSError, one line, where the address cannot be had."""
    try:
        listening = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=256)
    except OSError as error:
        raise OSError(f"{host}, port {port}: {error.strerror or error}; try another --host or --port") from None
    # Heads and bodies are sent apart: held back until the former is acknowledged, a tile would take 40 ms.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listening


def with_token(token: str | None, host: str) -> str | None:
    """The token, or a new one where `host` needs one and none is given. Raises ValueError for one that could be guessed."""
    if token is None:
        return None if is_loopback(host) else secrets.token_urlsafe(24)
    if not TOKEN.fullmatch(token):
        raise ValueError("--token takes at least 8 ASCII characters: letters, digits and -._~")
    return token


def server(app: FastAPI) -> uvicorn.Server:
    """What answers: plain HTTP, quiet, believing nothing that a request says of where it came from."""
    return uvicorn.Server(
        uvicorn.Config(
            app,
            ws="none",
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=GRACE_S,
            timeout_keep_alive=KEEP_ALIVE_S,
        )
    )
