"""The deployed pipeline: the flow of the deployments in infra/prefect.yaml. Every run has its own working copy."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, cast

from prefect import Flow, allow_failure, flow, task
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
from pipelines.flow import check_source, read_needs, register, reproduce, topological_order
from pipelines.process.locks import locked
from pipelines.process.outcome import read_outcome
from pipelines.process.supervise import is_ending, releasing_on_signals
from pipelines.services import dvc_remote
from pipelines.stage import StageError, any_runner, submit_after

RETRIES = 3
BACKOFF_S = 10
# At least one per stage; the graph decides which stages run in parallel.
THREADS = 8


def is_retryable(_task: object, _run: TaskRun, state: State[Any]) -> bool:
    """Whether a retry of a task may succeed: its process was killed or crashed, or a server did not answer.

    False if a signal ends the whole run, because that ended the task's process too.
    """
    error = state.result(raise_on_failure=False)
    return not is_ending() and bool(getattr(error, "retryable", False))


# No cache: a cached task would not write files that DVC has just deleted.
WITH_RETRIES: dict[str, Any] = {
    "cache_policy": NO_CACHE,
    "retries": RETRIES,
    "retry_delay_seconds": exponential_backoff(BACKOFF_S),
    "retry_jitter_factor": 0.2,
    "retry_condition_fn": is_retryable,
}


@task(**WITH_RETRIES)
def check_remote() -> None:
    """Check before the first stage that outputs can be sent."""
    dvc_remote.check(Environment.read())


@task(task_run_name="{name}", **WITH_RETRIES)
def run_stage(name: str, timeout_s: float) -> bool:
    """Reproduce one stage and show its results on the run's page; return True if it ran, False if it was cached."""
    options = ["--pull"] if Environment.read().dvc_remote else []
    try:
        ran = reproduce(name, *options, timeout_s=timeout_s)
    except StageError as error:
        line = read_outcome(name)[0].removeprefix(f"{name}: ")
        raise StageError(f"{name}: {line}" if line else str(error), error.code, error.retryable) from error
    run_page.show(name)
    return ran


@task(task_run_name="push {name}", **WITH_RETRIES)
def push(name: str, ran: bool) -> bool:
    """Send all outputs to the remote if stage `name` ran; return `ran`."""
    if ran:
        print(f"{name}: {dvc_remote.push(Environment.read())}")
    return ran


@task(**WITH_RETRIES)
def register_model() -> str:
    """Register the bundle, and link to model and run on the run's page."""
    params, environment = Params.load(), Environment.read()
    verdict = register(params, environment, quiet=False)
    print(verdict)
    run_page.show_links(params, environment, verdict)
    return verdict


@task(task_run_name="{name}", cache_policy=NO_CACHE)
def run_stage_deployment(name: str, deployment: str, parameters: dict[str, Any]) -> None:
    """Run one stage as its own deployment, on any worker of its pool, and wait for it."""
    run = cast(FlowRun, run_deployment(deployment, parameters=parameters, timeout=None))
    state = run.state
    if state is None or not state.is_completed():
        raise StageError(f"{name}: {deployment} ended as {state.name if state else 'nothing'}: {state.message if state else ''}")


def cancel_stages(flow: Flow[..., Any], flow_run: FlowRun, state: State[Any]) -> None:
    """Cancel the child runs of a cancelled run: Prefect leaves them running."""
    children = FlowRunFilter(parent_flow_run_id=FlowRunFilterParentFlowRunId(any_=[flow_run.id]))
    with get_client(sync_client=True) as client:
        for child in client.read_flow_runs(flow_run_filter=children):
            if child.state is not None and not child.state.is_final():
                client.set_flow_run_state(child.id, Cancelling())


@flow(
    name="anyres",
    task_runner=any_runner(ThreadPoolTaskRunner(max_workers=THREADS)),
    log_prints=True,
    on_cancellation=[cancel_stages],
)
def anyres(
    stage: str | None = None,
    overrides: list[str] | None = None,
    spread: str | None = None,
    timeout_hours: Annotated[float, Field(gt=0)] = 72.0,
) -> str:
    """Run the stages that are out of date, in the order of dvc.yaml, then register the model.

    stage: run only this stage and the stages that it needs.
    overrides: values of params.yaml for this run, such as train.kimg=500.
    spread: run each stage as the deployment with this name, such as {stage}-gpu, instead of here.
    timeout_hours: the time limit of a stage.
    """
    silence_telemetry()
    set_shared_folders()
    try:
        override(Path("params.yaml"), overrides or [])
        params, environment = Params.load(), Environment.read()
    except (ParamsError, EnvironmentVariableError) as error:
        raise StageError(str(error), 2) from None
    check_source(params)
    # Runs that share a working copy, if somebody deploys them so, run one after the other.
    with releasing_on_signals(), locked("flow", math.inf):
        dvc_remote.configure(environment)
        needs = read_needs(stage)
        if spread:
            parameters = {"overrides": overrides or [], "timeout_hours": timeout_hours}
            run_all(needs, lambda name, upstream: submit_deployment(name, upstream, spread.format(stage=name), parameters))
            return "done by the deployments of the stages"
        if environment.dvc_remote:
            check_remote()
        has_remote = bool(environment.dvc_remote)
        ran = run_all(needs, lambda name, upstream: submit_here(name, upstream, timeout_hours * 3600, has_remote))
        if has_remote and not any(ran):
            # An earlier run may have failed to send its outputs.
            push("all", True)
        verdict = register_model() if "export" in needs else f"{stage}: done"
    empty_working_copy(environment)
    return verdict


Futures = list[PrefectFuture[Any]]


def submit_here(name: str, upstream: list[Any], timeout_s: float, has_remote: bool) -> Futures:
    """Submit a stage in this working copy. Its outputs are sent before the next stage, because DVC locks its repository."""
    ran = submit_after(run_stage, name, timeout_s, upstream=upstream)
    return [ran, submit_after(push, name, ran, upstream=[])] if has_remote else [ran]


def submit_deployment(name: str, upstream: list[Any], deployment: str, parameters: Mapping[str, Any]) -> Futures:
    """Submit a stage as its own deployment."""
    return [submit_after(run_stage_deployment, name, f"anyres/{deployment}", {"stage": name, **parameters}, upstream=upstream)]


def run_all(needs: Mapping[str, list[str]], submit: Callable[[str, list[Any]], Futures]) -> list[Any]:
    """Submit every stage after the stages that it needs; when all have ended, return the result of each stage's last task.

    Raises the first failure. A failed push does not stop later stages: the outputs stay in the cache.
    """
    futures: dict[str, Futures] = {}
    for name in topological_order(needs):
        upstream = [
            future if index == 0 else allow_failure(future)
            for other in needs[name]
            for index, future in enumerate(futures[other])
        ]
        futures[name] = submit(name, upstream)
    flat = [future for group in futures.values() for future in group]
    for future in flat:
        future.wait()
    # Raise the error of the stage that failed. Later stages did not run; their states would hide it.
    for future in flat:
        if future.state.is_failed() or future.state.is_crashed():
            future.result()
    return [group[-1].result() for group in futures.values()]


def empty_working_copy(environment: Environment) -> None:
    """Empty the working copy of a finished run, if it belongs to this run only. The outputs are in DVC's cache."""
    folder = Path.cwd()
    if folder.name != str(flow_run.id):
        return
    for path in (environment.work_folder, *folder.iterdir()):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def set_shared_folders() -> None:
    """Set the defaults of folders that must outlive the working copy of a run: they are in ANYRES_CACHE_DIR."""
    user_cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "anyres"
    folder = Path(os.environ.setdefault("ANYRES_CACHE_DIR", str(user_cache))).expanduser().absolute()
    defaults = {
        "ANYRES_RUNS_DIR": folder / "runs",
        "ANYRES_DVC_CACHE": folder / "dvc",
        "ANYRES_ARTIFACT_ROOT": folder / "mlartifacts",
        "ANYRES_TRACKING_URI": f"sqlite:///{folder / 'mlflow.db'}",
    }
    for name, value in defaults.items():
        os.environ.setdefault(name, str(value))
