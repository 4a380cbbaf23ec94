"""Stage prepare: accepted pictures as tiled pyramids, in data/store."""

from __future__ import annotations

import sys

from anyres.params import Params
from pipelines.environment import Environment
from pipelines.stage import INGESTED, STORE, main, replaced


def prepare(params: Params, environment: Environment) -> None:
    """Build data/store from data/ingested."""
    from anyres.data.pyramid import prepare as build

    with replaced(STORE) as out:
        build(INGESTED, params.prepare, out)


if __name__ == "__main__":
    sys.exit(main("prepare", prepare))
