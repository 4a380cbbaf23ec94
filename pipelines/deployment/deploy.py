"""`python -m pipelines.deployment.deploy`: create or update pools, limits, automations and deployments on a Prefect server.

They are defined in infra/. It can be repeated.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from pipelines.environment import interpreter_path, silence_telemetry
from pipelines.process.private_api import ApiError, configured_api, ensure_prefect_api
from pipelines.stage import GPU_LIMIT

INFRA = Path("infra")
DEPLOYMENTS = INFRA / "prefect.yaml"
AUTOMATIONS = INFRA / "prefect-automations.yaml"
KUBERNETES = INFRA / "kubernetes/overlays/platform/job-template.json"
LOCAL_POOL, KUBERNETES_POOL = "anyres", "anyres-gpu"
# The queue of the Kubernetes pool for runs on accelerators.
GPU_QUEUE = "gpu"


def main(arguments: list[str]) -> int:
    """Deploy to the API of PREFECT_API_URL or of the active profile; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.deployment.deploy", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--gpus", type=int, default=1, help="how many stages may compute on accelerators at once (default 1)")
    parser.add_argument(
        "--notify", default="", metavar="BLOCK", help="send failed runs to this notification block, such as slack-webhook/ops"
    )
    options = parser.parse_args(arguments)
    silence_telemetry()
    try:
        if configured_api() is None:
            raise ApiError("no Prefect server is named; set PREFECT_API_URL, or choose a profile of Prefect")
        ensure_prefect_api()
        configure_server(options.gpus, options.notify)
    except (ApiError, ValueError) as error:
        print(f"deploy: {error}", file=sys.stderr)
        return 1
    command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all", "--prefect-file", str(DEPLOYMENTS)]
    return subprocess.run(command, check=False, env={**os.environ, "PATH": interpreter_path()}).returncode


def configure_server(gpus: int, notify: str) -> None:
    """Create or update pools, limits on accelerators, and automations; raise ValueError for an unknown block."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.exceptions import ObjectAlreadyExists
    from prefect.workers.process import ProcessWorker

    kubernetes = json.loads(KUBERNETES.read_text(encoding="utf-8"))
    pools = {
        LOCAL_POOL: WorkPoolCreate(
            name=LOCAL_POOL, type="process", base_job_template=ProcessWorker.get_default_base_job_template()
        ),
        KUBERNETES_POOL: WorkPoolCreate(name=KUBERNETES_POOL, type="kubernetes", base_job_template=kubernetes),
    }
    with get_client(sync_client=True) as client:
        for pool in pools.values():
            client.create_work_pool(pool, overwrite=True)
        # Two limits: on one machine the stages wait; on Kubernetes no pod is started.
        client.upsert_global_concurrency_limit_by_name(GPU_LIMIT, gpus)
        try:
            client.create_work_queue(GPU_QUEUE, concurrency_limit=gpus, work_pool_name=KUBERNETES_POOL)
        except ObjectAlreadyExists:
            queue = client.read_work_queue_by_name(GPU_QUEUE, work_pool_name=KUBERNETES_POOL)
            client.update_work_queue(queue.id, concurrency_limit=gpus)
        configure_automations(client, notify)


def configure_automations(client: Any, notify: str) -> None:
    """Create or update the automations of AUTOMATIONS, and one that sends failed runs to the block `notify`."""
    from prefect.events.schemas.automations import AutomationCore
    from prefect.exceptions import ObjectNotFound

    automations = YAML(typ="safe", pure=True).load(AUTOMATIONS.read_text(encoding="utf-8"))["automations"]
    if notify:
        kind, _, name = notify.partition("/")
        try:
            block = client.read_block_document_by_name(name, kind)
        except ObjectNotFound:
            raise ValueError(
                f"no notification block {notify!r}; create it in Prefect, or correct the name; example: slack-webhook/ops"
            ) from None
        automations.append(failure_notice(str(block.id)))
    for values in automations:
        automation = AutomationCore.model_validate(values)
        existing = client.read_automations_by_name(automation.name)
        if existing:
            client.update_automation(existing[0].id, automation)
        else:
            client.create_automation(automation)


def failure_notice(block: str) -> dict[str, Any]:
    """Return an automation that sends a message to the notification block with this id when a run fails."""
    return {
        "name": "anyres-failed",
        "description": "Send a message when a run fails.",
        "trigger": {
            "type": "event",
            "posture": "Reactive",
            "match": {"prefect.resource.id": "prefect.flow-run.*"},
            "match_related": {"prefect.resource.role": "flow", "prefect.resource.name": "anyres"},
            "for_each": ["prefect.resource.id"],
            "expect": ["prefect.flow-run.Failed"],
            "threshold": 1,
            "within": 0,
        },
        "actions": [
            {
                "type": "send-notification",
                "block_document_id": block,
                "subject": "anyres: {{ flow_run.name }} failed",
                "body": "{{ flow_run.state.message }} {{ flow_run|ui_url }}",
            }
        ],
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
