"""The commands that write a study's results to files.

Heavy imports are inside the commands, so that `--help` is instant.
"""

from pathlib import Path
from typing import Annotated

import typer

from orchestrator.lookups import opened_store, settings_of, study_named
from orchestrator.options import Folder_, Name_, Store_

exports = typer.Typer(rich_markup_mode=None)


@exports.command()
def export(
    study: Name_,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="File to write: .csv, .parquet or .json.")
    ] = None,
    store: Store_ = None,
    folder: Folder_ = None,
) -> None:
    """Write every result of a study as a table: one row a run, metric and split. CSV on stdout without --output.

    Example:  vitscale export quickstart -o quickstart.parquet
    """
    from db import answers
    from orchestrator import rows, screen

    if output:
        rows.check_format(output)
    with opened_store(settings_of(store, folder), create=False) as opened:
        found = study_named(opened, study)
        with opened.read() as connection:
            results = answers.results_of(connection, found.id)
    if output:
        rows.write(output, answers.Result, results)
        screen.say(f"wrote {len(results):,} rows to {output}")
    else:
        screen.OUT.out(rows.as_csv(answers.Result, results), end="", highlight=False)
