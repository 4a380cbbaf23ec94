"""`python -m pipelines.flow`: the whole pipeline, one Prefect task per DVC stage, in the order of DVC's graph."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

from anyres.params import Params
from pipelines.environment import Environment, interpreter_path, silence_telemetry
from pipelines.process.locks import LockedError, last_held, locked
from pipelines.process.outcome import read_outcome
from pipelines.process.private_api import ApiError
from pipelines.process.supervise import end_on_signals, supervised_process
from pipelines.stage import BUNDLE, REPORT, StageError, any_runner, read_settings, submit_after


def main() -> int:
    """Run the stages that are out of date, register the model, and print where the results are. Returns the exit code."""
    params, environment = read_settings()
    silence_telemetry()
    end_on_signals()
    try:
        check_source(params)
        with locked("flow", wait_s=0.0):
            has_remote = use_remote(environment)
            graph, changed = read_graph()
            if changed:
                run_stages(graph, *(["--pull"] if has_remote else []))
            else:
                print("nothing has changed since the last run")
            verdict = register(params, environment, quiet=not changed)
        print(next_steps(params, environment, verdict))
    except (StageError, LockedError, ApiError) as error:
        print(f"flow: {error}", file=sys.stderr)
        return getattr(error, "code", 1)
    except KeyboardInterrupt:
        print("flow: interrupted; run again to resume", file=sys.stderr)
        return 130
    return 0


def check_source(params: Params) -> None:
    """Raise StageError if the user's folder is missing. DVC would report only a missing dependency."""
    if "://" not in params.ingest.folder and not Path(params.ingest.folder).is_dir():
        raise StageError(f"params.yaml: ingest.folder: no such folder: {params.ingest.folder}; create it or correct the path", 2)


def use_remote(environment: Environment) -> bool:
    """Configure DVC's cache and remote from the environment; return whether a remote can be used.

    If the remote does not answer, print one line: outputs stay here and can be sent later.
    """
    from pipelines.services import dvc_remote

    try:
        dvc_remote.configure(environment)
    except dvc_remote.RemoteError as error:
        raise StageError(str(error), 2) from error
    try:
        dvc_remote.check(environment)
    except dvc_remote.RemoteError as error:
        print(f"flow: {error}; continuing without it, `make push` sends outputs later", file=sys.stderr)
        return False
    return environment.dvc_remote is not None


def read_graph() -> tuple[dict[str, list[str]], bool]:
    """Return every stage of dvc.yaml with the stages that it needs, and whether any stage is out of date."""
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        with Repo(".") as repo:
            graph = repo.index.graph
            # An edge points from a stage to a stage that it needs.
            needs = {stage.addressing: [other.addressing for other in graph.successors(stage)] for stage in graph}
            return needs, bool(repo.status())
    except DvcException as error:
        raise StageError(" ".join(str(error).split())) from error


def read_needs(target: str | None = None) -> dict[str, list[str]]:
    """Return every stage of dvc.yaml with the stages that it needs; with `target`, only that stage and all that it needs."""
    needs = read_graph()[0]
    if target is None:
        return needs
    if target not in needs:
        raise StageError(f"stage {target}: dvc.yaml has no such stage; use one of {', '.join(topological_order(needs))}", 2)
    pending, selected = [target], set[str]()
    while pending:
        name = pending.pop()
        selected.add(name)
        pending += needs[name]
    return {name: others for name, others in needs.items() if name in selected}


def run_stages(needs: Mapping[str, list[str]], *options: str) -> None:
    """Run every stage after the stages that it needs, independent stages in parallel; raise StageError if one fails.

    `options` are passed to `dvc repro`.
    """
    from pipelines.process.private_api import ensure_prefect_api

    ensure_prefect_api()
    from prefect import flow, task
    from prefect.cache_policies import NO_CACHE
    from prefect.task_runners import ThreadPoolTaskRunner

    @task(task_run_name="{name}", cache_policy=NO_CACHE)
    def stage(name: str) -> None:
        reproduce(name, *options)

    @flow(name="anyres", task_runner=any_runner(ThreadPoolTaskRunner(max_workers=len(needs))))
    def anyres() -> None:
        end_on_signals()
        futures: dict[str, Any] = {}
        for name in topological_order(needs):
            futures[name] = submit_after(stage, name, upstream=[futures[other] for other in needs[name]])
        for future in futures.values():
            future.wait()
        # Raise the error of the stage that failed. Later stages did not run; their states would hide it.
        for future in futures.values():
            if future.state.is_failed() or future.state.is_crashed():
                future.result()

    anyres()


def topological_order(needs: Mapping[str, list[str]]) -> list[str]:
    """Return the stages in an order that puts each after the stages that it needs; deterministic."""
    return list(TopologicalSorter({name: sorted(needs[name]) for name in sorted(needs)}).static_order())


def reproduce(name: str, *options: str, timeout_s: float | None = None) -> bool:
    """Run `dvc repro` for one stage, with its output on this terminal; return whether it ran. Raises StageError.

    A stage that takes longer than `timeout_s` is ended; a training then saves a checkpoint.
    """
    environ = {**os.environ, "PATH": interpreter_path()}
    # Quiet: DVC's messages about its lock file and cache are of no use in the middle of a run.
    command = [sys.executable, "-m", "dvc", "repro", "--quiet", "--single-item", *options, name]
    started, before = time.monotonic(), last_held(name)
    print(f"{name}: started", flush=True)
    with supervised_process(command, environ) as process:
        try:
            code = process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise StageError(f"stage {name} took longer than {timeout_s:g} s; raise the limit or reduce the stage") from None
    seconds = time.monotonic() - started
    # A stage that runs takes its lock. A stage that is unchanged or in DVC's cache does not.
    ran = last_held(name) > before
    if code and not ran:
        # DVC failed before the stage ran: run it again with its messages.
        with supervised_process([argument for argument in command if argument != "--quiet"], environ) as process:
            code = process.wait()
    if code:
        retryable = ran and read_outcome(name)[1]
        raise StageError(f"stage {name} failed after {seconds:.0f} s, for the reason above", code, retryable)
    print(f"{name}: {'done' if ran else 'cached'} in {seconds:.0f} s", flush=True)
    return ran


def register(params: Params, environment: Environment, quiet: bool) -> str:
    """Register the bundle if it is not registered yet; return a line that says what was done."""
    from pipelines.services.registration import ensure_registered
    from pipelines.services.tracking import TrackingError

    try:
        return ensure_registered(params, environment)
    except TrackingError as error:
        raise StageError(f"the bundle in {BUNDLE} is complete but not registered: {error}", retryable=True) from error


def next_steps(params: Params, environment: Environment, verdict: str) -> str:
    """Return lines of text that show how to use the results."""
    mlflow = os.path.relpath(Path(sys.executable).with_name("mlflow"))
    return f"""
{verdict}

report   {REPORT}/index.html
runs     {mlflow} ui --backend-store-uri {environment.tracking_uri}
model    mlflow.pyfunc.load_model("models:/{params.export.name}@champion"), or from here:

         import anyres
         model = anyres.load("{BUNDLE}")
         picture = model.render(seed=4, window=anyres.Window(center=(0.0, 0.0), period=2 / 256, size=(256, 256)))
"""


if __name__ == "__main__":
    sys.exit(main())
