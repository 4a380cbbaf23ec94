"""Passes drawn by the workers of a Dask scheduler: those of one machine, handed out, and taken back in their order.

Workers share no disk with this process. What they draw from, a few megabytes, is part of the order to Dask, which keeps it
where it is needed and makes it anew where it was lost; what is sent with each pass are the windows. The scheduler needs Dask
alone: what is handed to it names nothing of this library.
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
from anyres.synthesis.render import Drawing, in_turn
from anyres.version import __version__

if TYPE_CHECKING:
    from distributed import Client, Future

# How long a scheduler may take to answer, and workers to come, or to come back.
ANSWER_S = 5.0
WORKERS_S = 6.0
# How often it is looked whether they are still there.
LOOK_S = 1.0
# How long fetching a pass may take before it is looked again, the first time.
FETCH_S = 8.0
# Passes that are ordered ahead of the one that is written next, for each thread of the workers: one is drawn, one waits.
AHEAD = 2
# Generators that a worker keeps.
KEPT = 2


@contextlib.contextmanager
def drawing_on(address: str, generator: Generator, train: Mapping[str, Any]) -> Iterator[Drawing]:
    """What draws passes of a generator on the workers of the scheduler at `address`, tcp://host:8786, within this block.

    `train` is the section that the generator was built by. Workers need this version of anyres; they draw on the kind of device
    that the generator is on. Their values are those of this machine up to rounding, which bytes hardly ever show. Those that
    are lost are drawn for by others. Raises ValueError, one line, where the package distributed is missing or a worker draws
    with another version; ConnectionError, one line, where the scheduler does not answer, or has had no worker for some
    seconds, then or later.
    """
    try:
        import distributed
    except ModuleNotFoundError:
        raise ValueError("drawing on Dask workers needs the package distributed; install anyres[dask]") from None
    with _silence(), _client(distributed, address) as client:
        _check_workers(client, address)
        yield _Crew(client, address, generator, train)


class _Crew:
    """A `Drawing` on the workers of a client's scheduler."""

    def __init__(self, client: Client, address: str, generator: Generator, train: Mapping[str, Any]) -> None:
        from safetensors.torch import save

        self.client, self.address = client, address
        self.name, self.number = uuid.uuid4().hex, 0
        self.threads, self.seen, self.looked = 0, time.monotonic(), -float("inf")
        self.ready: dict[str, Future] = {}
        weights = {name: value.detach().cpu().contiguous() for name, value in generator.state_dict().items()}
        self.bundle = self._kept(
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
        """Order passes some ahead, so that as many lie drawn at most, and wait for them in turn."""
        from distributed.protocol.pickle import dumps

        subject = self._kept(dumps((scene, psi, edit)))
        ordered: deque[Future] = deque()
        for windows in passes:
            plain = [(window.center, window.period, window.size) for window in windows]
            ordered.append(self._submitted(_on_worker(), "drawn", self.bundle, subject, plain, final))
            while len(ordered) >= self._ahead():
                yield self._values(ordered.popleft(), final, device_of(generator))
        while ordered:
            yield self._values(ordered.popleft(), final, device_of(generator))

    def _kept(self, value: Any) -> Future:
        """Something that workers have for the asking."""
        return self._submitted(_as_it_is(), value)

    def _submitted(self, function: Callable[..., Any], *arguments: Any, workers: Sequence[str] | None = None) -> Future:
        self.number += 1
        key = f"anyres-{self.name}-{self.number}"
        try:
            return self.client.submit(function, *arguments, key=key, pure=False, workers=workers)
        # A client that is closed raises an Exception, no more.
        except Exception as error:  # noqa: BLE001
            raise ConnectionError(f"{self.address}: no more can be ordered ({_line(error)}); give the command again") from None

    def _values(self, future: Future, final: bool, device: torch.device) -> Tensor:
        """The pictures of a pass, once it is drawn."""
        drawn = self._result(future)
        if final:
            return from_uint8(np.require(drawn, requirements="W"), device)
        return torch.from_numpy(np.require(drawn, requirements="W")).to(device)

    def _result(self, future: Future) -> np.ndarray:
        """What a worker returned. Raises what it raised, and ConnectionError where there is nobody left to wait for."""
        from distributed import KilledWorker

        fetching_s = FETCH_S
        try:
            while True:
                try:
                    future.exception(timeout=LOOK_S)
                    self.seen = time.monotonic()
                    return future.result(timeout=fetching_s)
                except TimeoutError:
                    if future.status == "error":
                        raise
                    # Between the two it may have been lost, and have to be drawn again; or the way is slow.
                    fetching_s *= 2 if future.status == "finished" else 1
                    self._look()
        except CancelledError:
            raise ConnectionError(f"{self.address}: the connection to the scheduler was lost; give the command again") from None
        except KilledWorker as killed:
            raise OSError(
                f"{self.address}: several workers ended one after the other while drawing one pass, the last at "
                f"{killed.last_worker.address}; see what ended them there, often it is memory"
            ) from None
        except ImportError as error:
            raise OSError(f"{self.address}: a worker cannot draw ({error}); install anyres {__version__} there") from None

    def _ahead(self) -> int:
        """How many passes are under way at once."""
        if time.monotonic() - self.looked > WORKERS_S:
            self._look()
        return max(AHEAD * self.threads, 1)

    def _look(self) -> None:
        """Count threads of workers, and make new ones ready. Raises ConnectionError where there are none for too long."""
        found = _threads(self.client, self.address)
        self.threads, self.looked = sum(found.values()), time.monotonic()
        # Dask gives passes to those who have what is drawn from; others would wait until some are stolen for them.
        self.ready = {
            worker: self.ready.get(worker) or self._submitted(_on_worker(), "ready", self.bundle, workers=[worker])
            for worker in found
        }
        if self.threads:
            self.seen = self.looked
        elif self.looked - self.seen > WORKERS_S:
            raise ConnectionError(f"{self.address}: all workers are gone; start some, and give the command again")


# ---- on the side of a worker


def drawn(bundle: Mapping[str, Any], subject: bytes, windows: Sequence[tuple[Any, float, Any]], final: bool) -> np.ndarray:
    """Draw one pass on a worker: uint8 (b, h, w, 3) where final, else float32 (b, 3, h, w).

    Raises OSError, one line, where another version draws there, or the kind of device is missing.
    """
    generator = _loaded(bundle)
    scene, psi, edit = _unpacked(subject)
    places = [Window(*window) for window in windows]
    (values,) = in_turn(generator, scene, [places], psi, edit)
    return to_uint8(values) if final else values.float().cpu().numpy()


def ready(bundle: Mapping[str, Any]) -> None:
    """Have what is drawn from at hand. Raises as `drawn`."""
    _loaded(bundle)


def facts() -> dict[str, str]:
    """What decides whether two processes draw alike."""
    python = ".".join(platform.python_version_tuple()[:2])
    return {"Python": python, "anyres": __version__, "torch": torch.__version__, "code of anyres": code_version(__name__)[:12]}


_generators: dict[tuple[str, str], Generator] = {}
_loading = threading.Lock()


def _loaded(bundle: Mapping[str, Any]) -> Generator:
    """The generator of a bundle, built once a process. Raises OSError, one line, where it would draw otherwise."""
    if code_version(__name__) != bundle["code"]:
        raise OSError(f"{_here()} draws with another version of anyres or torch; install there that of the others")
    key = (bundle["sha256"], bundle["device"])
    with _loading:
        if key not in _generators:
            found = _built(bundle)
            while len(_generators) >= KEPT:
                del _generators[next(iter(_generators))]
            _generators[key] = found
        return _generators[key]


def _built(bundle: Mapping[str, Any]) -> Generator:
    from safetensors.torch import load

    if bundle["device"] == "cuda" and not torch.cuda.is_available():
        raise OSError(f"{_here()} has no GPU that torch can use, as the drawing needs; load the model on the processor instead")
    params, half_extent = Train.model_validate(bundle["train"]), tuple(bundle["half_extent"])
    generator = restore(params, half_extent, load(bundle["weights"]), bundle["device"])
    if tensors_of(generator) != bundle["sha256"]:
        raise OSError(f"{_here()} built another generator than it was sent")
    return generator


@lru_cache(maxsize=KEPT)
def _unpacked(subject: bytes) -> tuple[Scene, float, Edit | None]:
    from distributed.protocol.pickle import loads

    return loads(subject)


def _here() -> str:
    from distributed import get_worker

    return f"the worker at {get_worker().address}"


# ---- on the side of the client


def _on_worker() -> Callable[..., Any]:
    """What calls a function of this module on a worker; itself it travels by value, as functions within functions do."""

    def call(name: str, *arguments: Any) -> Any:
        from anyres.synthesis import dask_workers

        return getattr(dask_workers, name)(*arguments)

    return call


def _as_it_is() -> Callable[[Any], Any]:
    def same(value: Any) -> Any:
        return value

    return same


@contextlib.contextmanager
def _client(distributed: Any, address: str) -> Iterator[Client]:
    """A client of the scheduler, closed at the end."""
    import dask.config

    # The weights belong to the graph on purpose: what is scattered is lost with the last worker that has it.
    with dask.config.set({"distributed.admin.large-graph-warning-threshold": "16GiB"}):
        try:
            # A client would wait for ever for one that accepts a connection and says nothing.
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
            # It tells the scheduler to forget what was ordered; one that is gone has done so.
            with contextlib.suppress(TimeoutError, OSError):
                client.close(timeout=2)


async def _greet(address: str) -> None:
    """Shake hands with whom is at an address."""
    from distributed.comm.core import connect
    from distributed.security import Security

    async def shake() -> None:
        comm = await connect(address, timeout=ANSWER_S, **Security().get_connection_args("client"))
        comm.abort()

    await asyncio.wait_for(shake(), ANSWER_S)


def _check_workers(client: Client, address: str) -> None:
    """Wait for workers, and compare with here what those draw with that say so at once; others are asked by their first pass."""
    until = time.monotonic() + WORKERS_S
    while not (found := _threads(client, address)):
        if time.monotonic() > until:
            raise ConnectionError(f"{address}: the scheduler has no workers; start some with `dask worker {address}`")
        time.sleep(LOOK_S / 5)
    name = uuid.uuid4().hex
    asked = {
        worker: client.submit(_on_worker(), "facts", workers=[worker], key=f"anyres-{name}-{number}", pure=False, priority=1000)
        for number, worker in enumerate(found)
    }
    here, until = facts(), time.monotonic() + WORKERS_S
    for worker, future in asked.items():
        try:
            there = future.result(timeout=max(until - time.monotonic(), LOOK_S / 5))
        except (TimeoutError, CancelledError):
            continue
        # Whatever goes wrong there, in the oddest environments.
        except Exception as error:  # noqa: BLE001
            raise ValueError(f"the worker at {worker} cannot draw ({_line(error)}); install anyres {__version__} there") from None
        for what, value in here.items():
            if there.get(what) != value:
                raise ValueError(
                    f"the worker at {worker} has {what} {there.get(what)}, here it is {value}; install the same there"
                )


def _threads(client: Client, address: str) -> Mapping[str, int]:
    """Threads of each worker. Raises ConnectionError where the scheduler does not say."""
    try:
        return client.nthreads(callback_timeout=ANSWER_S)  # type: ignore[return-value]
    except Exception as error:  # noqa: BLE001 - a client that is closed raises an Exception, no more
        raise ConnectionError(
            f"{address}: the scheduler does not answer any more; give the command again ({_line(error)})"
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
