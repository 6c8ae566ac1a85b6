"""The commands that put what is known into files, and take it from them. Heavy imports are inside, as in cli.py."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.lookups import opened_store, settings_of, study_named
from orchestrator.options import Folder_, Json_, Name_, Store_

if TYPE_CHECKING:
    from db import answers
    from db.store import Store

exports = typer.Typer(rich_markup_mode=None)


@exports.command()
def export(
    study: Name_,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="File to write: .csv, .parquet or .json.")
    ] = None,
    what: Annotated[
        str | None,
        typer.Option(
            metavar="TABLE",
            help="results, runs, attempts, measurements, points, frontier, sweeps, external or laws. Default: results.",
        ),
    ] = None,
    capsule: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write all of the study as one archive: .vitscale.tar.gz or .vitscale.zip."),
    ] = None,
    store: Store_ = None,
    folder: Folder_ = None,
) -> None:
    """Write what is known of a study as a table: CSV on stdout without --output. By default its results.

    With --capsule: rows, study file, environment and figures as one archive, which `vitscale import` merges into
    another store. It has no weights and no passwords; error texts in it may name folders and hosts.

    Example:  vitscale export quickstart -o quickstart.parquet
    """
    from orchestrator import capsule_files, rows

    if capsule and (output or what):
        raise ValueError("a capsule holds every table: give --capsule without --output and --what")
    if output:
        rows.check_format(output)
    if capsule:
        capsule_files.check_ending(capsule)
    with opened_store(settings_of(store, folder), create=False) as opened:
        found = study_named(opened, study)
        if capsule:
            _export_capsule(opened, found, capsule)
        else:
            _export_table(opened, found, what or "results", output)


def _export_capsule(store: "Store", study: "answers.Study", path: Path) -> None:
    from orchestrator import capsules, screen, wording

    named = {"runs": "run", "results": "result", "external": "imported result", "laws": "law"}
    counts = capsules.write(store, study, path)
    said = [wording.counted(counts[table], noun) for table, noun in named.items() if counts[table]]
    screen.say(f"wrote {', '.join(said) or 'a study without runs'} to {path}")


def _export_table(store: "Store", study: "answers.Study", what: str, output: Path | None) -> None:
    from orchestrator import rows, screen
    from orchestrator.export_tables import TABLES
    from studies.architectures import nearest

    if what not in TABLES:
        raise ValueError(f"'{what}' is no table{nearest(what, list(TABLES))}")
    table = TABLES[what]
    with store.read() as connection:
        found = table.rows(connection, study)
    if output:
        rows.write(output, table.kind, found)
        screen.say(f"wrote {len(found):,} rows to {output}")
    else:
        screen.OUT.out(rows.as_csv(table.kind, found), end="", highlight=False)


@exports.command(name="import")
def import_(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A capsule that `vitscale export --capsule` wrote.")],
    called: Annotated[
        str | None, typer.Option("--as", metavar="NAME", help="What the study is called here. Default: its own name.")
    ] = None,
    store: Store_ = None,
    folder: Folder_ = None,
    json: Json_ = False,
) -> None:
    """Merge a capsule into the store: its results are found by key, and not computed again.

    What is done here stays as it is, and is compared. Nothing is stored of a capsule that is damaged. Weights are not
    in a capsule: who needs them copies the folders of trainings below checkpoints/ into this store's folder.

    Example:  vitscale import quickstart.vitscale.tar.gz
    """
    from orchestrator import capsules, screen_capsules

    settings = settings_of(store, folder)
    tables = capsules.read(file)
    with opened_store(settings, create=True) as opened:
        merged = capsules.take_in(opened, settings, tables, called)
    if json:
        screen_capsules.print_json(merged)
    else:
        screen_capsules.print_merged(merged)
