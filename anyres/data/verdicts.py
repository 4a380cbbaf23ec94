"""A cache of verdicts by content: a file is decoded once, not again in this run or a later one."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import asdict
from pathlib import Path

from anyres.data.inspection import VERDICT_VERSION, Verdict
from anyres.data.refusal import RefusedError
from anyres.params import Ingest

# The parameters that a verdict depends on, beside the bytes of the file.
PARAMETERS = ("background", "animated", "min_side_px", "max_mpx")


class VerdictCache:
    """Verdicts in an SQLite file. Several processes may share it. A killed process does not damage it."""

    def __init__(self, path: Path, params: Ingest) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        values = {key: getattr(params, key) for key in PARAMETERS}
        self._params = json.dumps([VERDICT_VERSION, values], sort_keys=True)
        self._database = sqlite3.connect(path, timeout=60, isolation_level=None)
        self._database.execute("pragma journal_mode = wal")
        self._database.execute("pragma synchronous = normal")
        self._database.execute("create table if not exists verdict (sha256, params, value, primary key (sha256, params))")

    def get(self, sha256: str) -> Verdict | RefusedError | None:
        """Return the verdict on the file with this hash, None if there is none."""
        row = self._database.execute(
            "select value from verdict where sha256 = ? and params = ?", (sha256, self._params)
        ).fetchone()
        if row is None:
            return None
        value = json.loads(row[0])
        if "reason" in value:
            return RefusedError(value["reason"])
        value["converted"] = tuple(value["converted"])
        value["thumbnail"] = bytes.fromhex(value["thumbnail"])
        return Verdict(**value)

    def put(self, sha256: str, verdict: Verdict | RefusedError) -> None:
        """Store a verdict. It must not depend on the load or the limits of this machine."""
        if isinstance(verdict, RefusedError):
            value = {"reason": str(verdict)}
        else:
            value = asdict(verdict) | {"thumbnail": verdict.thumbnail.hex()}
        self._database.execute("insert or replace into verdict values (?, ?, ?)", (sha256, self._params, json.dumps(value)))

    def close(self) -> None:
        self._database.close()
