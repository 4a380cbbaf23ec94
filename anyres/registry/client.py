"""Generators from an MLflow registry, where MLflow is installed, and its champion."""

# ruff: noqa: TID251 - the registry is MLflow's
from __future__ import annotations

import contextlib
import logging
import os
import re
import socket
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from anyres.registry import champion

SCHEME = "models:/"
# Where a pipeline run here before keeps its registry.
LOCAL_STORE = "mlflow.db"
# What a person waits for an address that does not answer, or a server that takes its time over a small question.
REACH_S = 5.0
PATIENCE = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
}
PORTS = {"http": 80, "https": 443, "postgresql": 5432, "mysql": 3306, "mssql": 1433}
# Where a version comes from, as tags of it.
LINEAGE = ("git_commit", "git_dirty", "data_hash", "params_hash", "fingerprint", "code", "bundle_hash", "weights_sha256")


def fetched(uri: str) -> Path:
    """Fetch the bundle of a registered model, "models:/NAME@ALIAS" or "models:/NAME/VERSION"; return its folder.

    The store is that of MLFLOW_TRACKING_URI or ANYRES_TRACKING_URI, else mlflow.db in the working folder. Raises ValueError,
    one line, where MLflow, the store or the model is missing, within 15 s where a server does not answer.
    """
    client, address = _connected(uri)
    from mlflow.artifacts import download_artifacts

    with _translate_errors(f"{uri}: not in the registry at {address}"):
        with _impatient():
            _version(client, uri)
        folder = Path(download_artifacts(artifact_uri=uri))
    bundles = [meta.parent for meta in folder.rglob("generator.json")]
    if not bundles:
        raise ValueError(f"{uri}: the registered model holds no bundle of anyres; name another one")
    return bundles[0]


def versions(name: str) -> list[dict[str, Any]]:
    """Tell of the versions of a registered model, newest first, in JSON types.

    Each has "version", "aliases", "created" (UTC, ISO 8601), "metrics" and "about", a few words for a person. Raises ValueError,
    one line, where MLflow, the store or the model is missing, within 15 s where a server does not answer.
    """
    client, address = _connected(name)
    with _translate_errors(f"{name}: cannot be asked for at {address}"), _impatient():
        return [_told(version) for version in _versions(client, name, address)]


def promote(name: str, version: int, metric: str | None = None, force: bool = False) -> dict[str, Any]:
    """Make a version champion if it is no worse than the present one on `metric`, by default the one declared for it.

    Returns "version", "before" (None: there was none), "kind" and "why" of the last move, and "said", a line for a person.
    Raises ValueError, one line, where it is worse and not to be forced, or where MLflow, the store, the model or the version is
    missing.
    """
    client, address = _connected(name)
    with _translate_errors(f"{name} at {address}"), _impatient():
        known = {str(one.version): one for one in _versions(client, name, address)}
        if str(version) not in known:
            raise ValueError(f"{name} has no version {version}; there are {', '.join(sorted(known, key=int))}")
        declared: str = known[str(version)].tags.get(champion.METRIC_TAG, champion.DEFAULT_METRIC)
        try:
            said = champion.promote(client, name, str(version), metric or declared, force)
        except champion.StaysError as error:
            raise ValueError(f"{error} (--force promotes it all the same)") from None
        return _state(client, name, said)


def rollback(name: str) -> dict[str, Any]:
    """Make the champion before the present one champion again; returns what `promote` does.

    Raises ValueError, one line, where there was none, or where MLflow, the store or the model is missing.
    """
    client, address = _connected(name)
    with _translate_errors(f"{name} at {address}"), _impatient():
        existing = [str(one.version) for one in _versions(client, name, address)]
        return _state(client, name, champion.rollback(client, name, existing))


def lineage(uri: str) -> dict[str, Any]:
    """Where the model of `uri` comes from, in JSON types: version, aliases, run, git commit, hashes, and champions so far.

    Raises ValueError, one line, where it is not there.
    """
    client, address = _connected(uri)
    with _translate_errors(f"{uri}: not in the registry at {address}"), _impatient():
        version = _version(client, uri)
        found = {key: version.tags[key] for key in LINEAGE if key in version.tags}
        model = client.get_registered_model(version.name)
        return {
            "registry": address,
            **_told(version),
            "run_id": version.run_id,
            **found,
            "champions": [asdict(move) for move in champion.moves(model)],
        }


def _connected(what: str) -> tuple[Any, str]:
    """A client, and the address of its store. Raises ValueError, one line, where MLflow or the store is not there."""
    try:
        import mlflow
    except ModuleNotFoundError:
        raise ValueError(f"{what}: MLflow is not installed; install mlflow, or name the folder of a bundle") from None
    if not os.environ.get("MLFLOW_TRACKING_URI"):
        store = os.environ.get("ANYRES_TRACKING_URI") or f"sqlite:///{LOCAL_STORE}"
        local = store.removeprefix("sqlite:///")
        # MLflow would make an empty one.
        if store.startswith("sqlite:///") and not Path(local).is_file():
            raise ValueError(f"{what}: there is no registry at {local}; set MLFLOW_TRACKING_URI, or run where `make run` ran")
        # MLflow keeps a store open by its address: a relative one would be another file in another folder.
        mlflow.set_tracking_uri(f"sqlite:///{Path(local).resolve()}" if store.startswith("sqlite:///") else store)
    address = mlflow.get_tracking_uri()
    _reach(what, address)
    with _translate_errors(f"{what}: there is no registry at {without_secrets(address)}"):
        return mlflow.MlflowClient(), without_secrets(address)


def _reach(what: str, address: str) -> None:
    """Raise ValueError, one line, where nobody listens at an address: MLflow would try again for minutes, or hours."""
    parts = urlsplit(address)
    port = parts.port or PORTS.get(parts.scheme.partition("+")[0])
    if parts.hostname is None or port is None:
        return
    try:
        socket.create_connection((parts.hostname, port), REACH_S).close()
    except OSError as error:
        raise ValueError(f"{what}: no answer from the registry at {without_secrets(address)} ({error})") from None


def without_secrets(text: str) -> str:
    """Words with addresses in them, less users and passwords."""
    return re.sub(r"(?<=://)[^/@\s]+@", "", text)


@contextlib.contextmanager
def _impatient() -> Iterator[None]:
    """For small questions: seconds in place of MLflow's minutes. A person's own values stand."""
    mine = {name: value for name, value in PATIENCE.items() if name not in os.environ}
    # Of every attempt it tells in lines of its own.
    retries = logging.getLogger("urllib3.connectionpool")
    level = retries.level
    os.environ.update(mine)
    retries.setLevel(logging.ERROR)
    try:
        yield
    finally:
        retries.setLevel(level)
        for name in mine:
            os.environ.pop(name, None)


@contextlib.contextmanager
def _translate_errors(said: str) -> Iterator[None]:
    """Turn what MLflow, its store and the network raise into a ValueError of one line that begins with `said`."""
    from mlflow.exceptions import MlflowException

    raised: tuple[type[Exception], ...] = (MlflowException, OSError)
    with contextlib.suppress(ModuleNotFoundError):
        from sqlalchemy.exc import SQLAlchemyError

        raised = (*raised, SQLAlchemyError)
    try:
        yield
    except raised as error:
        raise ValueError(f"{said} ({without_secrets(' '.join(str(error).split()))[:200]})") from None


def _version(client: Any, uri: str) -> Any:
    """What MLflow knows of the version that "models:/NAME@ALIAS" or "models:/NAME/VERSION" names."""
    place = uri.removeprefix(SCHEME)
    if "@" in place:
        name, _, alias = place.rpartition("@")
        return client.get_model_version_by_alias(name, alias)
    name, _, number = place.rpartition("/")
    return client.get_model_version(name, number)


def _versions(client: Any, name: str, address: str) -> list[Any]:
    """The versions of a registered model, newest first; raises ValueError, one line, where there is none."""
    found = sorted(client.search_model_versions(f"name = '{name}'"), key=lambda version: int(version.version), reverse=True)
    if not found:
        raise ValueError(f"{name}: no version of such a model is in the registry at {address}")
    # A search does not tell of aliases everywhere.
    aliases = client.get_registered_model(name).aliases
    for version in found:
        version.aliases = [alias for alias, number in aliases.items() if str(number) == str(version.version)]
    return found


def _told(version: Any) -> dict[str, Any]:
    metric = version.tags.get(champion.METRIC_TAG, champion.DEFAULT_METRIC)
    metrics = {key: champion.recorded(version.tags, key) for key in {metric, "patch_kid", "patch_fd"} if key in version.tags}
    value = metrics.get(metric)
    return {
        "version": str(version.version),
        "aliases": list(version.aliases),
        "created": datetime.fromtimestamp(version.creation_timestamp / 1000, UTC).isoformat(timespec="seconds"),
        "metrics": metrics,
        "about": ", ".join([*version.aliases, *([] if value is None else [f"{metric} {value:.4g}"])]),
    }


def _state(client: Any, name: str, said: str) -> dict[str, Any]:
    """The last move, and the line that tells of it."""
    model = client.get_registered_model(name)
    history = champion.moves(model)
    last = history[-1] if history else None
    return {
        "name": name,
        "version": str(model.aliases[champion.ALIAS]),
        "before": None if last is None else last.before,
        "kind": None if last is None else last.kind,
        "why": None if last is None else last.why,
        "said": said,
    }
