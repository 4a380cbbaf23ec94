"""How a stage's process ended, for those who started it through DVC, which tells nothing but that it failed."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

from anyres.files import write_atomic

FOLDER = Path(".anyres/outcomes")
# Exit code of an error that a person has to cure: running again changes nothing.
EXIT_PERMANENT = 2


def clear(stage: str) -> None:
    """Forget how `stage` ended before; a process that is killed leaves nothing."""
    (FOLDER / f"{stage}.json").unlink(missing_ok=True)


def write(stage: str, line: str, retryable: bool) -> None:
    """Keep the one line that says why `stage` failed, and whether another attempt may go well."""
    write_atomic(FOLDER / f"{stage}.json", json.dumps({"line": line, "retryable": retryable}).encode())


def read_outcome(stage: str) -> tuple[str, bool]:
    """The line and whether it may pass; of a process that could say nothing: an empty line, and it may."""
    with contextlib.suppress(OSError, ValueError):
        found = json.loads((FOLDER / f"{stage}.json").read_text(encoding="utf-8"))
        return str(found["line"]), bool(found["retryable"])
    return "", True
