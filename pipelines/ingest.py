"""Stage ingest: pictures from their source, judged one by one, into data/ingested."""

from __future__ import annotations

import sys

from anyres.params import Params
from pipelines.environment import Environment
from pipelines.stage import INGESTED, main, replaced


def ingest(params: Params, environment: Environment) -> None:
    """Fill data/ingested from the source that params.ingest names."""
    from anyres.data.intake import intake
    from anyres.data.sources import open_source

    with replaced(INGESTED) as out:
        intake(open_source(params.ingest, environment.cache_dir), params.ingest, out)


if __name__ == "__main__":
    sys.exit(main("ingest", ingest))
