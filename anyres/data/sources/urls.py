"""Source `urls`: addresses in a text file, a CSV or a Parquet table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from anyres.data.sources.download import Link
from anyres.data.sources.record import IntakeError, Record, Unavailable

COLUMNS = ("url", "id", "name", "author", "licence", "page", "sha256")


def records(list_file: Path, max_mb: float) -> list[Record]:
    """List the addresses in a file, each once, in the order of the file.

    .txt: one address per line, # starts a comment. .csv and .parquet: a column `url` and the optional columns id, name,
    author, licence (or license), page, sha256. An item that is not an http address is listed with that reason. Raises
    IntakeError if the file is missing, cannot be read, or has no addresses.
    """
    if not list_file.is_file():
        raise IntakeError(f"ingest.list: {str(list_file)!r}: no such file; put the list of addresses there or correct the name")
    try:
        rows = _rows(list_file)
    except (OSError, ValueError) as error:
        raise IntakeError(f"ingest.list: {str(list_file)!r} cannot be read: {' '.join(str(error).split())[:150]}") from None
    records_by_id: dict[str, Record] = {}
    for row in rows:
        url = row["url"]
        identity = row["id"] or url
        if not url or identity in records_by_id:
            continue
        is_http = url.lower().startswith(("http://", "https://"))
        content = Link(url, row["sha256"], max_mb) if is_http else Unavailable(f"not an http address: {url[:100]}")
        name = row["name"] or url.split("?")[0].rstrip("/").rsplit("/", 1)[-1] or url
        records_by_id[identity] = Record(identity, content, name, url, row["author"], row["licence"], row["page"])
    if not records_by_id:
        raise IntakeError(f"ingest.list: {str(list_file)!r} has no addresses; write one per line, or a column `url`")
    return list(records_by_id.values())


def _rows(path: Path) -> list[dict[str, str]]:
    """Return the columns COLUMNS of every row. Missing values are empty strings."""
    if path.suffix.lower() not in (".csv", ".parquet"):
        lines = (line.split(" #")[0].strip() for line in path.read_text(encoding="utf-8-sig").splitlines())
        return [dict.fromkeys(COLUMNS, "") | {"url": line} for line in lines if line and not line.startswith("#")]
    if path.suffix.lower() == ".csv":
        import pyarrow.csv as reader

        table = reader.read_csv(path, convert_options=reader.ConvertOptions(strings_can_be_null=True))
    else:
        import pyarrow.parquet as reader

        table = reader.read_table(path)
    names = {name.strip().lower().replace("license", "licence"): name for name in table.column_names}
    if "url" not in names:
        raise ValueError(f"no column `url` among {', '.join(table.column_names)}")
    columns: dict[str, list[Any]] = {
        column: table[names[column]].to_pylist() if column in names else [None] * table.num_rows for column in COLUMNS
    }
    return [
        {column: "" if values[index] is None else str(values[index]).strip() for column, values in columns.items()}
        for index in range(table.num_rows)
    ]
