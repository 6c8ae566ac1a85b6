"""What commands print: data on stdout, messages on stderr. Rich honours NO_COLOR and plain terminals."""

import json
from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from db import answers
from orchestrator import wording
from studies.bill import Bill
from studies.definitions import Train
from studies.grid import Study

OUT = Console(highlight=False, soft_wrap=True, width=10_000)  # a table is as wide as it needs to be, in a pipe too
MESSAGES = Console(stderr=True, highlight=False, soft_wrap=True)

STATE_STYLES = {"done": "green", "running": "cyan", "failed": "red", "blocked": "yellow", "cancelled": "dim"}


def say(message: str) -> None:
    """A message for the person, on stderr."""
    MESSAGES.print(Text(message))


def print_json(value: Any) -> None:
    """Data for programs: JSON with every digit of each number, on stdout."""
    OUT.out(json.dumps(value, indent=2, allow_nan=False), highlight=False)


def print_table(columns: Sequence[tuple[str, str]], rows: Iterable[Sequence[str | Text]], title: str = "") -> None:
    """A table on stdout.

    columns: headings, each with `left` or `right`.
    """
    table = Table(title=title or None, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for heading, side in columns:
        table.add_column(heading, justify="right" if side == "right" else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    OUT.print(table)


def state(name: str) -> Text:
    """A state in its colour."""
    return Text(name, style=STATE_STYLES.get(name, ""))


# ------------------------------------------------------------------------------------------------------------- bills


def print_bill(study: Study, priced: Bill) -> None:
    """One line a training, its evaluations counted beside it, then what was dropped and the total."""
    columns = [
        ("run", "left"),
        ("model", "left"),
        ("images", "right"),
        ("epochs", "right"),
        ("seed", "right"),
        ("parameters", "right"),
        ("images seen", "right"),
        ("training", "right"),
        ("evaluations", "right"),
        ("in store", "left"),
    ]
    evaluations: dict[str, list[str | None]] = {}
    for planned, known in priced.runs:
        if planned.upstream is not None:
            evaluations.setdefault(planned.upstream, []).append(known)
    rows = []
    for planned, known in priced.runs:
        if not isinstance(planned.run, Train):
            continue
        own = evaluations.get(planned.key, [])
        done = sum(each == "done" for each in own)
        rows.append(
            (
                planned.key[:10],
                planned.model if planned.searched is None else f"{planned.model} {planned.searched}",
                f"{planned.training.data.rows:,}",
                f"{planned.epochs:g}",
                str(planned.training.seed),
                f"{planned.parameters:,}",
                f"{planned.images:,}",
                wording.flops(planned.flops),
                f"{done} of {len(own)} done" if known else str(len(own)),
                state(known or "new"),
            )
        )
    print_table(columns, rows)
    for dropped in study.dropped:
        say(f"left out: {dropped.cell}: {dropped.why}")
    print_total(study, priced)


def print_total(study: Study, priced: Bill) -> None:
    """The last lines of a bill, as a message."""
    say(
        f"{study.file.name}: {priced.trainings:,} trainings and {len(priced.runs) - priced.trainings:,} evaluations, "
        f"{wording.flops(priced.flops)} in all; {priced.done:,} runs are in the store"
    )
    say(
        f"to pay: {wording.flops(priced.flops_left)}, {priced.images_left:,} images, about "
        f"{wording.seconds(priced.seconds_left)} on {priced.units} x {priced.device} "
        f"at {wording.flops(priced.flops_per_second)}/s ({priced.basis})"
    )


# ------------------------------------------------------------------------------------------------------------ status


def print_status(studies: Sequence[tuple[answers.Study, answers.Totals]], running: Sequence[answers.Run]) -> None:
    """One line a study, one line a running run, one line each failure."""
    columns = [("study", "left")] + [
        (name, "right") for name in ("done", "running", "ready", "waiting", "failed", "blocked", "cancelled")
    ]
    columns += [("FLOPs done", "right"), ("of", "right"), ("worker time", "right")]
    print_table(
        columns,
        [
            (
                study.name,
                *(f"{totals.states[name]:,}" for name, _ in columns[1:8]),
                f"{100 * totals.flops_done / totals.flops:.1f} %" if totals.flops else "-",
                wording.flops(totals.flops),
                wording.seconds(totals.seconds),
            )
            for study, totals in studies
        ],
    )
    if running:
        OUT.print()
        print_table(
            [
                ("running", "left"),
                ("kind", "left"),
                ("model", "left"),
                ("step", "right"),
                ("of", "right"),
                ("by", "left"),
            ],
            [
                (run.key[:10], run.kind, run.model, f"{run.step:,}", f"{run.steps:,}", (run.owner or "").split("#")[0])
                for run in running
            ],
        )


def print_failures(runs: Sequence[answers.Run]) -> None:
    """The cause of each failed run, as messages."""
    for run in runs:
        say(f"failed: {run.key[:10]} {run.model} ({run.kind}, seed {run.seed}): {run.cause}")


# ---------------------------------------------------------------------------------------------------------- frontier


def print_frontier(
    series: answers.Series, points: Sequence[answers.FrontierPoint], excluded: list[tuple[str, list[str]]]
) -> None:
    """The frontier as a table; what was left out, as messages."""
    higher = series.direction > 0
    print_table(
        [
            ("family", "left"),
            ("model", "left"),
            ("images", "right"),
            ("epochs", "right"),
            ("cost", "right"),
            (series.metric if higher else "value", "right"),
            ("error" if higher else "", "right"),
            ("sd", "right"),
            ("seeds", "right"),
            ("parameters", "right"),
        ],
        [
            (
                point.family,
                point.model,
                f"{point.data_rows:,}",
                f"{point.epochs:g}",
                wording.flops(point.cost),
                wording.percent(point.value) if higher else f"{point.value:.4f}",
                wording.percent(1 - point.value) if higher else "",
                "" if point.sd is None else wording.percent(point.sd) if higher else f"{point.sd:.4f}",
                str(point.seeds),
                f"{point.parameters:,}",
            )
            for point in points
        ],
        title=f"{series.metric} on {series.dataset} {series.split} at {series.image_size} px: {series.points} configurations",
    )
    for reason, keys in excluded:
        listed = ", ".join(key[:10] for key in keys[:8])
        say(f"left out, {reason}: {len(keys)} ({listed}{', ...' if len(keys) > 8 else ''})")


# --------------------------------------------------------------------------------------------------------------- runs


def print_run(report: dict[str, Any]) -> None:
    """One run: what it is, what came out, and each attempt at it."""
    OUT.print(Text.assemble((report["key"], "bold"), "  ", state(report["state"])))
    facts = [
        ("run", f"{report['kind']} of {report['model']} ({report['family']}), seed {report['seed']}"),
        (
            "data",
            f"{report['dataset']} {report['split']}, {report['data_rows']:,} images, {report['image_size']} pixels",
        ),
        ("cost", f"{wording.flops(report['flops'])}, {report['images']:,} images, {report['parameters']:,} parameters"),
        ("step", f"{report['step']:,} of {report['steps']:,}" if report["steps"] else None),
        ("cause", report["cause"]),
        ("upstream", report["upstream"]),
        ("numerics", report["numerics"]),
        ("checkpoint", report["checkpoint"]),
    ]
    for name, fact in facts:
        if fact:
            OUT.print(Text(f"  {name:<11}{fact}"))
    OUT.print(Text(f"  {'definition':<11}{json.dumps(report['definition'], sort_keys=True)}"))
    if report["results"]:
        print_table(
            [("metric", "left"), ("data set", "left"), ("split", "left"), ("value", "right")],
            [
                (
                    each["metric"],
                    each["dataset"],
                    each["split"],
                    "not finite" if each["value"] is None else repr(each["value"]),
                )
                for each in report["results"]
            ],
        )
    if report["attempts"]:
        print_table(
            [
                ("attempt", "right"),
                ("outcome", "left"),
                ("steps", "left"),
                ("time", "right"),
                ("by", "left"),
                ("error", "left"),
            ],
            [
                (
                    str(each["fence"]),
                    each["outcome"] or "at work",
                    f"{each['first_step']:,} to {'?' if each['last_step'] is None else format(each['last_step'], ',')}",
                    wording.seconds(each["ended_at"] - each["started_at"]) if each["ended_at"] else "",
                    f"{each['host'].split('#')[0]}:{each['pid']}",
                    each["error"] or "",
                )
                for each in report["attempts"]
            ],
        )
