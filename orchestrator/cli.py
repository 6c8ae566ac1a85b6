"""The command line: each command reads its arguments, calls one function and prints what came back.

Heavy imports are inside the commands, so that `--help` is instant.
"""

import os
import sys
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from orchestrator import exits
from orchestrator.cli_answers import answers
from orchestrator.cli_data import data
from orchestrator.cli_export import exports
from orchestrator.cli_figures import figures_app
from orchestrator.cli_laws import laws
from orchestrator.cli_reading import reading
from orchestrator.cli_results import results
from orchestrator.cli_weights import weights
from orchestrator.lookups import opened_store, run_named, settings_of, study_named
from orchestrator.options import (
    Address_,
    AnyNumerics_,
    Datasets_,
    Folder_,
    Json_,
    OptionalName_,
    Store_,
    Study_,
    Workers_,
)

if TYPE_CHECKING:
    from db.store import Store
    from orchestrator.settings import Settings
    from studies.bill import Bill
    from studies.grid import Study

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="""Run scaling studies of image models and answer from SQL what they taught.

    A first study:  vitscale submit studies/quickstart.yaml

    Exit codes: 0 ok, 1 failed, 2 usage or invalid study, 3 not found, 5 finished with failed runs,
    6 store or cluster unreachable, 130 Ctrl-C.""",
)

app.add_typer(reading)
app.add_typer(answers)
app.add_typer(laws)
app.add_typer(figures_app)
app.add_typer(results, name="results")
app.add_typer(exports)
app.add_typer(data, name="data")
app.add_typer(weights, name="weights")


def _print_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        print(f"vitscale {version('vitscale')}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Take what stands before the command."""


# ------------------------------------------------------------------------------------------------- planning, running


@app.command()
def plan(
    study: Study_,
    device: Annotated[str, typer.Option(help="Device to estimate time for: cpu, h100, h200, a100, tpu-v4 ...")] = "cpu",
    units: Annotated[int | None, typer.Option(min=1, help="How many of them. Default: the CPUs here, or 1.")] = None,
    datasets: Datasets_ = None,
    store: Store_ = None,
    folder: Folder_ = None,
    json: Json_ = False,
) -> None:
    """Print the bill of a study: each run with its price, what is in the store, and the time that the rest takes.

    Nothing is stored and no torch is imported.

    Example:  vitscale plan studies/quickstart.yaml --device cpu --json
    """
    from orchestrator import screen
    from studies.bill import as_json
    from studies.grid import load_study
    from studies.registry import load_registry

    settings = settings_of(store, folder, datasets)
    loaded = load_study(study, str(study), load_registry(settings.datasets))
    priced = _bill(loaded, settings, device, units)
    if json:
        screen.print_json(as_json(loaded, priced))
    else:
        screen.print_bill(loaded, priced)


@app.command()
def shapes(
    memory: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Memory of one device, as in 16GiB. Default: that of --device.")
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="Device whose memory and padding of tokens count: a100, h200, tpu-v3 ...")
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Images on the device in one step.")] = 1,
    patch: Annotated[int, typer.Option(min=1, help="Side of a patch in pixels.")] = 16,
    image_size: Annotated[int, typer.Option(min=1, help="Side of an image in pixels.")] = 224,
    classes: Annotated[int, typer.Option(min=2, help="Classes of the head.")] = 1000,
    depth: Annotated[list[int] | None, typer.Option(min=1, help="A depth to try; may be repeated.")] = None,
    width: Annotated[list[int] | None, typer.Option(min=1, help="A width to try; may be repeated.")] = None,
    optimizer: Annotated[
        list[str] | None, typer.Option(help="adam, adam-bf16 or adafactor; may be repeated. Default: all three.")
    ] = None,
    precision: Annotated[str, typer.Option(help="fp32, or bf16 over float32 parameters.")] = "bf16",
    json: Json_ = False,
) -> None:
    """Print which depths and widths of a vision transformer fit into a device, and the memory that they need.

    MLPs are four times as wide as the network, heads 64 wide, and the head is attention pooling (arXiv:2106.04560v2).

    Example:  vitscale shapes --memory 16GiB --batch 32 --patch 16
    """
    from dataclasses import asdict

    from orchestrator import screen, wording
    from studies import planner
    from studies.devices import device_facts

    if memory is None and device is None:
        raise ValueError("say how much memory there is: --memory 16GiB, or --device h100")
    facts = device_facts(device) if device else None
    device_bytes = wording.read_memory(memory) if memory else facts.memory_bytes if facts else None
    if device_bytes is None:
        raise ValueError(f"the memory of the device {device} is not known: give it with --memory")
    depths, widths = depth or planner.DEPTHS, width or planner.WIDTHS
    found = planner.shapes_that_fit(
        depths,
        widths,
        device_bytes=device_bytes,
        batch=batch,
        patch=patch,
        image_size=image_size,
        classes=classes,
        optimizers=planner.optimizers_named(optimizer),
        precision=planner.precision_named(precision),
        kind=facts.kind if facts else "gpu",
        token_multiple=facts.token_multiple if facts else 1,
    )
    if json:
        screen.print_json({"device_bytes": device_bytes, "shapes": [asdict(each) for each in found]})
    else:
        screen.print_shapes(found, depths, widths)


@app.command()
def submit(
    study: Study_,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask, whatever it costs.")] = False,
    ask_above: Annotated[
        float,
        typer.Option(
            metavar="FLOPS", help="Ask before more FLOPs than this are spent. Default: 1e14.", show_default=False
        ),
    ] = 1e14,
    queue: Annotated[bool, typer.Option("--queue", help="Store the study and return; `resume` works on it.")] = False,
    address: Address_ = None,
    workers: Workers_ = None,
    any_numerics: AnyNumerics_ = False,
    datasets: Datasets_ = None,
    store: Store_ = None,
    folder: Folder_ = None,
) -> None:
    """Price a study, store it, and work on it until it is done.

    Runs that the store knows are not repeated. Ctrl-C saves checkpoints; the same command goes on from them.
    With --address the study is handed to a Ray cluster, and the command returns.

    Example:  vitscale submit studies/quickstart.yaml
    """
    from orchestrator import bill_lines, screen
    from orchestrator.submission import check_data, store_study
    from studies.grid import load_study
    from studies.registry import load_registry

    settings = settings_of(store, folder, datasets, any_numerics=any_numerics)
    loaded = load_study(study, str(study), load_registry(settings.datasets))
    check_data(loaded)
    priced = _bill(loaded, settings, "cpu", workers)
    for line in [*bill_lines.total(loaded, priced), *([] if address else bill_lines.misfits(priced))]:
        screen.say(line)
    if priced.flops_left > ask_above and not yes:
        _confirm()
    with opened_store(settings, create=True) as opened:
        submitted = store_study(opened, loaded)
        if queue:
            screen.say(f"queued; work on it with: vitscale resume {loaded.file.name}")
            return
        _work(opened, settings, submitted.study_id, loaded.file.name, address, workers)


@app.command()
def resume(
    study: OptionalName_ = None,
    failed: Annotated[bool, typer.Option("--failed", help="Try failed runs again, with a new budget.")] = False,
    address: Address_ = None,
    workers: Workers_ = None,
    any_numerics: AnyNumerics_ = False,
    datasets: Datasets_ = None,
    store: Store_ = None,
    folder: Folder_ = None,
) -> None:
    """Go on with what was interrupted, cancelled or queued, from the last checkpoints.

    Example:  vitscale resume quickstart
    """
    from db import wishes
    from db.store import retrying

    settings = settings_of(store, folder, datasets, any_numerics=any_numerics)
    with opened_store(settings, create=False) as opened:
        study_id = study_named(opened, study).id if study else None
        retrying(opened, lambda connection: wishes.requeue(connection, study_id=study_id, failed=failed), seconds=60)
        _work(opened, settings, study_id, study, address, workers)


@app.command()
def cancel(
    what: Annotated[str, typer.Argument(metavar="STUDY|RUN", help="A study's name or the first digits of a key.")],
    store: Store_ = None,
    folder: Folder_ = None,
) -> None:
    """Cancel a study or a run. What is done stays; `resume` takes the rest up again.

    Example:  vitscale cancel quickstart
    """
    from db import answers, wishes
    from db.store import retrying
    from orchestrator import screen

    settings = settings_of(store, folder)
    with opened_store(settings, create=False) as opened:
        with opened.read() as connection:
            study = answers.study_named(connection, what)
        study_id, run_ids = (study.id, None) if study else (None, [run_named(opened, what).id])
        counts = retrying(
            opened, lambda connection: wishes.cancel(connection, study_id=study_id, run_ids=run_ids), seconds=60
        )
        screen.say(f"{counts['cancelled']} runs cancelled, {counts['stopping']} running ones asked to stop")


# ------------------------------------------------------------------------------------------------------------ shared


def _bill(study: "Study", settings: "Settings", device: str, units: int | None) -> "Bill":
    """Price a study against the store, if there is one."""
    from db import answers
    from db.store import StoreMissing
    from orchestrator.processes import usable_cpus, usable_memory
    from studies.bill import bill, keys_of
    from studies.devices import device_facts

    facts = device_facts(device)
    units = units or (usable_cpus() if device == "cpu" else 1)
    known: dict[str, str] = {}
    measured = None
    try:
        with opened_store(settings, create=False) as opened, opened.read() as connection:
            known = answers.known(connection, keys_of(study))
            measured = answers.measured_rate(connection).get(device)
    except StoreMissing:
        pass  # nothing is known yet
    # The CPUs of a machine share its memory, a run each.
    unit_bytes = usable_memory() // units if facts.memory_bytes is None else facts.memory_bytes
    return bill(study, known, facts, units, measured, unit_bytes)


def _confirm() -> None:
    if not sys.stdin.isatty():
        raise ValueError("this costs more than --ask-above, and nobody is here to ask: add --yes to spend it")
    if not typer.confirm("Spend it?", err=True):
        raise typer.Exit(1)


def _work(
    store: "Store", settings: "Settings", study_id: int | None, name: str | None, address: str | None, cpus: int | None
) -> None:
    """Work here, or hand over. Ends the command with the exit code that the outcome stands for."""
    from db import answers
    from orchestrator import reports, screen, wording
    from orchestrator.handover import driver_log, hand_over
    from orchestrator.submission import work_here

    with store.read() as connection:
        is_over = answers.totals(connection, study_id).is_over
    again = f"vitscale resume {name or ''}".strip()
    if address and not is_over:
        hand_over(store, settings, study_id, address)
        screen.say(f"handed to the cluster at {address}; its driver writes {driver_log(settings, study_id)}")
        screen.say(f"follow it with: {' '.join(filter(None, ['vitscale status', name, '--watch']))}")
        return
    if not is_over:
        try:
            ended = work_here(store, settings, study_id, cpus)
        except KeyboardInterrupt:
            screen.say(f"ended at once; go on with: {again}")
            raise
        if ended.interrupted and not ended.totals.is_over:
            screen.say(f"stopped; go on with: {again}")
            raise typer.Exit(130)
    report = reports.status(store, study_id)
    failed, blocked = report.counted("failed"), report.counted("blocked")
    screen.print_failures(report.failed, failed)
    counts = [f"{wording.counted(report.counted('done'), 'run')} done", f"{failed:,} failed"]
    counts += [f"{blocked:,} blocked by them"] if blocked else []
    screen.say(", ".join(counts) + ("; nothing was left to run" if is_over else ""))
    if name:
        reading = "sweep" if report.has_searches else "frontier"
        screen.say(f"look at it with: vitscale {reading} {name}")
    if failed:
        screen.say(f"once the cause is gone, try again with: {again} --failed")
        raise typer.Exit(5)


def main() -> NoReturn:
    """Run a command; an error that is the user's to mend becomes one sentence and an exit code."""
    try:
        app()
    except Exception as error:
        if os.environ.get("VITSCALE_DEBUG"):
            raise
        code = exits.exit_code(error)
        if code is None:
            raise
        if code:
            print(f"error: {exits.sentence(error)}", file=sys.stderr)
        sys.exit(code)
    sys.exit(0)
