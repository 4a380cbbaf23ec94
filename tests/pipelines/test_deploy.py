"""infra/prefect.yaml and its neighbours agree with dvc.yaml, with the flow, and with what Prefect accepts."""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from anyres.params import Params, ParamsError
from pipelines.deployment import deploy
from pipelines.deployment.overrides import override
from pipelines.process import outcome
from pipelines.stage import GPU_LIMIT, StageError

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.filterwarnings("ignore")


def read(path: Path) -> Any:
    return YAML(typ="safe", pure=True).load((ROOT / path).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def deployments() -> dict[str, dict[str, Any]]:
    return {item["name"]: item for item in read(deploy.DEPLOYMENTS)["deployments"]}


@pytest.fixture(scope="module")
def stages() -> list[str]:
    return list(read(Path("dvc.yaml"))["stages"])


def test_there_is_one_for_the_pipeline_and_one_for_every_stage_in_either_pool(
    deployments: dict[str, Any], stages: list[str]
) -> None:
    assert list(deployments) == ["pipeline", *stages, "pipeline-gpu", *(f"{stage}-gpu" for stage in stages)]
    for stage in stages:
        for name, pool in ((stage, deploy.LOCAL_POOL), (f"{stage}-gpu", deploy.KUBERNETES_POOL)):
            assert deployments[name]["parameters"]["stage"] == stage
            assert deployments[name]["work_pool"]["name"] == pool
    assert deployments["pipeline-gpu"]["parameters"]["spread"] == "{stage}-gpu"


def test_parameters_are_those_of_the_flow_and_schedules_are_examples(deployments: dict[str, Any]) -> None:
    from pipelines.deployment.pipeline import anyres

    known = set(inspect.signature(anyres.fn).parameters)
    for item in deployments.values():
        assert item["entrypoint"] == "pipelines/deployment/pipeline.py:anyres"
        assert set(item.get("parameters", {})) <= known
        assert not any(schedule["active"] for schedule in item.get("schedules", []))
    assert "schedules" in deployments["pipeline"]


def test_stages_that_launch_on_accelerators_are_limited_in_either_pool(deployments: dict[str, Any], stages: list[str]) -> None:
    launching = [stage for stage in stages if "launch_command" in (ROOT / f"pipelines/{stage}.py").read_text(encoding="utf-8")]
    assert launching == ["train", "evaluate"]
    for stage in stages:
        text = (ROOT / f"pipelines/{stage}.py").read_text(encoding="utf-8")
        assert ("on_gpu=True" in text) == (stage in launching)
        pool = deployments[f"{stage}-gpu"]["work_pool"]
        assert (pool["work_queue_name"] == deploy.GPU_QUEUE) == (stage in launching)
        assert (pool["job_variables"]["gpus"] > 0) == (stage in launching)
    assert GPU_LIMIT == "anyres-gpu"


def test_job_variables_are_those_of_the_pools_and_render_a_job(deployments: dict[str, Any], stages: list[str]) -> None:
    """Through the class with which a Kubernetes worker makes its Jobs; asked for a template it would want a server."""
    from prefect.utilities.templating import apply_values
    from prefect_kubernetes.worker import KubernetesWorkerJobConfiguration

    template = json.loads((ROOT / deploy.KUBERNETES).read_text(encoding="utf-8"))
    for name in [f"{stage}-gpu" for stage in stages]:
        values = deployments[name]["work_pool"]["job_variables"]
        known = template["variables"]["properties"]
        assert set(values) <= set(known)
        filled = {key: value.get("default") for key, value in known.items()} | values
        rendered = apply_values(template["job_configuration"], filled)
        pod = KubernetesWorkerJobConfiguration(**rendered).job_manifest["spec"]["template"]["spec"]
        (container,) = pod["containers"]
        assert container["resources"]["limits"]["nvidia.com/gpu"] == values["gpus"]
        assert bool(pod["nodeSelector"]) == bool(pod["tolerations"]) == bool(values["gpus"])
        # Two grace periods of a supervised process: the stage's, then the flow's.
        assert pod["terminationGracePeriodSeconds"] >= 60


def test_automations_are_accepted_and_end_somewhere() -> None:
    from prefect.events.schemas.automations import AutomationCore

    found = {item["name"]: AutomationCore.model_validate(item) for item in read(deploy.AUTOMATIONS)["automations"]}
    assert list(found) == ["anyres-silent", "anyres-again"]
    counts = read(deploy.AUTOMATIONS)["automations"][1]["trigger"]["match"]["prefect.run-count"]
    assert counts == [str(count) for count in range(len(counts))]
    AutomationCore.model_validate(deploy.failure_notice("3fa85f64-5717-4562-b3fc-2c963f66afa6"))


def test_heartbeats_are_on_and_quicker_than_the_silence_that_counts(deployments: dict[str, Any]) -> None:
    silence = read(deploy.AUTOMATIONS)["automations"][0]["trigger"]["within"]
    for item in deployments.values():
        every = int(item["work_pool"]["job_variables"]["env"]["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"])
        assert 30 <= every <= silence / 3


def test_without_a_server_there_is_nothing_to_deploy_to(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))
    assert deploy.main([]) == 1
    assert capsys.readouterr().err.startswith("deploy: no Prefect server is named; set PREFECT_API_URL")


@pytest.fixture
def params_file(tmp_path: Path) -> Path:
    path = tmp_path / "params.yaml"
    path.write_bytes((ROOT / "params.yaml").read_bytes())
    return path


def test_overrides_change_these_values_and_no_others(params_file: Path) -> None:
    before = Params.load(params_file)
    override(
        params_file, ["train.kimg=1e2", "train.patch_px=[64, 32]", "train.loss.name=non_saturating", "train.monitor.keep=last"]
    )
    after = Params.load(params_file)
    assert (after.train.kimg, after.train.patch_px, after.train.loss.name) == (100.0, (64, 32), "non_saturating")
    assert after.train.monitor.keep == "last"
    assert (after.ingest, after.evaluate, after.train.network) == (before.ingest, before.evaluate, before.train.network)
    assert "# images seen in all, in thousands" in params_file.read_text()


@pytest.mark.parametrize(
    "word", ["train.kimgs=1", "train", "train.kimg", "train.kimg.more=1", "=1", "train.kimg=[", "trian.kimg=1"]
)
def test_overrides_that_fit_nothing_are_named_and_change_nothing(params_file: Path, word: str) -> None:
    before = params_file.read_bytes()
    with pytest.raises(ParamsError, match=re.escape(f"override {word!r}: ")) as problem:
        override(params_file, ["train.seed=3", word])
    assert "\n" not in str(problem.value)
    assert params_file.read_bytes() == before


def test_what_is_retryable_is_told_from_what_may_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from prefect.states import Failed

    from pipelines.deployment.pipeline import is_retryable
    from pipelines.services.dvc_remote import RemoteError

    monkeypatch.chdir(tmp_path)
    # A process that was killed could say nothing.
    outcome.clear("train")
    assert outcome.read_outcome("train") == ("", True)
    outcome.write("train", "params.yaml: no", retryable=False)
    assert outcome.read_outcome("train") == ("params.yaml: no", False)
    outcome.clear("train")
    assert outcome.read_outcome("train") == ("", True)
    for error, passes in [
        (StageError("no", 2), False),
        (StageError("killed", 137, retryable=True), True),
        (RemoteError("away", retryable=True), True),
        (RemoteError("refused"), False),
        (ValueError("ours"), False),
    ]:
        assert is_retryable(None, None, Failed(data=error)) is passes
