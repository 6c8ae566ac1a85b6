"""From a study and the name of a figure to its sheet: what is gathered, what is fitted, and what options it takes."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from db import answers
from db.store import Store
from orchestrator import frontier_reports
from orchestrator.figures import material, speeds
from orchestrator.figures.fewshot import fewshot_sheet
from orchestrator.figures.frontier import frontier_sheet
from orchestrator.figures.law_lines import Law
from orchestrator.figures.marks import Sheet
from orchestrator.figures.scaling import PANELS, inputs_of, scaling_sheet
from orchestrator.figures.shape import shape_sheet
from orchestrator.figures.throughput import throughput_sheet
from orchestrator.figures.transfer import transfer_sheet
from orchestrator.frontier_reports import Question
from orchestrator.reports import NotFound
from studies.architectures import nearest
from studies.laws.points import Points

if TYPE_CHECKING:
    from studies.laws.fits import Fit

LAWS_OF_COST = ("power", "saturating", "double-saturating")
"""Forms that a frontier can be drawn with: functions of cost alone."""


@dataclass(frozen=True)
class Wanted:
    """What was said about a figure; None, False and a cost in FLOPs where nothing was."""

    asked: Question
    by_family: bool = False
    law: str | None = None
    band: str | None = None
    device: str | None = None


def drawn(store: Store, study: answers.Study, figure: str, wanted: Wanted) -> Sheet:
    """A figure of a study.

    Raises NotFound, with the figures that the study has enough for, when it has not what this one needs; ValueError for
    an option that has no effect on it, and for a figure that there is not.
    """
    _check(figure, wanted)
    try:
        return FIGURES[figure](store, study, wanted)
    except NotFound as why:
        others = [name for name in FIGURES if name != figure and _is_possible(store, study, name)]
        cure = f"; it has enough for: vitscale figure {' | '.join(others)}" if others else ""
        raise NotFound(f"{why}{cure}") from None


def _check(figure: str, wanted: Wanted) -> None:
    """Raise ValueError for what is no figure, and for an option without effect."""
    if figure not in FIGURES:
        raise ValueError(f"'{figure}' is no figure{nearest(figure, list(FIGURES))}")
    given = {
        "--by": (wanted.by_family, ("frontier",)),
        "--law": (wanted.law, ("frontier",)),
        "--cost": (wanted.asked.axis != "flops", ("frontier",)),
        "--band": (wanted.band, ("transfer", "fewshot")),
        "--device": (wanted.device, ("throughput",)),
    }
    if wanted.asked.wanted:
        given["a choice of results"] = (True, ("transfer", "fewshot", "frontier", "shape", "scaling"))
    for option, (value, figures) in given.items():
        if value and figure not in figures:
            raise ValueError(f"{option} has no effect on the figure {figure}: it is for {', '.join(figures)}")
    if wanted.law is not None and wanted.law not in LAWS_OF_COST:
        raise ValueError(f"'{wanted.law}' is no law that a frontier is drawn with; valid: {', '.join(LAWS_OF_COST)}")


def _is_possible(store: Store, study: answers.Study, figure: str) -> bool:
    """Whether the study has what a figure needs, without fitting laws to find out."""
    nothing = Wanted(Question())
    needs: dict[str, Callable[[], object]] = {
        "transfer": lambda: material.of_transfer(store, study, nothing.asked),
        "fewshot": lambda: material.of_fewshot(store, study, nothing.asked),
        "frontier": lambda: _frontier(store, study, nothing),
        "shape": lambda: _shape(store, study, nothing),
        "throughput": lambda: speeds.of_study(store, study, None),
        "scaling": lambda: material.of_scaling(store, study, nothing.asked),
    }
    try:
        needs[figure]()
    except (NotFound, ValueError):
        return False
    return True


# ------------------------------------------------------------------------------------------------------------- figures


def _transfer(store: Store, study: answers.Study, wanted: Wanted) -> Sheet:
    found = material.of_transfer(store, study, wanted.asked)
    return transfer_sheet(found.title, found.series, found.rows, found.notes, band=wanted.band)


def _fewshot(store: Store, study: answers.Study, wanted: Wanted) -> Sheet:
    found = material.of_fewshot(store, study, wanted.asked)
    return fewshot_sheet(found.title, found.series, found.rows, found.notes, band=wanted.band)


def _shape(store: Store, study: answers.Study, wanted: Wanted) -> Sheet:
    found = material.of_shape(store, study, wanted.asked)
    return shape_sheet(found.title, found.series, found.rows, found.notes)


def _throughput(store: Store, study: answers.Study, wanted: Wanted) -> Sheet:
    return throughput_sheet(speeds.of_study(store, study, wanted.device))


def _frontier(store: Store, study: answers.Study, wanted: Wanted) -> Sheet:
    found = frontier_reports.frontier(store, study, wanted.asked, by_family=wanted.by_family)
    if not found.points:
        raise NotFound(f"{study.name} has nothing to draw: no configuration has a finite value and a cost")
    laws, remarks = _laws(store, found, wanted.law) if wanted.law else ([], [])
    sheet = frontier_sheet(
        study.title,
        found.series,
        found.points,
        found.frontier,
        wanted.by_family,
        laws=laws,
        tied=found.tied,
        axis=found.axis,
    )
    sheet.notes += [*found.notes, *remarks]
    sheet.notes += [f"Left out, {reason}: {len(keys)}." for reason, keys in found.excluded]
    return sheet


def _scaling(store: Store, study: answers.Study, wanted: Wanted) -> Sheet:
    from orchestrator import law_reports

    found = material.of_scaling(store, study, wanted.asked)
    points = law_reports.points_of(found.series, [row.point for row in found.rows])
    laws: dict[str, Fit] = {}
    remarks = []
    for panel, label in PANELS.items():
        law, why = _fitted(replace(points, cost=inputs_of(found.rows, panel)), "saturating")
        if law is not None and len(law.draws):
            laws[panel] = law
        else:  # a law without an interval is none that one would print
            said = why if law is None else " ".join(law.warnings).rstrip(".")
            remarks.append(f"No law over {label}: {said}.")
    return scaling_sheet(found.title, found.series, found.rows, [*found.notes, *remarks], laws=laws)


FIGURES: dict[str, Callable[[Store, answers.Study, Wanted], Sheet]] = {
    "transfer": _transfer,
    "fewshot": _fewshot,
    "frontier": _frontier,
    "shape": _shape,
    "throughput": _throughput,
    "scaling": _scaling,
}


# ---------------------------------------------------------------------------------------------------------------- laws


def _laws(store: Store, found: frontier_reports.Frontier, form: str) -> tuple[list[Law], list[str]]:
    """The laws that `vitscale fit` answers, of all points or by family; a sentence for each that there is none of."""
    from orchestrator import law_reports

    laws: list[Law] = []
    remarks = []
    families = dict.fromkeys(point.family for point in found.points)
    for family in families if found.by_family else [None]:
        try:
            law = law_reports.fitted(store, found, law_reports.Wish(form, family)).fit
        except ValueError as why:
            remarks.append(f"No law{f' of {family}' if family else ''}: {why}.")
        else:
            laws += [(family, law)] if law else []
    return laws, remarks


def _fitted(points: Points, form: str) -> "tuple[Fit | None, str]":
    """A law with the replicates and the seed that `vitscale fit` has without more; or why there is none."""
    from studies.laws.fits import fit

    try:
        return fit(points, form), ""
    except ValueError as why:
        return None, str(why).rstrip(".")
