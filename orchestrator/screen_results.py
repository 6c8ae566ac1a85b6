"""What `vitscale results` prints. The console itself, and tables, are in screen.py."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from db.external import Import
from orchestrator import screen, wording
from orchestrator.results_import import Imported
from studies.external import UNSTATED, SeriesFields


def say_imported(imported: Imported, *, dry_run: bool) -> None:
    """What came in, what cannot stand on a frontier, and what to do next."""
    known = f", {imported.known:,} of them known before" if imported.known else ""
    went = "would be" if dry_run else "are"
    screen.say(f"{wording.counted(imported.rows, 'result')} {went} in the study {imported.study}{known}:")
    for fields, rows in imported.series.items():
        screen.say(f"  {rows:,} in {in_words(fields)}")
    if imported.without_value:
        screen.say(f"{imported.without_value:,} without a finite value: on no frontier")
    for axis, count in imported.without_cost.items():
        if count:
            screen.say(f"{count:,} without a positive finite cost in {axis}: not on the frontiers over it")
    if not imported.without_cost:
        screen.say("none has a positive finite cost: they are on no frontier")
    for note in imported.notes:
        screen.say(note)
    if not dry_run:
        screen.say(f"look at it with: vitscale frontier {imported.study}")


def in_words(fields: SeriesFields) -> str:
    """`accuracy on imagenet validation at 384 px, finetune`; what is not stated is left out."""
    size = f" at {fields.image_size} px" if fields.image_size else ""
    kind = "" if fields.kind == "evaluate" else f", {fields.kind}"
    data = " ".join(name for name in (fields.dataset, fields.split) if name != UNSTATED)
    return f"{fields.metric}{f' on {data}' if data else ''}{size}{kind}"


def imports_json(found: Sequence[Import]) -> dict[str, Any]:
    """For programs."""
    return {"imports": [asdict(each) for each in found]}


def print_imports(found: Sequence[Import]) -> None:
    """One line for each file and series."""
    if not found:
        screen.say("nothing was imported; begin with: vitscale results import vit-paper")
        return
    columns = [("study", "left"), ("file", "left"), ("results", "right"), ("series", "left")]
    rows = []
    for each in found:
        first, *others = (in_words(fields) for fields in each.series)
        rows.append((each.study, each.file, f"{each.rows:,}", first))
        rows += [("", "", "", other) for other in others]
    screen.print_table(columns, rows)
