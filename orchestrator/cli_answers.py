"""The commands that answer from results: frontiers and sweeps.

Heavy imports are inside the commands, so that `--help` is instant.
"""

from pathlib import Path
from typing import Annotated

import typer

from orchestrator.lookups import opened_store, settings_of, study_named
from orchestrator.options import Folder_, Json_, Name_, Store_

answers = typer.Typer(rich_markup_mode=None)


@answers.command()
def frontier(
    study: Name_,
    metric: Annotated[str | None, typer.Option(help="Metric, as in accuracy or accuracy_5shot.")] = None,
    split: Annotated[str | None, typer.Option(help="Split that the metric was measured on.")] = None,
    data: Annotated[str | None, typer.Option(metavar="NAME", help="Data set of that split.")] = None,
    kind: Annotated[str | None, typer.Option(help="evaluate, fewshot, or the name of a transfer.")] = None,
    image_size: Annotated[int | None, typer.Option(metavar="PIXELS", help="Side of the images there.")] = None,
    by: Annotated[str | None, typer.Option(metavar="family", help="One frontier for each family.")] = None,
    plot: Annotated[Path | None, typer.Option(metavar="FILE", help="Draw it: .svg, .png or .pdf.")] = None,
    csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
    parquet: Annotated[Path | None, typer.Option(metavar="FILE", help="Write a Parquet file.")] = None,
    store: Store_ = None,
    folder: Folder_ = None,
    json: Json_ = False,
) -> None:
    """Print which configurations buy the most quality for their training compute.

    Example:  vitscale frontier quickstart --by family --plot frontier.svg
    """
    from orchestrator import figures, reports, rows, screen

    if json and csv:
        raise ValueError("--json and --csv both print to stdout: choose one")
    if by not in (None, "family"):
        raise ValueError(f"'{by}' is nothing to divide by; valid: family")
    if plot:
        figures.check_format(plot)
    if parquet:
        rows.check_format(parquet, [".parquet"])
    with opened_store(settings_of(store, folder), create=False) as opened:
        wanted = {"metric": metric, "split": split, "dataset": data, "kind": kind, "image_size": image_size}
        found = reports.frontier(opened, study_named(opened, study), wanted, by_family=by is not None)
    if plot:
        if not found.points:
            raise reports.NotFound("there is nothing to draw: no configuration has a finite value and a cost")
        figures.draw_frontier(plot, found.study.title, found.series, found.points, found.frontier, by is not None)
        screen.say(f"wrote {plot}")
    if parquet:
        rows.write(parquet, reports.FrontierRow, reports.frontier_rows(found))
        screen.say(f"wrote {parquet}")
    if json:
        screen.print_json(reports.frontier_json(found))
    elif csv:
        screen.OUT.out(rows.as_csv(reports.FrontierRow, reports.frontier_rows(found)), end="", highlight=False)
    elif not parquet:
        screen.print_frontier(found.series, found.frontier, found.excluded)


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
