"""The commands that say how far things are: studies, one run, its logs.

Heavy imports are inside the commands, so that `--help` is instant.
"""

from typing import Annotated

import typer

from orchestrator.lookups import opened_store, run_named, settings_of, study_named
from orchestrator.options import Folder_, Json_, OptionalName_, Run_, Store_

reading = typer.Typer(rich_markup_mode=None)


@reading.command()
def status(
    study: OptionalName_ = None,
    watch: Annotated[bool, typer.Option("--watch", help="Print again every 2 seconds until all is done.")] = False,
    store: Store_ = None,
    folder: Folder_ = None,
    json: Json_ = False,
) -> None:
    """Say how far the studies are. Reads the store alone: the cluster may be down.

    Example:  vitscale status --watch
    """
    import time

    from orchestrator import reports, screen

    with opened_store(settings_of(store, folder), create=False) as opened:
        while True:
            report = reports.status(opened, study_named(opened, study).id if study else None)
            if json:
                screen.print_json(report.as_json())
            else:
                if watch:
                    screen.OUT.clear()  # does nothing but on a terminal
                screen.print_status(report.studies, report.running)
                screen.print_failures(report.failed, report.counted("failed"))
            if not watch or report.is_over:
                return
            time.sleep(2)


@reading.command()
def show(run: Run_, store: Store_ = None, folder: Folder_ = None, json: Json_ = False) -> None:
    """Show one run: its definition, attempts, results and checkpoint.

    Example:  vitscale show 3f2a9c
    """
    from orchestrator import reports, screen

    settings = settings_of(store, folder)
    with opened_store(settings, create=False) as opened:
        report = reports.run(opened, run_named(opened, run), settings)
    if json:
        screen.print_json(report)
    else:
        screen.print_run(report)


@reading.command()
def logs(
    run: Run_,
    attempt: Annotated[int | None, typer.Option(help="Number of the attempt. Default: the last one.")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the run is over.")] = False,
    store: Store_ = None,
    folder: Folder_ = None,
) -> None:
    """Print the log of a run's attempt, and the traceback if it failed.

    Example:  vitscale logs 3f2a9c --follow
    """
    from orchestrator import reports, screen

    settings = settings_of(store, folder)
    with opened_store(settings, create=False) as opened:
        found = run_named(opened, run)
        for text in reports.log(opened, found, settings, attempt, follow=follow):
            screen.OUT.out(text, end="", highlight=False)
