"""What people want of runs: that they stop, come back, or make room. What becomes of it is in `db/ledger.py`."""

from collections.abc import Collection, Sequence

from sqlalchemy import Connection, exists, select, update

from db import dependents, wanting
from db.dialect import AnyRow
from db.tables import TRAININGS, RunRow, SearchRow, SearchState, State, StudyRunRow, Wanted


def cancel(
    connection: Connection, *, study_id: int | None = None, run_ids: Collection[int] | None = None
) -> dict[str, int]:
    """Cancel the runs of a study, or these runs, that are not over. Those of a study that another wants too stay.

    The open searches of the study are cancelled with it, and try nothing more.
    Returns how many were `cancelled` at once and how many are `stopping`: those run, and hear of it with their next
    renewal. What depends on a cancelled run and was not itself cancelled is blocked.
    """
    wanting.lock(connection)
    if run_ids is None:
        _turn_searches(connection, study_id, (SearchState.OPEN,), SearchState.CANCELLED)
    idle = (State.READY, State.WAITING, State.BLOCKED)
    rows = _wanted_runs(connection, study_id, run_ids, (*idle, State.RUNNING), shared=False)
    at_once = [row.id for row in rows if row.state != State.RUNNING]
    running = [row.id for row in rows if row.state == State.RUNNING]
    for chunk in dependents.chunks(at_once):
        connection.execute(update(RunRow).where(RunRow.id.in_(chunk)).values(state=State.CANCELLED, cause=None))
    for chunk in dependents.chunks(running):
        connection.execute(update(RunRow).where(RunRow.id.in_(chunk)).values(wanted=Wanted.STOP, cause=None))
    for row in rows:
        if row.state != State.RUNNING and row.kind in TRAININGS:
            dependents.block(connection, row.id, what="was cancelled")
    return {"cancelled": len(at_once), "stopping": len(running)}


def requeue(connection: Connection, *, study_id: int | None = None, failed: bool = False) -> int:
    """Bring back the cancelled runs of a study or of the store, and with `failed` the failed ones with a new budget.

    Blocked runs whose upstream is no longer failed or cancelled come back too, those that a search gave up do not.
    Searches that were cancelled are open again, and with `failed` those that failed. Returns how many runs were brought
    back.
    """
    wanting.lock(connection)
    _turn_searches(
        connection,
        study_id,
        (SearchState.CANCELLED, *((SearchState.FAILED,) if failed else ())),
        SearchState.OPEN,
    )
    states = (State.CANCELLED, State.BLOCKED, *((State.FAILED,) if failed else ()))
    rows = _wanted_runs(connection, study_id, None, states, shared=True)
    again = {row.id for row in rows}
    for chunk in dependents.chunks([row.id for row in rows if row.state != State.BLOCKED]):
        connection.execute(
            update(RunRow)
            .where(RunRow.id.in_(chunk))
            .values(failures=0, forgiven=RunRow.fence, cause=None, wanted=None, finished_at=None)
        )
    dependents.settle(connection, again)
    _unstop(connection, study_id)
    now = _states(connection, again)
    return sum(now[row.id] in (State.READY, State.WAITING) for row in rows)


def ask_to_yield(connection: Connection, *, study_id: int | None = None) -> int:
    """Ask the running attempts of a study, or all, to save a checkpoint and give their place up. Returns how many."""
    rows = _wanted_runs(connection, study_id, None, (State.RUNNING,), shared=True)
    for chunk in dependents.chunks([row.id for row in rows]):
        connection.execute(
            update(RunRow).where(RunRow.id.in_(chunk), RunRow.wanted.is_(None)).values(wanted=Wanted.YIELD)
        )
    return len(rows)


# -------------------------------------------------------------------------------------------------------------- inside


def _wanted_runs(
    connection: Connection,
    study_id: int | None,
    run_ids: Collection[int] | None,
    states: Sequence[State],
    *,
    shared: bool,
) -> Sequence[AnyRow]:
    """The runs in these states of a study, of a list, or of the store; locked, in the order of their ids.

    shared: also those of the study that another study wants.
    """
    query = select(RunRow.id, RunRow.state, RunRow.kind).where(RunRow.state.in_(states))
    if study_id is not None:
        query = query.where(exists().where(StudyRunRow.run_id == RunRow.id, StudyRunRow.study_id == study_id))
        if not shared:
            query = query.where(~exists().where(StudyRunRow.run_id == RunRow.id, StudyRunRow.study_id != study_id))
    query = query.order_by(RunRow.id).with_for_update()
    if run_ids is None:
        return connection.execute(query).all()
    found: list[AnyRow] = []
    for chunk in dependents.chunks(run_ids):
        found += connection.execute(query.where(RunRow.id.in_(chunk))).all()
    return found


def _turn_searches(
    connection: Connection, study_id: int | None, states: Sequence[SearchState], into: SearchState
) -> None:
    statement = update(SearchRow).where(SearchRow.state.in_(states))
    if study_id is not None:
        statement = statement.where(SearchRow.study_id == study_id)
    connection.execute(statement.values(state=into, cause=None, owner=None, lease_until=None))


def _unstop(connection: Connection, study_id: int | None) -> None:
    """A run that was asked to stop and has not heard it yet goes on."""
    rows = _wanted_runs(connection, study_id, None, (State.RUNNING,), shared=True)
    for chunk in dependents.chunks([row.id for row in rows]):
        connection.execute(update(RunRow).where(RunRow.id.in_(chunk), RunRow.wanted == Wanted.STOP).values(wanted=None))


def _states(connection: Connection, run_ids: Collection[int]) -> dict[int, str]:
    found: dict[int, str] = {}
    for chunk in dependents.chunks(run_ids):
        rows = connection.execute(select(RunRow.id, RunRow.state).where(RunRow.id.in_(chunk)))
        found.update({row.id: row.state for row in rows})
    return found
