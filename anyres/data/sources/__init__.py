"""Where pictures come from. Each source lists records; the intake judges them."""

from __future__ import annotations

from pathlib import Path

from anyres.data.sources.folder import records as folder_records
from anyres.data.sources.packages import SETS
from anyres.data.sources.packages import records as package_records
from anyres.data.sources.record import Access, IntakeError, Record
from anyres.params import Ingest

__all__ = ["Access", "IntakeError", "Record", "open_source"]


def open_source(params: Ingest, access: Access, progress: bool = True) -> list[Record]:
    """List the records of the source that `params` names; downloads are kept in `access.cache_dir`.

    Raises IntakeError, one line with the cure, where there is nothing to list.
    """
    if params.source == "folder":
        return folder_records(Path(params.folder))
    return package_records(SETS[params.set], access.cache_dir, progress)
