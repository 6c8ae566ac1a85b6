"""Frontiers of a study: its series, the points of each, which of them nothing beats, and what is left out.

Nothing here writes.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from sqlalchemy import Connection, func, select, text

from db import wanting
from db.dialect import AnyRow
from db.points import is_a_cost, kind_of_series, makes_points
from db.tables import PointRow, ResultRow, RunRow, SeriesRow, State, StudyRunRow, table_of
from db.views import frontier_rows
from studies.metrics import fewshot_accuracy


@dataclass(frozen=True)
class Series:
    """Points of a study that may be compared."""

    id: int
    study_id: int
    kind: str
    metric: str
    dataset: str
    split: str
    image_size: int
    direction: int
    points: int

    @property
    def transfer(self) -> str | None:
        """What the study calls the transfer after which it was measured; None for the pre-trained models."""
        return None if self.kind in ("evaluate", "fewshot") else self.kind


@dataclass(frozen=True)
class Point:
    """A configuration in a series, its seeds averaged; the fields are explained in `db/tables.py`."""

    configuration: str
    training: str
    family: str
    model: str
    cost: float
    quality: float
    value: float
    sd: float | None
    seeds: int
    epochs: float
    data_rows: int
    parameters: int
    sweep: str | None
    searched: str | None
    runs: tuple[str, ...]
    """Keys of the evaluations that it is the mean of."""


@dataclass(frozen=True)
class FrontierPoint:
    """A configuration that no other beats on both cost and quality."""

    configuration: str
    family: str
    model: str
    cost: float
    quality: float
    value: float
    sd: float | None
    seeds: int
    epochs: float
    data_rows: int
    parameters: int
    runs: tuple[str, ...]
    """Keys of the evaluations that it is the mean of, those of `same` included."""
    same: tuple[str, ...]
    """Other configurations of exactly this cost and quality."""


def series_of(connection: Connection, study_id: int) -> list[Series]:
    """The series of a study that have results."""
    count = select(func.count()).where(PointRow.series_id == SeriesRow.id).scalar_subquery().label("points")
    rows = connection.execute(select(*table_of(SeriesRow).c, count).where(SeriesRow.study_id == study_id))
    return sorted(
        (Series(**row._mapping) for row in rows),
        key=lambda series: (series.kind, series.metric, series.dataset, series.split, series.image_size),
    )


def points_of(connection: Connection, series_id: int) -> list[Point]:
    """The points of a series, the cheapest first, of equal cost the best first."""
    columns = [column for column in table_of(PointRow).c if column.name != "series_id"]
    query = (
        select(*columns)
        .where(PointRow.series_id == series_id)
        .order_by(PointRow.cost, PointRow.quality.desc(), PointRow.configuration)
    )
    rows = connection.execute(query).all()
    runs = _runs_behind(connection, series_id, [row.configuration for row in rows])
    return [Point(**row._mapping, runs=runs[row.configuration]) for row in rows]


def frontier(connection: Connection, series_id: int, by_family: bool = False) -> list[FrontierPoint]:
    """The configurations of a series on the frontier, the cheapest first; of equal cost and quality one names all.

    by_family: of each family its own frontier, one family after the other. Otherwise of all families together.
    """
    query = text(frontier_rows(connection.dialect.name, "WHERE s.id = :series_id"))
    rows = connection.execute(query, {"series_id": series_id}).all()

    def place(row: AnyRow) -> tuple[Any, ...]:
        return (row.family if by_family else "", row.cost, -row.quality)

    kept = sorted((row for row in rows if by_family or row.pooled), key=lambda row: (place(row), row.configuration))
    runs = _runs_behind(connection, series_id, [row.configuration for row in kept])
    points = []
    for _, equals in groupby(kept, key=place):
        first, *others = equals
        same = tuple(row.configuration for row in others)
        points.append(
            FrontierPoint(
                configuration=first.configuration,
                family=first.family,
                model=first.model,
                cost=first.cost,
                quality=first.quality,
                value=first.value,
                sd=first.sd,
                seeds=first.seeds,
                epochs=first.epochs,
                data_rows=first.data_rows,
                parameters=first.parameters,
                runs=tuple(key for of in (first.configuration, *same) for key in runs[of]),
                same=same,
            )
        )
    return points


def excluded(connection: Connection, series: Series) -> list[tuple[str, list[str]]]:
    """The runs of a study that belong into a series and are not in it: (reason, keys) for each reason that there is."""
    query = (
        select(
            RunRow.key,
            RunRow.kind,
            RunRow.state,
            RunRow.definition,
            RunRow.train_flops,
            ResultRow.metric,
            ResultRow.value,
        )
        .join(StudyRunRow, StudyRunRow.run_id == RunRow.id)
        .outerjoin(
            ResultRow,
            (ResultRow.run_id == RunRow.id)
            & (ResultRow.metric == series.metric)
            & (ResultRow.dataset == series.dataset)
            & (ResultRow.split == series.split)
            & (ResultRow.image_size == series.image_size),
        )
        .where(
            StudyRunRow.study_id == series.study_id,
            kind_of_series == series.kind,
            makes_points,
            RunRow.dataset == series.dataset,
            RunRow.split == series.split,
            RunRow.image_size == series.image_size,
        )
        .order_by(StudyRunRow.position)
    )
    reasons: dict[str, list[str]] = {
        reason: []
        for reason in ("failed", "blocked", "cancelled", "not finished", "not a finite number", "no known cost")
    }
    for row in connection.execute(query):
        reason = _reason(row, series)
        if reason is not None:
            reasons[reason].append(row.key)
    return [(reason, keys) for reason, keys in reasons.items() if keys]


def _reason(row: AnyRow, series: Series) -> str | None:
    if row.state == State.DONE:
        if row.metric is None:
            return None  # it measures something else
        if row.value is None:
            return "not a finite number"
        return None if is_a_cost(row.train_flops) else "no known cost"
    # A transfer has one kind of series for whatever measures it.
    if row.kind == "fewshot":
        shots = json.loads(row.definition).get("shots", [])
        if series.metric not in [fewshot_accuracy(n) for n in shots]:
            return None
    elif series.metric.endswith("shot"):
        return None
    if row.state in (State.FAILED, State.BLOCKED, State.CANCELLED):
        return str(row.state)
    return "not finished"


def _runs_behind(connection: Connection, series_id: int, configurations: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """The keys of the runs whose values are in each point, in the order of the study."""
    found: dict[str, list[str]] = {configuration: [] for configuration in configurations}
    for chunk in wanting.chunks(configurations):
        query = (
            select(RunRow.configuration, RunRow.key)
            .join(SeriesRow, SeriesRow.id == series_id)
            .join(StudyRunRow, (StudyRunRow.run_id == RunRow.id) & (StudyRunRow.study_id == SeriesRow.study_id))
            .join(
                ResultRow,
                (ResultRow.run_id == RunRow.id)
                & (ResultRow.metric == SeriesRow.metric)
                & (ResultRow.dataset == SeriesRow.dataset)
                & (ResultRow.split == SeriesRow.split),
            )
            .where(RunRow.configuration.in_(chunk), RunRow.state == State.DONE, ResultRow.value.is_not(None))
            .order_by(StudyRunRow.position)
        )
        for row in connection.execute(query):
            found[row.configuration].append(row.key)
    return {configuration: tuple(keys) for configuration, keys in found.items()}
