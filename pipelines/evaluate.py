"""Stage evaluate: metrics in out/evaluation and the page for people in out/report."""

from __future__ import annotations

import sys

from anyres.params import Params
from pipelines.environment import Environment
from pipelines.history import git_commit
from pipelines.stage import EVALUATION, REPORT, STORE, TRAINED, main, replaced


def evaluate(params: Params, environment: Environment) -> None:
    """Measure the trained generator, and the same before training, against the store; then write the report."""
    import torch

    from anyres.data.store import Store
    from anyres.evaluation.report import write_report
    from anyres.evaluation.sweep import evaluate as measure
    from anyres.training.run import FIRST_STAGE, load_generator

    device = "cuda" if environment.device == "auto" and torch.cuda.is_available() else "cpu"
    store = Store.open(STORE)
    generator = load_generator(TRAINED).to(device)
    with replaced(EVALUATION) as out:
        untrained = load_generator(TRAINED, "generator_init.safetensors").to(device)
        first = load_generator(TRAINED, FIRST_STAGE).to(device) if (TRAINED / FIRST_STAGE).exists() else None
        measure(params, generator, untrained, store, out, first)
    with replaced(REPORT) as out:
        write_report(out, params, generator, store, TRAINED, EVALUATION, {"git commit": git_commit()})


if __name__ == "__main__":
    sys.exit(main("evaluate", evaluate))
