"""Runners-up: the points that miss a frontier by less than one standard error, looked for where the data is.

The definition is `tied` in `studies/frontiers.py`, and it decides. SQL brings it those points alone that could be tied:
the standard error of a difference is at most the sum of the two, and without seeds there is none. Nothing here writes.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

from sqlalchemy import ColumnElement, Connection, Double, Subquery, func, literal, select, text, true

from db.axes import Prices, points_on
from db.dialect import AnyRow
from db.frontiers import OF_POINT, FrontierPoint, Point
from db.left_out import runs_behind
from db.series import Series
from db.spread import Spread, spread_of
from db.tables import PointRow
from studies.frontiers import tied

_ROUNDING = 1.000001
"""What SQL finds is judged again, so it may find a little too much, but nothing too little."""
_AT_ONCE = 1_000
"""Points of a frontier that one statement compares with."""


def ties(
    connection: Connection,
    series: Series,
    led: Sequence[FrontierPoint],
    by_family: bool = False,
    axis: str = "flops",
    prices: Prices | None = None,
) -> list[Point]:
    """The points that are tied with a frontier, in the order of `led`: by family, then the cheapest, then the best.

    led: what `db.frontiers.frontier` answers to the same question.
    Over training FLOPs two indexes are read: of points with several seeds, and, where a point of the frontier has
    several, of all. On another axis, and of a mean, all points are sorted once if any has several seeds.
    Raises ValueError as `points_on`.
    """
    spread = _spread(connection, series)
    if spread == {} or not led:
        return []
    rows: Iterable[AnyRow]
    if axis == "flops" and not series.parts:
        rows = _along_the_index(connection, series, led, by_family)
    else:
        rows = _by_window(connection, points_on(series, axis, prices), led, by_family, spread)
    near = [Point(**{**row._mapping, "external": bool(row.external)}, runs=()) for row in rows]
    if spread:
        near = [replace(p, **spread[p.pretraining]._asdict()) if p.pretraining in spread else p for p in near]
    found = [point for group in _families(led, near, by_family) for point in _tied(*group)]
    runs = runs_behind(connection, series, [point.configuration for point in found])
    return [replace(point, runs=runs[point.configuration]) for point in found]


def _spread(connection: Connection, series: Series) -> Mapping[str, Spread] | None:
    """Of a mean the deviations by pre-training; of one data set None, or nothing where no point has several seeds."""
    ids = [part.id for part in series.parts or (series,)]
    repeated = select(PointRow.sd).where(PointRow.series_id.in_(ids), PointRow.sd.is_not(None)).limit(1)
    if connection.execute(repeated).first() is None:
        return {}
    return spread_of(connection, series) if series.parts else None


def _error(of: Spread | Point | FrontierPoint) -> float:
    """The standard error of a mean over seeds; NaN where it is not known."""
    return math.nan if of.sd is None else of.sd / math.sqrt(of.seeds)


# ------------------------------------------------------------------------------------------------------ what is tied


def _families(
    led: Sequence[FrontierPoint], near: Sequence[Point], by_family: bool
) -> Iterator[tuple[list[FrontierPoint], list[Point]]]:
    """Of each frontier its points and those near it."""
    if not by_family:
        yield list(led), list(near)
        return
    for family in dict.fromkeys(point.family for point in led):
        yield [p for p in led if p.family == family], [p for p in near if p.family == family]


def _tied(led: Sequence[FrontierPoint], near: Iterable[Point]) -> list[Point]:
    leading = {point.configuration for point in led}
    others = [point for point in near if point.configuration not in leading]
    points: list[FrontierPoint | Point] = [*led, *others]
    rows = tied(
        [point.cost for point in points],
        [point.quality for point in points],
        [_error(point) for point in points],
        range(len(led)),
    )
    found = [others[row - len(led)] for row in rows]
    return sorted(found, key=lambda point: (point.cost, -point.quality, point.configuration))


# -------------------------------------------------------------------------------------------- over training FLOPs

# Of points with several seeds the index `point_repeated` holds all that is compared. A point of one seed can be tied
# with a repeated one alone, and only where it is at least as good as `least`. The stretches come first in every plan:
# SQLite keeps the order of a CROSS JOIN, PostgreSQL that of LATERAL with an OFFSET.
_REPEATED = """
    q.series_id = :series_id AND q.family = s.family AND q.cost >= s.low AND q.cost < s.high AND q.sd IS NOT NULL
    AND s.quality - q.quality <= :rounding * (s.error + q.sd / sqrt(q.seeds))
"""
_SINGLE = """
    q.series_id = :series_id AND q.family = s.family AND q.cost >= s.low AND q.cost < s.high AND q.quality >= s.least
    AND s.known AND q.sd IS NULL
"""
_OF_STRETCHES = {
    "sqlite": "SELECT {columns} FROM stretch s CROSS JOIN point q JOIN point p ON p.rowid = q.rowid WHERE {condition}",
    "postgresql": """
SELECT {columns} FROM stretch s CROSS JOIN LATERAL (SELECT * FROM point q WHERE {condition} OFFSET 0) p""",
}
_STRETCH = ("family", "low", "high", "quality", "error", "known", "least")


def _along_the_index(
    connection: Connection, series: Series, led: Sequence[FrontierPoint], by_family: bool
) -> Iterator[AnyRow]:
    """The points of each family between one point of the frontier and the next that are near the first of the two."""
    families = list(connection.execute(_FAMILIES, {"series_id": series.id}).scalars())
    stretches = [
        (family, *stretch)
        for group, _ in _families(led, (), by_family)
        for stretch in _stretches(group)
        for family in ([group[0].family] if by_family else families)
    ]
    columns = ", ".join(f"p.{name}" for name in OF_POINT)
    of_stretches = _OF_STRETCHES[connection.dialect.name]
    for start in range(0, len(stretches), _AT_ONCE):
        rows = stretches[start : start + _AT_ONCE]
        given = {f"{name}{n}": value for n, row in enumerate(rows) for name, value in zip(_STRETCH, row, strict=True)}
        listed = ", ".join(f"({', '.join(f':{name}{n}' for name in _STRETCH)})" for n in range(len(rows)))
        both = " UNION ALL ".join(
            of_stretches.format(columns=columns, condition=condition) for condition in (_REPEATED, _SINGLE)
        )
        query = text(f"WITH stretch({', '.join(_STRETCH)}) AS (VALUES {listed}) {both}")
        yield from connection.execute(query, {**given, "series_id": series.id, "rounding": _ROUNDING})


_FAMILIES = text("SELECT DISTINCT family FROM point WHERE leads AND series_id = :series_id")


def _stretches(led: Sequence[FrontierPoint]) -> Iterator[tuple[float, float, float, float, bool, float]]:
    """Of each point of one frontier what `_STRETCH` names, but for the family."""
    ends = [*(after.cost for _, after in pairwise(led)), math.inf]
    for point, high in zip(led, ends, strict=True):
        known = point.sd is not None
        error = _error(point) if known else 0.0
        least = math.nextafter(point.quality - _ROUNDING * error, -math.inf)
        yield point.cost, high, point.quality, error, known, least


# --------------------------------------------------------------------------------------------------- on other axes


def _by_window(
    connection: Connection,
    points: Subquery,
    led: Sequence[FrontierPoint],
    by_family: bool,
    spread: Mapping[str, Spread] | None,
) -> Sequence[AnyRow]:
    """The points near the best of those that cost no more, which is on the frontier.

    The largest standard error on the frontier stands for all on it, and of a mean, whose deviations SQL does not know,
    the largest of all for each point: a join would sort the points once more.
    """
    leaders = [_error(point) for point in led if point.sd is not None]
    error: ColumnElement[Any] = func.coalesce(points.c.sd / func.sqrt(points.c.seeds, type_=Double), 0.0)
    if spread:
        error = literal(max(map(_error, spread.values())))
    best = func.max(points.c.quality).over(partition_by=points.c.family if by_family else None, order_by=points.c.cost)
    far = _ROUNDING * (max(leaders, default=0.0) + error)
    could_be = true() if leaders or spread else points.c.sd.is_not(None)
    placed = (
        select(points.c.configuration, ((best - points.c.quality <= far) & could_be).label("near"))
        .where(points.c.cost.is_not(None))
        .subquery()
    )
    near = select(placed.c.configuration).where(placed.c.near)
    query = select(*(points.c[name] for name in OF_POINT)).where(points.c.configuration.in_(near))
    return connection.execute(query).all()
