"""Where pictures come from. Each source lists records; the intake judges them."""

from __future__ import annotations

from pathlib import Path

from anyres.data.sources.record import Access, IntakeError, Record
from anyres.params import Ingest

__all__ = ["Access", "IntakeError", "Record", "open_source"]


def open_source(params: Ingest, access: Access, progress: bool = True) -> list[Record]:
    """List the records of the source that `params` names; downloads are kept in `access.cache_dir`.

    Raises IntakeError, one line with the cure, where there is nothing to list.
    """
    # Each is imported where it is chosen: no client of a service that is not asked.
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
