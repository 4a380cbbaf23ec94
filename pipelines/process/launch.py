"""Launching `anyres` under Accelerate: how many processes, which command, which environment variables."""

from __future__ import annotations

import os
import subprocess
import sys

from pipelines.environment import Environment

# Pictures in one group that the discriminator compares.
GROUP = 4


def launch_command(environment: Environment, count: int, arguments: list[str]) -> list[str]:
    """Return the command that runs `anyres` with `arguments` in `count` processes, or with ANYRES_ACCELERATE_CONFIG."""
    python = [sys.executable, "-m"]
    launch = [*python, "accelerate.commands.launch"]
    if environment.accelerate_config is not None:
        return [*launch, "--config_file", str(environment.accelerate_config), "-m", "anyres", *arguments]
    if count == 1:
        return [*python, "anyres", *arguments]
    # `--cpu --num_processes 2` silently runs one process. `--multi_gpu` also works on a CPU, with ACCELERATE_USE_CPU.
    options = ["--multi_gpu", "--num_machines", "1", "--num_processes", str(count)]
    # Port 0 is any free port. Precision is a hyper-parameter: `anyres` sets it.
    return [
        *launch,
        *options,
        "--mixed_precision",
        "no",
        "--dynamo_backend",
        "no",
        "--main_process_port",
        "0",
        "-m",
        "anyres",
        *arguments,
    ]


def launch_environ(environment: Environment, count: int, gpus: int) -> dict[str, str]:
    """Return the environment variables of the launched processes."""
    values = dict(os.environ)
    if not gpus and environment.accelerate_config is None:
        values["ACCELERATE_USE_CPU"] = "true"
        # Processes share the cores: with more threads than cores, every operation waits for its slowest thread.
        values.setdefault("OMP_NUM_THREADS", str(max(1, num_cores() // count)))
    return values


def process_count(environment: Environment, batch: int, gpus: int) -> int:
    """Return how many processes train: ANYRES_NUM_PROCESSES, else one per GPU, or one per core without a GPU.

    It is reduced until every process has the same number of whole groups of the discriminator, at the least to one process.
    """
    if environment.num_processes is not None:
        return environment.num_processes
    limit = gpus or num_cores()
    return max(count for count in range(1, limit + 1) if count == 1 or batch % (count * GROUP) == 0)


def num_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def num_gpus(environment: Environment) -> int:
    """Return how many GPUs torch sees. A separate process asks, so that this one does not import torch."""
    if environment.device == "cpu":
        return 0
    script = "import torch; print(torch.cuda.device_count())"
    answer = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True, text=True).stdout.strip()
    return int(answer) if answer.isdigit() else 0
