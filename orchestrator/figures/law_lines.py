"""Fitted laws as lines: within the costs that they stand on, beyond them dotted, with their band."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from orchestrator.figures.marks import Sheet
    from studies.laws.fits import Fit

Law = tuple[str | None, "Fit"]
"""The family that a law is of, None for all families together, and the law."""
_POINTS = 80
"""Of each piece of a line."""
DASHED, _DOTTED = (0, (5, 2)), (0, (1, 2))


def draw_law(sheet: "Sheet", axes: "Axes", fit: "Fit", colour: str, group: str) -> list[str]:
    """Draw a law of one input over a logarithmic axis whose limits are set; what has to be said about it."""
    low, high = axes.get_xlim()
    first, last = (min(max(end, low), high) for end in fit.cost_range)
    below, within, above = (np.geomspace(*ends, _POINTS) for ends in ((low, first), (first, last), (last, high)))
    cost = np.unique(np.concatenate([below, within, above]))
    bottom, top = fit.band_at(cost)
    # The limits are those of the marks: a band that opens beyond them must not move the axes.
    limits = axes.get_ylim()
    floor = limits[0] if axes.get_yscale() == "log" else -np.inf
    area = axes.fill_between(
        cost, np.maximum(bottom, floor), np.maximum(top, floor), color=colour, alpha=0.13, linewidth=0
    )
    sheet.belongs(area, group)
    for piece, dashes, width in ((below, _DOTTED, 1.0), (within, DASHED, 1.3), (above, _DOTTED, 1.0)):
        (line,) = axes.plot(piece, np.asarray(fit.error_at(piece)), color=colour, linewidth=width, linestyle=dashes)
        sheet.belongs(line, group)
    axes.set_ylim(*limits)
    return list(fit.warnings)


def bands_of(laws: "Iterable[Fit]") -> list[str]:
    """What has to be said about the bands of these laws, once for each kind."""
    from studies.laws.sentences import resampling

    kinds = dict.fromkeys((law.on_frontier, law.luck is not None) for law in laws if law.replicates)
    return [f"Bands: {resampling(on_frontier, by_seeds)}." for on_frontier, by_seeds in kinds]
