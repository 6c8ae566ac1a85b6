"""What `vitscale export --what` writes: each question to the store as a table, its columns the fields of a dataclass.

A column stays what it is; new ones come at the end.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

from db import answers, exported, exported_views, frontiers
from db.frontiers import FrontierPoint, Point, Series
from db.store import Connection


@dataclass(frozen=True)
class PointOfSeries:
    """A configuration in a series, its seeds averaged."""

    kind: str
    metric: str
    dataset: str
    split: str
    image_size: int
    family: str
    model: str
    cost: float
    """Training FLOPs."""
    quality: float
    value: float
    sd: float | None
    seeds: int
    epochs: float | None
    data_rows: int | None
    parameters: int | None
    images: float | None
    forward_flops: float | None
    configuration: str
    training: str
    external: bool
    runs: tuple[str, ...]


@dataclass(frozen=True)
class PointOfFrontier:
    """A configuration on the frontier of its family, or of all: `pooled`. What is on both is in both."""

    kind: str
    metric: str
    dataset: str
    split: str
    image_size: int
    pooled: bool
    family: str
    model: str
    cost: float
    """Training FLOPs."""
    quality: float
    value: float
    sd: float | None
    seeds: int
    epochs: float | None
    data_rows: int | None
    parameters: int | None
    images: float | None
    forward_flops: float | None
    configuration: str
    external: bool
    runs: tuple[str, ...]
    same: tuple[str, ...]


class Table(NamedTuple):
    """A table that can be exported."""

    kind: type[Any]
    rows: Callable[[Connection, answers.Study], Sequence[Any]]


def _points(connection: Connection, study: answers.Study) -> list[PointOfSeries]:
    found = []
    for series in frontiers.series_of(connection, study.id):
        found += [PointOfSeries(**_shown(PointOfSeries, series, point)) for point in _points_of(connection, series)]
    return found


def _frontier(connection: Connection, study: answers.Study) -> list[PointOfFrontier]:
    found = []
    for series in frontiers.series_of(connection, study.id):
        for pooled in (True, False):
            for point in frontiers.frontier(connection, series, by_family=not pooled):
                found.append(PointOfFrontier(**_shown(PointOfFrontier, series, point), pooled=pooled))
    return found


def _points_of(connection: Connection, series: Series) -> list[Point]:
    return frontiers.points_of(connection, series)


def _shown(kind: type[Any], series: Series, point: Point | FrontierPoint) -> dict[str, Any]:
    """The fields that the point has, or else its series."""
    names = [field.name for field in fields(kind)]
    return {
        name: getattr(point if hasattr(point, name) else series, name)
        for name in names
        if hasattr(point, name) or hasattr(series, name)
    }


TABLES: Mapping[str, Table] = {
    "results": Table(answers.Result, lambda connection, study: answers.results_of(connection, study.id)),
    "runs": Table(exported_views.RunOfStudy, lambda connection, study: exported_views.runs_of(connection, study.name)),
    "attempts": Table(exported.AttemptRecord, lambda connection, study: exported.attempts_of(connection, study.id)),
    "measurements": Table(
        exported.MeasurementRecord, lambda connection, study: exported.measurements_of(connection, study.id)
    ),
    "points": Table(PointOfSeries, _points),
    "frontier": Table(PointOfFrontier, _frontier),
    "sweeps": Table(exported_views.Sweep, lambda connection, study: exported_views.sweeps_of(connection, study.name)),
    "external": Table(exported.ExternalRecord, lambda connection, study: exported.external_of(connection, study.id)),
    "laws": Table(exported.LawRecord, lambda connection, study: exported.laws_of(connection, study.id)),
}
"""By the name that `--what` takes."""
