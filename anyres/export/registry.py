"""Generators from an MLflow registry, where MLflow is installed."""

# ruff: noqa: TID251 - the registry is MLflow's
from __future__ import annotations

import os
from pathlib import Path

SCHEME = "models:/"
# Where a pipeline run here before keeps its registry.
LOCAL_STORE = "mlflow.db"


def fetched(uri: str) -> Path:
    """Fetch the bundle of a registered model, "models:/NAME@ALIAS" or "models:/NAME/VERSION"; return its folder.

    The store is that of MLFLOW_TRACKING_URI or ANYRES_TRACKING_URI, else mlflow.db in the working folder. Raises ValueError,
    one line, where MLflow, the store or the model is missing.
    """
    try:
        import mlflow
        from mlflow.artifacts import download_artifacts
        from mlflow.exceptions import MlflowException
    except ModuleNotFoundError:
        raise ValueError(f"{uri}: MLflow is not installed; install mlflow, or name the folder of a bundle") from None
    if not os.environ.get("MLFLOW_TRACKING_URI"):
        store = os.environ.get("ANYRES_TRACKING_URI") or f"sqlite:///{LOCAL_STORE}"
        local = store.removeprefix("sqlite:///")
        # MLflow would make an empty one.
        if store.startswith("sqlite:///") and not Path(local).is_file():
            raise ValueError(f"{uri}: there is no registry at {local}; set MLFLOW_TRACKING_URI, or run where `make run` ran")
        mlflow.set_tracking_uri(store)
    try:
        folder = Path(download_artifacts(artifact_uri=uri))
    except (MlflowException, OSError) as error:
        raise ValueError(
            f"{uri}: not in the registry at {mlflow.get_tracking_uri()} ({' '.join(str(error).split())[:200]})"
        ) from None
    bundles = [meta.parent for meta in folder.rglob("generator.json")]
    if not bundles:
        raise ValueError(f"{uri}: the registered model holds no bundle of anyres; name another one")
    return bundles[0]
