"""What the store knows, each question a function with a name. Nothing here writes."""

import statistics
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, NamedTuple

from sqlalchemy import Connection, Select, case, func, null, select

from db.dialect import AnyRow
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
    StudyRow,
    StudyRunRow,
    table_of,
)

_CHUNK = 1_000
_LATEST = 500
"""So many trainings say how fast a device is."""


@dataclass(frozen=True)
class Study:
    """A study as it was last submitted."""

    id: int
    name: str
    title: str
    source: str
    shows: str
    text: str
    file: str
    submitted_at: float
    runs: int
    done: int


@dataclass(frozen=True)
class Run:
    """A run and where it is; the fields are explained in `db/tables.py`."""

    id: int
    key: str
    kind: str
    configuration: str
    definition: str
    model: str
    family: str
    seed: int
    dataset: str
    split: str
    image_size: int
    data_rows: int
    epochs: float
    steps: int
    parameters: int
    flops: float
    train_flops: float | None
    images: int
    cpus: int
    gpus: int
    priority: int
    micro_batch: int | None
    state: str
    owner: str | None
    lease_until: float | None
    fence: int
    wanted: str | None
    failures: int
    preemptions: int
    cause: str | None
    checkpoint: str | None
    checkpoint_step: int
    step: int
    numerics: str | None
    mixed_numerics: bool
    data_digest: str | None
    data_skipped: int | None
    created_at: float
    started_at: float | None
    finished_at: float | None
    seconds: float | None
    upstream: str | None
    """Key of the run that it stands on."""


class Demand(NamedTuple):
    """Runs that could be at work now and ask for one kind of place."""

    cpus: int
    gpus: int
    runs: int


@dataclass(frozen=True)
class Totals:
    """How far the runs of a study, or of the store, are."""

    states: Mapping[str, int]
    """Runs in each state, zeros included."""
    trainings: Mapping[str, int]
    """The same for trainings alone; the others are evaluations."""
    flops: float
    flops_done: float
    """A run that is not done counts by the share of its steps that it has taken; a failed one does not count."""
    images: int
    images_done: float
    seconds: float
    """Worker time of all attempts that ended."""
    searches_open: int
    """Searches that will add more runs, now or when what they wait for is done."""
    searches_stuck: int
    """Open searches that wait for a run that failed, is blocked, or was cancelled."""
    searches_decided: int
    searches_failed: int

    @property
    def runs(self) -> int:
        """In all states together."""
        return sum(self.states.values())

    @property
    def searches(self) -> int:
        """In all states together, but those that were cancelled."""
        return self.searches_open + self.searches_stuck + self.searches_decided + self.searches_failed

    @property
    def unfinished(self) -> int:
        """Runs that somebody still has to work on, now or later."""
        return sum(self.states[state] for state in (State.WAITING, State.READY, State.RUNNING))

    @property
    def is_over(self) -> bool:
        """Whether nothing is left to work on, now or later."""
        return not self.unfinished and not self.searches_open


@dataclass(frozen=True)
class Attempt:
    """One try at a run; the fields are explained in `db/tables.py`."""

    run_id: int
    fence: int
    owner: str
    host: str
    pid: int
    process_started: float | None
    device: str | None
    started_at: float
    ended_at: float | None
    outcome: str | None
    error: str | None
    traceback: str | None
    numerics: str | None
    first_step: int
    last_step: int | None
    refused_at: float | None


@dataclass(frozen=True)
class Result:
    """A row of a study's result table."""

    key: str
    kind: str
    model: str
    family: str
    seed: int
    epochs: float
    data_rows: int
    parameters: int
    train_flops: float | None
    metric: str
    dataset: str
    split: str
    image_size: int
    value: float | None
    data_digest: str | None
    """Certificate of the images that were classified, or trained on."""
    data_skipped: int | None
    """Bad rows that their split leaves out."""
    mixed_numerics: bool
    role: str | None
    """`trunk`, `trial` or `final`, where no cell of the study names the run."""
    transfer: str | None
    """What the study calls the transfer that the run belongs to."""


# ------------------------------------------------------------------------------------------------------------- studies


def studies(connection: Connection) -> list[Study]:
    """All studies, the one submitted last first."""
    return [_study(row) for row in connection.execute(_studies().order_by(StudyRow.submitted_at.desc(), StudyRow.id))]


def study_named(connection: Connection, name: str) -> Study | None:
    """The study of this name."""
    row = connection.execute(_studies().where(StudyRow.name == name)).one_or_none()
    return None if row is None else _study(row)


def _studies() -> Select[Any]:
    counts = (
        select(
            StudyRunRow.study_id,
            func.count().label("runs"),
            func.sum(case((RunRow.state == State.DONE, 1), else_=0)).label("done"),
        )
        .join(RunRow, RunRow.id == StudyRunRow.run_id)
        .group_by(StudyRunRow.study_id)
        .subquery()
    )
    return select(
        *table_of(StudyRow).c,
        func.coalesce(counts.c.runs, 0).label("runs"),
        func.coalesce(counts.c.done, 0).label("done"),
    ).outerjoin(counts, counts.c.study_id == StudyRow.id)


def _study(row: AnyRow) -> Study:
    return Study(**{**row._mapping, "done": int(row.done)})


# ---------------------------------------------------------------------------------------------------------------- runs


def run_named(connection: Connection, prefix: str) -> list[Run]:
    """The runs whose key starts with these digits, at most 20."""
    start = prefix.lower()
    if not start or set(start) - set("0123456789abcdef"):
        return []
    # "g" follows the last hexadecimal digit: a range uses the index of the keys, LIKE would not.
    query = _runs().where(RunRow.key >= start, RunRow.key < start + "g").order_by(RunRow.key).limit(20)
    return [Run(**row._mapping) for row in connection.execute(query)]


def runs_of(connection: Connection, study_id: int) -> list[Run]:
    """The runs of a study, in its order."""
    query = (
        _runs()
        .join(StudyRunRow, StudyRunRow.run_id == RunRow.id)
        .where(StudyRunRow.study_id == study_id)
        .order_by(StudyRunRow.position)
    )
    return [Run(**row._mapping) for row in connection.execute(query)]


def runs_in_state(connection: Connection, study_id: int | None, state: str, most: int) -> list[Run]:
    """At most so many runs of a study, or of the store, that are in this state, the first stored one first."""
    query = _runs().where(RunRow.state == state).order_by(RunRow.id).limit(most)
    if study_id is not None:
        linked = select(StudyRunRow.run_id).where(StudyRunRow.study_id == study_id)
        query = query.where(RunRow.id.in_(linked))
    return [Run(**row._mapping) for row in connection.execute(query)]


def demand(connection: Connection, study_id: int | None) -> list[Demand]:
    """How many runs are ready or running, for each kind of place that they ask for; the most urgent kind first."""
    query = (
        select(RunRow.cpus, RunRow.gpus, func.count().label("runs"))
        .where(RunRow.state.in_([State.READY, State.RUNNING]))
        .group_by(RunRow.cpus, RunRow.gpus)
        .order_by(func.min(RunRow.priority), RunRow.cpus, RunRow.gpus)
    )
    if study_id is not None:
        query = query.join(StudyRunRow, StudyRunRow.run_id == RunRow.id).where(StudyRunRow.study_id == study_id)
    return [Demand(*row) for row in connection.execute(query)]


def _runs() -> Select[Any]:
    upstream = table_of(RunRow).alias("upstream")
    hidden = ("upstream_id", "forgiven")
    return select(
        *(column for column in table_of(RunRow).c if column.name not in hidden), upstream.c.key.label("upstream")
    ).outerjoin(upstream, upstream.c.id == RunRow.upstream_id)


def known(connection: Connection, keys: Collection[str]) -> dict[str, str]:
    """The state of each of these runs that is in the store."""
    states: dict[str, str] = {}
    for chunk in _chunks(list(keys)):
        rows = connection.execute(select(RunRow.key, RunRow.state).where(RunRow.key.in_(chunk)))
        states.update({row.key: row.state for row in rows})
    return states


def totals(connection: Connection, study_id: int | None = None) -> Totals:
    """How far the runs of a study are, or with None all runs of the store."""
    share = case(
        (RunRow.state == State.DONE, 1.0),
        (RunRow.state.in_([State.FAILED, State.BLOCKED, State.CANCELLED, State.PRUNED]), 0.0),
        (RunRow.steps > 0, RunRow.step * 1.0 / func.nullif(RunRow.steps, 0)),
        else_=0.0,
    )
    query = select(
        RunRow.state,
        RunRow.kind,
        func.count().label("runs"),
        func.sum(RunRow.flops).label("flops"),
        func.sum(RunRow.flops * share).label("flops_done"),
        func.sum(RunRow.images).label("images"),
        func.sum(RunRow.images * share).label("images_done"),
        func.coalesce(func.sum(RunRow.seconds), 0.0).label("seconds"),
    ).group_by(RunRow.state, RunRow.kind)
    if study_id is not None:
        query = query.join(StudyRunRow, StudyRunRow.run_id == RunRow.id).where(StudyRunRow.study_id == study_id)
    rows = connection.execute(query).all()
    states = {state.value: 0 for state in State}
    trainings = dict(states)
    for row in rows:
        states[row.state] += row.runs
        if row.kind in TRAININGS:
            trainings[row.state] += row.runs
    return Totals(
        states=states,
        trainings=trainings,
        flops=float(sum(row.flops for row in rows)),
        flops_done=float(sum(row.flops_done for row in rows)),
        images=int(sum(row.images for row in rows)),
        images_done=float(sum(row.images_done for row in rows)),
        seconds=float(sum(row.seconds for row in rows)),
        **_searches(connection, study_id),
    )


def _searches(connection: Connection, study_id: int | None) -> dict[str, int]:
    """Of `Totals`."""
    given_up = (State.FAILED, State.BLOCKED, State.CANCELLED, State.PRUNED)
    trial = table_of(RunRow).alias("trial")
    cancelled = (
        select(StudyRunRow.run_id)
        .join(trial, trial.c.id == StudyRunRow.run_id)
        .where(
            StudyRunRow.study_id == SearchRow.study_id,
            StudyRunRow.sweep == SearchRow.key,
            trial.c.state == State.CANCELLED,
        )
        .exists()
    )
    is_stuck = case((RunRow.state.in_(given_up) | cancelled, 1), else_=0).label("is_stuck")
    searches = select(SearchRow.state, is_stuck).join(RunRow, RunRow.id == SearchRow.upstream_id)
    if study_id is not None:
        searches = searches.where(SearchRow.study_id == study_id)
    found = Counter((row.state, row.is_stuck) for row in connection.execute(searches))
    return {
        "searches_open": found[SearchState.OPEN, 0],
        "searches_stuck": found[SearchState.OPEN, 1],
        "searches_decided": found[SearchState.DECIDED, 0] + found[SearchState.DECIDED, 1],
        "searches_failed": found[SearchState.FAILED, 0] + found[SearchState.FAILED, 1],
    }


def attempts_of(connection: Connection, run_id: int) -> list[Attempt]:
    """The attempts at a run, the first one first."""
    query = select(*table_of(AttemptRow).c).where(AttemptRow.run_id == run_id).order_by(AttemptRow.fence)
    return [Attempt(**row._mapping) for row in connection.execute(query)]


def measurements_of(connection: Connection, run_id: int, metric: str) -> list[tuple[int, float | None]]:
    """(step, value) in the order of the steps; None is not a finite number."""
    query = (
        select(MeasurementRow.step, MeasurementRow.value)
        .where(MeasurementRow.run_id == run_id, MeasurementRow.metric == metric)
        .order_by(MeasurementRow.step)
    )
    return [(row.step, row.value) for row in connection.execute(query)]


def measured_metrics_of(connection: Connection, run_id: int) -> list[str]:
    """What was measured on the way of a run, by name."""
    query = select(MeasurementRow.metric).where(MeasurementRow.run_id == run_id).distinct()
    return sorted(connection.execute(query.order_by(MeasurementRow.metric)).scalars())


def measured_rate(connection: Connection) -> dict[str, float]:
    """Training FLOP/s on each device: the median over the latest trainings, each by the attempt that ended it.

    Attempts of less than a second are left out: they measure the start of a run.
    """
    query = (
        select(
            AttemptRow.device,
            (
                RunRow.flops
                * (AttemptRow.last_step - AttemptRow.first_step)
                / RunRow.steps
                / (AttemptRow.ended_at - AttemptRow.started_at)
            ).label("rate"),
        )
        .join(RunRow, RunRow.id == AttemptRow.run_id)
        .where(
            RunRow.kind == "train",
            RunRow.steps > 0,
            AttemptRow.outcome == Outcome.DONE,
            AttemptRow.device.is_not(None),
            AttemptRow.last_step > AttemptRow.first_step,
            AttemptRow.ended_at >= AttemptRow.started_at + 1.0,
        )
        .order_by(AttemptRow.ended_at.desc())
        .limit(_LATEST)
    )
    rates: dict[str, list[float]] = defaultdict(list)
    for row in connection.execute(query):
        rates[row.device].append(row.rate)
    return {device: statistics.median(of_device) for device, of_device in sorted(rates.items())}


# ------------------------------------------------------------------------------------------------------------- results


def results_of(connection: Connection, study_id: int) -> list[Result]:
    """The result table of a study, in the order of its runs, then metric, data set and split."""
    query = (
        _results(StudyRunRow.role, StudyRunRow.transfer)
        .join(StudyRunRow, StudyRunRow.run_id == RunRow.id)
        .where(StudyRunRow.study_id == study_id)
        .order_by(StudyRunRow.position)
    )
    rows = [Result(**row._mapping) for row in connection.execute(query)]
    return [result for _, of_run in groupby(rows, key=lambda result: result.key) for result in _sorted(of_run)]


def results_of_run(connection: Connection, run_id: int) -> list[Result]:
    """The results of one run, by metric, data set and split; without what a study wants it for."""
    query = _results(null().label("role"), null().label("transfer")).where(RunRow.id == run_id)
    return _sorted(Result(**row._mapping) for row in connection.execute(query))


def _sorted(results: Iterable[Result]) -> list[Result]:
    """By name: here and not in the database, whose collation would decide the order."""
    return sorted(results, key=lambda result: (result.metric, result.dataset, result.split))


def _results(role: Any, transfer: Any) -> Any:
    return (
        select(
            RunRow.key,
            RunRow.kind,
            RunRow.model,
            RunRow.family,
            RunRow.seed,
            RunRow.epochs,
            RunRow.data_rows,
            RunRow.parameters,
            RunRow.train_flops,
            ResultRow.metric,
            ResultRow.dataset,
            ResultRow.split,
            ResultRow.image_size,
            ResultRow.value,
            RunRow.data_digest,
            RunRow.data_skipped,
            RunRow.mixed_numerics,
            role,
            transfer,
        )
        .select_from(RunRow)
        .join(ResultRow, ResultRow.run_id == RunRow.id)
    )


def _chunks(names: Sequence[str]) -> list[Sequence[str]]:
    return [names[start : start + _CHUNK] for start in range(0, len(names), _CHUNK)]
