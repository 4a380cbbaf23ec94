"""What every stage shares: checks first, then one Prefect flow with one task over a plain function."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from anyres.params import Params, ParamsError
from anyres.progress import progress_bar
from pipelines.environment import Environment, EnvironmentVariableError, silence_telemetry
from pipelines.process import outcome
from pipelines.process.locks import LockedError, locked
from pipelines.process.supervise import end_on_signals

Work = Callable[[Params, Environment], None]
Each = Callable[[Callable[[Any], Any], Sequence[Any], str], Iterator[Any]]
ShardedWork = Callable[[Params, Environment, Each], None]

# Where stages meet on disk; dvc.yaml names the same places.
INGESTED = Path("data/ingested")
STORE = Path("data/store")
TRAINED = Path("out/train")
EVALUATION = Path("out/evaluation")
REPORT = Path("out/report")
BUNDLE = Path("out/export/generator")

# Time for a stage that is just being killed to let go.
STAGE_LOCK_WAIT_S = 30.0

# Prefect's concurrency limit on stages that compute on accelerators, where there is one; a holder that is killed loses
# its slot when its lease ends.
GPU_LIMIT = "anyres-gpu"
GPU_LEASE_S = 60.0


class StageError(RuntimeError):
    """A stage cannot go on; the message is one line for a person.

    `code` becomes the exit code. `retryable`: the cause may be gone at another attempt (a killed process, a server that is
    away); what a person has to cure is not. `reason`: what was said of it already, for those who did not hear.
    """

    def __init__(self, message: str, code: int = 1, retryable: bool = False, reason: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.retryable = retryable
        self.reason = reason

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self), self.code, self.retryable, self.reason)


def checked() -> tuple[Params, Environment]:
    """Read params.yaml and ANYRES_*; where one is wrong, print one line and exit with 2, nothing written."""
    try:
        return Params.load(), Environment.read()
    except (ParamsError, EnvironmentVariableError) as problem:
        print(problem, file=sys.stderr)
        raise SystemExit(2) from None


def main(name: str, work: Work | ShardedWork, sharded: bool = False, on_gpu: bool = False) -> int:
    """Run stage `name` as a process: `work` in one Prefect flow, its shards in tasks. Returns the exit code.

    A stage `on_gpu` takes a slot of GPU_LIMIT, where the API has that limit.
    """
    params, environment = checked()
    silence_telemetry()
    end_on_signals()
    from pipelines.process.private_api import ApiError, ensure_prefect_api

    try:
        with locked(name, STAGE_LOCK_WAIT_S):
            outcome.clear(name)
            ensure_prefect_api()
            if sharded:
                run_in_shards(name, work, params, environment)  # type: ignore[arg-type]
            else:
                run_as_flow(name, work, params, environment, on_gpu)  # type: ignore[arg-type]
    except (StageError, ApiError) as error:
        print(f"{name}: {error}", file=sys.stderr)
        reason = getattr(error, "reason", "") or str(error)
        outcome.write(name, reason, retryable=not isinstance(error, StageError) or error.retryable)
        return getattr(error, "code", 1)
    except (ValueError, LockedError) as error:
        # The library's errors for users are ValueErrors of one line; ANYRES-developers see the whole with DEBUG.
        if os.environ.get("PREFECT_LOGGING_LEVEL") == "DEBUG" or "\n" in str(error):
            raise
        print(f"{name}: {error}", file=sys.stderr)
        outcome.write(name, str(error), retryable=isinstance(error, LockedError))
        return 1
    except KeyboardInterrupt:
        print(f"{name}: interrupted", file=sys.stderr)
        return 130
    return 0


def run_as_flow(name: str, work: Work, params: Params, environment: Environment, on_gpu: bool = False) -> None:
    """Run `work` as the one task of a Prefect flow called `name`; exceptions pass through."""
    from prefect import flow, task
    from prefect.cache_policies import NO_CACHE
    from prefect.concurrency.sync import concurrency

    # DVC alone decides what is out of date: a cached task would skip files that DVC has just deleted.
    @task(name=name, cache_policy=NO_CACHE)
    def step() -> None:
        end_on_signals()
        with concurrency(GPU_LIMIT, lease_duration=GPU_LEASE_S) if on_gpu else contextlib.nullcontext():
            work(params, environment)

    @flow(name=name)
    def stage() -> None:
        step()

    stage()


def run_in_shards(name: str, work: ShardedWork, params: Params, environment: Environment) -> None:
    """Run `work` in a Prefect flow called `name` with a function `each(function, items, unit)`.

    That runs `function(item)` for every item as a Prefect task on Dask, on processes of this machine or on the workers
    of ANYRES_DASK_ADDRESS, and yields the results in order, with a progress bar.
    """
    import dask.config
    from prefect import flow, task
    from prefect.cache_policies import NO_CACHE
    from prefect_dask.task_runners import DaskTaskRunner

    # Workers start processes of their own, for decoders.
    dask.config.set({"distributed.worker.daemon": False, "temporary-directory": str(environment.work)})
    here = {
        "n_workers": environment.num_workers or os.cpu_count() or 1,
        "threads_per_worker": 1,
        "dashboard_address": None,
        "silence_logs": logging.ERROR,
    }
    address = environment.dask_address
    runner = DaskTaskRunner(address=address) if address else DaskTaskRunner(cluster_kwargs=here)

    @task(task_run_name=name + " {number}", cache_policy=NO_CACHE)
    def shard(number: int, function: Callable[[Any], Any], item: Any) -> Any:
        return function(item)

    def each(function: Callable[[Any], Any], items: Sequence[Any], unit: str) -> Iterator[Any]:
        futures = [shard.submit(number, function, item) for number, item in enumerate(items)]
        with progress_bar(name, len(items), unit) as advance:
            for future in futures:
                yield future.result()
                advance(1)

    @flow(name=name, task_runner=runner)  # type: ignore[arg-type]
    def stage() -> None:
        end_on_signals()
        work(params, environment, each)

    stage()


@contextlib.contextmanager
def exclusive(name: str, identity: str, environment: Environment) -> Iterator[None]:
    """Hold what `identity` names among all working copies that share ANYRES_RUNS_DIR, after another one's end."""
    folder = environment.runs_dir / "locks"
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locked(identity, 0.0, folder))
        except LockedError:
            print(f"{name}: another working copy is at the same, {identity}; waiting for it", flush=True)
            stack.enter_context(locked(identity, math.inf, folder))
        yield


@contextlib.contextmanager
def atomic_directory(folder: Path) -> Iterator[Path]:
    """Yield an empty folder that takes the place of `folder` when the block ends well, and vanishes otherwise."""
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        yield part
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    shutil.rmtree(folder, ignore_errors=True)
    part.replace(folder)
