"""The rows that belong to a study, with keys where the store has numbers of its own: what exports and capsules hold.

Nothing here writes. What a field means is said in `db/tables.py`. Rows come in orders that do not depend on the store:
two stores that know the same say the same.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, TypeVar

from sqlalchemy import ColumnElement, Connection, Subquery, select

from db.tables import (
    AttemptRow,
    ExternalRow,
    LawRow,
    MeasurementRow,
    ResultRow,
    RunRow,
    SearchRow,
    State,
    StudyRow,
    StudyRunRow,
    table_of,
)
from studies.external import External

_UPSTREAM = table_of(RunRow).alias("upstream")


@dataclass(frozen=True)
class StudyRecord:
    """A study as it was last submitted."""

    name: str
    title: str
    source: str
    shows: str
    text: str
    file: str
    submitted_at: float


@dataclass(frozen=True)
class RunRecord:
    """A run, without what only its own store can use: the owner of its lease, and a checkpoint to go on from."""

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
    upstream: str | None
    """Key of the run that it stands on."""
    parameters: int
    flops: float
    train_flops: float | None
    images: int
    cpus: int
    gpus: int
    priority: int
    micro_batch: int | None
    state: str
    fence: int
    failures: int
    preemptions: int
    forgiven: int
    cause: str | None
    checkpoint: str | None
    """Of a training that is done: where below the checkpoints of its store the trained model is."""
    step: int
    numerics: str | None
    mixed_numerics: bool
    data_digest: str | None
    data_skipped: int | None
    created_at: float
    started_at: float | None
    finished_at: float | None
    seconds: float | None


@dataclass(frozen=True)
class LinkRecord:
    """The study wants a run."""

    key: str
    position: int
    sweep: str | None
    searched: str | None
    role: str | None
    transfer: str | None


@dataclass(frozen=True)
class AttemptRecord:
    """One try at a run."""

    key: str
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
class MeasurementRecord:
    """What was measured on the way of a run; a missing value is not a finite number."""

    key: str
    metric: str
    step: int
    value: float | None


@dataclass(frozen=True)
class ResultRecord:
    """The final value of a metric of a run; a missing value is not a finite number."""

    key: str
    metric: str
    dataset: str
    split: str
    image_size: int
    value: float | None


@dataclass(frozen=True)
class SearchRecord:
    """A hyper-parameter search, with the choice that it made."""

    key: str
    upstream: str
    """Key of the pre-training."""
    position: int
    transfer: str
    definition: str
    optuna_study: str
    cpus: int
    gpus: int
    priority: int
    micro_batch: int | None
    together: bool
    state: str
    cause: str | None
    chosen: str | None
    development: float | None
    edge: str | None
    extended: bool
    trials: int


@dataclass(frozen=True)
class ExternalRecord:
    """A published or foreign result."""

    key: str
    configuration: str
    training: str
    source: str
    kind: str
    metric: str
    dataset: str
    split: str
    image_size: int
    family: str
    model: str
    seed: int
    value: float | None
    train_flops: float | None
    device_seconds: float | None
    money: float | None
    images: float | None
    forward_flops: float | None
    parameters: int | None
    data_rows: int | None
    epochs: float | None
    imported_at: float
    device: str | None = None
    """Capsules of before there was such a column have none."""

    @property
    def said(self) -> External:
        """What it says, as an import of it says it: its key follows from that."""
        names = [field.name for field in fields(External) if field.name not in ("place", "has_seeds")]
        return External(place=self.source, **{name: getattr(self, name) for name in names})


@dataclass(frozen=True)
class LawRecord:
    """A fitted law, with the parameters of its bootstrap replicates."""

    key: str
    points_digest: str
    form: str
    family: str | None
    kind: str
    metric: str
    dataset: str
    split: str
    image_size: int
    answer: str
    draws: str
    fitted_at: float


@dataclass(frozen=True)
class StudyTables:
    """All of a study; also every run that one of its runs stands on."""

    study: tuple[StudyRecord, ...]
    """One row."""
    runs: tuple[RunRecord, ...]
    """What a run stands on comes before it."""
    links: tuple[LinkRecord, ...]
    attempts: tuple[AttemptRecord, ...]
    measurements: tuple[MeasurementRecord, ...]
    results: tuple[ResultRecord, ...]
    searches: tuple[SearchRecord, ...]
    external: tuple[ExternalRecord, ...]
    laws: tuple[LawRecord, ...]


RECORDS: Mapping[str, type[Any]] = {
    "study": StudyRecord,
    "runs": RunRecord,
    "links": LinkRecord,
    "attempts": AttemptRecord,
    "measurements": MeasurementRecord,
    "results": ResultRecord,
    "searches": SearchRecord,
    "external": ExternalRecord,
    "laws": LawRecord,
}
"""What the rows of each table of `StudyTables` are."""

R = TypeVar("R")


def tables_of(connection: Connection, study_id: int) -> StudyTables:
    """All of a study, as it is at this moment of the store."""
    links = links_of(connection, study_id)
    return StudyTables(
        study=tuple(_records(connection, StudyRecord, StudyRow, StudyRow.id == study_id)),
        runs=tuple(_upstream_first(_runs(connection, study_id), links)),
        links=tuple(links),
        attempts=tuple(attempts_of(connection, study_id)),
        measurements=tuple(measurements_of(connection, study_id)),
        results=tuple(_results(connection, study_id)),
        searches=tuple(_searches(connection, study_id)),
        external=tuple(external_of(connection, study_id)),
        laws=tuple(laws_of(connection, study_id)),
    )


def links_of(connection: Connection, study_id: int) -> list[LinkRecord]:
    """What a study wants each run for, in its order."""
    query = (
        select(RunRow.key, *_columns(LinkRecord, StudyRunRow))
        .join(StudyRunRow, StudyRunRow.run_id == RunRow.id)
        .where(StudyRunRow.study_id == study_id)
    )
    rows = [LinkRecord(**row._mapping) for row in connection.execute(query)]
    return sorted(rows, key=lambda link: (link.position, link.key))


def attempts_of(connection: Connection, study_id: int) -> list[AttemptRecord]:
    """The attempts at the runs of a study and at what those stand on, by key and fence."""
    rows = _of_runs(connection, AttemptRecord, AttemptRow, study_id)
    return sorted(rows, key=lambda attempt: (attempt.key, attempt.fence))


def measurements_of(connection: Connection, study_id: int) -> list[MeasurementRecord]:
    """What was measured on the way of the runs of a study and of what those stand on, by key, metric and step."""
    rows = _of_runs(connection, MeasurementRecord, MeasurementRow, study_id)
    return sorted(rows, key=lambda measured: (measured.key, measured.metric, measured.step))


def external_of(connection: Connection, study_id: int) -> list[ExternalRecord]:
    """The imported results beside a study's own, in the order in which they came."""
    return _records(connection, ExternalRecord, ExternalRow, ExternalRow.study_id == study_id, ExternalRow.id)


def laws_of(connection: Connection, study_id: int) -> list[LawRecord]:
    """The laws that were fitted to a study, by their keys."""
    return sorted(_records(connection, LawRecord, LawRow, LawRow.study_id == study_id), key=lambda law: law.key)


# -------------------------------------------------------------------------------------------------------------- inside


def _columns(kind: type[Any], row: Any) -> list[ColumnElement[Any]]:
    """The columns of a table that a record has under the same names."""
    columns = table_of(row).c
    return [columns[field.name] for field in fields(kind) if field.name in columns]


def _records(connection: Connection, kind: type[R], row: Any, where: Any, order: Any = None) -> list[R]:
    query = select(*_columns(kind, row)).where(where).order_by(order)
    return [kind(**each._mapping) for each in connection.execute(query)]


def _with_upstreams(study_id: int) -> Subquery:
    """Ids of the runs that a study wants or searches on, and of all that those stand on."""
    wanted = select(StudyRunRow.run_id.label("id")).where(StudyRunRow.study_id == study_id)
    searched = select(SearchRow.upstream_id.label("id")).where(SearchRow.study_id == study_id)
    found = select(wanted.union(searched).subquery().c.id).cte("found", recursive=True)
    above = select(RunRow.upstream_id).join(found, RunRow.id == found.c.id).where(RunRow.upstream_id.is_not(None))
    return select(found.union(above).c.id).subquery()


def _of_runs(connection: Connection, kind: type[R], row: Any, study_id: int) -> list[R]:
    of_study = _with_upstreams(study_id)
    query = (
        select(RunRow.key, *_columns(kind, row))
        .join(row, row.run_id == RunRow.id)
        .join(of_study, of_study.c.id == RunRow.id)
    )
    return [kind(**each._mapping) for each in connection.execute(query)]


def _runs(connection: Connection, study_id: int) -> list[RunRecord]:
    of_study = _with_upstreams(study_id)
    query = (
        select(*_columns(RunRecord, RunRow), _UPSTREAM.c.key.label("upstream"))
        .outerjoin(_UPSTREAM, _UPSTREAM.c.id == RunRow.upstream_id)
        .join(of_study, of_study.c.id == RunRow.id)
    )
    rows = [dict(row._mapping) for row in connection.execute(query)]
    return [
        RunRecord(**{**row, "checkpoint": row["checkpoint"] if row["state"] == State.DONE else None}) for row in rows
    ]


def _upstream_first(runs: Sequence[RunRecord], links: Sequence[LinkRecord]) -> list[RunRecord]:
    """By the number of runs that each stands on, directly or not, then as the study wants them, then by key."""
    upstream = {run.key: run.upstream for run in runs}
    place = {link.key: number for number, link in enumerate(links)}

    def depth(key: str | None) -> int:
        return 0 if key is None else 1 + depth(upstream[key])

    return sorted(runs, key=lambda run: (depth(run.upstream), place.get(run.key, len(place)), run.key))


def _results(connection: Connection, study_id: int) -> list[ResultRecord]:
    rows = _of_runs(connection, ResultRecord, ResultRow, study_id)
    return sorted(rows, key=lambda result: (result.key, result.metric, result.dataset, result.split))


def _searches(connection: Connection, study_id: int) -> list[SearchRecord]:
    query = (
        select(*_columns(SearchRecord, SearchRow), RunRow.key.label("upstream"))
        .join(RunRow, RunRow.id == SearchRow.upstream_id)
        .where(SearchRow.study_id == study_id)
    )
    rows = [SearchRecord(**row._mapping) for row in connection.execute(query)]
    return sorted(rows, key=lambda search: (search.position, search.key))
