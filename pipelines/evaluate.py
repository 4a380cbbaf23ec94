"""Stage evaluate: metrics in out/evaluation and the page for people in out/report."""

from __future__ import annotations

import sys

from anyres.params import Params
from pipelines.environment import Environment
from pipelines.stage import main


def evaluate(params: Params, environment: Environment) -> None:
    """Measure the trained generator against the store."""
    raise NotImplementedError


if __name__ == "__main__":
    sys.exit(main("evaluate", evaluate))
