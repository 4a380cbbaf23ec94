"""Tiles on demand, and views as files."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query, Request, Response

from anyres.export.bundle import PSI
from anyres.viewer.appstate import State
from anyres.viewer.connection import has_etag, unless_disconnected
from anyres.viewer.drawing import TileAddress
from anyres.viewer.parameters import PathId, WholeNumber
from anyres.viewer.pictures import PictureFormat
from anyres.viewer.scenes import SCENE_ID
from anyres.viewer.scheduler import OverloadedError
from anyres.viewer.tilegrid import INDEX_LIMIT, LEVEL_LIMIT
from anyres.viewer.views import CLIENT_CLOSED_REQUEST, PIXEL_LIMIT, View, send_view

# A tile's URL names everything that changes its pixels, so that a cached copy never expires.
IMMUTABLE = "private, max-age=31536000, immutable"
# A seed in its one spelling, or a name that /api/scenes returned.
SCENE = rf"^((0|[1-9][0-9]{{0,12}})|{SCENE_ID.pattern})$"

SceneName = Annotated[str, Path(pattern=SCENE)]
Level = Annotated[WholeNumber, Path(ge=0, lt=LEVEL_LIMIT)]
Index = Annotated[WholeNumber, Path(ge=-INDEX_LIMIT, lt=INDEX_LIMIT)]
Psi = Annotated[float, Query(ge=0, le=2, allow_inf_nan=False)]
Coordinate = Annotated[float, Query(ge=-1e15, le=1e15, allow_inf_nan=False)]
Period = Annotated[float, Query(gt=0, le=1e6, allow_inf_nan=False)]
Side = Annotated[WholeNumber, Query(ge=1, le=PIXEL_LIMIT)]

router = APIRouter()


@dataclass(frozen=True)
class ViewQuery:
    """The query of /api/render."""

    model: Annotated[str, Query(max_length=200)]
    scene: Annotated[str, Query(pattern=SCENE)]
    period: Period
    height: Side
    width: Side
    center_x: Coordinate = 0.0
    center_y: Coordinate = 0.0
    psi: Psi = PSI
    format: PictureFormat = "png"


@router.get("/api/tile/{model}/{scene}/{level}/{x}_{y}.png", response_class=Response)
async def tile(
    state: State, request: Request, model: PathId, scene: SceneName, level: Level, x: Index, y: Index, psi: Psi = PSI
) -> Response:
    """Tile (x, y) of a level as PNG, of a seed or of an id from /api/scenes. `anyres.viewer.tilegrid` says where it lies."""
    served = state.model(model)
    address = TileAddress(state.scene(served, scene), level, *served.pyramid.canonical(level, x, y))
    # Refuse a tile that does not exist before the caches are asked.
    served.pyramid.tile_window(level, x, y)
    key = served.key(address, psi)
    headers = {"ETag": f'"{key[:32]}"', "Cache-Control": IMMUTABLE}
    if has_etag(request, headers["ETag"]):
        return Response(status_code=304, headers=headers)
    data = await state.cache.get(key)
    if data is None:
        job = state.scheduler.submit(key, served, address, psi)
        try:
            # Shielded, because other requests may wait for the same tile.
            data = await unless_disconnected(request, asyncio.shield(asyncio.wrap_future(job.png)))
        finally:
            state.scheduler.release(job)
        if data is None:
            return Response(status_code=CLIENT_CLOSED_REQUEST)
        state.cache.put_in_memory(key, data)
    return Response(data, media_type="image/png", headers=headers)


@router.get("/api/render", response_class=Response)
async def render(state: State, request: Request, query: Annotated[ViewQuery, Depends()]) -> Response:
    """A window of any size as a file with metadata. PNG is streamed while it is drawn."""
    served = state.model(query.model)
    center, size = (query.center_x, query.center_y), (query.height, query.width)
    view = View.of(served, state.scene(served, query.scene), center, query.period, size, query.psi, query.format)
    if state.view_slots.locked():
        raise OverloadedError
    await state.view_slots.acquire()
    return await send_view(view, state.scheduler, state.view_slots.release, lambda result: unless_disconnected(request, result))
