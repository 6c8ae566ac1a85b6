"""The life of a run: claimed, renewed, and ended by exactly one attempt. Nothing here is lost or done twice.

A run that is done stays done. A search that gives a run up while an attempt is at work says so in the run's row: from
then on no result of it is taken, and whatever way the attempt ends, the run is pruned.

Each function takes the connection and the caller owns the transaction. Each may be executed again after a lost
acknowledgement: the second time it changes nothing and answers as the first, except `claim`, whose first run then goes
to somebody else when its lease is over.
"""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, Protocol

from sqlalchemy import (
    BigInteger,
    BindParameter,
    Boolean,
    ColumnElement,
    Connection,
    Double,
    Integer,
    String,
    Text,
    bindparam,
    case,
    exists,
    func,
    insert,
    literal,
    or_,
    select,
    update,
)
from sqlalchemy.sql.dml import ReturningUpdate

from db import dependents, points
from db.dialect import AnyRow, insert_new, now_seconds
from db.tables import (
    TRAININGS,
    AttemptRow,
    MeasurementRow,
    Outcome,
    ResultRow,
    RunRow,
    State,
    StudyRunRow,
    Wanted,
    table_of,
)

FINAL_AT_ONCE = (Outcome.USER_ERROR, Outcome.NOT_FINITE)
"""A repeat would fail in the same way."""
DEATHS_WITHOUT_PROGRESS = 5
"""As many deaths in a row at one checkpoint step are final: something in the run kills its process."""

_WISHES: dict[str | None, Literal["continue", "yield", "stop", "prune"]] = {
    None: "continue",
    Wanted.YIELD: "yield",
    Wanted.STOP: "stop",
    Wanted.PRUNE: "prune",
}
_OUTCOMES: dict[str | None, Outcome] = {Wanted.STOP: Outcome.CANCELLED, Wanted.PRUNE: Outcome.PRUNED}
"""How an attempt ends that hears of a wish to give up."""

Measurement = tuple[int, str, float | None]
"""step, metric, value; a value that is no finite number is kept as NULL."""


class ResultValue(Protocol):
    """What an attempt hands in as a final value."""

    @property
    def metric(self) -> str:
        """As `studies.metrics` names it."""

    @property
    def dataset(self) -> str:
        """What was classified."""

    @property
    def split(self) -> str:
        """Of that data set."""

    @property
    def image_size(self) -> int:
        """In pixels."""

    @property
    def value(self) -> float | None:
        """None or not finite: both are kept as NULL."""


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


class LiveAttempt(NamedTuple):
    """An attempt that should be at work."""

    run_id: int
    fence: int
    owner: str
    host: str
    pid: int
    process_started: float | None
    is_over: bool
    """Its lease is over by the database's clock."""


# ------------------------------------------------------------------------------------------------------ while it runs


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
    _hold(connection, claimed.run_id, claimed.fence, numerics=numerics)
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


def renew(
    connection: Connection,
    *,
    run_id: int,
    fence: int,
    lease_seconds: float,
    step: int,
    measurements: Sequence[Measurement] = (),
) -> Literal["continue", "yield", "stop", "prune", "lost"]:
    """Prolong the lease, say how far the run is, and hear what is wanted of it.

    A lease that is over is prolonged too, if nobody has taken the run. `lost`: it belongs to somebody else by now,
    nothing was stored, and the attempt's row says so.
    """
    held = connection.execute(
        update(RunRow)
        .where(RunRow.id == run_id, RunRow.fence == fence, RunRow.state == State.RUNNING)
        .values(lease_until=now_seconds() + lease_seconds, step=case((RunRow.step < step, step), else_=RunRow.step))
        .returning(RunRow.wanted)
    ).one_or_none()
    if held is None:
        _refuse(connection, run_id, fence)
        return "lost"
    _measure(connection, run_id, measurements)
    return _WISHES[held.wanted]


def record_checkpoint(connection: Connection, *, run_id: int, fence: int, checkpoint: str, step: int) -> bool:
    """Make a complete checkpoint the run's current one. False when the run is lost: the old one stays."""
    held = _hold(
        connection,
        run_id,
        fence,
        checkpoint=checkpoint,
        checkpoint_step=step,
        step=case((RunRow.step < step, step), else_=RunRow.step),
    )
    return held or _refuse(connection, run_id, fence)


# --------------------------------------------------------------------------------------------------------- how it ends


def commit(
    connection: Connection,
    *,
    run_id: int,
    fence: int,
    values: Sequence[ResultValue],
    checkpoint: str | None,
    step: int,
    mixed_numerics: bool = False,
    data_digest: str | None = None,
    data_skipped: int | None = None,
    measurements: Sequence[Measurement] = (),
    sharers: int = 1,
) -> bool:
    """Store the results of a run, which is done with that; make ready what waited for it; move its points.

    data_digest, data_skipped: the certificate of the images that it read.
    sharers: runs that the worker did at the same time; each counts its share of the time.
    A lease that is over does no harm as long as nobody took the run. False: somebody did, or a search gave the run up
    before, which then is pruned; nothing was stored.
    """
    reached = {"reached_step": step, "new_checkpoint": checkpoint, "is_mixed": mixed_numerics}
    read = {"new_digest": data_digest, "new_skipped": data_skipped}
    which = {"of_run": run_id, "of_fence": fence, "of_sharers": sharers}
    run = connection.execute(_DONE, {**which, **reached, **read}).one_or_none()
    if run is None:
        if _release_pruned(connection, run_id, fence, step, sharers):
            return False
        return _outcome(connection, run_id, fence) == Outcome.DONE or _refuse(connection, run_id, fence)
    results = [
        {
            "run_id": run_id,
            "metric": value.metric,
            "dataset": value.dataset,
            "split": value.split,
            "image_size": value.image_size,
            "value": _finite(value.value),
        }
        for value in values
    ]
    if results:
        connection.execute(_NEW_RESULTS, results)
    _measure(connection, run_id, measurements)
    _end_attempt(connection, run_id, fence, outcome=Outcome.DONE, step=step)
    dependents.unlock(connection, run_id)
    if run.kind not in TRAININGS:
        for study_id in connection.execute(_WANTED_BY, {"of_run": run_id}).scalars().all():
            points.refresh(connection, study_id, run.configuration)
    return True


def fail(
    connection: Connection,
    *,
    run_id: int,
    fence: int,
    outcome: Outcome | str,
    error: str,
    traceback: str | None,
    step: int,
    measurements: Sequence[Measurement] = (),
    sharers: int = 1,
    failure_budget: int = 2,
) -> Literal["ready", "failed", "cancelled", "pruned", "lost"]:
    """End an attempt that made an error; the answer is the run's state after it.

    The run is failed, and what depends on it blocked, when the outcome is final by nature, when there were more
    failures than the budget, or when the last attempt that failed had the same error at the same step.
    """
    outcome = Outcome(outcome)
    run = _held(connection, run_id, fence)
    if run is None:
        return _state_after(connection, run_id, fence, outcome)
    _measure(connection, run_id, measurements)
    before = connection.execute(
        select(AttemptRow.error, AttemptRow.last_step)
        .where(
            AttemptRow.run_id == run_id,
            AttemptRow.fence < fence,
            AttemptRow.fence > run.forgiven,
            AttemptRow.error.is_not(None),
        )
        .order_by(AttemptRow.fence.desc())
        .limit(1)
    ).one_or_none()
    again = before is not None and (before.error, before.last_step) == (error, step)
    _end_attempt(connection, run_id, fence, outcome=outcome, step=step, error=error, traceback=traceback)
    if run.wanted == Wanted.PRUNE:
        return _put_back(connection, run, fence, sharers)
    what = f"{outcome} at step {step}: {_one_line(error)}"
    if outcome in FINAL_AT_ONCE:
        return _give_up(connection, run_id, fence, what, sharers)
    if again:
        return _give_up(connection, run_id, fence, f"{what} (twice the same)", sharers)
    if run.failures + 1 > failure_budget:
        what = f"{what} (failure {run.failures + 1} of {failure_budget} allowed)"
        return _give_up(connection, run_id, fence, what, sharers)
    return _put_back(connection, run, fence, sharers, failures=RunRow.failures + 1)


def release(
    connection: Connection,
    *,
    run_id: int,
    fence: int,
    outcome: Outcome | str = Outcome.PREEMPTED,
    step: int,
    sharers: int = 1,
) -> Literal["ready", "cancelled", "pruned", "lost"]:
    """End an attempt that made no error: its run is ready, or cancelled or pruned if that was wanted."""
    run = _held(connection, run_id, fence)
    if run is None:
        after = _state_after(connection, run_id, fence, Outcome(outcome))
        return "ready" if after == "failed" else after
    _end_attempt(connection, run_id, fence, outcome=_OUTCOMES.get(run.wanted, Outcome(outcome)), step=step)
    return _put_back(connection, run, fence, sharers, preemptions=RunRow.preemptions + 1)


def declare_dead(
    connection: Connection, *, run_id: int, fence: int, reason: str
) -> Literal["ready", "failed", "cancelled", "pruned", "lost"]:
    """Who can know says that the attempt's process is gone. The run is ready again, at no cost to its budget.

    But the fifth death in a row without a new checkpoint is final. The answer is the run's state after it.
    """
    run = _held(connection, run_id, fence)
    if run is None:
        return _state_after(connection, run_id, fence, Outcome.DIED)
    _end_attempt(connection, run_id, fence, outcome=Outcome.DIED, step=run.step, reason=reason)
    deaths = _deaths_without_progress(connection, run, fence)
    if deaths >= DEATHS_WITHOUT_PROGRESS and run.wanted not in _OUTCOMES:
        what = f"died {deaths} times at step {run.checkpoint_step} without a trace; likely killed for memory"
        return _give_up(connection, run_id, fence, what)
    return _put_back(connection, run, fence)


def reap(connection: Connection) -> list[tuple[str, int]]:
    """Declare dead every attempt whose lease is over by the database's clock. Returns their runs' keys and fences."""
    over = connection.execute(
        select(RunRow.id, RunRow.key, RunRow.fence)
        .where(RunRow.state == literal(State.RUNNING.value, literal_execute=True), RunRow.lease_until < now_seconds())
        .order_by(RunRow.id)
        .with_for_update(skip_locked=True)
    ).all()
    for run in over:
        declare_dead(connection, run_id=run.id, fence=run.fence, reason="its lease ran out")
    return [(run.key, run.fence) for run in over]


def live_attempts(connection: Connection) -> list[LiveAttempt]:
    """The attempts that should be at work: one whose process is gone is dead. Only reads."""
    rows = connection.execute(
        select(
            AttemptRow.run_id,
            AttemptRow.fence,
            AttemptRow.owner,
            AttemptRow.host,
            AttemptRow.pid,
            AttemptRow.process_started,
            (RunRow.lease_until < now_seconds()).label("is_over"),
        )
        .join(RunRow, (RunRow.id == AttemptRow.run_id) & (RunRow.fence == AttemptRow.fence))
        .where(RunRow.state == literal(State.RUNNING.value, literal_execute=True))
        .order_by(AttemptRow.run_id)
    )
    return [LiveAttempt(*row) for row in rows]


# -------------------------------------------------------------------------------------------------------------- inside


def _hold(connection: Connection, run_id: int, fence: int, **values: Any) -> bool:
    """Change a run that is still the attempt's own. False, and nothing changed, when it is not."""
    changed = connection.execute(
        update(RunRow).where(RunRow.id == run_id, RunRow.fence == fence, RunRow.state == State.RUNNING).values(**values)
    )
    return changed.rowcount == 1


def _held(connection: Connection, run_id: int, fence: int) -> AnyRow | None:
    """The run, locked, if it is still the attempt's own."""
    return connection.execute(
        select(RunRow.id, RunRow.failures, RunRow.forgiven, RunRow.wanted, RunRow.step, RunRow.checkpoint_step)
        .where(RunRow.id == run_id, RunRow.fence == fence, RunRow.state == State.RUNNING)
        .with_for_update()
    ).one_or_none()


def _outcome(connection: Connection, run_id: int, fence: int) -> str | None:
    return connection.execute(
        select(AttemptRow.outcome).where(AttemptRow.run_id == run_id, AttemptRow.fence == fence)
    ).scalar()


def _refuse(connection: Connection, run_id: int, fence: int) -> Literal[False]:
    """Record on an attempt that a write of it came too late, unless it had ended by itself."""
    ended_by_others = or_(AttemptRow.outcome.is_(None), AttemptRow.outcome.in_([Outcome.DIED, Outcome.LOST]))
    connection.execute(
        update(AttemptRow)
        .where(AttemptRow.run_id == run_id, AttemptRow.fence == fence, ended_by_others)
        .values(
            refused_at=func.coalesce(AttemptRow.refused_at, now_seconds()),
            outcome=Outcome.LOST,
            ended_at=func.coalesce(AttemptRow.ended_at, now_seconds()),
        )
    )
    return False


def _state_after(
    connection: Connection, run_id: int, fence: int, outcome: Outcome
) -> Literal["ready", "failed", "cancelled", "pruned", "lost"]:
    """The answer to an ending that finds the run gone: the same as before if it is a repeat, else `lost`."""
    found = _outcome(connection, run_id, fence)
    if found == Outcome.CANCELLED:
        return "cancelled"
    if found == Outcome.PRUNED:
        return "pruned"
    if found == outcome:
        run = connection.execute(select(RunRow.state, RunRow.fence).where(RunRow.id == run_id)).one()
        ended: dict[str, Literal["failed", "cancelled", "pruned"]] = {
            State.FAILED: "failed",
            State.CANCELLED: "cancelled",
            State.PRUNED: "pruned",
        }
        return ended.get(run.state, "ready") if run.fence == fence else "ready"
    if outcome != Outcome.DIED:  # hearsay about an attempt is no write of it
        _refuse(connection, run_id, fence)
    return "lost"


def _worked(
    run_id: int | BindParameter[int], fence: int | BindParameter[int], sharers: int | BindParameter[float] = 1
) -> dict[str, Any]:
    """The columns of a run that the end of any attempt changes."""
    since = (
        select(AttemptRow.started_at).where(AttemptRow.run_id == run_id, AttemptRow.fence == fence).scalar_subquery()
    )
    return {
        "seconds": func.coalesce(RunRow.seconds, 0.0) + (now_seconds() - since) / sharers,
        "owner": None,
        "lease_until": None,
        "wanted": None,
    }


def _end_attempt(
    connection: Connection,
    run_id: int,
    fence: int,
    *,
    outcome: Outcome,
    step: int,
    error: str | None = None,
    traceback: str | None = None,
    reason: str | None = None,
) -> None:
    """reason: why it is taken for dead; kept where a traceback would be, as it is no error that the run repeats."""
    ended = {"how": outcome, "at_step": step, "with_error": error, "said": traceback or reason}
    connection.execute(_END_ATTEMPT, {"of_run": run_id, "of_fence": fence, **ended})


def _put_back(
    connection: Connection, run: AnyRow, fence: int, sharers: int = 1, **counted: Any
) -> Literal["ready", "cancelled", "pruned"]:
    """After an attempt that was not the last: ready, to go on from the checkpoint, or given up if that was wanted."""
    state: Literal["ready", "cancelled", "pruned"] = "ready"
    if run.wanted in _OUTCOMES:
        state = "cancelled" if run.wanted == Wanted.STOP else "pruned"
    _hold(
        connection,
        run.id,
        fence,
        state=State(state),
        step=RunRow.checkpoint_step,
        **_worked(run.id, fence, sharers),
        **counted,
    )
    if state != "ready":
        dependents.block(connection, run.id, what=f"was {state}")
    return state


def _release_pruned(connection: Connection, run_id: int, fence: int, step: int, sharers: int) -> bool:
    """End an attempt that hands in a run which a search gave up meanwhile. False when it is another matter."""
    run = _held(connection, run_id, fence)
    if run is None or run.wanted != Wanted.PRUNE:
        return False
    _end_attempt(connection, run_id, fence, outcome=Outcome.PRUNED, step=step)
    _put_back(connection, run, fence, sharers)
    return True


def _give_up(connection: Connection, run_id: int, fence: int, cause: str, sharers: int = 1) -> Literal["failed"]:
    _hold(
        connection,
        run_id,
        fence,
        state=State.FAILED,
        cause=cause,
        failures=RunRow.failures + 1,
        finished_at=now_seconds(),
        **_worked(run_id, fence, sharers),
    )
    dependents.block(connection, run_id, what=f"failed: {cause}")
    return "failed"


def _deaths_without_progress(connection: Connection, run: AnyRow, fence: int) -> int:
    """How many attempts in a row, the last included, died with the run at its present checkpoint step."""
    attempts = connection.execute(
        select(AttemptRow.outcome, AttemptRow.first_step)
        .where(AttemptRow.run_id == run.id, AttemptRow.fence <= fence, AttemptRow.fence > run.forgiven)
        .order_by(AttemptRow.fence.desc())
        .limit(DEATHS_WITHOUT_PROGRESS)
    ).all()
    deaths = 0
    for attempt in attempts:
        if attempt.outcome != Outcome.DIED:
            break
        deaths += 1
        if attempt.first_step != run.checkpoint_step:
            break  # this one got that far: the death before it was at an earlier step
    return deaths


def _measure(connection: Connection, run_id: int, measurements: Sequence[Measurement]) -> None:
    rows = [
        {"run_id": run_id, "metric": metric, "step": step, "value": _finite(value)}
        for step, metric, value in measurements
    ]
    insert_new(connection, table_of(MeasurementRow), rows)


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _one_line(error: str) -> str:
    lines = error.strip().splitlines()
    return lines[0].strip()[:300] if lines else "no message"


# ------------------------------------------------------------------------------------------------------ made once

# What each run goes through takes longer to put together than to execute.
_RUN, _ATTEMPT = table_of(RunRow), table_of(AttemptRow)
_OF_RUN, _OF_FENCE = bindparam("of_run", type_=Integer()), bindparam("of_fence", type_=Integer())

_NEW_ATTEMPT = insert(_ATTEMPT).values(started_at=now_seconds())
_CHECKPOINT = select(_RUN.c.checkpoint).where(_RUN.c.id == _OF_RUN)
_DONE = (
    update(_RUN)
    .where(
        _RUN.c.id == _OF_RUN,
        _RUN.c.fence == _OF_FENCE,
        _RUN.c.state == State.RUNNING,
        func.coalesce(_RUN.c.wanted, "") != Wanted.PRUNE,
    )
    .values(
        state=State.DONE,
        step=bindparam("reached_step"),
        checkpoint=func.coalesce(bindparam("new_checkpoint", type_=Text()), _RUN.c.checkpoint),
        mixed_numerics=or_(_RUN.c.mixed_numerics, bindparam("is_mixed", type_=Boolean())),
        data_digest=bindparam("new_digest", type_=String(64)),
        data_skipped=bindparam("new_skipped", type_=BigInteger()),
        finished_at=now_seconds(),
        cause=None,
        **_worked(_OF_RUN, _OF_FENCE, bindparam("of_sharers", type_=Double())),
    )
    .returning(_RUN.c.kind, _RUN.c.configuration)
)
_NEW_RESULTS = insert(table_of(ResultRow))
_WANTED_BY = select(StudyRunRow.study_id).where(StudyRunRow.run_id == _OF_RUN).order_by(StudyRunRow.study_id)
_END_ATTEMPT = (
    update(_ATTEMPT)
    .where(_ATTEMPT.c.run_id == _OF_RUN, _ATTEMPT.c.fence == _OF_FENCE)
    .values(
        outcome=bindparam("how"),
        ended_at=now_seconds(),
        last_step=bindparam("at_step"),
        error=bindparam("with_error"),
        traceback=bindparam("said"),
    )
)
