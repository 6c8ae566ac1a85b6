"""The commands that answer from results: frontiers, advantages and sweeps. Those about laws are in `cli_laws.py`.

Heavy imports are inside the commands, so that `--help` is instant.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast, get_args

import typer

from orchestrator.lookups import opened_store, settings_of, study_named, study_store
from orchestrator.options import Folder_, Json_, Name_, Store_
from orchestrator.series_options import (
    Cost_,
    Data_,
    ImageSize_,
    Kind_,
    Price_,
    Quality_,
    Split_,
    question,
    two_numbers,
)

if TYPE_CHECKING:
    from db.store import Store
    from orchestrator.frontier_reports import Frontier
    from studies.frontiers import Axes
    from studies.laws.fits import Fit

answers = typer.Typer(rich_markup_mode=None)


@answers.command()
def frontier(
    study: Name_,
    cost: Cost_ = "flops",
    quality: Quality_ = None,
    data: Data_ = None,
    split: Split_ = None,
    kind: Kind_ = None,
    image_size: ImageSize_ = None,
    by: Annotated[str | None, typer.Option(metavar="family", help="One frontier for each family.")] = None,
    hull: Annotated[bool, typer.Option("--hull", help="The lower convex hull instead of the staircase.")] = False,
    axes: Annotated[
        str | None,
        typer.Option(
            help="Of the hull: log-cost (log cost, error; without it), log-log, or linear.", show_default=False
        ),
    ] = None,
    price: Price_ = None,
    plot: Annotated[Path | None, typer.Option(metavar="FILE", help="Draw it: .svg, .png, .pdf or .html.")] = None,
    law: Annotated[
        str | None, typer.Option(metavar="FORM", help="Draw the fitted law of this form too, with its band.")
    ] = None,
    csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
    parquet: Annotated[Path | None, typer.Option(metavar="FILE", help="Write a Parquet file.")] = None,
    store: Store_ = None,
    folder: Folder_ = None,
    json: Json_ = False,
) -> None:
    """Print which configurations buy the most quality for their training compute, or for another cost.

    A staircase: no other configuration is at most as dear and at least as good. Those that miss it by less than one
    standard error of the seeds are marked as tied; whatever is left out is counted.

    Example:  vitscale frontier quickstart --by family --plot frontier.svg
    """
    from orchestrator import frontier_reports, reports, rows, screen, screen_answers

    if json and csv:
        raise ValueError("--json and --csv both print to stdout: choose one")
    if law and not plot:
        raise ValueError("--law has an effect on a figure alone: add --plot FILE")
    by_family = _by_family(by)
    if plot:
        from orchestrator.figures import check_format

        check_format(plot)
    if parquet:
        rows.check_format(parquet, [".parquet"])
    asked = question(quality, data, split, kind, image_size, cost, price)
    shape = _axes(hull, axes)
    answer: frontier_reports.Answer
    with study_store(settings_of(store, folder), study) as (opened, found):
        if plot:
            answer = drawn = frontier_reports.frontier(opened, found, asked, by_family=by_family, axes=shape)
            if not drawn.points:
                raise reports.NotFound("there is nothing to draw: no configuration has a finite value and a cost")
            _draw(plot, drawn, _laws(opened, drawn, law) if law else [])
            screen.say(f"wrote {plot}")
        else:
            answer = frontier_reports.answer(opened, found, asked, by_family=by_family, axes=shape)
    if parquet:
        rows.write(parquet, frontier_reports.FrontierRow, frontier_reports.rows(answer))
        screen.say(f"wrote {parquet}")
    if json:
        screen.print_json(frontier_reports.as_json(answer))
    elif csv:
        text = rows.as_csv(frontier_reports.FrontierRow, frontier_reports.rows(answer))
        screen.OUT.out(text, end="", highlight=False)
    elif not parquet:
        screen_answers.print_frontier(answer)


def _by_family(by: str | None) -> bool:
    if by not in (None, "family"):
        raise ValueError(f"'{by}' is nothing to divide by; valid: family")
    return by is not None


def _axes(hull: bool, axes: str | None) -> "Axes | None":
    from studies.frontiers import Axes

    if axes and not hull:
        raise ValueError("--axes has an effect on a hull alone: add --hull")
    for valid in get_args(Axes):
        if (axes or "log-cost") == valid:
            return cast("Axes", valid) if hull else None
    raise ValueError(f"a hull has no axes '{axes}'; valid: {', '.join(get_args(Axes))}")


def _laws(store: "Store", answer: "Frontier", form: str) -> "list[tuple[str | None, Fit]]":
    from orchestrator import screen
    from orchestrator.law_reports import drawn_laws

    laws, missing = drawn_laws(store, answer, form)
    for why in missing:
        screen.say(why)
    return laws


def _draw(file: Path, answer: "Frontier", laws: "Sequence[tuple[str | None, Fit]]") -> None:
    from orchestrator.figures import draw_frontier

    draw_frontier(
        file,
        answer.study.title,
        answer.series,
        answer.points,
        answer.frontier,
        answer.by_family,
        laws=laws,
        tied=answer.tied,
        hull=answer.hull,
        axis=answer.axis,
    )


@answers.command()
def advantage(
    study: Name_,
    of: Annotated[str, typer.Option(metavar="FAMILY", help="The family whose advantage is asked for.")],
    over: Annotated[str, typer.Option(metavar="FAMILY", help="The family that it is compared with.")],
    cost: Cost_ = "flops",
    quality: Quality_ = None,
    data: Data_ = None,
    split: Split_ = None,
    kind: Kind_ = None,
    image_size: ImageSize_ = None,
    price: Price_ = None,
    band: Annotated[
        str | None, typer.Option(metavar="LOW,HIGH", help="Say which share of the range has a ratio between these.")
    ] = None,
    store: Store_ = None,
    folder: Folder_ = None,
    json: Json_ = False,
) -> None:
    """Print what one family costs beside another at equal quality, and how much better it is at equal cost.

    Frontiers are lines between their points, in log cost, and end where they end: where no quality is reached by both,
    there is no ratio.

    Example:  vitscale advantage vit-paper --of ViT --over ResNet --quality avg5 --band 2,4
    """
    from orchestrator import frontier_reports, screen, screen_answers

    asked = question(quality, data, split, kind, image_size, cost, price)
    limits = two_numbers(band, "--band 2,4") if band else None
    with study_store(settings_of(store, folder), study) as (opened, found):
        answer = frontier_reports.frontier(opened, found, asked, by_family=True)
    compared = frontier_reports.compare(answer, of, over, limits)
    if json:
        screen.print_json(frontier_reports.comparison_json(compared))
    else:
        screen_answers.print_comparison(compared)


@answers.command()
def sweep(study: Name_, store: Store_ = None, folder: Folder_ = None, json: Json_ = False) -> None:
    """Print what a study's searches tried, what was chosen, and what the choice was measured at.

    Also the sweeps that its blocks spell out, and the scores of suites. Reads the store alone.

    Example:  vitscale sweep first-transfer
    """
    from orchestrator import screen, screen_sweep, sweep_reports

    with opened_store(settings_of(store, folder), create=False) as opened:
        found = sweep_reports.report(opened, study_named(opened, study))
    if json:
        screen.print_json(sweep_reports.as_json(found))
    else:
        screen_sweep.print_sweeps(found)
