"""Keeps the points of a study in step with its results and imported ones, in the transaction that changes either."""

import json
import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Integer, bindparam, case, delete, false, func, null, select, text, true

from db import dependents
from db.dialect import AnyRow, insert_new, upsert
from db.tables import (
    TRAININGS,
    AttemptRow,
    ExternalRow,
    PointRow,
    ResultRow,
    RunRow,
    SeriesRow,
    State,
    StudyRow,
    StudyRunRow,
    table_of,
)
from db.views import frontier_rows
from studies import metrics

kind_of_series = func.coalesce(StudyRunRow.transfer, RunRow.kind)
"""The kind of a run's series in a study: what the study calls the transfer that it measures, or the run's own kind."""
makes_points = RunRow.kind.not_in(TRAININGS) & func.coalesce(StudyRunRow.role, "").not_in(("trunk", "trial"))
"""Whether a run that a study wants has a place in a series."""

_TRAINING = table_of(RunRow).alias("training")
_ROOT = table_of(RunRow).alias("root")
"""What a fine-tuning began with. The upstream of a pre-training is a trunk."""
_OF_TRAINING = table_of(StudyRunRow).alias("of_training")

SeriesName = tuple[str, str, str, str, int]
"""kind, metric, dataset, split, image_size."""


def refresh(connection: Connection, study_id: int, configuration: str | None = None) -> None:
    """Make the points of a study, or of one of its configurations, from the results that are in the store.

    A configuration has a point in a series when a seed of it has a finite value and its cost is known and positive;
    an imported one also without that cost, as it may have another.
    """
    # Two seeds that are committed at once must both be in the mean: the second waits here, then sees the first.
    connection.execute(select(StudyRow.id).where(StudyRow.id == study_id).with_for_update())

    seeds: dict[tuple[SeriesName, str], list[AnyRow]] = defaultdict(list)
    names: dict[SeriesName, int] = {}
    for row in values_of(connection, study_id, configuration):
        direction = _direction(row.metric)
        if direction is None:
            continue
        name = (row.kind, row.metric, row.dataset, row.split, row.image_size)
        names[name] = direction
        if row.value is not None and (row.external or is_a_cost(row.train_flops)):
            seeds[name, row.configuration].append(row)

    series = _series(connection, study_id, names, drop_others=configuration is None)
    behind = _pretrainings(connection, {row.pretraining_id for rows in seeds.values() for row in rows} - {None})
    points = [
        _point(series[name], names[name], of_configuration, rows, behind)
        for (name, of_configuration), rows in seeds.items()
    ]
    if configuration is None or not points:
        _drop_others(connection, study_id, configuration, {(p["series_id"], p["configuration"]) for p in points})
    upsert(connection, table_of(PointRow), points, unique=("series_id", "configuration"))


def rebuild(connection: Connection) -> None:
    """Make all points anew, as after an upgrade of the store, and which of them lead."""
    for study_id in connection.execute(select(StudyRow.id).order_by(StudyRow.id)).scalars().all():
        refresh(connection, study_id)
    recount(connection)


def recount(connection: Connection) -> None:
    """Make `leads` true from the points alone, for those that came while there were no triggers."""
    found = f"SELECT series_id, configuration FROM ({frontier_rows(connection.dialect.name)}) found"
    there = "(series_id, configuration)"
    connection.execute(text(f"UPDATE point SET leads = false WHERE leads AND {there} NOT IN ({found})"))
    connection.execute(text(f"UPDATE point SET leads = true WHERE NOT leads AND {there} IN ({found})"))


def values_of(connection: Connection, study_id: int, configuration: str | None = None) -> list[AnyRow]:
    """What each run that is done, and each imported result, says to the series of a study, or of one configuration."""
    values = list(_values(connection, study_id, configuration))
    if configuration is None or not values:  # one configuration is either our own or imported
        values += _imported(connection, study_id, configuration)
    return values


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
            func.coalesce(_ROOT.c.configuration, _TRAINING.c.configuration, RunRow.configuration).label("pretraining"),
            RunRow.family,
            RunRow.model,
            RunRow.train_flops,
            RunRow.epochs,
            RunRow.data_rows,
            RunRow.parameters,
            (RunRow.flops / func.nullif(RunRow.images, 0)).label("forward_flops"),
            func.coalesce(_ROOT.c.id, _TRAINING.c.id).label("pretraining_id"),
            false().label("external"),
            func.coalesce(StudyRunRow.sweep, _OF_TRAINING.c.sweep).label("sweep"),
            func.coalesce(StudyRunRow.searched, _OF_TRAINING.c.searched).label("searched"),
        )
        .join(StudyRunRow, StudyRunRow.run_id == RunRow.id)
        .join(ResultRow, ResultRow.run_id == RunRow.id)
        .outerjoin(_TRAINING, _TRAINING.c.id == RunRow.upstream_id)
        .outerjoin(_ROOT, (_ROOT.c.id == _TRAINING.c.upstream_id) & (_TRAINING.c.kind == "finetune"))
        .outerjoin(_OF_TRAINING, (_OF_TRAINING.c.run_id == _TRAINING.c.id) & (_OF_TRAINING.c.study_id == study_id))
        .where(StudyRunRow.study_id == study_id, makes_points, RunRow.state == State.DONE)
        # The names of a point are those of its first seed in the study, whichever finished first.
        .order_by(StudyRunRow.position)
    )
    if configuration is not None:
        query = query.where(RunRow.configuration == configuration)
    return connection.execute(query).all()


def _imported(connection: Connection, study_id: int, configuration: str | None) -> Sequence[AnyRow]:
    """The imported results of a study, under the names that `_values` gives."""
    query = (
        select(
            *(column for column in table_of(ExternalRow).c if column.name not in ("id", "study_id", "key", "source")),
            ExternalRow.training.label("pretraining"),
            null().label("pretraining_id"),
            true().label("external"),
            null().label("sweep"),
            null().label("searched"),
        )
        .where(ExternalRow.study_id == study_id)
        .order_by(ExternalRow.id)
    )
    if configuration is not None:
        query = query.where(ExternalRow.configuration == configuration)
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


def _drop_others(
    connection: Connection, study_id: int, configuration: str | None, kept: Collection[tuple[int, str]]
) -> None:
    """Delete the points of a study, or of one of its configurations, that are not among these."""
    query = (
        select(PointRow.series_id, PointRow.configuration)
        .join(SeriesRow, SeriesRow.id == PointRow.series_id)
        .where(SeriesRow.study_id == study_id)
    )
    if configuration is not None:
        query = query.where(PointRow.configuration == configuration)
    stale = [
        {"of_series": row.series_id, "of_configuration": row.configuration}
        for row in connection.execute(query)
        if (row.series_id, row.configuration) not in kept
    ]
    if stale:
        table = table_of(PointRow)
        connection.execute(
            delete(table).where(
                table.c.series_id == bindparam("of_series"), table.c.configuration == bindparam("of_configuration")
            ),
            stale,
        )


def _point(
    series_id: int, direction: int, configuration: str, rows: Sequence[AnyRow], behind: Mapping[int, "_Pretraining"]
) -> dict[str, Any]:
    first = rows[0]
    value, sd = mean_and_sd([row.value for row in rows])
    return {
        "series_id": series_id,
        "configuration": configuration,
        "training": first.training,
        "pretraining": first.pretraining,
        "family": first.family,
        "model": first.model,
        "cost": first.train_flops if is_a_cost(first.train_flops) else None,
        "quality": direction * value,
        "value": value,
        "sd": sd,
        "seeds": len(rows),
        "epochs": first.epochs,
        "data_rows": first.data_rows,
        "parameters": first.parameters,
        # A quotient of a product: what it was before is a whole number.
        "forward_flops": first.forward_flops if first.external else _whole(first.forward_flops),
        **(_imported_costs(rows) if first.external else _measured_costs(rows, behind)),
        "external": first.external,
        "sweep": first.sweep,
        "searched": first.searched,
    }


def _imported_costs(rows: Sequence[AnyRow]) -> dict[str, Any]:
    return {
        "images": rows[0].images,
        "device_seconds": _mean_if_all([row.device_seconds for row in rows]),
        "device": _one({row.device for row in rows}),
        "money": _mean_if_all([row.money for row in rows]),
    }


def _measured_costs(rows: Sequence[AnyRow], behind: Mapping[int, "_Pretraining"]) -> dict[str, Any]:
    trainings = [behind[row.pretraining_id] for row in rows if row.pretraining_id is not None]
    devices: set[str | None] = {device for training in trainings for device in training.devices}
    return {
        "images": trainings[0].images if trainings else None,
        "device_seconds": _mean_if_all([training.device_seconds for training in trainings]),
        "device": _one(devices),
        "money": None,
    }


def _one(devices: Collection[str | None]) -> str | None:
    """The kind of device, where there is one alone."""
    return next(iter(devices)) if len(devices) == 1 else None


def _mean_if_all(values: Sequence[float | None]) -> float | None:
    """The mean, exactly rounded; None where one is not known."""
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known and len(known) == len(values) else None


def _whole(value: float | None) -> float | None:
    return None if value is None else float(round(value))


# ----------------------------------------------------------------------------------------------------- pre-trainings


@dataclass(frozen=True)
class _Pretraining:
    """What points take from the pre-training that they stand on."""

    images: float | None
    device_seconds: float | None
    """Own and of its trunks: what this point alone would take, as its cost is. None where a part has no time."""
    devices: frozenset[str | None]


_RUN, _ATTEMPT = table_of(RunRow), table_of(AttemptRow)
_CHAIN = (
    select(_RUN.c.id.label("root"), _RUN.c.id, _RUN.c.upstream_id)
    .where(_RUN.c.id.in_(bindparam("roots", type_=Integer(), expanding=True)))
    .cte("chain", recursive=True)
)
_CHAIN = _CHAIN.union_all(
    select(_CHAIN.c.root, _RUN.c.id, _RUN.c.upstream_id).join(_RUN, _RUN.c.id == _CHAIN.c.upstream_id)
)
_TIMES = (
    select(
        _CHAIN.c.root,
        _CHAIN.c.id,
        case((_CHAIN.c.id == _CHAIN.c.root, _RUN.c.definition)).label("definition"),
        _RUN.c.seconds,
        _RUN.c.cpus,
        _RUN.c.gpus,
        _ATTEMPT.c.fence,
        _ATTEMPT.c.device,
    )
    .select_from(_CHAIN)
    .join(_RUN, _RUN.c.id == _CHAIN.c.id)
    .outerjoin(_ATTEMPT, _ATTEMPT.c.run_id == _CHAIN.c.id)
)
"""A row for each attempt at each pre-training and each trunk below it."""


def _pretrainings(connection: Connection, run_ids: Collection[int]) -> dict[int, _Pretraining]:
    found: dict[int, _Pretraining] = {}
    for chunk in dependents.chunks(run_ids):
        of_root: dict[int, list[AnyRow]] = defaultdict(list)
        for row in connection.execute(_TIMES, {"roots": list(chunk)}):
            of_root[row.root].append(row)
        found.update({root: _pretraining(rows) for root, rows in of_root.items()})
    return found


def _pretraining(rows: Sequence[AnyRow]) -> _Pretraining:
    runs = {row.id: row for row in rows}
    times = [None if row.seconds is None else row.seconds * (row.gpus or row.cpus) for row in runs.values()]
    definition = next(row.definition for row in rows if row.definition is not None)
    images = json.loads(definition).get("examples")
    return _Pretraining(
        images=None if images is None else float(images),
        device_seconds=None if None in times else math.fsum(time for time in times if time is not None),
        devices=frozenset(row.device for row in rows if row.fence is not None),
    )


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
