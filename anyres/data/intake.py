"""Intake: judge every file of a source, keep the originals of the good ones, say why of the others."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from anyres.data.decode import RefusedError, decode, decode_srgb, quiet_decoders
from anyres.data.manifest import CREDITS, Manifest, Row, credits_page, picture_path
from anyres.data.sources import IntakeError, Record
from anyres.files import write_atomic
from anyres.params import Ingest
from anyres.progress import progress_bar

__all__ = ["IntakeError", "Manifest", "decode_srgb", "intake"]


def intake(records: Iterable[Record], params: Ingest, out: Path, progress: bool = True) -> Manifest:
    """Write `out`/pictures, `out`/manifest.jsonl and `out`/credits.md; equal files stay untouched.

    Of equal files, or files with equal pixels, the first of the source stays. Raises IntakeError, one line, and
    writes nothing where no picture is usable.
    """
    records = list(records)
    if not records:
        raise IntakeError("the source holds no file; name one that holds pictures")
    bar = progress_bar("intake", len(records), "pictures", progress)
    with quiet_decoders(), ThreadPoolExecutor(os.cpu_count()) as pool, bar as advance:
        judged = []
        for row in pool.map(lambda record: _judge(record, params), records):
            judged.append(row)
            advance(1)
    manifest = Manifest(tuple(_set_duplicates_aside(judged)))
    if not manifest.accepted:
        reasons = ", ".join(f"{count} {reason}" for reason, count in manifest.reasons().items())
        raise IntakeError(f"no usable picture among {len(records)} files ({reasons}); name a source that holds pictures")
    for record, row in zip(records, manifest.rows, strict=True):
        if row.status == "accepted":
            _keep(record, row, out)
    _remove_others(out / "pictures", {out / row.path for row in manifest.accepted})
    write_atomic(out / CREDITS, credits_page(manifest.accepted).encode())
    manifest.save(out)
    return manifest


def _judge(record: Record, params: Ingest) -> Row:
    row = Row(
        id=record.id,
        name=record.name,
        status="refused",
        licence=record.licence,
        author=record.author,
        page=record.page or record.url,
        background=params.background,
    )
    try:
        data = record.read()
    except OSError as error:
        return replace(row, reason=f"cannot be read: {error.strerror}")
    row = replace(row, sha256=hashlib.sha256(data).hexdigest())
    try:
        decoded = decode(data, params.background, params.animated, params.min_side_px, params.max_mpx)
    except RefusedError as refusal:
        return replace(row, reason=str(refusal))
    height, width, _ = decoded.pixels.shape
    pixels = hashlib.sha256(f"{height}x{width}:".encode())
    pixels.update(decoded.pixels.data)
    return replace(
        row,
        status="accepted",
        path=picture_path(row.sha256, data),
        width=width,
        height=height,
        mode=decoded.mode,
        converted=decoded.converted,
        pixels=pixels.hexdigest(),
    )


def _set_duplicates_aside(rows: list[Row]) -> Iterable[Row]:
    files: dict[str, str] = {}
    pictures: dict[str, str] = {}
    for row in rows:
        if row.status == "accepted" and row.sha256 in files:
            yield replace(row, status="refused", path="", reason=f"duplicate: same bytes as {files[row.sha256]}")
        elif row.status == "accepted" and row.pixels in pictures:
            yield replace(row, status="refused", path="", reason=f"duplicate: same pixels as {pictures[row.pixels]}")
        else:
            if row.status == "accepted":
                files[row.sha256] = pictures[row.pixels] = row.id
            yield row


def _keep(record: Record, row: Row, out: Path) -> None:
    data = record.read()
    if hashlib.sha256(data).hexdigest() != row.sha256:
        raise IntakeError(f"{row.id}: changed while it was being read; start again when it is complete")
    write_atomic(out / row.path, data)


def _remove_others(folder: Path, kept: set[Path]) -> None:
    """Remove the pictures that an earlier intake accepted and this one does not."""
    for path in folder.glob("*/*"):
        if path not in kept:
            path.unlink()
