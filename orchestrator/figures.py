"""Figures, one function each, from rows to a file."""

import textwrap
from collections.abc import Sequence
from math import log10
from pathlib import Path
from typing import TYPE_CHECKING, Any

from db.frontiers import FrontierPoint, Point, Series

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis

FORMATS = (".svg", ".png", ".pdf")
COLOURS = {
    "ViT": "#0072B2",
    "ResNet": "#D55E00",
    "Hybrid": "#009E73",
    "Axial-ViT": "#56B4E9",
    "AxialResNet": "#E69F00",
    "Masked-ViT": "#CC79A7",
}
"""Okabe and Ito's colours, told apart by colour-blind readers too. Shapes tell families apart without any colour."""
MARKERS = {"ViT": "o", "ResNet": "s", "Hybrid": "D", "Axial-ViT": "^", "AxialResNet": "P", "Masked-ViT": "v"}
INK = "#333333"
STYLE: Any = {
    "svg.hashsalt": "vitscale",  # the same rows give the same file: a figure can be compared and committed
    "svg.fonttype": "none",
    "pdf.fonttype": 42,  # journals refuse the other kind
    "font.size": 9,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "text.color": INK,
}
_NO_DATE: dict[str, dict[str, Any]] = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}, ".png": {}}
_PLACES = ((5, 4, "left", "bottom"), (-5, -4, "right", "top"), (5, -4, "left", "top"), (-5, 4, "right", "bottom"))
"""Where a label may stand beside its mark, in points, the preferred place first."""


def check_format(path: Path) -> None:
    """Raise ValueError unless the file's ending is one that a figure can be written in."""
    if path.suffix.lower() not in FORMATS:
        raise ValueError(f"'{path.name}' names no figure format; valid endings: {', '.join(FORMATS)}")


def draw_frontier(
    path: Path, title: str, series: Series, points: Sequence[Point], frontier: Sequence[FrontierPoint], by_family: bool
) -> None:
    """Training compute against error: every configuration faint, the frontier as a staircase with its deviations.

    Where less is better (a loss), the metric itself is drawn. Both axes are logarithmic; where a value is zero, which
    has no place there, the vertical one is linear.
    Each mark of an SVG has an id: `run-` or `frontier-`, then the first 16 digits of the key of each run behind it.
    points: at least one. Raises OSError when the file cannot be written.
    """
    import matplotlib
    from matplotlib.figure import Figure

    assert points
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6.4, 4.4), layout="constrained")
        axes = figure.add_subplot()
        _scale(axes, [point.cost for point in points], [_height(series, point) for point in points], series)
        families = [family for family in COLOURS if any(point.family == family for point in points)]
        for family in families:
            of_family = [point for point in points if point.family == family]
            _draw_marks(axes, series, of_family, family)
            axes.plot([], [], MARKERS[family], color=COLOURS[family], label=family)
            if by_family:
                _staircase(axes, series, [point for point in frontier if point.family == family], COLOURS[family])
        if not by_family:
            _staircase(axes, series, frontier, INK)
        deviations = _draw_frontier_marks(axes, series, frontier)
        axes.plot([], [], color=INK, linewidth=1.2, label="frontier" + (" ± 1 sd of seeds" if deviations else ""))
        axes.set_xlabel("training compute (FLOPs)")
        axes.set_ylabel(_vertical(series))
        axes.set_title("\n".join(textwrap.wrap(title, 90)), fontsize=10, loc="left", parse_math=False)
        axes.grid(visible=True, which="major", color="#e4e4e4", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        figure.legend(loc="outside lower center", ncols=len(families) + 1, frameon=False, handletextpad=0.4)
        if not by_family:
            figure.draw_without_rendering()  # labels keep clear of each other where the layout has put things
            _label(axes, series, frontier)
        figure.savefig(path, dpi=200, metadata=_NO_DATE[path.suffix.lower()])


# -------------------------------------------------------------------------------------------------------------- marks


def _height(series: Series, point: Point | FrontierPoint) -> float:
    return 1 - point.value if series.direction > 0 else point.value


def _draw_marks(axes: "Axes", series: Series, points: Sequence[Point], family: str) -> None:
    for point in points:
        (mark,) = axes.plot(
            point.cost,
            _height(series, point),
            MARKERS[family],
            color=COLOURS[family],
            markeredgewidth=0,
            alpha=0.35,
            markersize=4.5,
        )
        mark.set_gid("run-" + "-".join(key[:16] for key in point.runs))


def _draw_frontier_marks(axes: "Axes", series: Series, frontier: Sequence[FrontierPoint]) -> bool:
    """The marks of a frontier with their deviations; whether there are any deviations."""
    for point in frontier:
        height = _height(series, point)
        if point.sd:
            bottom = axes.get_ylim()[0]
            # What reaches below zero ends at the axis: a logarithm has no place for it.
            axes.vlines(
                point.cost,
                max(height - point.sd, bottom),
                height + point.sd,
                color=COLOURS[point.family],
                linewidth=0.9,
                alpha=0.8,
            )
        (mark,) = axes.plot(
            point.cost,
            height,
            MARKERS[point.family],
            color=COLOURS[point.family],
            markersize=6,
            markeredgecolor="white",
            markeredgewidth=0.6,
        )
        mark.set_gid("frontier-" + "-".join(key[:16] for key in point.runs))
    return any(point.sd for point in frontier)


def _staircase(axes: "Axes", series: Series, points: Sequence[FrontierPoint], colour: str) -> None:
    """The best value that a budget buys: level until the next, dearer configuration is better."""
    if points:
        heights = [_height(series, point) for point in points]
        axes.step([point.cost for point in points], heights, where="post", color=colour, linewidth=1.2)


def _label(axes: "Axes", series: Series, frontier: Sequence[FrontierPoint]) -> None:
    """Name the frontier's networks, each where the name changes, and only where there is room for it."""
    from matplotlib.transforms import Bbox

    marks = [axes.transData.transform((point.cost, _height(series, point))) for point in frontier]
    taken = [Bbox.from_extents(x - 9, y - 9, x + 9, y + 9) for x, y in marks]
    inside = axes.get_window_extent()
    before = None
    for number, point in enumerate(frontier):
        if point.model == before:
            continue
        for right, up, horizontal, vertical in _PLACES:
            text = axes.annotate(
                point.model,
                (point.cost, _height(series, point)),
                xytext=(right, up),
                textcoords="offset points",
                ha=horizontal,
                va=vertical,
                fontsize=7.5,
                parse_math=False,
            )
            box = text.get_window_extent()
            clear = not any(box.overlaps(other) for index, other in enumerate(taken) if index != number)
            if clear and inside.x0 <= box.x0 and box.y0 >= inside.y0 and box.y1 <= inside.y1:
                taken.append(box)
                before = point.model
                break
            text.remove()


# --------------------------------------------------------------------------------------------------------------- axes


def _vertical(series: Series) -> str:
    """`digits test error`, `digits test 5-shot error`, `digits test loss (nats)`, `digits test error after tuned`."""
    after = f" after {series.transfer}" if series.transfer else ""
    return f"{_measured(series)}{after}"


def _measured(series: Series) -> str:
    where = f"{series.dataset} {series.split}"
    if series.direction < 0:
        return f"{where} {series.metric.replace('_nats', ' (nats)').replace('_', ' ')}"
    shots = series.metric.removeprefix("accuracy").strip("_").replace("shot", "-shot")
    return f"{where} {shots} error" if shots else f"{where} error"


def _scale(axes: "Axes", costs: Sequence[float], heights: Sequence[float], series: Series) -> None:
    """Set scales, limits and ticks. The limits are those of the marks: a deviation may leave the axes."""
    from matplotlib.ticker import FuncFormatter

    form = _percent if series.direction > 0 else _plain
    axes.set_xscale("log")
    axes.set_xlim(*_log_limits(costs))
    _log_ticks(axes.xaxis, min(costs), max(costs), _power_of_ten)
    if min(heights) > 0:
        axes.set_yscale("log")
        axes.set_ylim(*_log_limits(heights))
        _log_ticks(axes.yaxis, min(heights), max(heights), form)
    else:
        top = max(heights) or 0.01
        axes.set_ylim(-0.05 * top, 1.08 * top)
        axes.yaxis.set_major_formatter(FuncFormatter(form))


def _log_limits(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    margin = max((high / low) ** 0.06, 1.15)
    return low / margin, high * margin


def _log_ticks(axis: "Axis", low: float, high: float, form: Any) -> None:
    """Ticks that are numbers one would say: powers of ten; over fewer decades also 2 and 5, or whatever is round."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

    decades = log10(high / low)
    if decades < 0.5:
        axis.set_major_locator(MaxNLocator(nbins=5, steps=[1, 2, 2.5, 5, 10]))
        axis.set_minor_locator(NullLocator())
    else:
        axis.set_major_locator(LogLocator(subs=(1.0,) if decades > 3 else (1.0, 2.0, 5.0), numticks=12))
        axis.set_minor_locator(LogLocator(subs=tuple(range(2, 10)), numticks=12))
        axis.set_minor_formatter(NullFormatter())
    axis.set_major_formatter(FuncFormatter(form))


def _percent(value: float, _: int) -> str:
    return f"{100 * value:.4g} %"


def _plain(value: float, _: int) -> str:
    return f"{value:.4g}"


def _power_of_ten(value: float, _: int) -> str:
    digits, exponent = f"{value:.3e}".split("e")
    front = f"{float(digits):g}"
    return f"$10^{{{int(exponent)}}}$" if front == "1" else rf"${front}\times10^{{{int(exponent)}}}$"
