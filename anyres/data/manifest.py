"""The manifest of an intake: one row per file seen, accepted or set aside with the reason."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from anyres.files import write_atomic

MANIFEST = "manifest.jsonl"
CREDITS = "credits.md"
SUFFIXES = {b"\xff\xd8": "jpg", b"\x89P": "png", b"GI": "gif", b"II": "tif", b"MM": "tif", b"RI": "webp", b"BM": "bmp"}


@dataclass(frozen=True)
class Row:
    """One file seen. `width` and `height` are upright; `pixels` is the SHA-256 of the decoded picture.

    `background` is the sRGB colour that transparent pixels were laid over, and `path` stands below the manifest.
    """

    id: str
    name: str
    status: Literal["accepted", "refused"]
    reason: str = ""
    sha256: str = ""
    path: str = ""
    width: int = 0
    height: int = 0
    mode: str = ""
    converted: tuple[str, ...] = ()
    background: tuple[int, int, int] = (0, 0, 0)
    pixels: str = ""
    licence: str = ""
    author: str = ""
    page: str = ""


@dataclass(frozen=True)
class Manifest:
    """Rows in the order of the source."""

    rows: tuple[Row, ...]

    @property
    def accepted(self) -> list[Row]:
        return [row for row in self.rows if row.status == "accepted"]

    @property
    def refused(self) -> list[Row]:
        return [row for row in self.rows if row.status == "refused"]

    def reasons(self) -> dict[str, int]:
        """How many files were set aside, by the first words of the reason."""
        return dict(Counter(row.reason.split(":")[0] for row in self.refused).most_common())

    def save(self, folder: Path) -> None:
        lines = (json.dumps(asdict(row), ensure_ascii=False) + "\n" for row in self.rows)
        write_atomic(folder / MANIFEST, "".join(lines).encode())

    @classmethod
    def load(cls, folder: Path) -> Manifest:
        """Read the manifest in `folder`. Raises ValueError, one line, where there is none or it is damaged."""
        path = folder / MANIFEST
        try:
            return cls(tuple(_row(json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()))
        except FileNotFoundError:
            raise ValueError(f"{path}: no such file; run the stage ingest first") from None
        except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path}: damaged ({error}); run the stage ingest again") from None


def picture_path(sha256: str, data: bytes) -> str:
    """Where an accepted original lies below the manifest, sharded by its hash."""
    return f"pictures/{sha256[:2]}/{sha256}.{SUFFIXES.get(data[:2], 'img')}"


def credit_line(name: str, author: str, licence: str) -> str:
    """Name, author and licence in one line."""
    return f"{name}: {author or 'author not stated'}, {licence or 'licence not stated'}"


def credits_page(rows: list[Row]) -> str:
    """A page of credits in Markdown, one line per picture."""
    lines = [f"- {credit_line(row.name, row.author, row.licence)}{row.page and f', <{row.page}>'}" for row in rows]
    return "# Credits\n\n" + "\n".join(lines) + "\n"


def _row(values: dict[str, Any]) -> Row:
    values["converted"] = tuple(values["converted"])
    values["background"] = tuple(values["background"])
    return Row(**values)
