"""What of a capsule belongs to its study alone: name, links to runs, searches, imported results and laws."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from sqlalchemy import Connection, func, select, update

from db import external
from db.dialect import AnyRow, insert_new
from db.exported import SearchRecord, StudyRecord, StudyTables
from db.tables import ExternalRow, LawRow, SearchRow, SearchState, StudyRow, StudyRunRow, table_of

_CHOICE = ("chosen", "development", "edge", "extended", "trials")


def check_name(connection: Connection, name: str, record: StudyRecord) -> None:
    """Raise ValueError when the store has another study of this name: one with another text."""
    text = connection.execute(select(StudyRow.text).where(StudyRow.name == name)).scalar_one_or_none()
    if text is not None and text != record.text:
        raise ValueError(f"the store has another study '{name}', with another text: import this one with --as NAME")


def store(connection: Connection, capsule: StudyTables, name: str, here: Mapping[str, AnyRow]) -> tuple[int, bool, int]:
    """Make the study what both stores together know of it; one that is here keeps what it has.

    here: the runs of the capsule in this store, by key.
    Returns its id, whether it is new, and how many links, searches, choices, imported results and laws were not here.
    Raises ValueError where an imported result contradicts one that is here.
    """
    (record,) = capsule.study
    known = select(StudyRow.id).where(StudyRow.name == name)
    is_new = connection.execute(known).scalar_one_or_none() is None
    insert_new(connection, table_of(StudyRow), [{**asdict(record), "name": name}])
    study_id = connection.execute(known.with_for_update()).scalar_one()
    added = _link(connection, study_id, capsule, here)
    added += _add_searches(connection, study_id, capsule, name, here)
    external.check(connection, study_id, [each.said for each in capsule.external])
    for row, records in ((ExternalRow, capsule.external), (LawRow, capsule.laws)):
        there = set(connection.execute(select(row.key).where(row.study_id == study_id)).scalars())
        new: list[dict[str, Any]] = [asdict(each) for each in records if each.key not in there]
        insert_new(connection, table_of(row), [{"study_id": study_id, **each} for each in new])
        added += len(new)
    return study_id, is_new, added


def _link(connection: Connection, study_id: int, capsule: StudyTables, here: Mapping[str, AnyRow]) -> int:
    """Link the study to the runs that it is not linked to, after those that it is."""
    of_study = StudyRunRow.study_id == study_id
    there = set(connection.execute(select(StudyRunRow.run_id).where(of_study)).scalars())
    last = connection.execute(select(func.max(StudyRunRow.position)).where(of_study)).scalar()
    missing = [link for link in capsule.links if here[link.key].id not in there]
    rows = []
    for number, link in enumerate(missing):
        columns = asdict(link)
        del columns["key"]
        position = link.position if last is None else last + 1 + number
        rows.append({**columns, "study_id": study_id, "run_id": here[link.key].id, "position": position})
    insert_new(connection, table_of(StudyRunRow), rows)
    return len(rows)


def _add_searches(
    connection: Connection, study_id: int, capsule: StudyTables, name: str, here: Mapping[str, AnyRow]
) -> int:
    """Searches that are not here come as they are, open ones cancelled; undecided ones take the choice."""
    of_study = SearchRow.study_id == study_id
    states = {row.key: row.state for row in connection.execute(select(SearchRow.key, SearchRow.state).where(of_study))}
    missing = [search for search in capsule.searches if search.key not in states]
    rows = [_search_columns(search, capsule.study[0].name, name) for search in missing]
    for search, row in zip(missing, rows, strict=True):
        row |= {"study_id": study_id, "upstream_id": here[search.upstream].id}
    insert_new(connection, table_of(SearchRow), rows)
    decided = [
        search
        for search in capsule.searches
        if search.state == SearchState.DECIDED and states.get(search.key, SearchState.DECIDED) != SearchState.DECIDED
    ]
    for search in decided:
        choice = {field: getattr(search, field) for field in _CHOICE}
        connection.execute(
            update(SearchRow)
            .where(of_study, SearchRow.key == search.key)
            .values(state=SearchState.DECIDED, cause=None, owner=None, lease_until=None, **choice)
        )
    return len(missing) + len(decided)


def _search_columns(search: SearchRecord, old_name: str, name: str) -> dict[str, Any]:
    """Its Optuna study is named after the study that it belongs to."""
    columns = asdict(search)
    del columns["upstream"]
    if search.optuna_study.startswith(f"{old_name}/"):
        columns["optuna_study"] = name + search.optuna_study.removeprefix(old_name)
    if search.state == SearchState.OPEN:
        columns["state"] = SearchState.CANCELLED
    return columns
