"""Stage train: a training in processes of its own, followed into MLflow while it runs. Fills out/train."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from anyres.params import Params, fingerprint
from pipelines.environment import Environment
from pipelines.history import read_reports, sample_pictures
from pipelines.leash import leashed
from pipelines.stage import RUNS, STORE, TRAINED, StageError, main

FOLLOW_EVERY_S = 5.0
# Pictures that the discriminator compares with each other.
GROUP = 4
MODULE = ["anyres.training", "--params", "params.yaml", "--store", str(STORE), "--out", str(TRAINED), "--runs", str(RUNS)]


def train(params: Params, environment: Environment) -> None:
    """Train on data/store; raises StageError with the exit code of the training where that fails."""
    dataset = json.loads((STORE / "dataset.json").read_text(encoding="utf-8"))
    TRAINED.mkdir(parents=True, exist_ok=True)
    gpus = num_gpus(environment)
    count = process_count(environment, params.train.batch, gpus)
    with leashed(launch_command(environment, count), launch_environ(environment, count, gpus)) as process:
        follower = Follower(params, environment, dataset)
        try:
            code = follower.follow(process)
        except BaseException:
            follower.end("KILLED")
            raise
        follower.end("FINISHED" if code == 0 else "FAILED")
    if code:
        raise StageError(f"training ended with code {code}; run again to go on from its last checkpoint", code)


def launch_command(environment: Environment, count: int) -> list[str]:
    """The command that trains with `count` processes, or as the machine's own Accelerate config says."""
    python = [sys.executable, "-m"]
    launch = [*python, "accelerate.commands.launch"]
    if environment.accelerate_config is not None:
        return [*launch, "--config_file", str(environment.accelerate_config), "-m", *MODULE]
    if count == 1:
        return [*python, *MODULE]
    # --cpu --num_processes 2 silently runs one process; --multi_gpu is right on a CPU too, with ACCELERATE_USE_CPU.
    options = ["--multi_gpu", "--num_machines", "1", "--num_processes", str(count)]
    # Port 0: any free one. Precision is a hyper-parameter, set inside.
    return [*launch, *options, "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0", "-m", *MODULE]


def launch_environ(environment: Environment, count: int, gpus: int) -> dict[str, str]:
    """The variables that training runs with."""
    values = dict(os.environ)
    if not gpus and environment.accelerate_config is None:
        values["ACCELERATE_USE_CPU"] = "true"
        # Processes share the cores. Threads that meet at every operation stall whenever anything else wants a core.
        values.setdefault("OMP_NUM_THREADS", str(max(1, num_cores() // count)))
    return values


def process_count(environment: Environment, batch: int, gpus: int) -> int:
    """How many processes train: as told, else one a GPU, or one a core, as far as the batch splits evenly.

    A share of the batch is a multiple of the discriminator's groups of four wherever it can be.
    """
    if environment.num_processes is not None:
        return environment.num_processes
    most = gpus or num_cores()
    return max(count for count in range(1, most + 1) if count == 1 or batch % (count * GROUP) == 0)


def num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def num_gpus(environment: Environment) -> int:
    """Ask in a process of its own: torch stays out of the flow's."""
    if environment.device == "cpu":
        return 0
    ask = "import torch; print(torch.cuda.device_count())"
    answer = subprocess.run([sys.executable, "-c", ask], check=False, capture_output=True, text=True).stdout.strip()
    return int(answer) if answer.isdigit() else 0


class Follower:
    """Carries reports and sample pictures from out/train to MLflow. Tracking that fails is said once, never raised."""

    def __init__(self, params: Params, environment: Environment, dataset: Mapping[str, Any]) -> None:
        self.run = None
        self.monitor = None
        self.said = False
        with self._forgiving():
            from pipelines.tracking import start_training_run

            self.run, self.monitor = start_training_run(environment, params, dataset, fingerprint(params.train, dataset["hash"]))

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
