"""The deployed pipeline on the cluster: concurrent runs, kills, cancellation, and unreachable servers."""
# ruff: noqa: TID251 - asks the registry itself

from __future__ import annotations

import base64
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import psutil
import pytest
from PIL import Image

from tests.cluster.conftest import Site
from tests.cluster.servers import free_port
from tests.pipelines.test_registration import CONSUMER

# One cluster, one story: the tests build on each other.
pytestmark = [pytest.mark.timeout(1200), pytest.mark.filterwarnings("ignore")]

NAME = "anyres-generator"
STAGES = ["ingest", "prepare", "train", "evaluate", "export"]
RUN_S = 900.0


def children(site: Site, run: UUID) -> list[psutil.Process]:
    """The processes of a flow run."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("PREFECT__FLOW_RUN_ID") == str(run):
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return found


def checkpoints(folder: Path) -> list[int]:
    return sorted(int(path.stem) for path in folder.glob("*.safetensors"))


def until_trains(site: Site, run: UUID, known: set[Path]) -> Path:
    """Wait for the first checkpoint of a training that is not among `known`; return its folder."""

    def fresh() -> Path | None:
        folders = [path for path in runs(site) - known if checkpoints(path)]
        return folders[0] if folders else None

    return site.until(fresh, RUN_S, lambda: f"{site.flow_run(run)['state']}\n{site.said(run)}")


def runs(site: Site) -> set[Path]:
    return set((site.lasting / "runs").glob("????????????????"))


def tasks(site: Site, run: UUID) -> dict[str, dict[str, Any]]:
    found = site.ask("task_runs", task_runs={"flow_run_id": {"any_": [str(run)]}})
    return {task["name"]: task for task in found}


@pytest.fixture(scope="module")
def registry(site: Site) -> Iterator[Any]:
    import mlflow

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", site.servers.mlflow)
        mlflow.set_tracking_uri(site.servers.mlflow)
        mlflow.set_registry_uri(site.servers.mlflow)
        yield mlflow.MlflowClient()
        mlflow.set_tracking_uri(None)
        mlflow.set_registry_uri(None)


@pytest.fixture(scope="module")
def twice(site: Site) -> list[UUID]:
    """Two runs of the whole pipeline, triggered at once."""
    started = [site.trigger("pipeline", overrides=[f"train.seed={seed}"]) for seed in (1, 2)]
    slots = 0
    deadline = time.monotonic() + RUN_S
    while time.monotonic() < deadline:
        limit = httpx.get(f"{site.servers.prefect}/v2/concurrency_limits/anyres-gpu", timeout=30).json()
        slots = max(slots, limit["active_slots"])
        if all(site.flow_run(run)["state_type"] in ("COMPLETED", "FAILED") for run in started):
            break
        time.sleep(1)
    assert slots == 1
    return started


def test_two_runs_at_once_complete(site: Site, twice: list[UUID]) -> None:
    ended = [site.finished(run) for run in twice]
    assert [run["state_type"] for run in ended] == ["COMPLETED"] * 2, site.said(twice[0]) + site.said(twice[1])
    # Each on a worker of its own, at the same time, and each tried once.
    assert max(run["start_time"] for run in ended) < min(run["end_time"] for run in ended)
    assert [run["run_count"] for run in ended] == [1, 1]
    names = {name for name, task in tasks(site, twice[0]).items() if task["state_type"] == "COMPLETED"}
    assert names >= {*STAGES, *(f"push {name}" for name in STAGES)}
    # Working copies are gone with their runs.
    assert list(site.servers.folder.rglob("dvc.yaml")) == []


def test_models_are_registered_and_artifacts_lie_in_the_object_store(site: Site, twice: list[UUID], registry: Any) -> None:
    versions = registry.search_model_versions(f"name = '{NAME}'")
    assert len(versions) == 2
    assert registry.get_model_version_by_alias(NAME, "champion").version in {version.version for version in versions}
    assert {registry.get_run(version.run_id).data.params["train.seed"] for version in versions} == {"1", "2"}
    assert not any(version.tags["git_commit"].endswith("-dirty") for version in versions)
    store = site.servers.store()
    names = [item["Key"] for item in store.list_objects_v2(Bucket="mlflow")["Contents"]]
    for ending in ("generator.safetensors", "code/anyres/plane/window.py", "report/index.html", "evaluation/tables/sweep.csv"):
        assert len([name for name in names if name.endswith(ending)]) == 2, ending
    outputs = [item["Key"] for item in store.list_objects_v2(Bucket="dvc")["Contents"]]
    assert any(name.startswith("anyres/files/md5/") for name in outputs)
    # Ingest and prepare are the same for both.
    assert len([name for name in outputs if name.startswith("anyres/runs/")]) == 2 + 2 * 3


def test_the_page_of_a_run_shows_pictures_numbers_and_links(site: Site, twice: list[UUID]) -> None:
    shown = {item["key"]: item["data"] for item in site.ask("artifacts", artifacts={"flow_run_id": {"any_": [str(twice[0])]}})}
    picture = re.search(r"data:image/png;base64,([A-Za-z0-9+/=]+)", shown["samples"])
    assert picture
    assert base64.b64decode(picture[1]).startswith(b"\x89PNG")
    assert "patch_kid" in {row["metric"] for row in json.loads(shown["metrics"])}
    links = re.findall(r"\((http://[^)]+)\)", shown["model"])
    assert [link.startswith(site.servers.mlflow) for link in links] == [True, True]


def test_elsewhere_nothing_is_made_again(site: Site, twice: list[UUID], tmp_path: Path) -> None:
    clone, facts = tmp_path / "clone", {"ANYRES_CACHE_DIR": str(tmp_path / "cache"), "ANYRES_DVC_CACHE": str(tmp_path / "dvc")}
    subprocess.run(["git", "clone", "--quiet", str(site.repository), str(clone)], check=True)
    done = site.run("-m", "pipelines.flow", cwd=clone, **facts)
    assert done.returncode == 0, done.stderr
    assert re.findall(r"^(\w+): (\w+) in", done.stdout, re.MULTILINE) == [(name, "cached") for name in STAGES]
    assert "holds this bundle already" in done.stdout
    # And once more from the lock that this left, as if it had been committed.
    other = tmp_path / "other"
    subprocess.run(["git", "clone", "--quiet", str(site.repository), str(other)], check=True)
    shutil.copy(clone / "dvc.lock", other)
    facts["ANYRES_DVC_CACHE"] = str(tmp_path / "dvc2")
    assert site.run("-m", "pipelines.services.dvc_remote", "pull", cwd=other, **facts).returncode == 0
    assert "up to date" in site.run("-m", "dvc", "repro", cwd=other, **facts).stdout


def consumer(site: Site) -> dict[str, str]:
    """The environment of a consumer of the model: no keys of the object store, because MLflow serves the artifacts."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "AWS_", "ANYRES_"))}
    return environ | {"MLFLOW_TRACKING_URI": site.servers.mlflow, "OMP_NUM_THREADS": "1", "DO_NOT_TRACK": "true"}


def test_a_consumer_without_this_code_draws_from_the_server(site: Site, twice: list[UUID], tmp_path: Path) -> None:
    command = [sys.executable, "-I", "-c", CONSUMER, NAME]
    done = subprocess.run(command, cwd=tmp_path, env=consumer(site), capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["sizes"] == [[28, 20], [28, 12], [28, 20]]
    assert not told["code"].startswith(str(Path(__file__).resolve().parents[2]))


def test_the_champion_served_over_rest_answers_curl_with_a_png(site: Site, twice: list[UUID]) -> None:
    port = free_port()
    words = ["models", "serve", "-m", f"models:/{NAME}@champion", "-p", str(port), "--env-manager", "local"]
    site.servers.start("served", "-P", "-m", "mlflow", *words, environ=consumer(site), answers=f"http://127.0.0.1:{port}/ping")
    row = {"seed": 4, "center_x": 0, "center_y": 0, "period": 0.0078125, "height": 96, "width": 160, "psi": 0.7}
    try:
        command = ["curl", "--silent", "--show-error", "--fail", f"http://127.0.0.1:{port}/invocations"]
        command += ["--header", "Content-Type: application/json", "--data", json.dumps({"inputs": [row]})]
        done = subprocess.run(command, capture_output=True, check=False, timeout=120)
    finally:
        site.servers.stop("served")
    assert done.returncode == 0, done.stderr
    png = base64.b64decode(json.loads(done.stdout)["predictions"][0]["png"])
    assert Image.open(io.BytesIO(png)).size == (160, 96)


def test_stages_run_as_deployments_of_their_own(site: Site, twice: list[UUID]) -> None:
    run = site.trigger("pipeline", spread="{stage}")
    ended = site.finished(run, RUN_S)
    assert ended["state_type"] == "COMPLETED", site.said(run)
    assert set(tasks(site, run)) >= set(STAGES)
    # What the two runs made is found, whichever worker a stage is on.
    last = site.ask("flow_runs", flow_runs={"parent_task_run_id": {"is_null_": False}}, sort="START_TIME_DESC", limit=5)
    said = "\n".join(site.said(UUID(child["id"])) for child in last)
    assert len(re.findall(r"\w+: cached in", said)) == 1 + 2 + 3 + 4 + 5
    assert ": done in" not in said


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("train.batch=-8", "params.yaml: train.batch: "),
        ("train.botch=8", "override 'train.botch=8': params.yaml has no key 'train.botch'"),
        ("train.zoom_max=64.0", "train: params.yaml: train.zoom_max: 64 is more than the largest picture"),
    ],
)
def test_what_a_person_has_to_cure_is_said_and_not_tried_again(site: Site, twice: list[UUID], override: str, words: str) -> None:
    run = site.trigger("train", overrides=[override])
    ended = site.finished(run, RUN_S)
    assert (ended["state_type"], ended["run_count"]) == ("FAILED", 1)
    assert words in ended["state"]["message"]
    assert all(task["run_count"] <= 1 for task in tasks(site, run).values())


def test_a_training_that_is_killed_is_tried_again_from_its_checkpoint(site: Site, twice: list[UUID]) -> None:
    known = runs(site)
    run = site.trigger("train", overrides=["train.seed=5", "train.kimg=6.0"])
    folder = until_trains(site, run, known)
    for process in children(site, run):
        if {"anyres", "train"} <= set(process.cmdline()):
            process.kill()
    ended = site.finished(run, RUN_S)
    assert ended["state_type"] == "COMPLETED", site.said(run)
    assert (ended["run_count"], tasks(site, run)["train"]["run_count"]) == (1, 2)
    assert checkpoints(folder)[-1] == 6000


def test_a_worker_that_is_killed_is_replaced_and_its_run_goes_on(site: Site, twice: list[UUID], registry: Any) -> None:
    known = runs(site)
    run = site.trigger("pipeline", overrides=["train.seed=6", "train.kimg=6.0"])
    folder = until_trains(site, run, known)
    kept = checkpoints(folder)[-1]
    history = [line for line in (folder / "history.jsonl").read_text().splitlines() if json.loads(line)["nimg"] <= kept]
    # The machine is lost: the worker and all that it started.
    (name,) = [name for name, supervisor in site.servers.started.items() if run_on(psutil.Process(supervisor.pid), run)]
    lost = site.servers.started.pop(name)
    for process in [psutil.Process(lost.pid), *psutil.Process(lost.pid).children(recursive=True), *children(site, run)]:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    lost.wait(30)
    site.servers.start_worker("worker-3", "anyres", site.environ())
    ended = site.finished(run, RUN_S)
    assert (ended["state_type"], ended["run_count"]) == ("COMPLETED", 2), site.said(run)
    # Speeds and times in the reports are those of before the kill: nothing was done twice up to the checkpoint.
    lines = (folder / "history.jsonl").read_text().splitlines()
    assert history
    assert lines[: len(history)] == history
    assert [json.loads(line)["nimg"] for line in lines] == list(range(200, 6001, 200))
    said = site.said(run)
    assert "ingest: cached in" in said
    assert "train: done in" in said
    seeds = [
        registry.get_run(item.run_id).data.params["train.seed"] for item in registry.search_model_versions(f"name = '{NAME}'")
    ]
    assert seeds.count("6") == 1


def run_on(worker: psutil.Process, run: UUID) -> bool:
    return any(str(run) == process.environ().get("PREFECT__FLOW_RUN_ID") for process in worker.children(recursive=True))


def test_a_run_that_is_told_to_end_saves_its_checkpoint_and_goes_on_elsewhere(site: Site, twice: list[UUID]) -> None:
    """As when a node of Kubernetes is drained."""
    known = runs(site)
    run = site.trigger("train", overrides=["train.seed=7", "train.kimg=6.0"])
    folder = until_trains(site, run, known)
    (engine,) = [process for process in children(site, run) if "prefect.engine" in process.cmdline()]
    engine.terminate()
    # Not one of those that come every 400 images.
    site.until(lambda: [nimg for nimg in checkpoints(folder) if nimg % 400], 60, lambda: str(checkpoints(folder)))
    ended = site.finished(run, RUN_S)
    assert (ended["state_type"], ended["run_count"]) == ("COMPLETED", 2), site.said(run)


def test_a_run_that_is_cancelled_saves_its_checkpoint_and_leaves_no_process(site: Site, twice: list[UUID]) -> None:
    """Also the stages that run as other deployments."""
    known = runs(site)
    run = site.trigger("pipeline", spread="{stage}", overrides=["train.seed=8", "train.kimg=200.0"])
    folder = until_trains(site, run, known)
    given = site.ask("flow_runs", flow_runs={"parent_flow_run_id": {"any_": [str(run)]}})
    (training,) = [UUID(child["id"]) for child in given if child["parameters"]["stage"] == "train"]
    done = site.run("-m", "prefect", "flow-run", "cancel", str(run))
    assert done.returncode == 0, done.stderr
    for one in (run, training):
        assert site.finished(one, 120)["state_type"] == "CANCELLED"
        site.until(lambda one=one: not children(site, one), 60, lambda one=one: str(children(site, one)))
    assert checkpoints(folder)[-1] % 400
    # Nobody takes it for a run that was lost.
    time.sleep(5)
    assert [site.flow_run(one)["run_count"] for one in (run, training)] == [1, 1]
    assert [site.flow_run(one)["state_type"] for one in (run, training)] == ["CANCELLED"] * 2


def test_tracking_that_dies_midway_costs_nothing_but_the_registration(
    site: Site, twice: list[UUID], tmp_path: Path, registry: Any
) -> None:
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "--quiet", str(site.repository), str(clone)], check=True)
    subprocess.run(["sed", "-i", "0,/  seed: 1/s//  seed: 9/", "params.yaml"], cwd=clone, check=True)
    log = tmp_path / "flow.log"
    known = runs(site)
    facts = site.environ(ANYRES_RUNS_DIR=str(site.lasting / "runs"), ANYRES_DVC_CACHE=str(tmp_path / "dvc"))
    with log.open("wb") as file:
        command = [sys.executable, "-m", "pipelines.flow"]
        flow = subprocess.Popen(command, cwd=clone, env=facts, stdout=file, stderr=file, start_new_session=True)
    try:
        site.until(lambda: [path for path in runs(site) - known if checkpoints(path)], RUN_S, log.read_text)
        site.servers.stop("mlflow")
        code = flow.wait(RUN_S)
    finally:
        if flow.poll() is None:
            os.killpg(flow.pid, signal.SIGTERM)
            flow.wait()
    said = log.read_text()
    assert code == 1, said
    assert re.search(
        r"^flow: the bundle in out/export/generator is complete but not registered: tracking at http\S+: ", said, re.MULTILINE
    )
    site.servers.start_mlflow()
    again = site.run(
        "-m", "pipelines.flow", cwd=clone, ANYRES_RUNS_DIR=facts["ANYRES_RUNS_DIR"], ANYRES_DVC_CACHE=facts["ANYRES_DVC_CACHE"]
    )
    assert again.returncode == 0, again.stderr
    assert "nothing has changed since the last run" in again.stdout
    newest = max(registry.search_model_versions(f"name = '{NAME}'"), key=lambda version: int(version.version))
    run = registry.get_run(newest.run_id)
    assert (run.data.params["train.seed"], run.info.status) == ("9", "FINISHED")
    assert [point.step for point in registry.get_metric_history(newest.run_id, "loss/d")] == list(range(200, 2001, 200))
