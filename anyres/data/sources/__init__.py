"""Sources of pictures. Each source lists records; the intake fetches and inspects them."""

from __future__ import annotations

from pathlib import Path

from anyres.data.sources.record import Access, IntakeError, Record
from anyres.params import Ingest

__all__ = ["Access", "IntakeError", "Record", "open_source"]


def open_source(params: Ingest, access: Access, progress: bool = True) -> list[Record]:
    """List the records of the source that `params` names. Downloads are cached in `access.cache_dir`.

    Raises IntakeError, one line that says what to do, if the source has no records.
    """
    # Imported on use, so that a run loads only the client of its own source.
    match params.source:
        case "packages":
            from anyres.data.sources import packages

            return packages.records(packages.SETS[params.set], access.cache_dir, progress)
        case "folder":
            from anyres.data.sources import folder

            return folder.records(params.folder, access.cache_dir, params.max_mb)
        case "urls":
            from anyres.data.sources import urls

            return urls.records(Path(params.folder, params.list), params.max_mb)
        case "flickr":
            from anyres.data.sources import flickr

            return flickr.records(params.queries, params.licences, params.limit, params.max_mb, access, progress)
        case "google":
            from anyres.data.sources import google

            return google.records(params.queries, params.licences, params.limit, params.max_mb, access, progress)
        case "huggingface":
            from anyres.data.sources import huggingface

            return huggingface.records(params.dataset, params.split, params.column, params.limit, access, progress)
