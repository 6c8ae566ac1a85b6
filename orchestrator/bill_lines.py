"""What a bill says: the rows of its tables, its total, and what will not fit. `orchestrator/screen.py` prints them."""

from collections.abc import Sequence

from rich.text import Text

from orchestrator import wording
from studies.bill import Bill
from studies.definitions import FineTune, Train
from studies.grid import Study
from studies.planned import PlannedRun

Column = tuple[str, str]
"""Heading, and `left` or `right`."""
Row = Sequence[str | Text]

MOST_MISFITS = 20
"""Models that a warning names one by one."""


def trainings(priced: Bill) -> tuple[list[Column], list[Row]]:
    """One line a training, its evaluations counted beside it; its state in the store is the last column."""
    listed = [(planned, known) for planned, known in priced.runs if isinstance(planned.run, Train | FineTune)]
    unit, costs = wording.flops_column([planned.flops for planned, _ in listed])
    columns = [
        ("run", "left"),
        ("model", "left"),
        ("images", "right"),
        ("epochs", "right"),
        ("seed", "right"),
        ("parameters", "right"),
        ("images seen", "right"),
        (unit, "right"),
        ("memory", "right"),
        ("evaluations", "right"),
        ("in store", "left"),
    ]
    evaluations: dict[str | None, list[str | None]] = {}
    for planned, known in priced.runs:
        if not isinstance(planned.run, Train | FineTune):
            evaluations.setdefault(planned.upstream, []).append(known)
    rows = [
        _training(planned, known, cost, evaluations.get(planned.key, []), priced)
        for (planned, known), cost in zip(listed, costs, strict=True)
    ]
    return columns, rows


def _training(planned: PlannedRun, known: str | None, cost: str, evaluations: list[str | None], priced: Bill) -> Row:
    """evaluations: the state of each."""
    training = planned.training
    epochs = planned.epochs if isinstance(training, Train) else training.examples / training.data.rows
    done = sum(each == "done" for each in evaluations)
    return (
        planned.key[:10],
        _label(planned),
        f"{training.data.rows:,}",
        f"{epochs:.6g}",
        str(training.seed),
        f"{planned.parameters:,}",
        f"{planned.images:,}",
        cost,
        _memory(planned, priced),
        f"{done} of {len(evaluations)} done" if known else str(len(evaluations)),
        known or "new",
    )


def searches(priced: Bill) -> tuple[list[Column], list[Row]]:
    """One line a search."""
    unit, costs = wording.flops_column([each.flops for each in priced.searches])
    columns = [
        ("search", "left"),
        ("model @ data", "left"),
        ("of", "left"),
        ("sampler", "left"),
        ("trials", "right"),
        ("tasks", "right"),
        ("seeds", "right"),
        (unit, "right"),
        ("memory", "right"),
        ("runs", "right"),
    ]
    rows: list[Row] = [
        (
            each.planned.key[:10],
            each.planned.label,
            each.planned.transfer,
            each.planned.search.sampler,
            f"{each.planned.trials:,}",
            str(len(each.planned.search.tasks)),
            str(len(each.planned.search.seeds)),
            cost,
            _memory(each.dearest, priced),
            f"{each.done} of {each.runs} done" if each.done else f"{each.runs:,}",
        )
        for each, cost in zip(priced.searches, costs, strict=True)
    ]
    return columns, rows


def _label(planned: PlannedRun) -> str:
    """The model, and what makes this training another than the model's own."""
    parts = [planned.model]
    if planned.searched is not None:
        parts.append(planned.searched)
    if planned.transfer is not None:
        parts.append(f"@ {planned.training.data.name} ({planned.transfer})")
    if planned.role is not None:
        parts.append(f"({planned.role})")
    return " ".join(parts)


def _memory(planned: PlannedRun, priced: Bill) -> Text:
    return Text(wording.memory(priced.memory_bytes(planned)), "red" if priced.fits(planned) is False else "")


def total(study: Study, priced: Bill) -> list[str]:
    """The last lines of a bill."""
    counts = [(priced.trainings, "training"), (priced.trunks, "shared trunk"), (priced.finetunings, "fine-tuning")]
    counts.append((priced.evaluations, "evaluation"))
    parts = [wording.counted(count, noun) for count, noun in counts if count or noun in ("training", "evaluation")]
    if priced.searches:
        trials = sum(each.planned.trials for each in priced.searches)
        searches = wording.counted(len(priced.searches), "search").replace("searchs", "searches")
        parts.append(f"{searches} of {wording.counted(trials, 'trial')}")
    lines = [
        f"{study.file.name}: {', '.join(parts[:-1])} and {parts[-1]}, {wording.flops(priced.flops)} in all; "
        f"{wording.counted(priced.done, 'run')} done before"
    ]
    if priced.flops_saved:
        share = priced.flops_saved / (priced.flops + priced.flops_saved)
        lines.append(
            f"saved: {wording.flops(priced.flops_saved)}, {100 * share:.0f} %, by trainings that share a trunk"
        )
    if priced.flops_watched:
        share = priced.flops_watched / priced.flops
        lines.append(f"of it: {wording.flops(priced.flops_watched)}, {100 * share:.1f} %, for evaluations on the way")
    lines.append(
        f"to pay: {wording.flops(priced.flops_left)}, {wording.counted(priced.images_left, 'image')}, about "
        f"{wording.seconds(priced.seconds_left)} on {priced.units} x {priced.device} "
        f"at {wording.flops(priced.flops_per_second)}/s ({priced.basis})"
        if priced.flops_left
        else "nothing is left to pay"
    )
    return lines


def misfits(priced: Bill) -> list[str]:
    """Which trainings will run out of memory, and the batch at which they would not."""
    lines = []
    found = priced.misfits
    for (model, batch), (memory, runs) in list(found.items())[:MOST_MISFITS]:
        assert priced.unit_bytes is not None
        largest = memory.largest_batch(priced.unit_bytes)
        lines.append(
            f"will not fit: {model} needs {wording.memory(memory.at(batch))} at batch {batch:,}, "
            f"the {priced.device} has {wording.memory(priced.unit_bytes)} for each run "
            f"({wording.counted(runs, 'training')}); "
            + (
                f"the largest batch that fits is {largest:,}: name it as `micro_batch` under `resources`"
                if largest
                else "not even one image fits"
            )
        )
    if len(found) > MOST_MISFITS:
        lines.append(f"will not fit: {len(found) - MOST_MISFITS:,} more models")
    return lines
