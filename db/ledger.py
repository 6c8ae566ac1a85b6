"""The life of a run that was claimed: renewed, and ended by exactly one attempt. Nothing is lost or done twice.

A run that is done stays done. A search that gives a run up while an attempt is at work says so in the run's row: from
then on no result of it is taken, and whatever way the attempt ends, the run is pruned.

Each function takes the connection and the caller owns the transaction. Each may be executed again after a lost
acknowledgement: the second time it changes nothing and answers as the first.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple, Protocol

from sqlalchemy import (
    BigInteger,
    Boolean,
    Connection,
    Double,
    Integer,
    String,
    Text,
    bindparam,
    case,
    func,
    insert,
    literal,
    or_,
    select,
    update,
)

from db import dependents, holding, points
from db.dialect import AnyRow, now_seconds
from db.tables import TRAININGS, AttemptRow, Outcome, ResultRow, RunRow, State, StudyRunRow, Wanted, table_of

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


def renew(
    connection: Connection,
    *,
    run_id: int,
    fence: int,
    lease_seconds: float,
    step: int,
    measurements: Sequence[holding.Measurement] = (),
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
        holding.refuse(connection, run_id, fence)
        return "lost"
    holding.measure(connection, run_id, measurements)
    return _WISHES[held.wanted]


def record_checkpoint(connection: Connection, *, run_id: int, fence: int, checkpoint: str, step: int) -> bool:
    """Make a complete checkpoint the run's current one. False when the run is lost: the old one stays."""
    held = holding.change(
        connection,
        run_id,
        fence,
        checkpoint=checkpoint,
        checkpoint_step=step,
        step=case((RunRow.step < step, step), else_=RunRow.step),
    )
    return held or holding.refuse(connection, run_id, fence)


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
    measurements: Sequence[holding.Measurement] = (),
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
        return holding.outcome_of(connection, run_id, fence) == Outcome.DONE or holding.refuse(
            connection, run_id, fence
        )
    results = [
        {
            "run_id": run_id,
            "metric": value.metric,
            "dataset": value.dataset,
            "split": value.split,
            "image_size": value.image_size,
            "value": holding.finite(value.value),
        }
        for value in values
    ]
    if results:
        connection.execute(_NEW_RESULTS, results)
    holding.measure(connection, run_id, measurements)
    holding.end(connection, run_id, fence, outcome=Outcome.DONE, step=step)
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
    measurements: Sequence[holding.Measurement] = (),
    sharers: int = 1,
    failure_budget: int = 2,
) -> Literal["ready", "failed", "cancelled", "pruned", "lost"]:
    """End an attempt that made an error; the answer is the run's state after it.

    The run is failed, and what depends on it blocked, when the outcome is final by nature, when there were more
    failures than the budget, or when the last attempt that failed had the same error at the same step.
    """
    outcome = Outcome(outcome)
    run = holding.locked(connection, run_id, fence)
    if run is None:
        return holding.state_after(connection, run_id, fence, outcome)
    holding.measure(connection, run_id, measurements)
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
    holding.end(connection, run_id, fence, outcome=outcome, step=step, error=error, traceback=traceback)
    if run.wanted == Wanted.PRUNE:
        return holding.put_back(connection, run, fence, sharers)
    what = f"{outcome} at step {step}: {_one_line(error)}"
    if outcome in FINAL_AT_ONCE:
        return holding.give_up(connection, run_id, fence, what, sharers)
    if again:
        return holding.give_up(connection, run_id, fence, f"{what} (twice the same)", sharers)
    if run.failures + 1 > failure_budget:
        what = f"{what} (failure {run.failures + 1} of {failure_budget} allowed)"
        return holding.give_up(connection, run_id, fence, what, sharers)
    return holding.put_back(connection, run, fence, sharers, failures=RunRow.failures + 1)


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
    run = holding.locked(connection, run_id, fence)
    if run is None:
        after = holding.state_after(connection, run_id, fence, Outcome(outcome))
        return "ready" if after == "failed" else after
    holding.end(connection, run_id, fence, outcome=holding.WISHED.get(run.wanted, Outcome(outcome)), step=step)
    return holding.put_back(connection, run, fence, sharers, preemptions=RunRow.preemptions + 1)


def declare_dead(
    connection: Connection, *, run_id: int, fence: int, reason: str
) -> Literal["ready", "failed", "cancelled", "pruned", "lost"]:
    """Who can know says that the attempt's process is gone. The run is ready again, at no cost to its budget.

    But the fifth death in a row without a new checkpoint is final. The answer is the run's state after it.
    """
    run = holding.locked(connection, run_id, fence)
    if run is None:
        return holding.state_after(connection, run_id, fence, Outcome.DIED)
    holding.end(connection, run_id, fence, outcome=Outcome.DIED, step=run.step, reason=reason)
    deaths = _deaths_without_progress(connection, run, fence)
    if deaths >= DEATHS_WITHOUT_PROGRESS and run.wanted not in holding.WISHED:
        what = f"died {deaths} times at step {run.checkpoint_step} without a trace; likely killed for memory"
        return holding.give_up(connection, run_id, fence, what)
    return holding.put_back(connection, run, fence)


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


def _release_pruned(connection: Connection, run_id: int, fence: int, step: int, sharers: int) -> bool:
    """End an attempt that hands in a run which a search gave up meanwhile. False when it is another matter."""
    run = holding.locked(connection, run_id, fence)
    if run is None or run.wanted != Wanted.PRUNE:
        return False
    holding.end(connection, run_id, fence, outcome=Outcome.PRUNED, step=step)
    holding.put_back(connection, run, fence, sharers)
    return True


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


def _one_line(error: str) -> str:
    lines = error.strip().splitlines()
    return lines[0].strip()[:300] if lines else "no message"


# ------------------------------------------------------------------------------------------------------ made once

# What each run goes through takes longer to put together than to execute.
_RUN = table_of(RunRow)
_OF_RUN, _OF_FENCE = bindparam("of_run", type_=Integer()), bindparam("of_fence", type_=Integer())

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
        **holding.worked(_OF_RUN, _OF_FENCE, bindparam("of_sharers", type_=Double())),
    )
    .returning(_RUN.c.kind, _RUN.c.configuration)
)
_NEW_RESULTS = insert(table_of(ResultRow))
_WANTED_BY = select(StudyRunRow.study_id).where(StudyRunRow.run_id == _OF_RUN).order_by(StudyRunRow.study_id)
