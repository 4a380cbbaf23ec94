"""Who may ask, and what a browser is told of every answer."""

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
# What is answered without a token: nothing but that it runs.
OPEN = ("/healthz",)
PHOTOGRAPHS = "/api/photographs/"
KINDS = {
    "/api/tile/": "tile",
    "/api/render": "view",
    "/api/models": "models",
    "/api/registry": "registry",
    "/api/scenes/": "scene",
    PHOTOGRAPHS: "photograph",
    "/static/": "static",
}
# What a request may bring, in bytes and seconds: a picture file, or a few words.
BODIES = {PHOTOGRAPHS: (32 << 20, 60.0)}
WORDS = (256 << 10, 10.0)
# Pictures that are taken in at once: all of them are in memory.
PICTURES_AT_ONCE = 4

SECURITY = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


def is_loopback(host: str) -> bool:
    """Whether a host name or address means this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class AuthMiddleware:
    """Lets through who knows the `token`, or without one who asks for this machine by its own name; counts every answer.

    The name is asked for since pages of others may lead their name to this address (DNS rebinding); neither may they have
    anything drawn here.
    """

    def __init__(self, app: ASGIApp, token: str | None, metrics: Metrics) -> None:
        self._app, self._token, self._metrics = app, token, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = time.perf_counter(), 500

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message).update(SECURITY)
            await send(message)

        kind = next((kind for start, kind in KINDS.items() if scope["path"].startswith(start)), "other")
        try:
            refusal = self._refusal(scope)
            await (refusal or self._app)(scope, receive, answer)
        finally:
            self._metrics.requests.labels(kind, str(status)).inc()
            self._metrics.seconds.labels(kind).observe(time.perf_counter() - started)

    def _refusal(self, scope: Scope) -> Response | None:
        if scope["path"] in OPEN:
            return None
        headers = Headers(scope=scope)
        changes = scope["method"] not in ("GET", "HEAD")
        navigates = headers.get("sec-fetch-mode") == "navigate" and not changes
        if headers.get("sec-fetch-site") == "cross-site" and not navigates:
            return PlainTextResponse("this viewer draws for its own page\n", 403)
        # Forms of other pages send no more than where they come from.
        origin = headers.get("origin")
        if changes and origin is not None and _netloc(origin) != headers.get("host"):
            return PlainTextResponse("this viewer draws for its own page\n", 403)
        if self._token is None:
            if is_loopback(_hostname(headers.get("host", ""))):
                return None
            return PlainTextResponse("this viewer answers to localhost alone; start it with --host and a token\n", 421)
        query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        given = [value for name, value in query if name == "token"]
        if any(self._known(value) for value in given):
            return self._welcome(scope, query)
        scheme, _, bearer = headers.get("authorization", "").partition(" ")
        if self._known(_cookie(headers)) or (scheme.lower() == "bearer" and self._known(bearer)):
            return None
        return PlainTextResponse("open the address that `anyres view` printed: it holds the token\n", 401)

    def _welcome(self, scope: Scope, query: list[tuple[str, str]]) -> Response | None:
        """On the page: remember the token and take it out of the address. Elsewhere: go on."""
        if scope["path"] != "/" or scope["method"] != "GET":
            return None
        rest = urlencode([pair for pair in query if pair[0] != "token"])
        location = f"/?{rest}" if rest else "/"
        response = Response(status_code=303, headers={"Location": location, "Cache-Control": "no-store"})
        assert self._token is not None
        response.set_cookie(COOKIE, self._token, httponly=True, samesite="strict", path="/")
        return response

    def _known(self, given: str) -> bool:
        assert self._token is not None
        return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), self._token.encode())


class BodyLimitMiddleware:
    """Takes in the whole of what a request brings before anyone hears of it: nothing too large (413), nothing too slow (408)."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._pictures = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        limit, seconds = bound = next((bound for start, bound in BODIES.items() if scope["path"].startswith(start)), WORDS)
        picture = bound is not WORDS and scope["method"] == "POST"
        if picture and self._pictures >= PICTURES_AT_ONCE:
            busy = PlainTextResponse("other pictures are being taken in; ask again\n", 503, {"Retry-After": "1"})
            await busy(scope, receive, send)
            return
        self._pictures += picture
        try:
            body = await self._whole(scope, receive, send, limit, seconds)
        finally:
            self._pictures -= picture
        if body is None:
            return
        told = False

        async def again() -> Message:
            nonlocal told
            if told:
                return await receive()
            told = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self._app(scope, again, send)

    async def _whole(self, scope: Scope, receive: Receive, send: Send, limit: int, seconds: float) -> bytes | None:
        """The body, or None where it was refused or nobody is there any more."""
        announced = Headers(scope=scope).get("content-length", "0")
        if announced.isdecimal() and int(announced[:20]) > limit:
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
            late = PlainTextResponse("the body came too slowly\n", 408, {"Connection": "close"})
            await late(scope, receive, send)
            return None
        return bytes(body)


def _too_large(limit: int) -> Response:
    return PlainTextResponse(f"more than {limit} bytes; send less\n", 413, {"Connection": "close"})


def _netloc(origin: str) -> str:
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return ""


def _hostname(named: str) -> str:
    try:
        return urlsplit(f"//{named}").hostname or ""
    except ValueError:
        return ""


def _cookie(headers: Headers) -> str:
    try:
        morsel = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
    except CookieError:
        return ""
    return "" if morsel is None else morsel.value
