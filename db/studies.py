"""Puts a study into the store: its runs once by their keys, its links to them, and its points."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection, bindparam, case, delete, func, insert, select, update

from db import dependents, points
from db.dialect import AnyRow, insert_new, now_seconds, upsert
from db.tables import RunRow, State, StudyRow, StudyRunRow, Wanted, table_of
from studies.planned import PlannedRun

_LOCK = 0x7669747375
"""Of PostgreSQL's advisory locks, the one that a submission holds: "vitsu" in ASCII."""
_CHUNK = 1_000


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
    cpus: int,
    gpus: int,
    priority: int,
    micro_batch: int | None = None,
) -> Submitted:
    """Store a study and the runs that it wants, in the order given; of a known study, the new list replaces the old.

    Known runs keep what they reached. Those that are not at work or over take the new resources and the more urgent
    priority, and those that were cancelled come back. Runs that the study no longer wants stay where they are.

    text: the YAML. cpus, gpus: of each run. priority: the lowest number goes first.
    micro_batch: images of a step on the device at a time; None is all. A run with a checkpoint keeps its own.
    Raises ValueError when a run stands on one that is neither planned before it nor in the store.
    """
    if connection.dialect.name == "postgresql":
        # Two submissions that share runs would insert them in different orders and wait for each other for ever.
        connection.execute(select(func.pg_advisory_xact_lock(_LOCK)))
    unique = {run.key: run for run in planned}
    known = _rows(connection, list(unique))
    new = {key: run for key, run in unique.items() if key not in known}
    upstream_keys = {run.upstream for run in unique.values() if run.upstream is not None} - unique.keys()
    absent = upstream_keys - _rows(connection, list(upstream_keys)).keys()
    if absent:
        raise ValueError(f"run {min(absent)[:12]} is needed by a planned run, but is neither planned nor in the store")

    created_at = connection.execute(select(now_seconds())).scalar_one()
    insert_new(
        connection,
        table_of(RunRow),
        [
            {
                **_columns(run),
                "cpus": cpus,
                "gpus": gpus,
                "priority": priority,
                "micro_batch": micro_batch,
                "created_at": created_at,
            }
            for run in new.values()
        ],
    )
    # From here to the end of the transaction nobody else changes these runs: a result that is committed meanwhile would
    # find no link from this study, and the points made below would not find it.
    runs = _rows(connection, list(unique))
    dependents.lock(connection, [row.id for row in runs.values()])
    runs = _rows(connection, list(unique))
    ids = {key: row.id for key, row in runs.items()}
    _link_upstreams(connection, list(new.values()), {**ids, **_ids(connection, list(upstream_keys))})
    known_ids = [row.id for key, row in runs.items() if key not in new and row.state != State.DONE]
    _want_again(connection, known_ids, cpus=cpus, gpus=gpus, priority=priority, micro_batch=micro_batch)
    idle = (State.WAITING, State.BLOCKED, State.CANCELLED)
    dependents.settle(connection, [row.id for row in runs.values() if row.state in idle])

    fields = {"title": title, "source": source, "shows": shows, "text": text, "file": file}
    study = {"name": name, **fields, "submitted_at": created_at}
    upsert(connection, table_of(StudyRow), [study], unique=("name",))
    study_id = connection.execute(select(StudyRow.id).where(StudyRow.name == name)).scalar_one()
    connection.execute(delete(StudyRunRow).where(StudyRunRow.study_id == study_id))
    links = [
        {
            "study_id": study_id,
            "run_id": ids[key],
            "position": position,
            "sweep": run.sweep,
            "searched": run.searched,
        }
        for position, (key, run) in enumerate(unique.items())
    ]
    if links:
        connection.execute(insert(StudyRunRow), links)
    points.refresh(connection, study_id)
    done = sum(row.state == State.DONE for row in runs.values())
    return Submitted(study_id=study_id, new=len(new), known=len(unique) - len(new), done=done)


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
        "data_rows": run.training.data.rows,
        "epochs": run.epochs,
        "steps": run.steps,
        "parameters": run.parameters,
        "flops": run.flops,
        "train_flops": run.train_flops,
        "images": run.images,
        "state": State.READY if run.upstream is None else State.WAITING,
    }


def _rows(connection: Connection, keys: Sequence[str]) -> dict[str, AnyRow]:
    found: dict[str, AnyRow] = {}
    for chunk in _chunks(keys):
        rows = connection.execute(select(RunRow.key, RunRow.id, RunRow.state).where(RunRow.key.in_(chunk)))
        found.update({row.key: row for row in rows})
    return found


def _ids(connection: Connection, keys: Sequence[str]) -> dict[str, int]:
    return {key: row.id for key, row in _rows(connection, keys).items()}


def _link_upstreams(connection: Connection, new: Sequence[PlannedRun], ids: dict[str, int]) -> None:
    links = [{"of": ids[run.key], "stands_on": ids[run.upstream]} for run in new if run.upstream is not None]
    for link in links:
        if link["stands_on"] > link["of"]:
            raise ValueError("a run is planned before the run that it stands on")
    if links:
        table = table_of(RunRow)
        connection.execute(
            update(table).where(table.c.id == bindparam("of")).values(upstream_id=bindparam("stands_on")), links
        )


def _want_again(
    connection: Connection, run_ids: Sequence[int], *, cpus: int, gpus: int, priority: int, micro_batch: int | None
) -> None:
    running = RunRow.state == State.RUNNING
    begun = running | RunRow.checkpoint.is_not(None)
    for chunk in dependents.chunks(run_ids):
        connection.execute(
            update(RunRow)
            .where(RunRow.id.in_(chunk))
            .values(
                cpus=case((running, RunRow.cpus), else_=cpus),
                gpus=case((running, RunRow.gpus), else_=gpus),
                micro_batch=case((begun, RunRow.micro_batch), else_=micro_batch),
                priority=case((RunRow.priority < priority, RunRow.priority), else_=priority),
                wanted=case((RunRow.wanted == Wanted.STOP, None), else_=RunRow.wanted),
            )
        )


def _chunks(keys: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(keys), _CHUNK):
        yield keys[start : start + _CHUNK]
