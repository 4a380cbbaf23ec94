"""Images: linted, built of what the lock holds, and patient with what runs in them."""

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

from tests.infra.reading import INFRA, ROOT, locked, missing, stages, subset


def test_the_dockerfile_has_no_warnings():
    tool = shutil.which("hadolint") or str(Path(sys.executable).with_name("hadolint"))
    run = subprocess.run([tool, "--failure-threshold", "style", INFRA / "docker/Dockerfile"], capture_output=True, text=True)
    assert (run.returncode, run.stdout) == (0, "")


@pytest.mark.parametrize("file", ["tools.txt", "services.txt", "cpu.txt", "gpu.txt"])
def test_every_image_gets_all_that_it_needs_with_hashes(file: str):
    found = subset(file)
    assert all(pin.text.count("--hash=sha256:") > 0 for pin in found.values())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [line for extra in ("viewer", "onnx", "dask", "pipelines") for line in project["optional-dependencies"][extra]]
    everything = [Requirement(line) for line in [*project["dependencies"], *extras]]
    if file == "tools.txt":
        assert missing(set(found), [Requirement("uv"), Requirement("hatchling")]) == set()
    elif file == "services.txt":
        assert (
            missing(set(found), [Requirement(n) for n in ("mlflow", "prefect", "prefect-kubernetes", "psycopg[binary]")]) == set()
        )
        assert {"torch", "timm", "moto", "pytest"} & found.keys() == set()
    elif file == "gpu.txt":
        assert missing(set(found), everything) == set()
        assert {"torch", "triton", "nvidia-nccl-cu13"} <= found.keys()
        assert {"moto", "pytest", "ruff"} & found.keys() == set()
    else:
        assert missing(set(found), everything) == {"torch", "torchvision", "xformers"}
        # What a CPU build of torch asks for besides.
        assert {"filelock", "fsspec", "jinja2", "networkx", "setuptools", "sympy", "typing-extensions"} <= found.keys()
        assert [name for name in found if name.startswith(("nvidia", "cuda", "triton"))] == []


def test_a_pattern_that_leaves_nothing_out_is_refused():
    pins = locked().pins((ROOT / "requirements.lock").read_text())
    with pytest.raises(ValueError, match=r"--without nvidia: matches nothing"):
        locked().needed(pins, ["torch"], ["nvidia"])


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
