"""The run as the attempt that holds it may change it: the steps that the endings in `db/ledger.py` are made of."""

import math
from collections.abc import Sequence
from typing import Any, Literal

from sqlalchemy import BindParameter, Connection, bindparam, func, or_, select, update

from db import dependents
from db.dialect import AnyRow, insert_new, now_seconds
from db.tables import AttemptRow, MeasurementRow, Outcome, RunRow, State, Wanted, table_of

WISHED: dict[str | None, Outcome] = {Wanted.STOP: Outcome.CANCELLED, Wanted.PRUNE: Outcome.PRUNED}
"""How an attempt ends that hears of a wish to give up."""

Measurement = tuple[int, str, float | None]
"""step, metric, value; a value that is no finite number is kept as NULL."""


def change(connection: Connection, run_id: int, fence: int, **values: Any) -> bool:
    """Change a run that is still the attempt's own. False, and nothing changed, when it is not."""
    changed = connection.execute(
        update(RunRow).where(RunRow.id == run_id, RunRow.fence == fence, RunRow.state == State.RUNNING).values(**values)
    )
    return changed.rowcount == 1


def locked(connection: Connection, run_id: int, fence: int) -> AnyRow | None:
    """The run, locked, if it is still the attempt's own."""
    return connection.execute(
        select(RunRow.id, RunRow.failures, RunRow.forgiven, RunRow.wanted, RunRow.step, RunRow.checkpoint_step)
        .where(RunRow.id == run_id, RunRow.fence == fence, RunRow.state == State.RUNNING)
        .with_for_update()
    ).one_or_none()


def outcome_of(connection: Connection, run_id: int, fence: int) -> str | None:
    """How an attempt ended; None for one that is at work, or that there is not."""
    return connection.execute(
        select(AttemptRow.outcome).where(AttemptRow.run_id == run_id, AttemptRow.fence == fence)
    ).scalar()


def refuse(connection: Connection, run_id: int, fence: int) -> Literal[False]:
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


def state_after(
    connection: Connection, run_id: int, fence: int, outcome: Outcome
) -> Literal["ready", "failed", "cancelled", "pruned", "lost"]:
    """The answer to an ending that finds the run gone: the same as before if it is a repeat, else `lost`."""
    found = outcome_of(connection, run_id, fence)
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
        refuse(connection, run_id, fence)
    return "lost"


def worked(
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


def end(
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
    """Write down how an attempt ended.

    reason: why it is taken for dead; kept where a traceback would be, as it is no error that the run repeats.
    """
    ended = {"how": outcome, "at_step": step, "with_error": error, "said": traceback or reason}
    connection.execute(_END_ATTEMPT, {"of_run": run_id, "of_fence": fence, **ended})


def put_back(
    connection: Connection, run: AnyRow, fence: int, sharers: int = 1, **counted: Any
) -> Literal["ready", "cancelled", "pruned"]:
    """After an attempt that was not the last: ready, to go on from the checkpoint, or given up if that was wanted."""
    state: Literal["ready", "cancelled", "pruned"] = "ready"
    if run.wanted in WISHED:
        state = "cancelled" if run.wanted == Wanted.STOP else "pruned"
    change(
        connection,
        run.id,
        fence,
        state=State(state),
        step=RunRow.checkpoint_step,
        **worked(run.id, fence, sharers),
        **counted,
    )
    if state != "ready":
        dependents.block(connection, run.id, what=f"was {state}")
    return state


def give_up(connection: Connection, run_id: int, fence: int, cause: str, sharers: int = 1) -> Literal["failed"]:
    """The run is failed for good, and what depends on it blocked."""
    change(
        connection,
        run_id,
        fence,
        state=State.FAILED,
        cause=cause,
        failures=RunRow.failures + 1,
        finished_at=now_seconds(),
        **worked(run_id, fence, sharers),
    )
    dependents.block(connection, run_id, what=f"failed: {cause}")
    return "failed"


def measure(connection: Connection, run_id: int, measurements: Sequence[Measurement]) -> None:
    """Store measurements; those that are there stay as they are."""
    rows = [
        {"run_id": run_id, "metric": metric, "step": step, "value": finite(value)}
        for step, metric, value in measurements
    ]
    insert_new(connection, table_of(MeasurementRow), rows)


def finite(value: float | None) -> float | None:
    """The value, or None for what is no finite number."""
    return value if value is not None and math.isfinite(value) else None


# Made once: it takes longer to put together than to execute.
_ATTEMPT = table_of(AttemptRow)
_END_ATTEMPT = (
    update(_ATTEMPT)
    .where(_ATTEMPT.c.run_id == bindparam("of_run"), _ATTEMPT.c.fence == bindparam("of_fence"))
    .values(
        outcome=bindparam("how"),
        ended_at=now_seconds(),
        last_step=bindparam("at_step"),
        error=bindparam("with_error"),
        traceback=bindparam("said"),
    )
)
