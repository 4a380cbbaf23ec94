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
from anyres.networks.generator import SEED_LIMIT
from anyres.viewer import metrics as counted
from anyres.viewer.access import BODIES, PHOTOGRAPHS, AuthMiddleware, BodyLimitMiddleware
from anyres.viewer.cache import Folder, Memory
from anyres.viewer.drawing import Address, ServedModel
from anyres.viewer.metrics import Metrics
from anyres.viewer.models import Gallery, Registry
from anyres.viewer.photographs import STEP_LIMIT, STEPS, Job, Photographs
from anyres.viewer.pictures import Format
from anyres.viewer.scenes import ID, Latents, Recipe, Scenes, Subject
from anyres.viewer.scheduler import BATCH_LIMIT, QUEUE_LIMIT, Busy, TileScheduler
from anyres.viewer.tilegrid import INDEX_LIMIT, LEVEL_LIMIT, NoSuchTile
from anyres.viewer.views import GONE, PIXEL_LIMIT, VIEW_LIMIT, View, answer

T = TypeVar("T")

PAGE = "index.html"
MEDIA = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml", ".txt": "text/plain"}
# The names say what they hold, so that they hold for ever.
FOR_EVER = "private, max-age=31536000, immutable"
MEMORY_LIMIT = 64 << 20
PICTURE_FILE = {
    "requestBody": {"required": True, "content": {"image/*": {"schema": {"type": "string", "format": "binary"}}}},
}
RETRY_S = 1
WHOLE = re.compile(r"-?(0|[1-9][0-9]{0,18})")


def _plain(value: object) -> object:
    """Whole numbers have one spelling: no blanks, no underscores, no digits of other scripts."""
    if not WHOLE.fullmatch(str(value)):
        raise ValueError("not a whole number in plain digits")
    return value


Whole = Annotated[int, BeforeValidator(_plain)]
Name = Annotated[str, InPath(max_length=200)]
# A seed in its one spelling, or a name of /api/scenes.
SCENE = rf"^((0|[1-9][0-9]{{0,12}})|{ID.pattern})$"
SceneName = Annotated[str, InPath(pattern=SCENE)]
Level = Annotated[Whole, InPath(ge=0, lt=LEVEL_LIMIT)]
Index = Annotated[Whole, InPath(ge=-INDEX_LIMIT, lt=INDEX_LIMIT)]
Psi = Annotated[float, Query(ge=0, le=2, allow_inf_nan=False)]
Place = Annotated[float, Query(ge=-1e15, le=1e15, allow_inf_nan=False)]
Period = Annotated[float, Query(gt=0, le=1e6, allow_inf_nan=False)]
Side = Annotated[Whole, Query(ge=1, le=PIXEL_LIMIT)]


def create_app(
    served_models: Sequence[ServedModel],
    cache: Path,
    cache_bytes: int,
    token: str | None = None,
    queue: int = QUEUE_LIMIT,
    batch: int = BATCH_LIMIT,
    registry: Registry | None = None,
) -> FastAPI:
    """The application for the models on show. It draws on one thread and fits on another, from its start to its shutdown."""
    metrics = Metrics()
    folder, memory = Folder(cache, cache_bytes), Memory(MEMORY_LIMIT)
    scheduler = TileScheduler(folder.put, metrics, queue, batch)
    gallery = Gallery(served_models, registry)
    latents = Latents(cache / "photographs")
    scenes = Scenes(latents)
    photographs = Photographs(latents, scheduler.idle)
    static = _static()
    views = asyncio.Semaphore(VIEW_LIMIT)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        scheduler.start()
        yield
        await to_thread.run_sync(photographs.close)
        await to_thread.run_sync(scheduler.close)

    app = FastAPI(title="anyres", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url="/api/openapi.json")
    # The last one is asked first: nobody's body is taken in before it is known who brings it.
    app.add_middleware(BodyLimitMiddleware)
    app.add_middleware(AuthMiddleware, token=token, metrics=metrics)

    def exhibit_of(name: str) -> ServedModel:
        found = gallery.get(name)
        if found is None:
            raise HTTPException(404, "no such model; /api/models lists them")
        return found

    def scene_of(served: ServedModel, name: str) -> int | Subject:
        if not ID.fullmatch(name):
            # Its pattern holds no more than digits.
            if int(name) >= SEED_LIMIT:
                raise ValueError(f"scene: a seed is a whole number below {SEED_LIMIT}")
            return int(name)
        found = scenes.get(served.digest, name)
        if found is None:
            raise HTTPException(404, "no such scene here (any more); POST it to /api/scenes")
        return found

    def job_of(name: str) -> Job:
        found = photographs.get(name)
        if found is None:
            raise HTTPException(404, "no such photograph here (any more)")
        return found

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
        limits = {
            "seed": SEED_LIMIT - 1,
            "view_px": PIXEL_LIMIT,
            "psi": [0, 2],
            "psi_default": PSI,
            "photograph_bytes": BODIES[PHOTOGRAPHS][0],
        }
        facts = {"models": [served.facts() for served in gallery.served_models], "limits": limits, "registry": gallery.registry}
        return JSONResponse(facts, headers={"Cache-Control": "no-cache"})

    @app.get("/api/registry")
    async def versions() -> Response:
        """Versions of the registered model that may be put on show, newest first."""
        return JSONResponse({"name": gallery.registry, "versions": await to_thread.run_sync(gallery.versions)})

    @app.post("/api/registry/{version}")
    async def put_on_show(version: Annotated[Whole, InPath(ge=1, lt=1 << 31)]) -> Response:
        """Load a version of the registered model; its facts, as /api/models tells them."""
        served = await to_thread.run_sync(gallery.open, str(version))
        return JSONResponse(served.facts())

    @app.post("/api/scenes/{model}")
    async def tell(model: Name, recipe: Recipe) -> Response:
        """Tell of a scene that is more than a seed; its name takes the place of one in tiles and views."""
        served = exhibit_of(model)
        subject = scenes.put(served.model, served.digest, recipe)
        return JSONResponse({"id": str(subject)})

    @app.post("/api/photographs/{model}", status_code=202, openapi_extra=PICTURE_FILE)
    async def bring(request: Request, model: Name, steps: Annotated[Whole, Query(ge=1, le=STEP_LIMIT)] = STEPS) -> Response:
        """Bring a picture file of any format, as the body, to be fitted; where to ask how far that is."""
        job = photographs.start(exhibit_of(model).model, await request.body(), steps)
        return JSONResponse(job.facts(), 202, {"Location": f"{PHOTOGRAPHS}jobs/{job.id}"})

    @app.get("/api/photographs/jobs/{job}")
    async def how_far(job: Name) -> Response:
        """How far a photograph is, and at the end the `latent` that takes the place of a seed in a scene."""
        return JSONResponse(job_of(job).facts(), headers={"Cache-Control": "no-store"})

    @app.delete("/api/photographs/jobs/{job}")
    async def give_up(job: Name) -> Response:
        """Want a photograph no more."""
        found = job_of(job)
        photographs.cancel(found)
        return JSONResponse(found.facts())

    @app.get("/api/tile/{model}/{scene}/{level}/{x}_{y}.png", response_class=Response)
    async def tile(request: Request, model: Name, scene: SceneName, level: Level, x: Index, y: Index, psi: Psi = PSI) -> Response:
        """Tile (x, y) of a level, PNG, of a seed or a name of /api/scenes; `anyres.viewer.tilegrid` says where it lies."""
        served = exhibit_of(model)
        # Refused before anything is looked for: what is kept is what there is.
        address = Address(scene_of(served, scene), level, *served.pyramid.place(level, x, y))
        served.pyramid.part(level, x, y)
        key = served.key(address, psi)
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
            order = scheduler.submit(key, served, address, psi)
            try:
                # Shielded: others may wait for the same tile.
                data = await _while_there(request, asyncio.shield(asyncio.wrap_future(order.drawn)))
            finally:
                scheduler.release(order)
            if data is None:
                return Response(status_code=GONE)
        memory.put(key, data)
        return Response(data, media_type="image/png", headers=headers)

    @app.get("/api/render", response_class=Response)
    async def render(
        request: Request,
        model: Annotated[str, Query(max_length=200)],
        scene: Annotated[str, Query(pattern=SCENE)],
        period: Period,
        height: Side,
        width: Side,
        center_x: Place = 0.0,
        center_y: Place = 0.0,
        psi: Psi = PSI,
        format: Format = "png",
    ) -> Response:
        """A window of any size as a file, PNG streamed as it is drawn; what it shows is written inside."""
        served = exhibit_of(model)
        view = View.of(served, scene_of(served, scene), (center_x, center_y), period, (height, width), psi, format)
        if views.locked():
            raise Busy
        await views.acquire()
        return await answer(view, scheduler, views.release, lambda drawn: _while_there(request, drawn))

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
