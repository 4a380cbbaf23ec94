"""The record of a source: one file that may be a picture, with its credits."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from anyres.data.refusal import RefusedError


class IntakeError(ValueError):
    """Nothing can be ingested. The message is one line: what is wrong and what to do."""


@dataclass(frozen=True)
class Access:
    """Settings of the machine for sources: download folder, request rate, keys of services."""

    cache_dir: Path
    requests_per_second: float = 8.0  # to one host, in total over all workers
    flickr_key: str = field(default="", repr=False)
    google_key: str = field(default="", repr=False)
    google_engine: str = ""


class Content(Protocol):
    """A small reference to the bytes of one file. Any process, also on another machine, can fetch it."""

    def fetch(self, access: Access) -> Path | bytes:
        """Return the bytes, or a local file with them; download into the cache if necessary.

        A cached file is not downloaded again. Raises RefusedError with the reason if the file is not available.
        """
        ...


@dataclass(frozen=True)
class LocalFile:
    """A file on this machine."""

    path: Path

    def fetch(self, access: Access) -> Path:
        if not self.path.exists():
            raise RefusedError("cannot be read: No such file or directory")
        return self.path


@dataclass(frozen=True)
class Unavailable:
    """A listed item that can never be fetched, such as a line that is not an address."""

    reason: str

    def fetch(self, access: Access) -> bytes:
        raise RefusedError(self.reason)


@dataclass(frozen=True, slots=True)
class Record:
    """One file of a source. `id` is unique and stable within the source. The credits are those that the source states."""

    id: str
    content: Content
    name: str
    url: str = ""
    author: str = ""
    licence: str = ""
    page: str = ""
