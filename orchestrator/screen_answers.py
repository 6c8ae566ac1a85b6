"""What the commands that answer print: frontiers, advantages, laws, predictions, plans for the next runs."""

from collections.abc import Sequence

from rich.text import Text

from db.frontiers import FrontierPoint, Point, Series
from orchestrator import wording
from orchestrator.frontier_reports import Answer, Comparison
from orchestrator.screen import OUT, print_table, say

AXES = {
    "flops": "training FLOPs",
    "device-seconds": "device time",
    "images": "images seen",
    "parameters": "parameters",
    "forward-flops": "FLOPs of a forward pass",
    "money": "money",
}
"""Axes of cost, as they are spoken of."""
HULLS = {"log-cost": "log cost, error", "log-log": "log cost, log error", "linear": "cost, error"}
_MOST_RUNS = 2


def costs_column(axis: str, costs: Sequence[float]) -> tuple[str, list[str]]:
    """A heading for costs on an axis, and each cost as people read it."""
    if axis in ("flops", "forward-flops"):
        return wording.flops_column(costs)
    if axis == "device-seconds":
        return "device time", [a_time(cost) for cost in costs]
    if axis == "money":
        return "money", [wording.three_digits(cost) for cost in costs]
    return AXES[axis], [f"{cost:,.0f}" for cost in costs]


def a_time(seconds: float) -> str:
    """`5 h 10 min`, `1.25 s`."""
    if seconds >= 60:
        return wording.seconds(seconds)
    return f"{wording.three_digits(seconds)} s" if seconds >= 0.001 else "under 1 ms"


def a_cost(axis: str, cost: float) -> str:
    """`224 exaFLOP`, `5 h 10 min`, `1,000 images seen`."""
    unit, (number,) = costs_column(axis, [cost])
    return number if axis == "device-seconds" else f"{number} {unit}"


def a_quality(series: Series, value: float) -> str:
    """A value of the metric: an accuracy as percent."""
    return wording.percent(value) if series.direction > 0 else f"{value:.4f}"


def an_error(direction: int, error: float | None) -> str:
    """An error as laws have it: of an accuracy as percent, otherwise the metric itself."""
    if error is None:
        return "not identified"
    # No law knows that an error ends at 1; whoever reads an interval does.
    return f"{wording.three_digits(100 * min(error, 1.0))} %" if direction > 0 else f"{error:.4g}"


def titled(series: Series) -> str:
    """What was measured, on what."""
    if len(series.datasets) > 1:
        return f"{series.metric}, the mean over {', '.join(series.datasets)}{_after(series)}"
    return f"{series.metric} on {series.dataset} {series.split}{_size(series)}{_after(series)}"


def _size(series: Series) -> str:
    return f" at {series.image_size} px" if series.image_size else ""


def _after(series: Series) -> str:
    return f" after {series.transfer}" if series.transfer else ""


def say_excluded(excluded: Sequence[tuple[str, Sequence[str]]]) -> None:
    """What was left out, as messages."""
    for reason, keys in excluded:
        say(f"left out, {reason}: {wording.counted(len(keys), 'run')}: {_some(keys, 8)}")


def _some(keys: Sequence[str], most: int) -> str:
    """The first digits of the first keys, and how many more there are."""
    more = f" +{len(keys) - most:,}" if len(keys) > most else ""
    return " ".join(key[:10] for key in keys[:most]) + more


# ---------------------------------------------------------------------------------------------------------- frontier


def print_frontier(found: Answer) -> None:
    """The frontier as a table, runner-ups within one standard error among them; what was left out, as messages."""
    for note in found.notes:
        say(note)
    series, higher = found.series, found.series.direction > 0
    families = list(dict.fromkeys(point.family for point in found.frontier)) if found.by_family else []
    runners_up = set() if found.hull else {point.configuration for point in found.tied}
    shown: list[FrontierPoint | Point] = sorted(
        [*found.shown, *(point for point in found.tied if point.configuration in runners_up)],
        key=lambda point: (families.index(point.family) if families else 0, point.cost, -point.quality),
    )
    standings = [
        ", ".join([*(["tied"] if each.configuration in runners_up else []), *(["imported"] if each.external else [])])
        for each in shown
    ]
    unit, costs = costs_column(found.axis, [point.cost for point in shown])
    columns = [
        ("family", "left"),
        ("model", "left"),
        ("images", "right"),
        ("epochs", "right"),
        (unit, "right"),
        (series.metric, "right"),
        *([("error", "right")] if higher else []),
        ("sd", "right"),
        ("seeds", "right"),
        *([("parameters", "right")] if found.axis != "parameters" else []),
        *([("", "left")] if any(standings) else []),
        ("runs", "left"),
    ]
    print_table(
        columns,
        [
            (
                point.family,
                point.model,
                "" if point.data_rows is None else f"{point.data_rows:,}",
                "" if point.epochs is None else f"{point.epochs:g}",
                cost,
                a_quality(series, point.value),
                *([wording.percent(1 - point.value)] if higher else []),
                "" if point.sd is None else a_quality(series, point.sd),
                str(point.seeds),
                *([_count(point.parameters)] if found.axis != "parameters" else []),
                *([standing] if any(standings) else []),
                _some(point.runs, _MOST_RUNS),
            )
            for point, cost, standing in zip(shown, costs, standings, strict=True)
        ],
        title=_frontier_title(found),
    )
    say_excluded(found.excluded)


def _count(number: float | None) -> str:
    return "" if number is None else f"{number:,.0f}"


def _frontier_title(found: Answer) -> str:
    on = "" if found.axis == "flops" else f" by {AXES[found.axis]}"
    counted = f"{len(found.shown)} of {wording.counted(found.configurations, 'configuration')}"
    ties = f", {len(found.tied)} tied within one standard error" if found.tied else ""
    if found.hull:
        return f"{titled(found.series)}{on}, lower convex hull on the axes {HULLS[found.hull[0]]}: {counted}"
    return f"{titled(found.series)}{on}: {counted}{ties}"


# --------------------------------------------------------------------------------------------------------- advantage


def print_comparison(found: Comparison) -> None:
    """The ratio of costs at equal quality in a sentence, and the differences at equal cost as a table."""
    frontier, series = found.frontier, found.frontier.series
    for note in frontier.notes:
        say(note)
    OUT.print(Text(f"{titled(series)}, by {AXES[frontier.axis]}", "italic"))
    OUT.print(Text(_advantage_sentence(found)))
    unit, costs = costs_column(frontier.axis, [point.cost for point, _ in found.differences])
    OUT.print()
    print_table(
        [(found.of, "left"), ("epochs", "right"), (unit, "right"), (series.metric, "right"), ("difference", "right")],
        [
            (
                point.model,
                "" if point.epochs is None else f"{point.epochs:g}",
                cost,
                a_quality(series, point.value),
                f"no {found.over} at this cost" if gain is None else _difference(series, gain),
            )
            for (point, gain), cost in zip(found.differences, costs, strict=True)
        ],
        title=f"{found.of} less the frontier of {found.over} at equal cost"
        + (", in percentage points" if series.direction > 0 else "; above zero is better"),
    )
    say_excluded(frontier.excluded)


def _difference(series: Series, gain: float) -> str:
    return f"{100 * gain:+.3f}" if series.direction > 0 else f"{gain:+.4f}"


def _advantage_sentence(found: Comparison) -> str:
    series, result = found.frontier.series, found.advantage
    if result is None:
        reached = "; ".join(f"{family} reaches {_reached(found, family)}" for family in (found.of, found.over))
        return f"no overlap: there is no {series.metric} that both frontiers reach, and so no ratio of costs: {reached}"
    low, high = (a_quality(series, series.direction * each) for each in (result.quality_low, result.quality_high))
    said = (
        f"at equal {series.metric}, {found.over} costs {result.ratio_mean:.2f} times as much as {found.of}: geometric "
        f"mean over {low} to {high}, where both frontiers are; "
        f"least {result.ratio_least:.2f}, most {result.ratio_most:.2f}"
    )
    if found.band and result.share_inside is not None:
        lowest, highest = found.band
        said += f"; {100 * result.share_inside:.0f} % of that range is between {lowest:g} and {highest:g}"
    return said


def _reached(found: Comparison, family: str) -> str:
    values = [point.value for point in found.frontier.frontier if point.family == family]
    return " to ".join(dict.fromkeys(a_quality(found.frontier.series, value) for value in (values[0], values[-1])))
