"""Middlewares: who may send requests, how large a body may be, and security headers for every response."""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import time
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qsl, urlencode, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from anyres.viewer.metrics import Metrics

COOKIE = "anyres_token"
# Paths that need no token.
PUBLIC = ("/healthz",)
PHOTOGRAPHS = "/api/photographs/"
# Labels of requests in the metrics, by the start of the path.
KINDS = {
    "/api/tile/": "tile",
    "/api/render": "view",
    "/api/models": "models",
    "/api/registry": "registry",
    "/api/scenes/": "scene",
    PHOTOGRAPHS: "photograph",
    "/static/": "static",
}
# The largest body, in bytes, and the longest time to receive it, in seconds, by the start of the path.
BODY_LIMITS = {PHOTOGRAPHS: (32 << 20, 60.0)}
DEFAULT_BODY_LIMIT = (256 << 10, 10.0)
# Uploads that are received at once. All of them are in memory.
UPLOADS_LIMIT = 4

SECURITY_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


def is_loopback(host: str) -> bool:
    """Whether a host name or address means only this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class AuthMiddleware:
    """Admits requests with the `token`, or, if there is none, requests for a loopback name. Counts every response.

    The Host header is checked because a foreign page can let its own name point to this address (DNS rebinding). Requests
    from foreign pages are refused.
    """

    def __init__(self, app: ASGIApp, token: str | None, metrics: Metrics) -> None:
        self._app, self._token, self._metrics = app, token, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = time.perf_counter(), 500

        async def send_secured(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message).update(SECURITY_HEADERS)
            await send(message)

        kind = next((kind for start, kind in KINDS.items() if scope["path"].startswith(start)), "other")
        try:
            refusal = self._refusal(scope)
            await (refusal or self._app)(scope, receive, send_secured)
        finally:
            self._metrics.requests.labels(kind, str(status)).inc()
            self._metrics.seconds.labels(kind).observe(time.perf_counter() - started)

    def _refusal(self, scope: Scope) -> Response | None:
        if scope["path"] in PUBLIC:
            return None
        headers = Headers(scope=scope)
        is_write = scope["method"] not in ("GET", "HEAD")
        is_navigation = headers.get("sec-fetch-mode") == "navigate" and not is_write
        if headers.get("sec-fetch-site") == "cross-site" and not is_navigation:
            return PlainTextResponse("this viewer serves only its own page\n", 403)
        # A form of a foreign page sends no Sec-Fetch headers in old browsers, but its Origin.
        origin = headers.get("origin")
        if is_write and origin is not None and _netloc(origin) != headers.get("host"):
            return PlainTextResponse("this viewer serves only its own page\n", 403)
        if self._token is None:
            if is_loopback(_hostname(headers.get("host", ""))):
                return None
            return PlainTextResponse("this viewer serves only localhost; start it with --host and a token\n", 421)
        query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        if any(self._is_token(value) for name, value in query if name == "token"):
            return self._set_cookie(scope, query)
        scheme, _, bearer = headers.get("authorization", "").partition(" ")
        if self._is_token(_cookie(headers)) or (scheme.lower() == "bearer" and self._is_token(bearer)):
            return None
        return PlainTextResponse("open the address that `anyres view` printed; it contains the token\n", 401)

    def _set_cookie(self, scope: Scope, query: list[tuple[str, str]]) -> Response | None:
        """For the page: store the token in a cookie and redirect to the address without it. For other paths: None."""
        if scope["path"] != "/" or scope["method"] != "GET":
            return None
        rest = urlencode([pair for pair in query if pair[0] != "token"])
        location = f"/?{rest}" if rest else "/"
        response = Response(status_code=303, headers={"Location": location, "Cache-Control": "no-store"})
        assert self._token is not None
        response.set_cookie(COOKIE, self._token, httponly=True, samesite="strict", path="/")
        return response

    def _is_token(self, value: str) -> bool:
        assert self._token is not None
        return hmac.compare_digest(value.encode("utf-8", "surrogateescape"), self._token.encode())


class BodyLimitMiddleware:
    """Receives the whole body before the application runs, and refuses one that is too large (413) or too slow (408)."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._num_uploads = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        limits = (limit for start, limit in BODY_LIMITS.items() if scope["path"].startswith(start))
        num_bytes, seconds = limit = next(limits, DEFAULT_BODY_LIMIT)
        is_upload = limit is not DEFAULT_BODY_LIMIT and scope["method"] == "POST"
        if is_upload and self._num_uploads >= UPLOADS_LIMIT:
            busy = PlainTextResponse("too many uploads are being received; try again\n", 503, {"Retry-After": "1"})
            await busy(scope, receive, send)
            return
        self._num_uploads += is_upload
        try:
            body = await self._receive_body(scope, receive, send, num_bytes, seconds)
        finally:
            self._num_uploads -= is_upload
        if body is None:
            return
        is_replayed = False

        async def replay() -> Message:
            nonlocal is_replayed
            if is_replayed:
                return await receive()
            is_replayed = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self._app(scope, replay, send)

    async def _receive_body(self, scope: Scope, receive: Receive, send: Send, limit: int, seconds: float) -> bytes | None:
        """The body, or None if it was refused or the client disconnected."""
        content_length = Headers(scope=scope).get("content-length", "0")
        if content_length.isdecimal() and int(content_length[:20]) > limit:
            await _too_large(limit)(scope, receive, send)
            return None
        body, more = bytearray(), True
        try:
            async with asyncio.timeout(seconds):
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return None
                    body += message.get("body", b"")
                    more = message.get("more_body", False)
                    if len(body) > limit:
                        await _too_large(limit)(scope, receive, send)
                        return None
        except TimeoutError:
            too_slow = PlainTextResponse("the body came too slowly\n", 408, {"Connection": "close"})
            await too_slow(scope, receive, send)
            return None
        return bytes(body)


def _too_large(limit: int) -> Response:
    return PlainTextResponse(f"the body has more than {limit} bytes; send less\n", 413, {"Connection": "close"})


def _netloc(origin: str) -> str:
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return ""


def _hostname(host: str) -> str:
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _cookie(headers: Headers) -> str:
    try:
        morsel = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
    except CookieError:
        return ""
    return "" if morsel is None else morsel.value
