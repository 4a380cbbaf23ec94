"""Runs the viewer on a socket of this machine."""

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
from anyres.viewer.models import RegisteredModel

# How long open connections may take to finish at shutdown.
GRACE_S = 3
# Longer than an active user pauses: a request that arrives while its connection is closed would fail.
KEEP_ALIVE_S = 75
# Characters that need no escaping in a URL or in a cookie.
TOKEN = re.compile(r"[A-Za-z0-9._~-]{8,}")


def serve(
    served_models: Sequence[ServedModel],
    host: str,
    port: int,
    token: str | None,
    cache: Path,
    cache_bytes: int,
    announce: Callable[[str], None],
    registry: RegisteredModel | None = None,
) -> None:
    """Serve until Ctrl-C. Calls `announce` with the URL once the socket listens.

    An address that other machines can reach needs a token; if none is given, a random one is made. Raises OSError if the
    address is not available, and ValueError for a token that is too short.
    """
    token = with_token(token, host)
    app = create_app(served_models, cache, cache_bytes, token, registry=registry)
    with open_socket(host, port) as listening:
        url_host = f"[{host}]" if ":" in host else host
        query = "" if token is None else f"?token={token}"
        announce(f"http://{url_host}:{listening.getsockname()[1]}/{query}")
        try:
            make_server(app).run(sockets=[listening])
        except KeyboardInterrupt:
            return


def open_socket(host: str, port: int) -> socket.socket:
    """Open a listening socket. Raises OSError, one line, if the address is not available."""
    try:
        listening = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=256)
    except OSError as error:
        raise OSError(f"{host}, port {port}: {error.strerror or error}; try another --host or --port") from None
    # Headers and body are sent separately. With Nagle's algorithm the body would wait about 40 ms for an acknowledgement.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listening


def with_token(token: str | None, host: str) -> str | None:
    """The token, or a random one if `host` needs a token and none is given. Raises ValueError for one that is too short."""
    if token is None:
        return None if is_loopback(host) else secrets.token_urlsafe(24)
    if not TOKEN.fullmatch(token):
        raise ValueError("--token takes at least 8 ASCII characters: letters, digits and -._~")
    return token


def make_server(app: FastAPI) -> uvicorn.Server:
    """A server of plain HTTP, without an access log. It ignores headers of proxies, which a client could forge."""
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
