"""The statistics of a folder that `ingest` or `prepare` wrote, and a check of its files."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anyres.data.catalogue import CATALOGUE, SHARDS, Catalogue
from anyres.data.pyramid import catalogue_stats
from anyres.data.shards import ShardReader
from anyres.data.store import DATASET, Store
from anyres.progress import progress_bar


@dataclass(frozen=True)
class DatasetSummary:
    """Statistics of a data set, nested by name. `check` yields one item per picture: None, or the damage in one line."""

    title: str
    stats: dict[str, Any]
    check: Callable[[], Iterator[str | None]]

    @classmethod
    def of(cls, folder: Path) -> DatasetSummary:
        """Summarise an intake or a store. Raises ValueError, one line, if `folder` is neither."""
        if (folder / DATASET).is_file():
            store = Store.open(folder)
            stats = {name: value for name, value in store.stats.items() if name != "shards"}
            stats = {"shards": len(store.stats["shards"]), **stats, "bytes": _size_bytes(folder)}
            return cls(f"{folder}: a store", stats, store.damaged)
        if (folder / CATALOGUE).is_file():
            catalogue = Catalogue.load(folder)
            shards = len({row.shard for row in catalogue.accepted})
            stats = {"shards": shards, **catalogue_stats(catalogue), "bytes": _size_bytes(folder)}
            return cls(f"{folder}: an intake", stats, lambda: _damaged_originals(folder, catalogue))
        raise ValueError(f"{folder}: no data set; name a folder that holds {DATASET} (a store) or {CATALOGUE} (an intake)")

    def damaged(self, progress: bool = True) -> list[str]:
        """Read every picture completely. Return one line for each damaged one."""
        problems = []
        with progress_bar("verify", self.stats["pictures"], "pictures", progress) as advance:
            for problem in self.check():
                if problem is not None:
                    problems.append(problem)
                advance(1)
        return problems


def _damaged_originals(folder: Path, catalogue: Catalogue) -> Iterator[str | None]:
    reader = ShardReader(folder / SHARDS)
    for row in catalogue.accepted:
        try:
            data = reader.read(row.shard, row.offset, row.size)
        except OSError as error:
            yield f"{folder / SHARDS / row.shard}: {error.strerror}"
            continue
        is_intact = hashlib.sha256(data).hexdigest() == row.sha256
        yield None if is_intact else f"{folder / SHARDS / row.shard}: {row.name} is damaged"


def _size_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
