"""What the commands about laws print: their parameters and how far to trust them, predictions, the next runs."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rich.text import Text

from db.frontiers import Series
from db.laws import Law
from orchestrator import wording
from orchestrator.law_reports import Fitted
from orchestrator.plan_reports import Cluster, Combination, Forecast, Plan
from orchestrator.screen import OUT, print_table, say
from orchestrator.screen_answers import AXES, a_cost, a_time, an_error, say_excluded, titled
from studies.laws.allocation import Allocation

EQUATIONS = {
    "power": "error = a C^-b",
    "saturating": "error = c + a C^-b",
    "double-saturating": "error = c + a (C + d)^-b",
    "surface": "error = E + A N^-alpha + B D^-beta; N: parameters, D: images seen",
    "repeated-surface": "error = E + A N^-alpha + B D'^-beta; N: parameters, D': images seen, repeats counted for less",
    "m4": "(error - eps_inf) / (eps_0 - error)^alpha = beta x^c; x: images seen",
    "isoflop": "of equal FLOPs C the best N = G C^a parameters and D = H C^b images seen",
}
MOST_RESIDUALS = 5
MOST_LEFT_OUT = 3


def print_law(fitted: Fitted, series: Series) -> None:
    """A law: its parameters with their intervals, how it was found, what it stands on; warnings as messages."""
    answer = fitted.answer
    form, direction = answer["form"], series.direction
    of = "".join(f", {answer[name]}" for name in ("family", "model") if answer[name])
    cost = f"; C: {AXES[answer['axis']]}" if " C" in EQUATIONS[form] or "(C" in EQUATIONS[form] else ""
    OUT.print(Text(f"{titled(series)}{of}: {EQUATIONS[form]}{cost}", "italic"))
    print_table(
        [("", "left"), ("value", "right"), ("95 % from", "right"), ("to", "right")],
        [(name, *_estimate(estimate)) for name, estimate in _parameters(answer).items()],
    )
    OUT.print()
    if form == "isoflop":
        _print_optima(answer, direction)
    else:
        for name, fact in _facts(answer, direction):
            OUT.print(Text(f"  {name:<15} {fact}"))
        _print_residuals(answer)
    for warning in answer["warnings"]:
        say(f"warning: {warning}")
    for dropped in answer["dropped"]:
        say(f"left out of the fit, {dropped['reason']}: {wording.counted(dropped['count'], 'configuration')}")
    say_excluded([(each["reason"], each["runs"]) for each in answer["excluded"]])
    since = "fitted now" if fitted.is_new else "in the store, fitted before on the same results: the same digits"
    say(f"law {fitted.law.key[:10]}: {since}")


def say_not_kept(fitted: Sequence[Fitted]) -> None:
    """One line where the store did not take these laws."""
    whys = [each.not_kept for each in fitted if each.not_kept]
    if whys:
        say(f"{'the law is' if len(fitted) == 1 else f'{len(whys)} of {len(fitted)} laws are'} not kept: {whys[0]}")


def _parameters(answer: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    if answer["form"] == "isoflop":
        names = {"a": "a", "b": "b", "G": "size_scale", "H": "images_scale"}
        return {shown: answer[name] for shown, name in names.items()}
    return dict(answer["parameters"])


def _estimate(estimate: Mapping[str, Any]) -> tuple[str, str, str]:
    return _digits(estimate["value"]), _digits(estimate["low"]), _digits(estimate["high"])


def _digits(value: float | None) -> str:
    if value is None:
        return "not identified"
    return f"{value:,.0f}" if 1e4 <= abs(value) < 1e15 else f"{value:.5g}"


def _facts(answer: Mapping[str, Any], direction: int) -> list[tuple[str, str]]:
    axis, (low, high) = answer["axis"], answer["cost_range"]
    stands_on = "the frontier: " if answer["on_frontier"] else ""
    facts = [
        (
            "fitted on",
            f"{stands_on}{len(answer['used'])} of {wording.counted(len(answer['points']), 'configuration')} "
            f"between {a_cost(axis, low)} and {a_cost(axis, high)}",
        ),
        ("objective", f"{answer['objective']:.6g}, the sum of {_loss(answer['delta'])} over log residuals"),
        (
            "minimum",
            f"{answer['agreeing']} of {answer['starts']} starts agree; "
            f"norm of the gradient {answer['gradient_norm']:.1e}",
        ),
        ("interval", f"{answer['replicates']:,} replicates, seed {answer['seed']}: {answer['interval']['method']}"),
    ]
    if answer["luck"] is not None:
        spread, freedom = 100 * answer["luck"]["spread"], answer["luck"]["freedom"]
        facts.append(("luck", f"{spread:.2g} % of the error, by seeds ({freedom:.0f} degrees of freedom)"))
    if answer["aicc"] is not None:
        facts.append(("AICc", f"{answer['aicc']:.2f}"))
    if answer["left_out"] is not None:
        facts.append(("largest left out", _left_out(answer, direction)))
    return facts


def _loss(delta: float | None) -> str:
    return "squares / 2" if delta is None else f"Huber({delta:.3g})"


def _left_out(answer: Mapping[str, Any], direction: int) -> str:
    left = answer["left_out"]
    labels = _labels(answer)
    said = [
        f"{labels[key]}: {an_error(direction, predicted)} predicted, {an_error(direction, measured)} measured"
        for key, predicted, measured in zip(left["keys"], left["predicted"], left["measured"], strict=True)
    ]
    more = f"; {len(said) - MOST_LEFT_OUT} more" if len(said) > MOST_LEFT_OUT else ""
    return "; ".join(said[:MOST_LEFT_OUT]) + more


def _labels(answer: Mapping[str, Any]) -> dict[str, str]:
    """Configurations by their names: the network, and of one that was trained in several ways its epochs."""
    counts = Counter(point["label"] for point in answer["points"])

    def name(point: Mapping[str, Any]) -> str:
        is_one = counts[point["label"]] == 1 or point["epochs"] is None
        plural = "" if point["epochs"] == 1 else "s"
        return str(point["label"]) if is_one else f"{point['label']} ({point['epochs']:g} epoch{plural})"

    return {point["configuration"]: name(point) for point in answer["points"]}


def _print_residuals(answer: Mapping[str, Any]) -> None:
    labels = _labels(answer)
    residuals = sorted(answer["residuals"], key=lambda each: -abs(each["log_residual"]))
    shown = [
        f"{labels[each['configuration']]} {100 * each['log_residual']:+.2f} %" for each in residuals[:MOST_RESIDUALS]
    ]
    more = f"; {len(residuals) - MOST_RESIDUALS} smaller" if len(residuals) > MOST_RESIDUALS else ""
    OUT.print(Text(f"  {'residuals':<15} {', '.join(shown)}{more}"))


def _print_optima(answer: Mapping[str, Any], direction: int) -> None:
    unit, costs = wording.flops_column([optimum["cost"] for optimum in answer["optima"]])
    print_table(
        [
            (unit, "right"),
            ("best parameters", "right"),
            ("best images", "right"),
            ("error", "right"),
            ("runs", "right"),
        ],
        [
            (
                cost,
                f"{optimum['parameters']:.3g}",
                f"{optimum['images']:.3g}",
                an_error(direction, optimum["error"]),
                str(len(optimum["keys"])),
            )
            for optimum, cost in zip(answer["optima"], costs, strict=True)
        ],
        title=f"minima by budget, {answer['method']}",
    )


def print_split(split: Allocation, direction: int) -> None:
    """How a budget is best split between size and images."""
    OUT.print()
    error = asdict(split.error)
    print_table(
        [
            (f"{a_cost('flops', split.cost)} are best split", "left"),
            ("", "right"),
            ("95 % from", "right"),
            ("to", "right"),
        ],
        [
            ("parameters", *_estimate(asdict(split.parameters))),
            ("images seen", *_estimate(asdict(split.images))),
            ("error", *(an_error(direction, error[end]) for end in ("value", "low", "high"))),
        ],
    )
    for warning in split.warnings:
        say(f"warning: {warning}")


# --------------------------------------------------------------------------------------------- predictions and plans


def print_forecast(answer: Forecast) -> None:
    """The expected error with its band, and that of one new run."""
    series, asked, expected = answer.frontier.series, answer.asked, answer.prediction
    for note in answer.notes:
        say(note)
    OUT.print(Text(f"{_asked(asked)}: {titled(series)}", "italic"))
    direction = series.direction
    interval = _interval(direction, expected.low, expected.high)
    OUT.print(Text(f"  expected error  {an_error(direction, expected.error)} (95 % of the law: {interval})"))
    if direction > 0:
        OUT.print(Text(f"  {series.metric:<15} {wording.percent(1 - expected.error)}"))
    if expected.run_low is not None:
        new = _interval(direction, expected.run_low, expected.run_high)
        OUT.print(Text(f"  one new result  {new}, 19 times in 20"))
    OUT.print(Text(f"  by              {_law_named(answer.fitted)}"))
    if expected.extrapolation > 1:
        OUT.print(Text(f"  extrapolated    {expected.extrapolation:.3g} times beyond what the law was fitted on"))
    for warning in (*expected.warnings, *answer.fitted.doubts):
        say(f"warning: {warning}")
    say_not_kept([answer.fitted])


def _asked(asked: Combination) -> str:
    said = [asked.model or (f"{asked.parameters:,.0f} parameters" if asked.parameters else "")]
    said.append(f"{asked.images:,.0f} images seen" if asked.images else "")
    if asked.data_rows and asked.epochs:
        said.append(f"{asked.data_rows:,.0f} images for {asked.epochs:.4g} epochs")
    said.append(a_cost("flops", asked.flops) if asked.flops else "")
    return ", ".join(filter(None, said))


def _interval(direction: int, low: float | None, high: float | None) -> str:
    return f"{an_error(direction, low)} to {an_error(direction, high)}"


def _law_named(fitted: Fitted) -> str:
    of = f" of {fitted.answer['family']}" if fitted.answer["family"] else ""
    used = wording.counted(len(fitted.answer["used"]), "configuration")
    return f"the {fitted.answer['form']} law{of} {fitted.law.key[:10]}, fitted on {used}"


def print_plan(answer: Plan) -> None:
    """What the law says at the target and what it would after the runs, then these in the order of their worth."""
    series, chosen, cluster = answer.frontier.series, answer.next, answer.cluster
    direction, target = series.direction, chosen.target
    for note in answer.notes:
        say(note)
    for network in answer.too_large:
        say(f"left out: {network} does not fit into a device of this kind, not even with one image at a time")
    OUT.print(Text(f"{titled(series)}, by {_law_named(answer.fitted)}", "italic"))
    if chosen.reach is not None:
        ends = [("?" if end is None else a_cost("flops", end)) for end in (chosen.reach.low, chosen.reach.high)]
        OUT.print(Text(f"  the target takes {a_cost('flops', chosen.reach.value)} (95 %: {ends[0]} to {ends[1]})"))
    split = [f"{value:.3g} {name.replace('_', ' ')}" for name, value in target.inputs.items() if name != "cost"]
    best = f", best split as {' and '.join(split)}," if split else ""
    OUT.print(Text(f"  at {a_cost('flops', target.cost)}{best} the law expects {an_error(direction, target.error)}"))
    OUT.print(Text(f"  95 % now        {_interval(direction, target.low, target.high)}"))
    after = _interval(direction, chosen.after_low, chosen.after_high)
    OUT.print(Text(f"  95 % afterwards {after}, should these runs come out as expected"))
    OUT.print()
    _print_runs(answer, direction)
    total = f"{wording.counted(len(chosen.runs), 'run')}, {a_cost('flops', chosen.total_cost)} of "
    total += a_cost("flops", chosen.budget)
    if cluster:
        total += f", {a_time(cluster.seconds(chosen.total_cost))} on {_cluster(cluster)}"
    OUT.print(Text(total))
    for reason, labels in chosen.left_out:
        say(f"left out, {reason}: {wording.counted(len(labels), 'candidate')}")
    for warning in (*chosen.warnings, *answer.fitted.doubts):
        say(f"warning: {warning}")
    say_not_kept([answer.fitted])


def _print_runs(answer: Plan, direction: int) -> None:
    """One line a configuration, in the order in which the first run of each is worth it; the JSON has every run."""
    cluster, runs = answer.cluster, answer.next.runs
    counts = Counter(run.candidate for run in runs)
    first = [next(run for run in runs if run.candidate == candidate) for candidate in counts]
    unit, costs = wording.flops_column([run.cost for run in first])
    made = [answer.candidates[run.candidate] for run in first]
    print_table(
        [
            ("next", "left"),
            ("seeds", "right"),
            ("images seen", "right"),
            ("epochs", "right"),
            (f"{unit} each", "right"),
            *([("time each", "right")] if cluster else []),
            ("expected error", "right"),
            ("95 % of a run", "right"),
        ],
        [
            (
                run.label,
                str(counts[run.candidate]),
                _count(each.images),
                _number(each.epochs),
                cost,
                *([a_time(cluster.seconds(run.cost))] if cluster else []),
                an_error(direction, run.error),
                _interval(direction, run.run_low, run.run_high),
            )
            for run, each, cost in zip(first, made, costs, strict=True)
        ],
    )


def _count(number: float | None) -> str:
    return "" if number is None else f"{number:,.0f}"


def _number(number: float | None) -> str:
    return "" if number is None else f"{number:.4g}"


def _cluster(cluster: Cluster) -> str:
    return f"{wording.counted(cluster.units, cluster.facts.unit)} of {cluster.facts.name} ({cluster.facts.basis})"


def print_laws(study: str, laws: Sequence[Law]) -> None:
    """The laws of a study, the last fitted first."""
    if not laws:
        say(f"no law was fitted to {study} yet; begin with: vitscale fit {study}")
        return
    print_table(
        [
            ("law", "left"),
            ("form", "left"),
            ("family", "left"),
            ("metric", "left"),
            ("data", "left"),
            ("parameters", "left"),
        ],
        [
            (
                law.key[:10],
                law.form,
                law.family or "",
                law.metric,
                law.dataset,
                ", ".join(f"{name} {each['value']:.4g}" for name, each in _parameters(json.loads(law.answer)).items()),
            )
            for law in laws
        ],
    )
