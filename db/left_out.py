"""What is not in a series, and why; and the runs that are behind its points. Nothing here writes."""

import json
import math
from collections import defaultdict
from collections.abc import Sequence

from sqlalchemy import ColumnElement, Connection, and_, case, false, func, literal, null, select

from db import wanting
from db.axes import Prices, points_on
from db.dialect import AnyRow
from db.points import is_a_cost, kind_of_series, makes_points
from db.series import Series
from db.tables import ExternalRow, PointRow, ResultRow, RunRow, State, StudyRunRow
from studies.metrics import fewshot_accuracy

_NO_COST = "no known cost"
_NOT_FINITE = "not a finite number"
_REASONS = ("failed", "blocked", "cancelled", "pruned", "not finished", _NOT_FINITE, _NO_COST)


def excluded(
    connection: Connection, series: Series, axis: str = "flops", prices: Prices | None = None
) -> list[tuple[str, list[str]]]:
    """What belongs into a series and is not in it, or has no place on this axis: (reason, keys) for each reason.

    The keys are those of runs and of imported results. Of a mean also those of a pre-training that is in some of its
    series and not in all: `no result on <data set>`, or `several results on <data set>`.
    Raises ValueError as `points_on`.
    """
    reasons: dict[str, list[str]] = {reason: [] for reason in _REASONS}
    for part in series.parts or (series,):
        for row in _runs_left_out(connection, part):
            reason = _reason(row, part)
            if reason is not None:
                reasons[reason].append(row.key)
        not_finite = select(ExternalRow.key).where(*_imported_into(part), ExternalRow.value.is_(None))
        reasons[_NOT_FINITE] += connection.execute(not_finite.order_by(ExternalRow.id)).scalars()
    points = points_on(series, axis, prices)
    without = select(points.c.configuration).where(points.c.cost.is_(None)).order_by(points.c.configuration)
    costless = list(connection.execute(without).scalars())
    behind = runs_behind(connection, series, costless)
    known = set(reasons[_NO_COST])
    reasons[_NO_COST] += [key for name in costless for key in behind[name] if key not in known]
    if series.parts:
        reasons |= _incomplete(connection, series)
    return [(reason, keys) for reason, keys in reasons.items() if keys]


def runs_behind(connection: Connection, series: Series, names: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """The keys of the runs whose values are in each point, in the order of the study; or of the imported results.

    names: configurations; of a mean, those of pre-trainings.
    """
    if not series.parts:
        return _runs_of(connection, series, names)
    found: dict[str, list[str]] = {name: [] for name in names}
    for part in series.parts:
        of_name: dict[str, str] = {}
        for chunk in wanting.chunks(names):
            query = select(PointRow.configuration, PointRow.pretraining).where(
                PointRow.series_id == part.id, PointRow.pretraining.in_(chunk)
            )
            of_name |= {row.configuration: row.pretraining for row in connection.execute(query)}
        for configuration, keys in _runs_of(connection, part, sorted(of_name)).items():
            found[of_name[configuration]] += keys
    return {name: tuple(keys) for name, keys in found.items()}


# --------------------------------------------------------------------------------------------------------------- runs


def _runs_of(connection: Connection, series: Series, configurations: Sequence[str]) -> dict[str, tuple[str, ...]]:
    found: dict[str, list[str]] = {configuration: [] for configuration in configurations}
    for chunk in wanting.chunks(configurations):
        query = (
            select(RunRow.configuration, RunRow.key)
            .join(StudyRunRow, (StudyRunRow.run_id == RunRow.id) & (StudyRunRow.study_id == series.study_id))
            .join(
                ResultRow,
                (ResultRow.run_id == RunRow.id)
                & (ResultRow.metric == series.metric)
                & (ResultRow.dataset == series.dataset)
                & (ResultRow.split == series.split),
            )
            .where(RunRow.configuration.in_(chunk), RunRow.state == State.DONE, ResultRow.value.is_not(None))
            .order_by(StudyRunRow.position)
        )
        for row in connection.execute(query):
            found[row.configuration].append(row.key)
    imported = [configuration for configuration, keys in found.items() if not keys]
    for chunk in wanting.chunks(imported):
        query = select(ExternalRow.configuration, ExternalRow.key).where(
            *_imported_into(series), ExternalRow.value.is_not(None), ExternalRow.configuration.in_(chunk)
        )
        for row in connection.execute(query.order_by(ExternalRow.id)):
            found[row.configuration].append(row.key)
    return {configuration: tuple(keys) for configuration, keys in found.items()}


def _imported_into(series: Series) -> list[ColumnElement[bool]]:
    return [
        ExternalRow.study_id == series.study_id,
        ExternalRow.kind == series.kind,
        ExternalRow.metric == series.metric,
        ExternalRow.dataset == series.dataset,
        ExternalRow.split == series.split,
        ExternalRow.image_size == series.image_size,
    ]


# ------------------------------------------------------------------------------------------------------------ reasons


def _runs_left_out(connection: Connection, series: Series) -> list[AnyRow]:
    """The runs of a study that would be in a series and may not be, in the order of the study.

    Asked twice, so that of runs that are in it, which may be millions, no results are looked up.
    """
    of_series = [
        *(ResultRow.metric == series.metric, ResultRow.dataset == series.dataset, ResultRow.split == series.split),
        ResultRow.image_size == series.image_size,
    ]
    definition = case((RunRow.kind == "fewshot", RunRow.definition)).label("definition")
    columns = (StudyRunRow.position, RunRow.key, RunRow.kind, RunRow.state, RunRow.train_flops, definition)
    wanted = (
        StudyRunRow.study_id == series.study_id,
        kind_of_series == series.kind,
        makes_points,
        RunRow.dataset == series.dataset,
        RunRow.split == series.split,
        RunRow.image_size == series.image_size,
    )
    finished = (RunRow.state == State.DONE) & (RunRow.train_flops > 0) & (RunRow.train_flops < literal(math.inf))
    elsewhere = (
        select(*columns, ResultRow.metric, ResultRow.value)
        .join(StudyRunRow, StudyRunRow.run_id == RunRow.id)
        .outerjoin(ResultRow, and_(ResultRow.run_id == RunRow.id, *of_series))
        .where(~func.coalesce(finished, false()), *wanted)
    )
    not_finite = (
        select(*columns, literal(series.metric).label("metric"), null().label("value"))
        .join(StudyRunRow, StudyRunRow.run_id == RunRow.id)
        .where(finished, *wanted, RunRow.id.in_(select(ResultRow.run_id).where(*of_series, ResultRow.value.is_(None))))
    )
    rows = [row for query in (elsewhere, not_finite) for row in connection.execute(query)]
    return sorted(rows, key=lambda row: row.position)


def _reason(row: AnyRow, series: Series) -> str | None:
    if row.state == State.DONE:
        if row.metric is None:
            return None  # it measures something else
        if row.value is None:
            return _NOT_FINITE
        return None if is_a_cost(row.train_flops) else _NO_COST
    # A transfer has one kind of series for whatever measures it.
    if row.kind == "fewshot":
        shots = json.loads(row.definition).get("shots", [])
        if series.metric not in [fewshot_accuracy(n) for n in shots]:
            return None
    elif series.metric.endswith("shot"):
        return None
    if row.state in (State.FAILED, State.BLOCKED, State.CANCELLED, State.PRUNED):
        return str(row.state)
    return "not finished"


def _incomplete(connection: Connection, series: Series) -> dict[str, list[str]]:
    """Pre-trainings that are in some series of a mean, but not once in each, by the first where they are not."""
    counts: dict[str, dict[int, int]] = defaultdict(dict)
    query = (
        select(PointRow.pretraining, PointRow.series_id, func.count().label("points"))
        .where(PointRow.series_id.in_([part.id for part in series.parts]))
        .group_by(PointRow.pretraining, PointRow.series_id)
        .order_by(PointRow.pretraining)
    )
    for row in connection.execute(query):
        counts[row.pretraining][row.series_id] = row.points
    reasons: dict[str, list[str]] = {}
    for pretraining, of_series in counts.items():
        for part in series.parts:
            number = of_series.get(part.id, 0)
            if number != 1:
                reasons.setdefault(f"{'several results' if number else 'no result'} on {part.dataset}", []).append(
                    pretraining
                )
                break
    behind = runs_behind(connection, series, [name for names in reasons.values() for name in names])
    return {reason: [key for name in names for key in behind[name]] for reason, names in reasons.items()}
