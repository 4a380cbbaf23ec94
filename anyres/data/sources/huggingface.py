"""Source `huggingface`: stream a data set with a column of pictures, from the Hugging Face hub or a local folder."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from anyres.data.refusal import one_line
from anyres.data.sources.record import Access, Content, IntakeError, LocalFile, Record, Unavailable
from anyres.files import write_atomic
from anyres.progress import progress_bar

PAGE = "https://huggingface.co/datasets/"


def records(dataset: str, split: str, column: str, limit: int, access: Access, progress: bool = True) -> list[Record]:
    """List the first `limit` pictures of a split. Ids are "SPLIT/number/file name".

    The original files are cached in access.cache_dir/huggingface by their SHA-256. The listing of a revision is cached too,
    so that nothing is streamed twice. Raises IntakeError if the data set, the split or the column is not available.
    """
    folder = access.cache_dir / "huggingface"
    is_local = Path(dataset).exists()
    revision = "" if is_local else _revision(dataset)
    key = json.dumps([dataset, revision, split, column, limit])
    listing = folder / "listings" / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"
    listed = json.loads(listing.read_text(encoding="utf-8")) if not is_local and listing.exists() else None
    if listed is None or not all(_cache_path(folder, digest).exists() for _, digest in listed["files"] if digest):
        listed = _stream(dataset, revision, split, column, limit, folder, progress)
        if not is_local:
            write_atomic(listing, json.dumps(listed).encode())
    page = "" if is_local else PAGE + dataset
    pictures = []
    for number, (name, digest) in enumerate(listed["files"]):
        content: Content = LocalFile(_cache_path(folder, digest)) if digest else Unavailable("no picture in this row")
        identity = f"{split}/{number:08d}" + (f"/{name}" if name else "")
        pictures.append(Record(identity, content, name or identity, author=dataset, licence=listed["licence"], page=page))
    if not pictures:
        raise IntakeError(f"ingest.split: {split!r} of {dataset} is empty; name another split")
    return pictures


def _stream(dataset: str, revision: str, split: str, column: str, limit: int, folder: Path, progress: bool) -> dict[str, Any]:
    """Cache the pictures. Return {licence, files: [(name, SHA-256 or an empty string)]}."""
    try:
        from datasets import Image, load_dataset
    except ImportError:
        raise IntakeError("ingest.source: huggingface needs the package datasets; run `pip install datasets`") from None
    try:
        rows = load_dataset(dataset, split=split, streaming=True, revision=revision or None)
    except Exception as error:  # noqa: BLE001 - the reader of each format raises its own errors
        raise IntakeError(f"ingest.dataset: {dataset!r}, split {split!r}: {one_line(error)}") from None
    names = rows.column_names or []
    if column not in names:
        raise IntakeError(f"ingest.column: no {column!r} in {dataset}; it has {', '.join(names)}")
    files: list[tuple[str, str]] = []
    try:
        with progress_bar(f"streaming {Path(dataset).name}", limit, "pictures", progress) as advance:
            for row in rows.select_columns([column]).cast_column(column, Image(decode=False)).take(limit):
                files.append(_cache_file(row[column], folder))
                advance(1)
    except Exception as error:  # noqa: BLE001 - the reader of each format raises its own errors
        raise IntakeError(f"ingest.dataset: {dataset!r} failed after {len(files)} pictures: {one_line(error)}") from None
    licence = rows.info.license if rows.info and rows.info.license else ""
    return {"licence": " ".join(licence.split()), "files": files}


def _cache_file(value: dict[str, Any] | None, folder: Path) -> tuple[str, str]:
    """Write a picture's file to the cache. Return its name and SHA-256, both empty if there is no picture."""
    value = value or {}
    path, data = value.get("path") or "", value.get("bytes")
    if data is None and path:
        import fsspec

        system, inner = fsspec.url_to_fs(path)
        with system.open(inner, "rb") as stream:
            data = stream.read()
    if data is None:
        return "", ""
    digest = hashlib.sha256(data).hexdigest()
    if not _cache_path(folder, digest).exists():
        write_atomic(_cache_path(folder, digest), data)
    return path.split("::")[0].rsplit("/", 1)[-1], digest


def _cache_path(folder: Path, digest: str) -> Path:
    return folder / digest[:2] / digest


def _revision(dataset: str) -> str:
    """Return the commit of a data set on the hub."""
    from huggingface_hub import HfApi

    try:
        return HfApi().dataset_info(dataset).sha or ""
    except Exception as error:  # noqa: BLE001 - the hub's client raises the errors of several libraries
        raise IntakeError(f"ingest.dataset: {dataset!r}: no such folder, and the hub reports: {one_line(error)}") from None
