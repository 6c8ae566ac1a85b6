"""What is said of a mark when it is pointed at, and in the table below an interactive figure."""

from db.frontiers import FrontierPoint, Point, Series
from orchestrator.figures.axes import COST_LABELS, count, plain, size
from orchestrator.figures.marks import Facts
from orchestrator.wording import flops, seconds, three_digits


def facts_of(point: Point | FrontierPoint, series: Series, axis: str = "flops") -> Facts:
    """A point's cost, value, seeds, and what else is known of it."""
    facts = [
        (COST_LABELS[axis].split(" (")[0], cost_words(point.cost, axis)),
        (series.metric.replace("_", " "), value_words(point.value, point.sd, series)),
        ("seeds", str(point.seeds)),
    ]
    if point.data_rows is not None:
        facts.append(("images in the data set", size(point.data_rows)))
    if point.epochs is not None:
        facts.append(("epochs", f"{point.epochs:g}"))
    if point.parameters is not None and axis != "parameters":
        facts.append(("parameters", count(point.parameters)))
    if point.external:
        facts.append(("source", "imported"))
    return tuple(facts)


def cost_words(cost: float, axis: str) -> str:
    """A cost as people read it."""
    match axis:
        case "flops" | "forward-flops":
            return flops(cost)
        case "device-seconds":
            return seconds(cost)
        case "images" | "parameters":
            return count(cost)
    return three_digits(cost)


def value_words(value: float, sd: float | None, series: Series) -> str:
    """A value with the deviation of its seeds: `84.15 % ± 0.20`."""
    if series.direction > 0:
        return f"{100 * value:.2f} %" + (f" ± {100 * sd:.2f}" if sd is not None else "")
    return plain(value) + (f" ± {plain(sd)}" if sd is not None else "")
