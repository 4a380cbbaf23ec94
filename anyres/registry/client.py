"""Generators in an MLflow registry: download, list, promote. Needs MLflow."""

# ruff: noqa: TID251 - this module is the library's client of MLflow
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
# Where `make run` keeps its registry, in the working folder.
LOCAL_STORE = "mlflow.db"
# Timeout of a TCP connection, and of MLflow's requests: a person waits for them.
REACH_S = 5.0
SHORT_TIMEOUTS = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
}
PORTS = {"http": 80, "https": 443, "postgresql": 5432, "mysql": 3306, "mssql": 1433}
# Tags of a version that record its origin.
LINEAGE = ("git_commit", "git_dirty", "data_hash", "params_hash", "fingerprint", "code", "bundle_hash", "weights_sha256")


def fetch_bundle(uri: str) -> Path:
    """Download the bundle of a registered model, "models:/NAME@ALIAS" or "models:/NAME/VERSION"; return its folder.

    The store is MLFLOW_TRACKING_URI or ANYRES_TRACKING_URI, else mlflow.db in the working folder. Raises ValueError, one line, if
    MLflow, the store or the model is missing; within 15 s if a server does not answer.
    """
    client, address = _connect(uri)
    from mlflow.artifacts import download_artifacts

    with _translate_errors(f"{uri}: not in the registry at {address}"):
        with _short_timeouts():
            _version(client, uri)
        folder = Path(download_artifacts(artifact_uri=uri))
    bundles = [meta.parent for meta in folder.rglob("generator.json")]
    if not bundles:
        raise ValueError(f"{uri}: the registered model holds no bundle of anyres; name another one")
    return bundles[0]


def versions(name: str) -> list[dict[str, Any]]:
    """List the versions of a registered model, newest first, in JSON types.

    Each has "version", "aliases", "created" (UTC, ISO 8601), "metrics" and "about", a short text for a person. Raises ValueError,
    one line, if MLflow, the store or the model is missing; within 15 s if a server does not answer.
    """
    client, address = _connect(name)
    with _translate_errors(f"{name}: its versions cannot be read from {address}"), _short_timeouts():
        return [_summary(version) for version in _versions(client, name, address)]


def promote(name: str, version: int, metric: str | None = None, force: bool = False) -> dict[str, Any]:
    """Make a version champion if it is no worse than the current one on `metric` (default: its declared metric), or by `force`.

    Returns "version", "before" (None: there was none), "kind" and "why" of the last move, and "said", one line for a person.
    Raises ChampionUnchangedError if it is worse, ValueError if MLflow, the store, the model or the version is missing; one line.
    """
    client, address = _connect(name)
    with _translate_errors(f"{name} at {address}"), _short_timeouts():
        existing = {str(one.version): one for one in _versions(client, name, address)}
        if str(version) not in existing:
            raise ValueError(f"{name} has no version {version}; there are {', '.join(sorted(existing, key=int))}")
        declared: str = existing[str(version)].tags.get(champion.METRIC_TAG, champion.DEFAULT_METRIC)
        message = champion.promote(client, name, str(version), metric or declared, force)
        return _last_move(client, name, message)


def rollback(name: str) -> dict[str, Any]:
    """Make the previous champion champion again; return what `promote` returns.

    Raises ValueError, one line, if there was none, or if MLflow, the store or the model is missing.
    """
    client, address = _connect(name)
    with _translate_errors(f"{name} at {address}"), _short_timeouts():
        existing = [str(one.version) for one in _versions(client, name, address)]
        return _last_move(client, name, champion.rollback(client, name, existing))


def lineage(uri: str) -> dict[str, Any]:
    """Return the origin of the model of `uri` in JSON types: version, aliases, run, git commit, hashes, and all champions.

    Raises ValueError, one line, if it is missing.
    """
    client, address = _connect(uri)
    with _translate_errors(f"{uri}: not in the registry at {address}"), _short_timeouts():
        version = _version(client, uri)
        origin = {key: version.tags[key] for key in LINEAGE if key in version.tags}
        model = client.get_registered_model(version.name)
        return {
            "registry": address,
            **_summary(version),
            "run_id": version.run_id,
            **origin,
            "champions": [asdict(move) for move in champion.moves(model)],
        }


def _connect(what: str) -> tuple[Any, str]:
    """Return a client and the address of its store. Raises ValueError, one line, if MLflow or the store is missing."""
    try:
        import mlflow
    except ModuleNotFoundError:
        raise ValueError(f"{what}: MLflow is not installed; install mlflow, or name the folder of a bundle") from None
    if not os.environ.get("MLFLOW_TRACKING_URI"):
        store = os.environ.get("ANYRES_TRACKING_URI") or f"sqlite:///{LOCAL_STORE}"
        local = store.removeprefix("sqlite:///")
        # MLflow would create an empty store.
        if store.startswith("sqlite:///") and not Path(local).is_file():
            raise ValueError(
                f"{what}: there is no registry at {local}; set MLFLOW_TRACKING_URI, or work in the folder of `make run`"
            )
        # MLflow caches stores by address; a relative address would be another file after a change of folder.
        mlflow.set_tracking_uri(f"sqlite:///{Path(local).resolve()}" if store.startswith("sqlite:///") else store)
    address = mlflow.get_tracking_uri()
    _check_reachable(what, address)
    with _translate_errors(f"{what}: there is no registry at {without_secrets(address)}"):
        return mlflow.MlflowClient(), without_secrets(address)


def _check_reachable(what: str, address: str) -> None:
    """Raise ValueError, one line, if no server listens at an address. MLflow itself would retry for minutes or hours."""
    parts = urlsplit(address)
    port = parts.port or PORTS.get(parts.scheme.partition("+")[0])
    if parts.hostname is None or port is None:
        return
    try:
        socket.create_connection((parts.hostname, port), REACH_S).close()
    except OSError as error:
        raise ValueError(f"{what}: no answer from the registry at {without_secrets(address)} ({error})") from None


def without_secrets(text: str) -> str:
    """Return `text` with users and passwords removed from its addresses."""
    return re.sub(r"(?<=://)[^/@\s]+@", "", text)


@contextlib.contextmanager
def _short_timeouts() -> Iterator[None]:
    """Shorten MLflow's timeouts from minutes to seconds within the block. Variables that are already set stay."""
    added = {name: value for name, value in SHORT_TIMEOUTS.items() if name not in os.environ}
    # urllib3 logs every retry.
    retries = logging.getLogger("urllib3.connectionpool")
    level = retries.level
    os.environ.update(added)
    retries.setLevel(logging.ERROR)
    try:
        yield
    finally:
        retries.setLevel(level)
        for name in added:
            os.environ.pop(name, None)


@contextlib.contextmanager
def _translate_errors(prefix: str) -> Iterator[None]:
    """Turn errors of MLflow, its store and the network into a ValueError of one line that begins with `prefix`."""
    from mlflow.exceptions import MlflowException

    raised: tuple[type[Exception], ...] = (MlflowException, OSError)
    with contextlib.suppress(ModuleNotFoundError):
        from sqlalchemy.exc import SQLAlchemyError

        raised = (*raised, SQLAlchemyError)
    try:
        yield
    except raised as error:
        raise ValueError(f"{prefix} ({without_secrets(' '.join(str(error).split()))[:200]})") from None


def _version(client: Any, uri: str) -> Any:
    """Return MLflow's record of the version that "models:/NAME@ALIAS" or "models:/NAME/VERSION" names."""
    path = uri.removeprefix(SCHEME)
    if "@" in path:
        name, _, alias = path.rpartition("@")
        return client.get_model_version_by_alias(name, alias)
    name, _, number = path.rpartition("/")
    return client.get_model_version(name, number)


def _versions(client: Any, name: str, address: str) -> list[Any]:
    """Return the versions of a registered model, newest first. Raises ValueError, one line, if there is none."""
    versions = sorted(client.search_model_versions(f"name = '{name}'"), key=lambda version: int(version.version), reverse=True)
    if not versions:
        raise ValueError(f"{name}: no version of such a model is in the registry at {address}")
    # Not every store returns aliases with a search.
    aliases = client.get_registered_model(name).aliases
    for version in versions:
        version.aliases = [alias for alias, number in aliases.items() if str(number) == str(version.version)]
    return versions


def _summary(version: Any) -> dict[str, Any]:
    """What `versions` lists of one version."""
    metric = version.tags.get(champion.METRIC_TAG, champion.DEFAULT_METRIC)
    metrics = {key: champion.metric_value(version.tags, key) for key in {metric, "patch_kid", "patch_fd"} if key in version.tags}
    value = metrics.get(metric)
    return {
        "version": str(version.version),
        "aliases": list(version.aliases),
        "created": datetime.fromtimestamp(version.creation_timestamp / 1000, UTC).isoformat(timespec="seconds"),
        "metrics": metrics,
        "about": ", ".join([*version.aliases, *([] if value is None else [f"{metric} {value:.4g}"])]),
    }


def _last_move(client: Any, name: str, message: str) -> dict[str, Any]:
    """The last move of the champion, and the message about it."""
    model = client.get_registered_model(name)
    history = champion.moves(model)
    last = history[-1] if history else None
    return {
        "name": name,
        "version": str(model.aliases[champion.ALIAS]),
        "before": None if last is None else last.before,
        "kind": None if last is None else last.kind,
        "why": None if last is None else last.why,
        "said": message,
    }
