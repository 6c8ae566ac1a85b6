"""Puts a study into the store: its runs once by their keys, its links to them, its searches and its points."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from sqlalchemy import Connection, bindparam, delete, func, select, update

from db import dependents, points, wanting
from db.dialect import AnyRow, insert_new, now_seconds, upsert
from db.tables import RunRow, SearchRow, SearchState, State, StudyRow, StudyRunRow, table_of
from db.wanting import Asked
from studies.definitions import canonical_json
from studies.planned import PlannedRun
from studies.searches import PlannedSearch

_ADDED_LATER = ("trial", "final")
"""The roles of runs that searches add by and by."""


class Submitted(NamedTuple):
    """A study in the store, and how many of its runs were new, known before, and of the known ones done."""

    study_id: int
    new: int
    known: int
    done: int


def submit(
    connection: Connection,
    *,
    name: str,
    title: str,
    source: str,
    shows: str,
    text: str,
    file: str,
    planned: Sequence[PlannedRun],
    searches: Sequence[PlannedSearch] = (),
    cpus: int,
    gpus: int,
    priority: int,
    micro_batch: int | None = None,
    together: bool = False,
) -> Submitted:
    """Store a study, the runs that it wants, in the order given, and its searches.

    Of a known study the new lists replace the old. Known runs keep what they reached. Those that are not at work or
    over take the new resources and the more urgent priority, and those that were cancelled or given up by a search come
    back. Runs that the study no longer wants stay where they are. Known searches keep their state and the runs that
    they added; the others vanish together with their links to runs. Trunks that no unfinished run starts from are
    left out.

    text: the YAML. cpus, gpus: of each run. priority: the lowest number goes first.
    micro_batch: images of a step on the device at a time; None is all. A run with a checkpoint keeps its own.
    together: trials of its searches that differ only in their rates may be trained as one program.
    Raises ValueError when a run or a search stands on a run that is neither planned before it nor in the store.
    """
    asked = Asked(cpus, gpus, priority, micro_batch)
    wanting.lock(connection)
    unique = wanting.unique(planned)
    known = wanting.rows_of(connection, list(unique))
    wanted = _without_idle_trunks(unique, known)
    trunks = _trunks_above(connection, [known[key] for key in wanted.keys() & known.keys()])
    added = _added_before(connection, name)
    stored = wanting.store(connection, wanted, asked, beside=[*trunks, *added])
    idle = wanting.want_again(connection, [*stored.unfinished, *wanting.states_of(connection, trunks)], asked)
    dependents.settle(connection, [*idle, *stored.new_ids])

    submitted_at = connection.execute(select(now_seconds())).scalar_one()
    fields = {"title": title, "source": source, "shows": shows, "text": text, "file": file}
    study = {"name": name, **fields, "submitted_at": submitted_at}
    upsert(connection, table_of(StudyRow), [study], unique=("name",))
    study_id = connection.execute(select(StudyRow.id).where(StudyRow.name == name)).scalar_one()
    _replace_searches(connection, study_id, name, {search.key: search for search in searches}, asked, together)
    kept = _replace_links(connection, study_id, wanted, stored, trunks)
    rows = wanting.states_of(connection, kept)
    dependents.settle(connection, wanting.want_again(connection, rows, asked, given_up=False))
    points.refresh(connection, study_id)
    done = sum(row.state == State.DONE for row in stored.rows.values())
    return Submitted(study_id=study_id, new=len(stored.new), known=len(wanted) - len(stored.new), done=done)


# -------------------------------------------------------------------------------------------------------------- trunks


def _without_idle_trunks(planned: Mapping[str, PlannedRun], known: Mapping[str, AnyRow]) -> dict[str, PlannedRun]:
    """The runs, without the trunks that nothing will start from.

    A run that is done needs its trunk no more, and one that was stored without a trunk goes on without.
    """
    needed: set[str] = set()
    for key, run in reversed(list(planned.items())):  # a trunk is planned before what starts from it
        row = known.get(key)
        starts_from_it = row is None or (row.state != State.DONE and row.upstream_id is not None)
        if run.upstream is not None and starts_from_it and (run.role != "trunk" or key in needed):
            needed.add(run.upstream)
    return {key: run for key, run in planned.items() if run.role != "trunk" or key in needed}


def _trunks_above(connection: Connection, known: Sequence[AnyRow]) -> list[int]:
    """What these trainings start from, directly or not, and is not done: they may stand on trunks that this study has
    not planned, and the one that has may be cancelled, or have no driver. Ids, without those of the trainings.
    """
    among = {row.id for row in known}
    above = {row.upstream_id for row in known if row.kind == "train" and row.state != State.DONE} - {None} - among
    found: set[int] = set()
    while above:
        rows: list[AnyRow] = []
        for chunk in dependents.chunks(above):
            query = select(RunRow.id, RunRow.upstream_id).where(RunRow.id.in_(chunk), RunRow.state != State.DONE)
            rows += connection.execute(query).all()
        found |= {row.id for row in rows}
        above = {row.upstream_id for row in rows} - {None} - among - found
    return sorted(found)


# ------------------------------------------------------------------------------------------------------------ searches


def _added_before(connection: Connection, study: str) -> list[int]:
    """Ids of the runs that searches of a study have added to it."""
    query = (
        select(StudyRunRow.run_id)
        .join(StudyRow, StudyRow.id == StudyRunRow.study_id)
        .where(StudyRow.name == study, StudyRunRow.role.in_(_ADDED_LATER))
    )
    return list(connection.execute(query).scalars())


def _replace_searches(
    connection: Connection,
    study_id: int,
    study: str,
    searches: Mapping[str, PlannedSearch],
    asked: Asked,
    together: bool,
) -> None:
    """Make these the searches of a study, in the order given. Known ones keep their state, but cancelled ones open."""
    upstreams = wanting.rows_of(connection, sorted({search.search.upstream for search in searches.values()}))
    for search in searches.values():
        if search.search.upstream not in upstreams:
            raise ValueError(
                f"the search {search.label} stands on run {search.search.upstream[:12]}, which is neither planned nor "
                "in the store"
            )
    of_study = SearchRow.study_id == study_id
    known = connection.execute(select(SearchRow.id, SearchRow.key).where(of_study)).all()
    for chunk in dependents.chunks([row.id for row in known if row.key not in searches]):
        connection.execute(delete(SearchRow).where(SearchRow.id.in_(chunk)))
    rows = [
        {
            "study_id": study_id,
            "key": key,
            "upstream_id": upstreams[search.search.upstream].id,
            "position": position,
            "transfer": search.transfer,
            "definition": canonical_json(search.search.model_dump(mode="json")),
            "together": together,
            **asked._asdict(),
        }
        for position, (key, search) in enumerate(searches.items())
    ]
    there = {row.key for row in known}
    new = [
        {**row, "optuna_study": f"{study}/{row['transfer']}/{searches[row['key']].label}/{row['key'][:12]}"}
        for row in rows
        if row["key"] not in there
    ]
    insert_new(connection, table_of(SearchRow), [{**row, "state": SearchState.OPEN} for row in new])
    changed = [{f"new_{name}": value for name, value in row.items()} for row in rows if row["key"] in there]
    if changed:
        table = table_of(SearchRow)
        names = ("position", "transfer", "cpus", "gpus", "priority", "micro_batch", "together")
        connection.execute(
            update(table)
            .where(table.c.study_id == bindparam("new_study_id"), table.c.key == bindparam("new_key"))
            .values({name: bindparam(f"new_{name}") for name in names}),
            changed,
        )
    connection.execute(
        update(SearchRow).where(of_study, SearchRow.state == SearchState.CANCELLED).values(state=SearchState.OPEN)
    )


# --------------------------------------------------------------------------------------------------------------- links


def _replace_links(
    connection: Connection,
    study_id: int,
    planned: Mapping[str, PlannedRun],
    stored: wanting.Stored,
    trunks: Sequence[int],
) -> list[int]:
    """Link a study to these runs in the order given, then to what its searches added, then to trunks of other studies.

    Returns the ids of what its searches added.
    """
    of_study = StudyRunRow.study_id == study_id
    searched = select(SearchRow.key).where(SearchRow.study_id == study_id)
    is_added = StudyRunRow.role.in_(_ADDED_LATER) & StudyRunRow.sweep.in_(searched)
    connection.execute(delete(StudyRunRow).where(of_study, ~func.coalesce(is_added, False)))
    for chunk in dependents.chunks([row.id for row in stored.rows.values()]):
        connection.execute(delete(StudyRunRow).where(of_study, StudyRunRow.run_id.in_(chunk)))
    first = connection.execute(select(func.min(StudyRunRow.position)).where(of_study)).scalar()
    if first is not None:
        transfer = (
            select(SearchRow.transfer)
            .where(SearchRow.study_id == StudyRunRow.study_id, SearchRow.key == StudyRunRow.sweep)
            .scalar_subquery()
        )
        moved = StudyRunRow.position + (len(planned) - first)
        connection.execute(update(StudyRunRow).where(of_study).values(position=moved, transfer=transfer))
    wanting.link(connection, study_id, planned, stored.rows)
    last = connection.execute(select(func.max(StudyRunRow.position)).where(of_study)).scalar()
    rows = [
        {"study_id": study_id, "run_id": run_id, "position": position, "role": "trunk"}
        for position, run_id in enumerate(trunks, 0 if last is None else last + 1)
    ]
    insert_new(connection, table_of(StudyRunRow), rows)
    added = select(StudyRunRow.run_id).where(of_study, StudyRunRow.role.in_(_ADDED_LATER))
    return list(connection.execute(added).scalars())
