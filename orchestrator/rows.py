"""Rows as files: CSV, Parquet and JSON with stable columns, every digit kept."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

FORMATS = (".csv", ".parquet", ".json")
Rows = Sequence[Mapping[str, Any]]
"""Rows of equal columns, in order."""


def check_format(path: Path) -> None:
    """Raise ValueError unless the file's ending is one that rows can be written in."""
    if path.suffix.lower() not in FORMATS:
        raise ValueError(f"'{path.name}' names no format of rows; valid endings: {', '.join(FORMATS)}")


def write(path: Path, rows: Rows) -> None:
    """Write rows in the format of the file's ending."""
    check_format(path)
    if path.suffix.lower() == ".parquet":
        write_parquet(path, rows)
    elif path.suffix.lower() == ".json":
        path.write_text(json.dumps(list(rows), indent=2, allow_nan=False) + "\n")
    else:
        path.write_text(as_csv(rows))


def as_csv(rows: Rows) -> str:
    """CSV with a heading; an empty field is a missing value. Floats have the digits it takes to read them back."""
    buffer = io.StringIO()
    if rows:
        writer = csv.DictWriter(buffer, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(_flat(row) for row in rows)
    return buffer.getvalue()


def write_parquet(path: Path, rows: Rows) -> None:
    """Write a Parquet file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist([dict(row) for row in rows]), path)


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: " ".join(value) if isinstance(value, list | tuple) else value for name, value in row.items()}
