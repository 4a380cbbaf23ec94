"""Fits scenes to uploaded photographs: decoded in a process of their own, then fitted one by one, with priority for tiles.

A generator of frames finds the styles whose picture is nearest to the photograph (projection). An unbounded generator finds a
scene that contains the photograph at the origin and continues around it (outpainting).
"""

from __future__ import annotations

import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import numpy as np
import torch

from anyres.data.decode import decode
from anyres.data.process_pool import LimitedProcessPool
from anyres.data.refusal import RefusedError
from anyres.export.bundle import Model
from anyres.networks import InfinityGan
from anyres.networks.generator import StyleGenerator
from anyres.plane.chart import Chart
from anyres.synthesis import invert, outpaint
from anyres.synthesis.latent import Latent
from anyres.synthesis.render import render
from anyres.synthesis.request import RenderRequest
from anyres.viewer.scenes import FitMethod, LatentStore, fit_method
from anyres.viewer.scheduler import OverloadedError

State = Literal["waiting", "decoding", "fitting", "done", "failed", "cancelled"]
ENDED = ("done", "failed", "cancelled")

STEP_LIMIT, STEPS = 2000, 200
# Photographs that may wait, and jobs in memory.
WAITING_LIMIT, JOBS_LIMIT = 4, 32
PIXEL_LIMIT_MP = 64.0
DECODE_S, DECODE_MB = 30.0, 1024
# The longest that a step of a fit waits for tiles.
TILES_FIRST_S = 2.0


class _FitCancelledError(Exception):
    """The client cancelled the fit, or the server shuts down."""


@dataclass
class FitJob:
    """The fit of one photograph."""

    model: Model
    method: FitMethod
    data: bytes
    steps: int
    id: str = field(default_factory=lambda: secrets.token_hex(16))
    state: State = "waiting"
    step: int = 0
    message: str = ""
    latent: str | None = None
    view: dict[str, float] | None = None
    cancelled: threading.Event = field(default_factory=threading.Event)

    def facts(self) -> dict[str, Any]:
        """State and progress; JSON types. The keys are part of the HTTP interface."""
        return {
            "id": self.id,
            "way": self.method,
            "state": self.state,
            "step": self.step,
            "steps": self.steps,
            "said": self.message,
            "latent": self.latent,
            "view": self.view,
        }


class FitQueue:
    """Fits photographs on a thread of its own, from the first one to `close`.

    `wait_until_idle` returns when no tile waits, or after so many seconds.
    """

    def __init__(self, latents: LatentStore, wait_until_idle: Callable[[float], None]) -> None:
        self._latents, self._wait_until_idle = latents, wait_until_idle
        self._jobs: OrderedDict[str, FitJob] = OrderedDict()
        self._wake = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closed = False

    def start(self, model: Model, data: bytes, steps: int = STEPS) -> FitJob:
        """Queue a photograph, any picture file. Raises ValueError if the model fits none, OverloadedError if too many wait."""
        method = fit_method(model.generator)
        if method is None:
            raise ValueError("this model cannot fit photographs")
        job = FitJob(model, method, data, steps)
        with self._wake:
            if self._closed or sum(job.state == "waiting" for job in self._jobs.values()) >= WAITING_LIMIT:
                raise OverloadedError
            self._jobs[job.id] = job
            ended = [key for key, other in self._jobs.items() if other.state in ENDED]
            for key in ended[: max(len(self._jobs) - JOBS_LIMIT, 0)]:
                del self._jobs[key]
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="fitter", daemon=True)
                self._thread.start()
            self._wake.notify()
        return job

    def get(self, job_id: str) -> FitJob | None:
        return self._jobs.get(job_id)

    def cancel(self, job: FitJob) -> None:
        """Cancel a job: a waiting one at once, a running one at its next step."""
        with self._wake:
            job.cancelled.set()
            if job.state == "waiting":
                job.state, job.data = "cancelled", b""

    def close(self) -> None:
        """Cancel all jobs and end the thread."""
        with self._wake:
            self._closed = True
            for job in self._jobs.values():
                job.cancelled.set()
            self._wake.notify()
        if self._thread is not None:
            self._thread.join()

    def _work(self) -> None:
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._closed or self._next() is not None)
                job = self._next()
                if self._closed or job is None:
                    return
                job.state = "decoding"
            try:
                self._fit(job)
            except _FitCancelledError:
                job.state = "cancelled"
            except (ValueError, RefusedError) as error:
                job.state, job.message = "failed", " ".join(str(error).split())
            except Exception as error:  # noqa: BLE001 - reported to the client; the thread continues
                job.state, job.message = "failed", f"the fit broke: {type(error).__name__}"
            job.data = b""

    def _next(self) -> FitJob | None:
        return next((job for job in self._jobs.values() if job.state == "waiting"), None)

    def _fit(self, job: FitJob) -> None:
        photo = self._decode(job)
        job.state = "fitting"
        generator: Any = job.model.generator
        fit = _outpaint if job.method == "outpaint" else _project
        latent, job.view, job.message = fit(generator, photo, job.steps, partial(self._advance, job))
        job.latent = self._latents.put(latent)
        job.state = "done"

    def _decode(self, job: FitJob) -> np.ndarray:
        """Decode in another process, which a hostile file can crash without harm. Raises RefusedError if it is no picture."""
        with LimitedProcessPool(decode_small, 1, DECODE_S, DECODE_MB) as decoders:
            wait = decoders.submit(job.data)
            outcome = wait()
        self._advance(job, 0)
        if isinstance(outcome, RefusedError):
            raise outcome
        return outcome

    def _advance(self, job: FitJob, steps: float) -> None:
        if job.cancelled.is_set():
            raise _FitCancelledError
        job.step += int(steps)
        self._wait_until_idle(TILES_FIRST_S)


def decode_small(data: bytes) -> np.ndarray:
    """Decode a picture file, uint8 (h, w, 3), within the limits of a fit. Raises RefusedError."""
    return decode(data, animated="first_frame", min_side_px=16, max_mpx=PIXEL_LIMIT_MP).pixels


def crop_to_chart(photo: np.ndarray, chart: Chart) -> np.ndarray:
    """The middle of a photograph, as much of it as fits on the chart."""
    if chart.limits is None:
        return photo
    height, width = photo.shape[:2]
    # The short side sets the scale of a photograph on the plane. Cutting the long side leaves it unchanged.
    for _ in range(2):
        half_width, half_height = chart.half_extent_of((height, width))
        limit_x, limit_y = chart.limits
        width, height = int(width * min(1, limit_x / half_width) + 1e-6), int(height * min(1, limit_y / half_height) + 1e-6)
    top, left = (photo.shape[0] - height) // 2, (photo.shape[1] - width) // 2
    return photo[top : top + height, left : left + width]


def _project(
    generator: StyleGenerator, photo: np.ndarray, steps: int, advance: Callable[[float], None]
) -> tuple[Latent, dict[str, float] | None, str]:
    geometry = generator.geometry
    photo = crop_to_chart(photo, geometry.chart)
    short = min(photo.shape[:2])
    lattice = geometry.lattice_px
    sizes = [min(size) for size in geometry.native_sizes if min(size) <= short] or [short // lattice * lattice]
    targets = invert.targets(photo, generator, sizes)
    with torch.enable_grad():
        latent = invert.invert(generator, targets, steps, advance=advance)
    fits = ", ".join(f"{min(t.window.size)} px {invert.psnr(generator, latent, t):.1f} dB" for t in targets)
    return latent, None, f"fit at {fits}"


def _outpaint(
    generator: InfinityGan, photo: np.ndarray, steps: int, advance: Callable[[float], None]
) -> tuple[Latent, dict[str, float] | None, str]:
    geometry = generator.geometry
    period = geometry.periods[0]
    short = min(round(geometry.chart.short_side / period), *photo.shape[:2])
    target = outpaint.place_photo(photo, generator, short)
    with torch.enable_grad():
        latent = outpaint.fit(generator, target, steps, advance=advance)
    psnr_db = outpaint.fidelity(render(generator, RenderRequest(latent, target.window)), target)
    height, width = target.window.size
    view = {"x": 0.0, "y": 0.0, "period": period / 2}
    return latent, view, f"{width} x {height} px of the photograph at the middle, {psnr_db:.1f} dB"
