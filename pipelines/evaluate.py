"""Stage evaluate: metrics in out/evaluation, computed in separate processes, and the HTML report in out/report."""

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
    """Evaluate the generator, trained and untrained, against the store; then write the report."""
    gpus = num_gpus(environment)
    # On a CPU, the threads of one process use the cores better than several processes.
    count = environment.num_processes or gpus or 1
    identity = json.loads((TRAINED / "train.json").read_text(encoding="utf-8"))["fingerprint"]
    with exclusive("evaluate", identity, environment), atomic_directory(EVALUATION) as out:
        caches = {"reals": environment.runs_dir / "reals", "fake-cache": environment.runs_dir / identity / "evaluation"}
        folders = {"store": STORE, "trained": TRAINED, "out": out, **caches}
        arguments = [
            "evaluate",
            "--params",
            "params.yaml",
            *(str(argument) for name, path in folders.items() for argument in (f"--{name}", path)),
        ]
        tee = StderrTee()
        command, environ = launch_command(environment, count, arguments), launch_environ(environment, count, gpus)
        with supervised_process(command, environ, stderr=tee.stderr) as process:
            tee.listen(process)
            code = process.wait()
        if code:
            line = f"evaluation ended with code {code}; run again to resume from the cached measurements"
            raise StageError(line, code, retryable=code != EXIT_PERMANENT, reason=tee.last_line())
    report(params)


def report(params: Params) -> None:
    """Write the report of the measurements."""
    from anyres.data.store import Store
    from anyres.evaluation.report import write_report
    from anyres.networks.saved import load_trained

    with atomic_directory(REPORT) as out:
        write_report(out, params, load_trained(TRAINED), Store.open(STORE), TRAINED, EVALUATION, {"git commit": git_commit()})


if __name__ == "__main__":
    sys.exit(main("evaluate", evaluate, on_gpu=True))
