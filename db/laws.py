"""Fitted laws, each bound to the exact results that it was fitted on. The fitting is in `studies/laws`."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, select

from db.dialect import insert_new, now_seconds
from db.frontiers import Point
from db.tables import LawRow, table_of
from studies.definitions import canonical_json


@dataclass(frozen=True)
class NewLaw:
    """A law that may go into the store; the fields are explained in `db/tables.py`."""

    key: str
    points_digest: str
    form: str
    family: str | None
    kind: str
    metric: str
    dataset: str
    split: str
    image_size: int
    answer: str
    draws: str


@dataclass(frozen=True)
class Law(NewLaw):
    """A law in the store."""

    fitted_at: float


def store(connection: Connection, study_id: int, law: NewLaw) -> Law:
    """Keep a law, and answer what is kept: of two who fitted the same at once, both get the first one's digits."""
    row = {"study_id": study_id, **vars(law), "fitted_at": connection.execute(select(now_seconds())).scalar_one()}
    insert_new(connection, table_of(LawRow), [row])
    kept = law_of(connection, study_id, law.key)
    assert kept is not None
    return kept


def law_of(connection: Connection, study_id: int, key: str) -> Law | None:
    """The law of this key, if it was fitted."""
    found = _laws(connection, study_id, key)
    return found[0] if found else None


def laws_of(connection: Connection, study_id: int) -> list[Law]:
    """All laws of a study, the last fitted first."""
    return _laws(connection, study_id)


def _laws(connection: Connection, study_id: int, key: str | None = None) -> list[Law]:
    columns = [column for column in table_of(LawRow).c if column.name not in ("id", "study_id")]
    query = select(*columns).where(LawRow.study_id == study_id)
    if key is not None:
        query = query.where(LawRow.key == key)
    rows = connection.execute(query.order_by(LawRow.fitted_at.desc(), LawRow.id.desc()))
    return [Law(**row._mapping) for row in rows]


def points_digest(points: Sequence[Point]) -> str:
    """SHA-256 over all that a law could see of the points: the keys of their runs, costs, values and sizes.

    The order of the points makes no difference. One more seed, another value, another cost make another digest.
    """
    facts = sorted(
        [point.configuration, sorted(point.runs), point.cost, point.value, point.sd]
        + [getattr(point, name, None) for name in ("parameters", "images", "data_rows", "family")]
        for point in points
    )
    return hashlib.sha256(canonical_json(facts).encode()).hexdigest()
