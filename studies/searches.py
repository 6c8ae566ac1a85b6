"""Hyper-parameter searches: which trainings try which values, how one is chosen, and which trainings then measure it.

Pure: `orchestrator/searching.py` asks Optuna for values and the store for results.
"""

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field, NonNegativeInt, PositiveInt, ValidationError
from pydantic import model_validator as validator

from studies.augmentations import Resize, View
from studies.definitions import (
    Classification,
    Data,
    Evaluate,
    FineTune,
    Recipe,
    SplitWatch,
    canonical_json,
    key_of,
)
from studies.frozen import Digest, Frozen, Listed, Positive
from studies.models import Classifier
from studies.planned import PlannedRun, Role

Params = Mapping[str, Any]
"""Values of the searched fields by name."""

STEPS = "steps"
"""What may be searched beside the fields of a recipe: the length of the training in updates."""


class Impossible(ValueError):
    """A search that cannot be made.

    at: the field of the search, and what inside it, that makes it so: ("space", "lr_peak", 1).
    """

    def __init__(self, at: tuple[str | int, ...], wrong: str) -> None:
        super().__init__(wrong)
        self.at = at


class Range(Frozen):
    """All numbers between two, for samplers that choose by themselves: whole ones where both are."""

    low: PositiveInt | Positive
    high: PositiveInt | Positive
    log: bool = True

    @validator(mode="after")
    def _is_possible(self) -> "Range":
        if not self.low < self.high:
            raise ValueError(
                f"a range goes from a smaller number to a larger one, and not from {self.low} to {self.high}"
            )
        return self


class Task(Frozen):
    """A data set that a network is fine-tuned on, and how."""

    search: Data
    """What trials are trained on."""
    development: Data
    """What decides between them."""
    whole: Data
    """What the choice is trained on."""
    image_size: PositiveInt
    recipe: Recipe
    """Without the searched fields' values."""
    steps: PositiveInt
    view: View = Resize()
    """Of the development split."""
    evaluations: Listed[Classification]
    """What the choice is measured on."""


class Search(Frozen):
    """For one trained network: try values of some fields on the development splits of its tasks, choose, measure.

    Several tasks share one choice: that of the best mean accuracy (arXiv:2010.11929v2, B.1.1, of VTAB).
    """

    upstream: Digest
    """Key of the pre-training."""
    model: Classifier
    tasks: Annotated[Listed[Task], Field(min_length=1)]
    trained: Literal["all", "head"] = "all"
    space: Annotated[dict[str, Listed[Any] | Range], Field(min_length=1)]
    """Values to try by the name of a recipe's field, or of `steps`."""
    sampler: Literal["grid", "tpe", "random", "cma-es"] = "grid"
    trials: PositiveInt | None = None
    """How many a sampler other than `grid` makes."""
    pruner: Literal["none", "median", "halving"] = "none"
    """What gives trials up early, by their accuracy on the development splits so far."""
    every: PositiveInt | None = None
    """Steps between two looks at the development split; None: at the end alone."""
    extend: bool = True
    """Where the best of a grid is at its edge, try one value more beyond it."""
    seed: NonNegativeInt = 0
    """Of the trials, and of the sampler."""
    seeds: Annotated[Listed[NonNegativeInt], Field(min_length=1)] = (0, 1, 2)
    """Of the trainings that measure the choice."""

    @validator(mode="after")
    def _is_possible(self) -> "Search":
        ranges = [name for name, values in self.space.items() if isinstance(values, Range)]
        if self.sampler == "grid":
            if ranges:
                wrong = f"a grid needs a list of values for {ranges[0]}: give one, or another sampler"
                raise Impossible(("space", ranges[0]), wrong)
            if self.trials is not None:
                raise Impossible(("trials",), "'trials' has no effect on a grid: each of its points is tried once")
        elif self.trials is None:
            wrong = f"the sampler {self.sampler} needs 'trials', the number of points to try"
            raise Impossible(("sampler",), wrong)
        if self.sampler == "cma-es" and (set(self.space) - set(ranges) or len(ranges) < 2):
            wrong = "cma-es searches two ranges or more: give {low: ..., high: ...} for each field"
            raise Impossible(("sampler",), wrong)
        if self.pruner != "none" and self.every is None:
            wrong = f"the pruner {self.pruner} looks at trials on the way: give 'every', in steps"
            raise Impossible(("pruner",), wrong)
        for name, values in self.space.items():
            if not isinstance(values, Range) and (not values or len(set(map(canonical_json, values))) < len(values)):
                raise Impossible(("space", name), f"the values of {name} are none, or one of them is there twice")
        for at, params in _corners(self.space):
            for task in self.tasks:
                try:
                    _tuning(self, task, params, task.search, self.seed)
                except ValueError as error:
                    raise Impossible(("space", *at), f"{at[0]}: {_reason(error)}") from None
        return self


class Trial(NamedTuple):
    """A point that was tried."""

    params: Params
    value: float | None
    """Mean accuracy on the development splits; None for one that failed or was pruned."""


@dataclass(frozen=True)
class PlannedSearch:
    """A search of a study, with the pre-training that it stands on, and what the study calls it."""

    search: Search
    pretraining: PlannedRun
    transfer: str

    @property
    def key(self) -> str:
        """The search's name, 64 hexadecimal digits."""
        return key_of_search(self.search)

    @property
    def label(self) -> str:
        """Its name for people: model and data sets."""
        names = [task.whole.name for task in self.search.tasks]
        shown = names[0] if len(names) == 1 else f"{len(names)} data sets"
        return f"{self.pretraining.model} @ {shown}"

    def trial_runs(self, params: Params) -> list[PlannedRun]:
        """The trainings of a trial: one for each task, which classifies its development split."""
        search = self.search
        return [
            self._planned(_tuning(search, task, params, task.search, search.seed, trial=True), params, "trial")
            for task in search.tasks
        ]

    def final_runs(self, params: Params) -> list[PlannedRun]:
        """The trainings that measure a choice, each followed by its evaluations: for each task, one a seed."""
        runs = []
        for task in self.search.tasks:
            for seed in self.search.seeds:
                training = _tuning(self.search, task, params, task.whole, seed)
                runs.append(self._planned(training, params, "final"))
                for each in task.evaluations:
                    evaluation = Evaluate(upstream=key_of(training), **dict(each))
                    runs.append(self._planned(evaluation, params, "final", training))
        return runs

    @property
    def trials(self) -> int:
        """How many points are tried at the most, without the one beyond an edge."""
        return self.search.trials or len(grid_points(self.search))

    @property
    def flops(self) -> float:
        """Of all trials and final runs, without a point beyond the edge."""
        return self._sum("flops")

    @property
    def images(self) -> int:
        """That go through the network in all of them."""
        return int(self._sum("images"))

    @property
    def runs(self) -> int:
        """How many there will be."""
        search = self.search
        evaluations = sum(len(task.evaluations) for task in search.tasks)
        return self.trials * len(search.tasks) + len(search.seeds) * (len(search.tasks) + evaluations)

    def _sum(self, what: Literal["flops", "images"]) -> float:
        trials = sum(
            count * sum(getattr(run, what) for run in self.trial_runs(point)) for point, count in self._priced_points
        )
        dearest = max(sum(getattr(run, what) for run in self.final_runs(point)) for point, _ in self._priced_points)
        return float(trials + dearest)

    @cached_property
    def _priced_points(self) -> list[tuple[Params, int]]:
        """One point for each length of training that trials have, with how many have it.

        Of a sampler, whose choices nobody knows, all have the longest.
        """
        if self.search.sampler != "grid":
            corners = [params for _, params in _corners(self.search.space)]
            return [(max(corners, key=lambda corner: float(corner.get(STEPS, 0))), self.trials)]
        points = {(point.get(STEPS), point.get("batch")): point for point in grid_points(self.search)}
        counts = Counter((point.get(STEPS), point.get("batch")) for point in grid_points(self.search))
        return [(point, counts[length]) for length, point in points.items()]

    def _planned(
        self, run: FineTune | Evaluate, params: Params, role: Role, training: FineTune | None = None
    ) -> PlannedRun:
        if training is None:
            assert isinstance(run, FineTune)
            training = run
        return PlannedRun(
            run=run,
            training=training,
            model=self.pretraining.model,
            family=self.pretraining.family,
            epochs=self.pretraining.epochs,
            sweep=self.key,
            searched=canonical_json(params),
            pretraining=self.pretraining.root,
            transfer=self.transfer,
            role=role,
        )


def key_of_search(search: Search) -> str:
    """SHA-256 of its canonical JSON, as 64 hexadecimal digits."""
    return sha256(canonical_json(search.model_dump(mode="json")).encode()).hexdigest()


def grid_points(search: Search) -> list[Params]:
    """All combinations of the values of a grid, in the order in which they are written; the last field goes fastest."""
    lists = [values for values in search.space.values() if not isinstance(values, Range)]
    return [dict(zip(search.space, picked, strict=True)) for picked in itertools.product(*lists)]


def chosen(trials: Sequence[Trial]) -> Trial | None:
    """The trial of the highest accuracy, the first of equal ones; None when none has any."""
    known = [trial for trial in trials if trial.value is not None]
    return max(known, key=lambda trial: trial.value or 0.0, default=None)


def at_edge(search: Search, trials: Sequence[Trial], best: Trial) -> dict[str, Literal["low", "high"]]:
    """The searched numbers whose best value is the smallest or largest that was tried, of two or more."""
    edges: dict[str, Literal["low", "high"]] = {}
    for name in search.space:
        tried = _tried(trials, name)
        if len(tried) > 1 and best.params[name] in (tried[0], tried[-1]):
            edges[name] = "low" if best.params[name] == tried[0] else "high"
    return edges


def beyond(search: Search, trials: Sequence[Trial], best: Trial) -> Params | None:
    """The one point to try beyond the edge of a grid: a step further for each field whose best is at its edge.

    Steps go on as they were written: by the ratio of the last two values where all are positive, rounded for whole
    numbers. None when the best is inside, the search shall not be extended, or it was already.
    """
    if search.sampler != "grid" or not search.extend or len(trials) > len(grid_points(search)):
        return None
    edges = at_edge(search, trials, best)
    if not edges:
        return None
    point = dict(best.params)
    for name, side in edges.items():
        point[name] = _next_value(_tried(trials, name), side)
    if any(trial.params == point for trial in trials):  # two values so near that a step is lost in rounding
        return None
    try:
        for task in search.tasks:
            _tuning(search, task, point, task.search, search.seed)
    except ValueError:  # beyond what the field can be: a share of one, say
        return None
    return point


def _tried(trials: Sequence[Trial], name: str) -> list[float]:
    """The numbers among the values of a field that were tried, in ascending order."""
    return sorted({trial.params[name] for trial in trials if _is_number(trial.params[name])})


def _next_value(tried: Sequence[float], side: Literal["low", "high"]) -> float:
    last, before = (tried[0], tried[1]) if side == "low" else (tried[-1], tried[-2])
    further = last * last / before if tried[0] > 0 else 2 * last - before
    return round(further) if isinstance(last, int) else float(f"{further:.6g}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _corners(space: Mapping[str, Sequence[Any] | Range]) -> list[tuple[tuple[str | int, ...], Params]]:
    """Points that show whether all of a space is possible: each value of each field once, beside the others' first.

    Each with the place in the space of the value that it is there for.
    """
    values: dict[str, list[tuple[str | int, Any]]] = {
        name: [("low", each.low), ("high", each.high)] if isinstance(each, Range) else list(enumerate(each))
        for name, each in space.items()
    }
    first = {name: options[0][1] for name, options in values.items()}
    return [((name, at), {**first, name: option}) for name, options in values.items() for at, option in options]


def _reason(error: ValueError) -> str:
    if not isinstance(error, ValidationError):
        return str(error)
    detail = error.errors(include_url=False)[0]
    cause = detail.get("ctx", {}).get("error")
    return str(cause) if cause else detail["msg"]


def _tuning(search: Search, task: Task, params: Params, data: Data, seed: int, *, trial: bool = False) -> FineTune:
    """A training of one task with these values. Raises ValueError where they do not fit the recipe."""
    fields = dict(params)
    steps = fields.pop(STEPS, task.steps)
    unknown = set(fields) - set(Recipe.model_fields)
    if unknown:
        raise ValueError(f"'{min(unknown)}' is no field of a recipe")
    recipe = Recipe.model_validate({**task.recipe.model_dump(), **fields})
    watch = SplitWatch(data=task.development, image_size=task.image_size, view=task.view, every=search.every)
    return FineTune(
        upstream=search.upstream,
        model=search.model,
        data=data,
        image_size=task.image_size,
        recipe=recipe,
        trained=search.trained,
        examples=steps * recipe.batch,
        seed=seed,
        watches=(watch,) if trial else (),
    )
