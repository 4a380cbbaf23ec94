"""Commands, variables, images and addresses in infra/ exist, and no file contains a secret."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
from collections.abc import Iterator
from importlib import metadata
from itertools import pairwise

import anyres
from pipelines.environment import Environment
from tests.infra.reading import INFRA, OVERLAYS, ROOT, compose, containers, pods, rendered, stages


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


def test_the_guide_shows_its_picture_and_names_what_there_is():
    guide = (ROOT / "docs/cluster.md").read_text()
    assert "(cluster.svg)" in guide
    for path in re.findall(r"`(infra/[\w./-]+)`", guide):
        assert (ROOT / path).exists() or path.endswith((".env", ".env.local")), path
