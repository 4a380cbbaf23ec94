"""What the routes of one application share."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request
from starlette.exceptions import HTTPException

from anyres.networks.generator import SEED_LIMIT
from anyres.viewer.cache import TileCache
from anyres.viewer.drawing import ServedModel
from anyres.viewer.metrics import Metrics
from anyres.viewer.models import ServedModels
from anyres.viewer.photographs import FitJob, FitQueue
from anyres.viewer.scenes import SCENE_ID, PreparedScene, SceneStore
from anyres.viewer.scheduler import TileScheduler


@dataclass(frozen=True)
class AppState:
    """The services behind the routes. `view_slots` bounds how many views are drawn at once."""

    metrics: Metrics
    cache: TileCache
    scheduler: TileScheduler
    models: ServedModels
    scenes: SceneStore
    fits: FitQueue
    view_slots: asyncio.Semaphore

    def model(self, model_id: str) -> ServedModel:
        """The served model of that id. Raises HTTPException (404)."""
        served = self.models.get(model_id)
        if served is None:
            raise HTTPException(404, "no such model; /api/models lists them")
        return served

    def scene(self, served: ServedModel, name: str) -> int | PreparedScene:
        """A seed, or the scene that `name` stands for. Raises ValueError (seed too large) or HTTPException (404)."""
        if not SCENE_ID.fullmatch(name):
            # The pattern of the parameter leaves only digits.
            if int(name) >= SEED_LIMIT:
                raise ValueError(f"scene: a seed is a whole number below {SEED_LIMIT}")
            return int(name)
        scene = self.scenes.get(served.digest, name)
        if scene is None:
            raise HTTPException(404, "no such scene here (any more); POST it to /api/scenes")
        return scene

    def fit(self, job_id: str) -> FitJob:
        """The fit of a photograph. Raises HTTPException (404)."""
        job = self.fits.get(job_id)
        if job is None:
            raise HTTPException(404, "no such photograph here (any more)")
        return job


async def _app_state(request: Request) -> AppState:
    state: AppState = request.app.state.viewer
    return state


State = Annotated[AppState, Depends(_app_state)]
