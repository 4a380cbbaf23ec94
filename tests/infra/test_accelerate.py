"""Accelerate's files: all are read by accelerate, and those for CPUs are launched."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from accelerate.commands.config.config_args import ClusterConfig, load_config_from_file

from tests.infra.reading import INFRA, nodes

# A module in the place of the library: it says how many processes it found, and that they reach each other.
PROBE = """
import sys, torch
from accelerate import Accelerator
accelerator = Accelerator()
total = accelerator.reduce(torch.tensor(accelerator.process_index + 1.0))
if accelerator.is_main_process:
    open(sys.argv[-1] + "/found", "w").write(f"{accelerator.num_processes} {total.item():g} {accelerator.device.type}")
accelerator.wait_for_everyone()
accelerator.end_training()
"""


@pytest.fixture
def probe(tmp_path: Path) -> Path:
    work = tmp_path / "anyres"
    (work / "anyres").mkdir(parents=True)
    (work / "anyres/__init__.py").touch()
    (work / "anyres/__main__.py").write_text(PROBE)
    (work / "out/runs").mkdir(parents=True)
    (work / "infra").symlink_to(INFRA)
    return work


@pytest.mark.parametrize(
    ("name", "machines", "processes", "kind", "cpu"),
    [
        ("cpu", 1, 1, "NO", True),
        ("gpu", 1, 1, "NO", False),
        ("eight-gpus", 1, 8, "MULTI_GPU", False),
        ("nodes", 2, 16, "MULTI_GPU", False),
    ],
)
def test_configs_are_what_accelerate_reads(name: str, machines: int, processes: int, kind: str, cpu: bool):
    config = load_config_from_file(str(INFRA / f"accelerate/{name}.yaml"))
    assert isinstance(config, ClusterConfig)
    assert (config.num_machines, config.num_processes, config.distributed_type, config.use_cpu) == (
        machines,
        processes,
        kind,
        cpu,
    )
    # It would change results behind the back of params.yaml.
    assert config.mixed_precision == "no"
    assert len(list((INFRA / "accelerate").glob("*.yaml"))) == 4


def test_nodes_config_is_that_of_the_overlay():
    config = load_config_from_file(str(INFRA / "accelerate/nodes.yaml"))
    assert config.num_machines == int(nodes()["NODES"])
    assert config.num_processes == int(nodes()["NODES"]) * int(nodes()["GPUS_PER_NODE"])


def test_the_cpu_config_launches_one_process(probe: Path):
    words = ["-m", "accelerate.commands.launch", "--config_file", "infra/accelerate/cpu.yaml", "-m", "anyres", "out/runs"]
    subprocess.run([sys.executable, *words], cwd=probe, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=True)
    assert (probe / "out/runs/found").read_text() == "1 1 cpu"


def test_nodes_train_together(probe: Path):
    """The training step of the overlay, as two nodes of one process each on this machine."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environ = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "WORK": str(probe.parent),
        "JOB_UID": "u1",
        "NODES": "2",
        "GPUS_PER_NODE": "1",
        "MAIN_ADDRESS": "127.0.0.1",
        "MAIN_PORT": str(port),
        "ACCELERATE_USE_CPU": "true",
        "OMP_NUM_THREADS": "1",
    }
    step = ["sh", str(INFRA / "kubernetes/overlays/multi-node/train.sh")]
    started = [
        subprocess.Popen(step, env=environ | {"JOB_COMPLETION_INDEX": index}, start_new_session=True) for index in ("1", "0")
    ]
    try:
        assert [process.wait(120) for process in started] == [0, 0]
    finally:
        for process in started:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    assert (probe / "out/runs/found").read_text() == "2 3 cpu"
