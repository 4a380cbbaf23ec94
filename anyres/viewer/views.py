"""Views as files: a window of any size, drawn between tiles and sent as it is drawn."""

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
from anyres.viewer.pictures import MEDIA, SIDE_LIMIT, Format, PngStream, encode, texts_of
from anyres.viewer.scenes import Subject
from anyres.viewer.scheduler import TileScheduler

PIXEL_LIMIT = 64_000_000
# Views under way at once: the rows of each, or all of it, are in memory.
VIEW_LIMIT = 2
# Nobody is there any more to be answered; the number is nginx's.
GONE = 499
# What an iterator of bands has no more of.
END = object()


@dataclass(frozen=True)
class View:
    """What a file shall show."""

    served: ServedModel
    scene: int | Subject
    window: Window
    psi: float
    format: Format

    @classmethod
    def of(
        cls,
        served: ServedModel,
        scene: int | Subject,
        center: tuple[float, float],
        period: float,
        size: tuple[int, int],
        psi: float,
        format: Format,
    ) -> View:
        """Raises HTTPException (413) where it is too large, ValueError where the model does not reach so far."""
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
        about: dict[str, Any] = {
            "Model": self.served.name,
            "Weights": self.served.weights,
            "Data": self.served.model.meta["data_hash"],
            **(self.scene.about() if isinstance(self.scene, Subject) else {"Seed": self.scene}),
            "Psi": self.psi,
            "Window": {"center": window.center, "period": window.period, "size": window.size},
        }
        return texts_of(about)

    @property
    def filename(self) -> str:
        """In ASCII, of the model's id and the scene."""
        height, width = self.window.size
        scene = str(self.scene)[:9] if isinstance(self.scene, Subject) else self.scene
        return f"{self.served.id.rsplit('-', 1)[0]}-{scene}-{width}x{height}.{self.format}"


class Streamed(StreamingResponse):
    """A body as it comes; `done` is called at its end, also where the client left before it began."""

    def __init__(self, body: AsyncIterator[bytes], done: Callable[[], None], **settings: Any) -> None:
        super().__init__(body, **settings)
        self._done = done

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._done()


async def answer(
    view: View, scheduler: TileScheduler, done: Callable[[], None], patiently: Callable[[Awaitable[Any]], Awaitable[Any]]
) -> Response:
    """Draw and send a view; `done` is called at its end, however it ends. `patiently` gives None once the client has gone."""
    headers = {"Content-Disposition": f'attachment; filename="{view.filename}"', "Cache-Control": "private, no-cache"}
    media = MEDIA[view.format]
    bands = _bands(view, scheduler)
    try:
        # What the generator refuses is refused before anything is sent.
        first = await patiently(anext(bands))
        if first is None:
            done()
            return Response(status_code=GONE)
        if view.format == "png":
            return Streamed(_png(view, first, bands), done, media_type=media, headers=headers)
        whole = await patiently(_all(first, bands))
        data = None if whole is None else await to_thread.run_sync(encode, whole, view.format, view.texts)
    except BaseException:
        done()
        raise
    done()
    return Response(status_code=GONE) if data is None else Response(data, media_type=media, headers=headers)


async def _bands(view: View, scheduler: TileScheduler) -> AsyncIterator[np.ndarray]:
    """Rows of the view, each drawn when it is asked for."""
    drawing = draw_bands(view.served, view.scene, view.window, view.psi)
    while True:
        band = await asyncio.wrap_future(_next(drawing, scheduler))
        if band is END:
            return
        if band is not None:
            yield band


def _next(drawing: Iterator[np.ndarray | None], scheduler: TileScheduler) -> Future[Any]:
    return scheduler.step(lambda: next(drawing, END))


async def _all(first: np.ndarray, bands: AsyncIterator[np.ndarray]) -> np.ndarray:
    return np.concatenate([first, *[band async for band in bands]])


async def _png(view: View, first: np.ndarray, bands: AsyncIterator[np.ndarray]) -> AsyncIterator[bytes]:
    file = PngStream(view.window.size, view.texts)
    yield file.head()
    yield await to_thread.run_sync(file.rows, first)
    async for band in bands:
        yield await to_thread.run_sync(file.rows, band)
    yield file.tail()
