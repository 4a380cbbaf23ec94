"""The page and its files, facts of the models, versions in the registry, metrics."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib import resources
from typing import Annotated, NamedTuple

from anyio import to_thread
from fastapi import APIRouter, Path, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse
from starlette.exceptions import HTTPException

from anyres.export.bundle import PSI
from anyres.networks.generator import SEED_LIMIT
from anyres.viewer.access import BODY_LIMITS, PHOTOGRAPHS
from anyres.viewer.appstate import State
from anyres.viewer.connection import has_etag
from anyres.viewer.metrics import CONTENT_TYPE
from anyres.viewer.parameters import WholeNumber
from anyres.viewer.views import PIXEL_LIMIT

PAGE = "index.html"
MEDIA_TYPES = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
    ".txt": "text/plain",
}

router = APIRouter()


class StaticFile(NamedTuple):
    """A packaged file: bytes, media type, entity tag."""

    data: bytes
    media_type: str
    etag: str


@cache
def static_files() -> dict[str, StaticFile]:
    """The packaged files by name, read once. A request is never a path: its name is looked up here."""
    files = {}
    for file in resources.files("anyres.viewer").joinpath("static").iterdir():
        media_type = next((media for suffix, media in MEDIA_TYPES.items() if file.name.endswith(suffix)), None)
        if media_type is not None:
            data = file.read_bytes()
            etag = f'"{hashlib.sha256(data).hexdigest()[:32]}"'
            files[file.name] = StaticFile(data, f"{media_type}; charset=utf-8", etag)
    return files


@router.get("/", include_in_schema=False)
async def page(request: Request) -> Response:
    return _send_file(request, static_files()[PAGE])


@router.get("/static/{name}", include_in_schema=False)
async def static_file(request: Request, name: str) -> Response:
    if name not in static_files() or name == PAGE:
        raise HTTPException(404, "no such file")
    return _send_file(request, static_files()[name])


@router.get("/healthz")
async def healthz() -> PlainTextResponse:
    """Answer "ok" while the server runs."""
    return PlainTextResponse("ok\n")


@router.get("/metrics")
async def metrics_text(state: State) -> Response:
    """Counters of the server, in the text format of Prometheus."""
    return Response(state.metrics.text(), headers={"Content-Type": CONTENT_TYPE})


@router.get("/api/models")
async def models(state: State) -> Response:
    """Facts of the served models."""
    limits = {
        "seed": SEED_LIMIT - 1,
        "view_px": PIXEL_LIMIT,
        "psi": [0, 2],
        "psi_default": PSI,
        "photograph_bytes": BODY_LIMITS[PHOTOGRAPHS][0],
    }
    facts = {"models": [served.facts() for served in state.models.all], "limits": limits, "registry": state.models.registry}
    return JSONResponse(facts, headers={"Cache-Control": "no-cache"})


@router.get("/api/registry")
async def versions(state: State) -> Response:
    """Versions of the registered model that can be loaded, newest first."""
    return JSONResponse({"name": state.models.registry, "versions": await to_thread.run_sync(state.models.versions)})


# `name` is the operation's name in the OpenAPI document, which clients rely on.
@router.post("/api/registry/{version}", name="put_on_show")
async def load_version(state: State, version: Annotated[WholeNumber, Path(ge=1, lt=1 << 31)]) -> Response:
    """Load a version of the registered model. Returns its facts, as in /api/models."""
    served = await to_thread.run_sync(state.models.load_version, str(version))
    return JSONResponse(served.facts())


def _send_file(request: Request, file: StaticFile) -> Response:
    """Send a packaged file, or 304 if the browser has it."""
    headers = {"ETag": file.etag, "Cache-Control": "no-cache"}
    if has_etag(request, file.etag):
        return Response(status_code=304, headers=headers)
    return Response(file.data, headers=headers | {"Content-Type": file.media_type})
