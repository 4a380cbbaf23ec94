"""The compose file against its specification. No daemon runs."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import jsonschema
import pytest

from tests.infra.reading import INFRA, compose, fetched, pods, rendered


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
    """Each service has one port number, in compose and in Kubernetes."""
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
