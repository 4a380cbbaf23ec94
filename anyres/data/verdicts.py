"""Verdicts by content: a file judged once is not decoded again, in this run or a later one."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import asdict
from pathlib import Path

from anyres.data.judge import FORMAT, Verdict
from anyres.data.refusal import RefusedError
from anyres.params import Ingest

# What a verdict depends on, beside the bytes.
KEYS = ("background", "animated", "min_side_px", "max_mpx")


class VerdictCache:
    """Verdicts in an SQLite file. Several processes may use one; a kill at any moment leaves it whole."""

    def __init__(self, path: Path, params: Ingest) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        values = {key: getattr(params, key) for key in KEYS}
        self._params = json.dumps([FORMAT, values], sort_keys=True)
        self._base = sqlite3.connect(path, timeout=60, isolation_level=None)
        self._base.execute("pragma journal_mode = wal")
        self._base.execute("pragma synchronous = normal")
        self._base.execute("create table if not exists verdict (sha256, params, value, primary key (sha256, params))")

    def get(self, sha256: str) -> Verdict | RefusedError | None:
        """Return what was said of these bytes, None where nothing was."""
        row = self._base.execute("select value from verdict where sha256 = ? and params = ?", (sha256, self._params)).fetchone()
        if row is None:
            return None
        value = json.loads(row[0])
        if "reason" in value:
            return RefusedError(value["reason"])
        value["converted"] = tuple(value["converted"])
        value["thumbnail"] = bytes.fromhex(value["thumbnail"])
        return Verdict(**value)

    def keep(self, sha256: str, verdict: Verdict | RefusedError) -> None:
        """Remember a verdict that depends on the bytes alone."""
        if isinstance(verdict, RefusedError):
            value = {"reason": str(verdict)}
        else:
            value = asdict(verdict) | {"thumbnail": verdict.thumbnail.hex()}
        self._base.execute("insert or replace into verdict values (?, ?, ?)", (sha256, self._params, json.dumps(value)))

    def close(self) -> None:
        self._base.close()
