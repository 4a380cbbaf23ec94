"""Views as files: a window of any size, drawn when no tile waits, and sent while it is drawn."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import numpy as np
from anyio import to_thread
from fastapi import Response
from fastapi.responses import StreamingResponse
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from anyres.plane.window import Window
from anyres.viewer.drawing import ServedModel, draw_bands
from anyres.viewer.pictures import MEDIA_TYPES, SIDE_LIMIT, PictureFormat, PngStream, encode, texts_of
from anyres.viewer.scenes import PreparedScene
from anyres.viewer.scheduler import TileScheduler

PIXEL_LIMIT = 64_000_000
# Views in progress at once. Each holds a band of rows, or the whole picture, in memory.
VIEW_LIMIT = 2
# The status for a client that has disconnected, as nginx logs it.
CLIENT_CLOSED_REQUEST = 499
# Marks the end of the bands.
END = object()


@dataclass(frozen=True)
class View:
    """The content and the format of a file."""

    served: ServedModel
    scene: int | PreparedScene
    window: Window
    psi: float
    format: PictureFormat

    @classmethod
    def of(
        cls,
        served: ServedModel,
        scene: int | PreparedScene,
        center: tuple[float, float],
        period: float,
        size: tuple[int, int],
        psi: float,
        format: PictureFormat,
    ) -> View:
        """Raises HTTPException (413) for too many pixels, ValueError for a window beyond the model's periods or chart."""
        if size[0] * size[1] > PIXEL_LIMIT or max(size) > SIDE_LIMIT[format]:
            raise HTTPException(
                413, f"{size[0]} x {size[1]} pixels are too many: {PIXEL_LIMIT} in all, {SIDE_LIMIT[format]} a side of {format}"
            )
        finest, coarsest = served.pyramid.periods
        if not finest * (1 - 1e-9) <= period <= coarsest * (1 + 1e-9):
            raise ValueError(f"period must be from {finest:g} to {coarsest:g} for this model, found {period:g}")
        window = Window(center, period, size)
        served.model.geometry.chart.check(window)
        return cls(served, scene, window, psi, format)

    @property
    def texts(self) -> dict[str, str]:
        window = self.window
        facts: dict[str, Any] = {
            "Model": self.served.name,
            "Weights": self.served.weights,
            "Data": self.served.model.meta["data_hash"],
            **(self.scene.facts() if isinstance(self.scene, PreparedScene) else {"Seed": self.scene}),
            "Psi": self.psi,
            "Window": {"center": window.center, "period": window.period, "size": window.size},
        }
        return texts_of(facts)

    @property
    def filename(self) -> str:
        """Model, scene and size; ASCII."""
        height, width = self.window.size
        scene = str(self.scene)[:9] if isinstance(self.scene, PreparedScene) else self.scene
        return f"{self.served.id.rsplit('-', 1)[0]}-{scene}-{width}x{height}.{self.format}"


class ViewStream(StreamingResponse):
    """A streamed body. Calls `done` at its end, also if the client disconnected before it began."""

    def __init__(self, body: AsyncIterator[bytes], done: Callable[[], None], **settings: Any) -> None:
        super().__init__(body, **settings)
        self._done = done

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._done()


async def send_view(
    view: View,
    scheduler: TileScheduler,
    done: Callable[[], None],
    unless_disconnected: Callable[[Awaitable[Any]], Awaitable[Any]],
) -> Response:
    """Draw and send a view. Calls `done` at its end in any case.

    `unless_disconnected` waits for a result, and returns None as soon as the client has disconnected.
    """
    headers = {"Content-Disposition": f'attachment; filename="{view.filename}"', "Cache-Control": "private, no-cache"}
    media_type = MEDIA_TYPES[view.format]
    bands = _bands(view, scheduler)
    try:
        # The first band comes before the headers are sent, so that an error of the generator can still set the status.
        first = await unless_disconnected(anext(bands))
        if first is None:
            done()
            return Response(status_code=CLIENT_CLOSED_REQUEST)
        if view.format == "png":
            return ViewStream(_png(view, first, bands), done, media_type=media_type, headers=headers)
        pixels = await unless_disconnected(_concatenate(first, bands))
        data = None if pixels is None else await to_thread.run_sync(encode, pixels, view.format, view.texts)
    except BaseException:
        done()
        raise
    done()
    if data is None:
        return Response(status_code=CLIENT_CLOSED_REQUEST)
    return Response(data, media_type=media_type, headers=headers)


async def _bands(view: View, scheduler: TileScheduler) -> AsyncIterator[np.ndarray]:
    """Bands of rows of the view, each drawn on demand."""
    passes = draw_bands(view.served, view.scene, view.window, view.psi)
    while True:
        band = await asyncio.wrap_future(_next(passes, scheduler))
        if band is END:
            return
        if band is not None:
            yield band


def _next(passes: Iterator[np.ndarray | None], scheduler: TileScheduler) -> Future[Any]:
    return scheduler.step(lambda: next(passes, END))


async def _concatenate(first: np.ndarray, bands: AsyncIterator[np.ndarray]) -> np.ndarray:
    return np.concatenate([first, *[band async for band in bands]])


async def _png(view: View, first: np.ndarray, bands: AsyncIterator[np.ndarray]) -> AsyncIterator[bytes]:
    encoder = PngStream(view.window.size, view.texts)
    yield encoder.head()
    yield await to_thread.run_sync(encoder.rows, first)
    async for band in bands:
        yield await to_thread.run_sync(encoder.rows, band)
    yield encoder.tail()
