"""Frontiers of a study: the points of each series on any axis of cost, and which of them nothing beats.

What a series is stands in `db/series.py`, what is left out of one in `db/left_out.py`, what misses a frontier by little
in `db/ties.py`. Nothing here writes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from dataclasses import fields as fields_of
from itertools import groupby
from typing import Any, TypeVar

from sqlalchemy import Connection, func, select, text

from db.axes import AXES, Prices, points_on
from db.dialect import AnyRow
from db.left_out import excluded, runs_behind
from db.series import AVG5, Series, is_a_mean, mean_of, series_of, series_with
from db.spread import spread_of

__all__ = [
    "AVG5",
    "AXES",
    "FrontierPoint",
    "Point",
    "Series",
    "configurations",
    "excluded",
    "frontier",
    "is_a_mean",
    "mean_of",
    "points_of",
    "series_of",
]


@dataclass(frozen=True)
class Point:
    """A configuration in a series, its seeds averaged; the fields are explained in `db/tables.py`."""

    configuration: str
    training: str
    family: str
    model: str
    cost: float
    """On the axis that was asked for."""
    quality: float
    value: float
    sd: float | None
    seeds: int
    epochs: float | None
    data_rows: int | None
    parameters: int | None
    sweep: str | None
    searched: str | None
    runs: tuple[str, ...]
    """Keys of the evaluations that it is the mean of; of an imported one, those of the imported results."""
    images: float | None = None
    forward_flops: float | None = None
    device_seconds: float | None = None
    device: str | None = None
    money: float | None = None
    external: bool = False
    pretraining: str = ""


@dataclass(frozen=True)
class FrontierPoint:
    """A configuration that no other beats on both cost and quality."""

    configuration: str
    family: str
    model: str
    cost: float
    """On the axis that was asked for."""
    quality: float
    value: float
    sd: float | None
    seeds: int
    epochs: float | None
    data_rows: int | None
    parameters: int | None
    runs: tuple[str, ...]
    """Keys of the evaluations that it is the mean of, those of `same` included."""
    same: tuple[str, ...]
    """Other configurations of exactly this cost and quality."""
    training: str = ""
    images: float | None = None
    forward_flops: float | None = None
    device_seconds: float | None = None
    device: str | None = None
    money: float | None = None
    external: bool = False
    pretraining: str = ""


AnyPoint = TypeVar("AnyPoint", Point, FrontierPoint)
OF_POINT = [field.name for field in fields_of(Point) if field.name != "runs"]
_OF_FRONTIER = [field.name for field in fields_of(FrontierPoint) if field.name not in ("runs", "same")]


def points_of(
    connection: Connection, series: Series | int, axis: str = "flops", prices: Prices | None = None
) -> list[Point]:
    """The points of a series with a known cost on this axis, the cheapest first, of equal cost the best first.

    series: its id will do for one that is no mean.
    Raises ValueError for an axis that is none, or a price that is no positive number.
    """
    series = _series(connection, series)
    points = points_on(series, axis, prices)
    query = (
        select(*(points.c[name] for name in OF_POINT))
        .where(points.c.cost.is_not(None))
        .order_by(points.c.cost, points.c.quality.desc(), points.c.configuration)
    )
    rows = connection.execute(query).all()
    runs = runs_behind(connection, series, [row.configuration for row in rows])
    return _spread(connection, series, [Point(**row._mapping, runs=runs[row.configuration]) for row in rows])


def configurations(connection: Connection, series: Series, axis: str = "flops", prices: Prices | None = None) -> int:
    """How many points `points_of` would read. Over training FLOPs the index tells; otherwise all are passed.

    Raises ValueError as `points_of`.
    """
    points = points_on(series, axis, prices)
    return connection.execute(select(func.count(points.c.cost))).scalar_one()


def frontier(
    connection: Connection,
    series: Series | int,
    by_family: bool = False,
    axis: str = "flops",
    prices: Prices | None = None,
) -> list[FrontierPoint]:
    """The configurations of a series on the frontier, the cheapest first; of equal cost and quality one names all.

    by_family: of each family its own frontier, one family after the other. Otherwise of all families together.
    Over training FLOPs it stands already, as long as it is; on another axis, or of a mean, all points are read.
    Raises ValueError as `points_of`.
    """
    series = _series(connection, series)
    if axis == "flops" and not series.parts:
        led: Sequence[AnyRow] = connection.execute(_STANDING, {"series_id": series.id}).all()
        kept = list(led) if by_family else _unbeaten(led)
    else:
        kept = _by_window(connection, series, by_family, axis, prices)

    def place(row: AnyRow) -> tuple[Any, ...]:
        return (row.family if by_family else "", row.cost, -row.quality)

    kept.sort(key=lambda row: (place(row), row.configuration))
    runs = runs_behind(connection, series, [row.configuration for row in kept])
    found = [_frontier_point(list(equals), runs) for _, equals in groupby(kept, key=place)]
    return _spread(connection, series, found)


def _series(connection: Connection, series: Series | int) -> Series:
    return series_with(connection, series) if isinstance(series, int) else series


def _spread(connection: Connection, series: Series, points: list[AnyPoint]) -> list[AnyPoint]:
    """The points of a mean with their standard deviation, where it is known: it does not follow from the parts'."""
    if not series.parts or all(point.seeds < 2 for point in points):
        return points
    known = spread_of(connection, series)
    return [replace(point, **known[of]._asdict()) if (of := point.pretraining) in known else point for point in points]


_STANDING = text(f"SELECT {', '.join(_OF_FRONTIER)} FROM point WHERE leads AND series_id = :series_id")
"""Text, because SQLite finds the index by the bare word of its condition."""


def _unbeaten(led: Sequence[AnyRow]) -> list[AnyRow]:
    """Of the points on the frontiers of families those that no other family's beat."""
    kept: list[AnyRow] = []
    for row in sorted(led, key=lambda row: (row.cost, -row.quality)):
        if not kept or row.quality > kept[-1].quality or (row.cost, row.quality) == (kept[-1].cost, kept[-1].quality):
            kept.append(row)
    return kept


def _by_window(
    connection: Connection, series: Series, by_family: bool, axis: str, prices: Prices | None
) -> list[AnyRow]:
    """A frame of groups ends before all that cost and are worth the same: exact duplicates are on it together.

    What is sorted is narrow: of a million points all columns would take twice as long.
    """
    points = points_on(series, axis, prices)
    best_before = func.max(points.c.quality).over(
        partition_by=points.c.family if by_family else None,
        order_by=[points.c.cost, points.c.quality.desc()],
        groups=(None, -1),
    )
    placed = (
        select(points.c.configuration, points.c.quality, best_before.label("best_before"))
        .where(points.c.cost.is_not(None))
        .subquery()
    )
    on_it = placed.c.best_before.is_(None) | (placed.c.quality > placed.c.best_before)
    names = select(placed.c.configuration).where(on_it)
    return list(
        connection.execute(select(*(points.c[name] for name in _OF_FRONTIER)).where(points.c.configuration.in_(names)))
    )


def _frontier_point(equals: Sequence[AnyRow], runs: dict[str, tuple[str, ...]]) -> FrontierPoint:
    # Text that is sent to SQLite brings no types: its booleans come as numbers.
    fields = {**dict(zip(_OF_FRONTIER, equals[0], strict=True)), "external": bool(equals[0].external)}
    names = [row.configuration for row in equals]
    return FrontierPoint(**fields, runs=tuple(key for name in names for key in runs[name]), same=tuple(names[1:]))
