"""Stage prepare: write the accepted pictures as tiled pyramids to data/store, one task per shard."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from anyres.data.pyramid import StoredFile, StoreShard
from anyres.params import Params, Prepare
from pipelines.environment import Environment
from pipelines.stage import INGESTED, STORE, MapShards, atomic_directory, main_sharded


@dataclass(frozen=True)
class Task:
    """What a worker needs to build one shard."""

    shard: StoreShard
    params: Prepare
    ingested: Path
    scratch: str
    work_folder: Path


def prepare(params: Params, environment: Environment, map_shards: MapShards) -> None:
    """Build data/store from data/ingested."""
    from anyres.data.catalogue import Catalogue
    from anyres.data.pyramid import assemble_store, plan_store, upload_originals
    from anyres.data.scratch import Scratch

    catalogue = Catalogue.load(INGESTED)
    shards = plan_store(catalogue, params.prepare, INGESTED)
    scratch = Scratch(environment.scratch_address)
    for shard in shards:
        upload_originals(shard, INGESTED, scratch)
    tasks = [Task(shard, params.prepare, INGESTED.resolve(), scratch.address, environment.work_folder) for shard in shards]
    stored = list(map_shards(build_shard, tasks, "shards"))
    with atomic_directory(STORE) as out:
        assemble_store(catalogue, shards, stored, params.prepare, scratch, out)


def build_shard(task: Task) -> list[StoredFile]:
    """Build one shard in a worker and copy its file to the scratch."""
    from anyres.data import pyramid
    from anyres.data.scratch import Scratch

    return pyramid.build_shard(task.shard, task.ingested, task.params, Scratch(task.scratch), task.work_folder)


if __name__ == "__main__":
    from pipelines import prepare as stage  # workers import a task by the name of its module

    sys.exit(main_sharded("prepare", stage.prepare))
