"""The commands below `vitscale weights`. Heavy imports are inside them, as in cli.py."""

from pathlib import Path
from typing import Annotated

import typer

from orchestrator.lookups import opened_store, run_named, settings_of
from orchestrator.options import Folder_, Json_, Run_, Store_

weights = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="""Write weights for timm, and say what files of published weights hold.

    Example:  vitscale weights export 3f2a9c -o model.safetensors""",
)


@weights.command("export")
def export_weights(
    run: Run_,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE.safetensors", help="File to write, as safetensors.")
    ],
    no_head: Annotated[
        bool, typer.Option("--no-head", help="Leave out the classifier, and a pre-logits layer before it.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Write over a file that is there.")] = False,
    store: Store_ = None,
    folder: Folder_ = None,
    json: Json_ = False,
) -> None:
    """Write the final weights of a training under the names and arguments of timm's models.

    Example:  vitscale weights export 3f2a9c -o model.safetensors
    """
    from orchestrator import screen
    from orchestrator import weights as actions

    settings = settings_of(store, folder)
    with opened_store(settings, create=False) as opened:
        found = run_named(opened, run)
    written = actions.export(found, settings, output, head=not no_head, overwrite=force)
    if json:
        screen.print_json(written)
    screen.say(f"wrote {written['model']} to {output}, for timm's {written['timm_architecture']}")


@weights.command("show")
def show_weights(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Published weights, .npz or .safetensors.")],
    json: Json_ = False,
) -> None:
    """Say what a file of published weights holds: its convention, model and size, and what does not fit.

    Example:  vitscale weights show model.safetensors
    """
    from orchestrator import screen
    from orchestrator import weights as actions

    report = actions.show(file)
    if json:
        screen.print_json(report)
    else:
        screen.print_weights(report)
    if report["misfits"]:
        raise typer.Exit(1)
