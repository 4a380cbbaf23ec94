"""Manifests against the API of Kubernetes, and the scripts of their steps. No cluster runs."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest

from tests.infra.reading import INFRA, OVERLAYS, SCHEMAS, containers, job_of_pool, nodes, pods, rendered


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
