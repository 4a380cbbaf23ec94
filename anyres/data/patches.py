"""Training patches: the window of sample n is a pure function of (seed, n). A thread reads batches ahead."""

from __future__ import annotations

import math
import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Literal, Protocol, Self

import numpy as np

from anyres.data.store import PictureSize, Store
from anyres.plane.chart import Chart
from anyres.plane.resample import FRAME
from anyres.plane.window import Window

PatchBatch = tuple[np.ndarray, list[Window]]
# The same windows at two sizes, the smaller first.
PatchBatchPair = tuple[PatchBatch, PatchBatch]
PeriodLaw = Literal["log_uniform", "uniform_size", "uniform_extent", "fixed"]
# Relative tolerance, so that rounding does not put a window that fills the frame outside of it.
FIT_SLACK = 1e-9


@dataclass(frozen=True)
class PatchDraw:
    """One sample: `window` of picture number `picture` of the store, which may be changed first.

    With `transpose` rows and columns change places (x <-> y), then with `upturn` up and down (y -> -y), then with `flip` left and
    right (x -> -x). On a cylinder the picture is rotated: its centre is at x = `turn`.
    """

    picture: int
    window: Window
    flip: bool
    turn: float = 0.0
    upturn: bool = False
    transpose: bool = False


@dataclass(frozen=True)
class PatchLaw:
    """The distribution of training windows of `patch_px` = (h, w) pixels.

    The period is between the picture's native period and the coarsest at which the patch fits its frame. The zoom,
    base / period with base = short side / min(patch_px), is at most `zoom_max`. Distribution of the period:

    - "log_uniform": uniform in log zoom
    - "uniform_size": uniform in the pixels of the whole picture's short side (Chai et al. 2022, section 3.2)
    - "uniform_extent": uniform in the visible part of the frame (Ntavelis et al. 2022, section 3.4)
    - "fixed": every window at zoom_max (Lin et al. 2022); pictures that do not reach it are skipped

    A window is mirrored with probability `flip`; with `square`, each of the eight symmetries of the square is as probable as the
    others. Samples before number `whole_until`, and later samples with probability
    `whole_share`, have the coarsest period: the whole frame, as far as the aspects agree. `reach` is the factor by which
    every window can also be read at a finer period.
    """

    patch_px: tuple[int, int]
    zoom_max: float
    period: PeriodLaw
    flip: float
    whole_until: int = 0
    whole_share: float = 0.0
    reach: float = 1.0
    square: bool = False


class PatchSampler:
    """Draws windows that lie within the frame of a photograph. Photographs are drawn uniformly.

    `usable` are the indices of the pictures that have a window under the law; `skipped` counts the others. Raises
    ValueError, one line, if no picture is usable.
    """

    def __init__(self, store: Store, law: PatchLaw, seed: int, chart: Chart = FRAME) -> None:
        self.store = store
        self.law = law
        self.seed = seed
        self.chart = chart
        self.patch_px = law.patch_px
        self.base = chart.short_side / min(law.patch_px)
        finest, coarsest = self._period_ranges(store.pictures.sizes)
        self.usable = np.flatnonzero(finest <= coarsest).tolist()
        self.skipped = len(store) - len(self.usable)
        if not self.usable:
            height, width = law.patch_px
            raise ValueError(
                f"none of {len(store)} pictures holds a patch of {height}x{width} pixels (height x width) at a zoom of "
                f"{law.zoom_max:g} or less; lower train.patch_px, raise train.zoom_max or add larger pictures"
            )

    @property
    def half_extent(self) -> tuple[float, float]:
        """(half width, half height) of the region of the plane that the usable pictures cover."""
        width, height = self.chart.half_extent_over([self.store.frame(index).size for index in self.usable])
        longest = max(width, height)
        return (longest, longest) if self.law.square else (width, height)

    def periods(self, picture: PictureSize) -> tuple[float, float]:
        """Return the finest and the coarsest period of a picture's windows. If it has no window, finest > coarsest."""
        finest, coarsest = self._period_ranges(np.array([[picture.height, picture.width]]))
        return float(finest[0]), float(coarsest[0])

    def _period_ranges(self, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Vectorised `periods`, for sizes (n, 2) = (height, width)."""
        # Native periods, in plane units per pixel.
        native = self.chart.short_side / sizes.min(axis=1)
        coarsest = (self.chart.extents(sizes) / np.array(self.patch_px)).min(axis=1)
        if self.law.period == "fixed":
            coarsest = np.minimum(coarsest, self.base / self.law.zoom_max)
        return np.maximum(native * self.law.reach, self.base / self.law.zoom_max), coarsest * (1 + FIT_SLACK)

    def draw(self, n: int) -> PatchDraw:
        """Return sample `n` >= 0. It depends on the seed and `n` only."""
        # The lowest word of the counter counts the blocks of one sample. n is the next word, so samples share no block.
        rng = np.random.Generator(np.random.Philox(key=self.seed, counter=n << 64))
        # All numbers are drawn at once, so that the others do not depend on how many of them a law uses.
        which, scale, x, y, mirrored, whole, turn, upturned, transposed = rng.random(9)
        index = self.usable[int(which * len(self.usable))]
        flip, upturn, transpose = bool(mirrored < self.law.flip), False, False
        if self.law.square:
            flip, upturn, transpose = mirrored < 0.5, upturned < 0.5, transposed < 0.5
        picture = self.store.frame(index)
        if transpose:
            picture = PictureSize(width=picture.height, height=picture.width)
        is_whole = n < self.law.whole_until or whole < self.law.whole_share
        period = self.periods(picture)[1] if is_whole else self._period(picture, scale)
        half_width, half_height = self.chart.half_extent_of(picture.size)
        height, width = self.patch_px
        slack = max(half_width - period * width / 2, 0.0), max(half_height - period * height / 2, 0.0)
        center, turn = self.chart.random_center(picture.size, slack, (x, y), turn)
        return PatchDraw(index, Window(center, period, self.patch_px), bool(flip), turn, bool(upturn), bool(transpose))

    def read(self, draw: PatchDraw) -> np.ndarray:
        """Return the pixels of a sample, uint8 (h, w, 3), sRGB."""
        window = draw.window
        x, y = window.center
        x = self.chart.wrap(x - draw.turn)
        x, y, size = -x if draw.flip else x, -y if draw.upturn else y, window.size
        if draw.transpose:
            x, y, size = y, x, (size[1], size[0])
        window = Window((x, y), window.period, size)
        pixels = np.clip(np.rint(self.store.read(draw.picture, window, self.chart)), 0, 255).astype(np.uint8)
        pixels = pixels.transpose(1, 0, 2) if draw.transpose else pixels
        pixels = pixels[::-1] if draw.upturn else pixels
        return np.ascontiguousarray(pixels[:, ::-1] if draw.flip else pixels)

    def batch(self, n0: int, count: int) -> PatchBatch:
        """Return samples n0 to n0 + count - 1: uint8 (count, h, w, 3) and their windows."""
        return self.read_batch([self.draw(n) for n in range(n0, n0 + count)])

    def read_batch(self, draws: list[PatchDraw]) -> PatchBatch:
        """Return the pixels of samples of one size, and their windows."""
        return np.stack([self.read(draw) for draw in draws]), [draw.window for draw in draws]

    def _period(self, picture: PictureSize, scale: float) -> float:
        finest, coarsest = self.periods(picture)
        match self.law.period:
            case "log_uniform":
                period = math.exp(math.log(coarsest) + scale * (math.log(finest) - math.log(coarsest)))
            case "uniform_size":
                period = 1 / (1 / coarsest + scale * (1 / finest - 1 / coarsest))
            case _:
                period = coarsest + scale * (finest - coarsest)
        return min(max(period, finest), coarsest)


class TwoSizeSampler:
    """Batches of a sampler's windows at its own size, at a larger size, or at both: a function of (seed, n).

    The choice is made once for a batch of `batch` samples over all processes. With probability `share`, from sample `begins`
    on, the batch has both sizes. Else, with probability `large_share`, it has the larger size `large_px` = (h, w).
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
        """Return whether the batch of sample `n` has the (small, large) windows."""
        counter = n // self.batch_size << 64
        paired, large = np.random.Generator(np.random.Philox(key=[self.sampler.seed, 1], counter=counter)).random(2)
        if n >= self.begins and paired < self.share:
            return True, True
        return not large < self.large_share, bool(large < self.large_share)

    def batch(self, n0: int, count: int) -> PatchBatch | PatchBatchPair:
        """Return samples n0 to n0 + count - 1, which belong to one batch: as `PatchSampler.batch`, or as a pair of these."""
        draws = [self.sampler.draw(n) for n in range(n0, n0 + count)]
        batches = [
            self.sampler.read_batch([replace(draw, window=draw.window.resized(size)) for draw in draws])
            for size, is_drawn in zip((self.sampler.patch_px, self.large_px), self.sizes(n0), strict=True)
            if is_drawn
        ]
        return batches[0] if len(batches) == 1 else (batches[0], batches[1])


class BatchSource(Protocol):
    """The source of the batches that `Prefetch` reads ahead."""

    def batch(self, n0: int, count: int) -> PatchBatch | PatchBatchPair: ...


class Prefetch(Iterator[PatchBatch | PatchBatchPair]):
    """An endless iterator over the batches of one process. To resume a training, construct it at that `nimg`.

    Each step draws `local` samples per process, `local * world` in total: sample i of this process has number
    nimg + rank * local + i. Up to `depth` batches are ready in advance. An error of the reading thread is raised by `next`.
    Close it, or use it in a `with` statement, to end the thread.
    """

    def __init__(self, source: BatchSource, nimg: int, local: int, rank: int = 0, world: int = 1, depth: int = 4) -> None:
        if not 0 <= rank < world or local < 1 or nimg < 0:
            raise ValueError(f"no batches for nimg {nimg}, local {local}, rank {rank} of world {world}")
        self._first = nimg + rank * local
        self._local = local
        self._step = local * world
        self._source = source
        self._ready: queue.Queue[PatchBatch | PatchBatchPair | Exception] = queue.Queue(depth)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="prefetch", daemon=True)
        self._thread.start()

    def __next__(self) -> PatchBatch | PatchBatchPair:
        if self._closing.is_set():
            raise StopIteration
        batch = self._ready.get()
        if isinstance(batch, Exception):
            self.close()
            raise batch
        return batch

    def close(self) -> None:
        """End the thread. The batches in the queue are dropped."""
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
                batch: PatchBatch | PatchBatchPair | Exception = self._source.batch(n, self._local)
            except Exception as error:  # noqa: BLE001 - raised again by `next`, in the thread that iterates
                batch = error
            self._put(batch)
            if isinstance(batch, Exception):
                return
            n += self._step

    def _put(self, batch: PatchBatch | PatchBatchPair | Exception) -> None:
        while not self._closing.is_set():
            try:
                self._ready.put(batch, timeout=0.1)
            except queue.Full:
                continue
            return
