"""Training patches: which window of which photograph, a pure function of (seed, n), read ahead in a thread."""

from __future__ import annotations

import math
import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Literal, Protocol, Self

import numpy as np

from anyres.data.store import Frame, Store
from anyres.plane.chart import Chart
from anyres.plane.resample import FRAME
from anyres.plane.window import Window

Batch = tuple[np.ndarray, list[Window]]
# The same windows at two sizes, the smaller first.
BatchPair = tuple[Batch, Batch]
PeriodLaw = Literal["log_uniform", "uniform_size", "uniform_extent", "fixed"]
# Windows that fill the frame are rounded to lie in it.
FIT_SLACK = 1e-9


@dataclass(frozen=True)
class Draw:
    """One sample: `window` of picture `picture` of the store, or of its mirror image (x -> -x) where `flip`.

    On a cylinder the picture stands turned about the ring: its middle at x = `turn`.
    """

    picture: int
    window: Window
    flip: bool
    turn: float = 0.0


class PatchSampler:
    """Draws windows of `patch_px` = (h, w) pixels that lie within the frame of a photograph.

    Pictures are drawn uniformly. The period lies between the photograph's native one and the coarsest at which the
    patch still fits its frame, with zoom = base / period <= zoom_max and base = short side / min(patch_px). Law of the
    period: "log_uniform" in zoom; "uniform_size", uniform in the pixels of the whole picture's short side (Chai et al. 2022,
    section 3.2); "uniform_extent", uniform in the part of the frame that is seen (Ntavelis et al. 2022, section 3.4); "fixed",
    every window at zoom_max (Lin et al. 2022), and pictures that do not reach it offer none. With
    `reach` every window can also be read so many times as fine. Samples before number `whole_until`, and later ones with
    probability `whole_share`, are at the coarsest period: whole frames, as far as the shapes agree. `skipped` counts
    pictures that offer no such window; `usable` are the indices of the others. Raises ValueError, one line, where none is
    usable.
    """

    def __init__(
        self,
        store: Store,
        patch_px: tuple[int, int],
        zoom_max: float,
        period_law: PeriodLaw,
        flip: float,
        seed: int,
        whole_until: int = 0,
        whole_share: float = 0.0,
        chart: Chart = FRAME,
        reach: float = 1.0,
    ) -> None:
        self.store = store
        self.reach = reach
        self.chart = chart
        self.patch_px = patch_px
        self.base = chart.short_side / min(patch_px)
        self.zoom_max = zoom_max
        self.period_law = period_law
        self.flip = flip
        self.whole_until = whole_until
        self.whole_share = whole_share
        self.seed = seed
        finest, coarsest = self._ranges(store.pictures.sizes)
        self.usable = np.flatnonzero(finest <= coarsest).tolist()
        self.skipped = len(store) - len(self.usable)
        if not self.usable:
            height, width = patch_px
            raise ValueError(
                f"none of {len(store)} pictures holds a patch of {height}x{width} pixels (height x width) at a zoom of "
                f"{zoom_max:g} or less; lower train.patch_px, raise train.zoom_max or add larger pictures"
            )

    @property
    def half_extent(self) -> tuple[float, float]:
        """Half width and half height of the plane that the usable pictures cover."""
        return self.chart.half_extent_over([self.store.frame(index).size for index in self.usable])

    def periods(self, picture: Frame) -> tuple[float, float]:
        """Finest and coarsest period at which a picture offers a window; finest > coarsest where it offers none."""
        finest, coarsest = self._ranges(np.array([[picture.height, picture.width]]))
        return float(finest[0]), float(coarsest[0])

    def _ranges(self, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """`periods` of pictures of sizes (n, 2) = (height, width)."""
        # Native periods, in plane units per pixel.
        native = self.chart.short_side / sizes.min(axis=1)
        coarsest = (self.chart.extents(sizes) / np.array(self.patch_px)).min(axis=1)
        if self.period_law == "fixed":
            coarsest = np.minimum(coarsest, self.base / self.zoom_max)
        return np.maximum(native * self.reach, self.base / self.zoom_max), coarsest * (1 + FIT_SLACK)

    def draw(self, n: int) -> Draw:
        """Return sample `n` >= 0: the same for a seed, whatever was drawn before."""
        # The lowest word counts the blocks of one sample; n stands in the next, so that samples share none.
        rng = np.random.Generator(np.random.Philox(key=self.seed, counter=n << 64))
        # All numbers at once: a law that uses more or fewer of them leaves the others as they were.
        which, scale, x, y, mirrored, whole, turn = rng.random(7)
        index = self.usable[int(which * len(self.usable))]
        picture = self.store.frame(index)
        period = self.periods(picture)[1] if n < self.whole_until or whole < self.whole_share else self._period(picture, scale)
        half_width, half_height = self.chart.half_extent_of(picture.size)
        height, width = self.patch_px
        slack = max(half_width - period * width / 2, 0.0), max(half_height - period * height / 2, 0.0)
        center, turn = self.chart.random_center(picture.size, slack, (x, y), turn)
        return Draw(index, Window(center, period, self.patch_px), bool(mirrored < self.flip), turn)

    def read(self, draw: Draw) -> np.ndarray:
        """Return the pixels of a draw, uint8 (h, w, 3), sRGB."""
        window = draw.window
        x, y = window.center
        x = self.chart.wrap(x - draw.turn)
        window = Window((-x if draw.flip else x, y), window.period, window.size)
        pixels = np.clip(np.rint(self.store.read(draw.picture, window, self.chart)), 0, 255).astype(np.uint8)
        return np.ascontiguousarray(pixels[:, ::-1]) if draw.flip else pixels

    def batch(self, n0: int, count: int) -> tuple[np.ndarray, list[Window]]:
        """Return samples n0 to n0 + count - 1: uint8 (count, h, w, 3) and their windows."""
        return self.together([self.draw(n) for n in range(n0, n0 + count)])

    def together(self, draws: list[Draw]) -> Batch:
        """The pixels of draws of one size, and their windows."""
        return np.stack([self.read(draw) for draw in draws]), [draw.window for draw in draws]

    def _period(self, picture: Frame, scale: float) -> float:
        finest, coarsest = self.periods(picture)
        match self.period_law:
            case "log_uniform":
                period = math.exp(math.log(coarsest) + scale * (math.log(finest) - math.log(coarsest)))
            case "uniform_size":
                period = 1 / (1 / coarsest + scale * (1 / finest - 1 / coarsest))
            case _:
                period = coarsest + scale * (finest - coarsest)
        return min(max(period, finest), coarsest)


class TwoSizes:
    """Batches of a sampler's windows, some at its own size, some at a larger one, some at both: a function of (seed, n).

    One law for a whole batch of `batch` samples, whichever part of it a process asks for: with probability `share` (none
    before sample `begins`) both sizes, else with probability `large_share` the larger of `large_px` = (h, w).
    """

    def __init__(
        self, sampler: PatchSampler, batch: int, large_px: tuple[int, int], share: float, large_share: float, begins: int = 0
    ) -> None:
        self.sampler = sampler
        self.batch_size = batch
        self.large_px = large_px
        self.share = share
        self.large_share = large_share
        self.begins = begins

    def sizes(self, n: int) -> tuple[bool, bool]:
        """Whether the batch of sample `n` draws its windows (small, large)."""
        counter = n // self.batch_size << 64
        paired, large = np.random.Generator(np.random.Philox(key=[self.sampler.seed, 1], counter=counter)).random(2)
        if n >= self.begins and paired < self.share:
            return True, True
        return not large < self.large_share, bool(large < self.large_share)

    def batch(self, n0: int, count: int) -> Batch | BatchPair:
        """Samples n0 to n0 + count - 1, which belong to one batch: as `PatchSampler.batch`, or a pair of such."""
        draws = [self.sampler.draw(n) for n in range(n0, n0 + count)]
        found = [
            self.sampler.together([replace(draw, window=draw.window.resized(size)) for draw in draws])
            for size, wanted in zip((self.sampler.patch_px, self.large_px), self.sizes(n0), strict=True)
            if wanted
        ]
        return found[0] if len(found) == 1 else (found[0], found[1])


class Batches(Protocol):
    """What `Prefetch` reads ahead."""

    def batch(self, n0: int, count: int) -> Batch | BatchPair: ...


class Prefetch(Iterator[Batch | BatchPair]):
    """Iterate the batches of one process for ever, from any `nimg` on: resuming is constructing it there.

    Each step draws `local` samples a process, `local * world` over all: sample i of this process is number
    nimg + rank * local + i. `depth` batches wait ready. An error of the reading thread is raised by `next`.
    Close it, or use it in a `with`, to end the thread.
    """

    def __init__(self, sampler: Batches, nimg: int, local: int, rank: int = 0, world: int = 1, depth: int = 4) -> None:
        if not 0 <= rank < world or local < 1 or nimg < 0:
            raise ValueError(f"no batches for nimg {nimg}, local {local}, rank {rank} of world {world}")
        self._first = nimg + rank * local
        self._local = local
        self._step = local * world
        self._sampler = sampler
        self._ready: queue.Queue[Batch | BatchPair | Exception] = queue.Queue(depth)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="prefetch", daemon=True)
        self._thread.start()

    def __next__(self) -> Batch | BatchPair:
        if self._closing.is_set():
            raise StopIteration
        batch = self._ready.get()
        if isinstance(batch, Exception):
            self.close()
            raise batch
        return batch

    def close(self) -> None:
        """End the thread; the batches that wait are dropped."""
        self._closing.set()
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _run(self) -> None:
        n = self._first
        while not self._closing.is_set():
            try:
                batch: Batch | BatchPair | Exception = self._sampler.batch(n, self._local)
            except Exception as error:  # noqa: BLE001 - raised again by `next`, in the thread that iterates
                batch = error
            self._put(batch)
            if isinstance(batch, Exception):
                return
            n += self._step

    def _put(self, batch: Batch | BatchPair | Exception) -> None:
        while not self._closing.is_set():
            try:
                self._ready.put(batch, timeout=0.1)
            except queue.Full:
                continue
            return
