"""Stage evaluate: metrics in out/evaluation, by processes of its own, and the page for people in out/report."""

from __future__ import annotations

import json
import sys

from anyres.params import Params
from pipelines.environment import Environment
from pipelines.process.launch import launch_command, launch_environ, num_gpus
from pipelines.process.outcome import LASTING
from pipelines.process.supervise import Overheard, leashed
from pipelines.services.history import git_commit
from pipelines.stage import EVALUATION, REPORT, STORE, TRAINED, StageError, alone, main, replaced


def evaluate(params: Params, environment: Environment) -> None:
    """Measure the trained generator, and the same before training, against the store; then write the report."""
    gpus = num_gpus(environment)
    # Threads of one process share the cores of a machine better than processes do.
    count = environment.num_processes or gpus or 1
    identity = json.loads((TRAINED / "train.json").read_text(encoding="utf-8"))["fingerprint"]
    with alone("evaluate", identity, environment), replaced(EVALUATION) as out:
        kept = {"reals": environment.runs_dir / "reals", "passing": environment.runs_dir / identity / "evaluation"}
        folders = {"store": STORE, "trained": TRAINED, "out": out, **kept}
        work = [
            "evaluate",
            "--params",
            "params.yaml",
            *(str(word) for name, path in folders.items() for word in (f"--{name}", path)),
        ]
        overheard = Overheard()
        command, environ = launch_command(environment, count, work), launch_environ(environment, count, gpus)
        with leashed(command, environ, stderr=overheard.stderr) as process:
            overheard.listen(process)
            code = process.wait()
        if code:
            line = f"evaluation ended with code {code}; run again to go on from what is measured"
            raise StageError(line, code, passing=code != LASTING, reason=overheard.last())
    report(params)


def report(params: Params) -> None:
    """Write the page from what was measured."""
    from anyres.data.store import Store
    from anyres.evaluation.report import write_report
    from anyres.networks.saved import load_trained

    with replaced(REPORT) as out:
        write_report(out, params, load_trained(TRAINED), Store.open(STORE), TRAINED, EVALUATION, {"git commit": git_commit()})


if __name__ == "__main__":
    sys.exit(main("evaluate", evaluate, on_gpu=True))
