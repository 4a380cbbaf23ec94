"""Stage export: write the bundle to out/export/generator and register it as a model."""

from __future__ import annotations

import json
import sys

from anyres.params import Params
from pipelines.environment import Environment
from pipelines.services.history import git_commit
from pipelines.services.registration import ensure_registered
from pipelines.stage import BUNDLE, EVALUATION, INGESTED, TRAINED, atomic_directory, main


def export(params: Params, environment: Environment) -> None:
    """Write the bundle, then register it. If the registry does not answer, print one line; the bundle stays."""
    from anyres.export.bundle import write_bundle
    from anyres.networks.saved import meta_of_training

    metrics = json.loads((EVALUATION / "metrics.json").read_text(encoding="utf-8"))
    meta = meta_of_training(TRAINED)
    meta |= {"params": params.model_dump(mode="json"), "metrics": metrics, "git_commit": git_commit()}
    with atomic_directory(BUNDLE) as folder:
        half = params.export.weights == "half"
        write_bundle(folder, TRAINED / "generator.safetensors", meta, params.export.samples, INGESTED / "credits.md", half)
    from pipelines.services.tracking import TrackingError

    try:
        print(ensure_registered(params, environment))
    except TrackingError as error:
        print(
            f"export: not registered ({error}); the bundle is complete, `python -m pipelines.flow` registers it later",
            file=sys.stderr,
        )


if __name__ == "__main__":
    sys.exit(main("export", export))
