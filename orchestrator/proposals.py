"""What a search tries next: a pure function of its definition and of what became of the points before.

Optuna's samplers choose. The whole search is played to them anew for each point, so that the same points come whoever
asks, and whatever was killed in between. Stores are in `orchestrator/searching.py`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from studies.definitions import canonical_json
from studies.searches import (
    Params,
    Range,
    Search,
    Trial,
    beyond,
    chosen,
    grid_points,
    key_of_search,
)

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.samplers import BaseSampler
    from optuna.study import Study

ROUND = 4
"""Points that TPE is asked for at a time: it learns from whole rounds, so that what it says depends on no race."""
_DIGITS = 6
"""Significant ones of a sampled number: it is a name, too, and the rest is noise."""


class Fate(Enum):
    """What became of a point."""

    OPEN = "open"
    """Its trainings are at work, or still to come."""
    MEASURED = "measured"
    PRUNED = "pruned"
    FAILED = "failed"


@dataclass(frozen=True)
class Tried:
    """A point of a search, by its place in it, and what became of it."""

    params: Params
    fate: Fate
    value: float | None = None
    """Mean accuracy on the development splits, of a measured one."""
    cause: str | None = None
    """Why it failed, or was pruned."""
    looks: Mapping[int, float] = field(default_factory=dict)
    """The same on the way, by step."""

    @property
    def trial(self) -> Trial:
        """As a choice is made from it."""
        return Trial(self.params, self.value)


def proposals(search: Search, tried: Sequence[Tried]) -> list[Params]:
    """The points that are to be tried beside these, which are the first ones of the search; none when it has to wait.

    Of a grid: all that are missing, and at the end the one beyond its edge. Of a sampler: the rest of a round, the
    next one when those before it are over, and nothing after so many trials.
    """
    if search.sampler == "grid":
        missing = grid_points(search)[len(tried) :]
        return missing or _beyond(search, tried)
    assert search.trials is not None
    size = round_size(search)
    begun = len(tried) - len(tried) % size
    if any(each.fate is Fate.OPEN for each in tried[:begun]):
        return []
    known = list(tried)
    while len(known) < min(begun + size, search.trials):
        known.append(Tried(_asked(search, known), Fate.OPEN))
    return [each.params for each in known[len(tried) :]]


def is_over(tried: Sequence[Tried]) -> bool:
    """Nothing is at work."""
    return all(each.fate is not Fate.OPEN for each in tried)


def round_size(search: Search) -> int:
    """Points that a sampler is asked for at a time: all that chance chooses, a generation of CMA-ES."""
    assert search.trials is not None
    if search.sampler == "random":
        return search.trials
    return _population(search) if search.sampler == "cma-es" else ROUND


def _beyond(search: Search, tried: Sequence[Tried]) -> list[Params]:
    if not is_over(tried):
        return []
    trials = [each.trial for each in tried]
    best = chosen(trials)
    point = beyond(search, trials, best) if best is not None else None
    return [] if point is None else [point]


# ---------------------------------------------------------------------------------------------- as Optuna writes values


def distributions(search: Search, params: Params | None = None) -> "dict[str, BaseDistribution]":
    """What each searched field may be. Optuna accepts a point beyond a grid only in a wider one: `params` is inside."""
    return {name: _distribution(search, name, [] if params is None else [params[name]]) for name in search.space}


def encoded(search: Search, params: Params) -> dict[str, Any]:
    """The values as Optuna keeps them: numbers as they are, the others, and those of a list to choose from, as JSON."""
    return {name: params[name] if _is_numeric(search, name) else canonical_json(params[name]) for name in search.space}


def decoded(search: Search, kept: Mapping[str, Any]) -> Params:
    """The values of a point as the study file wrote them, from what Optuna kept: the keys of runs depend on that."""
    return {name: _decoded(search, name, kept[name]) for name in search.space}


def _decoded(search: Search, name: str, kept: Any) -> Any:
    values = search.space[name]
    if isinstance(values, Range):
        return kept
    if not _is_numeric(search, name):
        return next(value for value in values if canonical_json(value) == kept)
    return next((value for value in values if value == kept), kept)


def _is_numeric(search: Search, name: str) -> bool:
    """Whether Optuna keeps a field's values as numbers. Of a list, a sampler may choose nothing but its members."""
    values = search.space[name]
    if isinstance(values, Range):
        return True
    return search.sampler == "grid" and all(type(value) in (int, float) for value in values)


def _distribution(search: Search, name: str, inside: Sequence[Any]) -> "BaseDistribution":
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    values = search.space[name]
    if isinstance(values, Range):
        if isinstance(values.low, int) and isinstance(values.high, int):
            return IntDistribution(values.low, values.high, log=values.log)
        return FloatDistribution(values.low, values.high, log=values.log)
    if not _is_numeric(search, name):
        return CategoricalDistribution([canonical_json(value) for value in values])
    numbers = [*values, *inside]
    if all(isinstance(value, int) for value in values):
        return IntDistribution(min(numbers), max(numbers))
    return FloatDistribution(min(numbers), max(numbers), log=min(values) > 0)


# ------------------------------------------------------------------------------------------------------------- samplers


def _asked(search: Search, tried: Sequence[Tried]) -> Params:
    """The next point, after these were played to a sampler: a round was asked for before any of it was told."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(direction="maximize", pruner=optuna.pruners.NopPruner())
    space, size = distributions(search), round_size(search)
    for begin in range(0, len(tried), size):
        mates = tried[begin : begin + size]
        trials = []
        for position, each in enumerate(mates, begin):
            study.sampler = _sampler(search, position)
            study.enqueue_trial(encoded(search, each.params))
            trials.append(study.ask(space))
            # CMA-ES notes a trial's generation when it makes values for it, which nobody asks of a known point.
            assert trials[-1].relative_params is not None
        if len(mates) == size:
            for trial, each in zip(trials, mates, strict=True):
                _tell(study, trial, each)
    study.sampler = _sampler(search, len(tried))
    kept = {name: _rounded(search.space[name], value) for name, value in study.ask(space).params.items()}
    return decoded(search, kept)


def _tell(study: "Study", trial: Any, tried: Tried) -> None:
    from optuna.trial import TrialState

    if tried.fate is Fate.MEASURED:
        study.tell(trial, tried.value)
        return
    if tried.fate is Fate.PRUNED:
        for step, value in tried.looks.items():
            trial.report(value, step)
    study.tell(trial, state=TrialState.PRUNED if tried.fate is Fate.PRUNED else TrialState.FAIL)


def _sampler(search: Search, position: int) -> "BaseSampler":
    """A sampler for one point, whose randomness is that of the point."""
    from optuna import samplers

    seed = int.from_bytes(sha256(f"{key_of_search(search)}/{position}".encode()).digest()[:4], "big")
    if search.sampler == "tpe":
        return samplers.TPESampler(n_startup_trials=ROUND, seed=seed)
    if search.sampler == "cma-es":
        return samplers.CmaEsSampler(
            popsize=_population(search), n_startup_trials=1, warn_independent_sampling=False, seed=seed
        )
    return samplers.RandomSampler(seed=seed)


def _population(search: Search) -> int:
    """Of a generation of CMA-ES, as usual (arXiv:1604.00772, table 1)."""
    return 4 + int(3 * math.log(len(search.space)))


def _rounded(values: Any, sampled: Any) -> Any:
    if not isinstance(values, Range) or not isinstance(sampled, float):
        return sampled
    return min(max(float(f"{sampled:.{_DIGITS}g}"), values.low), values.high)
