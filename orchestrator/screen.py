"""What commands print: data on stdout, messages on stderr. Rich honours NO_COLOR and plain terminals."""

import json
import os
from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console
from rich.text import Text

from db import answers
from orchestrator import bill_lines, wording
from studies.bill import Bill
from studies.grid import Study
from studies.planner import Shape

# Rich's own NO_COLOR leaves bold type and cursor movements in; who sets it wants no escape codes at all.
_PLAIN = False if os.environ.get("NO_COLOR") else None
OUT = Console(highlight=False, soft_wrap=True, width=10_000, force_terminal=_PLAIN)
"""Data. A table is as wide as it needs to be, in a pipe too."""
MESSAGES = Console(stderr=True, highlight=False, soft_wrap=True, force_terminal=_PLAIN)

STATE_STYLES = {"done": "green", "running": "cyan", "failed": "red", "blocked": "yellow", "cancelled": "dim"}


def say(message: str) -> None:
    """A message for the person, on stderr."""
    MESSAGES.print(Text(message))


def print_json(value: Any) -> None:
    """Data for programs: JSON with every digit of each number, on stdout. Rich would cut it into its lines first."""
    print(json.dumps(value, indent=2, allow_nan=False))


def print_table(columns: Sequence[tuple[str, str]], rows: Iterable[Sequence[str | Text]], title: str = "") -> None:
    """A table on stdout: two blanks between columns, no blanks at the end of a line.

    columns: headings, each with `left` or `right`. Laid out here: Rich takes half a second for 1,000 lines.
    """
    cells = [[Text(heading, "bold") for heading, _ in columns]]
    cells += [[cell if isinstance(cell, Text) else Text(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    if title:
        OUT.print(Text(title, "italic"))
    for row in cells:
        line = ""
        for cell, width, (_, side) in zip(row, widths, columns, strict=True):
            blanks = " " * (width - len(cell))
            text = _styled(cell)
            line += (blanks + text if side == "right" else text + blanks) + "  "
        print(line.rstrip(), file=OUT.file)


def _styled(text: Text) -> str:
    if not text.style or not OUT.is_terminal or OUT.no_color:
        return text.plain
    with OUT.capture() as capture:
        OUT.print(text, end="")
    return capture.get()


def state(name: str) -> Text:
    """A state in its colour."""
    return Text(name, style=STATE_STYLES.get(name, ""))


# ------------------------------------------------------------------------------------------------------------- bills


def print_bill(study: Study, priced: Bill) -> None:
    """One line a training, its evaluations counted beside it, one line a search, what was dropped, and the total."""
    columns, rows = bill_lines.trainings(priced)
    print_table(columns, [(*row[:-1], state(str(row[-1]))) for row in rows])
    OUT.print()
    if priced.searches:
        print_table(*bill_lines.searches(priced))
        OUT.print()
    for dropped in study.dropped:
        OUT.print(Text(f"left out: {dropped.cell}: {dropped.why}"))
    for line in bill_lines.total(study, priced):
        OUT.print(Text(line))
    for line in bill_lines.misfits(priced):
        say(line)


def print_shapes(found: Sequence[Shape], depths: Sequence[int], widths: Sequence[int]) -> None:
    """For each optimizer a table of depths by widths: what fits, with the memory that it needs."""
    by_place = {(shape.optimizer, shape.depth, shape.width): shape for shape in found}
    for optimizer in dict.fromkeys(shape.optimizer for shape in found):
        rows = []
        for depth in depths:
            here = [by_place[optimizer, depth, width] for width in widths]
            rows.append((str(depth), *(wording.memory(each.memory_bytes) if each.fits else "-" for each in here)))
        print_table([("depth", "right"), *((f"width {width:,}", "right") for width in widths)], rows, title=optimizer)
        OUT.print()


# ------------------------------------------------------------------------------------------------------------ status


def print_status(studies: Sequence[tuple[answers.Study, answers.Totals]], running: Sequence[answers.Run]) -> None:
    """One line a study, then one line a running run."""
    if not studies:
        say("no study was submitted yet; begin with: vitscale submit STUDY.yaml")
        return
    states = ["done", "running", "ready", "waiting", "failed", "blocked", "cancelled"]
    states += ["pruned"] if any(totals.states["pruned"] for _, totals in studies) else []
    columns = [("study", "left"), *((name, "right") for name in states)]
    searching = any(totals.searches for _, totals in studies)
    columns += [("searches decided", "right")] if searching else []
    columns += [("FLOPs done", "right"), ("of", "right"), ("worker time", "right")]
    print_table(
        columns,
        [
            (
                study.name,
                *(f"{totals.states[name]:,}" for name in states),
                *([f"{totals.searches_decided:,} of {totals.searches:,}"] if searching else []),
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


def print_failures(runs: Sequence[answers.Run], failed: int) -> None:
    """The cause of each failed run that is listed, of so many in all, as messages."""
    for run in runs:
        say(f"failed: {run.key[:10]} {run.model} ({run.kind}, seed {run.seed}): {run.cause}")
    if failed > len(runs):
        say(f"failed: {failed - len(runs):,} more")
    if runs:
        say(f"read more with: vitscale logs {runs[0].key[:10]}; try again with: vitscale resume --failed")


# --------------------------------------------------------------------------------------------------------------- runs


def _course(values: Sequence[tuple[int, float | None]]) -> str:
    """The first and the last of a run's measurements; all of them are in the JSON."""
    shown = [f"{'not finite' if value is None else f'{value:.4g}'} at step {step:,}" for step, value in values]
    return " to ".join([shown[0], shown[-1]] if len(shown) > 1 else shown)


def _certificate(report: dict[str, Any]) -> str | None:
    """Which images a run read."""
    if report["data_digest"] is None:
        return None
    skipped = f"; {wording.counted(report['data_skipped'], 'bad row')} skipped" if report["data_skipped"] else ""
    return f"rows digest to {report['data_digest']}{skipped}"


def print_run(report: dict[str, Any]) -> None:
    """One run: what it is, what came out, and each attempt at it."""
    OUT.print(Text.assemble((report["key"], "bold"), "  ", state(report["state"])))
    facts = [
        ("run", f"{report['kind']} of {report['model']} ({report['family']}), seed {report['seed']}"),
        (
            "data",
            f"{report['dataset']} {report['split']}, {report['image_size']} pixels; "
            f"{'pre-trained' if report['kind'] == 'finetune' else 'trained'} on {report['data_rows']:,} images",
        ),
        ("cost", f"{wording.flops(report['flops'])}, {report['images']:,} images, {report['parameters']:,} parameters"),
        ("step", f"{report['step']:,} of {report['steps']:,}" if report["steps"] else None),
        *((metric, _course(values)) for metric, values in report["measurements"].items()),
        ("cause", report["cause"]),
        ("upstream", report["upstream"]),
        ("images", _certificate(report)),
        ("numerics", report["numerics"]),
        ("checkpoint", report["checkpoint"]),
    ]
    for name, fact in facts:
        if fact:
            OUT.print(Text(f"  {name:<16} {fact}"))
    OUT.print(Text(f"  {'definition':<16} {json.dumps(report['definition'], sort_keys=True)}"))
    if report["results"]:
        OUT.print()
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
        OUT.print()
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


def print_weights(report: dict[str, Any]) -> None:
    """What a file of weights holds."""
    OUT.print(Text(report["file"], "bold"))
    size = report["image_size"]
    classes = report["classes"]
    facts = [
        ("model", report["model"]),
        ("names of", report["convention"]),
        ("parameters", f"{report['parameters']:,}"),
        ("images", f"{f'{size} pixels, ' if size else ''}{wording.counted(report['channels'], 'channel')}"),
        ("classes", "none: the classifier was left out" if classes is None else f"{classes:,}"),
        ("definition", json.dumps(report["definition"], sort_keys=True)),
        *(("does not fit", misfit) for misfit in report["misfits"]),
    ]
    for name, fact in facts:
        OUT.print(Text(f"  {name:<17}{fact}"))
