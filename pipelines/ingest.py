"""Stage ingest: pictures from their source, judged one by one, into data/ingested. A task a shard."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from anyres.data.catalogue import Row
from anyres.data.intake import Batch
from anyres.data.sources.record import Access
from anyres.params import Ingest, Params
from pipelines.environment import Environment
from pipelines.stage import INGESTED, Each, atomic_directory, main


@dataclass(frozen=True)
class Task:
    """What a worker needs to take one shard in."""

    batch: Batch
    params: Ingest
    access: Access
    scratch: str
    work: Path


def ingest(params: Params, environment: Environment, each: Each) -> None:
    """Fill data/ingested from the source that params.ingest names."""
    from anyres.data.catalogue import SHARDS
    from anyres.data.intake import catalogue, plan
    from anyres.data.scratch import Scratch
    from anyres.data.sources import open_source

    access = Access(
        environment.cache_dir.resolve(),
        environment.requests_per_second,
        environment.flickr_key,
        environment.google_key,
        environment.google_engine,
    )
    batches = plan(open_source(params.ingest, access), params.ingest)
    # A host sees the sum of all workers.
    share = replace(access, requests_per_second=access.requests_per_second / (environment.num_workers or os.cpu_count() or 1))
    scratch = Scratch(environment.scratch_address)
    scratch.keep_only("ingest", set())
    tasks = [Task(batch, params.ingest, share, scratch.address, environment.work) for batch in batches]
    rows: list[list[Row]] = []
    with atomic_directory(INGESTED) as out:
        for task, taken in zip(tasks, each(take, tasks, "shards"), strict=True):
            if any(row.shard for row in taken):
                scratch.get(f"ingest/{task.batch.name}", out / SHARDS / task.batch.name)
            rows.append(taken)
        catalogue(rows, out, params.ingest)
    scratch.keep_only("ingest", set())


def take(task: Task) -> list[Row]:
    """Take one shard in, in a worker; its file goes to the scratch."""
    from anyres.data import intake
    from anyres.data.scratch import Scratch

    with intake.judges(task.params) as guard:
        rows = intake.take(task.batch, task.params, task.access, task.work, guard)
    if any(row.shard for row in rows):
        Scratch(task.scratch).put(task.work / task.batch.name, f"ingest/{task.batch.name}")
    return rows


if __name__ == "__main__":
    from pipelines import ingest as stage  # tasks travel to workers by the name of their module

    sys.exit(main("ingest", stage.ingest, sharded=True))
