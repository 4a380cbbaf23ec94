"""Stage evaluate: metrics in out/evaluation, by processes of its own, and the page for people in out/report."""

from __future__ import annotations

import json
import sys

from anyres.params import Params
from pipelines.environment import Environment
from pipelines.process.launch import launch_command, launch_environ, num_gpus
from pipelines.process.outcome import EXIT_PERMANENT
from pipelines.process.supervise import StderrTee, supervised_process
from pipelines.services.history import git_commit
from pipelines.stage import EVALUATION, REPORT, STORE, TRAINED, StageError, atomic_directory, exclusive, main


def evaluate(params: Params, environment: Environment) -> None:
    """Measure the trained generator, and the same before training, against the store; then write the report."""
    gpus = num_gpus(environment)
    # Threads of one process share the cores of a machine better than processes do.
    count = environment.num_processes or gpus or 1
    identity = json.loads((TRAINED / "train.json").read_text(encoding="utf-8"))["fingerprint"]
    with exclusive("evaluate", identity, environment), atomic_directory(EVALUATION) as out:
        caches = {"reals": environment.runs_dir / "reals", "fake-cache": environment.runs_dir / identity / "evaluation"}
        folders = {"store": STORE, "trained": TRAINED, "out": out, **caches}
        work = [
            "evaluate",
            "--params",
            "params.yaml",
            *(str(word) for name, path in folders.items() for word in (f"--{name}", path)),
        ]
        overheard = StderrTee()
        command, environ = launch_command(environment, count, work), launch_environ(environment, count, gpus)
        with supervised_process(command, environ, stderr=overheard.stderr) as process:
            overheard.listen(process)
            code = process.wait()
        if code:
            line = f"evaluation ended with code {code}; run again to go on from what is measured"
            raise StageError(line, code, retryable=code != EXIT_PERMANENT, reason=overheard.last())
    report(params)


def report(params: Params) -> None:
    """Write the page from what was measured."""
    from anyres.data.store import Store
    from anyres.evaluation.report import write_report
    from anyres.networks.saved import load_trained

    with atomic_directory(REPORT) as out:
        write_report(out, params, load_trained(TRAINED), Store.open(STORE), TRAINED, EVALUATION, {"git commit": git_commit()})


if __name__ == "__main__":
    sys.exit(main("evaluate", evaluate, on_gpu=True))
