"""Facts of the machine and params through the command line: one clear line, exit code 2, nothing written."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.environment import Environment, EnvironmentVariableError

ROOT = Path(__file__).resolve().parents[2]
STAGES = ("ingest", "prepare", "train", "evaluate", "export")


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """A folder from which the stages run, holding params.yaml and nothing else."""
    shutil.copy(ROOT / "params.yaml", tmp_path)
    return tmp_path


def run(folder: Path, module: str, **variables: str) -> tuple[int, str]:
    """Exit code and standard error of `python -m pipelines.MODULE`."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("ANYRES_")}
    environ |= {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"} | variables
    command = [sys.executable, "-m", f"pipelines.{module}"]
    done = subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, check=False, timeout=60)
    return done.returncode, done.stderr


def assert_refused(folder: Path, result: tuple[int, str], words: str) -> None:
    code, said = result
    assert code == 2, said
    assert words in said
    assert len(said.strip().splitlines()) == 1
    assert [path.name for path in folder.iterdir() if path.name != "params.yaml"] == []


@pytest.mark.parametrize("stage", [*STAGES, "flow"])
def test_every_command_refuses_a_wrong_param(bare: Path, stage: str) -> None:
    text = (bare / "params.yaml").read_text(encoding="utf-8")
    (bare / "params.yaml").write_text(text.replace("batch: 32", "batch: -32"), encoding="utf-8")
    assert_refused(bare, run(bare, stage), "params.yaml: train.batch: ")


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("ANYRES_DEVISE", "cpu", "ANYRES_DEVISE: unknown variable"),
        ("anyres_devise", "cpu", "anyres_devise: unknown variable"),
        ("ANYRES_NUM_PROCESSES", "two", "ANYRES_NUM_PROCESSES: input should be a valid integer"),
        ("ANYRES_NUM_PROCESSES", "0", "ANYRES_NUM_PROCESSES: input should be greater than or equal to 1"),
        ("ANYRES_DEVICE", "gpu", "ANYRES_DEVICE: input should be 'auto' or 'cpu'"),
        ("ANYRES_TRACKING_URI", "", "ANYRES_TRACKING_URI: "),
        ("ANYRES_ACCELERATE_CONFIG", "nowhere.yaml", "ANYRES_ACCELERATE_CONFIG: no such file: nowhere.yaml"),
    ],
)
def test_wrong_variables_are_refused_by_name(monkeypatch: pytest.MonkeyPatch, name: str, value: str, words: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(EnvironmentVariableError, match=words) as problem:
        Environment.read()
    assert "\n" not in str(problem.value)


def test_wrong_variable_ends_a_stage_before_it_writes(bare: Path) -> None:
    assert_refused(bare, run(bare, "train", ANYRES_NUM_PROCESSES="0"), "ANYRES_NUM_PROCESSES")


def test_missing_params_file_is_named(bare: Path) -> None:
    (bare / "params.yaml").unlink()
    assert_refused(bare, run(bare, "flow"), "params.yaml: no such file")


def test_folder_of_pictures_that_is_missing_is_named(bare: Path) -> None:
    assert_refused(bare, run(bare, "flow"), "ingest.folder: no such folder: pictures")


def test_defaults_and_values_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("ANYRES_")]:
        monkeypatch.delenv(name)
    assert Environment.read() == Environment()
    monkeypatch.setenv("ANYRES_NUM_PROCESSES", "2")
    monkeypatch.setenv("ANYRES_CACHE_DIR", "elsewhere")
    environment = Environment.read()
    assert (environment.num_processes, environment.cache_dir) == (2, Path("elsewhere"))
