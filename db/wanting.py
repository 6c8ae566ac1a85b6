"""Puts planned runs into the ledger, once by their keys, and writes down that a study wants them."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection, bindparam, case, func, select, update

from db import dependents
from db.dialect import AnyRow, insert_new, now_seconds
from db.tables import RunRow, State, StudyRunRow, Wanted, table_of
from studies.planned import PlannedRun

_LOCK = 0x7669747375
"""Of PostgreSQL's advisory locks, the one that whoever adds runs to studies holds: "vitsu" in ASCII."""
_CHUNK = 1_000


class Asked(NamedTuple):
    """What each run of a study asks for."""

    cpus: int
    gpus: int
    priority: int
    """The lowest number goes first."""
    micro_batch: int | None
    """Images of a step on the device at a time; None is all. A run with a checkpoint keeps its own."""


class Stored(NamedTuple):
    """Planned runs in the ledger."""

    rows: Mapping[str, AnyRow]
    """id, key, kind, state, configuration and upstream_id of each by its key, as they were found."""
    new: Collection[str]
    """Keys of those that were not there before."""

    @property
    def new_ids(self) -> list[int]:
        """Of these the ids: their states are not settled yet."""
        return [self.rows[key].id for key in self.new]

    @property
    def unfinished(self) -> list[AnyRow]:
        """Those that were there and are not done."""
        return [row for key, row in self.rows.items() if key not in self.new and row.state != State.DONE]


def lock(connection: Connection) -> None:
    """Keep others from adding runs to studies until the transaction ends. SQLite's write transactions do so anyway.

    Two submissions that share runs would insert them in different orders and wait for each other for ever.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(select(func.pg_advisory_xact_lock(_LOCK)))


def unique(planned: Iterable[PlannedRun]) -> dict[str, PlannedRun]:
    """The runs by their keys, in the order given. One that a cell of the study names is nobody's trunk alone."""
    runs: dict[str, PlannedRun] = {}
    for run in planned:
        if run.key not in runs or runs[run.key].role == "trunk":
            runs[run.key] = run
    return runs


def store(
    connection: Connection, planned: Mapping[str, PlannedRun], asked: Asked, *, beside: Collection[int] = ()
) -> Stored:
    """Insert the runs that are not in the ledger yet, in the order given. `lock` is held.

    beside: ids of other runs that will be changed in this transaction. All are locked at once, as `db/dependents.py`
    asks for.
    From here to the end of the transaction nobody else changes these runs: a result that is committed meanwhile would
    find no link from the study, and the points made after this would not find it.
    Raises ValueError when a run stands on one that is neither planned before it nor in the store.
    """
    known = rows_of(connection, list(planned))
    new = {key: run for key, run in planned.items() if key not in known}
    above = {run.upstream for run in new.values() if run.upstream is not None} - planned.keys()
    found_above = rows_of(connection, list(above))
    absent = above - found_above.keys()
    if absent:
        raise ValueError(f"run {min(absent)[:12]} is needed by a planned run, but is neither planned nor in the store")
    created_at = connection.execute(select(now_seconds())).scalar_one()
    rows = [{**_columns(run), **asked._asdict(), "created_at": created_at} for run in new.values()]
    insert_new(connection, table_of(RunRow), rows)
    dependents.lock(connection, {*beside, *(row.id for row in rows_of(connection, list(planned)).values())})
    found = rows_of(connection, list(planned))
    _link_upstreams(connection, list(new.values()), {**found_above, **found})
    return Stored({key: found[key] for key in planned}, new.keys())


def want_again(connection: Connection, rows: Iterable[AnyRow], asked: Asked, *, given_up: bool = True) -> list[int]:
    """Give known runs that are not at work what the study asks for, and let those go on that were to stop.

    rows: `id` and `state`, as they are since the runs were locked. Of two priorities the more urgent one stays.
    given_up: also those that a search gives up.
    Returns those that are idle, for `dependents.settle`, which is to see all that may stand on each other at once.
    """
    states = {row.id: row.state for row in rows if row.state != State.DONE}
    running = RunRow.state == State.RUNNING
    begun = running | RunRow.checkpoint.is_not(None)
    dropped = RunRow.wanted.in_([Wanted.STOP, *([Wanted.PRUNE] if given_up else [])])
    for chunk in dependents.chunks(states):
        connection.execute(
            update(RunRow)
            .where(RunRow.id.in_(chunk))
            .values(
                cpus=case((running, RunRow.cpus), else_=asked.cpus),
                gpus=case((running, RunRow.gpus), else_=asked.gpus),
                micro_batch=case((begun, RunRow.micro_batch), else_=asked.micro_batch),
                priority=case((RunRow.priority < asked.priority, RunRow.priority), else_=asked.priority),
                cause=case((running & dropped, None), else_=RunRow.cause),
                wanted=case((dropped, None), else_=RunRow.wanted),
            )
        )
    idle = {State.WAITING, State.BLOCKED, State.CANCELLED, *([State.PRUNED] if given_up else [])}
    return [run_id for run_id, state in states.items() if state in idle]


def link(
    connection: Connection,
    study_id: int,
    planned: Mapping[str, PlannedRun],
    rows: Mapping[str, AnyRow],
    first_position: int = 0,
) -> None:
    """Write down that a study wants these runs, in the order given. What it wants already stays as it is."""
    links = [
        {
            "study_id": study_id,
            "run_id": rows[key].id,
            "position": position,
            "sweep": run.sweep,
            "searched": run.searched,
            "role": run.role,
            "transfer": run.transfer,
        }
        for position, (key, run) in enumerate(planned.items(), first_position)
    ]
    insert_new(connection, table_of(StudyRunRow), links)


def rows_of(connection: Connection, keys: Sequence[str]) -> dict[str, AnyRow]:
    """id, key, kind, state, configuration and upstream_id of each of these runs that is in the ledger, by its key."""
    found: dict[str, AnyRow] = {}
    columns = (RunRow.key, RunRow.id, RunRow.kind, RunRow.state, RunRow.configuration, RunRow.upstream_id)
    for chunk in chunks(keys):
        found.update({row.key: row for row in connection.execute(select(*columns).where(RunRow.key.in_(chunk)))})
    return found


def states_of(connection: Connection, run_ids: Collection[int]) -> list[AnyRow]:
    """id and state of each of these runs, in the order of the ids."""
    rows: list[AnyRow] = []
    for chunk in dependents.chunks(run_ids):
        query = select(RunRow.id, RunRow.state).where(RunRow.id.in_(chunk)).order_by(RunRow.id)
        rows += connection.execute(query).all()
    return rows


def chunks(keys: Sequence[str]) -> Iterator[Sequence[str]]:
    """The keys in pieces that fit one statement."""
    for start in range(0, len(keys), _CHUNK):
        yield keys[start : start + _CHUNK]


def _columns(run: PlannedRun) -> dict[str, Any]:
    data = run.run.data
    return {
        "key": run.key,
        "kind": run.run.kind,
        "configuration": run.configuration,
        "definition": run.definition,
        "model": run.model,
        "family": run.family,
        "seed": run.training.seed,
        "dataset": data.name,
        "split": data.split,
        "image_size": run.run.image_size,
        "data_rows": run.root.data.rows,
        "epochs": run.epochs,
        "steps": run.steps,
        "parameters": run.parameters,
        "flops": run.flops,
        "train_flops": run.train_flops,
        "images": run.images,
        "state": State.READY if run.upstream is None else State.WAITING,
    }


def _link_upstreams(connection: Connection, new: Sequence[PlannedRun], rows: Mapping[str, AnyRow]) -> None:
    links = [{"of": rows[run.key].id, "stands_on": rows[run.upstream].id} for run in new if run.upstream is not None]
    for each in links:
        if each["stands_on"] > each["of"]:
            raise ValueError("a run is planned before the run that it stands on")
    if links:
        table = table_of(RunRow)
        connection.execute(
            update(table).where(table.c.id == bindparam("of")).values(upstream_id=bindparam("stands_on")), links
        )
