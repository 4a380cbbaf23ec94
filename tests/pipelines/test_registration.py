"""Registration on a real SQLite store: once per bundle, champion by metric, loadable without this code."""
# ruff: noqa: TID251 - asks the store itself

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from anyres.identity import Fingerprint
from anyres.params import Params
from pipelines.environment import Environment
from tests.export.bundles import make_bundle, tiny_params

# One store, one story: the tests build on each other, so one worker runs them all.
pytestmark = pytest.mark.filterwarnings("ignore")

NAME = "anyres-generator"
ROOT = Path(__file__).resolve().parents[2]

# Runs in an empty folder with only what a consumer has: every import of another package of ours fails.
CONSUMER = """
import sys

class Absent:
    names = "accelerate dvc prefect pydantic_settings pyvips ruamel safetensors timm torch_fidelity typer xformers".split()

    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in self.names:
            raise ModuleNotFoundError(f"No module named {name!r} (absent here)", name=name)

sys.meta_path.insert(0, Absent())
import base64, io, json, sys
import mlflow, pandas
from PIL import Image

model = mlflow.pyfunc.load_model(f"models:/{sys.argv[1]}@champion")
import anyres
row = {"seed": 7, "center_x": 0.1, "center_y": -0.2, "period": 0.025, "height": 20, "width": 28, "psi": 0.7}
sizes = []
for rows in ([row, {**row, "height": 12}], pandas.DataFrame([row])):
    for picture in model.predict(rows):
        sizes.append(Image.open(io.BytesIO(base64.b64decode(picture["png"]))).size)
try:
    model.predict([{**row, "psi": 9.0}])
    refused = ""
except Exception as error:
    refused = str(error)
print(json.dumps({"sizes": sizes, "code": anyres.__file__, "refused": refused}))
"""


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the stages before registration leave."""
    root = tmp_path_factory.mktemp("checkout")
    (root / "data/store").mkdir(parents=True)
    (root / "out/train/samples").mkdir(parents=True)
    for name in ("evaluation/figures/sweep.png", "evaluation/plots/sweep.csv", "report/index.html"):
        (root / "out" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "out" / name).write_text("size,fd\n32,1.0\n")
    (root / "data/store/dataset.json").write_text(json.dumps({"hash": "d" * 64, "pictures": 3}))
    reports = [{"nimg": nimg, "loss/d": 1.0 / nimg, "perf/img_per_s": 100.0} for nimg in (32, 64)]
    fingerprint = Fingerprint.of(tiny_params().train, "d" * 64).name
    (root / "out/train/train.json").write_text(json.dumps({"fingerprint": fingerprint}))
    (root / "out/train/history.jsonl").write_text("".join(f"{json.dumps(report)}\n" for report in reports))
    return root


@pytest.fixture
def inside(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(checkout)
    return checkout


def bundle(root: Path, seed: int, patch_kid: float) -> None:
    shutil.rmtree(root / "out/export", ignore_errors=True)
    make_bundle(root / "out/export/generator", seed, patch_kid)
    (root / "out/evaluation/metrics.json").write_text(json.dumps({"patch_kid": patch_kid, "patch_fd": 3.0}))


def versions() -> list[Any]:
    import mlflow

    return sorted(mlflow.MlflowClient().search_model_versions(f"name = '{NAME}'"), key=lambda version: int(version.version))


def champion() -> str:
    import mlflow

    return str(mlflow.MlflowClient().get_model_version_by_alias(NAME, "champion").version)


def test_first_bundle_is_registered_once_and_champion(inside: Path) -> None:
    from pipelines.services.registration import ensure_registered

    params, environment = tiny_params(), Environment()
    bundle(inside, seed=0, patch_kid=0.25)
    assert "1 is champion: patch_kid 0.25" in ensure_registered(params, environment)
    assert "holds this bundle already" in ensure_registered(params, environment)
    (version,) = versions()
    expected = {"data_hash": "d" * 64, "git_commit": "c" * 40, "git_dirty": "false", "method": "continuum"}
    expected |= {"metric": "patch_kid", "patch_kid": "0.25", "patch_fd": "3.0"}
    assert expected.items() <= version.tags.items()
    assert len(version.tags["bundle_hash"]) == len(version.tags["params_hash"]) == 64


def test_run_holds_params_reports_data_and_evaluation(inside: Path) -> None:
    import mlflow

    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name(NAME)
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.tags["fingerprint"] == Fingerprint.of(tiny_params().train, "d" * 64).name
    assert run.data.params["train.network.w_dim"] == "12"
    assert [point.step for point in client.get_metric_history(run.info.run_id, "loss/d")] == [32, 64]
    assert run.data.metrics["evaluation/patch_kid"] == 0.25
    assert run.inputs.dataset_inputs[0].dataset.digest == "d" * 36
    folders = ("evaluation/figures", "evaluation/tables", "report")
    files = [file.path for folder in folders for file in client.list_artifacts(run.info.run_id, folder)]
    assert files == ["evaluation/figures/sweep.png", "evaluation/tables/sweep.csv", "report/index.html"]


def test_a_model_leads_to_its_run_data_and_commit(inside: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the alias, as `anyres info` tells it, to the run and what the run holds."""
    import mlflow
    from typer.testing import CliRunner

    from anyres.cli import app

    monkeypatch.setenv("ANYRES_TRACKING_URI", Environment().tracking_uri)
    place = f"models:/{NAME}@champion"
    told = json.loads(CliRunner().invoke(app, ["info", place, "--json"], catch_exceptions=False).output)["registered"]
    assert (told["version"], told["aliases"], told["git_commit"], told["git_dirty"]) == ("1", ["champion"], "c" * 40, "false")
    assert [move["why"] for move in told["champions"]] == ["patch_kid 0.25"]
    run = mlflow.MlflowClient().get_run(told["run_id"])
    assert run.data.tags["fingerprint"] == told["fingerprint"]
    assert run.data.tags["data_hash"] == told["data_hash"] == "d" * 64
    assert run.data.tags["git_commit"]
    said = CliRunner().invoke(app, ["info", place], catch_exceptions=False).output
    assert "version 1 (better): patch_kid 0.25" in " ".join(said.split())


@pytest.mark.parametrize(("commit", "bare", "dirty"), [("c0ffee-dirty", "c0ffee", "true"), ("unknown", "unknown", "unknown")])
def test_a_commit_that_files_differ_from_is_told(tmp_path: Path, commit: str, bare: str, dirty: str) -> None:
    from pipelines.services.registration import model_tags

    meta = json.loads((make_bundle(tmp_path / "generator", 0, 0.5) / "generator.json").read_text())
    tags = model_tags(meta | {"git_commit": commit}, "patch_fd")
    assert (tags["git_commit"], tags["git_dirty"], tags["metric"]) == (bare, dirty, "patch_fd")


def test_signature_has_the_columns_of_the_contract(inside: Path) -> None:
    import mlflow

    signature = mlflow.models.get_model_info(f"models:/{NAME}@champion").signature
    assert signature is not None
    shown = str(signature.inputs)
    for column in ("seed: long", "center_x: double", "center_y: double", "period: double", "height: long", "psi: double"):
        assert column in shown


def test_consumer_without_this_code_gets_pictures(inside: Path, tmp_path: Path) -> None:
    # Our own connection leaves relative addresses in MLFLOW_*.
    environ = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    environ |= {"MLFLOW_TRACKING_URI": f"sqlite:///{inside / 'mlflow.db'}", "OMP_NUM_THREADS": "1", "DO_NOT_TRACK": "true"}
    command = [sys.executable, "-I", "-c", CONSUMER, NAME]
    done = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["sizes"] == [[28, 20], [28, 12], [28, 20]]
    assert str(inside / "mlartifacts") in told["code"]
    assert "psi" in told["refused"]


def test_the_library_opens_what_is_registered(inside: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import numpy as np

    import anyres

    monkeypatch.setenv("ANYRES_TRACKING_URI", Environment().tracking_uri)
    model, bundled = (anyres.load(source) for source in (f"models:/{NAME}@champion", inside / "out/export/generator"))
    window = anyres.Window((0.1, 0.0), 2 / 24, (24, 20))
    np.testing.assert_array_equal(model.render(5, window), bundled.render(5, window))
    with pytest.raises(ValueError, match="models:/nobody@champion: not in the registry at"):
        anyres.load("models:/nobody@champion")


def test_the_curl_line_of_the_guide_gives_a_picture(inside: Path, tmp_path: Path) -> None:
    """docs/using.md, typed in: MLflow's own server on a free port, then curl."""
    guide = (ROOT / "docs/using.md").read_text(encoding="utf-8")
    section = guide[guide.index("## Over REST") :].split("\n## ")[0]
    blocks = re.findall(r"(?:^    .+\n)+", section, re.MULTILINE)
    serve, ask = (textwrap.dedent(block).strip() for block in blocks)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    store = Environment().tracking_uri
    serve = serve.replace("sqlite:///mlflow.db", store).replace("5001", str(port)).replace("anyres-generator", NAME)
    ask = ask.replace("5001", str(port)).replace("0.0078125", "0.05").replace("256", "24").replace("picture.png", "served.png")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environ = os.environ | {"PATH": path, "OMP_NUM_THREADS": "1"}
    with (tmp_path / "serve.log").open("w") as log:
        words = ["bash", "-c", f"exec env {serve}"]
        server = subprocess.Popen(words, cwd=inside, env=environ, stdout=log, stderr=log, start_new_session=True)
        try:
            for _ in range(240):
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                    break
                assert server.poll() is None, (tmp_path / "serve.log").read_text()
                time.sleep(0.25)
            subprocess.run(["bash", "-o", "pipefail", "-c", ask], cwd=tmp_path, env=environ, check=True, timeout=60)
        finally:
            os.killpg(server.pid, signal.SIGTERM)
            server.wait(30)
    with Image.open(tmp_path / "served.png") as picture:
        assert (picture.format, picture.size) == ("PNG", (24, 24))


def test_champion_moves_only_to_what_is_no_worse(inside: Path) -> None:
    from pipelines.services.registration import ensure_registered

    params, environment = tiny_params(), Environment()
    bundle(inside, seed=1, patch_kid=0.5)
    assert "does not become champion: patch_kid 0.5 is worse than 0.25 of version 1" in ensure_registered(params, environment)
    assert champion() == "1"
    bundle(inside, seed=2, patch_kid=0.25)
    assert "3 is champion: patch_kid 0.25, no worse than 0.25 of version 1" in ensure_registered(params, environment)
    assert champion() == "3"


def test_champion_needs_a_number(inside: Path) -> None:
    from pipelines.services.registration import ensure_registered

    bundle(inside, seed=3, patch_kid=float("nan"))
    assert "it has no finite patch_kid" in ensure_registered(tiny_params(), Environment())
    assert champion() == "3"


def test_registration_that_was_cut_short_is_done_again(inside: Path) -> None:
    import mlflow

    from pipelines.services.registration import ensure_registered

    bundle(inside, seed=4, patch_kid=0.125)
    params: Params = tiny_params()
    ensure_registered(params, Environment())
    last = versions()[-1]
    mlflow.MlflowClient().delete_model_version_tag(NAME, last.version, "bundle_hash")
    assert "is champion" in ensure_registered(params, Environment())
    assert int(versions()[-1].version) == int(last.version) + 1


def test_resumed_run_logs_each_report_once(inside: Path) -> None:
    import mlflow

    from pipelines.services.tracking import RunLog, connect

    experiment = connect(Environment(), NAME)
    rows = [{"nimg": nimg, "loss/g": float(nimg)} for nimg in (32, 64, 96)]
    first = RunLog(experiment, "f" * 16, {}, reopen_finished=False)
    first.log_reports(rows[:2])
    # Killed here: its status stays RUNNING.
    second = RunLog(experiment, "f" * 16, {}, reopen_finished=False)
    assert second.run_id == first.run_id
    second.log_reports(rows)
    history = mlflow.MlflowClient().get_metric_history(first.run_id, "loss/g")
    assert [(point.step, point.value) for point in history] == [(32, 32.0), (64, 64.0), (96, 96.0)]
    second.end()
    assert RunLog(experiment, "f" * 16, {}, reopen_finished=False).run_id != first.run_id


def test_store_that_does_not_answer_is_one_line(inside: Path) -> None:
    from pipelines.services.registration import find_registered
    from pipelines.services.tracking import TrackingError

    nowhere = Environment(tracking_uri="http://127.0.0.1:9")
    with pytest.raises(TrackingError, match=r"^tracking at http://127.0.0.1:9: [^\n]*$"):
        find_registered(tiny_params(), nowhere)
