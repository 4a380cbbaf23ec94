"""Images: linted, built from the lock, and ended only after their processes."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.infra.reading import INFRA, ROOT, commands, environment_packages, locked_versions, missing, stages


def test_the_dockerfile_has_no_warnings():
    tool = shutil.which("hadolint") or str(Path(sys.executable).with_name("hadolint"))
    run = subprocess.run([tool, "--failure-threshold", "style", INFRA / "docker/Dockerfile"], capture_output=True, text=True)
    assert (run.returncode, run.stdout) == (0, "")


@pytest.mark.parametrize("stage", ["services-environment", "cpu-environment", "gpu-environment"])
def test_every_image_gets_all_that_it_needs_with_hashes(stage: str, tmp_path: Path):
    packages = environment_packages(stage, tmp_path)
    assert all(version in locked_versions()[name] for name, version in packages.items())
    names = set(packages)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [line for extra in ("viewer", "onnx", "dask", "pipelines") for line in project["optional-dependencies"][extra]]
    everything = [Requirement(line) for line in [*project["dependencies"], *extras]]
    if stage == "services-environment":
        assert (
            missing(names, [Requirement(n) for n in ("mlflow", "prefect", "prefect-kubernetes", "psycopg[binary]", "boto3")])
            == set()
        )
        assert {"torch", "timm", "moto", "pytest"} & names == set()
    elif stage == "gpu-environment":
        assert missing(names, everything) == set()
        assert {"torch", "triton", "nvidia-nccl-cu13"} <= names
        assert {"moto", "pytest", "ruff"} & names == set()
    else:
        assert missing(names, everything) == {"torch", "torchvision", "xformers"}
        # What a CPU build of torch asks for besides.
        assert {"filelock", "fsspec", "jinja2", "networkx", "setuptools", "sympy", "typing-extensions"} <= names
        assert [name for name in names if name.startswith(("nvidia", "cuda", "triton"))] == []


def test_every_installation_checks_the_hashes_of_the_lock(tmp_path: Path):
    for stage in ("services-environment", "cpu-environment", "gpu-environment"):
        for command in commands(stage):
            if command.startswith("uv pip install"):
                # The wheel of anyres was built here. The lock has no hashes of torch's CPU builds.
                unlocked = command.endswith(("--no-deps wheels/*.whl", "--no-deps --torch-backend cpu --requirement torch.txt"))
                assert unlocked != ("--require-hashes --constraint requirements.lock" in command), command
    bootstrap, install, build = commands("locked")
    subprocess.run(["bash", "-c", bootstrap.replace(">", f">{tmp_path}/")], cwd=ROOT, check=True)
    assert re.match(r"uv==[\d.]+ \\\n +--hash=sha256:", (tmp_path / "uv.txt").read_text())
    assert install == "python -m pip install --require-hashes --requirement uv.txt"
    assert "--require-hashes --build-constraints requirements.lock" in build
    assert missing(set(locked_versions()), [Requirement("hatchling")]) == set()


def test_packages_that_are_left_out_are_in_the_lock(tmp_path: Path):
    (listing,) = [command for command in commands("cpu-environment") if command.endswith(">cuda.txt")]
    subprocess.run(["bash", "-c", listing], cwd=tmp_path, check=True)
    excluded = (tmp_path / "cuda.txt").read_text().split()
    assert excluded
    assert set(excluded) <= locked_versions().keys()


def test_images_are_built_of_what_the_context_lets_in():
    allowed = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    copied = {
        source
        for body in stages().values()
        for line in re.findall(r"^COPY (?!--from)(.*)$", body, re.MULTILINE)
        for source in line.split()[:-1]
    }
    assert copied == set(allowed)
    assert all((ROOT / path).exists() for path in copied)


def test_images_run_as_nobody_in_particular():
    assert re.search(r"^USER 10001:10001$", stages()["runtime"], re.MULTILINE)
    for name in ("services", "cpu", "gpu"):
        assert stages()[name].startswith("FROM runtime\n")
        assert "USER" not in stages()[name]
    assert "HEALTHCHECK" in stages()["viewer"]


# A command that ends at once when told to, and leaves somebody behind in a session of his own who needs longer.
OWNER = """
import signal, subprocess, sys, time
late = "import sys, time; sys.stdin.read(); time.sleep(0.5); open(sys.argv[1], 'w').write('saved')"
subprocess.Popen([sys.executable, "-c", late, sys.argv[1]], stdin=subprocess.PIPE, start_new_session=True)
print("ready", flush=True)
signal.pause()
"""


def test_a_container_stays_until_the_last_one_has_saved_his_work(tmp_path: Path):
    words = [sys.executable, INFRA / "docker/linger.py", sys.executable, "-c", OWNER, tmp_path / "kept"]
    first = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    assert first.stdout is not None
    with first.stdout as said:
        assert said.readline() == "ready\n"
        first.terminate()
        assert first.wait(30) == 128 + signal.SIGTERM
    assert (tmp_path / "kept").read_text() == "saved"
    assert subprocess.run([*words[:3], "-c", "raise SystemExit(3)"]).returncode == 3
