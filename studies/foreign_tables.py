"""Tables that others wrote, as cells of text in named columns: CSV and JSON. What they mean is read in external.py."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from studies.architectures import nearest

_DELIMITERS = (",", ";", "\t")


@dataclass(frozen=True)
class ForeignTable:
    """Cells of text by column, as many in each; an empty one is missing."""

    name: str
    """Of the file, for messages."""
    columns: Mapping[str, Sequence[str]]
    lines: Sequence[int]
    """Where each row stands: the line of a CSV, else its number from 1."""
    decimal_comma: bool = False
    """`84,15` is a number in it."""
    says: Mapping[str, str] = field(default_factory=dict)
    """What it says of all its rows, as `vitscale frontier --json` does of its series."""

    def column(self, name: str) -> Sequence[str]:
        """The cells of a column. Raises ValueError with the nearest name that there is."""
        if name not in self.columns:
            raise ValueError(f"{self.name} has no column '{name}'{nearest(name, list(self.columns))}")
        return self.columns[name]

    def where(self, column: str, value: str) -> "ForeignTable":
        """The rows that have this value there. Raises ValueError when none has."""
        kept = [row for row, cell in enumerate(self.column(column)) if cell.strip() == value]
        if not kept:
            values = list(dict.fromkeys(cell.strip() for cell in self.column(column)))
            raise ValueError(f"no row of {self.name} has '{value}' as its {column}{nearest(value, values)}")
        columns = {name: [cells[row] for row in kept] for name, cells in self.columns.items()}
        return replace(self, columns=columns, lines=[self.lines[row] for row in kept])

    def error(self, row: int, column: str, message: str) -> ValueError:
        """What to raise about a cell: file, line and column, then what is wrong."""
        return ValueError(f"{self.name}:{self.lines[row]}: column '{column}': {message}")


def from_csv(text: str, name: str) -> ForeignTable:
    """Read CSV with a heading: cells divided by commas, or by semicolons or tabs where the heading is.

    Empty lines are passed over. Where semicolons divide, numbers may have a decimal comma, as in many countries.
    Raises ValueError for rows of another length, for two columns of one name and for what is no CSV.
    """
    if not text.strip():
        raise ValueError(f"{name} is empty: it needs a heading and rows")
    delimiter = _delimiter(text)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    heading: list[str] = []
    rows: list[list[str]] = []
    lines: list[int] = []
    try:
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            if not heading:
                heading = [cell.strip() for cell in cells]
            elif len(cells) != len(heading):
                raise ValueError(f"{name}:{reader.line_num}: {len(cells)} cells, where the heading has {len(heading)}")
            else:
                rows.append(cells)
                lines.append(reader.line_num)
    except csv.Error as error:
        raise ValueError(f"{name}:{reader.line_num}: no CSV: {error}") from None
    named = [column for column in heading if column]
    twice = next((column for column in named if named.count(column) > 1), None)
    if twice is not None:
        raise ValueError(f"{name} has two columns called '{twice}': give them different names")
    columns = {column: [row[place] for row in rows] for place, column in enumerate(heading) if column}
    return ForeignTable(name, columns, lines, decimal_comma=delimiter == ";")


def _delimiter(text: str) -> str:
    """What divides the first line into the most cells; of equals the first that is tried."""
    first = next(line for line in text.splitlines() if line.strip())
    return max(_DELIMITERS, key=lambda each: len(next(csv.reader([first], delimiter=each))))


def from_json(text: str, name: str) -> ForeignTable:
    """Read a list of objects, or an object that has one as its `points`, as `vitscale frontier --json` prints.

    Numbers keep the digits that they have there. Raises ValueError for anything else.
    """
    try:
        content = json.loads(text, parse_float=str, parse_int=str, parse_constant=str)
    except json.JSONDecodeError as error:
        raise ValueError(f"{name}:{error.lineno}: no JSON: {error.msg}") from None
    except RecursionError:
        raise ValueError(f"{name} is nested too deeply for a table") from None
    says = content if isinstance(content, dict) else {}
    rows = says.get("points") if isinstance(content, dict) else content
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError(f"{name} holds no list of objects, nor an object with one as its 'points'")
    names = dict.fromkeys(column for row in rows for column in row)
    columns = {column: [_cell(row.get(column)) for row in rows] for column in names}
    facts = {key: value for key, value in says.items() if isinstance(value, str)}
    return ForeignTable(name, columns, range(1, len(rows) + 1), says=facts)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value)
