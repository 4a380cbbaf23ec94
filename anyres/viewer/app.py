"""The web application: a page, facts of the models, tiles on demand, views as files.

A request never names a path on disk: models and static files are looked up by name among those that exist.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from anyio import to_thread
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from anyres.viewer.access import AuthMiddleware, BodyLimitMiddleware
from anyres.viewer.appstate import AppState
from anyres.viewer.cache import TileCache
from anyres.viewer.drawing import ServedModel
from anyres.viewer.metrics import Metrics
from anyres.viewer.models import RegisteredModel, ServedModels
from anyres.viewer.photographs import FitQueue
from anyres.viewer.routes import index, tiles, uploads
from anyres.viewer.scenes import LatentStore, SceneStore
from anyres.viewer.scheduler import BATCH_LIMIT, QUEUE_LIMIT, OverloadedError, TileScheduler
from anyres.viewer.tilegrid import TileNotFoundError
from anyres.viewer.views import VIEW_LIMIT

RETRY_S = 1


def create_app(
    served_models: Sequence[ServedModel],
    cache: Path,
    cache_bytes: int,
    token: str | None = None,
    queue: int = QUEUE_LIMIT,
    batch: int = BATCH_LIMIT,
    registry: RegisteredModel | None = None,
) -> FastAPI:
    """Build the application. From its startup to its shutdown one thread draws tiles and another fits photographs."""
    metrics = Metrics()
    tile_cache = TileCache(cache, cache_bytes, metrics)
    scheduler = TileScheduler(tile_cache.put_on_disk, metrics, queue, batch)
    latents = LatentStore(cache / "photographs")
    fits = FitQueue(latents, scheduler.wait_until_idle)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        scheduler.start()
        yield
        await to_thread.run_sync(fits.close)
        await to_thread.run_sync(scheduler.close)

    app = FastAPI(title="anyres", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url="/api/openapi.json")
    app.state.viewer = AppState(
        metrics=metrics,
        cache=tile_cache,
        scheduler=scheduler,
        models=ServedModels(served_models, registry),
        scenes=SceneStore(latents),
        fits=fits,
        view_slots=asyncio.Semaphore(VIEW_LIMIT),
    )
    # The middleware added last runs first: a body is read only after its sender is authorised.
    app.add_middleware(BodyLimitMiddleware)
    app.add_middleware(AuthMiddleware, token=token, metrics=metrics)
    for module in (index, uploads, tiles):
        app.include_router(module.router)
    _handle_errors(app, metrics)
    return app


def _handle_errors(app: FastAPI, metrics: Metrics) -> None:
    """Answer every error with a status and one line of JSON."""

    @app.exception_handler(HTTPException)
    async def http_error(_: Request, error: HTTPException) -> Response:
        return JSONResponse({"error": error.detail}, error.status_code, error.headers)

    @app.exception_handler(RequestValidationError)
    async def invalid_parameters(_: Request, error: RequestValidationError) -> Response:
        reasons = [f"{reason['loc'][-1]}: {reason['msg']}" for reason in error.errors()]
        return JSONResponse({"error": "; ".join(reasons)}, 422)

    @app.exception_handler(TileNotFoundError)
    async def tile_not_found(_: Request, error: TileNotFoundError) -> Response:
        return JSONResponse({"error": str(error)}, 404)

    @app.exception_handler(ValueError)
    async def invalid_value(_: Request, error: ValueError) -> Response:
        return JSONResponse({"error": " ".join(str(error).split())}, 422)

    @app.exception_handler(OverloadedError)
    async def overloaded(_: Request, error: OverloadedError) -> Response:
        metrics.refused.inc()
        return JSONResponse({"error": "too many requests are waiting; try again"}, 503, {"Retry-After": str(RETRY_S)})
