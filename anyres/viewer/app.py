"""The web application: a page, facts of the models, tiles on demand, views as files.

Nothing of a request is ever a path: names of models and static files are looked up among those that were loaded at the start.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, TypeVar

from anyio import to_thread
from fastapi import FastAPI, Query, Request, Response
from fastapi import Path as InPath
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse
from pydantic import BeforeValidator
from starlette.exceptions import HTTPException

from anyres.export.bundle import PSI
from anyres.synthesis.render import SEED_LIMIT
from anyres.viewer import metrics as counted
from anyres.viewer.access import Guard
from anyres.viewer.cache import Folder, Memory
from anyres.viewer.drawing import Address, Exhibit
from anyres.viewer.metrics import Metrics
from anyres.viewer.painter import BATCH_LIMIT, QUEUE_LIMIT, Busy, Painter
from anyres.viewer.pictures import Format
from anyres.viewer.pyramid import INDEX_LIMIT, LEVEL_LIMIT, NoSuchTile
from anyres.viewer.views import GONE, PIXEL_LIMIT, VIEW_LIMIT, View, answer

T = TypeVar("T")

PAGE = "index.html"
MEDIA = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml", ".txt": "text/plain"}
# The names say what they hold, so that they hold for ever.
FOR_EVER = "private, max-age=31536000, immutable"
MEMORY_LIMIT = 64 << 20
RETRY_S = 1
WHOLE = re.compile(r"-?(0|[1-9][0-9]{0,18})")


def _plain(value: object) -> object:
    """Whole numbers have one spelling: no blanks, no underscores, no digits of other scripts."""
    if not WHOLE.fullmatch(str(value)):
        raise ValueError("not a whole number in plain digits")
    return value


Whole = Annotated[int, BeforeValidator(_plain)]
Name = Annotated[str, InPath(max_length=200)]
Seed = Annotated[Whole, InPath(ge=0, lt=SEED_LIMIT)]
Level = Annotated[Whole, InPath(ge=0, lt=LEVEL_LIMIT)]
Index = Annotated[Whole, InPath(ge=-INDEX_LIMIT, lt=INDEX_LIMIT)]
Psi = Annotated[float, Query(ge=0, le=2, allow_inf_nan=False)]
Place = Annotated[float, Query(ge=-1e15, le=1e15, allow_inf_nan=False)]
Period = Annotated[float, Query(gt=0, le=1e6, allow_inf_nan=False)]
Side = Annotated[Whole, Query(ge=1, le=PIXEL_LIMIT)]


def create_app(
    exhibits: Sequence[Exhibit],
    cache: Path,
    cache_bytes: int,
    token: str | None = None,
    queue: int = QUEUE_LIMIT,
    batch: int = BATCH_LIMIT,
) -> FastAPI:
    """The application for the models on show. It draws on one thread, from its start to its shutdown."""
    metrics = Metrics()
    folder, memory = Folder(cache, cache_bytes), Memory(MEMORY_LIMIT)
    painter = Painter(folder.put, metrics, queue, batch)
    known = {exhibit.id: exhibit for exhibit in exhibits}
    static = _static()
    views = asyncio.Semaphore(VIEW_LIMIT)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        painter.start()
        yield
        await to_thread.run_sync(painter.close)

    app = FastAPI(title="anyres", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url="/api/openapi.json")
    app.add_middleware(Guard, token=token, metrics=metrics)

    def exhibit_of(name: str) -> Exhibit:
        if name not in known:
            raise HTTPException(404, "no such model; /api/models lists them")
        return known[name]

    @app.exception_handler(HTTPException)
    async def told(_: Request, error: HTTPException) -> Response:
        return JSONResponse({"error": error.detail}, error.status_code, error.headers)

    @app.exception_handler(RequestValidationError)
    async def unfit(_: Request, error: RequestValidationError) -> Response:
        reasons = [f"{part['loc'][-1]}: {part['msg']}" for part in error.errors()]
        return JSONResponse({"error": "; ".join(reasons)}, 422)

    @app.exception_handler(NoSuchTile)
    async def nowhere(_: Request, error: NoSuchTile) -> Response:
        return JSONResponse({"error": str(error)}, 404)

    @app.exception_handler(ValueError)
    async def refused(_: Request, error: ValueError) -> Response:
        return JSONResponse({"error": " ".join(str(error).split())}, 422)

    @app.exception_handler(Busy)
    async def busy(_: Request, error: Busy) -> Response:
        metrics.refused.inc()
        return JSONResponse({"error": "too much is waiting; ask again"}, 503, {"Retry-After": str(RETRY_S)})

    @app.get("/", include_in_schema=False)
    async def page(request: Request) -> Response:
        return _unchanged(request, static[PAGE])

    @app.get("/static/{name}", include_in_schema=False)
    async def packaged(request: Request, name: str) -> Response:
        if name not in static or name == PAGE:
            raise HTTPException(404, "no such file")
        return _unchanged(request, static[name])

    @app.get("/healthz")
    async def healthz() -> PlainTextResponse:
        """Whether it runs."""
        return PlainTextResponse("ok\n")

    @app.get("/metrics")
    async def metrics_text() -> Response:
        """What was counted, for Prometheus."""
        return Response(metrics.text(), headers={"Content-Type": counted.CONTENT_TYPE})

    @app.get("/api/models")
    async def models() -> Response:
        """Facts of the models on show."""
        limits = {"seed": SEED_LIMIT - 1, "view_px": PIXEL_LIMIT, "psi": [0, 2], "psi_default": PSI}
        facts = {"models": [exhibit.facts() for exhibit in exhibits], "limits": limits}
        return JSONResponse(facts, headers={"Cache-Control": "no-cache"})

    @app.get("/api/tile/{model}/{seed}/{level}/{x}_{y}.png", response_class=Response)
    async def tile(request: Request, model: Name, seed: Seed, level: Level, x: Index, y: Index, psi: Psi = PSI) -> Response:
        """Tile (x, y) of a level, PNG; see `anyres.viewer.pyramid` for where it lies."""
        exhibit = exhibit_of(model)
        # Refused before anything is looked for: what is kept is what there is.
        address = Address(seed, level, *exhibit.pyramid.place(level, x, y))
        exhibit.pyramid.part(level, x, y)
        key = exhibit.key(address, psi)
        headers = {"ETag": f'"{key[:32]}"', "Cache-Control": FOR_EVER}
        if _matches(request, headers["ETag"]):
            return Response(status_code=304, headers=headers)
        data = memory.get(key)
        if data is not None:
            metrics.hits.labels("memory").inc()
        else:
            data = await to_thread.run_sync(folder.get, key)
            if data is not None:
                metrics.hits.labels("disk").inc()
        if data is None:
            order = painter.ask(key, exhibit, address, psi)
            try:
                # Shielded: others may wait for the same tile.
                data = await _while_there(request, asyncio.shield(asyncio.wrap_future(order.drawn)))
            finally:
                painter.leave(order)
            if data is None:
                return Response(status_code=GONE)
        memory.put(key, data)
        return Response(data, media_type="image/png", headers=headers)

    @app.get("/api/render", response_class=Response)
    async def render(
        request: Request,
        model: Annotated[str, Query(max_length=200)],
        seed: Annotated[Whole, Query(ge=0, lt=SEED_LIMIT)],
        period: Period,
        height: Side,
        width: Side,
        center_x: Place = 0.0,
        center_y: Place = 0.0,
        psi: Psi = PSI,
        format: Format = "png",
    ) -> Response:
        """A window of any size as a file, PNG streamed as it is drawn; what it shows is written inside."""
        view = View.of(exhibit_of(model), seed, (center_x, center_y), period, (height, width), psi, format)
        if views.locked():
            raise Busy
        await views.acquire()
        return await answer(view, painter, views.release, lambda drawn: _while_there(request, drawn))

    return app


async def _while_there(request: Request, result: Awaitable[T]) -> T | None:
    """The result, or None as soon as the client has gone away."""
    wanted = asyncio.ensure_future(result)
    gone = asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait({wanted, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not wanted.done():
            wanted.cancel()
            return None
        if wanted.cancelled():
            raise Busy
        return wanted.result()
    finally:
        gone.cancel()


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _static() -> dict[str, tuple[bytes, str, str]]:
    """Packaged files by name: bytes, media type, entity tag."""
    out = {}
    for file in resources.files("anyres.viewer").joinpath("static").iterdir():
        media = next((media for suffix, media in MEDIA.items() if file.name.endswith(suffix)), None)
        if media is not None:
            data = file.read_bytes()
            out[file.name] = data, f"{media}; charset=utf-8", f'"{hashlib.sha256(data).hexdigest()[:32]}"'
    return out


def _unchanged(request: Request, file: tuple[bytes, str, str]) -> Response:
    """A packaged file, or word that the browser has it."""
    data, media, tag = file
    headers = {"ETag": tag, "Cache-Control": "no-cache"}
    if _matches(request, tag):
        return Response(status_code=304, headers=headers)
    return Response(data, headers=headers | {"Content-Type": media})


def _matches(request: Request, tag: str) -> bool:
    given: Any = request.headers.get("if-none-match", "")
    return tag in [part.strip().removeprefix("W/") for part in given.split(",")]
