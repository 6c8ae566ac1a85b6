"""Rows as files: CSV, Parquet and JSON with stable columns, every digit kept."""

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

if TYPE_CHECKING:
    import pyarrow as pa
    from _typeshed import DataclassInstance

FORMATS = (".csv", ".parquet", ".json")


def check_format(path: Path, formats: Sequence[str] = FORMATS) -> None:
    """Raise ValueError unless the file's ending is one that rows can be written in."""
    if path.suffix.lower() not in formats:
        raise ValueError(f"'{path.name}' names no format of rows; valid endings: {', '.join(formats)}")


def write(path: Path, kind: "type[DataclassInstance]", rows: "Sequence[DataclassInstance]") -> None:
    """Write rows, instances of the dataclass `kind`, in the format of the file's ending.

    The columns are the fields of `kind`, whether there are rows or none. Raises ValueError for another ending.
    """
    check_format(path)
    if path.suffix.lower() == ".parquet":
        _write_parquet(path, kind, rows)
    else:
        text = as_json(rows) if path.suffix.lower() == ".json" else as_csv(kind, rows)
        path.write_text(text, encoding="utf-8")


def as_json(rows: "Sequence[DataclassInstance]") -> str:
    """A JSON list of one object a row; null is a missing value."""
    return json.dumps([asdict(row) for row in rows], indent=2, allow_nan=False) + "\n"


def as_csv(kind: "type[DataclassInstance]", rows: "Sequence[DataclassInstance]") -> str:
    """CSV with a heading; an empty field is a missing value. Floats have the digits it takes to read them back."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    names = [field.name for field in fields(kind)]
    writer.writerow(names)
    writer.writerows([_flat(getattr(row, name)) for name in names] for row in rows)
    return buffer.getvalue()


def _flat(value: Any) -> Any:
    if isinstance(value, tuple):
        return " ".join(value)
    return str(value).lower() if isinstance(value, bool) else value


def _write_parquet(path: Path, kind: "type[DataclassInstance]", rows: "Sequence[DataclassInstance]") -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    hints = get_type_hints(kind)
    schema = pa.schema([_parquet_column(field.name, hints[field.name]) for field in fields(kind)])
    pq.write_table(pa.Table.from_pylist([asdict(row) for row in rows], schema=schema), path)


def _parquet_column(name: str, hint: Any) -> "pa.Field":
    """A column of the type that the field is declared with: a column of missing values only has one too."""
    import pyarrow as pa

    types = {
        str: pa.string(),
        int: pa.int64(),
        float: pa.float64(),
        bool: pa.bool_(),
        tuple[str, ...]: pa.list_(pa.string()),
    }
    for known, arrow in types.items():
        if hint == known:
            return pa.field(name, arrow, nullable=False)
        if hint == known | None:
            return pa.field(name, arrow)
    raise TypeError(f"the field {name} has the type {hint}, which no column has")
