"""What `vitscale sweep` asks of the store: searches, sweeps that a study spells out, scores of suites. Only reads."""

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from db import answers, frontiers, sweeps
from db.points import mean_and_sd
from db.store import Connection, Store
from db.sweeps import Measured, Sweep
from orchestrator.reports import NotFound
from studies.metrics import ACCURACY
from studies.searches import Params
from studies.vtab import SUITES, Suite, group_means

_EVALUATE = "evaluate"
_VALIDATION = "validation"


@dataclass(frozen=True)
class Candidate:
    """A point of a sweep that a study spells out, measured on the validation split."""

    params: Params
    configuration: str
    """Of its trainings."""
    value: float
    """Mean accuracy over the seeds."""
    sd: float | None
    seeds: int
    cost: float
    """Training FLOPs."""


@dataclass(frozen=True)
class OfChoice:
    """A metric of the chosen candidate on another split."""

    dataset: str
    split: str
    image_size: int
    metric: str
    mean: float
    sd: float | None
    seeds: int


@dataclass(frozen=True)
class SpelledSweep:
    """A `sweep` of a block: trainings that differ in searched fields, those of its candidates that have a result."""

    key: str
    model: str
    dataset: str
    image_size: int
    candidates: tuple[Candidate, ...]
    """By their values."""
    chosen: Candidate
    """The best, of equal ones the cheapest, as in the view `sweep_best`."""
    measured: tuple[OfChoice, ...]
    missing: tuple[tuple[str, tuple[str, ...]], ...]
    """Why evaluations of this series are not in it, with their keys; those of the study's other sweeps too."""


@dataclass(frozen=True)
class GroupScore:
    """The mean accuracy over a group's tasks."""

    group: str
    """`mean` is that of all tasks."""
    tasks: int
    values: Mapping[int, float]
    """By the seed of the fine-tunings, for the seeds of which each task of the suite has a value."""
    mean: float | None
    """Over the seeds; None when no seed is complete."""
    sd: float | None


@dataclass(frozen=True)
class SuiteScore:
    """What a network scores in a suite, each task at the choice of its search."""

    suite: str
    transfer: str
    model: str
    pretraining: str
    split: str
    groups: tuple[GroupScore, ...]
    missing: tuple[str, ...]
    """Tasks that have no value at any seed."""


@dataclass(frozen=True)
class Report:
    """All sweeps of a study."""

    study: answers.Study
    searches: tuple[Sweep, ...]
    spelled: tuple[SpelledSweep, ...]
    suites: tuple[SuiteScore, ...]


def report(store: Store, study: answers.Study) -> Report:
    """The sweeps of a study. Raises NotFound when it has none."""
    with store.read() as connection:
        searched = sweeps.of_study(connection, study.id)
        spelled = _spelled(connection, study.id)
    if not searched and not spelled:
        raise NotFound(
            f"{study.name} has no transfer with 'search', and no block with 'sweep' that has a result on its "
            f"validation split; see how far it is with: vitscale status {study.name}"
        )
    return Report(study, tuple(searched), tuple(spelled), tuple(_scores(searched)))


def suite_of(tasks: Sequence[str]) -> Suite | None:
    """The suite that has exactly these tasks."""
    return next((suite for suite in SUITES.values() if set(suite.tasks) == set(tasks)), None)


# ----------------------------------------------------------------------------------------- what a study spells out


def _spelled(connection: Connection, study_id: int) -> list[SpelledSweep]:
    series = [each for each in frontiers.series_of(connection, study_id) if each.kind == _EVALUATE]
    points = {each.id: frontiers.points_of(connection, each.id) for each in series}
    found = []
    for decisive in series:
        if decisive.metric != ACCURACY or decisive.split != _VALIDATION:
            continue
        of_sweep: dict[str, list[frontiers.Point]] = defaultdict(list)
        for point in points[decisive.id]:
            if point.sweep is not None:
                of_sweep[point.sweep].append(point)
        if not of_sweep:
            continue
        missing = tuple((why, tuple(keys)) for why, keys in frontiers.excluded(connection, decisive))
        for key, tried in of_sweep.items():
            best = min(tried, key=lambda point: (-point.quality, point.cost, point.training))
            found.append(
                SpelledSweep(
                    key=key,
                    model=best.model,
                    dataset=decisive.dataset,
                    image_size=decisive.image_size,
                    candidates=tuple(sorted(map(_candidate, tried), key=_by_values)),
                    chosen=_candidate(best),
                    measured=tuple(_of_choice(series, points, best.training, without=decisive)),
                    missing=missing,
                )
            )
    return found


def _candidate(point: frontiers.Point) -> Candidate:
    return Candidate(
        params=json.loads(point.searched or "{}"),
        configuration=point.training,
        value=point.value,
        sd=point.sd,
        seeds=point.seeds,
        cost=point.cost,
    )


def _by_values(candidate: Candidate) -> list[tuple[bool, float, str]]:
    """Numbers by size, then whatever else is searched."""
    values = candidate.params.values()
    are_numbers = [isinstance(value, int | float) and not isinstance(value, bool) for value in values]
    return [
        (not is_number, value if is_number else 0.0, json.dumps(value))
        for value, is_number in zip(values, are_numbers, strict=True)
    ]


def _of_choice(
    series: Sequence[frontiers.Series], points: Mapping[int, Sequence[frontiers.Point]], training: str, *, without: Any
) -> Iterator[OfChoice]:
    for each in series:
        for point in points[each.id]:
            if each != without and point.training == training:
                yield OfChoice(
                    dataset=each.dataset,
                    split=each.split,
                    image_size=each.image_size,
                    metric=each.metric,
                    mean=point.value,
                    sd=point.sd,
                    seeds=point.seeds,
                )


# ---------------------------------------------------------------------------------------------------------- suites


def _scores(searched: Sequence[Sweep]) -> Iterator[SuiteScore]:
    """Of each network and transfer whose searches are those of a suite, one for all tasks or one for each."""
    groups: dict[tuple[str, str], list[Sweep]] = defaultdict(list)
    for sweep in searched:
        groups[sweep.search.planned.pretraining.key, sweep.search.transfer].append(sweep)
    for (pretraining, transfer), members in groups.items():
        suite = suite_of([task for sweep in members for task in sweep.tasks])
        if suite is None:
            continue
        by_split: dict[str, dict[str, Measured]] = defaultdict(dict)
        for each in (measured for sweep in members for measured in sweep.measured):
            if each.metric == ACCURACY and each.dataset == each.task:
                by_split[each.split].setdefault(each.task, each)
        for split, by_task in (by_split or {suite.splits.test: {}}).items():
            yield SuiteScore(
                suite=suite.name,
                transfer=transfer,
                model=members[0].model,
                pretraining=pretraining,
                split=split,
                groups=tuple(_group_scores(suite, by_task)),
                missing=tuple(task for task in suite.tasks if not _finite(by_task.get(task))),
            )


def _group_scores(suite: Suite, by_task: Mapping[str, Measured]) -> Iterator[GroupScore]:
    """First the mean over tasks at each seed, then mean and deviation over the seeds."""
    finite = [_finite(by_task.get(task)) for task in suite.tasks]
    complete = sorted(set.intersection(*(set(values) for values in finite)))
    by_seed = {
        seed: group_means({task: values[seed] for task, values in zip(suite.tasks, finite, strict=True)}, suite)
        for seed in complete
    }
    for group, tasks in {**suite.groups, "mean": suite.tasks}.items():
        values = {seed: means[group] for seed, means in by_seed.items()}
        mean, sd = mean_and_sd(values.values()) if values else (None, None)
        yield GroupScore(group, len(tasks), values, mean, sd)


def _finite(measured: Measured | None) -> dict[int, float]:
    return {} if measured is None else {seed: value for seed, value in measured.values.items() if value is not None}


# ------------------------------------------------------------------------------------------------------ for programs


def as_json(found: Report) -> dict[str, Any]:
    """All sweeps with every digit."""
    return {
        "study": found.study.name,
        "searches": [_search_json(sweep) for sweep in found.searches],
        "sweeps": [asdict(sweep) for sweep in found.spelled],
        "suites": [asdict(score) for score in found.suites],
    }


def _search_json(sweep: Sweep) -> dict[str, Any]:
    held = sweep.search
    search = held.planned.search
    return {
        "key": held.key,
        "transfer": held.transfer,
        "model": sweep.model,
        "pretraining": held.planned.pretraining.key,
        "pretraining_state": held.upstream_state,
        "tasks": list(sweep.tasks),
        "development": [f"{task.development.name}/{task.development.split}" for task in search.tasks],
        "state": held.state,
        "cause": sweep.cause,
        "sampler": search.sampler,
        "space": search.model_dump(mode="json")["space"],
        "trials": held.planned.trials,
        "optuna_study": held.optuna_study,
        "tried": [asdict(tried) for tried in sweep.tried],
        "chosen": sweep.chosen,
        "development_accuracy": sweep.development,
        "edge": dict(sweep.edge),
        "extended": held.extended,
        "final_runs": dict(sweep.finals),
        "measured": [{**asdict(measured), "seeds": len(measured.values)} for measured in sweep.measured],
    }
