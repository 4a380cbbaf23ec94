"""The whole pipeline: one Prefect task per DVC stage, in the order of DVC's graph. `python -m pipelines.flow`."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from anyres.params import Params
from pipelines.environment import Environment, interpreter_path, silence_telemetry
from pipelines.process.locks import LockedError, last_held, locked
from pipelines.process.outcome import read_outcome
from pipelines.process.private_api import ApiError
from pipelines.process.supervise import end_on_signals, supervised_process
from pipelines.stage import BUNDLE, REPORT, StageError, checked


def main() -> int:
    """Run what is out of date, register the result, say where to look. Returns the exit code."""
    params, environment = checked()
    silence_telemetry()
    end_on_signals()
    try:
        check_source(params)
        with locked("flow", wait_s=0.0):
            shared = use_remote(environment)
            graph, changed = read_graph()
            if changed:
                run_stages(graph, *(["--pull"] if shared else []))
            else:
                print("nothing has changed since the last run")
            verdict = register(params, environment, quiet=not changed)
        print(where_to_look(params, environment, verdict))
    except (StageError, LockedError, ApiError) as error:
        print(f"flow: {error}", file=sys.stderr)
        return getattr(error, "code", 1)
    except KeyboardInterrupt:
        print("flow: interrupted; run again to go on", file=sys.stderr)
        return 130
    return 0


def check_source(params: Params) -> None:
    """Raise StageError where the user's folder is missing: DVC would speak of a missing dependency."""
    if "://" not in params.ingest.folder and not Path(params.ingest.folder).is_dir():
        raise StageError(f"params.yaml: ingest.folder: no such folder: {params.ingest.folder}; create it or correct the path", 2)


def use_remote(environment: Environment) -> bool:
    """Tell DVC of its cache and remote where the environment names them; return whether there is a remote to ask.

    One that is away costs a line: outputs stay here, and can be sent later.
    """
    from pipelines.services import dvc_remote

    try:
        dvc_remote.configure(environment)
    except dvc_remote.RemoteError as error:
        raise StageError(str(error), 2) from error
    try:
        dvc_remote.check(environment)
    except dvc_remote.RemoteError as error:
        print(f"flow: {error}; going on without it, `make push` sends outputs later", file=sys.stderr)
        return False
    return environment.dvc_remote is not None


def read_graph() -> tuple[dict[str, list[str]], bool]:
    """Return the stages with those that each needs, from dvc.yaml, and whether anything is out of date."""
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        with Repo(".") as repo:
            graph = repo.index.graph
            # Edges point from a stage to those it needs.
            needs = {stage.addressing: [other.addressing for other in graph.successors(stage)] for stage in graph}
            return needs, bool(repo.status())
    except DvcException as error:
        raise StageError(" ".join(str(error).split())) from error


def read_needs(target: str | None = None) -> dict[str, list[str]]:
    """Return the stages with those that each needs, from dvc.yaml; of `target`, where it is given, and all behind it."""
    needs = read_graph()[0]
    if target is None:
        return needs
    if target not in needs:
        raise StageError(f"stage {target}: dvc.yaml has no such stage; use one of {', '.join(in_order(needs))}", 2)
    wanted, found = [target], set[str]()
    while wanted:
        name = wanted.pop()
        found.add(name)
        wanted += needs[name]
    return {name: others for name, others in needs.items() if name in found}


def run_stages(needs: Mapping[str, list[str]], *options: str) -> None:
    """Run every stage after those that it needs, independent ones side by side; raise StageError where one fails.

    `options` go to `dvc repro`.
    """
    from pipelines.process.private_api import ensure_prefect_api

    ensure_prefect_api()
    from prefect import flow, task
    from prefect.cache_policies import NO_CACHE
    from prefect.task_runners import ThreadPoolTaskRunner

    @task(task_run_name="{name}", cache_policy=NO_CACHE)
    def stage(name: str) -> None:
        reproduce(name, *options)

    @flow(name="anyres", task_runner=ThreadPoolTaskRunner(max_workers=len(needs)))  # type: ignore[arg-type]
    def anyres() -> None:
        end_on_signals()
        futures: dict[str, Any] = {}
        for name in in_order(needs):
            futures[name] = stage.submit(name, wait_for=[futures[other] for other in needs[name]])  # type: ignore[call-overload]
        for future in futures.values():
            future.wait()
        # A stage that failed says so; those behind it never ran and would hide it.
        for future in futures.values():
            if future.state.is_failed() or future.state.is_crashed():
                future.result()

    anyres()


def in_order(needs: Mapping[str, list[str]]) -> list[str]:
    """Stages so that each stands behind those it needs."""
    order: list[str] = []
    while len(order) < len(needs):
        order += sorted(name for name in needs if name not in order and all(other in order for other in needs[name]))
    return order


def reproduce(name: str, *options: str, timeout_s: float | None = None) -> bool:
    """`dvc repro` one stage, its words and progress bars on our terminal; return whether it ran. Raises StageError.

    A stage that takes longer than `timeout_s` is ended, its checkpoint saved.
    """
    environ = {**os.environ, "PATH": interpreter_path()}
    # Quiet: DVC's remarks on its own bookkeeping are of no use in the middle of a run.
    command = [sys.executable, "-m", "dvc", "repro", "--quiet", "--single-item", *options, name]
    started, before = time.monotonic(), last_held(name)
    print(f"{name}: started", flush=True)
    with supervised_process(command, environ) as process:
        try:
            code = process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise StageError(f"stage {name} took longer than {timeout_s:g} s; allow more, or make it smaller") from None
    seconds = time.monotonic() - started
    # A stage that runs takes its lock; one that DVC finds unchanged or in its cache does not.
    ran = last_held(name) > before
    if code and not ran:
        # Not the stage failed, but DVC before it: only then are its own words wanted.
        with supervised_process([word for word in command if word != "--quiet"], environ) as process:
            code = process.wait()
    if code:
        retryable = ran and read_outcome(name)[1]
        raise StageError(f"stage {name} failed after {seconds:.0f} s, for the reason above", code, retryable)
    print(f"{name}: {'done' if ran else 'cached'} in {seconds:.0f} s", flush=True)
    return ran


def register(params: Params, environment: Environment, quiet: bool) -> str:
    """Make sure that the bundle is registered; return a line that says so."""
    from pipelines.services.registration import ensure_registered
    from pipelines.services.tracking import TrackingError

    try:
        return ensure_registered(params, environment)
    except TrackingError as error:
        raise StageError(f"the bundle in {BUNDLE} is complete but not registered: {error}", retryable=True) from error


def where_to_look(params: Params, environment: Environment, verdict: str) -> str:
    """What a person does next, as lines of text."""
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
