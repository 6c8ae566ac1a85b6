"""Results of others, checked and in our units: what each row of a foreign table says, and what names it in a store.

Reading files is elsewhere (foreign_tables.py, orchestrator/results_import.py), and so is storing (db/external.py).
"""

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from decimal import Decimal
from functools import cached_property, partial
from typing import Any
from unicodedata import category

from studies import metrics, units
from studies.definitions import canonical_json
from studies.foreign_tables import ForeignTable
from studies.units import COST_UNITS, COUNT_UNITS, ONES, QUALITY_UNITS, Unit

COST_FIELDS = {
    "flops": "train_flops",
    "device-seconds": "device_seconds",
    "images": "images",
    "parameters": "parameters",
    "forward-flops": "forward_flops",
    "money": "money",
}
"""The field that holds each cost axis."""
UNSTATED = "unstated"
"""The data set or split of results whose table names none."""
_MOST = 2**63 - 1
_MEASURED = ("device_seconds", "money")


@dataclass(frozen=True)
class SeriesFields:
    """What results must share to be compared."""

    kind: str
    """Of the runs that would have measured it; for a fine-tuned network the name of the transfer."""
    metric: str
    dataset: str
    split: str
    image_size: int
    """0 where it is not stated."""


@dataclass(frozen=True)
class Quantity:
    """A column of numbers, and the name of their unit."""

    column: str
    unit: str


@dataclass(frozen=True)
class Columns:
    """Which column of a table says what."""

    costs: tuple[Quantity, ...]
    """At most one of each axis."""
    quality: Quantity
    family: str
    label: str
    size: Quantity | None = None
    """Parameters."""
    data: Quantity | None = None
    """Distinct training images."""
    images: Quantity | None = None
    """Training images seen, repeats counted. Where it is missing: epochs times `data`."""
    epochs: str | None = None
    seed: str | None = None
    device: str | None = None
    """The kind of device that a row's time is of; empty where nobody says."""


@dataclass(frozen=True)
class External:
    """A result that was published or measured elsewhere; the fields are explained in `db/tables.py`."""

    place: str
    """Of its row, as `table6.csv:7`."""
    kind: str
    metric: str
    dataset: str
    split: str
    image_size: int
    family: str
    model: str
    seed: int
    value: float | None
    train_flops: float | None
    device_seconds: float | None
    money: float | None
    images: float | None
    forward_flops: float | None
    parameters: int | None
    data_rows: int | None
    epochs: float | None
    has_seeds: bool = False
    """Its table has a column of seeds: rows that differ in seed and measured cost are replicates."""
    device: str | None = None

    @cached_property
    def key(self) -> str:
        """SHA-256 of what it says, wherever it is said."""
        said = {name: getattr(self, name) for name in SAID}
        return _digest({name: value for name, value in said.items() if name != "device" or value is not None})

    @cached_property
    def configuration(self) -> str:
        """Shared by its seeds."""
        return _digest({**self._network(), **vars(self.series), "forward_flops": self.forward_flops})

    @property
    def training(self) -> str:
        """Shared by its seeds, and by its results in other series."""
        return _digest(self._network())

    @property
    def series(self) -> SeriesFields:
        """The series that it stands in."""
        return SeriesFields(self.kind, self.metric, self.dataset, self.split, self.image_size)

    @property
    def says(self) -> str:
        """For messages: value and cost."""
        costs = {axis: getattr(self, name) for axis, name in COST_FIELDS.items()}
        on = {"device-seconds": f" on {self.device}"} if self.device else {}
        named = ", ".join(f"{cost!r} {axis}{on.get(axis, '')}" for axis, cost in costs.items() if cost is not None)
        return f"{'no finite number' if self.value is None else self.value!r}" + (f" at {named}" if named else "")

    def _network(self) -> dict[str, Any]:
        names = ["family", "model", "parameters", "data_rows", "epochs", "images", "train_flops"]
        # Seeds do not take the same time; without seeds another time is another network.
        names += [] if self.has_seeds else _MEASURED
        # What is not said leaves digests what they were before it could be.
        names += ["device"] if self.device is not None and not self.has_seeds else []
        return {name: getattr(self, name) for name in names}


SAID = tuple(field.name for field in fields(External) if field.name not in ("place", "has_seeds"))
"""The fields that make a result what it is, wherever it is said."""


def _digest(value: Mapping[str, Any]) -> str:
    return hashlib.sha256(canonical_json({"external": dict(value)}).encode()).hexdigest()


def quantity(text: str, table: ForeignTable, known: Mapping[str, Unit] | Sequence[str], default: str) -> Quantity:
    """`COLUMN` or `COLUMN:unit`; a column may have colons in its name.

    Raises ValueError for a column that the table does not have and for what is no unit.
    """
    column, colon, unit = text.rpartition(":")
    if not colon or text in table.columns:
        table.column(text)
        return Quantity(text, default)
    table.column(column)
    if isinstance(known, Mapping):
        return Quantity(column, units.unit_named(unit, known).name)
    if unit not in known:
        raise ValueError(f"'{unit}' is no unit of a quality; valid: {', '.join(known)}")
    return Quantity(column, unit)


def check_metric(metric: str, unit: str) -> None:
    """Raise ValueError where a metric makes no series, or is not what the unit says that it is."""
    if metrics.is_of_one_support_seed(metric):
        raise ValueError(f"'{metric}' is of one support seed and stands on no frontier: take the mean over them")
    is_loss = metrics.direction(metric) < 0
    if is_loss and unit != "loss":
        raise ValueError(f"of {metric} less is better: say --quality COLUMN:loss, or name another --set metric=")
    if not is_loss and unit == "loss":
        raise ValueError(f"{metric} is no loss: say --set metric={metrics.LOSS}, or another unit than loss")


# ---------------------------------------------------------------------------------------------------------------- rows


def results_of(
    table: ForeignTable, columns: Columns, series: SeriesFields, device: str | None = None
) -> list[External]:
    """What the rows of a table say. All of them are checked: either all can be had, or none.

    device: the kind that all device time is of, where no column says it of each row.

    A value that is missing or not finite is None, and so is a cost that is missing, not finite, zero or negative. A row
    that is there twice is one result.
    Raises ValueError with file, line and column for a text that is no number, for a share beyond [0, 1], for what looks
    like fractions where percent are said, for an empty label or family, for counts that are not whole or not positive,
    and for two rows that say different things of the same.
    """
    check_metric(series.metric, columns.quality.unit)
    for text in (series.kind, series.dataset, series.split, *([] if device is None else [device])):
        _text(text)
    found = _counts(table, columns)
    _add_costs(found, table, columns)
    for name, column in {"family": columns.family, "model": columns.label}.items():
        found[name] = _column(table, column, _text, plain=True)
    found["value"] = _values(table, columns.quality)
    found["seed"] = [0] * len(table.lines) if columns.seed is None else _column(table, columns.seed, _seed)
    found["device"] = _devices(table, columns, found.get("device_seconds"), device)
    unknown = [None] * len(table.lines)
    shared = {**asdict(series), "has_seeds": columns.seed is not None}
    cells = {name: found.get(name, unknown) for name in SAID if name not in shared}
    rows = [
        External(place=f"{table.name}:{line}", **shared, **dict(zip(cells, row, strict=True)))
        for line, *row in zip(table.lines, *cells.values(), strict=True)
    ]
    return _once(rows)


def _counts(table: ForeignTable, columns: Columns) -> dict[str, list[Any]]:
    """The fields that are no costs of their own, where the table has them."""
    fields: dict[str, list[Any]] = {}
    for name, count in {"parameters": columns.size, "data_rows": columns.data}.items():
        if count is not None:
            size = COUNT_UNITS[count.unit].size
            fields[name] = _column(table, count.column, partial(_count, size=size))
    if columns.images is not None:
        size = COUNT_UNITS[columns.images.unit].size
        fields["images"] = _column(table, columns.images.column, partial(_positive, size=size))
    if columns.epochs is not None:
        fields["epochs"] = _column(table, columns.epochs, partial(_positive, size=Decimal(1)))
    return fields


def _add_costs(fields: dict[str, list[Any]], table: ForeignTable, columns: Columns) -> None:
    """Raises ValueError where two columns say one thing."""
    for cost in columns.costs:
        unit = COST_UNITS[cost.unit]
        name = COST_FIELDS[unit.axis]
        if name in fields:
            raise ValueError(
                f"'{cost.column}' is the second column that says {unit.axis} of each row: name one of them"
            )
        fields[name] = _column(table, cost.column, partial(_cost, unit=unit, whole=name == "parameters"))
    if "images" not in fields and {"epochs", "data_rows"} <= fields.keys():
        fields["images"] = [_product(*both) for both in zip(fields["epochs"], fields["data_rows"], strict=True)]


def _devices(
    table: ForeignTable, columns: Columns, times: Sequence[float | None] | None, device: str | None
) -> list[str | None]:
    """The kind of device that the time of each row is of; None where it has no time, or nobody says."""
    if times is None:
        return [None] * len(table.lines)
    kinds = [device] * len(times)
    if columns.device is not None:
        kinds = _column(table, columns.device, lambda cell: _text(cell) if cell.strip() else None, plain=True)
    return [None if time is None else kind for time, kind in zip(times, kinds, strict=True)]


def _column(table: ForeignTable, column: str, read: Callable[[Any], Any], *, plain: bool = False) -> list[Any]:
    """A column's cells as `read` takes them: numbers, or with `plain` text. What it raises gets its place."""
    found = []
    for row, cell in enumerate(table.column(column)):
        try:
            found.append(read(cell if plain else units.number(cell, decimal_comma=table.decimal_comma)))
        except ValueError as error:
            raise table.error(row, column, str(error)) from None
    return found


def _text(cell: str) -> str:
    if not cell.strip():
        raise ValueError("is empty: every row needs one")
    if any(category(letter) in ("Cc", "Cs") for letter in cell.strip()):  # PostgreSQL refuses some of them
        raise ValueError(f"{cell!r} has a character that is no text: take it out")
    return cell.strip()


def _cost(number: Decimal | None, unit: Unit, whole: bool) -> float | int | None:
    if number is None or not number.is_finite() or number <= 0:
        return None
    if whole:
        return _count(number, unit.size)
    cost = float(units.scaled(number, unit.size))
    return cost if math.isfinite(cost) and cost > 0 else None


def _count(number: Decimal | None, size: Decimal) -> int | None:
    positive = _positive(number, size)
    if number is None or positive is None:
        return None
    count = units.scaled(number, size)
    if count != count.to_integral_value() or count > _MOST:
        raise ValueError(f"{number} stands for {count:f}, which is no whole number that could be counted")
    return int(count)


def _positive(number: Decimal | None, size: Decimal) -> float | None:
    if number is None:
        return None
    value = float(units.scaled(number, size))
    if not math.isfinite(value) or value <= 0:
        raise ValueError(f"{number} is not positive: leave the cell empty where the number is not known")
    return value


def _seed(number: Decimal | None) -> int:
    if number is None or not number.is_finite() or number != number.to_integral_value() or abs(number) > _MOST:
        raise ValueError("is no seed: every row needs a whole number")
    return int(number)


def _product(epochs: float | None, rows: int | None) -> float | None:
    return None if epochs is None or rows is None else epochs * rows


# -------------------------------------------------------------------------------------------------------------- values


def _values(table: ForeignTable, quality: Quantity) -> list[float | None]:
    cells = table.column(quality.column)
    if quality.unit.endswith("percent"):
        cells = [cell.strip().removesuffix("%") for cell in cells]
    taken: list[Decimal] = []

    def value(number: Decimal | None) -> float | None:
        if number is None or not number.is_finite():
            return None
        _check_range(number, quality)
        taken.append(number)
        return float(number if quality.unit == "loss" else units.accuracy(number, quality.unit))

    values = _column(_with(table, quality.column, cells), quality.column, value)
    # Errors of less than a percent are common, accuracies are not.
    if quality.unit == "percent" and taken and 0 < max(taken) <= 1:
        raise ValueError(
            f"{table.name}: column '{quality.column}': no value is above 1, so these are fractions, not percent: "
            f"say --quality {quality.column}:fraction"
        )
    return values


def _with(table: ForeignTable, column: str, cells: Sequence[str]) -> ForeignTable:
    return ForeignTable(table.name, {**table.columns, column: cells}, table.lines, table.decimal_comma, table.says)


def _check_range(number: Decimal, quality: Quantity) -> None:
    most = {"percent": 100, "error-percent": 100, "loss": None}.get(quality.unit, 1)
    if number < 0:
        raise ValueError(f"{number} is below 0, which no {'loss' if quality.unit == 'loss' else 'share'} is")
    if most is not None and number > most:
        cures = {"fraction": "percent", "error": "error-percent"}
        due = "where a fraction is due" if most == 1 else "more than everything"
        cure = f": say --quality {quality.column}:{cures[quality.unit]}" if most == 1 and number <= 100 else ""
        raise ValueError(f"{number} is above {most}, {due}{cure}")


def _once(rows: Sequence[External]) -> list[External]:
    """Each result once. Raises ValueError where two differ only in what they say of the same seed."""
    found: dict[tuple[str, int], External] = {}
    for row in rows:
        first = found.setdefault((row.configuration, row.seed), row)
        if first is not row and first.key != row.key:
            cure = "give them different seeds" if row.has_seeds else "name a --seed column if they are replicates"
            raise ValueError(
                f"{row.place} says {row.says} of '{row.model}', of which {first.place} says {first.says}: {cure}, "
                "or tell them apart by --epochs, --data or --size"
            )
    return list(found.values())


__all__ = [
    "COST_FIELDS",
    "ONES",
    "QUALITY_UNITS",
    "SAID",
    "UNSTATED",
    "Columns",
    "External",
    "Quantity",
    "SeriesFields",
    "check_metric",
    "quantity",
    "results_of",
]
