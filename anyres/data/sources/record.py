"""What a source yields: one picture file, or something that may be one, with its credits."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


class IntakeError(ValueError):
    """Nothing can be ingested; the message is one line that names what is wrong and the cure."""


@dataclass(frozen=True)
class Record:
    """One file of a source, by its path or its bytes. `id` is unique and stable within the source."""

    id: str
    content: Path | bytes
    name: str
    url: str = ""
    author: str = ""
    licence: str = ""
    page: str = ""

    def read(self) -> bytes:
        """Return the file's bytes. Raises OSError where it cannot be read."""
        return self.content if isinstance(self.content, bytes) else self.content.read_bytes()
