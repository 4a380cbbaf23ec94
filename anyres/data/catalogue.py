"""The catalogue of an intake, a Parquet table: one row per file, accepted or refused with the reason."""

from __future__ import annotations

import io
from collections import Counter
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from anyres.files import write_atomic

CATALOGUE = "catalogue.parquet"
CREDITS = "credits.md"
SHARDS = "shards"


@dataclass(frozen=True)
class CatalogueRow:
    """One file of the source.

    The original file is stored in `shard` at bytes `offset` to `offset + size`. `sha256` is its hash; `pixels` is the hash of
    the decoded picture. `width` and `height` are those of the upright picture. `converted` lists the conversions of the
    decoder, in order. `background` is the sRGB colour behind transparent pixels. `phash` (64 bits, hexadecimal) and
    `thumbnail` (8 x 8 x 3 int8, normalised to zero mean and unit deviation, times 32) identify near-duplicates.
    """

    id: str
    name: str
    status: Literal["accepted", "refused"]
    reason: str = ""
    sha256: str = ""
    shard: str = ""
    offset: int = 0
    size: int = 0
    width: int = 0
    height: int = 0
    mode: str = ""
    converted: tuple[str, ...] = ()
    background: tuple[int, int, int] = (0, 0, 0)
    pixels: str = ""
    phash: str = ""
    thumbnail: bytes = b""
    licence: str = ""
    author: str = ""
    page: str = ""
    url: str = ""


@dataclass(frozen=True)
class Catalogue:
    """The rows, in the order of the source."""

    rows: tuple[CatalogueRow, ...]

    @property
    def accepted(self) -> list[CatalogueRow]:
        return [row for row in self.rows if row.status == "accepted"]

    @property
    def refused(self) -> list[CatalogueRow]:
        return [row for row in self.rows if row.status == "refused"]

    def reasons(self) -> dict[str, int]:
        """Count the refused files by the kind of reason: its words before the first colon."""
        return dict(Counter(row.reason.split(":")[0] for row in self.refused).most_common())

    def save(self, folder: Path) -> None:
        """Write `folder`/catalogue.parquet. Equal rows give equal bytes."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        columns = {field.name: [getattr(row, field.name) for row in self.rows] for field in fields(CatalogueRow)}
        columns["converted"] = [list(row.converted) for row in self.rows]
        columns["background"] = [list(row.background) for row in self.rows]
        stream = io.BytesIO()
        pq.write_table(pa.table(columns, schema=_schema()), stream, compression="zstd")
        write_atomic(folder / CATALOGUE, stream.getvalue())

    @classmethod
    def load(cls, folder: Path) -> Catalogue:
        """Read the catalogue in `folder`. Raises ValueError, one line, if it is missing or damaged."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        path = folder / CATALOGUE
        if not path.is_file():
            raise ValueError(f"{path}: no such file; run the stage ingest first")
        try:
            table = pq.read_table(path, schema=_schema())
        except (pa.ArrowInvalid, pa.ArrowKeyError, OSError) as error:
            raise ValueError(f"{path}: damaged ({' '.join(str(error).split())[:100]}); run the stage ingest again") from None
        return cls(tuple(_row(values) for values in table.to_pylist()))


def credit_line(name: str, author: str, licence: str) -> str:
    """Return name, author and licence in one line."""
    return f"{name}: {author or 'author not stated'}, {licence or 'licence not stated'}"


def credits_page(rows: list[CatalogueRow]) -> str:
    """Return the credits as Markdown, one line per picture."""
    lines = [f"- {credit_line(row.name, row.author, row.licence)}{row.page and f', <{row.page}>'}" for row in rows]
    return "# Credits\n\n" + "\n".join(lines) + "\n"


def _schema() -> Any:
    import pyarrow as pa

    types = {
        "offset": pa.int64(),
        "size": pa.int64(),
        "width": pa.int32(),
        "height": pa.int32(),
        "converted": pa.list_(pa.string()),
        "background": pa.list_(pa.uint8()),
        "thumbnail": pa.binary(),
    }
    return pa.schema([pa.field(field.name, types.get(field.name, pa.string()), nullable=False) for field in fields(CatalogueRow)])


def _row(values: dict[str, Any]) -> CatalogueRow:
    values["converted"] = tuple(values["converted"])
    values["background"] = tuple(values["background"])
    return CatalogueRow(**values)
