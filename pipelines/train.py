"""Stage train: train in separate processes, write out/train, and copy its reports to MLflow while it runs."""

from __future__ import annotations

import contextlib
import functools
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from anyres.identity import find_run
from anyres.params import Params
from pipelines.environment import Environment
from pipelines.process.launch import launch_command, launch_environ, num_gpus, process_count
from pipelines.process.outcome import EXIT_PERMANENT
from pipelines.process.supervise import StderrTee, supervised_process
from pipelines.services.history import read_reports, sample_pictures
from pipelines.stage import STORE, TRAINED, StageError, exclusive, main

FOLLOW_EVERY_S = 5.0
ARGUMENTS = ["train", "--params", "params.yaml", "--store", str(STORE), "--out", str(TRAINED)]


def train(params: Params, environment: Environment) -> None:
    """Train on data/store; raise StageError with the exit code of the training if it fails."""
    dataset = json.loads((STORE / "dataset.json").read_text(encoding="utf-8"))
    TRAINED.mkdir(parents=True, exist_ok=True)
    gpus = num_gpus(environment)
    count = process_count(environment, params.train.batch, gpus)
    arguments = [*ARGUMENTS, "--runs", str(environment.runs_dir)]
    arguments += [] if environment.micro_batch is None else ["--micro-batch", str(environment.micro_batch)]
    arguments += ["--ignore-code"] if environment.ignore_code else []
    run = find_run(environment.runs_dir, params.train, dataset["hash"], environment.ignore_code).path.name
    command, environ, tee = launch_command(environment, count, arguments), launch_environ(environment, count, gpus), StderrTee()
    with (
        exclusive("train", run, environment),
        supervised_process(command, environ, stderr=tee.stderr) as process,
    ):
        tee.listen(process)
        follower = Follower(params, environment, dataset, run)
        try:
            code = follower.follow(process)
        except BaseException:
            follower.end("KILLED")
            raise
        follower.end("FINISHED" if code == 0 else "FAILED")
    if code:
        line = f"training ended with code {code}; run again to resume from its last checkpoint"
        raise StageError(line, code, retryable=code != EXIT_PERMANENT, reason=tee.last_line())


class Follower:
    """Copies reports and sample pictures from out/train to MLflow. Prints the first failure of tracking and raises none."""

    def __init__(self, params: Params, environment: Environment, dataset: Mapping[str, Any], run: str) -> None:
        self.run = None
        self.monitor = None
        self.has_warned = False
        with self._warn_once():
            from pipelines.services.tracking import reach, start_training_run

            self.reach = functools.partial(reach, environment)
            self.run, self.monitor = start_training_run(environment, params, dataset, run)

    def follow(self, process: subprocess.Popen[bytes]) -> int:
        """Log until the training ends; return its code."""
        while True:
            try:
                code = process.wait(FOLLOW_EVERY_S)
            except subprocess.TimeoutExpired:
                code = None
            if self.run is not None:
                with self._warn_once():
                    self.reach()
                    self.run.log_reports(read_reports(TRAINED / "history.jsonl"))
                    self.run.log_samples(sample_pictures(TRAINED / "samples"))
            if code is not None:
                return code

    def end(self, status: str) -> None:
        """Close the run with FINISHED, FAILED or KILLED."""
        with self._warn_once():
            if self.monitor is not None:
                self.monitor.finish()
            if self.run is not None:
                self.run.end(status)

    @contextlib.contextmanager
    def _warn_once(self) -> Iterator[None]:
        """Print the first failure of tracking in one line: reports stay in out/train and are logged at registration."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 - the store, its driver or its server may raise anything
            if not self.has_warned:
                line = " ".join(str(error).split())[:300]
                print(
                    f"train: tracking failed ({line}); training continues; reports are in {TRAINED}/history.jsonl",
                    file=sys.stderr,
                )
                self.has_warned = True


if __name__ == "__main__":
    sys.exit(main("train", train, on_gpu=True))
