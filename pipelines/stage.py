"""What all stages share: a stage's process checks its settings, then runs a plain function in a Prefect flow."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from anyres.params import Params, ParamsError
from anyres.progress import progress_bar
from pipelines.environment import Environment, EnvironmentVariableError, silence_telemetry
from pipelines.process import outcome
from pipelines.process.locks import LockedError, locked
from pipelines.process.supervise import end_on_signals

if TYPE_CHECKING:
    from prefect import Task
    from prefect.futures import PrefectFuture
    from prefect.task_runners import TaskRunner

StageFunction = Callable[[Params, Environment], None]
MapShards = Callable[[Callable[[Any], Any], Sequence[Any], str], Iterator[Any]]
ShardedStageFunction = Callable[[Params, Environment, MapShards], None]

# Outputs of the stages; dvc.yaml names the same paths.
INGESTED = Path("data/ingested")
STORE = Path("data/store")
TRAINED = Path("out/train")
EVALUATION = Path("out/evaluation")
REPORT = Path("out/report")
BUNDLE = Path("out/export/generator")

# Time for a stage that is being killed to release its lock.
STAGE_LOCK_WAIT_S = 30.0

# Prefect's concurrency limit on stages that compute on accelerators, if the API has it. A killed process loses its slot when its
# lease ends.
GPU_LIMIT = "anyres-gpu"
GPU_LEASE_S = 60.0


class StageError(RuntimeError):
    """A stage failed; the message is one line for a person.

    `code` becomes the exit code. `retryable`: a retry may succeed (a killed process, an unreachable server), because no
    person has to correct anything. `reason`: the line that the stage's own processes already printed, for the outcome file.
    """

    def __init__(self, message: str, code: int = 1, retryable: bool = False, reason: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.retryable = retryable
        self.reason = reason

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self), self.code, self.retryable, self.reason)


def read_settings() -> tuple[Params, Environment]:
    """Read params.yaml and ANYRES_* variables. If a value is wrong, print one line and exit with 2; nothing is written."""
    try:
        return Params.load(), Environment.read()
    except (ParamsError, EnvironmentVariableError) as error:
        print(error, file=sys.stderr)
        raise SystemExit(2) from None


def main(name: str, function: StageFunction, on_gpu: bool = False) -> int:
    """Run stage `name` as a process: `function` in one Prefect flow with one task. Returns the exit code.

    A stage `on_gpu` takes a slot of GPU_LIMIT, if the API has that limit.
    """
    return run_process(name, lambda params, environment: run_as_flow(name, function, params, environment, on_gpu))


def main_sharded(name: str, function: ShardedStageFunction) -> int:
    """Run stage `name` as a process: `function` in one Prefect flow, with one task per shard. Returns the exit code."""
    return run_process(name, lambda params, environment: run_in_shards(name, function, params, environment))


def run_process(name: str, run: StageFunction) -> int:
    """Call `run` with the settings, under the stage's lock; print errors in one line and write them to the outcome file."""
    params, environment = read_settings()
    silence_telemetry()
    end_on_signals()
    from pipelines.process.private_api import ApiError, ensure_prefect_api

    try:
        with locked(name, STAGE_LOCK_WAIT_S):
            outcome.clear(name)
            ensure_prefect_api()
            run(params, environment)
    except (StageError, ApiError) as error:
        print(f"{name}: {error}", file=sys.stderr)
        reason = getattr(error, "reason", "") or str(error)
        outcome.write(name, reason, retryable=not isinstance(error, StageError) or error.retryable)
        return getattr(error, "code", 1)
    except (ValueError, LockedError) as error:
        # The library's errors for users are ValueErrors of one line. Developers get the traceback with DEBUG.
        if os.environ.get("PREFECT_LOGGING_LEVEL") == "DEBUG" or "\n" in str(error):
            raise
        print(f"{name}: {error}", file=sys.stderr)
        outcome.write(name, str(error), retryable=isinstance(error, LockedError))
        return 1
    except KeyboardInterrupt:
        print(f"{name}: interrupted", file=sys.stderr)
        return 130
    return 0


def run_as_flow(name: str, function: StageFunction, params: Params, environment: Environment, on_gpu: bool = False) -> None:
    """Run `function` as the only task of a Prefect flow called `name`. Its exceptions are raised here."""
    from prefect import flow, task
    from prefect.cache_policies import NO_CACHE
    from prefect.concurrency.sync import concurrency

    # Only DVC decides what is out of date: a task from Prefect's cache would not write files that DVC has just deleted.
    @task(name=name, cache_policy=NO_CACHE)
    def step() -> None:
        end_on_signals()
        with concurrency(GPU_LIMIT, lease_duration=GPU_LEASE_S) if on_gpu else contextlib.nullcontext():
            function(params, environment)

    @flow(name=name)
    def stage() -> None:
        step()

    stage()


def run_in_shards(name: str, function: ShardedStageFunction, params: Params, environment: Environment) -> None:
    """Run `function` in a Prefect flow called `name`; its third argument is `map_shards(shard_function, items, unit)`.

    `map_shards` runs `shard_function(item)` for every item as a Prefect task on Dask: in processes of this machine, or on
    the workers of ANYRES_DASK_ADDRESS. It yields the results in order, with a progress bar.
    """
    import dask.config
    from prefect import flow, task
    from prefect.cache_policies import NO_CACHE
    from prefect_dask.task_runners import DaskTaskRunner

    # No daemons: workers start processes for decoders.
    dask.config.set({"distributed.worker.daemon": False, "temporary-directory": str(environment.work_folder)})
    local_cluster = {
        "n_workers": environment.num_workers or os.cpu_count() or 1,
        "threads_per_worker": 1,
        "dashboard_address": None,
        "silence_logs": logging.ERROR,
    }
    address = environment.dask_address
    runner = DaskTaskRunner(address=address) if address else DaskTaskRunner(cluster_kwargs=local_cluster)

    @task(task_run_name=name + " {number}", cache_policy=NO_CACHE)
    def shard(number: int, shard_function: Callable[[Any], Any], item: Any) -> Any:
        return shard_function(item)

    def map_shards(shard_function: Callable[[Any], Any], items: Sequence[Any], unit: str) -> Iterator[Any]:
        futures = [shard.submit(number, shard_function, item) for number, item in enumerate(items)]
        with progress_bar(name, len(items), unit) as advance:
            for future in futures:
                yield future.result()
                advance(1)

    @flow(name=name, task_runner=any_runner(runner))
    def stage() -> None:
        end_on_signals()
        function(params, environment, map_shards)

    stage()


def any_runner(runner: object) -> TaskRunner[PrefectFuture[Any]]:
    """Return a task runner as the type that `flow` takes: Prefect's runners have an invariant type parameter."""
    return cast("TaskRunner[PrefectFuture[Any]]", runner)


def submit_after(task: Task[..., Any], *arguments: Any, upstream: Sequence[Any]) -> PrefectFuture[Any]:
    """Submit a task that starts after the futures `upstream`: the types of `Task.submit` have no `wait_for` there."""
    return cast(Callable[..., "PrefectFuture[Any]"], task.submit)(*arguments, wait_for=upstream)


@contextlib.contextmanager
def exclusive(name: str, identity: str, environment: Environment) -> Iterator[None]:
    """Hold the lock `identity` among all working copies that share ANYRES_RUNS_DIR; wait while another one holds it."""
    folder = environment.runs_dir / "locks"
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locked(identity, 0.0, folder))
        except LockedError:
            print(f"{name}: another working copy is computing the same, {identity}; waiting for it", flush=True)
            stack.enter_context(locked(identity, math.inf, folder))
        yield


@contextlib.contextmanager
def atomic_directory(folder: Path) -> Iterator[Path]:
    """Yield an empty folder that replaces `folder` when the block succeeds, and is removed if the block raises."""
    partial = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    shutil.rmtree(folder, ignore_errors=True)
    partial.replace(folder)
