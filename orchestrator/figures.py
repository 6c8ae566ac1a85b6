"""Figures, one function each, from rows to a file."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from db.answers import FrontierPoint, Point, Series

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FORMATS = (".svg", ".png", ".pdf")
COLOURS = {"ViT": "#0072B2", "ResNet": "#D55E00", "Hybrid": "#009E73"}
"""Okabe and Ito's colours, told apart by colour-blind readers too."""
MARKERS = {"ViT": "o", "ResNet": "s", "Hybrid": "D"}


def check_format(path: Path) -> None:
    """Raise ValueError unless the file's ending is one that a figure can be written in."""
    if path.suffix.lower() not in FORMATS:
        raise ValueError(f"'{path.name}' names no figure format; valid endings: {', '.join(FORMATS)}")


def draw_frontier(
    path: Path, title: str, series: Series, points: Sequence[Point], frontier: Sequence[FrontierPoint], by_family: bool
) -> None:
    """Training compute against error: every configuration faint, the frontier as a staircase.

    Where less is better (a loss), the metric itself is drawn. Each mark of an SVG has the keys of its runs as its id.
    """
    import matplotlib

    matplotlib.use("agg")
    # The same rows give the same file: a figure can be compared and committed.
    matplotlib.rcParams.update({"svg.hashsalt": "vitscale", "svg.fonttype": "none", "font.size": 9})
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter

    higher = series.direction > 0
    form = _percent if higher else _plain

    def height(value: float) -> float:
        return 1 - value if higher else value

    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.add_subplot()
    families = sorted({point.family for point in points}, key=lambda family: list(COLOURS).index(family))
    for family in families:
        colour, marker = COLOURS[family], MARKERS[family]
        for each in (each for each in points if each.family == family):
            (mark,) = axes.plot(each.cost, height(each.value), marker, color=colour, alpha=0.3, markersize=4)
            mark.set_gid("run-" + "-".join(key[:16] for key in each.runs))
        axes.plot([], [], marker, color=colour, label=family)
        if by_family:
            _staircase(axes, [point for point in frontier if point.family == family], height, colour)
    if not by_family:
        _staircase(axes, frontier, height, "#444444")
    for point in frontier:
        (mark,) = axes.plot(
            point.cost, height(point.value), MARKERS[point.family], color=COLOURS[point.family], markersize=6
        )
        mark.set_gid("frontier-" + "-".join(key[:16] for key in point.runs))
        if not by_family:
            axes.annotate(
                point.model,
                (point.cost, height(point.value)),
                xytext=(4, 5),
                textcoords="offset points",
                fontsize=7,
                color="#444444",
            )
    axes.set_xscale("log")
    heights = [height(point.value) for point in points]
    if min(heights) > 0:
        axes.set_yscale("log")
        axes.yaxis.set_minor_formatter(FuncFormatter(form))
    axes.yaxis.set_major_formatter(FuncFormatter(form))
    axes.set_xlabel("training compute (FLOPs)")
    axes.set_ylabel(f"{series.split} error" if higher else f"{series.split} {series.metric}")
    axes.set_title(title, fontsize=10, loc="left")
    axes.grid(visible=True, which="major", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=200, metadata={"Date": None} if path.suffix.lower() == ".svg" else None)


def _percent(value: float, _: int) -> str:
    return f"{100 * value:g} %"


def _plain(value: float, _: int) -> str:
    return f"{value:g}"


def _staircase(axes: "Axes", points: Sequence[FrontierPoint], height: Callable[[float], float], colour: str) -> None:
    """The best error that a budget buys: level until the next, dearer configuration is better."""
    if points:
        costs = [point.cost for point in points]
        axes.step(costs, [height(point.value) for point in points], where="post", color=colour, linewidth=1.2)
