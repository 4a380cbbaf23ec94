"""Ingest and prepare over shards: the bytes of one process, from several after a kill and from a Dask cluster with S3."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import fsspec
import numpy as np
import pytest
from moto.server import ThreadedMotoServer
from PIL import Image
from ruamel.yaml import YAML

from anyres.data.intake import intake
from anyres.data.pyramid import prepare
from anyres.data.sources import Access, open_source
from anyres.params import Params

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.timeout(300)


def photograph(height: int, width: int, seed: int) -> np.ndarray:
    coarse = Image.fromarray(np.random.default_rng(seed).integers(0, 255, (9, 13, 3), dtype=np.uint8))
    return np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))


def encoded(pixels: np.ndarray, kind: str) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind)
    return stream.getvalue()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty files, some broken, some twice, some in an archive, and parameters that cut them into many shards."""
    folder = tmp_path_factory.mktemp("shards")
    pictures = folder / "pictures"
    pictures.mkdir()
    for index in range(48):
        pixels = photograph(100 + index, 120 + 3 * index, index)
        kind = ("PNG", "JPEG", "WEBP")[index % 3]
        (pictures / f"{index:02d}.{kind.lower()}").write_bytes(encoded(pixels, kind))
    for index in range(0, 48, 8):
        source = next(pictures.glob(f"{index:02d}.*"))
        shutil.copy(source, pictures / f"copy-{source.name}")
        (pictures / f"cut-{source.name}").write_bytes(source.read_bytes()[:500])
    half = Image.fromarray(photograph(147, 261, 47)).resize((130, 110))
    half.save(pictures / "near.png")
    with zipfile.ZipFile(pictures / "set.zip", "w") as archive:
        for index in range(60, 66):
            archive.writestr(f"{index}.png", encoded(photograph(110, 130, index), "PNG"))
    yaml = YAML()
    params = yaml.load(ROOT / "params.yaml")
    params["ingest"] |= {"source": "folder", "shard_files": 7, "near_duplicates": "keep"}
    yaml.dump(params, folder / "params.yaml")
    return folder


def working_copy(folder: Path, name: str) -> Path:
    copy = folder.parent / f"{folder.name}-{name}"
    shutil.copytree(folder, copy)
    return copy


def environ(**variables: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("ANYRES_", "PREFECT_", "AWS_", "DASK_"))}
    path = os.pathsep.join([str(Path(sys.executable).parent), kept.get("PATH", "")])
    return kept | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PATH": path} | variables


def stage(copy: Path, name: str, **variables: str) -> None:
    command = [sys.executable, "-m", f"pipelines.{name}"]
    done = subprocess.run(command, cwd=copy, env=environ(**variables), capture_output=True, text=True, check=False, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr


def bytes_of(copy: Path) -> dict[str, str]:
    return {
        str(path.relative_to(copy)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted((copy / "data").rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def expected(folder: Path) -> dict[str, str]:
    """What the library writes, in one process and without stages."""
    copy = working_copy(folder, "one")
    params, access = Params.load(copy / "params.yaml"), Access(copy / "cache")
    records = open_source(params.ingest.model_copy(update={"folder": str(copy / "pictures")}), access)
    intake(records, params.ingest, access, copy / "data/ingested", workers=1, progress=False)
    prepare(copy / "data/ingested", params.prepare, copy / "data/store", workers=1, progress=False)
    found = bytes_of(copy)
    assert sum(name.startswith("data/store/shards/") for name in found) >= 6
    return found


def killed(copy: Path, name: str, shards: int, **variables: str) -> None:
    """Run a stage and kill its processes when so many shards are in the scratch."""
    scratch = copy / ".anyres" / "scratch"
    command = [sys.executable, "-m", f"pipelines.{name}"]
    running = subprocess.Popen(command, cwd=copy, env=environ(**variables), stderr=subprocess.DEVNULL, start_new_session=True)
    end = time.monotonic() + 100
    while len(list(scratch.rglob("*.tar"))) < shards and running.poll() is None and time.monotonic() < end:
        time.sleep(0.01)
    os.killpg(running.pid, signal.SIGKILL)
    running.wait()
    assert not (copy / "data" / {"ingest": "ingested", "prepare": "store"}[name]).exists(), "ended before the kill"


def test_three_processes_give_the_same_bytes_after_a_kill(folder: Path, expected: dict[str, str], prefect_api: str) -> None:
    copy = working_copy(folder, "three")
    ingested = {name: digest for name, digest in expected.items() if name.startswith("data/ingested/")}
    for name, shards, bytes_then in (("ingest", 2, ingested), ("prepare", 3, expected)):
        killed(copy, name, shards, ANYRES_NUM_WORKERS="2", PREFECT_API_URL=prefect_api)
        stage(copy, name, ANYRES_NUM_WORKERS="3", PREFECT_API_URL=prefect_api)
        assert bytes_of(copy) == bytes_then


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[dict[str, str]]:
    """A Dask scheduler with two workers in folders of their own, and an S3 server; what tells a stage of both."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    store = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    fsspec.filesystem("s3", key="test", secret="test", endpoint_url=store["AWS_ENDPOINT_URL"], skip_instance_cache=True).mkdir(
        "shards-scratch"
    )
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{probe.getsockname()[1]}"
    settings = environ(**store, DASK_DISTRIBUTED__WORKER__DAEMON="False")
    run = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--no-dashboard", "--host", address]
    worker = [sys.executable, "-m", "distributed.cli.dask_worker", address, "--no-dashboard", "--nthreads", "1"]
    processes = []
    for number, command in enumerate((run, worker, worker)):
        place = tmp_path / f"machine{number}"
        place.mkdir()
        processes.append(subprocess.Popen(command, cwd=place, env=settings, stderr=subprocess.DEVNULL))
    try:
        yield store | {"ANYRES_DASK_ADDRESS": address, "ANYRES_SCRATCH": "s3://shards-scratch/here"}
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait(30)
        server.stop()


@pytest.mark.filterwarnings("default")
def test_a_dask_cluster_with_an_object_store_gives_the_same_bytes(
    folder: Path, expected: dict[str, str], cluster: dict[str, str], prefect_api: str
) -> None:
    copy = working_copy(folder, "cluster")
    for name in ("ingest", "prepare"):
        stage(copy, name, **cluster, PREFECT_API_URL=prefect_api)
    assert bytes_of(copy) == expected
