"""The series of a study: points that may be compared, of one data set or as means over several. Nothing here writes."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from sqlalchemy import ColumnElement, Connection, func, literal, select

from db.tables import PointRow, SeriesRow, table_of
from studies.metrics import ACCURACY

AVG5 = ("imagenet", "cifar10", "cifar100", "pets", "flowers102")
"""The data sets of `avg5`, over which arXiv:2010.11929v2, Figure 5 averages the accuracy."""
_MEAN = re.compile(r"mean\((.*)\)")


@dataclass(frozen=True)
class Series:
    """Points of a study that may be compared."""

    id: int
    """0 of a mean, which is not stored."""
    study_id: int
    kind: str
    metric: str
    """Of a mean its name: `avg5`, `mean(cifar10,pets)`."""
    dataset: str
    """Of a mean all of them, as `cifar10, pets`; with `split` and `image_size` likewise, if they differ."""
    split: str
    image_size: int
    """0 where it is not known, or differs between the data sets of a mean."""
    direction: int
    points: int
    """0 of a mean, and where they were not counted."""
    parts: "tuple[Series, ...]" = ()
    """The series that it is the mean of; none where it is of one data set."""

    @property
    def datasets(self) -> tuple[str, ...]:
        """Of a mean those that it is over; otherwise the one."""
        return tuple(part.dataset for part in self.parts) or (self.dataset,)

    @property
    def transfer(self) -> str | None:
        """What the study calls the transfer after which it was measured; None for the pre-trained models."""
        return None if self.kind in ("evaluate", "fewshot") else self.kind


def series_of(connection: Connection, study_id: int, *, counted: bool = True) -> list[Series]:
    """The series of a study that have results, without means.

    counted: with the number of their points; that takes the longer the more there are.
    """
    query = select(*table_of(SeriesRow).c, (_POINTS if counted else literal(0)).label("points"))
    rows = connection.execute(query.where(SeriesRow.study_id == study_id))
    return sorted(
        (Series(**row._mapping) for row in rows),
        key=lambda series: (series.kind, series.metric, series.dataset, series.split, series.image_size),
    )


def series_with(connection: Connection, series_id: int) -> Series:
    """The series of this id, which is there. Its points are not counted."""
    row = connection.execute(select(*table_of(SeriesRow).c).where(SeriesRow.id == series_id)).one()
    return Series(**row._mapping, points=0)


def is_a_mean(metric: str) -> bool:
    """Whether this names a mean over data sets: `avg5` or `mean(...)`."""
    return metric == "avg5" or _MEAN.fullmatch(metric) is not None


def mean_of(
    connection: Connection,
    study_id: int,
    name: str,
    *,
    metric: str = ACCURACY,
    kind: str | None = None,
    split: str | None = None,
    image_size: int | None = None,
) -> Series:
    """The mean of a metric over several data sets of a study, of each its one series of this kind, split and size.

    name: `avg5`, or `mean(a,b,...)` of any data sets. kind: None takes pre-trained models, then the one kind that has
    all data sets. split: None takes of each data set the test split, or the only one.
    Raises ValueError where a data set has no such series, or several that would be mixed.
    """
    datasets = _datasets(name)
    fields = {"metric": metric, "kind": kind, "split": split, "image_size": image_size}
    wanted = {field: value for field, value in fields.items() if value is not None}
    found = [
        series
        for series in series_of(connection, study_id, counted=False)
        if series.dataset in datasets and all(getattr(series, field) == value for field, value in wanted.items())
    ]
    found = _of_one_kind(found, datasets, name, metric)
    parts = tuple(_only([series for series in found if series.dataset == dataset], name) for dataset in datasets)
    splits, sizes = dict.fromkeys(part.split for part in parts), {part.image_size for part in parts}
    return replace(
        parts[0],
        id=0,
        metric=name,
        dataset=", ".join(datasets),
        split=", ".join(splits),
        image_size=sizes.pop() if len(sizes) == 1 else 0,
        points=0,
        parts=parts,
    )


def _datasets(name: str) -> tuple[str, ...]:
    listed = _MEAN.fullmatch(name)
    if listed is None:
        assert name == "avg5", name
        return AVG5
    datasets = tuple(part.strip() for part in listed[1].split(","))
    if not all(datasets) or len(set(datasets)) < len(datasets):
        raise ValueError(f"'{name}' names no data sets to average over: write each once, as in mean(cifar10,pets)")
    return datasets


def _of_one_kind(found: Sequence[Series], datasets: Sequence[str], name: str, metric: str) -> list[Series]:
    """Those of the kind that has all data sets: kinds are not mixed."""
    kinds = list(dict.fromkeys(series.kind for series in found))
    whole = [kind for kind in kinds if {each.dataset for each in found if each.kind == kind} == set(datasets)]
    if len(whole) > 1 and "evaluate" in whole:
        whole = ["evaluate"]
    if len(whole) > 1:
        raise ValueError(f"{name} would mix {' and '.join(whole)}: choose one with --kind")
    if not whole:
        there = {series.dataset for series in found}
        missing = [dataset for dataset in datasets if dataset not in there]
        if missing:
            raise ValueError(f"there is no such {metric} on {', '.join(missing)}, over which {name} would average")
        raise ValueError(f"no one kind of run has the {metric} on all data sets of {name}: it has {', '.join(kinds)}")
    return [series for series in found if series.kind == whole[0]]


def _only(of_dataset: Sequence[Series], name: str) -> Series:
    """Of the series of one data set the one that is meant."""
    match = list(of_dataset)
    if len({series.split for series in match}) > 1:
        match = [series for series in match if series.split == "test"] or match
    for field, option in (("split", "--split"), ("image_size", "--image-size")):
        values = sorted({str(getattr(series, field)) for series in match})
        if len(values) > 1:
            what = "splits" if field == "split" else "image sizes"
            raise ValueError(
                f"{name} would mix {what} {' and '.join(values)} of {match[0].dataset}: choose one with {option}"
            )
    return match[0]


def is_complete(parts: int) -> ColumnElement[bool]:
    """Whether a group of points has exactly one in each of so many series."""
    return (func.count() == parts) & (func.count(PointRow.series_id.distinct()) == parts)


_POINTS = select(func.count()).where(PointRow.series_id == SeriesRow.id).scalar_subquery()
