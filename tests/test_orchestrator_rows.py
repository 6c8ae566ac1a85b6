import csv
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from orchestrator import rows


@dataclass(frozen=True)
class Row:
    name: str
    share: float
    sd: float | None
    count: int
    mixed: bool
    runs: tuple[str, ...]


@dataclass(frozen=True)
class Flat:
    name: str
    share: float
    count: int | None


@dataclass(frozen=True)
class Loose:
    name: str | None
    share: float
    count: int | None


ROWS = [
    Row('a, b\n"c"', 0.1 + 0.2, None, 2**53 + 1, True, ("ab", "cd")),
    Row("ü", 5e-324, None, 0, False, ()),
]


def test_csv_keeps_every_digit_and_leaves_missing_values_empty() -> None:
    heading, first, second = csv.reader(rows.as_csv(Row, ROWS).splitlines(keepends=True))
    assert heading == ["name", "share", "sd", "count", "mixed", "runs"]
    assert first == ['a, b\n"c"', "0.30000000000000004", "", "9007199254740993", "true", "ab cd"]
    assert float(second[1]) == 5e-324


def test_json_reads_back_as_the_rows(tmp_path: Path) -> None:
    rows.write(tmp_path / "rows.json", Row, ROWS)
    assert json.loads((tmp_path / "rows.json").read_text()) == [{**asdict(row), "runs": list(row.runs)} for row in ROWS]


def test_json_refuses_what_is_not_a_number() -> None:
    with pytest.raises(ValueError, match="Out of range float"):
        rows.as_json([Row("a", float("nan"), None, 0, False, ())])


def test_parquet_has_the_declared_types_even_for_a_column_of_missing_values(tmp_path: Path) -> None:
    rows.write(tmp_path / "rows.PARQUET", Row, ROWS)
    table = pq.read_table(tmp_path / "rows.PARQUET")
    assert table.schema.types == [
        pa.string(),
        pa.float64(),
        pa.float64(),
        pa.int64(),
        pa.bool_(),
        pa.list_(pa.field("element", pa.string())),
    ]
    assert table.to_pylist() == [{**asdict(row), "runs": list(row.runs)} for row in ROWS]


@pytest.mark.parametrize("ending", rows.FORMATS)
def test_no_rows_still_have_their_columns(ending: str, tmp_path: Path) -> None:
    file = tmp_path / f"rows{ending}"
    rows.write(file, Row, [])
    if ending == ".parquet":
        assert pq.read_table(file).column_names == ["name", "share", "sd", "count", "mixed", "runs"]
    else:
        assert file.read_text() == {".csv": "name,share,sd,count,mixed,runs\n", ".json": "[]\n"}[ending]


def test_parquet_reads_back_as_the_rows_and_equal_rows_are_equal_bytes() -> None:
    flat = [Flat("a", 0.1 + 0.2, None), Flat("ü", 5e-324, 2**53 + 1)]
    content = rows.as_parquet(Flat, flat)
    assert rows.from_parquet(Flat, content, most_rows=2) == tuple(flat)
    assert rows.as_parquet(Flat, list(flat)) == content
    assert rows.from_parquet(Flat, rows.as_parquet(Flat, []), most_rows=0) == ()


def test_parquet_of_other_columns_with_holes_or_too_many_rows_is_refused() -> None:
    content = rows.as_parquet(Flat, [Flat("a", 1.0, None)] * 3)
    with pytest.raises(ValueError, match="it has 3 rows, and 2 are allowed"):
        rows.from_parquet(Flat, content, most_rows=2)
    with pytest.raises(ValueError, match="its columns are others"):
        rows.from_parquet(Row, content, most_rows=3)
    with pytest.raises(ValueError, match="it is no whole Parquet file"):
        rows.from_parquet(Flat, content[:-1], most_rows=3)
    with pytest.raises(ValueError, match="its columns are others"):
        rows.from_parquet(Flat, rows.as_parquet(Loose, [Loose(None, 1.0, None)]), most_rows=3)


def test_another_ending_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"'rows.xlsx' names no format of rows; valid endings: .csv, .parquet, .json"):
        rows.write(tmp_path / "rows.xlsx", Row, ROWS)
    assert list(tmp_path.iterdir()) == []
