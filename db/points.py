"""Keeps the points of a study in step with its results, in the transaction that changes either."""

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import Connection, delete, func, select

from db.dialect import AnyRow, insert_new, upsert
from db.tables import TRAININGS, PointRow, ResultRow, RunRow, SeriesRow, State, StudyRow, StudyRunRow, table_of
from studies import metrics

kind_of_series = func.coalesce(StudyRunRow.transfer, RunRow.kind)
"""The kind of a run's series in a study: what the study calls the transfer that it measures, or the run's own kind."""
makes_points = RunRow.kind.not_in(TRAININGS) & func.coalesce(StudyRunRow.role, "").not_in(("trunk", "trial"))
"""Whether a run that a study wants has a place in a series."""

_TRAINING = table_of(RunRow).alias("training")
_OF_TRAINING = table_of(StudyRunRow).alias("of_training")

SeriesName = tuple[str, str, str, str, int]
"""kind, metric, dataset, split, image_size."""


def refresh(connection: Connection, study_id: int, configuration: str | None = None) -> None:
    """Make the points of a study, or of one of its configurations, from the results that are in the store.

    A configuration has a point in a series when a seed of it has a finite value and its cost is known and positive.
    """
    # Two seeds that are committed at once must both be in the mean: the second waits here, then sees the first.
    connection.execute(select(StudyRow.id).where(StudyRow.id == study_id).with_for_update())

    seeds: dict[tuple[SeriesName, str], list[AnyRow]] = defaultdict(list)
    names: dict[SeriesName, int] = {}
    for row in _values(connection, study_id, configuration):
        direction = _direction(row.metric)
        if direction is None:
            continue
        name = (row.kind, row.metric, row.dataset, row.split, row.image_size)
        names[name] = direction
        if row.value is not None and is_a_cost(row.train_flops):
            seeds[name, row.configuration].append(row)

    series = _series(connection, study_id, names, drop_others=configuration is None)
    points = [
        _point(series[name], names[name], of_configuration, rows) for (name, of_configuration), rows in seeds.items()
    ]
    stale = delete(PointRow).where(
        PointRow.series_id.in_(select(SeriesRow.id).where(SeriesRow.study_id == study_id)),
    )
    if configuration is None:
        connection.execute(stale)
    elif not points:
        connection.execute(stale.where(PointRow.configuration == configuration))
    upsert(connection, table_of(PointRow), points, unique=("series_id", "configuration"))


def _values(connection: Connection, study_id: int, configuration: str | None) -> Sequence[AnyRow]:
    query = (
        select(
            kind_of_series.label("kind"),
            ResultRow.metric,
            ResultRow.dataset,
            ResultRow.split,
            ResultRow.image_size,
            ResultRow.value,
            RunRow.configuration,
            func.coalesce(_TRAINING.c.configuration, RunRow.configuration).label("training"),
            RunRow.family,
            RunRow.model,
            RunRow.train_flops,
            RunRow.epochs,
            RunRow.data_rows,
            RunRow.parameters,
            func.coalesce(StudyRunRow.sweep, _OF_TRAINING.c.sweep).label("sweep"),
            func.coalesce(StudyRunRow.searched, _OF_TRAINING.c.searched).label("searched"),
        )
        .join(StudyRunRow, StudyRunRow.run_id == RunRow.id)
        .join(ResultRow, ResultRow.run_id == RunRow.id)
        .outerjoin(_TRAINING, _TRAINING.c.id == RunRow.upstream_id)
        .outerjoin(_OF_TRAINING, (_OF_TRAINING.c.run_id == _TRAINING.c.id) & (_OF_TRAINING.c.study_id == study_id))
        .where(StudyRunRow.study_id == study_id, makes_points, RunRow.state == State.DONE)
        # The names of a point are those of its first seed in the study, whichever finished first.
        .order_by(StudyRunRow.position)
    )
    if configuration is not None:
        query = query.where(RunRow.configuration == configuration)
    return connection.execute(query).all()


def _series(
    connection: Connection, study_id: int, names: dict[SeriesName, int], *, drop_others: bool
) -> dict[SeriesName, int]:
    """The ids of these series, which are made where they are missing."""
    known = select(
        SeriesRow.kind, SeriesRow.metric, SeriesRow.dataset, SeriesRow.split, SeriesRow.image_size, SeriesRow.id
    ).where(SeriesRow.study_id == study_id)

    def ids() -> dict[SeriesName, int]:
        return {(row[0], row[1], row[2], row[3], row[4]): row[5] for row in connection.execute(known)}

    found = ids()
    missing = [name for name in names if name not in found]
    if missing:
        fields = ("kind", "metric", "dataset", "split", "image_size")
        rows = [
            {"study_id": study_id, "direction": names[name], **dict(zip(fields, name, strict=True))} for name in missing
        ]
        insert_new(connection, table_of(SeriesRow), rows)
        found = ids()
    unwanted = [series_id for name, series_id in found.items() if name not in names]
    if drop_others and unwanted:
        connection.execute(delete(PointRow).where(PointRow.series_id.in_(unwanted)))
        connection.execute(delete(SeriesRow).where(SeriesRow.id.in_(unwanted)))
    return found


def _point(series_id: int, direction: int, configuration: str, rows: Sequence[AnyRow]) -> dict[str, Any]:
    first = rows[0]
    value, sd = mean_and_sd([row.value for row in rows])
    return {
        "series_id": series_id,
        "configuration": configuration,
        "training": first.training,
        "family": first.family,
        "model": first.model,
        "cost": first.train_flops,
        "quality": direction * value,
        "value": value,
        "sd": sd,
        "seeds": len(rows),
        "epochs": first.epochs,
        "data_rows": first.data_rows,
        "parameters": first.parameters,
        "sweep": first.sweep,
        "searched": first.searched,
    }


def mean_and_sd(values: Iterable[float]) -> tuple[float, float | None]:
    """Mean and sample standard deviation from exactly rounded sums: the same bits in whichever order values come.

    A database's own avg() adds them in the order in which it finds the rows. The deviation of one value is None.
    """
    known = list(values)
    mean = math.fsum(known) / len(known)
    if len(known) < 2:
        return mean, None
    return mean, math.sqrt(math.fsum((value - mean) ** 2 for value in known) / (len(known) - 1))


def _direction(metric: str) -> int | None:
    """None for what makes no series: one support seed of several, and a metric that has no better side."""
    if metrics.is_of_one_support_seed(metric):
        return None
    try:
        return metrics.direction(metric)
    except ValueError:
        return None


def is_a_cost(flops: float | None) -> bool:
    """Whether a point can stand at this cost."""
    return flops is not None and math.isfinite(flops) and flops > 0
