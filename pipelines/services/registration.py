"""Registration of the exported bundle in the model registry. It is idempotent.

No cache knows whether it was done: in a fresh clone every stage may be cached while the registry is empty.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anyres.params import Params
from anyres.registry.champion import METRIC_TAG
from pipelines.environment import Environment
from pipelines.process.locks import locked
from pipelines.services.history import DIRTY, UNKNOWN, read_reports, sample_pictures
from pipelines.stage import BUNDLE, EVALUATION, REPORT, STORE, TRAINED

if TYPE_CHECKING:
    from pipelines.services.tracking import RunLog

LOCK_WAIT_S = 300.0
COMPARED_METRICS = ("patch_kid", "patch_fd")


def bundle_hash(folder: Path) -> str:
    """Return the SHA-256 over names and contents of a bundle's files. Equal bundles have equal hashes."""
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        digest.update(f"{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()


def find_registered(params: Params, environment: Environment) -> str | None:
    """Return the registered version that contains out/export/generator, or None; raises TrackingError."""
    if not BUNDLE.is_dir():
        return None
    from pipelines.services.tracking import registered_version

    return registered_version(environment, params.export.name, bundle_hash(BUNDLE))


def ensure_registered(params: Params, environment: Environment) -> str:
    """Register out/export/generator if it is not registered yet; return a line that says what was done.

    Raises TrackingError, one line, if the store does not answer.
    """
    from pipelines.services import tracking

    name, digest = params.export.name, bundle_hash(BUNDLE)
    with locked("registration", LOCK_WAIT_S):
        version = find_registered(params, environment)
        if version is not None:
            return f"{name} {version} holds this bundle already"
        with tracking.translate_errors(environment):
            meta = json.loads((BUNDLE / "generator.json").read_text(encoding="utf-8"))
            run = complete_run(params, environment, meta)
            version = tracking.register(run, name, BUNDLE, model_tags(meta, params.export.metric))
            verdict = tracking.move_champion(name, version, params.export.metric)
            # Last, so that an interrupted registration is repeated.
            tracking.tag_version(name, version, tracking.BUNDLE_HASH, digest)
            return verdict


def complete_run(params: Params, environment: Environment, meta: Mapping[str, Any]) -> RunLog:
    """Return the run of this training, created or completed from the files in out/."""
    from pipelines.services import tracking

    dataset = json.loads((STORE / "dataset.json").read_text(encoding="utf-8"))
    run = tracking.RunLog(
        tracking.connect(environment, params.export.name),
        json.loads((TRAINED / "train.json").read_text(encoding="utf-8"))["fingerprint"],
        tracking.run_tags(params, dataset),
        reopen_finished=True,
    )
    run.start(params.model_dump(mode="json", include={"ingest", "prepare", "train"}), dataset)
    run.log_reports(read_reports(TRAINED / "history.jsonl"))
    run.log_samples(sample_pictures(TRAINED / "samples"))
    run.log_evaluation(json.loads((EVALUATION / "metrics.json").read_text(encoding="utf-8")), int(meta["nimg"]))
    run.log_folder(EVALUATION / "figures", "evaluation/figures")
    run.log_folder(EVALUATION / "plots", "evaluation/tables")
    run.log_folder(REPORT, "report")
    run.end()
    return run


def model_tags(meta: Mapping[str, Any], metric: str) -> dict[str, str]:
    """Return the tags of a registered version: its origin, the metrics to compare, and in METRIC_TAG the one that decides."""
    metrics = {key: str(meta["metrics"][key]) for key in COMPARED_METRICS if key in meta["metrics"]}
    commit = str(meta["git_commit"])
    params = json.dumps(meta["params"], sort_keys=True, separators=(",", ":"))
    return {
        "git_commit": commit.removesuffix(DIRTY),
        "git_dirty": "unknown" if commit == UNKNOWN else str(commit.endswith(DIRTY)).lower(),
        "data_hash": str(meta["data_hash"]),
        "params_hash": hashlib.sha256(params.encode()).hexdigest(),
        "fingerprint": str(meta["fingerprint"]),
        "code": str(meta["code"]),
        "weights_sha256": str(meta["weights_sha256"]),
        "method": str(meta["method"]),
        METRIC_TAG: metric,
        **metrics,
    }
