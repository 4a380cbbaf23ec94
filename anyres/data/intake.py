"""Intake: judge every file of a source, keep the originals of the good ones in shards, say why of the others."""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from anyres.data.catalogue import CREDITS, SHARDS, Catalogue, Row, credits_page
from anyres.data.guard import Guard, LimitError
from anyres.data.judge import Verdict, judge
from anyres.data.likeness import near_duplicates
from anyres.data.refusal import RefusedError
from anyres.data.shards import ShardWriter, cut
from anyres.data.sources.record import Access, IntakeError, Record
from anyres.data.verdicts import VerdictCache
from anyres.files import write_atomic
from anyres.params import Ingest
from anyres.progress import progress_bar

__all__ = ["Catalogue", "IntakeError", "catalogue", "intake", "judges", "plan", "take"]

# Files on their way at once in a process; a crawl waits for servers, not for cores.
FETCHES = 16


@dataclass(frozen=True)
class Batch:
    """The files of one shard, in the order of the source."""

    name: str
    records: tuple[Record, ...]


def intake(
    records: Sequence[Record],
    params: Ingest,
    access: Access,
    out: Path,
    workers: int | None = None,
    progress: bool = True,
) -> Catalogue:
    """Write `out`/shards, `out`/catalogue.parquet and `out`/credits.md: the same bytes for any number of `workers`.

    Raises IntakeError, one line, where no picture is usable; then no catalogue is written.
    """
    batches = plan(records, params)
    bar = progress_bar("intake", len(records), "files", progress)
    with bar as advance, judges(params, workers or os.cpu_count() or 1) as guard:
        rows = [take(batch, params, access, out / SHARDS, guard, advance) for batch in batches]
    return catalogue(rows, out, params)


def plan(records: Sequence[Record], params: Ingest) -> list[Batch]:
    """Cut a source into shards. Raises IntakeError where it is empty."""
    if not records:
        raise IntakeError("the source holds no file; name one that holds pictures")
    runs = cut([record.id for record in records], params.shard_files)
    return [Batch(f"{index:05d}.tar", tuple(records[i] for i in run)) for index, run in enumerate(runs)]


def judges(params: Ingest, workers: int = 1) -> Guard[tuple[Path | bytes, Ingest], Verdict]:
    """Return the processes that decode, bounded as `params` says; none starts before a file needs it."""
    return Guard(judge, workers, params.decode_s, params.decode_mb)


def take(
    batch: Batch,
    params: Ingest,
    access: Access,
    folder: Path,
    guard: Guard[tuple[Path | bytes, Ingest], Verdict],
    advance: Callable[[float], None] = lambda amount: None,
) -> list[Row]:
    """Fetch and judge the files of one shard, write `folder`/NAME.tar with the accepted ones, return all rows.

    What is fetched or judged once stays in access.cache_dir: taken again after a kill, it costs reading alone.
    """
    folder.mkdir(parents=True, exist_ok=True)
    memory = VerdictCache(access.cache_dir / "judged.sqlite", params)
    rows: list[Row] = []
    places: dict[str, Row] = {}
    try:
        with ThreadPoolExecutor(FETCHES) as fetchers, ShardWriter(folder / batch.name) as shard:
            fetched = _ahead(lambda record: _fetch(record, access, params), batch.records, fetchers)
            for found, verdict in _judged(fetched, params, guard, memory):
                row = _row(found, verdict, params)
                if row.status == "accepted" and row.sha256 in places:
                    first = places[row.sha256]
                    row = replace(row, shard=first.shard, offset=first.offset)
                elif row.status == "accepted" and isinstance(verdict, Verdict):
                    place = shard.add(f"{row.sha256}.{verdict.suffix}", _unchanged(found))
                    row = places[row.sha256] = replace(row, shard=place.shard, offset=place.offset)
                rows.append(row)
                advance(1)
    finally:
        memory.close()
    if not places:
        (folder / batch.name).unlink()
    return rows


def catalogue(batches: Iterable[list[Row]], out: Path, params: Ingest) -> Catalogue:
    """Set duplicates over all shards aside and write the catalogue and the credits."""
    rows = list(_equals_aside([row for rows in batches for row in rows]))
    if params.near_duplicates == "refuse":
        rows = _near_aside(rows)
    found = Catalogue(tuple(rows))
    if not found.accepted:
        reasons = ", ".join(f"{count} {reason}" for reason, count in found.reasons().items())
        raise IntakeError(f"no usable picture among {len(rows)} files ({reasons}); name a source that holds pictures")
    write_atomic(out / CREDITS, credits_page(found.accepted).encode())
    found.save(out)
    return found


@dataclass(frozen=True)
class _Found:
    """What fetching a record gave: a file or bytes and their hash, or the reason why not."""

    record: Record
    content: Path | bytes = b""
    sha256: str = ""
    size: int = 0
    refusal: RefusedError | None = None


def _ahead(function: Callable[[Record], _Found], records: Iterable[Record], pool: ThreadPoolExecutor) -> Iterator[_Found]:
    """Map in order, a bounded number of records ahead."""
    waiting: deque[Future[_Found]] = deque()
    for record in records:
        waiting.append(pool.submit(function, record))
        if len(waiting) >= FETCHES:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _fetch(record: Record, access: Access, params: Ingest) -> _Found:
    try:
        content = record.content.fetch(access)
        if isinstance(content, bytes):
            size, digest = len(content), hashlib.sha256(content).hexdigest()
        else:
            size = content.stat().st_size
            if size > params.max_mb * 1e6:
                raise RefusedError(f"too large: {size / 1e6:.1f} MB, over {params.max_mb:g}")
            digest = _sha256(content)
    except RefusedError as refusal:
        return _Found(record, refusal=refusal)
    except OSError as error:
        return _Found(record, refusal=RefusedError(f"cannot be read: {error.strerror or error}"))
    if size > params.max_mb * 1e6:
        return _Found(record, refusal=RefusedError(f"too large: {size / 1e6:.1f} MB, over {params.max_mb:g}"))
    return _Found(record, content, digest, size)


def _judged(
    fetched: Iterable[_Found], params: Ingest, guard: Guard, memory: VerdictCache
) -> Iterator[tuple[_Found, Verdict | RefusedError]]:
    """Yield each file with its verdict, in order: remembered where these bytes were judged before."""
    waiting: deque[tuple[_Found, Verdict | RefusedError | None, Callable[[], Verdict | RefusedError] | None]] = deque()

    def settled() -> tuple[_Found, Verdict | RefusedError]:
        found, known, pending = waiting.popleft()
        if known is None and pending is not None:
            known = pending()
            if not isinstance(known, LimitError):
                memory.keep(found.sha256, known)
        assert known is not None
        return found, known

    for found in fetched:
        known = found.refusal or memory.get(found.sha256)
        waiting.append((found, known, guard.submit((found.content, params)) if known is None else None))
        while waiting and (waiting[0][1] is not None or len(waiting) > guard.ahead):
            yield settled()
    while waiting:
        yield settled()


def _row(found: _Found, verdict: Verdict | RefusedError, params: Ingest) -> Row:
    record = found.record
    row = Row(
        id=record.id,
        name=record.name,
        status="refused",
        sha256=found.sha256,
        size=found.size,
        background=params.background,
        licence=record.licence,
        author=record.author,
        page=record.page,
        url=record.url,
    )
    if isinstance(verdict, RefusedError):
        return replace(row, reason=str(verdict))
    return replace(
        row,
        status="accepted",
        width=verdict.width,
        height=verdict.height,
        mode=verdict.mode,
        converted=verdict.converted,
        pixels=verdict.pixels,
        phash=verdict.phash,
        thumbnail=verdict.thumbnail,
    )


def _unchanged(found: _Found) -> bytes:
    data = found.content if isinstance(found.content, bytes) else found.content.read_bytes()
    if hashlib.sha256(data).hexdigest() != found.sha256:
        raise IntakeError(f"{found.record.id}: changed while it was being read; start again when it is complete")
    return data


def _equals_aside(rows: list[Row]) -> Iterator[Row]:
    """Of equal files, or files with equal pixels, the first of the source stays."""
    files: dict[str, str] = {}
    pictures: dict[str, str] = {}
    for row in rows:
        if row.status == "accepted" and row.sha256 in files:
            yield _aside(row, f"duplicate: same bytes as {files[row.sha256]}")
        elif row.status == "accepted" and row.pixels in pictures:
            yield _aside(row, f"duplicate: same pixels as {pictures[row.pixels]}")
        else:
            if row.status == "accepted":
                files[row.sha256] = pictures[row.pixels] = row.id
            yield row


def _near_aside(rows: list[Row]) -> list[Row]:
    accepted = [index for index, row in enumerate(rows) if row.status == "accepted"]
    for near, other in near_duplicates([rows[index] for index in accepted]).items():
        stays = rows[accepted[other]]
        rows[accepted[near]] = _aside(rows[accepted[near]], f"near-duplicate: of {stays.id}, {stays.width}x{stays.height}")
    return rows


def _aside(row: Row, reason: str) -> Row:
    return replace(row, status="refused", reason=reason, shard="", offset=0)


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
