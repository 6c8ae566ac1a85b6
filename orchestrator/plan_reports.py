"""What a study's laws expect of networks that were not trained, and which of them to train next."""

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from db.frontiers import Point
from db.store import Store
from orchestrator.frontier_reports import Frontier, header
from orchestrator.law_reports import OF_COST, Fitted, Wish, fitted
from orchestrator.study_networks import Network, network_named, networks_of, with_neighbours
from studies.devices import DeviceFacts, device_facts
from studies.laws.next_runs import Candidates, NextRuns, next_runs
from studies.laws.prediction import Prediction, predict

LONGER = (1, 2, 4, 8)
"""Candidates see as many images as trainings of the study did, times these,"""
LONGER_ON_FRONTIER = (1, 2)
"""and these for a law of cost: it takes each to be on the frontier, and a small network that trains for long is not."""
ALL_FAMILIES = "all"


@dataclass(frozen=True)
class Combination:
    """What a law is asked about; None is not said."""

    model: str | None = None
    parameters: float | None = None
    flops: float | None = None
    images: float | None = None
    epochs: float | None = None
    data_rows: float | None = None


@dataclass(frozen=True)
class Forecast:
    """What a law expects of a combination."""

    frontier: Frontier
    fitted: Fitted
    asked: Combination
    """Completed: what follows from what was given is in it."""
    prediction: Prediction
    notes: tuple[str, ...]


def forecast(store: Store, found: Frontier, asked: Combination, wish: Wish, *, force: bool) -> Forecast:
    """The error that a law of the study expects of a combination.

    Raises ValueError for a combination that is not complete, where no law can be fitted, and, unless `force`, for one
    that lies more than 1,000 times beyond what the law was fitted on; NotFound for a family or network without points.
    """
    if sum(value is not None for value in (asked.model, asked.parameters, asked.flops)) != 1:
        raise ValueError(
            "say what is to be predicted, with one of --model NAME, --parameters NUMBER and --flops NUMBER"
        )
    notes: list[str] = []
    network = None
    if asked.model is not None:
        network = network_named(asked.model, networks_of(store, found.study, found.points), found.study)
    if asked.flops is None:
        asked, said = _completed(found.points, asked, network)
        notes += said
    elif asked.images or asked.epochs or asked.data_rows:
        raise ValueError("--images, --epochs and --data-rows have no effect beside --flops: leave them out")
    wish, said = _of_family(found, wish, network)
    law = fitted(store, found, wish)
    if law.fit is None:
        raise ValueError("isoFLOP optima say which size is best and not how good it is: ask for another --form")
    prediction = predict(
        law.fit,
        cost=asked.flops,
        parameters=asked.parameters,
        images=asked.images,
        data_rows=asked.data_rows,
        points=law.points,
        force=force,
    )
    return Forecast(found, law, asked, prediction, (*found.notes, *notes, *said))


def _completed(points: Sequence[Point], asked: Combination, network: Network | None) -> tuple[Combination, list[str]]:
    """With images from epochs, sizes and cost from the network; and what was taken for what was not said."""
    if (asked.images is None) == (asked.epochs is None):
        raise ValueError("say how long it trains, with one of --images (seen, repeats counted) and --epochs")
    notes = []
    rows = asked.data_rows
    if rows is None:
        rows = max((float(point.data_rows) for point in points if point.data_rows is not None), default=None)
        if rows is not None:
            notes.append(f"on {rows:,.0f} distinct images, the most in the study; --data-rows takes another number")
        elif asked.images is None:
            raise ValueError("the study does not say on how many images it trains: give --data-rows, or --images")
    images = asked.images if asked.images is not None else (asked.epochs or 0.0) * (rows or 0.0)
    if rows is None:
        full = replace(asked, images=images)
    else:
        rows = min(rows, images)  # of a training that ends sooner, what it did not see makes no difference
        full = replace(asked, images=images, epochs=images / rows if rows else asked.epochs, data_rows=rows)
    if network is None:
        return full, notes
    return replace(full, parameters=float(network.parameters), flops=network.flops_per_image * images), notes


def _of_family(found: Frontier, wish: Wish, network: Network | None) -> tuple[Wish, list[str]]:
    """The law of the network's family, where the study has several and nothing else was said."""
    if wish.form == "m4" and wish.model is None and network is not None:
        wish = replace(wish, model=network.label)
    families = {point.family for point in found.points}
    if wish.family == ALL_FAMILIES:
        return replace(wish, family=None), []
    if wish.family is None and network is not None and len(families) > 1 and network.family in families:
        return replace(wish, family=network.family), [
            f"by the law of the family {network.family} alone; --family {ALL_FAMILIES} takes that of all together"
        ]
    return wish, []


def forecast_json(answer: Forecast) -> dict[str, Any]:
    """A forecast for programs."""
    found = answer.frontier
    return {
        **header(found.study, found.series, found.axis),
        **_law_json(answer.fitted),
        "asked": asdict(answer.asked),
        **asdict(answer.prediction),
        "warnings": [*answer.prediction.warnings, *answer.fitted.doubts],
        "notes": list(answer.notes),
    }


def _law_json(law: Fitted) -> dict[str, Any]:
    names = ("form", "family", "law", "points_digest", "cost_range")
    return {name: law.answer[name] for name in names}


# ------------------------------------------------------------------------------------------------------------ next runs


@dataclass(frozen=True)
class Cluster:
    """So many units of a device."""

    name: str
    facts: DeviceFacts
    units: int

    def seconds(self, flops: float) -> float:
        """Time that so much training takes, all units at work."""
        return flops / (self.facts.flops_per_second * self.units)


@dataclass(frozen=True)
class Candidate:
    """A training that could be next."""

    label: str
    cost: float
    parameters: float | None
    images: float | None
    data_rows: float | None

    @property
    def epochs(self) -> float | None:
        """Passes over the distinct images."""
        return self.images / self.data_rows if self.images and self.data_rows else None


@dataclass(frozen=True)
class Plan:
    """Which trainings to pay for next, and what they would do to the law."""

    frontier: Frontier
    fitted: Fitted
    cluster: Cluster | None
    candidates: tuple[Candidate, ...]
    next: NextRuns
    too_large: tuple[str, ...]
    """Networks that were left out: not even one image fits into the device."""
    notes: tuple[str, ...]


def usual_form(found: Frontier) -> str:
    """The form to plan by: a surface where the points have sizes."""
    return "surface" if any(point.parameters and point.images for point in found.points) else "saturating"


def usual_plan(
    store: Store,
    found: Frontier,
    budget: float,
    target: float | None,
    wish: Wish,
    cluster: Cluster | None,
    *,
    seeds: int,
    force: bool,
) -> Plan:
    """The plan by the usual form: by the law of cost, which is then said, where no surface can be planned by.

    Raises as `plan`.
    """
    form = usual_form(found)
    try:
        return plan(store, found, budget, target, replace(wish, form=form), cluster, seeds=seeds, force=force)
    except ValueError as why:
        if form == "saturating":
            raise
        by_cost = replace(wish, form="saturating")
        chosen = plan(store, found, budget, target, by_cost, cluster, seeds=seeds, force=force)
        note = f"planned by the saturating law of cost, since not by a surface: {why}"
        return replace(chosen, notes=(note, *chosen.notes))


def plan(
    store: Store,
    found: Frontier,
    budget: float,
    target: float | None,
    wish: Wish,
    cluster: Cluster | None,
    *,
    seeds: int,
    force: bool,
) -> Plan:
    """The trainings that tell the most for a budget of FLOPs; candidates are those of `candidates_of`.

    Raises as `fitted` and `next_runs`.
    """
    if wish.family == ALL_FAMILIES:
        wish = replace(wish, family=None)
    if wish.form == "isoflop":
        raise ValueError("isoFLOP optima are no law of the error to plan by: ask for another --form")
    if found.axis != "flops":
        raise ValueError("the next runs are planned by training FLOPs alone: leave --cost out")
    law = fitted(store, found, wish)
    assert law.fit is not None
    used = set(law.fit.used)
    members = [point for point in found.points if point.configuration in used]
    candidates, too_large = candidates_of(store, found, members, cluster, wish.form)
    chosen = next_runs(law.fit, _arrays(candidates), budget, target, seeds=seeds, points=law.points, force=force)
    notes = (*found.notes, *_doubts(members, wish.form, [candidates[run.candidate] for run in chosen.runs]))
    return Plan(found, law, cluster, tuple(candidates), chosen, too_large, notes)


def _doubts(members: Sequence[Point], form: str, proposed: Sequence[Candidate]) -> list[str]:
    """What a law does not know of what is proposed by it."""
    said = []
    families = list(dict.fromkeys(point.family for point in members))
    if len(families) > 1 and form not in OF_COST:
        said.append(f"by one law of {', '.join(families)} together: --family {families[0]} plans by that of one alone")
    longest = max((point.epochs for point in members if point.epochs is not None), default=None)
    if form == "surface" and longest is not None and any((each.epochs or 0.0) > longest for each in proposed):
        said.append(
            f"some runs see their images more often than the {longest:g} times of the study, and a surface takes "
            "repeats for new images: --form repeated-surface knows of them"
        )
    return said


def candidates_of(
    store: Store, found: Frontier, members: Sequence[Point], cluster: Cluster | None, form: str
) -> tuple[list[Candidate], tuple[str, ...]]:
    """What could be trained next, and the networks that do not fit into the device.

    members: the points that the law was fitted on. The networks behind them with their neighbours in size, each on
    the numbers of images that they saw, times 1, 2, 4 and 8; of a law of cost times 1 and 2. Where all points are
    imported, those themselves, as long and longer.
    """
    longer = LONGER_ON_FRONTIER if form in OF_COST else LONGER
    networks = networks_of(store, found.study, [point for point in members if not point.external])
    if not networks:
        made = {_longer(point, times) for point in members for times in longer}
        return sorted(made, key=lambda each: (each.cost, each.label)), ()
    families = {point.family for point in members}
    listed = [each for each in with_neighbours(networks, found.study).values() if each.family in families]
    too_large = [each.label for each in listed if cluster and not each.fits(cluster.facts)]
    made = {
        Candidate(each.label, each.flops_per_image * images, float(each.parameters), images, min(rows, images))
        for each in listed
        if each.label not in too_large
        for rows, images in _lengths(members, form, longer)
    }
    if not made:
        raise ValueError(f"no network of {found.study.name} fits into the device: name a larger one")
    return sorted(made, key=lambda each: (each.cost, each.label, each.data_rows or 0.0)), tuple(too_large)


def _longer(point: Point, times: int) -> Candidate:
    parameters = None if point.parameters is None else float(point.parameters)
    images = None if point.images is None else times * float(point.images)
    rows = None if point.data_rows is None else float(point.data_rows)
    return Candidate(point.model, times * point.cost, parameters, images, rows)


def _lengths(members: Sequence[Point], form: str, longer: Sequence[int]) -> list[tuple[float, float]]:
    """Numbers of distinct images and of images seen. Only a law that knows of repeats asks about more than the most."""
    pairs = {(float(each.data_rows), float(each.images)) for each in members if each.data_rows and each.images}
    if form != "repeated-surface":
        most = max(rows for rows, _ in pairs)
        pairs = {(most, images) for _, images in pairs}
    return sorted({(rows, times * images) for rows, images in pairs for times in longer})


def _arrays(candidates: Sequence[Candidate]) -> Candidates:
    def column(name: str) -> Any:
        values = [getattr(each, name) for each in candidates]
        return None if any(value is None for value in values) else values

    return Candidates(
        labels=tuple(each.label for each in candidates),
        cost=column("cost"),
        parameters=column("parameters"),
        images=column("images"),
        data_rows=column("data_rows"),
    )


_TPU = re.compile(r"(?:tpu-)?(v[0-9]+)-([1-9][0-9]*)")
_COUNTED = re.compile(r"([1-9][0-9]*)x(.+)|(.+?)[-x]([1-9][0-9]*)")


def cluster_named(name: str) -> Cluster:
    """`h200`, `h200-8` and `8xh200`; `v4-32` as Google names slices: by TensorCores, of which a v4 chip has two.

    Raises ValueError with the nearest device when there is none of this name.
    """
    if match := _TPU.fullmatch(name):
        facts = device_facts(f"tpu-{match[1]}")
        cores = int(match[2])
        return Cluster(name, facts, cores if facts.unit == "core" else max(1, cores // 2))
    try:
        return Cluster(name, device_facts(name), 1)
    except ValueError:
        match = _COUNTED.fullmatch(name)
        if match is None:
            raise
        return Cluster(name, device_facts(match[2] or match[3]), int(match[1] or match[4]))


def plan_json(answer: Plan) -> dict[str, Any]:
    """A plan for programs."""
    found, chosen = answer.frontier, asdict(answer.next)
    runs = []
    for run in chosen.pop("runs"):
        made = answer.candidates[run["candidate"]]
        seconds = answer.cluster.seconds(run["cost"]) if answer.cluster else None
        size = {name: getattr(made, name) for name in ("parameters", "images", "data_rows", "epochs")}
        runs.append({**run, **size, "seconds": seconds})
    cluster = answer.cluster
    return {
        **header(found.study, found.series, found.axis),
        **_law_json(answer.fitted),
        **chosen,
        "left_out": [{"reason": why, "labels": list(labels)} for why, labels in chosen["left_out"]],
        "warnings": [*answer.next.warnings, *answer.fitted.doubts],
        "candidates": len(answer.candidates),
        "too_large": list(answer.too_large),
        "notes": list(answer.notes),
        "device": None
        if cluster is None
        else {
            "name": cluster.name,
            "units": cluster.units,
            "unit": cluster.facts.unit,
            "flops_per_second": cluster.units * cluster.facts.flops_per_second,
            "basis": cluster.facts.basis,
            "seconds": cluster.seconds(answer.next.total_cost),
        },
        "runs": runs,
    }
