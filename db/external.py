"""Imported results: into a study, beside its own, and out again. The points that follow from them are in points.py."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from sqlalchemy import Connection, delete, func, select

from db import points
from db.dialect import AnyRow, insert_new, now_seconds
from db.tables import ExternalRow, LawRow, PointRow, SeriesRow, StudyRow, StudyRunRow, table_of
from db.wanting import chunks
from studies.external import SAID, External, SeriesFields

_MAY_BE_UNKNOWN = ("parameters", "data_rows", "epochs", "images")


class Stored(NamedTuple):
    """Imported results in the store: how many were new, and how many were there before."""

    study_id: int
    new: int
    known: int


@dataclass(frozen=True)
class Import:
    """What one file brought into a study."""

    study: str
    file: str
    rows: int
    series: tuple[SeriesFields, ...]
    imported_at: float
    """By the first of its rows."""


def store(connection: Connection, study: str, rows: Sequence[External], *, title: str, source: str) -> Stored:
    """Put results beside those of a study, which is made where there is none of this name.

    title, source: of a study that is made.
    Raises ValueError, and stores nothing, as `check` does.
    """
    made = {"name": study, "title": title, "source": source, "shows": "", "text": "", "file": ""}
    submitted_at = connection.execute(select(now_seconds())).scalar_one()
    insert_new(connection, table_of(StudyRow), [{**made, "submitted_at": submitted_at}])
    # Locked: of two who import at once, the second checks against what the first has stored.
    study_id = connection.execute(select(StudyRow.id).where(StudyRow.name == study).with_for_update()).scalar_one()
    check(connection, study_id, rows)
    before = _count(connection, study_id)
    insert_new(connection, table_of(ExternalRow), [_as_row(study_id, row, submitted_at) for row in rows])
    points.refresh(connection, study_id)
    new = _count(connection, study_id) - before
    return Stored(study_id, new, len(rows) - new)


def check(connection: Connection, study_id: int, rows: Sequence[External]) -> None:
    """Raise ValueError where a result contradicts a stored one: the same of all that both say but value and costs.

    A network may have several costs: what was stored is contradicted only where the new rows do not repeat it.
    """
    said = {row.key for row in rows}
    others: dict[tuple[Any, ...], list[External]] = defaultdict(list)
    known: set[str] = set()
    for stored in rows_of(connection, study_id):
        known.add(stored.key)
        if stored.key not in said:
            others[_who(stored)].append(stored)
    for row in rows:
        if row.key in known:
            continue
        for other in others[_who(row)]:
            if _may_be_the_same(row, other):
                study = connection.execute(select(StudyRow.name).where(StudyRow.id == study_id)).scalar_one()
                raise ValueError(
                    f"{row.place} says {row.says} of '{row.model}' ({row.metric} on {row.dataset} {row.split}), but "
                    f"{other.place} in the store says {other.says}: take that out first with: vitscale results remove "
                    f"{study} --source {_file_of(other.place)}"
                )


def rows_of(connection: Connection, study_id: int) -> list[External]:
    """The imported results of a study, as they came in."""
    columns = [table_of(ExternalRow).c[name] for name in ("configuration", "source", *SAID)]
    query = select(*columns).where(ExternalRow.study_id == study_id).order_by(ExternalRow.id)
    found = []
    for row in connection.execute(query):
        said = External(place=row.source, **{name: getattr(row, name) for name in SAID})
        found.append(said if said.configuration == row.configuration else replace(said, has_seeds=True))
    return found


def imports_of(connection: Connection, study_id: int | None = None) -> list[Import]:
    """What was imported from where: into one study, or into any; by the names of studies, the first import first."""
    names = ("kind", "metric", "dataset", "split", "image_size")
    columns = [table_of(ExternalRow).c[name] for name in names]
    query = (
        select(StudyRow.name, ExternalRow.source, ExternalRow.imported_at, *columns)
        .join(ExternalRow, ExternalRow.study_id == StudyRow.id)
        .order_by(ExternalRow.id)
    )
    if study_id is not None:
        query = query.where(StudyRow.id == study_id)
    found: dict[tuple[str, str], list[AnyRow]] = defaultdict(list)
    for row in connection.execute(query):
        found[row.name, _file_of(row.source)].append(row)
    imports = [
        Import(
            study=study,
            file=file,
            rows=len(rows),
            series=tuple(dict.fromkeys(SeriesFields(*(getattr(row, name) for name in names)) for row in rows)),
            imported_at=rows[0].imported_at,
        )
        for (study, file), rows in found.items()
    ]
    return sorted(imports, key=lambda each: each.study)


def remove(connection: Connection, study_id: int, file: str | None = None) -> int:
    """Take what one file brought, or all that was imported, out of a study; how many results that were.

    A study that an import made goes with its last result, and laws that were fitted in it.
    """
    connection.execute(select(StudyRow.id).where(StudyRow.id == study_id).with_for_update())
    query = select(ExternalRow.id, ExternalRow.source).where(ExternalRow.study_id == study_id)
    ids = [row.id for row in connection.execute(query) if file is None or _file_of(row.source) == file]
    for chunk in chunks(ids):
        connection.execute(delete(ExternalRow).where(ExternalRow.id.in_(chunk)))
    points.refresh(connection, study_id)
    if ids and not _count(connection, study_id):
        _drop_if_made_here(connection, study_id)
    return len(ids)


def _drop_if_made_here(connection: Connection, study_id: int) -> None:
    was_submitted = connection.execute(select(StudyRow.text).where(StudyRow.id == study_id)).scalar_one()
    linked = connection.execute(select(func.count()).where(StudyRunRow.study_id == study_id)).scalar_one()
    if was_submitted or linked:
        return
    series = select(SeriesRow.id).where(SeriesRow.study_id == study_id)
    connection.execute(delete(PointRow).where(PointRow.series_id.in_(series)))
    for row in (SeriesRow, LawRow):
        connection.execute(delete(row).where(row.study_id == study_id))
    connection.execute(delete(StudyRow).where(StudyRow.id == study_id))


def _as_row(study_id: int, row: External, imported_at: float) -> dict[str, Any]:
    said = {name: getattr(row, name) for name in SAID}
    names = {"key": row.key, "configuration": row.configuration, "training": row.training}
    return {"study_id": study_id, **names, "source": row.place, **said, "imported_at": imported_at}


def _who(row: External) -> tuple[Any, ...]:
    return (row.series, row.family, row.model, row.seed)


def _may_be_the_same(row: External, other: External) -> bool:
    """Whether nothing that both say tells them apart: one of them may have been read with fewer columns."""
    pairs = ((getattr(row, name), getattr(other, name)) for name in _MAY_BE_UNKNOWN)
    return all(here is None or there is None or here == there for here, there in pairs)


def _file_of(place: str) -> str:
    return place.rpartition(":")[0]


def _count(connection: Connection, study_id: int) -> int:
    return connection.execute(select(func.count()).where(ExternalRow.study_id == study_id)).scalar_one()
