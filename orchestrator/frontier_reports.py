"""What the commands about frontiers ask of the store: one series or a mean of several, its frontier, ties and hull.

Nothing here writes.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from db import answers, frontiers, ties
from db.frontiers import FrontierPoint, Point, Series
from db.store import Connection, Store
from orchestrator.reports import NotFound
from studies.advantage import Advantage, Curve, advantage, differences
from studies.architectures import nearest
from studies.frontiers import Axes, hull


@dataclass(frozen=True)
class Question:
    """Which points of a study are meant: fields of a series, and the axis of cost. None is any."""

    metric: str | None = None
    dataset: str | None = None
    split: str | None = None
    kind: str | None = None
    image_size: int | None = None
    axis: str = "flops"
    prices: Mapping[str, float] | None = None
    """Money for a device-hour, by the kind of device; "" is any other kind."""

    @property
    def wanted(self) -> dict[str, str | int]:
        """What was said about the series."""
        return {name: value for name in _OPTIONS if (value := getattr(self, name)) is not None}


@dataclass(frozen=True)
class Answer:
    """One frontier and what is said beside it; of the points that it beats no more than how many there are."""

    study: answers.Study
    series: Series
    axis: str
    by_family: bool
    configurations: int
    """With a cost on this axis."""
    frontier: list[FrontierPoint]
    excluded: list[tuple[str, list[str]]]
    tied: list[Point]
    """Runners-up within one standard error of the frontier at their cost."""
    hull: tuple[Axes, list[FrontierPoint]] | None
    """Axes and corners of the lower convex hull, where it was asked for."""
    notes: tuple[str, ...]
    """What was chosen for the user, in words."""

    @property
    def shown(self) -> list[FrontierPoint]:
        """What was asked for: the corners of the hull, or the frontier."""
        return self.hull[1] if self.hull else self.frontier


@dataclass(frozen=True)
class Frontier(Answer):
    """One frontier with all points that stand behind it: what figures, laws and comparisons are made of."""

    points: list[Point]


def answer(store: Store, study: answers.Study, asked: Question, *, by_family: bool, axes: Axes | None = None) -> Answer:
    """The frontier of one series of a study, of all families together or one for each.

    Where several series are left, accuracies go before other metrics, then pre-trained models before transfers, then
    the mean over five data sets where all are there, then the test split before others.
    axes: those on which the lower convex hull is asked for too.
    Raises NotFound when no series matches, ValueError when more than one does or the axis is none.
    """
    _check(asked)
    with store.read() as connection:
        return _answered(connection, study, asked, by_family, axes)


def frontier(
    store: Store, study: answers.Study, asked: Question, *, by_family: bool, axes: Axes | None = None
) -> Frontier:
    """The same as `answer`, and all points: it takes as long as there are many. Raises as `answer`."""
    _check(asked)
    with store.read() as connection:
        found = _answered(connection, study, asked, by_family, axes)
        points = frontiers.points_of(connection, found.series, asked.axis, asked.prices)
    return Frontier(**vars(found), points=points)


def _check(asked: Question) -> None:
    if asked.axis not in frontiers.AXES:
        raise ValueError(f"'{asked.axis}' is no axis of cost{nearest(asked.axis, list(frontiers.AXES))}")
    if asked.prices and asked.axis != "money":
        raise ValueError("a price has no effect on this axis: add --cost money")


def _answered(
    connection: Connection, study: answers.Study, asked: Question, by_family: bool, axes: Axes | None
) -> Answer:
    series, notes = chosen_series(connection, study, asked.wanted)
    configurations = frontiers.configurations(connection, series, asked.axis, asked.prices)
    if asked.axis == "money" and not configurations:
        raise ValueError(
            f"what {study.name} costs in money is not known: say what an hour of its devices costs, as in --price 2.5"
        )
    found = frontiers.frontier(connection, series, by_family, asked.axis, asked.prices)
    return Answer(
        study=study,
        series=series,
        axis=asked.axis,
        by_family=by_family,
        configurations=configurations,
        frontier=found,
        excluded=frontiers.excluded(connection, series, asked.axis, asked.prices),
        tied=ties.ties(connection, series, found, by_family, asked.axis, asked.prices),
        hull=(axes, _corners(series, found, axes, by_family)) if axes else None,
        notes=(*notes, *_mixed(found, asked.axis)),
    )


def _mixed(found: Sequence[FrontierPoint], axis: str) -> tuple[str, ...]:
    """A note where device time is of several kinds of device: an hour of one is not an hour of another."""
    kinds = Counter(point.device or "several or unnamed ones" for point in found)
    if axis != "device-seconds" or len(kinds) < 2:
        return ()
    said = ", ".join(f"{count} on {kind}" for kind, count in kinds.most_common())
    return (
        f"this is time of several kinds of device, whose hours do not compare ({said}): for prices say --cost money",
    )


# --------------------------------------------------------------------------------------------- which series is meant


_OPTIONS = {
    "kind": "--kind",
    "metric": "--metric",
    "dataset": "--data",
    "split": "--split",
    "image_size": "--image-size",
}
_FIRST = {"metric": "accuracy", "kind": "evaluate"}
_LAST = {"split": "test"}


def chosen_series(
    connection: Connection, study: answers.Study, wanted: Mapping[str, Any]
) -> tuple[Series, tuple[str, ...]]:
    """The one series that is meant, and what is to be said about the choice. Raises as `answer`.

    wanted: fields of a series by name; what is not there may be any.
    """
    found = frontiers.series_of(connection, study.id, counted=False)
    if not found:
        raise NotFound(f"{study.name} has no results yet; see how far it is with: vitscale status {study.name}")
    metric = wanted.get("metric", "")
    if frontiers.is_a_mean(metric):
        others = {name: value for name, value in wanted.items() if name != "metric"}
        if "dataset" in others:
            raise ValueError(f"{metric} is a mean over data sets, so --data has no effect on it: leave one of them out")
        return frontiers.mean_of(connection, study.id, metric, **others), ()
    match = [series for series in found if all(getattr(series, name) == value for name, value in wanted.items())]
    match = _preferred(match, wanted, _FIRST)
    if len(match) > 1 and not wanted.keys() & {"dataset", "split", "image_size"} and _has_all_five(match):
        kind, of = match[0].kind, ", ".join(frontiers.AVG5)
        note = f"avg5, the mean of accuracy on {of}, is shown: one of them alone is asked for by --data"
        return frontiers.mean_of(connection, study.id, "avg5", kind=kind), (note,)
    match = _preferred(match, wanted, _LAST)
    if len(match) == 1:
        return match[0], ()
    if match:
        raise ValueError(
            f"{study.name} has more than one such series, which must not be mixed: {_listed(match, wanted)}"
        )
    raise NotFound(f"{study.name} has no such series; it has: {_listed(found, {})}")


def _preferred(match: list[Series], wanted: Mapping[str, str | int], preferred: Mapping[str, str]) -> list[Series]:
    for name, value in preferred.items():
        if name not in wanted and len(match) > 1:
            match = [series for series in match if getattr(series, name) == value] or match
    return match


def _has_all_five(match: Sequence[Series]) -> bool:
    one_kind = len({(series.metric, series.kind) for series in match}) == 1
    return one_kind and match[0].metric == "accuracy" and set(frontiers.AVG5) <= {each.dataset for each in match}


def _listed(series: list[Series], given: Mapping[str, str | int]) -> str:
    """What to write to get each of these: what was given already, and the options that tell them apart."""
    shown = [
        name
        for name in _OPTIONS
        if name in given or name == "metric" or len({getattr(each, name) for each in series}) > 1
    ]
    return "; ".join(" ".join(f"{_OPTIONS[name]} {getattr(each, name)}" for name in shown) for each in series)


# ----------------------------------------------------------------------------------------------------------- hulls


def errors_of(series: Series, values: Sequence[float]) -> list[float]:
    """What laws and hulls call error: 1 - accuracy, or the metric itself where less is better."""
    return [1 - value if series.direction > 0 else value for value in values]


def _corners(series: Series, found: Sequence[FrontierPoint], axes: Axes, by_family: bool) -> list[FrontierPoint]:
    kept = []
    for family in dict.fromkeys(point.family if by_family else None for point in found):
        points = [point for point in found if family is None or point.family == family]
        errors = errors_of(series, [point.value for point in points])
        kept += [points[i] for i in hull([point.cost for point in points], errors, axes)]
    return kept


# --------------------------------------------------------------------------------------------------- rows and JSON


@dataclass(frozen=True)
class FrontierRow:
    """A point of a frontier as a row of a file; the fields are explained in `db/tables.py`."""

    study: str
    kind: str
    metric: str
    dataset: str
    split: str
    image_size: int
    axis: str
    """What `cost` counts."""
    family: str
    model: str
    cost: float
    quality: float
    value: float
    sd: float | None
    seeds: int
    data_rows: int | None
    epochs: float | None
    images: float | None
    parameters: int | None
    forward_flops: float | None
    external: bool
    configuration: str
    runs: tuple[str, ...]
    same: tuple[str, ...]


_OF_POINT = tuple(FrontierRow.__annotations__)[7:]


def rows(found: Answer) -> list[FrontierRow]:
    """The frontier as rows for files."""
    return [
        FrontierRow(
            study=found.study.name,
            axis=found.axis,
            **_of_series(found.series),
            **{name: getattr(point, name) for name in _OF_POINT},
        )
        for point in found.shown
    ]


def _of_series(series: Series) -> dict[str, Any]:
    return {name: getattr(series, name) for name in ("kind", "metric", "dataset", "split", "image_size")}


def header(study: answers.Study, series: Series, axis: str) -> dict[str, Any]:
    """What the JSON of each answer about a series begins with."""
    return {"study": study.name, **_of_series(series), "datasets": series.datasets, "axis": axis}


def point_json(point: Point | FrontierPoint) -> dict[str, Any]:
    """A point for programs."""
    kept = {name: getattr(point, name) for name in _OF_POINT if name != "model" and hasattr(point, name)}
    return {"label": point.model, **kept}


def excluded_json(excluded: Sequence[tuple[str, Sequence[str]]]) -> list[dict[str, Any]]:
    """What was left out, counted by reason."""
    return [{"reason": reason, "count": len(keys), "runs": list(keys)} for reason, keys in excluded]


def as_json(found: Answer) -> dict[str, Any]:
    """The frontier for programs."""
    return {
        **header(found.study, found.series, found.axis),
        "by_family": found.by_family,
        "shape": "hull" if found.hull else "staircase",
        "axes": found.hull[0] if found.hull else None,
        "configurations": found.configurations,
        "points": [point_json(point) for point in found.shown],
        "tied": [point_json(point) for point in found.tied],
        "excluded": excluded_json(found.excluded),
        "notes": list(found.notes),
    }


# ------------------------------------------------------------------------------------------------- compute advantage


@dataclass(frozen=True)
class Comparison:
    """What one family's frontier costs beside another's."""

    frontier: Frontier
    """Of each family its own."""
    of: str
    over: str
    band: tuple[float, float] | None
    advantage: Advantage | None
    """Cost of `over` / cost of `of` at equal quality; None: no quality that both reach."""
    differences: list[tuple[Point, float | None]]
    """Each point of `of` with its quality less that of the frontier of `over` at its cost; None: beyond its ends."""


def compare(found: Frontier, of: str, over: str, band: tuple[float, float] | None = None) -> Comparison:
    """Compare two families of a frontier that was asked for by family.

    Raises ValueError for a family without points.
    """
    assert found.by_family
    families = list(dict.fromkeys(point.family for point in found.points))
    for name in (of, over):
        if name not in families:
            raise ValueError(f"{found.study.name} has no family '{name}' here{nearest(name, families)}")
    if of == over:
        raise ValueError(f"{of} is compared with itself: name two families, as in --of ViT --over ResNet")
    points = [point for point in found.points if point.family == of]
    least = _curve(found, over)
    gains = differences(least, [point.cost for point in points], [point.quality for point in points])
    return Comparison(
        frontier=found,
        of=of,
        over=over,
        band=band,
        advantage=advantage(_curve(found, of), least, band),
        differences=[
            (point, None if np.isnan(gain) else float(gain)) for point, gain in zip(points, gains, strict=True)
        ],
    )


def _curve(found: Frontier, family: str) -> Curve:
    members = [point for point in found.frontier if point.family == family]
    return Curve(np.array([point.cost for point in members]), np.array([point.quality for point in members]))


def comparison_json(found: Comparison) -> dict[str, Any]:
    """A comparison for programs."""
    frontier = found.frontier
    return {
        **header(frontier.study, frontier.series, frontier.axis),
        "of": found.of,
        "over": found.over,
        "band": found.band,
        "overlap": found.advantage is not None,
        "advantage": asdict(found.advantage) if found.advantage else None,
        "differences": [{**point_json(point), "difference": gain} for point, gain in found.differences],
        "excluded": excluded_json(frontier.excluded),
        "notes": list(frontier.notes),
    }
