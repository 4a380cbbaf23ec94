"""Stage prepare: write the accepted pictures as tiled pyramids to data/store, one task per shard."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from anyres.data.pyramid import Build, Stored
from anyres.params import Params, Prepare
from pipelines.environment import Environment
from pipelines.stage import INGESTED, STORE, MapShards, atomic_directory, main_sharded


@dataclass(frozen=True)
class Task:
    """What a worker needs to build one shard."""

    item: Build
    params: Prepare
    ingested: Path
    scratch: str
    work_folder: Path


def prepare(params: Params, environment: Environment, map_shards: MapShards) -> None:
    """Build data/store from data/ingested."""
    from anyres.data.catalogue import Catalogue
    from anyres.data.pyramid import assemble, lend, plan
    from anyres.data.scratch import Scratch

    ingested = Catalogue.load(INGESTED)
    builds = plan(ingested, params.prepare, INGESTED)
    scratch = Scratch(environment.scratch_address)
    for item in builds:
        lend(item, INGESTED, scratch)
    tasks = [Task(item, params.prepare, INGESTED.resolve(), scratch.address, environment.work_folder) for item in builds]
    stored = list(map_shards(build_shard, tasks, "shards"))
    with atomic_directory(STORE) as out:
        assemble(ingested, builds, stored, params.prepare, scratch, out)


def build_shard(task: Task) -> list[Stored]:
    """Build one shard in a worker and copy its file to the scratch."""
    from anyres.data import pyramid
    from anyres.data.scratch import Scratch

    return pyramid.build(task.item, task.ingested, task.params, Scratch(task.scratch), task.work_folder)


if __name__ == "__main__":
    from pipelines import prepare as stage  # workers import a task by the name of its module

    sys.exit(main_sharded("prepare", stage.prepare))
