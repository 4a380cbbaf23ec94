"""How training is launched, with how many processes."""

from __future__ import annotations

from pathlib import Path

import pytest

from anyres.networks import discriminator
from pipelines.environment import Environment
from pipelines.process import launch
from pipelines.process.launch import launch_command, launch_environ, num_cores, process_count
from pipelines.train import ARGUMENTS

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("batch", "gpus", "count"),
    [(32, 8, 8), (32, 3, 2), (24, 4, 3), (30, 4, 1), (8, 2, 2), (8, 16, 2), (1, 4, 1)],
)
def test_processes_share_a_batch_in_whole_groups(batch, gpus, count):
    assert process_count(Environment(), batch, gpus) == count


def test_a_group_is_what_the_discriminator_compares():
    assert launch.GROUP == discriminator.GROUP


def test_without_a_gpu_there_is_one_process_a_core():
    assert process_count(Environment(), 4 * num_cores(), gpus=0) == num_cores()
    environ = launch_environ(Environment(), num_cores(), gpus=0)
    assert environ["ACCELERATE_USE_CPU"] == "true"


def test_the_environment_decides_where_it_speaks():
    assert process_count(Environment(num_processes=3), 32, gpus=8) == 3


def test_one_process_needs_no_launcher():
    assert launch_command(Environment(), 1, ARGUMENTS)[1:4] == ["-m", "anyres", "train"]


def test_several_processes_are_launched_by_accelerate():
    command = launch_command(Environment(), 2, ARGUMENTS)
    assert command[2] == "accelerate.commands.launch"
    assert command[command.index("--num_processes") + 1] == "2"
    own = launch_command(Environment(accelerate_config=Path("own.yaml")), 2, ARGUMENTS)
    assert own[own.index("--config_file") + 1] == "own.yaml"
    assert "--num_processes" not in own
