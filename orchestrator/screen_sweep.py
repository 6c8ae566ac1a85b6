"""How searches and sweeps look on the screen: tables of what was tried and measured, the rest in words."""

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from rich.text import Text

from db.searches import HeldSearch
from db.sweeps import UNTRIED, Measured, Sweep, Tried
from db.tables import SearchState, State
from orchestrator import wording
from orchestrator.screen import OUT, print_table, say, state
from orchestrator.sweep_reports import Candidate, OfChoice, Report, SpelledSweep, SuiteScore, suite_of
from studies import metrics
from studies.definitions import Train
from studies.searches import Params

_MOST_TASKS = 8
"""Tasks of one search whose own development accuracies have columns; the JSON has all."""
_FAILED = (State.FAILED, State.BLOCKED)


def print_sweeps(found: Report) -> None:
    """Each search and each sweep with its choice, then the scores of suites."""
    blocks = [partial(_print_search, sweep, found.study.name) for sweep in found.searches]
    blocks += [partial(_print_spelled, sweep) for sweep in found.spelled]
    blocks += [partial(_print_score, score) for score in found.suites]
    for number, print_block in enumerate(blocks):
        if number:
            OUT.print()
        print_block()
    for why, keys in dict.fromkeys(each for sweep in found.spelled for each in sweep.missing):
        shown = " ".join(key[:10] for key in keys[:8]) + (" ..." if len(keys) > 8 else "")
        say(f"left out, {why}: {wording.counted(len(keys), 'run')}: {shown}")


# --------------------------------------------------------------------------------------------------------- searches


def _print_search(sweep: Sweep, study: str) -> None:
    held = sweep.search
    suite = suite_of(sweep.tasks)
    label = f"{sweep.model} @ {suite.name}" if suite else held.planned.label
    OUT.print(Text(f"{held.transfer}: {label}", "italic"))
    OUT.print(Text(f"  {'network':<10}{_network(held)}"))
    OUT.print(Text(f"  {'search':<10}{_kind(held)}"))
    OUT.print()
    if any(tried.state != UNTRIED for tried in sweep.tried):
        _print_tried(sweep)
        OUT.print()
    for sentence in (state_in_words(sweep, study), *edge_in_words(sweep)):
        OUT.print(Text(sentence))
    if sweep.measured:
        OUT.print()
        _print_measured(sweep.measured)


def _network(held: HeldSearch) -> str:
    pretraining = held.planned.pretraining
    train = pretraining.run
    assert isinstance(train, Train)
    data = f"{train.data.rows:,} images of {train.data.name}"
    return f"{pretraining.key[:10]}, {pretraining.epochs:.4g} epochs of {data}, seed {train.seed}"


def _kind(held: HeldSearch) -> str:
    search = held.planned.search
    splits = list(dict.fromkeys(task.development.split for task in search.tasks))
    points = f"{search.sampler} of {wording.counted(held.planned.trials, 'point')}"
    parts = [f"{points}, by the accuracy on {' and '.join(splits)}"]
    if len(search.tasks) > 1:
        parts.append(f"one choice for {len(search.tasks)} data sets by their mean")
    if search.trained == "head":
        parts.append("only the head is trained")
    if search.pruner != "none":
        parts.append(f"{search.pruner} pruning every {search.every:,} steps")
    return "; ".join(parts)


def _print_tried(sweep: Sweep) -> None:
    search = sweep.search.planned.search
    names = list(search.space)
    shown = sweep.tasks if 1 < len(sweep.tasks) <= _MOST_TASKS else ()
    columns = [(name, "right") for name in names] + [("development", "right")]
    columns += [(task, "right") for task in shown] + [("state", "left"), ("run", "left"), ("", "left")]
    print_table(
        columns,
        [
            (
                *(shown_value(tried.params[name]) for name in names),
                _share(tried.value),
                *(_share(value) for value in tried.values[: len(shown)]),
                state(tried.state),
                "" if tried.state == UNTRIED else _runs(tried.runs),
                _remarks(sweep, tried),
            )
            for tried in sweep.tried
        ],
    )


def _remarks(sweep: Sweep, tried: Tried) -> str:
    remarks = ["chosen"] if tried.params == sweep.chosen else []
    remarks += ["beyond the grid"] if tried.is_beyond else []
    remarks += [tried.cause] if tried.cause else []
    return "; ".join(remarks)


def state_in_words(sweep: Sweep, study: str) -> str:
    """The choice, or how far the search is and what helps it on."""
    held = sweep.search
    if held.state == SearchState.DECIDED:
        assert sweep.chosen is not None
        assert sweep.development is not None
        choice = f"chosen: {in_words(sweep.chosen)}, at a development accuracy of {wording.percent(sweep.development)}"
        left = {name: count for name, count in sweep.finals.items() if name != State.DONE}
        if not left:
            return choice
        return f"{choice}; its {wording.counted(sum(sweep.finals.values()), 'run')}: {_counts(sweep.finals)}"
    if held.state == SearchState.FAILED:
        return f"failed: {sweep.cause}; try again with: vitscale resume {study} --failed"
    if held.state == SearchState.CANCELLED:
        return f"cancelled; go on with: vitscale resume {study}"
    if held.upstream_state != State.DONE:
        return _waiting(held, study)
    ended = [tried.state for tried in sweep.tried]
    most = held.planned.trials + sum(tried.is_beyond for tried in sweep.tried)
    over = sum(each in (State.DONE, State.PRUNED, *_FAILED) for each in ended)
    counts = {name: ended.count(name) for name in dict.fromkeys(ended) if name not in (State.DONE, UNTRIED)}
    words = f"undecided: {over} of {wording.counted(most, 'trial')} over"
    words += f" ({_counts(counts)})" if counts else ""
    return f"{words}; go on with: vitscale resume {study}" if State.CANCELLED in counts else words


def _waiting(held: HeldSearch, study: str) -> str:
    key = held.planned.pretraining.key[:10]
    if held.upstream_state in _FAILED:
        cause = f" ({held.upstream_cause})" if held.upstream_cause else ""
        again = f"try again with: vitscale resume {study} --failed"
        return f"not begun: its pre-training {key} is {held.upstream_state}{cause}; {again}"
    if held.upstream_state == State.CANCELLED:
        return f"not begun: its pre-training {key} was cancelled; go on with: vitscale resume {study}"
    return f"not begun: it waits for its pre-training {key}, which is {held.upstream_state}"


def edge_in_words(sweep: Sweep) -> list[str]:
    """Whether the choice is at the edge of what was tried, field by field, and what was tried beyond the grid."""
    search, beyond = sweep.search.planned.search, [tried for tried in sweep.tried if tried.is_beyond]
    is_beyond = sweep.chosen in [tried.params for tried in beyond]
    lines = []
    for name, side in sweep.edge.items():
        assert sweep.chosen is not None
        further = "larger" if side == "high" else "smaller"
        words = f"best at the {further[:-1]}st {name} tried: {shown_value(sweep.chosen[name])}"
        if is_beyond:
            words += f", which was added beyond the grid; a {further} one may be better still"
        elif search.sampler != "grid":
            words += f"; a {further} one may be better"
        elif search.extend:
            words += f"; no {further} one can be tried"
        else:
            words += f"; a {further} one may be better, and `extend: false` keeps it from being tried"
        lines.append(words)
    return lines if is_beyond else lines + [_added(tried, search.space) for tried in beyond]


def _added(tried: Tried, space: Mapping[str, Any]) -> str:
    added = {name: value for name, value in tried.params.items() if value not in space[name]}
    ended = {State.DONE: "is no better", State.FAILED: "failed", State.BLOCKED: "failed", State.PRUNED: "was pruned"}
    became = ended.get(State(tried.state), "is not measured yet")
    return f"the best of the grid was at its edge: {in_words(added)} was added beyond it, and {became}"


# ------------------------------------------------------------------------------------------ what a study spells out


def _print_spelled(sweep: SpelledSweep) -> None:
    title = f"sweep: {sweep.model} @ {sweep.dataset}, by the accuracy on validation at {sweep.image_size} px"
    names = list(sweep.chosen.params)
    unit, costs = wording.flops_column([each.cost for each in sweep.candidates])
    columns = [*((name, "right") for name in names), ("validation", "right"), ("sd", "right"), ("seeds", "right")]
    print_table(
        [*columns, (unit, "right"), ("", "left")],
        [
            (
                *(shown_value(each.params.get(name)) for name in names),
                _share(each.value),
                _share(each.sd),
                str(each.seeds),
                cost,
                "chosen" if each == sweep.chosen else "",
            )
            for each, cost in zip(sweep.candidates, costs, strict=True)
        ],
        title=title,
    )
    for name in names:
        side = _side(sweep.candidates, sweep.chosen, name)
        if side:
            value = shown_value(sweep.chosen.params[name])
            OUT.print(Text(f"best at the {side} {name} tried: {value}; give the sweep one beyond it"))
    if sweep.measured:
        OUT.print()
        _print_measured(sweep.measured)


def _side(candidates: Sequence[Candidate], chosen: Candidate, name: str) -> str | None:
    numbers = [value for each in candidates if isinstance(value := each.params.get(name), int | float)]
    if len(set(numbers)) < 2 or chosen.params[name] not in (min(numbers), max(numbers)):
        return None
    return "smallest" if chosen.params[name] == min(numbers) else "largest"


# ----------------------------------------------------------------------------------------------- results, and scores


def _print_measured(measured: Sequence[Measured] | Sequence[OfChoice]) -> None:
    """One line a split, one column a metric."""
    shown = list(dict.fromkeys(each.metric for each in measured))
    tasks = {each.task for each in measured if isinstance(each, Measured)}
    lines: dict[tuple[str, str, int], dict[str, Measured | OfChoice]] = {}
    for each in measured:
        name = each.dataset
        if isinstance(each, Measured) and len(tasks) > 1 and each.task != name:
            name += f" after {each.task}"
        lines.setdefault((name, each.split, each.image_size), {})[each.metric] = each
    columns = [("data set", "left"), ("split", "left"), ("pixels", "right"), ("seeds", "right")]
    print_table(
        [*columns, *((metric, "right") for metric in shown)],
        [
            (
                dataset,
                split,
                str(pixels),
                str(max(_seeds(each) for each in found.values())),
                *(_mean_and_sd(found.get(metric)) for metric in shown),
            )
            for (dataset, split, pixels), found in lines.items()
        ],
    )


def _seeds(each: Measured | OfChoice) -> int:
    return len(each.values) if isinstance(each, Measured) else each.seeds


def _mean_and_sd(each: Measured | OfChoice | None) -> str:
    if each is None:
        return ""
    if each.mean is None:
        return "not finite"
    if _is_share(each.metric):
        return _share(each.mean) if each.sd is None else f"{100 * each.mean:.2f} +- {wording.percent(each.sd)}"
    return f"{each.mean:.4f}" if each.sd is None else f"{each.mean:.4f} +- {each.sd:.4f}"


def _is_share(metric: str) -> bool:
    try:
        return metrics.direction(metric) > 0
    except ValueError:  # it has no better side
        return False


def _print_score(score: SuiteScore) -> None:
    title = f"{score.transfer}: {score.suite} of {score.model} (network {score.pretraining[:10]})"
    OUT.print(Text(f"{title}, accuracy on {score.split}", "italic"))
    if any(group.mean is not None for group in score.groups):
        columns = [("group", "left"), ("tasks", "right"), ("mean", "right"), ("sd", "right"), ("seeds", "right")]
        print_table(
            columns,
            [
                (each.group, str(each.tasks), _share(each.mean), _share(each.sd), str(len(each.values)))
                for each in score.groups
            ],
        )
        return
    tasks = score.groups[-1].tasks
    if score.missing:
        named = ", ".join(score.missing[:3]) + (" ..." if len(score.missing) > 3 else "")
        OUT.print(Text(f"no score yet: {len(score.missing)} of {tasks} tasks are not measured: {named}"))
    else:
        OUT.print(Text(f"no score yet: no seed of the {tasks} tasks is complete"))


# -------------------------------------------------------------------------------------------------------------- words


def in_words(params: Params) -> str:
    """`lr_peak 0.01, steps 500`."""
    return ", ".join(f"{name} {shown_value(value)}" for name, value in params.items())


def shown_value(value: Any) -> str:
    """A searched value as a person wrote it."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return json.dumps(value)
    return value if isinstance(value, str) else f"{value:,}" if isinstance(value, int) else f"{value:g}"


def _share(value: float | None) -> str:
    return "" if value is None else wording.percent(value)


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in counts.items())


def _runs(keys: Iterable[str]) -> str:
    first, *others = keys
    return first[:10] + (f" +{len(others)}" if others else "")
