"""What a source yields: one picture file, or something that may be one, with its credits."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from anyres.data.refusal import RefusedError


class IntakeError(ValueError):
    """Nothing can be ingested; the message is one line that names what is wrong and the cure."""


@dataclass(frozen=True)
class Access:
    """Facts of the machine that sources need: where downloads are kept, how fast to ask, keys of services."""

    cache_dir: Path
    requests_per_second: float = 8.0  # to one host, over all workers together
    flickr_key: str = field(default="", repr=False)
    google_key: str = field(default="", repr=False)
    google_engine: str = ""


class Content(Protocol):
    """A small reference to the bytes of one file, which a process on this or another machine can follow."""

    def fetch(self, access: Access) -> Path | bytes:
        """Return the bytes, or a local file that holds them, downloading into the cache where needed.

        Safe to call again: what is there is not fetched twice. Raises RefusedError with the reason where it cannot be had.
        """
        ...


@dataclass(frozen=True)
class LocalFile:
    """A file of this machine."""

    path: Path

    def fetch(self, access: Access) -> Path:
        if not self.path.exists():
            raise RefusedError("cannot be read: No such file or directory")
        return self.path


@dataclass(frozen=True)
class Unavailable:
    """Something listed that cannot be fetched at all, such as a line that is no address."""

    reason: str

    def fetch(self, access: Access) -> bytes:
        raise RefusedError(self.reason)


@dataclass(frozen=True, slots=True)
class Record:
    """One file of a source. `id` is unique and stable within the source; credits are as the source states them."""

    id: str
    content: Content
    name: str
    url: str = ""
    author: str = ""
    licence: str = ""
    page: str = ""
