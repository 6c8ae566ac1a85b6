"""Puts published or foreign results into the store: which file, which columns, which series they stand in."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from db import answers, external, frontiers
from db.store import Store, StoreMissing, retrying
from orchestrator.lookups import opened_store
from orchestrator.reports import NotFound
from orchestrator.settings import Settings
from studies import metrics, references
from studies.architectures import nearest
from studies.external import COST_FIELDS, UNSTATED, Columns, External, Quantity, SeriesFields, quantity, results_of
from studies.foreign_tables import ForeignTable, from_csv, from_json
from studies.known_sizes import KNOWN_SIZES
from studies.language import NAME
from studies.units import COST_UNITS, COUNT_UNITS, ONES, QUALITY_UNITS

FORMATS = (".csv", ".parquet", ".json")
_FIELDS = ("kind", "metric", "dataset", "split", "image_size")
_DEVICE = "device"
"""What may be set beside the fields of a series: the kind that device time is of."""
_USUAL_KIND = "evaluate"


@dataclass(frozen=True)
class Said:
    """What a command said of a table: columns, each as `COLUMN` or `COLUMN:unit`, and fields of the series."""

    costs: Sequence[str] = ()
    quality: str | None = None
    family: str | None = None
    label: str | None = None
    size: str | None = None
    data: str | None = None
    images: str | None = None
    epochs: str | None = None
    seed: str | None = None
    fields: Mapping[str, str | int] = field(default_factory=dict)
    """Of the series, by name; and `device`, the kind that all device time is of."""
    where: Sequence[tuple[str, str]] = ()
    """Columns, and the value that rows must have there to be taken."""


@dataclass(frozen=True)
class Prepared:
    """Results that were read and checked, and are not stored yet."""

    study: str
    title: str
    source: str
    """With `title`, of the study that is made where there is none."""
    rows: Sequence[External]
    notes: tuple[str, ...] = ()
    """What the user should know about them."""


@dataclass(frozen=True)
class Imported:
    """What an import did, or would do."""

    study: str
    source: str
    rows: int
    """Results that the table holds, each once."""
    new: int
    known: int
    without_value: int
    without_cost: Mapping[str, int]
    """Of each cost axis that the table has: results that cannot stand on it."""
    series: Mapping[SeriesFields, int]
    notes: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            **{name: value for name, value in vars(self).items() if name not in ("series", "notes")},
            "series": [{**asdict(fields), "rows": rows} for fields, rows in self.series.items()],
        }


def import_(settings: Settings, file: str, study: str | None, said: Said, *, dry_run: bool = False) -> Imported:
    """Put the results of a file, or a reference study by its name, into a study, which is made where there is none.

    study: None for the name of the reference. dry_run: only check, also against the store.
    Raises ValueError, with file, line and column where it is about one. Nothing is stored then, not even a store.
    """
    with _store_if_there(settings) as there:
        if file in references.names():
            prepared = prepare_reference(file, study or file, said)
        else:
            prepared = prepare_file(there, file, study, said)
        imported = _would_put(there, prepared)
    if dry_run:
        return imported
    with opened_store(settings, create=True) as store:
        return put(store, prepared)


def prepare_reference(name: str, study: str, said: Said | None = None) -> Prepared:
    """A reference study, to be put into a study.

    said: nothing but the kind of its series, so that they are those of the study's own transfer.
    Raises ValueError for anything else that is said, and when there is no such reference.
    """
    fields = dict(said.fields) if said else {}
    kind = fields.pop("kind", None)
    if said is not None and (fields or replace(said, fields={}) != Said()):
        raise ValueError(f"{name} is a reference study and says itself what its columns mean: only --set kind= is left")
    _check_study(study)
    found = references.reference(name)
    rows = found.rows if kind is None else [replace(row, kind=str(kind)) for row in found.rows]
    return Prepared(study, found.title, found.source, rows)


def prepare_file(store: Store | None, file: str, study: str | None, said: Said) -> Prepared:
    """The results in a file, to be put into a study.

    store: where that study may be; None where there is none.
    Raises ValueError for what is missing, unknown or ambiguous, and as `studies.external.results_of` does.
    """
    path = Path(file)
    if path.suffix.lower() not in FORMATS:
        offered = nearest(file, references.names()) if not path.exists() else ""
        raise ValueError(f"'{file}' is no table of results; valid endings: {', '.join(FORMATS)}{offered}")
    needed = {"study": study, "cost": said.costs, "quality": said.quality, "family": said.family, "label": said.label}
    missing = [f"--{name}" for name, value in needed.items() if not value]
    if missing or study is None:
        raise ValueError(f"{path.name} needs {', '.join(missing)} too: a table does not say what its columns mean")
    _check_study(study)
    table = read(path)
    for column, value in said.where:
        table = table.where(column, value)
    if not table.lines:
        raise ValueError(f"{path} has no rows")
    columns = _columns(table, said)
    given = {name: value for name, value in said.fields.items() if name in _FIELDS}
    fields = _series(_series_of(store, study), study, table, columns, given)
    rows = results_of(table, columns, fields, _device(table, columns, said))
    return Prepared(study, f"Imported: {path.name}", str(path), rows, _notes(fields, rows))


def put(store: Store, prepared: Prepared) -> Imported:
    """Store what was prepared. Raises ValueError where the store has other results of the same."""
    stored = retrying(
        store,
        lambda connection: external.store(
            connection, prepared.study, prepared.rows, title=prepared.title, source=prepared.source
        ),
        seconds=60,
    )
    return _imported(prepared, stored.new)


def remove(store: Store, study: answers.Study, file: str | None) -> int:
    """Take what a file brought out of a study, or all that was imported; how many results that were.

    Raises NotFound, with the nearest file that there is.
    """
    with store.read() as connection:
        files = [each.file for each in external.imports_of(connection, study.id)]
    if not files:
        raise NotFound(f"nothing was imported into {study.name}")
    if file is not None and file not in files:
        raise NotFound(f"nothing in {study.name} is from '{file}'{nearest(file, files)}")
    return retrying(store, lambda connection: external.remove(connection, study.id, file), seconds=60)


@contextmanager
def _store_if_there(settings: Settings) -> Iterator[Store | None]:
    with ExitStack() as stack:
        try:
            store = stack.enter_context(opened_store(settings, create=False))
        except StoreMissing:
            store = None
        yield store


def _would_put(store: Store | None, prepared: Prepared) -> Imported:
    """Raises ValueError where the store has other results of the same."""
    known: set[str] = set()
    if store is not None:
        with store.read() as connection:
            study = answers.study_named(connection, prepared.study)
            if study is not None:
                external.check(connection, study.id, prepared.rows)
                known = {row.key for row in external.rows_of(connection, study.id)}
    return _imported(prepared, sum(row.key not in known for row in prepared.rows))


def _imported(prepared: Prepared, new: int) -> Imported:
    rows = prepared.rows
    costs = {axis: sum(getattr(row, name) is None for row in rows) for axis, name in COST_FIELDS.items()}
    return Imported(
        study=prepared.study,
        source=prepared.source,
        rows=len(rows),
        new=new,
        known=len(rows) - new,
        without_value=sum(row.value is None for row in rows),
        without_cost={axis: count for axis, count in costs.items() if count < len(rows)},
        series=Counter(row.series for row in rows),
        notes=prepared.notes,
    )


def _check_study(name: str) -> None:
    if not re.fullmatch(NAME, name):
        raise ValueError(f"'{name}' is no name of a study: small letters, digits, '-', '.' and '_', at most 64")


# ------------------------------------------------------------------------------------------------------------- meaning


def read_condition(text: str) -> tuple[str, str]:
    """`COLUMN=VALUE`. Raises ValueError for anything else."""
    column, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"'{text}' chooses nothing: write it as in --where metric=accuracy")
    return column.strip(), value.strip()


def _columns(table: ForeignTable, said: Said) -> Columns:
    def counted(text: str | None) -> Quantity | None:
        return None if text is None else quantity(text, table, COUNT_UNITS, ONES)

    assert said.quality is not None
    assert said.family is not None
    assert said.label is not None
    for name in (said.family, said.label, said.epochs, said.seed):
        if name is not None:
            table.column(name)
    costs = tuple(quantity(text, table, COST_UNITS, "flops") for text in said.costs)
    taken = {*said.fields, said.family, said.label, *(cost.column for cost in costs)}
    return Columns(
        costs=costs,
        quality=quantity(said.quality, table, QUALITY_UNITS, "fraction"),
        family=said.family,
        label=said.label,
        size=counted(said.size),
        data=counted(said.data),
        images=counted(said.images),
        epochs=said.epochs,
        seed=said.seed,
        device=_DEVICE if _DEVICE in table.columns and _DEVICE not in taken else None,
    )


def _device(table: ForeignTable, columns: Columns, said: Said) -> str | None:
    """The kind of device that is said of all rows. Raises ValueError where they have no time that it could be of."""
    device = said.fields.get(_DEVICE)
    if device is None:
        return table.says.get(_DEVICE)
    if not any(COST_UNITS[cost.unit].axis == "device-seconds" for cost in columns.costs):
        raise ValueError(f"--set {_DEVICE}={device} says whose time it is: add one, as in --cost COLUMN:device-hours")
    return str(device)


def _series(
    there: Sequence[frontiers.Series],
    study: str,
    table: ForeignTable,
    columns: Columns,
    given: Mapping[str, str | int],
) -> SeriesFields:
    """The series that the results stand in.

    Each field is what was given, or else what the table says of all its rows, or else that of the only series of the
    study that agrees with the others, or else not stated.
    Raises ValueError where rows of the table, or series of the study, differ in a field that was not given.
    """
    fields = {**_said_by(table, columns, given), **given}
    fields.setdefault("metric", metrics.LOSS if columns.quality.unit == "loss" else metrics.ACCURACY)
    fields.setdefault("kind", _USUAL_KIND)
    for name in ("dataset", "split", "image_size"):
        match = [series for series in there if all(getattr(series, each) == fields[each] for each in fields)]
        values = sorted({getattr(series, name) for series in match})
        if name not in fields and len(values) > 1 and name != "image_size":
            listed = ", ".join(map(str, values))
            raise ValueError(f"{study} has results on more than one {name}: say which with --set {name}= ({listed})")
        unstated: str | int = 0 if name == "image_size" else UNSTATED
        fields.setdefault(name, values[0] if len(values) == 1 else unstated)
    return SeriesFields(**fields)  # type: ignore[arg-type]


_LEAST_FLOPS = 1e6
"""Fewer than any training takes: a unit is likely to be missing."""


def _notes(fields: SeriesFields, rows: Sequence[External]) -> tuple[str, ...]:
    """What is allowed, and may not be what was meant."""
    notes = []
    most = max((row.train_flops for row in rows if row.train_flops is not None), default=None)
    if most is not None and most < _LEAST_FLOPS:
        notes.append(f"no training takes {most:g} FLOPs: is a unit missing, as in --cost COLUMN:exaflops?")
    unstated = [name for name in ("dataset", "split") if getattr(fields, name) == UNSTATED]
    if unstated:
        named = ",".join(f"{name}=NAME" for name in unstated)
        notes.append(
            f"{' and '.join(unstated)} are not stated; to stand beside others that are, name them: --set {named}"
        )
    usual = fields.dataset.lower()
    if fields.dataset not in KNOWN_SIZES and usual in KNOWN_SIZES:
        notes.append(f"own results say '{usual}' and not '{fields.dataset}': they will not stand beside these")
    return tuple(notes)


def _said_by(table: ForeignTable, columns: Columns, given: Mapping[str, str | int]) -> dict[str, str | int]:
    """Fields of the series that a table has columns of, or says of all its rows. Raises ValueError for mixed ones."""
    taken = {columns.family, columns.label, columns.epochs, columns.seed}
    said: dict[str, str | int] = {name: value for name, value in table.says.items() if name in _FIELDS}
    for name in ("metric", "dataset", "split", "image_size"):
        if name in given or name in taken or name not in table.columns:
            continue
        values = sorted({cell.strip() for cell in table.columns[name]})
        if len(values) > 1:
            listed = ", ".join(values[:5]) + (", ..." if len(values) > 5 else "")
            raise ValueError(
                f"{table.name} has rows of more than one {name} ({listed}), which are never mixed: take one with "
                f"--where {name}={values[0]}, or say what all are with --set {name}=NAME"
            )
        said[name] = values[0]
    if "image_size" in said:
        said["image_size"] = image_size(str(said["image_size"]))
    return {name: value for name, value in said.items() if value not in ("", None)}


def _series_of(store: Store | None, study: str) -> list[frontiers.Series]:
    if store is None:
        return []
    with store.read() as connection:
        found = answers.study_named(connection, study)
        return [] if found is None else frontiers.series_of(connection, found.id)


def read_fields(texts: Sequence[str]) -> dict[str, str | int]:
    """The fields of `metric=accuracy,dataset=imagenet`. Raises ValueError for others, and for one set twice."""
    fields: dict[str, str | int] = {}
    for pair in (pair for text in texts for pair in text.split(",") if pair.strip()):
        name, equals, value = (part.strip() for part in pair.partition("="))
        if not equals or not value:
            raise ValueError(f"'{pair}' sets nothing: write it as in --set metric=accuracy,dataset=imagenet")
        name = name.replace("-", "_")
        if name not in (*_FIELDS, _DEVICE):
            raise ValueError(f"'{name}' is nothing to set{nearest(name, [*_FIELDS, _DEVICE])}")
        if name in fields:
            raise ValueError(f"{name} is set twice")
        fields[name] = image_size(value) if name == "image_size" else value
    return fields


def image_size(text: str) -> int:
    """Pixels. Raises ValueError for what is no side of an image; 0 is not stated."""
    if not text.isdecimal() or len(text) > 6:
        raise ValueError(f"'{text}' is no side of an image in pixels: write it as in --set image_size=224")
    return int(text)


# --------------------------------------------------------------------------------------------------------------- files


def read(path: Path) -> ForeignTable:
    """A table of results, in the format of the file's ending, one of `FORMATS`. Raises ValueError for faults in it."""
    ending = path.suffix.lower()
    if ending == ".parquet":
        return _from_parquet(path)
    try:
        text = path.read_bytes().decode("utf-8-sig")  # spreadsheets begin with a mark
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: byte {error.start} is not UTF-8 text: save it as CSV UTF-8") from None
    return (from_csv if ending == ".csv" else from_json)(text, str(path))


def _from_parquet(path: Path) -> ForeignTable:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with path.open("rb") as opened, pq.ParquetFile(opened) as file:
            found = file.read()
    except pa.ArrowInvalid as error:
        raise ValueError(f"{path} is no Parquet file: {str(error).splitlines()[0]}") from None
    columns = {}
    for name, column in zip(found.column_names, found.columns, strict=True):
        if name in columns:
            raise ValueError(f"{path} has two columns called '{name}': give them different names")
        columns[name] = _texts(column)
    return ForeignTable(str(path), columns, range(1, found.num_rows + 1))


def _texts(column: Any) -> list[str]:
    """A column's cells as text, each number with the digits that name it in its own precision."""
    import numpy as np
    import pyarrow as pa

    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    cells = column.to_pylist()
    narrow = {pa.float16(): np.float16, pa.float32(): np.float32}.get(column.type)
    if narrow is not None:  # the nearest float64 has sixteen digits, of which half say nothing
        return ["" if cell is None else str(narrow(cell)) for cell in cells]
    return ["" if cell is None else repr(cell) if isinstance(cell, float) else str(cell) for cell in cells]
