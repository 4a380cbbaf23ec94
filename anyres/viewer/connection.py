"""What a request says about its client: what the client has cached, and whether it is still connected."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from fastapi import Request

from anyres.viewer.scheduler import OverloadedError

T = TypeVar("T")


def has_etag(request: Request, tag: str) -> bool:
    """Whether the client has the version that `tag` names (If-None-Match)."""
    tags = request.headers.get("if-none-match", "").split(",")
    return tag in [candidate.strip().removeprefix("W/") for candidate in tags]


async def unless_disconnected(request: Request, result: Awaitable[T]) -> T | None:
    """Wait for the result; return None as soon as the client has disconnected. Raises OverloadedError if it was cancelled."""
    waiting = asyncio.ensure_future(result)
    disconnected = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait({waiting, disconnected}, return_when=asyncio.FIRST_COMPLETED)
        if not waiting.done():
            waiting.cancel()
            return None
        if waiting.cancelled():
            raise OverloadedError
        return waiting.result()
    finally:
        disconnected.cancel()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
