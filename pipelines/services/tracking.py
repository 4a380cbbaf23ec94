"""MLflow, imported by no other module of pipelines: logging of runs, and registration of models.

MLflow sends usage reports as soon as it is imported: call `silence_telemetry` before importing this module.
"""
# ruff: noqa: TID251 - this module imports mlflow

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import shutil
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx
import mlflow
from mlflow.data.code_dataset_source import CodeDatasetSource
from mlflow.entities import Dataset, DatasetInput, Metric, Param, RunStatus
from mlflow.exceptions import MlflowException
from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor
from sqlalchemy import create_engine
from sqlalchemy.exc import SQLAlchemyError

from anyres.identity import ROOT, closure, module_file
from anyres.params import Params
from anyres.registry.champion import ChampionUnchangedError
from anyres.registry.client import promote, without_secrets
from pipelines.environment import Environment
from pipelines.process.locks import LockedError, locked
from pipelines.services.history import git_commit

FINGERPRINT = "fingerprint"
BUNDLE_HASH = "bundle_hash"
STORE_WAIT_S = 120.0
# Time for a store to answer.
ANSWER_TIMEOUT_S = 5
SERVERS = ("http://", "https://")
# MLflow takes at most 1000 metrics in one call.
METRICS_PER_CALL = 1000

# What a consumer of a registered model calls; the code below these travels with the model.
CONSUMED = ("anyres.registry.serving", "anyres:load")


class TrackingError(RuntimeError):
    """The tracking store cannot be used; the message is one line."""


@contextlib.contextmanager
def translate_errors(environment: Environment) -> Iterator[None]:
    """Turn what SQLAlchemy, HTTP and MLflow raise inside into one TrackingError of one line."""
    try:
        yield
    except TrackingError:
        raise
    except (MlflowException, SQLAlchemyError, httpx.HTTPError, httpx.InvalidURL, OSError, LockedError) as error:
        line = " ".join(str(error).split())[:300]
        raise TrackingError(without_secrets(f"tracking at {environment.tracking_uri}: {line}")) from error


def connect(environment: Environment, name: str) -> str:
    """Connect MLflow to the store, and create it if it is missing; return the id of experiment `name`.

    Raises TrackingError if the store does not answer.
    """
    # An unreachable server must not delay training: seconds of retries in place of minutes. Values that are set already stay.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "60")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    mlflow.set_tracking_uri(environment.tracking_uri)
    mlflow.set_registry_uri(environment.tracking_uri)
    reach(environment)
    # Two processes that create one SQLite store at the same time corrupt its migration.
    with translate_errors(environment), locked("mlflow", STORE_WAIT_S):
        create_store(environment)
        client = mlflow.MlflowClient()
        experiment = client.get_experiment_by_name(name)
        if experiment is not None:
            return experiment.experiment_id
        remote = environment.tracking_uri.startswith((*SERVERS, "databricks"))
        root = None if remote else (environment.artifact_root / name).resolve().as_uri()
        try:
            return client.create_experiment(name, artifact_location=root)
        except MlflowException as error:
            experiment = client.get_experiment_by_name(name)
            # Another machine has created it in the meantime.
            if error.error_code != "RESOURCE_ALREADY_EXISTS" or experiment is None:
                raise
            return experiment.experiment_id


def reach(environment: Environment) -> None:
    """Raise TrackingError, within seconds, if a server or database does not answer. MLflow would try for minutes."""
    uri = environment.tracking_uri
    with translate_errors(environment):
        if uri.startswith(SERVERS):
            answer = httpx.get(f"{uri.rstrip('/')}/health", timeout=ANSWER_TIMEOUT_S, verify=_tls(), follow_redirects=True)
            # A refusal is an answer: MLflow's client sends credentials, this request sends none.
            if answer.status_code >= 500:
                raise TrackingError(without_secrets(f"tracking at {uri}: HTTP {answer.status_code}"))
        elif uri.startswith(("postgresql", "mysql")):
            engine = create_engine(uri, connect_args={"connect_timeout": ANSWER_TIMEOUT_S})
            with engine.connect():
                pass
            engine.dispose()


def create_store(environment: Environment) -> None:
    """Create a missing SQLite store in a temporary folder, then link it: an interrupted migration cannot be repaired."""
    scheme, _, name = environment.tracking_uri.partition(":///")
    path = Path(name)
    if scheme != "sqlite" or (path.exists() and path.stat().st_size) or path.suffix not in (".db", ".sqlite"):
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        part = Path(folder) / path.name
        # A process of its own: SQLite's locks do not allow one process to close a file that it has open under another name.
        command = [sys.executable, "-m", "mlflow", "db", "upgrade", f"sqlite:///{part}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise TrackingError(f"tracking at {environment.tracking_uri}: {' '.join(done.stderr.split())[-300:]}")
        # Unlike a move, a link does not replace a store that another working copy has just created.
        if path.exists() and not path.stat().st_size:
            path.unlink()
        with contextlib.suppress(FileExistsError):
            os.link(part, path)


def _tls() -> ssl.SSLContext | bool:
    """How to verify a server's certificate: by the environment variables of MLflow's client."""
    certificates = os.environ.get("MLFLOW_TRACKING_SERVER_CERT_PATH")
    if certificates:
        return ssl.create_default_context(cafile=certificates)
    return os.environ.get("MLFLOW_TRACKING_INSECURE_TLS", "").lower() not in ("1", "true")


class RunLog:
    """One MLflow run, identified by a fingerprint, so that a resumed training continues in its run.

    Reports up to `last_nimg` are in the run already; logging skips them.
    """

    def __init__(self, experiment_id: str, fingerprint: str, tags: Mapping[str, str], reopen_finished: bool) -> None:
        self.client = mlflow.MlflowClient()
        query = f"tags.{FINGERPRINT} = '{fingerprint}'" + ("" if reopen_finished else " and attributes.status != 'FINISHED'")
        runs = self.client.search_runs([experiment_id], query, max_results=1, order_by=["attributes.start_time DESC"])
        tags = {FINGERPRINT: fingerprint, **tags}
        run = runs[0] if runs else self.client.create_run(experiment_id, tags=tags, run_name=fingerprint)
        self.run_id = run.info.run_id
        self.last_nimg = int(run.data.metrics.get("nimg", -1))
        self.last_sample_nimg = int(run.data.tags.get("last_sample_nimg", -1))
        self.params = dict(run.data.params)

    def start(self, params: Mapping[str, Any], dataset: Mapping[str, Any]) -> None:
        """Mark the run as running, also after a kill left it so, and log what determines it."""
        self.client.update_run(self.run_id, RunStatus.to_string(RunStatus.RUNNING))
        fresh = {key: str(value) for key, value in flattened(params).items() if key not in self.params}
        if fresh:
            entities = [Param(key, value) for key, value in fresh.items()]
            self.client.log_batch(self.run_id, params=entities)
        inputs = self.client.get_run(self.run_id).inputs
        if inputs is None or not inputs.dataset_inputs:
            self._log_dataset(dataset)

    def _log_dataset(self, dataset: Mapping[str, Any]) -> None:
        source = CodeDatasetSource(tags={key: str(value) for key, value in flattened(dataset).items()})
        # MLflow takes digests of at most 36 characters.
        entity = Dataset(name="store", digest=str(dataset["hash"])[:36], source_type="code", source=source.to_json())
        self.client.log_inputs(self.run_id, [DatasetInput(entity, [])])

    def log_reports(self, reports: Iterable[Mapping[str, Any]]) -> None:
        """Log rows of history.jsonl, each with its `nimg`; rows that the run holds already are skipped."""
        now = int(time.time() * 1000)
        metrics, last = [], self.last_nimg
        for report in reports:
            nimg = int(report["nimg"])
            if nimg <= last:
                continue
            last = nimg
            metrics += [Metric(key, float(value), now, nimg) for key, value in report.items() if _is_number(value)]
        for start in range(0, len(metrics), METRICS_PER_CALL):
            self.client.log_batch(self.run_id, metrics[start : start + METRICS_PER_CALL])
        self.last_nimg = last

    def log_samples(self, pictures: Iterable[tuple[int, Path]]) -> None:
        """Log sample pictures given as (nimg, path), once each."""
        from PIL import Image

        for nimg, path in sorted(pictures):
            if nimg > self.last_sample_nimg:
                with Image.open(path) as picture:
                    self.client.log_image(self.run_id, picture.convert("RGB"), key="samples", step=nimg, synchronous=True)
                self.last_sample_nimg = nimg
                self.client.set_tag(self.run_id, "last_sample_nimg", nimg)

    def log_evaluation(self, metrics: Mapping[str, Any], nimg: int) -> None:
        """Log the numbers of metrics.json as evaluation/KEY at `nimg`."""
        now = int(time.time() * 1000)
        numbers = {key: value for key, value in flattened(metrics).items() if _is_number(value)}
        rows = [Metric(f"evaluation/{_metric_name(key)}", float(value), now, nimg) for key, value in numbers.items()]
        for start in range(0, len(rows), METRICS_PER_CALL):
            self.client.log_batch(self.run_id, rows[start : start + METRICS_PER_CALL])

    def log_folder(self, folder: Path, name: str) -> None:
        """Log the files of a folder as artifacts below `name`, replacing older ones. A missing folder is no error."""
        if folder.is_dir():
            self.client.log_artifacts(self.run_id, str(folder), name)

    def end(self, status: str = "FINISHED") -> None:
        """Close the run: FINISHED, FAILED or KILLED."""
        self.client.set_terminated(self.run_id, status)


def start_training_run(
    environment: Environment,
    params: Params,
    dataset: Mapping[str, Any],
    fingerprint: str,
) -> tuple[RunLog, SystemMetricsMonitor]:
    """Open the run of a training, new or interrupted, with its params and data, and start a monitor of the machine."""
    experiment = connect(environment, params.export.name)
    run = RunLog(experiment, fingerprint, run_tags(params, dataset), reopen_finished=False)
    run.start(params.model_dump(mode="json", include={"ingest", "prepare", "train"}), dataset)
    monitor = SystemMetricsMonitor(run.run_id, resume_logging=True)
    monitor.start()
    return run, monitor


def run_tags(params: Params, dataset: Mapping[str, Any]) -> dict[str, str]:
    """Return tags to search runs by."""
    return {"method": params.train.method, "data_hash": str(dataset["hash"]), "git_commit": git_commit()}


def registered_version(environment: Environment, name: str, digest: str) -> str | None:
    """Return the version of model `name` that contains the bundle with this hash, or None; raises TrackingError."""
    with translate_errors(environment):
        connect(environment, name)
        versions = mlflow.MlflowClient().search_model_versions(f"name = '{name}' and tags.{BUNDLE_HASH} = '{digest}'")
    return str(versions[0].version) if versions else None


def register(run: RunLog, name: str, bundle: Path, tags: Mapping[str, str]) -> str:
    """Log `bundle` as a new version of the registered model `name` and return the version.

    The caller has checked that no version contains this bundle.
    """
    packages = ("mlflow", "torch", "numpy", "pillow", "pydantic")
    with contextlib.ExitStack() as stack:
        code = consumer_code(Path(stack.enter_context(tempfile.TemporaryDirectory())))
        stack.enter_context(mlflow.start_run(run_id=run.run_id))
        model = mlflow.pyfunc.log_model(
            name="generator",
            python_model=str(module_file("anyres.registry.serving")),
            artifacts={"bundle": str(bundle.resolve())},
            code_paths=[str(code)],
            input_example=[example_row(bundle)],
            pip_requirements=[f"{package}=={_release(package)}" for package in packages],
            registered_model_name=name,
            metadata=dict(tags),
        )
        # If MLflow cannot express a type, it only warns, and the model cannot be served.
        assert model.signature is not None, "the registered model has no signature"
        assert model.registered_model_version is not None
        registered = str(model.registered_model_version)
    for key, value in tags.items():
        tag_version(name, registered, key, value)
    return registered


def addresses(environment: Environment, name: str, digest: str) -> dict[str, str]:
    """Return the web addresses of the registered bundle with this hash and of its run; empty without an MLflow server."""
    registered = registered_version(environment, name, digest)
    if registered is None or not environment.tracking_uri.startswith(SERVERS):
        return {}
    with translate_errors(environment):
        client = mlflow.MlflowClient()
        run = client.get_run(str(client.get_model_version(name, registered).run_id)).info
    root = f"{environment.tracking_uri.rstrip('/')}/#"
    return {
        f"run {run.run_name}": f"{root}/experiments/{run.experiment_id}/runs/{run.run_id}",
        f"{name} {registered}": f"{root}/models/{name}/versions/{registered}",
    }


def tag_version(name: str, registered: str, key: str, value: str) -> None:
    """Set one tag of a registered version."""
    mlflow.MlflowClient().set_model_version_tag(name, registered, key, value)


def move_champion(name: str, candidate: str, metric: str) -> str:
    """Move the alias to version `candidate` if it is no worse on `metric`; return one line that says what was done and why."""
    try:
        return promote(name, int(candidate), metric)["said"]
    except ChampionUnchangedError as unchanged:
        return f"{unchanged} (for another line of models change export.name)"
    except ValueError as error:
        raise TrackingError(str(error)) from error


def consumer_code(folder: Path) -> Path:
    """Copy into `folder` the modules of anyres that a registered model draws with; return the copied package."""
    for module in closure(*CONSUMED):
        source = module_file(module)
        target = folder / source.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
    return folder / "anyres"


def example_row(bundle: Path) -> dict[str, Any]:
    """Return an input row of the registered model: a small full frame."""
    geometry = json.loads((bundle / "generator.json").read_text(encoding="utf-8"))["geometry"]
    height, width = (int(side) for side in geometry["native_sizes"][0])
    half_width, half_height = geometry["chart"]["half_extent"]
    period = min(2 * half_width / width, 2 * half_height / height)
    return {"seed": 7, "center_x": 0.0, "center_y": 0.0, "period": period, "height": height, "width": width, "psi": 0.7}


def flattened(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested mappings as one mapping, with keys joined by dots."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= flattened(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _metric_name(key: str) -> str:
    return "".join(c if c.isalnum() or c in "_-./ " else "_" for c in key)


def _release(package: str) -> str:
    return version(package).split("+")[0]
