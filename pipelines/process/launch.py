"""Processes of the library under Accelerate: how many, by which command, with which variables."""

from __future__ import annotations

import os
import subprocess
import sys

from pipelines.environment import Environment

# Pictures that the discriminator compares with each other.
GROUP = 4


def launch_command(environment: Environment, count: int, work: list[str]) -> list[str]:
    """The command that runs `anyres` with the arguments `work` in `count` processes, or as the machine's own Accelerate config
    says.
    """
    python = [sys.executable, "-m"]
    launch = [*python, "accelerate.commands.launch"]
    if environment.accelerate_config is not None:
        return [*launch, "--config_file", str(environment.accelerate_config), "-m", "anyres", *work]
    if count == 1:
        return [*python, "anyres", *work]
    # --cpu --num_processes 2 silently runs one process; --multi_gpu is right on a CPU too, with ACCELERATE_USE_CPU.
    options = ["--multi_gpu", "--num_machines", "1", "--num_processes", str(count)]
    # Port 0: any free one. Precision is a hyper-parameter, set inside.
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
        *work,
    ]


def launch_environ(environment: Environment, count: int, gpus: int) -> dict[str, str]:
    """The variables that such processes run with."""
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
