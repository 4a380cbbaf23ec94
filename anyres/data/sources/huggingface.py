"""Source `huggingface`: a data set with a column of pictures, from the Hugging Face hub or a local folder, streamed."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from anyres.data.refusal import in_few_words
from anyres.data.sources.record import Access, Content, IntakeError, LocalFile, Record, Unavailable
from anyres.files import write_atomic
from anyres.progress import progress_bar

PAGE = "https://huggingface.co/datasets/"


def records(dataset: str, split: str, column: str, limit: int, access: Access, progress: bool = True) -> list[Record]:
    """List the first `limit` pictures of a split; ids are "SPLIT/number/file name".

    The files themselves are kept, not re-encoded, in access.cache_dir/huggingface by their SHA-256. A listing of one
    revision is kept too: asked again, nothing is streamed twice. Raises IntakeError where the data set, the split or
    the column cannot be had.
    """
    folder = access.cache_dir / "huggingface"
    local = Path(dataset).exists()
    revision = "" if local else _revision(dataset)
    named = json.dumps([dataset, revision, split, column, limit])
    listing = folder / "listings" / f"{hashlib.sha256(named.encode()).hexdigest()[:32]}.json"
    listed = json.loads(listing.read_text(encoding="utf-8")) if not local and listing.exists() else None
    if listed is None or not all(_place(folder, digest).exists() for _, digest in listed["files"] if digest):
        listed = _stream(dataset, revision, split, column, limit, folder, progress)
        if not local:
            write_atomic(listing, json.dumps(listed).encode())
    page = "" if local else PAGE + dataset
    found = []
    for number, (name, digest) in enumerate(listed["files"]):
        content: Content = LocalFile(_place(folder, digest)) if digest else Unavailable("no picture in this row")
        identity = f"{split}/{number:08d}" + (f"/{name}" if name else "")
        found.append(Record(identity, content, name or identity, author=dataset, licence=listed["licence"], page=page))
    if not found:
        raise IntakeError(f"ingest.split: {split!r} of {dataset} is empty; name another")
    return found


def _stream(dataset: str, revision: str, split: str, column: str, limit: int, folder: Path, progress: bool) -> dict[str, Any]:
    """Keep the pictures; return {licence, files: [(name, SHA-256 or nothing)]}."""
    try:
        from datasets import Image, load_dataset
    except ImportError:
        raise IntakeError("ingest.source: huggingface needs the package datasets; type `pip install datasets`") from None
    try:
        rows = load_dataset(dataset, split=split, streaming=True, revision=revision or None)
    except Exception as error:  # noqa: BLE001 - readers of all formats raise their own
        raise IntakeError(f"ingest.dataset: {dataset!r}, split {split!r}: {in_few_words(error)}") from None
    names = rows.column_names or []
    if column not in names:
        raise IntakeError(f"ingest.column: no {column!r} in {dataset}; it has {', '.join(names)}")
    files: list[tuple[str, str]] = []
    try:
        with progress_bar(f"streaming {Path(dataset).name}", limit, "pictures", progress) as advance:
            for row in rows.select_columns([column]).cast_column(column, Image(decode=False)).take(limit):
                files.append(_keep(row[column], folder))
                advance(1)
    except Exception as error:  # noqa: BLE001 - readers of all formats raise their own
        raise IntakeError(f"ingest.dataset: {dataset!r} broke off after {len(files)} pictures: {in_few_words(error)}") from None
    licence = rows.info.license if rows.info and rows.info.license else ""
    return {"licence": " ".join(licence.split()), "files": files}


def _keep(value: dict[str, Any] | None, folder: Path) -> tuple[str, str]:
    """Write a picture's file to its place; return its name and SHA-256, both empty where there is none."""
    value = value or {}
    path, data = value.get("path") or "", value.get("bytes")
    if data is None and path:
        import fsspec

        with fsspec.open(path, "rb") as stream:
            data = stream.read()  # type: ignore[union-attr]
    if data is None:
        return "", ""
    digest = hashlib.sha256(data).hexdigest()
    if not _place(folder, digest).exists():
        write_atomic(_place(folder, digest), data)
    return path.split("::")[0].rsplit("/", 1)[-1], digest


def _place(folder: Path, digest: str) -> Path:
    return folder / digest[:2] / digest


def _revision(dataset: str) -> str:
    """The commit of a data set of the hub."""
    from huggingface_hub import HfApi

    try:
        return HfApi().dataset_info(dataset).sha or ""
    except Exception as error:  # noqa: BLE001 - the hub's client raises those of several libraries
        raise IntakeError(f"ingest.dataset: {dataset!r}: no such folder, and the hub says: {in_few_words(error)}") from None
