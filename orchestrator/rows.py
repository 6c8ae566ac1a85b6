"""Rows as files: CSV, Parquet and JSON with stable columns, every digit kept."""

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import MISSING, asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_type_hints

if TYPE_CHECKING:
    import pyarrow as pa
    from _typeshed import DataclassInstance

    R = TypeVar("R", bound=DataclassInstance)

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
        path.write_bytes(as_parquet(kind, rows))
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


def as_parquet(kind: "type[DataclassInstance]", rows: "Sequence[DataclassInstance]") -> bytes:
    """A Parquet file. The same rows give the same bytes, with the same version of PyArrow."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = _schema(kind)
    columns = [pa.array([getattr(row, field.name) for row in rows], field.type) for field in schema]
    buffer = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_arrays(columns, schema=schema), buffer, compression="zstd")
    return bytes(buffer.getvalue())


def from_parquet(kind: "type[R]", content: bytes, *, most_rows: int) -> "tuple[R, ...]":
    """The rows of a file that `as_parquet` made: instances of the dataclass `kind`, whose fields are no tuples.

    The last columns may be missing where their fields have defaults: a file may be older than they are.
    Raises ValueError for what is no such file, for other columns or types, for a missing value where none may be, and
    for more rows than `most_rows`: they are counted before they are read.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = _schema(kind)
    needed = sum(field.default is MISSING for field in fields(kind))
    try:
        file = pq.ParquetFile(pa.BufferReader(content))
        if file.metadata.num_rows > most_rows:
            raise ValueError(f"it has {file.metadata.num_rows:,} rows, and {most_rows:,} are allowed")
        there = len(file.schema_arrow)
        if there < needed or not file.schema_arrow.equals(pa.schema(list(schema)[:there])):
            raise ValueError("its columns are others")
        table = file.read()
        table.validate(full=True)
    except (pa.ArrowException, OSError) as error:
        raise ValueError("it is no whole Parquet file") from error
    for name, column in zip(table.column_names, table.columns, strict=True):
        if column.null_count and not schema.field(name).nullable:
            raise ValueError(f"a value of its column {name} is missing")
    return tuple(kind(*values) for values in zip(*(column.to_pylist() for column in table.columns), strict=True))


def _schema(kind: "type[DataclassInstance]") -> "pa.Schema":
    import pyarrow as pa

    hints = get_type_hints(kind)
    return pa.schema([_parquet_column(field.name, hints[field.name]) for field in fields(kind)])


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
