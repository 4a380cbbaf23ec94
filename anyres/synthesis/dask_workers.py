"""Draw passes on the workers of a Dask scheduler. The division into passes and their order are the same as on one machine.

Workers share no disk with this process. The generator, a few megabytes, is a task of the Dask graph: Dask copies it to workers
and recomputes it if it is lost. Each pass sends only its windows. The scheduler needs Dask alone: the tasks pickle no class of
this library.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import platform
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from anyres.identity import code_version, tensors_of
from anyres.networks.generator import Edit, Generator, device_of
from anyres.networks.pixels import from_uint8, to_uint8
from anyres.networks.saved import restore
from anyres.networks.scene import Scene
from anyres.params import Train
from anyres.plane.window import Window
from anyres.synthesis.render import Drawing, draw_in_process
from anyres.version import __version__

if TYPE_CHECKING:
    from distributed import Client, Future

# Timeouts: for an answer of the scheduler, and for workers to start or to come back.
ANSWER_S = 5.0
WORKERS_S = 6.0
# Interval between two checks that there are workers.
LOOK_S = 1.0
# Timeout of fetching a drawn pass before the workers are checked again; it doubles.
FETCH_S = 8.0
# Passes submitted ahead of the one that is written next, for each thread of the workers: one is drawn, one waits.
AHEAD = 2
# Number of generators, and of scenes, that a worker caches.
CACHE_SIZE = 2


@contextlib.contextmanager
def drawing_on(address: str, generator: Generator, train: Mapping[str, Any]) -> Iterator[Drawing]:
    """Yield a `Drawing` on the workers of the scheduler at `address`, tcp://host:8786, for this block.

    `train` is the section that the generator was built by. Workers need this version of anyres. They draw on the kind of device
    that the generator is on. Their values equal those of this machine up to rounding, which is hardly ever visible in bytes. If a
    worker is lost, others draw its passes.

    Raises ValueError, one line, if the package distributed is missing or a worker has another version; ConnectionError, one line,
    if the scheduler does not answer or has no worker for some seconds, at the start or later.
    """
    try:
        import distributed
    except ModuleNotFoundError:
        raise ValueError("drawing on Dask workers needs the package distributed; install anyres[dask]") from None
    with _silence(), _client(distributed, address) as client:
        _check_workers(client, address)
        yield _WorkerDrawing(client, address, generator, train)


class _WorkerDrawing:
    """A `Drawing` on the workers of a client's scheduler."""

    def __init__(self, client: Client, address: str, generator: Generator, train: Mapping[str, Any]) -> None:
        from safetensors.torch import save

        self.client, self.address = client, address
        self.name, self.number = uuid.uuid4().hex, 0
        self.threads, self.last_answer, self.last_check = 0, time.monotonic(), -float("inf")
        self.preloads: dict[str, Future] = {}
        weights = {name: value.detach().cpu().contiguous() for name, value in generator.state_dict().items()}
        self.bundle = self._stored(
            {
                "weights": save(weights),
                "train": dict(train),
                "half_extent": generator.geometry.chart.half_extent,
                "sha256": tensors_of(generator),
                "device": device_of(generator).type,
                "code": code_version(__name__),
            }
        )

    def __call__(
        self,
        generator: Generator,
        scene: Scene,
        passes: Iterable[Sequence[Window]],
        psi: float,
        edit: Edit | None,
        final: bool,
    ) -> Iterator[Tensor]:
        """Submit passes ahead, a bounded number of them, and yield their values in order."""
        from distributed.protocol.pickle import dumps

        subject = self._stored(dumps((scene, psi, edit)))
        submitted: deque[Future] = deque()
        for windows in passes:
            places = [(window.center, window.period, window.size) for window in windows]
            submitted.append(self._submit(_on_worker(), "draw_pass", self.bundle, subject, places, final))
            while len(submitted) >= self._ahead():
                yield self._values(submitted.popleft(), final, device_of(generator))
        while submitted:
            yield self._values(submitted.popleft(), final, device_of(generator))

    def _stored(self, value: Any) -> Future:
        """Store a value in the Dask graph, for other tasks to use."""
        return self._submit(_identity(), value)

    def _submit(self, function: Callable[..., Any], *arguments: Any, workers: Sequence[str] | None = None) -> Future:
        self.number += 1
        key = f"anyres-{self.name}-{self.number}"
        try:
            return self.client.submit(function, *arguments, key=key, pure=False, workers=workers)
        # A closed client raises a bare Exception.
        except Exception as error:  # noqa: BLE001
            raise ConnectionError(
                f"{self.address}: no pass can be submitted any more ({_line(error)}); run the command again"
            ) from None

    def _values(self, future: Future, final: bool, device: torch.device) -> Tensor:
        """Wait for a pass and return its values (b, 3, h, w)."""
        pixels = np.require(self._result(future), requirements="W")
        return from_uint8(pixels, device) if final else torch.from_numpy(pixels).to(device)

    def _result(self, future: Future) -> np.ndarray:
        """Wait for a task and return its result. Raises the error of the worker, and ConnectionError if all workers are gone."""
        from distributed import KilledWorker

        fetching_s = FETCH_S
        try:
            while True:
                try:
                    future.exception(timeout=LOOK_S)
                    self.last_answer = time.monotonic()
                    return future.result(timeout=fetching_s)
                except TimeoutError:
                    if future.status == "error":
                        raise
                    # A pass that is finished but not fetched was lost and is drawn again, or the network is slow.
                    fetching_s *= 2 if future.status == "finished" else 1
                    self._check()
        except CancelledError:
            raise ConnectionError(f"{self.address}: the connection to the scheduler was lost; run the command again") from None
        except KilledWorker as killed:
            raise OSError(
                f"{self.address}: several workers ended one after the other while drawing one pass, the last at "
                f"{killed.last_worker.address}; read its log, often it ran out of memory"
            ) from None
        except ImportError as error:
            raise OSError(f"{self.address}: a worker cannot draw ({error}); install anyres {__version__} there") from None

    def _ahead(self) -> int:
        """How many passes to have submitted at once."""
        if time.monotonic() - self.last_check > WORKERS_S:
            self._check()
        return max(AHEAD * self.threads, 1)

    def _check(self) -> None:
        """Count the threads of the workers and preload new workers. Raises ConnectionError if there are none for too long."""
        threads = _threads(self.client, self.address)
        self.threads, self.last_check = sum(threads.values()), time.monotonic()
        # Dask prefers workers that hold the generator; a new worker would idle until it steals a task.
        self.preloads = {
            worker: self.preloads.get(worker) or self._submit(_on_worker(), "preload", self.bundle, workers=[worker])
            for worker in threads
        }
        if self.threads:
            self.last_answer = self.last_check
        elif self.last_check - self.last_answer > WORKERS_S:
            raise ConnectionError(f"{self.address}: all workers are gone; start some, and run the command again")


# ---- on a worker


def draw_pass(bundle: Mapping[str, Any], subject: bytes, windows: Sequence[tuple[Any, float, Any]], final: bool) -> np.ndarray:
    """Draw one pass on a worker: uint8 (b, h, w, 3) if final, else float32 (b, 3, h, w).

    Raises OSError, one line, if the worker has another version or lacks the kind of device.
    """
    generator = _load(bundle)
    scene, psi, edit = _unpack(subject)
    (values,) = draw_in_process(generator, scene, [[Window(*window) for window in windows]], psi, edit)
    return to_uint8(values) if final else values.float().cpu().numpy()


def preload(bundle: Mapping[str, Any]) -> None:
    """Load the generator into the cache. Raises what `draw_pass` raises."""
    _load(bundle)


def facts() -> dict[str, str]:
    """Versions that must be equal for two processes to draw the same pixels."""
    python = ".".join(platform.python_version_tuple()[:2])
    return {"Python": python, "anyres": __version__, "torch": torch.__version__, "code of anyres": code_version(__name__)[:12]}


_generators: dict[tuple[str, str], Generator] = {}
_loading = threading.Lock()


def _load(bundle: Mapping[str, Any]) -> Generator:
    """Return the generator of a bundle, from the cache if possible. Raises OSError, one line, if it would draw other pixels."""
    if code_version(__name__) != bundle["code"]:
        raise OSError(f"{_here()} has another version of anyres or torch; install the versions of the client there")
    key = (bundle["sha256"], bundle["device"])
    with _loading:
        if key not in _generators:
            generator = _build(bundle)
            while len(_generators) >= CACHE_SIZE:
                del _generators[next(iter(_generators))]
            _generators[key] = generator
        return _generators[key]


def _build(bundle: Mapping[str, Any]) -> Generator:
    from safetensors.torch import load

    if bundle["device"] == "cuda" and not torch.cuda.is_available():
        raise OSError(f"{_here()} has no GPU that torch can use, but the model is on one; load the model on the CPU")
    params, half_extent = Train.model_validate(bundle["train"]), tuple(bundle["half_extent"])
    generator = restore(params, half_extent, load(bundle["weights"]), bundle["device"])
    if tensors_of(generator) != bundle["sha256"]:
        raise OSError(f"{_here()} built a generator that differs from the one it was sent; install the same versions there")
    return generator


@lru_cache(maxsize=CACHE_SIZE)
def _unpack(subject: bytes) -> tuple[Scene, float, Edit | None]:
    from distributed.protocol.pickle import loads

    return loads(subject)


def _here() -> str:
    from distributed import get_worker

    return f"the worker at {get_worker().address}"


# ---- on the client


def _on_worker() -> Callable[..., Any]:
    """Return a function that calls a function of this module on a worker. A nested function is pickled by value."""

    def call(name: str, *arguments: Any) -> Any:
        from anyres.synthesis import dask_workers

        return getattr(dask_workers, name)(*arguments)

    return call


def _identity() -> Callable[[Any], Any]:
    def same(value: Any) -> Any:
        return value

    return same


@contextlib.contextmanager
def _client(distributed: Any, address: str) -> Iterator[Client]:
    """Yield a client of the scheduler and close it at the end."""
    import dask.config

    # The weights are in the graph on purpose: scattered data is lost with the last worker that has it.
    with dask.config.set({"distributed.admin.large-graph-warning-threshold": "16GiB"}):
        try:
            # Client() would wait forever for a server that accepts the connection and sends nothing.
            with ThreadPoolExecutor(1) as thread:
                thread.submit(asyncio.run, _greet(address)).result()
            client = distributed.Client(address, timeout=ANSWER_S, set_as_default=False)
        except (OSError, ValueError, TypeError, ImportError, MemoryError) as error:
            raise ConnectionError(
                f"{address}: no Dask scheduler answers there ({_line(error)}); correct the address, or run `dask scheduler` there"
            ) from None
        try:
            yield client
        finally:
            # close() releases the tasks at the scheduler; a scheduler that is gone has none.
            with contextlib.suppress(TimeoutError, OSError):
                client.close(timeout=2)


async def _greet(address: str) -> None:
    """Connect to an address as a Dask client, and disconnect."""
    from distributed.comm.core import connect
    from distributed.security import Security

    async def shake() -> None:
        comm = await connect(address, timeout=ANSWER_S, **Security().get_connection_args("client"))
        comm.abort()

    await asyncio.wait_for(shake(), ANSWER_S)


def _check_workers(client: Client, address: str) -> None:
    """Wait for workers and compare their versions with this process. The first pass of a slow worker checks it again."""
    until = time.monotonic() + WORKERS_S
    while not (threads := _threads(client, address)):
        if time.monotonic() > until:
            raise ConnectionError(f"{address}: the scheduler has no workers; start some with `dask worker {address}`")
        time.sleep(LOOK_S / 5)
    name = uuid.uuid4().hex
    futures = {
        worker: client.submit(_on_worker(), "facts", workers=[worker], key=f"anyres-{name}-{number}", pure=False, priority=1000)
        for number, worker in enumerate(threads)
    }
    here, until = facts(), time.monotonic() + WORKERS_S
    for worker, future in futures.items():
        try:
            there = future.result(timeout=max(until - time.monotonic(), LOOK_S / 5))
        except (TimeoutError, CancelledError):
            continue
        # Any error of an unknown environment.
        except Exception as error:  # noqa: BLE001
            raise ValueError(f"the worker at {worker} cannot draw ({_line(error)}); install anyres {__version__} there") from None
        for what, value in here.items():
            if there.get(what) != value:
                raise ValueError(
                    f"the worker at {worker} has {what} {there.get(what)}, here it is {value}; install the same there"
                )


def _threads(client: Client, address: str) -> Mapping[str, int]:
    """Return the number of threads of each worker. Raises ConnectionError if the scheduler does not answer."""
    try:
        threads: Any = client.nthreads(callback_timeout=ANSWER_S)
        return threads
    except Exception as error:  # noqa: BLE001 - a closed client raises a bare Exception
        raise ConnectionError(
            f"{address}: the scheduler does not answer any more; run the command again ({_line(error)})"
        ) from None


def _line(error: Any) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Let Dask write nothing beside the one line that is raised."""
    names = [name for name in logging.root.manager.loggerDict if name.split(".")[0] in ("distributed", "tornado")]
    before = {name: logging.getLogger(name).level for name in names}
    for name in names:
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)
