"""The frontier: cost against error, every configuration and those that nothing beats, with laws (Figure 5)."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from db.frontiers import FrontierPoint, Point, Series
from orchestrator.figures.axes import cost_axis, error_axis
from orchestrator.figures.facts import facts_of
from orchestrator.figures.files import LINK, write
from orchestrator.figures.labels import name_marks
from orchestrator.figures.law_lines import DASHED, Law, bands_of, draw_law
from orchestrator.figures.marks import Ink, Mark, Sheet, legend, line_sample, new_sheet, put, sample
from orchestrator.figures.style import INK, STYLE, looks_of

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

    from studies.laws.fits import Fit
    from studies.laws.points import Floats

AnyPoint = Point | FrontierPoint
_STEPS = 40
"""Pieces of an edge of a hull that is straight in other axes than the figure's."""


def draw_frontier(
    path: Path,
    title: str,
    series: Series,
    points: Sequence[Point],
    frontier: Sequence[FrontierPoint],
    by_family: bool,
    *,
    laws: Sequence[Law] = (),
    tied: Sequence[AnyPoint] = (),
    hull: tuple[str, Sequence[AnyPoint]] | None = None,
    axis: str = "flops",
    link: str = LINK,
) -> None:
    """Draw `frontier_sheet` into a file: .svg, .pdf, .png or .html.

    link: address of a run, with `{key}` in it. Raises OSError when the file cannot be written.
    """
    write(
        frontier_sheet(title, series, points, frontier, by_family, laws=laws, tied=tied, hull=hull, axis=axis),
        path,
        link,
    )


def frontier_sheet(
    title: str,
    series: Series,
    points: Sequence[Point],
    frontier: Sequence[FrontierPoint],
    by_family: bool,
    *,
    laws: Sequence[Law] = (),
    tied: Sequence[AnyPoint] = (),
    hull: tuple[str, Sequence[AnyPoint]] | None = None,
    axis: str = "flops",
) -> Sheet:
    """Cost against error: every configuration faint, the frontier as a staircase with its deviations.

    Where less is better (a loss), the metric itself is drawn. Both axes are logarithmic; where a value is zero, which
    has no place there, the vertical one is linear. Imported points are open where there are own ones too.
    Each mark of an SVG has an id: `run-` or `frontier-`, then the first 16 digits of the key of each run behind it.
    points: at least one, their costs on `axis` (a name of `db.frontiers.AXES`). laws: each with the family that it is
    of, None for all together; drawn over the costs that it was fitted on, beyond them dotted, with its 95 % band.
    tied: of the points, those within a standard error of the frontier; ringed. hull: the axes that it is straight in
    (`log-cost`, `log-log` or `linear`), and its corners, of each family the cheapest first; drawn instead of the
    staircase.
    """
    import matplotlib

    assert points
    with matplotlib.rc_context(STYLE):
        sheet, (axes,) = new_sheet(title)
        cost_axis(axes, [point.cost for point in points], axis)
        error_axis(axes, [_height(series, point) for point in points], series)
        looks = looks_of(point.family for point in points)
        inks = {family: Ink(look.marker, look.colour) for family, look in looks.items()}
        if hull:
            _draw_hull(sheet, axes, series, *hull, inks, by_family)
        is_mixed = len({point.external for point in points}) > 1
        leading = {key for point in frontier for key in (point.configuration, *point.same)}
        for family, ink in inks.items():
            members = [point for point in points if point.family == family]
            _draw_faint(sheet, axes, series, members, ink, axis, leading, is_mixed)
            if by_family and not hull:
                stairs = [point for point in frontier if point.family == family]
                _staircase(sheet, axes, series, stairs, ink.colour, family)
        if not by_family and not hull:
            _staircase(sheet, axes, series, frontier, INK, _frontier_name(frontier))
        for of_family, fit in laws:
            colour = inks[of_family].colour if of_family is not None else INK
            of = f" of {of_family}" if of_family else ""
            said = draw_law(sheet, axes, fit, colour, of_family or _law_name(fit))
            sheet.notes += [f"Law{of}: {warning}" for warning in said]
        sheet.notes += bands_of(fit for _, fit in laws)
        _ring(sheet, axes, series, tied, inks)
        marks = _draw_frontier_marks(sheet, axes, series, frontier, inks, axis, is_mixed)
        legend(sheet, _entries(inks, frontier, laws, tied, hull, is_mixed))
        if not by_family:
            faint = [(mark, "") for name, mark in sheet.marks.items() if name.startswith("run-")]
            name_marks(sheet, axes, [*((mark, mark.label) for mark in marks), *faint])
    return sheet


def _frontier_name(frontier: Sequence[FrontierPoint]) -> str:
    return "frontier ± 1 sd of seeds" if any(point.sd for point in frontier) else "frontier"


def _law_name(fit: "Fit") -> str:
    doubt = " (doubtful)" if fit.warnings else ""
    return f"{fit.form.replace('-', ' ')} law{doubt}, 95 % band"


def _height(series: Series, point: AnyPoint) -> float:
    return 1 - point.value if series.direction > 0 else point.value


# --------------------------------------------------------------------------------------------------------------- marks


def _draw_faint(
    sheet: Sheet,
    axes: "Axes",
    series: Series,
    points: Sequence[Point],
    ink: Ink,
    axis: str,
    leading: set[str],
    is_mixed: bool,
) -> None:
    faint = Ink(ink.marker, ink.colour, 4.5, 0.35, has_edge=False)
    for point in points:
        facts = facts_of(point, series, axis)
        on = ("on the frontier", "yes" if point.configuration in leading else "no")
        mark = Mark(
            x=point.cost,
            y=_height(series, point),
            group=point.family,
            label=point.model,
            runs=point.runs,
            facts=(*facts, on),
            external=point.external,
        )
        put(sheet, axes, mark, replace(faint, is_open=point.external and is_mixed))


def _draw_frontier_marks(
    sheet: Sheet,
    axes: "Axes",
    series: Series,
    frontier: Sequence[FrontierPoint],
    inks: dict[str, Ink],
    axis: str,
    is_mixed: bool,
) -> list[Mark]:
    marks = []
    for point in frontier:
        mark = Mark(
            x=point.cost,
            y=_height(series, point),
            group=point.family,
            label=point.model,
            runs=point.runs,
            facts=(*facts_of(point, series, axis), ("on the frontier", "yes")),
            spread=point.sd,
            external=point.external,
        )
        put(sheet, axes, mark, replace(inks[point.family], is_open=point.external and is_mixed), "frontier")
        marks.append(mark)
    return marks


def _ring(sheet: Sheet, axes: "Axes", series: Series, tied: Sequence[AnyPoint], inks: dict[str, Ink]) -> None:
    for point in tied:
        (ring,) = axes.plot(
            point.cost,
            _height(series, point),
            "o",
            markersize=10,
            markerfacecolor="none",
            markeredgecolor=inks[point.family].colour,
            markeredgewidth=0.8,
        )
        sheet.belongs(ring, point.family)


# --------------------------------------------------------------------------------------------------------------- lines


def _staircase(
    sheet: Sheet, axes: "Axes", series: Series, points: Sequence[FrontierPoint], colour: str, group: str
) -> None:
    """The best value that a budget buys: level until the next, dearer configuration is better."""
    if points:
        heights = [_height(series, point) for point in points]
        (line,) = axes.step([point.cost for point in points], heights, where="post", color=colour, linewidth=1.2)
        sheet.belongs(line, group)


def _draw_hull(
    sheet: Sheet,
    axes: "Axes",
    series: Series,
    straight_in: str,
    corners: Sequence[AnyPoint],
    inks: dict[str, Ink],
    by_family: bool,
) -> None:
    """The hull's edges, bent where the figure's axes are not those that it is straight in."""
    if straight_in not in ("log-cost", "log-log", "linear"):
        raise ValueError(f"'{straight_in}' names no axes of a hull; valid: log-cost, log-log, linear")
    for family in inks if by_family else [None]:
        own = [point for point in corners if family in (None, point.family)]
        if len(own) < 2:
            continue
        cost, error = _edges(
            np.array([point.cost for point in own]), np.array([_height(series, point) for point in own]), straight_in
        )
        colour = INK if family is None else inks[family].colour
        (line,) = axes.plot(cost, error, color=colour, linewidth=1.0, linestyle=(0, (1, 1.2)))
        sheet.belongs(line, family or _hull_name(straight_in))


def _edges(cost: "Floats", error: "Floats", straight_in: str) -> tuple["Floats", "Floats"]:
    """Points along the edges between corners: straight in these axes, where logarithms of zero are not wanted."""
    across = cost if straight_in == "linear" else np.log(cost)
    is_log = straight_in == "log-log" and bool((error > 0).all())
    up = np.log(error) if is_log else error
    pieces = [np.linspace(a, b, _STEPS, endpoint=False) for a, b in pairwise(across)]
    along = np.concatenate([*pieces, across[-1:]])
    height = np.interp(along, across, up)
    return (along if straight_in == "linear" else np.exp(along)), (np.exp(height) if is_log else height)


def _hull_name(straight_in: str) -> str:
    named = {"log-cost": "log cost × error", "log-log": "log cost × log error", "linear": "cost × error"}
    return f"hull ({named[straight_in]})"


def _entries(
    inks: dict[str, Ink],
    frontier: Sequence[FrontierPoint],
    laws: Sequence[Law],
    tied: Sequence[AnyPoint],
    hull: tuple[str, Sequence[AnyPoint]] | None,
    is_mixed: bool,
) -> list[tuple[str, "Artist"]]:
    """What the legend names."""
    entries = [(family, sample(ink)) for family, ink in inks.items()]
    if hull is None:
        entries.append((_frontier_name(frontier), line_sample(INK)))
    for name in sorted({_law_name(fit) for _, fit in laws})[:1]:  # with doubts about any, the entry that says so
        entries.append((name, line_sample(INK, DASHED)))
    if hull:
        entries.append((_hull_name(hull[0]), line_sample(INK, (0, (1, 1.2)), 1.0)))
    if tied:
        entries.append(("tied: within one standard error", sample(Ink("o", INK, 9), is_open=True)))
    if is_mixed:
        entries.append(("imported", sample(Ink("o", INK), is_open=True)))
    return entries
