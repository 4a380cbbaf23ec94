"""Stage ingest: check every picture of the source and write the accepted ones to data/ingested, one task per shard."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from anyres.data.catalogue import CatalogueRow
from anyres.data.intake import SourceShard
from anyres.data.sources.record import Access
from anyres.params import Ingest, Params
from pipelines.environment import Environment
from pipelines.stage import INGESTED, MapShards, atomic_directory, main_sharded


@dataclass(frozen=True)
class Task:
    """What a worker needs to ingest one shard."""

    shard: SourceShard
    params: Ingest
    access: Access
    scratch: str
    work_folder: Path


def ingest(params: Params, environment: Environment, map_shards: MapShards) -> None:
    """Fill data/ingested from the source that params.ingest names."""
    from anyres.data.catalogue import SHARDS
    from anyres.data.intake import split_source, write_catalogue
    from anyres.data.scratch import Scratch
    from anyres.data.sources import open_source

    access = Access(
        environment.cache_dir.resolve(),
        environment.requests_per_second,
        environment.flickr_key,
        environment.google_key,
        environment.google_engine,
    )
    shards = split_source(open_source(params.ingest, access), params.ingest)
    # All workers together keep to the limit of a host.
    share = replace(access, requests_per_second=access.requests_per_second / (environment.num_workers or os.cpu_count() or 1))
    scratch = Scratch(environment.scratch_address)
    scratch.keep_only("ingest", set())
    tasks = [Task(shard, params.ingest, share, scratch.address, environment.work_folder) for shard in shards]
    rows: list[list[CatalogueRow]] = []
    with atomic_directory(INGESTED) as out:
        for task, shard_rows in zip(tasks, map_shards(ingest_shard, tasks, "shards"), strict=True):
            if any(row.shard for row in shard_rows):
                scratch.get(f"ingest/{task.shard.name}", out / SHARDS / task.shard.name)
            rows.append(shard_rows)
        catalogue = write_catalogue(rows, out, params.ingest)
    scratch.keep_only("ingest", set())
    refused = "".join(f", {count} refused ({reason})" for reason, count in catalogue.reasons().items())
    print(f"ingest: {len(catalogue.accepted)} pictures accepted{refused}", flush=True)


def ingest_shard(task: Task) -> list[CatalogueRow]:
    """Ingest one shard in a worker and copy its file to the scratch."""
    from anyres.data import intake
    from anyres.data.scratch import Scratch

    with intake.decoder_pool(task.params) as decoders:
        rows = intake.ingest_shard(task.shard, task.params, task.access, task.work_folder, decoders)
    if any(row.shard for row in rows):
        Scratch(task.scratch).put(task.work_folder / task.shard.name, f"ingest/{task.shard.name}")
    return rows


if __name__ == "__main__":
    from pipelines import ingest as stage  # workers import a task by the name of its module

    sys.exit(main_sharded("ingest", stage.ingest))
