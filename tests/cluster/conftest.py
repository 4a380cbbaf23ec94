"""One cluster for all tests of this room, and a repository from which its workers clone."""

from __future__ import annotations

import contextlib
import json
import logging
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import psutil
import pytest

from pipelines.environment import silence_telemetry
from tests.cluster.servers import Cluster, cluster
from tests.pipelines.checkouts import add_pictures, hand_out

silence_telemetry()
# The object store tells of every request.
logging.getLogger("werkzeug").setLevel(logging.ERROR)


@dataclass
class Site:
    """The cluster, the repository, and what tests do with them."""

    servers: Cluster
    repository: Path
    lasting: Path

    def environ(self, **variables: str) -> dict[str, str]:
        """What a worker of this site runs with."""
        facts = {
            "REPOSITORY": str(self.repository),
            "ANYRES_CACHE_DIR": str(self.lasting),
            "ANYRES_DVC_REMOTE": "s3://dvc/anyres",
            "ANYRES_DEVICE": "cpu",
            "ANYRES_NUM_PROCESSES": "1",
            "ANYRES_NUM_WORKERS": "1",
            "OMP_NUM_THREADS": "1",
            "TMPDIR": str(self.servers.folder),
        }
        return self.servers.environ(**facts | variables)

    def run(
        self, *words: str, cwd: Path | None = None, timeout: float = 300, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        """Run python with `words` in a folder, the repository if none is named; it may fail."""
        return subprocess.run(
            [sys.executable, *words],
            cwd=cwd or self.repository,
            env=self.environ(**variables),
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout,
        )

    def trigger(self, deployment: str, **parameters: Any) -> UUID:
        """`prefect deployment run`; return the id of the flow run."""
        words = [word for key, value in parameters.items() for word in ("--param", f"{key}={json.dumps(value)}")]
        done = self.run("-m", "prefect", "deployment", "run", f"anyres/{deployment}", *words)
        assert done.returncode == 0, done.stdout + done.stderr
        found = re.search(r"UUID: ([0-9a-f-]{36})", done.stdout)
        assert found, done.stdout
        return UUID(found[1])

    def ask(self, kind: str, **filters: Any) -> list[dict[str, Any]]:
        """What Prefect's API holds: flow_runs, task_runs, artifacts, logs."""
        import httpx

        answer = httpx.post(f"{self.servers.prefect}/{kind}/filter", json=filters, timeout=30)
        answer.raise_for_status()
        return answer.json()

    def flow_run(self, identity: UUID) -> dict[str, Any]:
        (found,) = self.ask("flow_runs", flow_runs={"id": {"any_": [str(identity)]}})
        return found

    def said(self, identity: UUID) -> str:
        """The log of a flow run."""
        lines = self.ask("logs", logs={"flow_run_id": {"any_": [str(identity)]}}, sort="TIMESTAMP_ASC")
        return "\n".join(line["message"] for line in lines)

    def until(self, ready: Callable[[], Any], seconds: float, why: Callable[[], str]) -> Any:
        """Wait for a true value; fail with what `why` says."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if value := ready():
                return value
            time.sleep(0.5)
        pytest.fail(f"waited {seconds:g} s: {why()}")

    def finished(self, identity: UUID, seconds: float = 300) -> dict[str, Any]:
        """Wait until a flow run has ended for good; return it."""
        ended = ("COMPLETED", "FAILED", "CANCELLED")
        return self.until(
            lambda: run if (run := self.flow_run(identity))["state_type"] in ended else None,
            seconds,
            lambda: f"{self.flow_run(identity)['state']}\n{self.said(identity)}",
        )


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Servers, a repository with pictures, its deployments, and two workers on them."""
    repository = hand_out(tmp_path_factory.mktemp("repository"))
    add_pictures(repository)
    # Prefect's heartbeats come every 30 s at least.
    automations = repository / "infra/prefect-automations.yaml"
    automations.write_text(automations.read_text().replace("within: 90", "within: 40"))
    who = ["-c", "user.name=tests", "-c", "user.email=tests@localhost"]
    for words in (["add", "--all"], ["add", "--force", "pictures"], [*who, "commit", "--quiet", "--message", "tests"]):
        subprocess.run(["git", *words], cwd=repository, check=True)
    with cluster() as servers:
        here = Site(servers, repository, servers.folder / "lasting")
        done = here.run("-m", "pipelines.deployment.deploy", "--gpus", "1")
        assert done.returncode == 0, done.stdout + done.stderr
        for name in ("worker-1", "worker-2"):
            servers.start_worker(name, "anyres", here.environ())
        yield here
    assert of_folder(servers.folder) == []


def of_folder(folder: Path) -> list[str]:
    """Processes that run in a folder or were told of it."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.status() != psutil.STATUS_ZOMBIE and str(folder) in "\n".join(
                [*process.cmdline(), *process.environ().values()]
            ):
                found.append(str(process))
    return found
