"""Unreachable servers, missing buckets and wrong credentials: one clear line within 15 s, and outputs stay."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer

from pipelines.environment import Environment
from pipelines.services import dvc_remote
from pipelines.services.dvc_remote import RemoteError

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 15.0
NOBODY = "127.0.0.1:9"

pytestmark = pytest.mark.filterwarnings("ignore")


@contextlib.contextmanager
def promptly() -> Iterator[None]:
    started = time.monotonic()
    yield
    assert time.monotonic() - started < PATIENCE_S


@pytest.fixture(scope="module")
def silent() -> Iterator[str]:
    """The address of a server that accepts connections and never answers."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(64)
        yield f"127.0.0.1:{listener.getsockname()[1]}"


@pytest.fixture
def where(request: pytest.FixtureRequest, silent: str) -> str:
    return {"nobody": NOBODY, "silent": silent}[request.param]


AWAY = pytest.mark.parametrize("where", ["nobody", "silent"], indirect=True)


@AWAY
def test_prefect(where: str, tmp_path: Path) -> None:
    """Through the command line: the message comes before Prefect is imported."""
    shutil.copy(ROOT / "params.yaml", tmp_path)
    shutil.copy(ROOT / "dvc.yaml", tmp_path)
    (tmp_path / "pictures").mkdir()
    variables = {"PREFECT_API_URL": f"http://{where}/api", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with promptly():
        done = subprocess.run(
            [sys.executable, "-m", "pipelines.prepare"],
            cwd=tmp_path,
            env={**os.environ, **variables},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
    assert done.returncode == 1
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith(f"prepare: no Prefect API answers at http://{where}/api (")
    assert "unset PREFECT_API_URL" in line


@AWAY
@pytest.mark.parametrize("scheme", ["http", "postgresql+psycopg"])
def test_tracking(where: str, scheme: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipelines.services.tracking import TrackingError, connect

    monkeypatch.chdir(tmp_path)
    uri = f"{scheme}://{where}" + ("" if scheme == "http" else "/mlflow")
    with promptly(), pytest.raises(TrackingError) as problem:
        connect(Environment(tracking_uri=uri), "anyres-generator")
    assert str(problem.value).startswith(f"tracking at {uri}: ")
    assert "\n" not in str(problem.value)


def test_tracking_of_no_known_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipelines.services.tracking import TrackingError, connect

    monkeypatch.chdir(tmp_path)
    with promptly(), pytest.raises(TrackingError, match="htp://somewhere"):
        connect(Environment(tracking_uri="htp://somewhere"), "anyres-generator")


def given(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    keys = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}
    for name, value in {**keys, "AWS_ENDPOINT_URL": f"http://{address}"}.items():
        monkeypatch.setenv(name, value)


@AWAY
def test_object_store(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    given(monkeypatch, where)
    with (
        promptly(),
        pytest.raises(RemoteError, match=f"^remote s3://bucket/prefix at http://{where}: .*correct AWS_ENDPOINT_URL") as problem,
    ):
        dvc_remote.check(Environment(dvc_remote="s3://bucket/prefix"))
    assert problem.value.retryable
    assert "\n" not in str(problem.value)


@pytest.fixture(scope="module")
def store() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"{host}:{port}"
    server.stop()


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working copy of a pipeline of one stage, which counts how often it runs."""
    folder = tmp_path / "one"
    folder.mkdir()
    subprocess.run(["git", "init", "--quiet"], cwd=folder, check=True)
    shutil.copytree(ROOT / ".dvc", folder / ".dvc", ignore=lambda *_: ["cache", "tmp", "config.local"])
    (folder / "seed").write_text("1")
    (folder / "dvc.yaml").write_text("stages: {draw: {cmd: 'echo ran >> ../ran; cp seed drawn', deps: [seed], outs: [drawn]}}")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / "site"))
    return folder


def dvc(*words: str) -> str:
    done = subprocess.run([sys.executable, "-m", "dvc", *words], check=False, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_missing_bucket_then_pushed_later_then_nothing_is_made_again(
    copy: Path, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given(monkeypatch, store)
    environment = Environment(dvc_remote="s3://bucket/prefix")
    dvc_remote.configure(environment)
    dvc("repro")
    with promptly(), pytest.raises(RemoteError, match="no bucket bucket; create it, or correct ANYRES_DVC_REMOTE") as problem:
        dvc_remote.push(environment)
    assert not problem.value.retryable
    assert (copy / "drawn").read_text() == "1"

    boto3.client("s3", endpoint_url=f"http://{store}").create_bucket(Bucket="bucket")
    assert "pushed" in dvc_remote.push(environment)
    # Elsewhere: the same revision, its lock committed, another cache.
    other = copy.parent / "other"
    shutil.copytree(copy, other, ignore=lambda *_: ["cache", "tmp", "drawn"])
    monkeypatch.chdir(other)
    dvc_remote.pull(environment)
    assert "up to date" in dvc("repro")
    # And without the lock: DVC knows from the cache of runs.
    shutil.rmtree(other / ".dvc/cache")
    (other / "dvc.lock").unlink()
    (other / "drawn").unlink()
    assert "cached" in dvc("repro", "--pull")
    assert (other / "drawn").read_text() == "1"
    assert (copy.parent / "ran").read_text() == "ran\n"


def test_refused_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "moto.server", "--host", "127.0.0.1", "--port", "0"]
    log = tmp_path / "moto.log"
    with log.open("wb") as file:
        # From the first request on, keys are checked.
        environ = {**os.environ, "INITIAL_NO_AUTH_ACTION_COUNT": "0"}
        server = subprocess.Popen(command, env=environ, stdout=file, stderr=file)
    try:
        deadline = time.monotonic() + 60
        while "Running on http://" not in (text := log.read_text()) and time.monotonic() < deadline:
            time.sleep(0.1)
        given(monkeypatch, text.partition("Running on http://")[2].split()[0])
        with promptly(), pytest.raises(RemoteError, match="access refused; correct AWS_ACCESS_KEY_ID"):
            dvc_remote.check(Environment(dvc_remote="s3://bucket/prefix"))
    finally:
        server.terminate()
        server.wait(30)


def test_remote_and_cache_of_the_environment_are_dvcs_own(copy: Path, tmp_path: Path) -> None:
    environment = Environment(dvc_remote=str(tmp_path / "remote"), dvc_cache=tmp_path / "cache")
    dvc_remote.configure(environment)
    dvc("repro")
    assert (tmp_path / "cache/runs").is_dir()
    dvc_remote.push(environment)
    assert (tmp_path / "remote/files").is_dir()
    assert not (copy / ".dvc/cache").exists()


def test_remote_that_dvc_does_not_know(copy: Path) -> None:
    with pytest.raises(RemoteError, match=r"^ANYRES_DVC_CACHE, ANYRES_DVC_REMOTE: .*correct or unset them"):
        dvc_remote.configure(Environment(dvc_remote="floppy://a"))
    assert copy.is_dir()
