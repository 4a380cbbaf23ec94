"""What a page sends: scenes that are more than a seed, and photographs."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import JSONResponse

from anyres.viewer.access import PHOTOGRAPHS
from anyres.viewer.appstate import State
from anyres.viewer.parameters import PathId, WholeNumber
from anyres.viewer.photographs import STEP_LIMIT, STEPS
from anyres.viewer.scenes import Recipe

PICTURE_FILE = {
    "requestBody": {"required": True, "content": {"image/*": {"schema": {"type": "string", "format": "binary"}}}},
}

# `name` is the operation's name in the OpenAPI document, which clients rely on.
router = APIRouter()


@router.post("/api/scenes/{model}", name="tell")
async def put_scene(state: State, model: PathId, recipe: Recipe) -> Response:
    """Store a scene that is more than a seed. Returns its id, which tiles and views take instead of a seed."""
    served = state.model(model)
    scene = state.scenes.put(served.model, served.digest, recipe)
    return JSONResponse({"id": str(scene)})


@router.post("/api/photographs/{model}", status_code=202, openapi_extra=PICTURE_FILE, name="bring")
async def start_fit(
    state: State, request: Request, model: PathId, steps: Annotated[WholeNumber, Query(ge=1, le=STEP_LIMIT)] = STEPS
) -> Response:
    """Upload a picture file of any format as the body, to fit a scene to it. The header Location names the job."""
    job = state.fits.start(state.model(model).model, await request.body(), steps)
    return JSONResponse(job.facts(), 202, {"Location": f"{PHOTOGRAPHS}jobs/{job.id}"})


@router.get("/api/photographs/jobs/{job}", name="how_far")
async def fit_progress(state: State, job: PathId) -> Response:
    """The progress of a fit and, at its end, the `latent` that a scene takes instead of a seed."""
    return JSONResponse(state.fit(job).facts(), headers={"Cache-Control": "no-store"})


@router.delete("/api/photographs/jobs/{job}", name="give_up")
async def cancel_fit(state: State, job: PathId) -> Response:
    """Cancel the fit of a photograph."""
    fit = state.fit(job)
    state.fits.cancel(fit)
    return JSONResponse(fit.facts())
