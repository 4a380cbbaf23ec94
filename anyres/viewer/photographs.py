"""Photographs that are brought to the page: decoded apart, and fitted one after the other while tiles go first.

A generator of frames is asked for the styles that come nearest to the picture (projection), an unbounded one for the scene that
holds it at the origin and goes on around it (outpainting).
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
from anyres.data.guard import Guard
from anyres.data.refusal import RefusedError
from anyres.export.bundle import Model
from anyres.networks import InfinityGan
from anyres.networks.generator import StyleGenerator
from anyres.plane.chart import Chart
from anyres.synthesis import invert, outpaint
from anyres.synthesis.latent import Latent
from anyres.synthesis.render import render
from anyres.synthesis.request import RenderRequest
from anyres.viewer.scenes import Latents, Way, takes
from anyres.viewer.scheduler import Busy

State = Literal["waiting", "decoding", "fitting", "done", "failed", "cancelled"]
ENDED = ("done", "failed", "cancelled")

STEP_LIMIT, STEPS = 2000, 200
# Photographs that may wait, and whose outcome is remembered.
WAITING_LIMIT, REMEMBERED = 4, 32
PIXEL_LIMIT_MP = 64.0
DECODE_S, DECODE_MB = 30.0, 1024
# The longest that a step of a fit waits for tiles.
COURTESY_S = 2.0


class _Cancelled(Exception):  # noqa: N818 - no fault
    """Nobody wants it any more."""


@dataclass
class Job:
    """A photograph on its way into a scene."""

    model: Model
    way: Way
    data: bytes
    steps: int
    id: str = field(default_factory=lambda: secrets.token_hex(16))
    state: State = "waiting"
    step: int = 0
    said: str = ""
    latent: str | None = None
    view: dict[str, float] | None = None
    unwanted: threading.Event = field(default_factory=threading.Event)

    def facts(self) -> dict[str, Any]:
        """How far it is; JSON types."""
        told = ("id", "way", "state", "step", "steps", "said", "latent", "view")
        return {name: getattr(self, name) for name in told}


class Photographs:
    """Fits on a thread of its own, from the first photograph to `close`. `idle` waits for tiles to be drawn, some seconds."""

    def __init__(self, latents: Latents, idle: Callable[[float], None]) -> None:
        self._latents, self._idle = latents, idle
        self._jobs: OrderedDict[str, Job] = OrderedDict()
        self._wake = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closed = False

    def start(self, model: Model, data: bytes, steps: int = STEPS) -> Job:
        """Take a photograph, any picture file. Raises ValueError for a model that takes none, Busy where too many wait."""
        way = takes(model.generator)
        if way is None:
            raise ValueError("this model takes no photographs")
        job = Job(model, way, data, steps)
        with self._wake:
            if self._closed or sum(job.state == "waiting" for job in self._jobs.values()) >= WAITING_LIMIT:
                raise Busy
            self._jobs[job.id] = job
            ended = [key for key, other in self._jobs.items() if other.state in ENDED]
            for key in ended[: max(len(self._jobs) - REMEMBERED, 0)]:
                del self._jobs[key]
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="fitter", daemon=True)
                self._thread.start()
            self._wake.notify()
        return job

    def get(self, name: str) -> Job | None:
        return self._jobs.get(name)

    def cancel(self, job: Job) -> None:
        """Want it no more: what waits goes at once, what is under way with its next step."""
        with self._wake:
            job.unwanted.set()
            if job.state == "waiting":
                job.state, job.data = "cancelled", b""

    def close(self) -> None:
        """Give up what waits and what is under way."""
        with self._wake:
            self._closed = True
            for job in self._jobs.values():
                job.unwanted.set()
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
            except _Cancelled:
                job.state = "cancelled"
            except (ValueError, RefusedError) as error:
                job.state, job.said = "failed", " ".join(str(error).split())
            except Exception as error:  # noqa: BLE001 - told to the one who waits, and the thread goes on
                job.state, job.said = "failed", f"the fit broke: {type(error).__name__}"
            job.data = b""

    def _next(self) -> Job | None:
        return next((job for job in self._jobs.values() if job.state == "waiting"), None)

    def _fit(self, job: Job) -> None:
        photo = self._decoded(job)
        job.state = "fitting"
        generator: Any = job.model.generator
        fit = _outpainted if job.way == "outpaint" else _projected
        latent, job.view, job.said = fit(generator, photo, job.steps, partial(self._advance, job))
        job.latent = self._latents.put(latent)
        job.state = "done"

    def _decoded(self, job: Job) -> np.ndarray:
        """Raises RefusedError for what is no picture, or a hostile one: that takes a process of its own with it, not this one."""
        with Guard(decode_small, 1, DECODE_S, DECODE_MB) as guard:
            wait = guard.submit(job.data)
            found = wait()
        self._advance(job, 0)
        if isinstance(found, RefusedError):
            raise found
        return found

    def _advance(self, job: Job, steps: float) -> None:
        if job.unwanted.is_set():
            raise _Cancelled
        job.step += int(steps)
        self._idle(COURTESY_S)


def decode_small(data: bytes) -> np.ndarray:
    """Pixels of a picture file, uint8 (h, w, 3), of a size that a fit can use. Raises RefusedError."""
    return decode(data, animated="first_frame", min_side_px=16, max_mpx=PIXEL_LIMIT_MP).pixels


def within(photo: np.ndarray, chart: Chart) -> np.ndarray:
    """The middle of a photograph, as much of it as a frame holds."""
    if chart.limits is None:
        return photo
    height, width = photo.shape[:2]
    # Cutting the long side leaves the short one, by which a photograph is laid on the plane, as it is.
    for _ in range(2):
        half_width, half_height = chart.half_extent_of((height, width))
        limit_x, limit_y = chart.limits
        width, height = int(width * min(1, limit_x / half_width) + 1e-6), int(height * min(1, limit_y / half_height) + 1e-6)
    top, left = (photo.shape[0] - height) // 2, (photo.shape[1] - width) // 2
    return photo[top : top + height, left : left + width]


def _projected(
    generator: StyleGenerator, photo: np.ndarray, steps: int, advance: Callable[[float], None]
) -> tuple[Latent, dict[str, float] | None, str]:
    geometry = generator.geometry
    photo = within(photo, geometry.chart)
    short = min(photo.shape[:2])
    lattice = geometry.lattice_px
    sizes = [min(size) for size in geometry.native_sizes if min(size) <= short] or [short // lattice * lattice]
    wanted = invert.targets(photo, generator, sizes)
    with torch.enable_grad():
        found = invert.invert(generator, wanted, steps, advance=advance)
    fits = ", ".join(f"{min(t.window.size)} px {invert.psnr(generator, found, t):.1f} dB" for t in wanted)
    return found, None, f"nearest at {fits}"


def _outpainted(
    generator: InfinityGan, photo: np.ndarray, steps: int, advance: Callable[[float], None]
) -> tuple[Latent, dict[str, float] | None, str]:
    geometry = generator.geometry
    period = geometry.periods[0]
    short = min(round(geometry.chart.short_side / period), *photo.shape[:2])
    target = outpaint.placed(photo, generator, short)
    with torch.enable_grad():
        found = outpaint.fit(generator, target, steps, advance=advance)
    near = outpaint.fidelity(render(generator, RenderRequest(found, target.window)), target)
    height, width = target.window.size
    return found, {"x": 0.0, "y": 0.0, "period": period / 2}, f"{width} x {height} px of it at the middle, {near:.1f} dB"
