"""Intake: inspect every file of a source, store the accepted originals in shards, record why the others are refused."""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from anyres.data.catalogue import CREDITS, SHARDS, Catalogue, CatalogueRow, credits_page
from anyres.data.inspection import Verdict, inspect_file
from anyres.data.near_duplicates import find_near_duplicates
from anyres.data.process_pool import LimitedProcessPool, LimitError
from anyres.data.refusal import RefusedError
from anyres.data.shards import ShardWriter, split_into_runs
from anyres.data.sources.record import Access, IntakeError, Record
from anyres.data.verdicts import VerdictCache
from anyres.files import write_atomic
from anyres.params import Ingest
from anyres.progress import progress_bar

__all__ = ["Catalogue", "IntakeError", "decoder_pool", "ingest_shard", "intake", "split_source", "write_catalogue"]

# Concurrent fetches of a process. A download waits for servers, so there are more than cores.
CONCURRENT_FETCHES = 16


@dataclass(frozen=True)
class SourceShard:
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

    Raises IntakeError, one line, if no picture is usable. Then no catalogue is written.
    """
    shards = split_source(records, params)
    bar = progress_bar("intake", len(records), "files", progress)
    with bar as advance, decoder_pool(params, workers or os.cpu_count() or 1) as decoders:
        rows = [ingest_shard(shard, params, access, out / SHARDS, decoders, advance) for shard in shards]
    return write_catalogue(rows, out, params)


def split_source(records: Sequence[Record], params: Ingest) -> list[SourceShard]:
    """Split a source into shards. Raises IntakeError if it is empty."""
    if not records:
        raise IntakeError("the source has no files; name a source that has pictures")
    runs = split_into_runs([record.id for record in records], params.shard_files)
    return [SourceShard(f"{index:05d}.tar", tuple(records[i] for i in run)) for index, run in enumerate(runs)]


def decoder_pool(params: Ingest, workers: int = 1) -> LimitedProcessPool[tuple[Path | bytes, Ingest], Verdict]:
    """Return the pool of decoders with the limits in `params`. No process starts before it is needed."""
    return LimitedProcessPool(inspect_file, workers, params.decode_s, params.decode_mb)


def ingest_shard(
    shard: SourceShard,
    params: Ingest,
    access: Access,
    folder: Path,
    decoders: LimitedProcessPool[tuple[Path | bytes, Ingest], Verdict],
    advance: Callable[[float], None] = lambda amount: None,
) -> list[CatalogueRow]:
    """Fetch and inspect the files of one shard, write `folder`/NAME.tar with the accepted ones, return all rows.

    Downloads and verdicts are cached in access.cache_dir: a repetition after a kill only reads them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    verdicts = VerdictCache(access.cache_dir / "judged.sqlite", params)
    rows: list[CatalogueRow] = []
    stored: dict[str, CatalogueRow] = {}  # by SHA-256
    try:
        with ThreadPoolExecutor(CONCURRENT_FETCHES) as fetchers, ShardWriter(folder / shard.name) as writer:
            fetched_files = _map_ahead(lambda record: _fetch(record, access, params), shard.records, fetchers)
            for fetched, verdict in _inspect(fetched_files, params, decoders, verdicts):
                row = _row(fetched, verdict, params)
                if row.status == "accepted" and row.sha256 in stored:
                    first = stored[row.sha256]
                    row = replace(row, shard=first.shard, offset=first.offset)
                elif row.status == "accepted" and isinstance(verdict, Verdict):
                    member = writer.add(f"{row.sha256}.{verdict.suffix}", _checked_bytes(fetched))
                    row = stored[row.sha256] = replace(row, shard=member.shard, offset=member.offset)
                rows.append(row)
                advance(1)
    finally:
        verdicts.close()
    if not stored:
        (folder / shard.name).unlink()
    return rows


def write_catalogue(shard_rows: Iterable[list[CatalogueRow]], out: Path, params: Ingest) -> Catalogue:
    """Refuse duplicates across all shards, then write the catalogue and the credits."""
    rows = list(_refuse_equals([row for rows in shard_rows for row in rows]))
    if params.near_duplicates == "refuse":
        rows = _refuse_near_duplicates(rows)
    catalogue = Catalogue(tuple(rows))
    if not catalogue.accepted:
        reasons = ", ".join(f"{count} {reason}" for reason, count in catalogue.reasons().items())
        raise IntakeError(f"no usable picture among {len(rows)} files ({reasons}); name a source that has pictures")
    write_atomic(out / CREDITS, credits_page(catalogue.accepted).encode())
    catalogue.save(out)
    return catalogue


@dataclass(frozen=True)
class _FetchedFile:
    """The result of fetching a record: a file or bytes with their hash, or the refusal."""

    record: Record
    content: Path | bytes = b""
    sha256: str = ""
    size: int = 0
    refusal: RefusedError | None = None


def _map_ahead(
    function: Callable[[Record], _FetchedFile], records: Iterable[Record], pool: ThreadPoolExecutor
) -> Iterator[_FetchedFile]:
    """Map in order, with a bounded number of records in progress."""
    waiting: deque[Future[_FetchedFile]] = deque()
    for record in records:
        waiting.append(pool.submit(function, record))
        if len(waiting) >= CONCURRENT_FETCHES:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _fetch(record: Record, access: Access, params: Ingest) -> _FetchedFile:
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
        return _FetchedFile(record, refusal=refusal)
    except OSError as error:
        return _FetchedFile(record, refusal=RefusedError(f"cannot be read: {error.strerror or error}"))
    if size > params.max_mb * 1e6:
        return _FetchedFile(record, refusal=RefusedError(f"too large: {size / 1e6:.1f} MB, over {params.max_mb:g}"))
    return _FetchedFile(record, content, digest, size)


def _inspect(
    fetched_files: Iterable[_FetchedFile], params: Ingest, decoders: LimitedProcessPool, verdicts: VerdictCache
) -> Iterator[tuple[_FetchedFile, Verdict | RefusedError]]:
    """Yield each file with its verdict, in order. The verdict comes from the cache if these bytes were inspected before."""
    waiting: deque[tuple[_FetchedFile, Verdict | RefusedError | None, Callable[[], Verdict | RefusedError] | None]] = deque()

    def finish_first() -> tuple[_FetchedFile, Verdict | RefusedError]:
        fetched, verdict, pending = waiting.popleft()
        if verdict is None and pending is not None:
            verdict = pending()
            if not isinstance(verdict, LimitError):
                verdicts.put(fetched.sha256, verdict)
        assert verdict is not None
        return fetched, verdict

    for fetched in fetched_files:
        verdict = fetched.refusal or verdicts.get(fetched.sha256)
        waiting.append((fetched, verdict, decoders.submit((fetched.content, params)) if verdict is None else None))
        while waiting and (waiting[0][1] is not None or len(waiting) > decoders.queue_length):
            yield finish_first()
    while waiting:
        yield finish_first()


def _row(fetched: _FetchedFile, verdict: Verdict | RefusedError, params: Ingest) -> CatalogueRow:
    record = fetched.record
    row = CatalogueRow(
        id=record.id,
        name=record.name,
        status="refused",
        sha256=fetched.sha256,
        size=fetched.size,
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


def _checked_bytes(fetched: _FetchedFile) -> bytes:
    data = fetched.content if isinstance(fetched.content, bytes) else fetched.content.read_bytes()
    if hashlib.sha256(data).hexdigest() != fetched.sha256:
        raise IntakeError(f"{fetched.record.id}: the file changed while it was read; run again when it is complete")
    return data


def _refuse_equals(rows: list[CatalogueRow]) -> Iterator[CatalogueRow]:
    """Of files with equal bytes or equal pixels, keep the first in the source and refuse the others."""
    files: dict[str, str] = {}
    pictures: dict[str, str] = {}
    for row in rows:
        if row.status == "accepted" and row.sha256 in files:
            yield _refused(row, f"duplicate: same bytes as {files[row.sha256]}")
        elif row.status == "accepted" and row.pixels in pictures:
            yield _refused(row, f"duplicate: same pixels as {pictures[row.pixels]}")
        else:
            if row.status == "accepted":
                files[row.sha256] = pictures[row.pixels] = row.id
            yield row


def _refuse_near_duplicates(rows: list[CatalogueRow]) -> list[CatalogueRow]:
    accepted = [index for index, row in enumerate(rows) if row.status == "accepted"]
    for near, other in find_near_duplicates([rows[index] for index in accepted]).items():
        larger = rows[accepted[other]]
        rows[accepted[near]] = _refused(rows[accepted[near]], f"near-duplicate: of {larger.id}, {larger.width}x{larger.height}")
    return rows


def _refused(row: CatalogueRow, reason: str) -> CatalogueRow:
    return replace(row, status="refused", reason=reason, shard="", offset=0)


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
