"""Stage train: a training in processes of its own, followed into MLflow while it runs. Fills out/train."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from anyres.params import Params
from pipelines.environment import Environment
from pipelines.history import fingerprint, read_reports, sample_pictures
from pipelines.leash import leashed
from pipelines.stage import RUNS, STORE, TRAINED, StageError, main

FOLLOW_EVERY_S = 5.0
MODULE = ["anyres.training", "--params", "params.yaml", "--store", str(STORE), "--out", str(TRAINED), "--runs", str(RUNS)]


def train(params: Params, environment: Environment) -> None:
    """Train on data/store; raises StageError with the exit code of the training where that fails."""
    dataset = json.loads((STORE / "dataset.json").read_text(encoding="utf-8"))
    TRAINED.mkdir(parents=True, exist_ok=True)
    with leashed(launch_command(environment), launch_environ(environment)) as process:
        follower = Follower(params, environment, dataset)
        try:
            code = follower.follow(process)
        except BaseException:
            follower.end("KILLED")
            raise
        follower.end("FINISHED" if code == 0 else "FAILED")
    if code:
        raise StageError(f"training ended with code {code}; run again to go on from its last checkpoint", code)


def launch_command(environment: Environment) -> list[str]:
    """The command that trains with as many processes as this machine is told to use."""
    python = [sys.executable, "-m"]
    launch = [*python, "accelerate.commands.launch"]
    if environment.accelerate_config is not None:
        return [*launch, "--config_file", str(environment.accelerate_config), "-m", *MODULE]
    if environment.num_processes == 1:
        return [*python, *MODULE]
    # --cpu --num_processes 2 silently runs one process; --multi_gpu is right on a CPU too, with ACCELERATE_USE_CPU.
    options = ["--multi_gpu", "--num_machines", "1", "--num_processes", str(environment.num_processes)]
    # Port 0: any free one. Precision is a hyper-parameter, set inside.
    return [*launch, *options, "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0", "-m", *MODULE]


def launch_environ(environment: Environment) -> dict[str, str]:
    """The variables that training runs with."""
    values = dict(os.environ)
    many = environment.num_processes > 1 and environment.accelerate_config is None
    if environment.device == "cpu" or (many and not _has_cuda()):
        values["ACCELERATE_USE_CPU"] = "true"
    return values


def _has_cuda() -> bool:
    """Ask in a process of its own: torch stays out of the flow's."""
    ask = "import sys, torch; sys.exit(not torch.cuda.is_available())"
    return subprocess.run([sys.executable, "-c", ask], check=False, stderr=subprocess.DEVNULL).returncode == 0


class Follower:
    """Carries reports and sample pictures from out/train to MLflow. Tracking that fails is said once, never raised."""

    def __init__(self, params: Params, environment: Environment, dataset: Mapping[str, Any]) -> None:
        self.run = None
        self.monitor = None
        self.said = False
        with self._forgiving():
            from pipelines.tracking import start_training_run

            self.run, self.monitor = start_training_run(environment, params, dataset, fingerprint(params, dataset["hash"]))

    def follow(self, process: subprocess.Popen[bytes]) -> int:
        """Log until the training ends; return its code."""
        while True:
            try:
                code = process.wait(FOLLOW_EVERY_S)
            except subprocess.TimeoutExpired:
                code = None
            if self.run is not None:
                with self._forgiving():
                    self.run.log_reports(read_reports(TRAINED / "history.jsonl"))
                    self.run.log_samples(sample_pictures(TRAINED / "samples"))
            if code is not None:
                return code

    def end(self, status: str) -> None:
        """Close the run with FINISHED, FAILED or KILLED."""
        with self._forgiving():
            if self.monitor is not None:
                self.monitor.finish()
            if self.run is not None:
                self.run.end(status)

    @contextlib.contextmanager
    def _forgiving(self) -> Iterator[None]:
        """Turn a failure of tracking into one line, once: reports stay in out/train and are logged at registration."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 - whatever the store, its driver or its server raises
            if not self.said:
                line = " ".join(str(error).split())[:300]
                print(
                    f"train: tracking fails ({line}); training goes on, reports stay in {TRAINED}/history.jsonl", file=sys.stderr
                )
                self.said = True


if __name__ == "__main__":
    sys.exit(main("train", train))
