"""What became of the searches of a study: the points tried, the choice, and what it was measured at. Only reads."""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, select

from db import searches
from db.points import mean_and_sd
from db.searches import Ended, HeldSearch
from db.tables import SearchRow, State, StudyRunRow
from studies.definitions import Evaluate, canonical_json
from studies.metrics import ACCURACY
from studies.planned import PlannedRun
from studies.searches import Params, PlannedSearch, grid_points

UNTRIED = "untried"
"""Beside the states of runs: of a point that has none yet."""
_WORST_FIRST = (State.FAILED, State.BLOCKED, State.PRUNED, State.CANCELLED, UNTRIED)
_MOST_FIRST = (State.RUNNING, State.READY, State.WAITING)


@dataclass(frozen=True)
class Tried:
    """A point of a search."""

    params: Params
    state: str
    """Of its trainings together: that of the one which went worst, or else is furthest from done."""
    values: tuple[float | None, ...]
    """Accuracy on the development split of each task; None where there is none."""
    value: float | None
    """Their mean, once all are there."""
    cause: str | None
    runs: tuple[str, ...]
    """Keys of the trainings, one for each task."""
    is_beyond: bool
    """Tried because the best of the grid was at its edge."""


@dataclass(frozen=True)
class Measured:
    """A metric of the choice on one split."""

    task: str
    """The data set that was trained on."""
    dataset: str
    split: str
    image_size: int
    metric: str
    values: Mapping[int, float | None]
    """By the seed of the training; None is not a finite number."""
    mean: float | None
    """Of the finite ones."""
    sd: float | None
    """Sample standard deviation; None for fewer than two."""


@dataclass(frozen=True)
class Sweep:
    """A search, its points in the order in which they are written or were tried, and its choice."""

    search: HeldSearch
    model: str
    tasks: tuple[str, ...]
    """The data sets that it shares one choice for."""
    cause: str | None
    """Why it failed."""
    tried: tuple[Tried, ...]
    chosen: Params | None
    development: float | None
    """Mean accuracy of the choice on the development splits."""
    edge: Mapping[str, str]
    """"low" or "high" for each field whose best value was the last that was tried on that side."""
    finals: Mapping[str, int]
    """How many of the runs that measure the choice are in each state."""
    measured: tuple[Measured, ...]
    """In the order of the tasks and their evaluations, then by metric."""


def of_study(connection: Connection, study_id: int) -> list[Sweep]:
    """The searches of a study, in its order."""
    tried: dict[str, list[str]] = defaultdict(list)
    links = (
        select(StudyRunRow.sweep, StudyRunRow.searched)
        .where(StudyRunRow.study_id == study_id, StudyRunRow.role == "trial")
        .order_by(StudyRunRow.position)
    )
    for link in connection.execute(links):
        tried[link.sweep].append(link.searched)
    sweeps = []
    for row in connection.execute(searches.select_searches().where(SearchRow.study_id == study_id)).all():
        held = searches.as_held(row)
        chosen = searches.chosen_of(row)
        finals = [] if chosen is None else held.planned.final_runs(chosen)
        ended = searches.outcomes(connection, [run.key for run in finals])
        states = [ended[run.key].state if run.key in ended else UNTRIED for run in finals]
        sweeps.append(
            Sweep(
                search=held,
                model=row.model,
                tasks=tuple(task.whole.name for task in held.planned.search.tasks),
                cause=row.cause,
                tried=tuple(_tried(connection, held.planned, tried[held.key])),
                chosen=chosen,
                development=row.development,
                edge={} if row.edge is None else json.loads(row.edge),
                finals={state: states.count(state) for state in dict.fromkeys(states)},
                measured=tuple(_measured(finals, ended)),
            )
        )
    return sweeps


def _tried(connection: Connection, planned: PlannedSearch, searched: Sequence[str]) -> list[Tried]:
    """searched: the points that have runs, as JSON."""
    written = grid_points(planned.search) if planned.search.sampler == "grid" else []
    on_grid = {canonical_json(dict(params)) for params in written}
    later = [json.loads(params) for params in dict.fromkeys(searched) if params not in on_grid]
    runs = [planned.trial_runs(params) for params in [*written, *later]]
    ended = searches.outcomes(connection, [run.key for trial in runs for run in trial])
    points = []
    for number, (params, trial) in enumerate(zip([*written, *later], runs, strict=True)):
        ends = [ended.get(run.key) for run in trial]
        values = [_development(planned, task, end) for task, end in enumerate(ends)]
        known = [value for value in values if value is not None]
        causes = [end.cause for end in ends if end is not None and end.cause is not None]
        points.append(
            Tried(
                params=params,
                state=_state([UNTRIED if end is None else end.state for end in ends]),
                values=tuple(values),
                value=mean_and_sd(known)[0] if len(known) == len(values) else None,
                cause=causes[0] if causes else None,
                runs=tuple(run.key for run in trial),
                is_beyond=bool(written) and number >= len(written),
            )
        )
    return points


def _development(planned: PlannedSearch, task: int, ended: Ended | None) -> float | None:
    development = planned.search.tasks[task].development
    return None if ended is None else ended.results.get((ACCURACY, development.name, development.split))


def _state(states: Sequence[str]) -> str:
    return next((str(state) for state in (*_WORST_FIRST, *_MOST_FIRST) if state in states), str(State.DONE))


def _measured(finals: Sequence[PlannedRun], ended: Mapping[str, Ended]) -> list[Measured]:
    """Replicates share a configuration, whatever else two evaluations of the same split have in common."""
    of_evaluation: dict[str, list[PlannedRun]] = defaultdict(list)
    for run in finals:
        if isinstance(run.run, Evaluate):
            of_evaluation[run.configuration].append(run)
    measured = []
    for runs in of_evaluation.values():
        results = {run.training.seed: ended[run.key].results for run in runs if run.key in ended}
        first = runs[0]
        for metric in sorted({metric for values in results.values() for metric, _, _ in values}):
            data = first.run.data
            name = (metric, data.name, data.split)
            by_seed = {seed: values[name] for seed, values in results.items() if name in values}
            finite = [value for value in by_seed.values() if value is not None]
            mean, sd = mean_and_sd(finite) if finite else (None, None)
            measured.append(
                Measured(
                    task=first.training.data.name,
                    dataset=data.name,
                    split=data.split,
                    image_size=first.run.image_size,
                    metric=metric,
                    values=by_seed,
                    mean=mean,
                    sd=sd,
                )
            )
    return measured
