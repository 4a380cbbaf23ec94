"""The pipeline as Prefect deploys it: the flow that infra/prefect.yaml names. A run has a working copy of its own."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, cast

from prefect import allow_failure, flow, task
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterParentFlowRunId
from prefect.client.schemas.objects import FlowRun, State, TaskRun
from prefect.deployments import run_deployment
from prefect.futures import PrefectFuture
from prefect.runtime import flow_run
from prefect.states import Cancelling
from prefect.task_runners import ThreadPoolTaskRunner
from prefect.tasks import exponential_backoff
from pydantic import Field

from anyres.params import Params, ParamsError
from pipelines.deployment import run_page
from pipelines.deployment.overrides import override
from pipelines.environment import Environment, EnvironmentVariableError, silence_telemetry
from pipelines.flow import check_source, in_order, read_needs, register, reproduce
from pipelines.process.locks import locked
from pipelines.process.outcome import read_outcome
from pipelines.process.supervise import is_ending, releasing
from pipelines.services import dvc_remote
from pipelines.stage import StageError

RETRIES = 3
BACKOFF_S = 10
# One more thread than there are stages never hurts; the graph decides what runs side by side.
THREADS = 8


def may_pass(_task: object, _run: TaskRun, state: State[Any]) -> bool:
    """Whether another attempt at a task may go well: its process was killed or crashed, or a server was away.

    Not where the whole run was told to end: that ended the task's process too.
    """
    error = state.result(raise_on_failure=False)
    return not is_ending() and bool(getattr(error, "retryable", False))


# Prefect's cache would skip writing files that DVC has just deleted.
Patient = dict[str, Any]
PATIENT: Patient = {
    "cache_policy": NO_CACHE,
    "retries": RETRIES,
    "retry_delay_seconds": exponential_backoff(BACKOFF_S),
    "retry_jitter_factor": 0.2,
    "retry_condition_fn": may_pass,
}


@task(**PATIENT)
def reach_remote() -> None:
    """Find out now, not after hours of work, that outputs cannot be sent."""
    dvc_remote.check(Environment.read())


@task(task_run_name="{name}", **PATIENT)
def make(name: str, timeout_s: float) -> bool:
    """Reproduce one stage and show on the run's page what came out; return whether it ran, or a cache held the same."""
    options = ["--pull"] if Environment.read().dvc_remote else []
    try:
        ran = reproduce(name, *options, timeout_s=timeout_s)
    except StageError as error:
        line = read_outcome(name)[0].removeprefix(f"{name}: ")
        raise StageError(f"{name}: {line}" if line else str(error), error.code, error.retryable) from error
    run_page.show(name)
    return ran


@task(task_run_name="push {name}", **PATIENT)
def push(name: str, ran: bool) -> bool:
    """Send to the remote what there is, if stage `name` ran; return whether it did."""
    if ran:
        print(f"{name}: {dvc_remote.push(Environment.read())}")
    return ran


@task(**PATIENT)
def enter(name: str) -> str:
    """Register the bundle that `name` made."""
    params, environment = Params.load(), Environment.read()
    verdict = register(params, environment, quiet=False)
    print(verdict)
    run_page.show_links(params, environment, verdict)
    return verdict


@task(task_run_name="{name}", cache_policy=NO_CACHE)
def make_elsewhere(name: str, deployment: str, parameters: dict[str, Any]) -> None:
    """Run one stage as its own deployment, on whichever worker serves that, and wait for it."""
    run = cast(FlowRun, run_deployment(deployment, parameters=parameters, timeout=None))
    state = run.state
    if state is None or not state.is_completed():
        raise StageError(f"{name}: {deployment} ended as {state.name if state else 'nothing'}: {state.message if state else ''}")


def cancel_stages(_flow: object, run: FlowRun, _state: State[Any]) -> None:
    """Cancel what a cancelled run gave to other deployments: Prefect leaves it running."""
    given = FlowRunFilter(parent_flow_run_id=FlowRunFilterParentFlowRunId(any_=[run.id]))
    with get_client(sync_client=True) as client:
        for child in client.read_flow_runs(flow_run_filter=given):
            if child.state is not None and not child.state.is_final():
                client.set_flow_run_state(child.id, Cancelling())


@flow(  # type: ignore[arg-type]
    name="anyres",
    task_runner=ThreadPoolTaskRunner(max_workers=THREADS),  # type: ignore[arg-type]
    log_prints=True,
    on_cancellation=[cancel_stages],  # type: ignore[list-item]
)
def anyres(
    stage: str | None = None,
    overrides: list[str] | None = None,
    spread: str | None = None,
    timeout_hours: Annotated[float, Field(gt=0)] = 72.0,
) -> str:
    """Run the pipeline: what is out of date, in the order of dvc.yaml, then register the model.

    stage: only this one and those that it needs. overrides: values of params.yaml for this run, such as train.kimg=500.
    spread: give each stage to the deployment whose name is made of this, such as {stage}-gpu, in place of running it here.
    timeout_hours: for a stage.
    """
    silence_telemetry()
    keep_outside()
    try:
        override(Path("params.yaml"), overrides or [])
        params, environment = Params.load(), Environment.read()
    except (ParamsError, EnvironmentVariableError) as error:
        raise StageError(str(error), 2) from None
    check_source(params)
    # Two runs in one working copy, where somebody deploys it so: one after the other.
    with releasing(), locked("flow", math.inf):
        dvc_remote.configure(environment)
        needs = read_needs(stage)
        if spread:
            given = {"overrides": overrides or [], "timeout_hours": timeout_hours}
            run_all(needs, lambda name, before: hand_out(name, before, f"anyres/{spread.format(stage=name)}", given))
            return "done by the deployments of the stages"
        if environment.dvc_remote:
            reach_remote()
        sent = run_all(needs, lambda name, before: here(name, before, timeout_hours * 3600, bool(environment.dvc_remote)))
        if environment.dvc_remote and not any(sent):
            # Of an earlier run that could not send what it made.
            push("all", True)
        verdict = enter("export") if "export" in needs else f"{stage}: done"
    tidy(environment)
    return verdict


Futures = list[PrefectFuture[Any]]


def here(name: str, before: list[Any], timeout_s: float, sends: bool) -> Futures:
    """Submit a stage to this working copy; what it made is sent before the next begins: DVC does one thing at a time."""
    made = make.submit(name, timeout_s, wait_for=before)  # type: ignore[call-overload]
    return [made, push.submit(name, made)] if sends else [made]


def hand_out(name: str, before: list[Any], deployment: str, given: Mapping[str, Any]) -> Futures:
    """Submit a stage to its own deployment."""
    return [make_elsewhere.submit(name, deployment, {"stage": name, **given}, wait_for=before)]  # type: ignore[call-overload]


def run_all(needs: Mapping[str, list[str]], submit: Callable[[str, list[Any]], Futures]) -> list[Any]:
    """Submit every stage behind those that it needs; when all has ended, return the result of each stage's last task.

    Raises what the first failure says. What cannot be sent holds up no later stage: it stays in the cache.
    """
    futures: dict[str, Futures] = {}
    for name in in_order(needs):
        before = [
            future if place == 0 else allow_failure(future)
            for other in needs[name]
            for place, future in enumerate(futures[other])
        ]
        futures[name] = submit(name, before)
    flat = [future for group in futures.values() for future in group]
    for future in flat:
        future.wait()
    # A stage that failed says so; those behind it never ran and would hide it.
    for future in flat:
        if future.state.is_failed() or future.state.is_crashed():
            future.result()
    return [group[-1].result() for group in futures.values()]


def tidy(environment: Environment) -> None:
    """Empty the working copy of a run that is done, where it is this run's alone: DVC's cache holds what it made."""
    work = environment.work
    here = Path.cwd()
    if here.name != str(flow_run.id):
        return
    for path in (work, *here.iterdir()):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def keep_outside() -> None:
    """Where a machine says nothing else, keep in ANYRES_CACHE_DIR what must outlive a run: its working copy does not."""
    users = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "anyres"
    folder = Path(os.environ.setdefault("ANYRES_CACHE_DIR", str(users))).expanduser().absolute()
    places = {
        "ANYRES_RUNS_DIR": folder / "runs",
        "ANYRES_DVC_CACHE": folder / "dvc",
        "ANYRES_ARTIFACT_ROOT": folder / "mlartifacts",
        "ANYRES_TRACKING_URI": f"sqlite:///{folder / 'mlflow.db'}",
    }
    for name, place in places.items():
        os.environ.setdefault(name, str(place))
