"""Merges a study of another store into this one: its runs by their keys, their results, its searches and its laws.

One transaction, which the caller owns; executed again it changes nothing. What the rows say is checked before, in
`orchestrator/capsule_checks.py`.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import Connection, delete, func, select, update

from db import capsule_studies, dependents, points, wanting
from db.dialect import AnyRow, insert_new, now_seconds
from db.exported import RunRecord, StudyTables
from db.tables import (
    TRAININGS,
    AttemptRow,
    MeasurementRow,
    Outcome,
    ResultRow,
    RunRow,
    SearchRow,
    SearchState,
    State,
    StudyRunRow,
    table_of,
)

_OVER = (State.DONE, State.FAILED, State.BLOCKED, State.PRUNED)
"""States in which a run comes as it was. Who worked on the others, or would have, is in another store."""
_MEASURED = (State.DONE, State.FAILED, State.PRUNED)
_WAITS = (State.WAITING, State.READY, State.RUNNING, State.BLOCKED)


@dataclass(frozen=True)
class Difference:
    """A result that both stores have and do not agree on; None is not a finite number, or not measured."""

    key: str
    metric: str
    dataset: str
    split: str
    here: float | None
    there: float | None


@dataclass(frozen=True)
class Merged:
    """What became of a capsule."""

    study: str
    new_study: bool
    runs: int
    """In the capsule."""
    new: int
    """Were not here: `new_done` of them are done, and `cancelled` were unfinished there."""
    new_done: int
    cancelled: int
    taken: int
    """Were here unfinished, and are done now."""
    kept: int
    """Were here and stay what they are."""
    left: tuple[str, ...]
    """Keys of trainings that are done there and stay to be trained here: runs wait for their weights."""
    without_weights: tuple[str, ...]
    """Keys of trainings that are done here now, and whose trained model is not below this store's checkpoints."""
    added: int
    """Links, searches, choices of searches, imported results and laws that were not here."""
    differences: tuple[Difference, ...]

    @property
    def changed(self) -> bool:
        """Whether the store is another one now."""
        return self.new_study or bool(self.new or self.taken or self.added)


def merge(connection: Connection, capsule: StudyTables, name: str, weights: Collection[str]) -> Merged:
    """Put a study, whose rows were checked, into this store under a name.

    Runs that are not here come as they were, but unfinished ones are cancelled. What is done here stays and is
    compared. What is done there alone takes its results; an attempt at work on it here hears with its next write that
    it lost the run. Only a training whose weights runs wait for here stays what it is.
    weights: keys of the trainings whose trained model is below this store's checkpoints, where the capsule says.
    Raises ValueError when another study has the name.
    """
    wanting.lock(connection)
    capsule_studies.check_name(connection, name, capsule.study[0])
    new = _insert(connection, capsule.runs)
    here = _locked(connection, [run.key for run in capsule.runs])
    taken, left = _to_take(connection, capsule, here, weights)
    for run in taken:
        _take(connection, run, here[run.key])
    _add_history(connection, capsule, here, new, {run.key for run in taken})
    study_id, is_new_study, added = capsule_studies.store(connection, capsule, name, here)
    _let_go_on(connection, [here[run.key].id for run in taken])
    new_done = [run for run in capsule.runs if run.key in new and run.state == State.DONE]
    if is_new_study or added or new_done or taken:
        _refresh_points(connection, study_id, [here[run.key].id for run in (*new_done, *taken)])
    return Merged(
        study=name,
        new_study=is_new_study,
        runs=len(capsule.runs),
        new=len(new),
        new_done=len(new_done),
        cancelled=sum(state == State.CANCELLED for state in new.values()),
        taken=len(taken),
        kept=len(capsule.runs) - len(new) - len(taken),
        left=tuple(run.key for run in left),
        without_weights=tuple(
            run.key for run in (*new_done, *taken) if run.kind in TRAININGS and run.key not in weights
        ),
        added=added,
        differences=tuple(_differences(connection, capsule, here, new)),
    )


# ---------------------------------------------------------------------------------------------------------------- runs


def _insert(connection: Connection, runs: Sequence[RunRecord]) -> dict[str, State]:
    """Put the runs that are not here into the ledger; their states by key. What a run stands on comes before it."""
    known = wanting.rows_of(connection, [run.key for run in runs])
    states: dict[str, State] = {key: State(row.state) for key, row in known.items()}
    ids = {key: row.id for key, row in known.items()}
    new: dict[str, State] = {}
    for of_depth in _by_depth([run for run in runs if run.key not in known], known.keys()):
        rows = []
        for run in of_depth:
            states[run.key] = new[run.key] = _state_here(run, states)
            rows.append(_columns(run, new[run.key], None if run.upstream is None else ids[run.upstream]))
        insert_new(connection, table_of(RunRow), rows)
        ids.update({key: row.id for key, row in wanting.rows_of(connection, [run.key for run in of_depth]).items()})
    return new


def _by_depth(runs: Sequence[RunRecord], there: Collection[str]) -> Iterator[list[RunRecord]]:
    """The runs in groups of which each stands on those before it alone."""
    stored = {None, *there}
    left = list(runs)
    while left:
        yield (group := [run for run in left if run.upstream in stored])
        assert group, "a run of a checked capsule stands on one that is in it"
        stored |= {run.key for run in group}
        left = [run for run in left if run.key not in stored]


def _state_here(run: RunRecord, states: Mapping[str, State]) -> State:
    """The state in which a run comes: as it was, if it was over and is not blocked by what is no obstacle here."""
    if run.state not in _OVER:
        return State.CANCELLED
    goes_on = (State.WAITING, State.READY, State.RUNNING, State.DONE)
    if run.state == State.BLOCKED and run.upstream is not None and states[run.upstream] in goes_on:
        return State.CANCELLED
    return State(run.state)


def _columns(run: RunRecord, state: State, upstream_id: int | None) -> dict[str, Any]:
    columns = asdict(run)
    del columns["upstream"]
    if state is State.CANCELLED:  # its checkpoints are elsewhere: it begins anew
        columns |= {"step": 0, "numerics": None, "cause": None, "finished_at": None}
    return {**columns, "state": state, "upstream_id": upstream_id}


def _locked(connection: Connection, keys: Sequence[str]) -> dict[str, AnyRow]:
    """The runs as they are from now on to the end of the transaction; with them what waits for them is locked."""
    ids = [row.id for row in wanting.rows_of(connection, keys).values()]
    below: set[int] = set()
    for chunk in dependents.chunks(ids):
        below |= set(connection.execute(select(RunRow.id).where(RunRow.upstream_id.in_(chunk))).scalars())
    dependents.lock(connection, {*ids, *below})
    columns = (RunRow.key, RunRow.id, RunRow.kind, RunRow.state, RunRow.fence, RunRow.upstream_id)
    found: dict[str, AnyRow] = {}
    for some in wanting.chunks(keys):
        found.update({row.key: row for row in connection.execute(select(*columns).where(RunRow.key.in_(some)))})
    return found


def _to_take(
    connection: Connection, capsule: StudyTables, here: Mapping[str, AnyRow], weights: Collection[str]
) -> tuple[list[RunRecord], list[RunRecord]]:
    """The runs that are done there and not here: those that take the results, and those that stay to be trained here.

    A training stays if runs or open searches wait for its weights which are not done by the capsule too.
    """
    taken: dict[int, RunRecord] = {
        here[run.key].id: run for run in capsule.runs if run.state == State.DONE and here[run.key].state != State.DONE
    }
    without = [run_id for run_id, run in taken.items() if run.kind in TRAININGS and run.key not in weights]
    waiting: dict[int, list[int]] = {run_id: [] for run_id in without}
    for chunk in dependents.chunks(without):
        query = select(RunRow.id, RunRow.upstream_id).where(
            RunRow.upstream_id.in_(chunk), RunRow.state.in_([state.value for state in _WAITS])
        )
        for row in connection.execute(query):
            waiting[row.upstream_id].append(row.id)
    needed = _searched_on(connection, capsule, without)
    left: list[RunRecord] = []
    for run_id in sorted(without, reverse=True):  # what depends on a run has the higher id, and so is decided first
        if run_id in needed or any(each not in taken for each in waiting[run_id]):
            left.append(taken.pop(run_id))
    return list(taken.values()), left


def _searched_on(connection: Connection, capsule: StudyTables, run_ids: Collection[int]) -> set[int]:
    """Those of these trainings that open searches stand on which the capsule does not decide."""
    decided = {search.key for search in capsule.searches if search.state == SearchState.DECIDED}
    found: set[int] = set()
    for chunk in dependents.chunks(run_ids):
        query = select(SearchRow.key, SearchRow.upstream_id).where(
            SearchRow.upstream_id.in_(chunk), SearchRow.state == SearchState.OPEN
        )
        found |= {row.upstream_id for row in connection.execute(query) if row.key not in decided}
    return found


def _take(connection: Connection, run: RunRecord, here: AnyRow) -> None:
    """Make a run done with what the capsule has of it. The fence grows: an attempt at work on it has lost it."""
    now = now_seconds()
    connection.execute(
        update(AttemptRow)
        .where(AttemptRow.run_id == here.id, AttemptRow.outcome.is_(None))
        .values(outcome=Outcome.LOST, ended_at=now)
    )
    connection.execute(
        update(RunRow)
        .where(RunRow.id == here.id)
        .values(
            state=State.DONE,
            fence=here.fence + max(1, run.fence),
            owner=None,
            lease_until=None,
            wanted=None,
            cause=None,
            checkpoint=run.checkpoint,
            checkpoint_step=0,
            step=run.step,
            numerics=run.numerics,
            mixed_numerics=run.mixed_numerics,
            data_digest=run.data_digest,
            data_skipped=run.data_skipped,
            started_at=run.started_at,
            finished_at=run.finished_at,
            seconds=func.coalesce(RunRow.seconds, 0.0) + (run.seconds or 0.0),
        )
    )
    # What an attempt here measured on the way may be of another numerics class: a curve is of one training.
    connection.execute(delete(MeasurementRow).where(MeasurementRow.run_id == here.id))


def _add_history(
    connection: Connection,
    capsule: StudyTables,
    here: Mapping[str, AnyRow],
    new: Mapping[str, State],
    taken: Collection[str],
) -> None:
    """The attempts, measurements and results of the runs that are new or take theirs.

    Fences go on from those that the run has here. Attempts that had not ended are left out: nobody here will hear how.
    """
    before = {**dict.fromkeys(new, 0), **{key: here[key].fence for key in taken}}
    measured = {key for key, state in new.items() if state in _MEASURED} | set(taken)
    done = {key for key, state in new.items() if state is State.DONE} | set(taken)
    attempts = [
        {**asdict(each), "fence": each.fence + before[each.key]}
        for each in capsule.attempts
        if each.key in before and each.outcome is not None
    ]
    measurements = [vars(each) for each in capsule.measurements if each.key in measured]
    results = [vars(each) for each in capsule.results if each.key in done]
    for row, records in ((AttemptRow, attempts), (MeasurementRow, measurements), (ResultRow, results)):
        rows = [{"run_id": here[each["key"]].id, **each} for each in records]
        for each in rows:
            del each["key"]
        insert_new(connection, table_of(row), rows)


def _let_go_on(connection: Connection, run_ids: Collection[int]) -> None:
    """What waited for these runs, which are done, takes the state that follows."""
    waiting: set[int] = set()
    for chunk in dependents.chunks(run_ids):
        query = select(RunRow.id).where(RunRow.upstream_id.in_(chunk), RunRow.state.in_([State.WAITING, State.BLOCKED]))
        waiting |= set(connection.execute(query).scalars())
    dependents.settle(connection, waiting)


def _refresh_points(connection: Connection, study_id: int, run_ids: Collection[int]) -> None:
    """Of the study, and of every other that wants one of these runs."""
    studies = {study_id}
    for chunk in dependents.chunks(run_ids):
        query = select(StudyRunRow.study_id).where(StudyRunRow.run_id.in_(chunk)).distinct()
        studies |= set(connection.execute(query).scalars())
    for each in sorted(studies):
        points.refresh(connection, each)


# --------------------------------------------------------------------------------------------------------- differences


def _differences(
    connection: Connection, capsule: StudyTables, here: Mapping[str, AnyRow], new: Mapping[str, State]
) -> Iterator[Difference]:
    """Of the runs that both stores had done: the values that are not the same to the last digit."""
    both = [
        run.key
        for run in capsule.runs
        if run.key not in new and run.state == State.DONE and here[run.key].state == State.DONE
    ]
    ours: dict[tuple[str, str, str, str], float | None] = {}
    for chunk in wanting.chunks(both):
        query = (
            select(RunRow.key, ResultRow.metric, ResultRow.dataset, ResultRow.split, ResultRow.value)
            .join(ResultRow, ResultRow.run_id == RunRow.id)
            .where(RunRow.key.in_(chunk))
        )
        ours.update({(row[0], row[1], row[2], row[3]): row[4] for row in connection.execute(query)})
    compared = set(both)
    theirs = {
        (each.key, each.metric, each.dataset, each.split): each.value
        for each in capsule.results
        if each.key in compared
    }
    for name in sorted(ours.keys() | theirs.keys()):
        if ours.get(name) != theirs.get(name):
            yield Difference(*name, here=ours.get(name), there=theirs.get(name))
