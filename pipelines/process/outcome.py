"""How a stage's process ended, in a file: DVC reports only that a stage failed, not why."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

from anyres.files import write_atomic

FOLDER = Path(".anyres/outcomes")
# Exit code of an error that a person must correct. A retry would fail again.
EXIT_PERMANENT = 2


def clear(stage: str) -> None:
    """Remove the last outcome of `stage`. A process that is killed then leaves no outcome."""
    (FOLDER / f"{stage}.json").unlink(missing_ok=True)


def write(stage: str, line: str, retryable: bool) -> None:
    """Write the one line that says why `stage` failed, and whether a retry may succeed."""
    write_atomic(FOLDER / f"{stage}.json", json.dumps({"line": line, "retryable": retryable}).encode())


def read_outcome(stage: str) -> tuple[str, bool]:
    """Return the line and whether a retry may succeed. If the process was killed: an empty line and True."""
    with contextlib.suppress(OSError, ValueError):
        outcome = json.loads((FOLDER / f"{stage}.json").read_text(encoding="utf-8"))
        return str(outcome["line"]), bool(outcome["retryable"])
    return "", True
