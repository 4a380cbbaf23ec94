"""Run the viewer on a socket of this machine."""

from __future__ import annotations

import secrets
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.parse import quote

import uvicorn

from anyres.viewer.access import is_loopback
from anyres.viewer.app import create_app
from anyres.viewer.drawing import Exhibit

# Connections that are still open at the end are given so long.
GRACE_S = 3
TOKEN_LEAST = 8


def serve(
    exhibits: Sequence[Exhibit],
    host: str,
    port: int,
    token: str | None,
    cache: Path,
    cache_bytes: int,
    announce: Callable[[str], None],
) -> None:
    """Serve until Ctrl-C; `announce` is told the address once it is taken.

    Whoever reaches another address than this machine's own must know the token: without one, one is made. Raises OSError where
    the address cannot be had, and ValueError for a token that could be guessed.
    """
    if token is None and not is_loopback(host):
        token = secrets.token_urlsafe(24)
    if token is not None and (len(token) < TOKEN_LEAST or not token.isascii()):
        raise ValueError(f"--token takes at least {TOKEN_LEAST} ASCII characters")
    app = create_app(exhibits, cache, cache_bytes, token)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listening = socket.create_server((host, port), family=family, backlog=256)
    except OSError as error:
        raise OSError(f"{host}, port {port}: {error.strerror or error}; try another --port") from None
    with listening:
        shown = f"[{host}]" if ":" in host else host
        suffix = "" if token is None else f"?token={quote(token, safe='')}"
        announce(f"http://{shown}:{listening.getsockname()[1]}/{suffix}")
        config = uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            server_header=False,
            # What other machines say of a request's origin is not believed.
            proxy_headers=False,
            timeout_graceful_shutdown=GRACE_S,
        )
        try:
            uvicorn.Server(config).run(sockets=[listening])
        except KeyboardInterrupt:
            return
