"""The commands below `vitscale results`. Heavy imports are inside them, as in cli.py."""

from typing import Annotated

import typer

from orchestrator.lookups import opened_store, settings_of, study_named
from orchestrator.options import Folder_, Json_, Name_, OptionalName_, Store_

results = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="""Put published or foreign results beside your own, list them, and take them out again.

    Example:  vitscale results import vit-paper""",
)


@results.command("import")
def import_results(
    file: Annotated[
        str, typer.Argument(metavar="FILE|REFERENCE", help="A .csv, .parquet or .json file; or a reference: vit-paper.")
    ],
    study: Annotated[
        str | None, typer.Option(metavar="NAME", help="The study to put them into; made where there is none.")
    ] = None,
    cost: Annotated[
        list[str] | None,
        typer.Option(
            metavar="COLUMN[:UNIT]",
            help="What a row cost: flops, exaflops, pfs-days, gpu-hours, core-days, images, parameters, "
            "gflops-forward, usd ... Once for each axis.",
        ),
    ] = None,
    quality: Annotated[
        str | None,
        typer.Option(metavar="COLUMN[:UNIT]", help="How good it is: fraction, percent, error, error-percent or loss."),
    ] = None,
    family: Annotated[str | None, typer.Option(metavar="COLUMN", help="What frontiers are told apart by.")] = None,
    label: Annotated[str | None, typer.Option(metavar="COLUMN", help="Names of the networks.")] = None,
    size: Annotated[
        str | None, typer.Option(metavar="COLUMN[:UNIT]", help="Parameters: ones, thousand, million or billion.")
    ] = None,
    data: Annotated[
        str | None, typer.Option(metavar="COLUMN[:UNIT]", help="Distinct training images, in the same units.")
    ] = None,
    images: Annotated[
        str | None, typer.Option(metavar="COLUMN[:UNIT]", help="Training images seen. Default: epochs times --data.")
    ] = None,
    epochs: Annotated[str | None, typer.Option(metavar="COLUMN", help="Epochs of the training.")] = None,
    seed: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Rows that differ in it alone are averaged.")
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="FIELD=VALUE,...",
            help="Of all rows: metric, dataset, split, image_size; device, whose time it is; kind is evaluate or the "
            "name of a transfer. What is not set may be a column of this name.",
        ),
    ] = None,
    where: Annotated[
        list[str] | None, typer.Option(metavar="COLUMN=VALUE", help="Take these rows alone; may be repeated.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check all rows, say what would come, store nothing.")
    ] = False,
    store: Store_ = None,
    folder: Folder_ = None,
    json: Json_ = False,
) -> None:
    """Put results from a table, or a reference study, beside those of a study. They are marked as external.

    All rows are checked before any is stored; the same row a second time changes nothing.

    Example:  vitscale results import t.csv --study t --cost c:exaflops --quality q:percent --family f --label l
    """
    from orchestrator import results_import, screen, screen_results

    said = results_import.Said(
        costs=tuple(cost or ()),
        quality=quality,
        family=family,
        label=label,
        size=size,
        data=data,
        images=images,
        epochs=epochs,
        seed=seed,
        fields=results_import.read_fields(set_ or []),
        where=tuple(results_import.read_condition(each) for each in where or []),
    )
    imported = results_import.import_(settings_of(store, folder), file, study, said, dry_run=dry_run)
    if json:
        screen.print_json({**imported.as_json(), "dry_run": dry_run})
    screen_results.say_imported(imported, dry_run=dry_run)


@results.command("list")
def list_results(
    study: OptionalName_ = None, store: Store_ = None, folder: Folder_ = None, json: Json_ = False
) -> None:
    """List what was imported from which file, and the series that it stands in.

    Example:  vitscale results list
    """
    from db import external
    from orchestrator import screen, screen_results

    with opened_store(settings_of(store, folder), create=False) as opened:
        study_id = study_named(opened, study).id if study else None
        with opened.read() as connection:
            found = external.imports_of(connection, study_id)
    if json:
        screen.print_json(screen_results.imports_json(found))
    else:
        screen_results.print_imports(found)


@results.command("remove")
def remove_results(
    study: Name_,
    source: Annotated[
        str | None, typer.Option(metavar="FILE", help="Only what this file brought. Default: all that was imported.")
    ] = None,
    store: Store_ = None,
    folder: Folder_ = None,
) -> None:
    """Take imported results out of a study. Its own stay; a study that an import made goes with its last result.

    Example:  vitscale results remove mine --source bit.csv
    """
    from orchestrator import results_import, screen, wording

    with opened_store(settings_of(store, folder), create=False) as opened:
        count = results_import.remove(opened, study_named(opened, study), source)
    screen.say(f"{wording.counted(count, 'result')} taken out of {study}")
