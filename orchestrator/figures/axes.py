"""Axes of figures: scales, limits, ticks that are numbers one would say, and their labels."""

import textwrap
from collections.abc import Sequence
from itertools import pairwise
from math import floor, log2, log10
from typing import TYPE_CHECKING, Any

from db.frontiers import Series

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis

COST_LABELS = {
    "flops": "training compute (FLOPs)",
    "device-seconds": "training time (device-seconds)",
    "images": "training images seen",
    "parameters": "parameters",
    "forward-flops": "forward pass of one image (FLOPs)",
    "money": "cost of training (money)",
}
"""What stands at the axis of each cost."""
COUNTED = ("images", "parameters")
"""Costs that are counts: their ticks read 1M, not a power of ten."""
MOST_SIZES = 7
_SPARSE, _DENSE = (1.0, 2.0, 5.0), (1.0, 1.5, 2.0, 3.0, 5.0, 7.0)
MOST_LETTERS = 52
"""In a line of a vertical label."""


def plain_axes(axes: "Axes") -> None:
    """A faint grid behind the data, and no lines where no axis is."""
    axes.grid(visible=True, which="major", color="#e4e4e4", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def cost_axis(axes: "Axes", costs: Sequence[float], axis: str, *, is_narrow: bool = False) -> None:
    """A logarithmic horizontal axis over these costs, all > 0. is_narrow: there is room for few ticks."""
    axes.set_xscale("log")
    axes.set_xlim(*log_limits(costs))
    form = count if axis in COUNTED else power_of_ten
    log_ticks(axes.xaxis, min(costs), max(costs), form, most_decades=1.2 if is_narrow and form is power_of_ten else 3)
    axes.set_xlabel(COST_LABELS[axis])


def error_axis(axes: "Axes", heights: Sequence[float], series: Series) -> None:
    """A vertical axis for errors: logarithmic but where one is zero. Its limits are those of the marks."""
    from matplotlib.ticker import FuncFormatter

    form = percent if series.direction > 0 else plain
    if min(heights) > 0:
        axes.set_yscale("log")
        axes.set_ylim(*log_limits(heights))
        log_ticks(axes.yaxis, min(heights), max(heights), form)
    else:
        top = max(heights) or 0.01
        axes.set_ylim(-0.05 * top, 1.08 * top)
        axes.yaxis.set_major_formatter(FuncFormatter(form))
    axes.set_ylabel(_wrapped(error_label(series)))


def value_axis(axes: "Axes", lows: Sequence[float], highs: Sequence[float], series: Series) -> None:
    """A linear vertical axis for the metric itself, accuracies in percent."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    low, high = min(lows), max(highs)
    margin = 0.06 * (high - low) or 0.02
    top = high + margin
    if series.direction > 0 and high <= 1:
        top = min(top, 1 + 0.4 * margin)  # no room is kept for accuracies that cannot be
    axes.set_ylim(low - margin, top)
    axes.yaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 2.5, 5, 10]))
    axes.yaxis.set_major_formatter(FuncFormatter(percent if series.direction > 0 else plain))
    axes.set_ylabel(_wrapped(value_label(series)))


def sizes_axis(axes: "Axes", sizes: Sequence[float], names: Sequence[str], label: str) -> None:
    """A logarithmic horizontal axis of a few sizes, each a tick with its name while there is room for all.

    sizes: ascending, all > 0; names: one for each.
    """
    from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

    low, high = log_limits(sizes)
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    axes.set_xlabel(label)
    widest = max(len(line) for name in names for line in name.split("\n"))
    gaps = [log10(after / before) / log10(high / low) for before, after in pairwise(sizes)]
    if len(sizes) <= MOST_SIZES and all(gap > 0.017 * widest for gap in gaps):
        axes.xaxis.set_major_locator(FixedLocator(list(sizes)))
        axes.xaxis.set_major_formatter(FixedFormatter(list(names)))
        axes.xaxis.set_minor_locator(NullLocator())
    else:
        log_ticks(axes.xaxis, sizes[0], sizes[-1], count)


def ratio_axis(axes: "Axes", ratios: Sequence[float], label: str) -> None:
    """A logarithmic horizontal axis of ratios to one: 1/4, 1/2, 1, 2, 4."""
    from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

    low, high = log_limits(ratios)
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    axes.set_xlabel(label)
    first, last = floor(log2(low)) + 1, floor(log2(high))
    step = max(1, (last - first) // 8 + 1)
    powers = [power for power in range(first, last + 1) if power % step == 0]
    axes.xaxis.set_major_locator(FixedLocator([2.0**power for power in powers]))
    axes.xaxis.set_major_formatter(FixedFormatter([_ratio(power) for power in powers]))
    axes.xaxis.set_minor_locator(NullLocator())


def _ratio(power: int) -> str:
    return f"{2**power}" if power >= 0 else f"1/{2**-power}"


def log_limits(values: Sequence[float]) -> tuple[float, float]:
    """Limits around some values, all > 0."""
    low, high = min(values), max(values)
    margin = max((high / low) ** 0.06, 1.15)
    return low / margin, high * margin


def log_ticks(axis: "Axis", low: float, high: float, form: Any, most_decades: float = 3) -> None:
    """Ticks that are numbers one would say: powers of ten; over fewer decades also 2 and 5, or whatever is round.

    most_decades: over more, powers of ten alone.
    """
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

    decades = log10(high / low)
    if decades < 0.5:
        axis.set_major_locator(MaxNLocator(nbins=5, steps=[1, 2, 2.5, 5, 10]))
        axis.set_minor_locator(NullLocator())
    else:
        between = (1.0,) if decades > most_decades else _DENSE if decades < 1 and form in (percent, plain) else _SPARSE
        axis.set_major_locator(LogLocator(subs=between, numticks=12))
        axis.set_minor_locator(LogLocator(subs=tuple(range(2, 10)), numticks=12))
        axis.set_minor_formatter(NullFormatter())
    axis.set_major_formatter(FuncFormatter(form))


# -------------------------------------------------------------------------------------------------------------- labels


def error_label(series: Series) -> str:
    """`digits test error`, `digits test 5-shot error`, `digits test loss (nats)`, `digits test error after tuned`."""
    return _measured(series, "error")


def value_label(series: Series) -> str:
    """The same of the metric itself: `digits test accuracy`, `digits test 5-shot accuracy`."""
    return _measured(series, "accuracy")


def _measured(series: Series, what: str) -> str:
    named = "fine-tuning" if series.transfer == "finetune" else series.transfer  # the kind of imported results
    after = f" after {named}" if named else ""
    if len(series.datasets) > 1:
        where, metric = f"mean over {len(series.datasets)} data sets,", series.parts[0].metric
    else:
        where, metric = f"{series.dataset} {series.split}", series.metric
    if series.direction < 0:
        return f"{where} {metric.replace('_nats', ' (nats)').replace('_', ' ')}{after}"
    shots = metric.removeprefix("accuracy").strip("_").replace("shot", "-shot").replace("top5", "top-5")
    return f"{where} {shots} {what}{after}" if shots else f"{where} {what}{after}"


def _wrapped(words: str) -> str:
    return "\n".join(textwrap.wrap(words, MOST_LETTERS))


def percent(value: float, _: int = 0) -> str:
    """A share as percent."""
    return f"{100 * value:.4g} %"


def plain(value: float, _: int = 0) -> str:
    """A number with at most four digits."""
    return f"{value:.4g}"


def count(value: float, _: int = 0) -> str:
    """`800`, `65k`, `1.3M`, `303M`, `3B`."""
    for size, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if value >= 0.9995 * size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"


def size(value: float) -> str:
    """`1,024`, `65k`, `1.28M`: a number of images, all its digits where they are few and not round."""
    return count(value) if value >= 1e6 or value == float(f"{value:.2g}") else f"{value:,.0f}"


def power_of_ten(value: float, _: int = 0) -> str:
    """A number as Matplotlib's mathematics."""
    digits, exponent = f"{value:.3e}".split("e")
    front = f"{float(digits):g}"
    return f"$10^{{{int(exponent)}}}$" if front == "1" else rf"${front}\times10^{{{int(exponent)}}}$"
