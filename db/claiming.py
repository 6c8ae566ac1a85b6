"""Taking a run: the claim of a run that is ready, by exactly one worker, and the attempt that begins with it.

Each function takes the connection and the caller owns the transaction. A claim whose acknowledgement is lost is made
anew: the run that it took goes to somebody else when its lease is over.
"""

import functools
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Double,
    Integer,
    bindparam,
    case,
    exists,
    func,
    insert,
    literal,
    select,
    update,
)
from sqlalchemy.sql.dml import ReturningUpdate

from db import holding
from db.dialect import AnyRow, now_seconds
from db.tables import AttemptRow, RunRow, State, StudyRunRow, table_of


@dataclass(frozen=True)
class Claim:
    """A run and the right to work on it, for as long as its lease is renewed."""

    run_id: int
    key: str
    kind: str
    definition: str
    fence: int
    checkpoint: str | None
    """To go on from."""
    checkpoint_step: int
    upstream_checkpoint: str | None
    """The trained model that the run stands on; of a training from scratch, the state that it may start from."""
    model: str
    steps: int
    micro_batch: int | None
    """Images of a step on the device at a time; None is all."""
    numerics: str
    """The class that step 0 ran in, or will."""
    sharers: int = 1
    """Runs that the worker does at the same time, this one included: they share its time."""


def claim(
    connection: Connection,
    *,
    owner: str,
    host: str,
    pid: int,
    process_started: float | None,
    lease_seconds: float,
    cpus: int,
    gpus: int,
    study_id: int | None = None,
    device: str,
    numerics: str,
) -> Claim | None:
    """Take the ready run of the lowest priority number, then the lowest id; None when there is none for this place.

    cpus: what the place has; runs that ask for fewer fit too. gpus must be as many as the run asks for.
    study_id: only runs that this study wants.
    numerics: the class of the place; that of step 0 becomes the run's.
    """
    place = {"new_owner": owner, "lease_seconds": lease_seconds, "place_cpus": cpus, "place_gpus": gpus}
    of_study = {} if study_id is None else {"study_id": study_id}
    statement = _claim_statement(study_id is not None)
    run = connection.execute(statement, {**place, **of_study, "place_numerics": numerics}).one_or_none()
    process = {"owner": owner, "host": host, "pid": pid, "process_started": process_started}
    return _attempted(connection, run, **process, device=device, numerics=numerics)


def claim_beside(
    connection: Connection,
    run_id: int,
    *,
    owner: str,
    host: str,
    pid: int,
    process_started: float | None,
    lease_seconds: float,
    device: str,
    numerics: str,
) -> Claim | None:
    """Take this run, for a place that is known to be large enough, beside another; None when it is not ready.

    numerics: as for `claim`, but that of the run in what is trained together.
    """
    place = {"beside_id": run_id, "new_owner": owner, "lease_seconds": lease_seconds, "place_numerics": numerics}
    run = connection.execute(_claim_beside_statement(), place).one_or_none()
    process = {"owner": owner, "host": host, "pid": pid, "process_started": process_started}
    return _attempted(connection, run, **process, device=device, numerics=numerics)


def compute_in(connection: Connection, claimed: Claim, numerics: str) -> Claim:
    """Change the class that a claimed run will be computed in, before it begins; of one that goes on, the attempt's."""
    connection.execute(
        update(AttemptRow)
        .where(AttemptRow.run_id == claimed.run_id, AttemptRow.fence == claimed.fence)
        .values(numerics=numerics)
    )
    if claimed.checkpoint_step:
        return claimed
    holding.change(connection, claimed.run_id, claimed.fence, numerics=numerics)
    return replace(claimed, numerics=numerics)


def _attempted(connection: Connection, run: AnyRow | None, **place: Any) -> Claim | None:
    """The claim of a run that was just taken, its attempt written down. place: columns of the attempt."""
    if run is None:
        return None
    connection.execute(_NEW_ATTEMPT, {"run_id": run.id, "fence": run.fence, "first_step": run.checkpoint_step, **place})
    upstream = None
    if run.upstream_id is not None:
        upstream = connection.execute(_CHECKPOINT, {"of_run": run.upstream_id}).scalar_one()
    return Claim(
        run_id=run.id,
        key=run.key,
        kind=run.kind,
        definition=run.definition,
        fence=run.fence,
        checkpoint=run.checkpoint,
        checkpoint_step=run.checkpoint_step,
        upstream_checkpoint=upstream,
        model=run.model,
        steps=run.steps,
        micro_batch=run.micro_batch,
        numerics=run.numerics,
    )


@functools.cache
def _claim_statement(of_a_study: bool) -> ReturningUpdate[Any]:
    """Made once: it takes longer to put together than to execute."""
    # The state is part of the SQL text and no parameter, or neither database would use the partial index.
    ready = table_of(RunRow).alias("ready").c
    best = select(ready.id).where(
        ready.state == literal(State.READY.value, literal_execute=True),
        ready.cpus <= bindparam("place_cpus"),
        ready.gpus == bindparam("place_gpus"),
    )
    if of_a_study:
        linked = (StudyRunRow.run_id == ready.id) & (StudyRunRow.study_id == bindparam("study_id"))
        best = best.where(exists().where(linked))
    best = best.order_by(ready.priority, ready.id).limit(1).with_for_update(skip_locked=True)
    return _taking(table_of(RunRow).c.id == best.scalar_subquery())


@functools.cache
def _claim_beside_statement() -> ReturningUpdate[Any]:
    run = table_of(RunRow).c
    return _taking((run.id == bindparam("beside_id", type_=Integer())) & (run.state == State.READY))


def _taking(which: ColumnElement[bool]) -> ReturningUpdate[Any]:
    run = table_of(RunRow)
    return (
        update(run)
        .where(which)
        .values(
            state=State.RUNNING,
            owner=bindparam("new_owner"),
            lease_until=now_seconds() + bindparam("lease_seconds", type_=Double()),
            fence=run.c.fence + 1,
            wanted=None,
            step=run.c.checkpoint_step,
            numerics=case(
                (run.c.checkpoint_step == 0, bindparam("place_numerics")),
                else_=func.coalesce(run.c.numerics, bindparam("place_numerics")),
            ),
            started_at=func.coalesce(run.c.started_at, now_seconds()),
        )
        .returning(
            run.c.id,
            run.c.key,
            run.c.kind,
            run.c.definition,
            run.c.fence,
            run.c.checkpoint,
            run.c.checkpoint_step,
            run.c.upstream_id,
            run.c.model,
            run.c.steps,
            run.c.micro_batch,
            run.c.numerics,
        )
    )


# Made once: it takes longer to put together than to execute.
_NEW_ATTEMPT = insert(table_of(AttemptRow)).values(started_at=now_seconds())
_RUN = table_of(RunRow)
_CHECKPOINT = select(_RUN.c.checkpoint).where(_RUN.c.id == bindparam("of_run", type_=Integer()))
