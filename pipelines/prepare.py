"""Stage prepare: accepted pictures as tiled pyramids, in data/store. A task a shard."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from anyres.data.pyramid import Build, Stored
from anyres.params import Params, Prepare
from pipelines.environment import Environment
from pipelines.stage import INGESTED, STORE, Each, atomic_directory, main


@dataclass(frozen=True)
class Task:
    """What a worker needs to build one shard."""

    item: Build
    params: Prepare
    ingested: Path
    scratch: str
    work: Path


def prepare(params: Params, environment: Environment, each: Each) -> None:
    """Build data/store from data/ingested."""
    from anyres.data.catalogue import Catalogue
    from anyres.data.pyramid import assemble, lend, plan
    from anyres.data.scratch import Scratch

    found = Catalogue.load(INGESTED)
    builds = plan(found, params.prepare, INGESTED)
    scratch = Scratch(environment.scratch_address)
    for item in builds:
        lend(item, INGESTED, scratch)
    tasks = [Task(item, params.prepare, INGESTED.resolve(), scratch.address, environment.work) for item in builds]
    stored = list(each(build, tasks, "shards"))
    with atomic_directory(STORE) as out:
        assemble(found, builds, stored, params.prepare, scratch, out)


def build(task: Task) -> list[Stored]:
    """Build one shard, in a worker; its file goes to the scratch."""
    from anyres.data import pyramid
    from anyres.data.scratch import Scratch

    return pyramid.build(task.item, task.ingested, task.params, Scratch(task.scratch), task.work)


if __name__ == "__main__":
    from pipelines import prepare as stage  # tasks travel to workers by the name of their module

    sys.exit(main("prepare", stage.prepare, sharded=True))
