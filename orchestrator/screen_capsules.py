"""What `vitscale import` prints: what became of a capsule's runs, and where its results differ from those here."""

from collections.abc import Sequence
from dataclasses import asdict

from db.capsules import Difference, Merged
from orchestrator import screen, wording


def print_merged(merged: Merged) -> None:
    """Messages on what was merged; a table, on stdout, of the results that differ."""
    if not merged.changed:
        screen.say(f"{merged.study}: nothing changed, all of it was here: {wording.counted(merged.kept, 'run')}")
    else:
        screen.say(f"{merged.study}: {', '.join([f'{merged.runs:,} runs in the capsule', *_parts(merged)])}")
    if merged.without_weights:
        counted = wording.counted(len(merged.without_weights), "training")
        screen.say(f"the weights of {counted} are not here: {_some(merged.without_weights)}")
        screen.say("to evaluate or fine-tune them, copy their folders below checkpoints/ from where they were trained")
    if merged.left:
        screen.say(f"left to be trained here, as runs wait for the weights: {_some(merged.left)}")
    if merged.differences:
        screen.say(f"{wording.counted(len(merged.differences), 'result')} differ; those of this store stay")
        columns = [("run", "left"), ("metric", "left"), ("data", "left"), ("here", "right"), ("there", "right")]
        screen.print_table(columns, [_line(each) for each in merged.differences])


def print_json(merged: Merged) -> None:
    """All of it, for programs."""
    screen.print_json({**asdict(merged), "changed": merged.changed})


def _parts(merged: Merged) -> list[str]:
    counted = [
        (merged.new_done, "done and new here"),
        (merged.taken, "done there alone, and now here"),
        (merged.cancelled, "not finished there, cancelled here until submitted"),
        (merged.new - merged.new_done - merged.cancelled, "given up there"),
        (merged.kept, "here before"),
        (merged.added, "links to runs, imported results, searches and laws new here"),
    ]
    return [f"{number:,} {what}" for number, what in counted if number]


def _some(keys: Sequence[str]) -> str:
    return " ".join(key[:10] for key in keys[:8]) + (" ..." if len(keys) > 8 else "")


def _line(each: Difference) -> tuple[str, ...]:
    def number(value: float | None) -> str:
        return "none" if value is None else repr(value)

    return (each.key[:12], each.metric, f"{each.dataset} {each.split}", number(each.here), number(each.there))
