"""Stage evaluate: metrics in out/evaluation, by processes of its own, and the page for people in out/report."""

from __future__ import annotations

import sys

from anyres.params import Params
from pipelines.environment import Environment
from pipelines.history import git_commit
from pipelines.launch import launch_command, launch_environ, num_gpus
from pipelines.leash import leashed
from pipelines.stage import EVALUATION, REPORT, RUNS, STORE, TRAINED, StageError, main, replaced


def evaluate(params: Params, environment: Environment) -> None:
    """Measure the trained generator, and the same before training, against the store; then write the report."""
    gpus = num_gpus(environment)
    # Threads of one process share the cores of a machine better than processes do.
    count = environment.num_processes or gpus or 1
    with replaced(EVALUATION) as out:
        folders = {"store": STORE, "trained": TRAINED, "out": out, "reals": RUNS / "reals", "passing": RUNS / "evaluation"}
        work = [
            "evaluate",
            "--params",
            "params.yaml",
            *(str(word) for name, path in folders.items() for word in (f"--{name}", path)),
        ]
        with leashed(launch_command(environment, count, work), launch_environ(environment, count, gpus)) as process:
            code = process.wait()
        if code:
            raise StageError(f"evaluation ended with code {code}; run again to go on from what is measured", code)
    report(params)


def report(params: Params) -> None:
    """Write the page from what was measured."""
    from anyres.data.store import Store
    from anyres.evaluation.report import write_report
    from anyres.training.run import load_generator

    with replaced(REPORT) as out:
        write_report(out, params, load_generator(TRAINED), Store.open(STORE), TRAINED, EVALUATION, {"git commit": git_commit()})


if __name__ == "__main__":
    sys.exit(main("evaluate", evaluate))
