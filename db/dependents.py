"""What a run's fate does to the runs that depend on it.

Rows are locked in the order of their ids wherever several are, and an upstream always has the lower one: two
transactions then never wait for each other.
"""

from collections.abc import Collection, Iterator, Sequence

from sqlalchemy import Connection, bindparam, func, select, update

from db.tables import TRAININGS, RunRow, State, table_of

_UNLOCK = (
    update(table_of(RunRow))
    .where(RunRow.upstream_id == bindparam("of_run"), RunRow.state.in_([State.WAITING, State.BLOCKED]))
    .values(state=State.READY, cause=None)
)
_CHUNK = 10_000
"""Ids in one statement: SQLite takes 32,766 values, PostgreSQL 65,535."""


def chunks(ids: Collection[int]) -> Iterator[Sequence[int]]:
    """The ids in ascending order, in pieces that fit one statement."""
    ordered = sorted(ids)
    for start in range(0, len(ordered), _CHUNK):
        yield ordered[start : start + _CHUNK]


def unlock(connection: Connection, run_id: int) -> None:
    """A run is done: what waited for it is ready."""
    connection.execute(_UNLOCK, {"of_run": run_id})


def block(connection: Connection, run_id: int, *, what: str) -> int:
    """A run will not be done for now: all that waits for it, directly or not, is blocked. Returns how many runs are.

    what: the end of the sentence "its training 0123456789ab ...".
    """
    upstream = connection.execute(select(RunRow.key, RunRow.kind).where(RunRow.id == run_id)).one()
    noun = "training" if upstream.kind in TRAININGS else "upstream run"
    below = (
        select(RunRow.id)
        .where(RunRow.upstream_id == run_id, RunRow.state.in_([State.WAITING, State.READY]))
        .cte("below", recursive=True)
    )
    below = below.union_all(
        select(RunRow.id)
        .join(below, RunRow.upstream_id == below.c.id)
        .where(RunRow.state.in_([State.WAITING, State.READY]))
    )
    blocked = connection.execute(
        update(RunRow)
        .where(RunRow.id.in_(select(below.c.id)))
        .values(state=State.BLOCKED, cause=f"its {noun} {upstream.key[:12]} {what}")
    )
    return blocked.rowcount


def settle(connection: Connection, run_ids: Collection[int]) -> None:
    """Give each of these runs the state that its upstream's state allows: ready, waiting or blocked.

    The runs have no other claim on their state: they are new, wanted again, or were blocked.
    """
    rows = {}
    parent = table_of(RunRow).alias("parent")
    for chunk in chunks(run_ids):
        found = connection.execute(
            select(
                RunRow.id,
                RunRow.state,
                RunRow.cause,
                RunRow.upstream_id,
                parent.c.key,
                parent.c.kind,
                parent.c.state.label("upstream_state"),
                parent.c.cause.label("upstream_cause"),
            )
            .outerjoin(parent, parent.c.id == RunRow.upstream_id)
            .where(RunRow.id.in_(chunk))
            .order_by(RunRow.id)
        )
        rows.update({row.id: row for row in found})

    state: dict[int, State] = {}
    changed = []
    for run_id, row in rows.items():  # an upstream has the lower id, so it is settled before what depends on it
        upstream = None if row.upstream_id is None else state.get(row.upstream_id, State(row.upstream_state))
        cause = None
        if upstream is None or upstream is State.DONE:
            state[run_id] = State.READY
        elif upstream in (State.FAILED, State.BLOCKED, State.CANCELLED, State.PRUNED):
            state[run_id] = State.BLOCKED
            noun = "training" if row.kind in TRAININGS else "upstream run"
            why = f": {row.upstream_cause}" if row.upstream_cause else ""
            cause = f"its {noun} {row.key[:12]} is {upstream}{why}"
        else:
            state[run_id] = State.WAITING
        if (row.state, row.cause) != (state[run_id], cause):
            changed.append({"of": run_id, "to": state[run_id], "because": cause})
    if changed:
        table = table_of(RunRow)
        connection.execute(
            update(table)
            .where(table.c.id == bindparam("of"))
            .values(state=bindparam("to"), cause=bindparam("because"), wanted=None),
            changed,
        )


def lock(connection: Connection, run_ids: Collection[int]) -> None:
    """Keep others from changing these runs until the transaction ends. SQLite's write transactions do so anyway."""
    if connection.dialect.name != "postgresql":
        return
    for chunk in chunks(run_ids):
        locked = select(RunRow.id).where(RunRow.id.in_(chunk)).order_by(RunRow.id).with_for_update().subquery()
        connection.execute(select(func.count()).select_from(locked))
