"""What a folder of pictures holds, before or after it is prepared, and whether it is still sound."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anyres.data.catalogue import CATALOGUE, SHARDS, Catalogue
from anyres.data.pyramid import figures_of
from anyres.data.shards import ShardReader
from anyres.data.store import DATASET, Store
from anyres.progress import progress_bar


@dataclass(frozen=True)
class DatasetSummary:
    """`stats` in numbers, nested by name; `check` yields for every picture None or what is wrong with it."""

    title: str
    stats: dict[str, Any]
    check: Callable[[], Iterator[str | None]]

    @classmethod
    def of(cls, folder: Path) -> DatasetSummary:
        """Open what `ingest` or `prepare` wrote. Raises ValueError, one line, where there is neither."""
        if (folder / DATASET).is_file():
            store = Store.open(folder)
            stats = {name: value for name, value in store.stats.items() if name != "shards"}
            stats = {"shards": len(store.stats["shards"]), **stats, "bytes": _bytes(folder)}
            return cls(f"{folder}: a store", stats, store.damaged)
        if (folder / CATALOGUE).is_file():
            found = Catalogue.load(folder)
            shards = len({row.shard for row in found.accepted})
            stats = {"shards": shards, **figures_of(found), "bytes": _bytes(folder)}
            return cls(f"{folder}: pictures taken in", stats, lambda: _damaged_originals(folder, found))
        raise ValueError(f"{folder}: no data set; name a folder that holds {DATASET} (a store) or {CATALOGUE} (an intake)")

    def damaged(self, progress: bool = True) -> list[str]:
        """Read every picture whole; return what is wrong, one line each."""
        problems = []
        with progress_bar("verify", self.stats["pictures"], "pictures", progress) as advance:
            for problem in self.check():
                if problem is not None:
                    problems.append(problem)
                advance(1)
        return problems


def _damaged_originals(folder: Path, found: Catalogue) -> Iterator[str | None]:
    reader = ShardReader(folder / SHARDS)
    for row in found.accepted:
        try:
            data = reader.read(row.shard, row.offset, row.size)
        except OSError as error:
            yield f"{folder / SHARDS / row.shard}: {error.strerror}"
            continue
        sound = hashlib.sha256(data).hexdigest() == row.sha256
        yield None if sound else f"{folder / SHARDS / row.shard}: {row.name} is damaged"


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
