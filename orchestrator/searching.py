"""Moves hyper-parameter searches on: points become runs, results become a choice, and Optuna's tables mirror it all.

The ledger is the truth. What Optuna holds can be lost: a point's runs follow from its values alone, and what is tried
next from the results (`orchestrator/proposals.py`), so that whoever comes after a crash finds everything by key.
"""

import logging
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from statistics import fmean
from typing import TYPE_CHECKING, Any, TypeVar

from db import searches
from db.searches import Ended, HeldSearch
from db.store import Connection, Store, StoreUnreachable, retrying
from db.tables import State
from orchestrator import processes
from orchestrator.proposals import Fate, Tried, decoded, is_over, proposals
from orchestrator.settings import Settings
from orchestrator.trials import by_position, enter, is_retried, mirror, optuna_answers, optuna_storage, optuna_study
from studies import metrics
from studies.searches import Params, Search, at_edge, chosen, grid_points

if TYPE_CHECKING:
    from optuna.storages import RDBStorage

T = TypeVar("T")
log = logging.getLogger("vitscale.driver")

STORE_SECONDS = 30.0
"""How long a step waits for a store that went away. The next tick tries again."""
_LIVE = (State.WAITING, State.READY, State.RUNNING, State.CANCELLED)
"""Of a run whose trial is not over: a cancelled one waits to be wanted again."""


class Searching:
    """The searches of a study, or of a store, as one driver sees them. It keeps nothing that it would miss."""

    def __init__(self, store: Store, settings: Settings, study_id: int | None) -> None:
        pid, started = processes.own()
        self.owner = f"{processes.HOST}:{pid}:{started}"
        self.store = store
        self.settings = settings
        self.study_id = study_id
        self.watches = False
        """A search is under way whose trials may be given up early: their measurements count."""
        self._storage: RDBStorage | None = None
        self._linked: dict[int, set[str]] = defaultdict(set)
        """Runs by search which this process knows to be in the study."""
        self._seen: dict[int, Any] = {}
        """What was known of each search's runs when it was last moved as far as it goes."""

    def advance(self) -> bool:
        """Move each undecided search on whose pre-training is done. Answers whether anything moved, here or elsewhere.

        Raises StoreUnreachable, and StoreError when Optuna's tables are of another version.
        """
        with self.store.read() as connection:
            undecided = searches.undecided(connection, self.study_id)
        ready = [each for each in undecided if each.upstream_state == State.DONE]
        self.watches = any(each.planned.search.pruner != "none" for each in ready)
        moved = [self._move(each) for each in ready if self._has_news(each)]
        return any(moved)

    def free_those_of_the_dead(self) -> None:
        """Give back what processes of this host hold that are no more."""

        def free(connection: Connection) -> None:
            for search_id, owner in searches.owners(connection):
                host, pid, started = owner.rsplit(":", 2)
                process_started = None if started == "None" else float(started)
                if host == processes.HOST and not processes.is_alive(int(pid), process_started):
                    searches.free(connection, search_id, owner)

        with self.store.read() as connection:
            held = searches.owners(connection)
        if any(owner != self.owner for _, owner in held):
            self._write(free)

    def close(self) -> None:
        """Close Optuna's connections."""
        if self._storage is not None:
            self._storage.remove_session()
            self._storage.engine.dispose()
            self._storage = None

    # -------------------------------------------------------------------------------------------------- one search

    def _has_news(self, held: HeldSearch) -> bool:
        """Something became of its runs since it was last moved on. Asked without holding it, so it may be wrong once:
        whatever another driver does to a search shows in runs that this one knows."""
        return held.id not in self._seen or self._seen[held.id] != self._news(held, list(self._linked[held.id]))

    def _news(self, held: HeldSearch, keys: Sequence[str]) -> Any:
        with self.store.read() as connection:
            states = {key: ended.state for key, ended in searches.outcomes(connection, keys).items()}
            looks = self._looks(connection, held.planned.search, keys) if _is_pruned(held) else {}
        return states, looks

    def _move(self, held: HeldSearch) -> bool:
        if not self._hold(held):
            return True
        try:
            with optuna_answers(self.store):
                self._go_on(held)
        finally:
            with suppress(StoreUnreachable):  # its lease ends by itself
                self._write(lambda connection: searches.let_go(connection, held.id, self.owner))
        return True

    def _go_on(self, held: HeldSearch) -> None:
        """Try what is to be tried, tell Optuna what is over, and decide when nothing is left."""
        search = held.planned.search
        if self._storage is None:
            self._storage = optuna_storage(self.settings.store_url)
        study = optuna_study(self._storage, held)
        while True:
            trials = by_position(study)
            points = [decoded(search, trials[position][0].params) for position in range(len(trials))]
            self._add_runs(held, points)
            news = self._news(held, list(self._linked[held.id]))
            tried = self._judged(held, points)
            for position, each in enumerate(tried):
                if mirror(study, trials[position], each):
                    self._prune(held, each)
            entered = [
                (position, each.params) for position, each in enumerate(tried) if is_retried(trials[position], each)
            ]
            entered += enumerate(proposals(search, tried), len(tried))
            if not self._hold(held):
                return
            if not entered:
                break
            for position, params in entered:
                enter(study, held, position, params)
        if is_over(tried):
            self._decide(held, tried)
        self._seen[held.id] = news

    def _add_runs(self, held: HeldSearch, points: Sequence[Params]) -> None:
        """The study wants the runs of these points: a process that was killed may have entered them in Optuna alone."""
        linked = self._linked[held.id]
        runs = [run for params in points for run in held.planned.trial_runs(params)]
        new = [run for run in runs if run.key not in linked]
        if new:
            self._write(lambda connection: searches.add_runs(connection, held.id, new))
            linked.update(run.key for run in new)

    # ------------------------------------------------------------------------------------------- what became of points

    def _judged(self, held: HeldSearch, points: Sequence[Params]) -> list[Tried]:
        search = held.planned.search
        runs = [held.planned.trial_runs(params) for params in points]
        keys = [run.key for trial in runs for run in trial]
        with self.store.read() as connection:
            outcomes = searches.outcomes(connection, keys)
            looks = self._looks(connection, search, keys) if search.every is not None else {}
        tried = []
        for params, trial in zip(points, runs, strict=True):
            ends = [outcomes.get(run.key) for run in trial]
            judged = judge(search, params, ends)
            tried.append(replace(judged, looks=_mean_looks([looks.get(run.key, {}) for run in trial])))
        return tried

    def _looks(self, connection: Connection, search: Search, keys: Sequence[str]) -> dict[str, dict[int, float]]:
        """Accuracies on the development split by step, of each run: a run measures that of its own task alone."""
        names = {
            metrics.watched(metrics.ACCURACY, each.development.name, each.development.split) for each in search.tasks
        }
        looks: dict[str, dict[int, float]] = {}
        for name in sorted(names):
            for key, course in searches.courses(connection, keys, name).items():
                looks.setdefault(key, {}).update(course)
        return looks

    def _prune(self, held: HeldSearch, tried: Tried) -> None:
        keys = [run.key for run in held.planned.trial_runs(tried.params)]
        step = max(tried.looks)
        cause = f"its search gave it up at step {step}, at a development accuracy of {100 * tried.looks[step]:.2f} %"
        self._write(lambda connection: searches.prune(connection, keys, cause))

    def _decide(self, held: HeldSearch, tried: Sequence[Tried]) -> None:
        search, trials = held.planned.search, [each.trial for each in tried]
        best = chosen(trials)
        if best is None or best.value is None:
            causes = [each.cause for each in tried if each.cause is not None]
            cause = f"no trial came to an end: {causes[0]}" if causes else "no trial came to an end"
            self._write(lambda connection: searches.fail(connection, held.id, cause))
            return
        choice, development = best.params, best.value
        finals = held.planned.final_runs(choice)
        self._write(
            lambda connection: searches.decide(
                connection,
                held.id,
                chosen=choice,
                development=development,
                edge=at_edge(search, trials, best),
                extended=search.sampler == "grid" and len(tried) > len(grid_points(search)),
                trials=len(tried),
                finals=finals,
            )
        )

    # ------------------------------------------------------------------------------------------------ store and Optuna

    def _hold(self, held: HeldSearch) -> bool:
        """Take or prolong the lease; False when another driver has it."""
        seconds = self.settings.lease_seconds
        return self._write(lambda connection: searches.hold(connection, held.id, self.owner, seconds))

    def _write(self, function: Callable[[Connection], T]) -> T:
        return retrying(self.store, function, seconds=STORE_SECONDS)


def judge(search: Search, params: Params, ends: Sequence[Ended | None]) -> Tried:
    """What became of a point from what became of its runs, one for each task; None for a run that does not exist yet.

    A point with a failed run fails, but not before the others are over: `vitscale resume` may have it tried again.
    """
    runs = [end for end in ends if end is not None]
    if len(runs) < len(ends) or any(end.state in _LIVE for end in runs):
        return Tried(params, Fate.OPEN)
    failed = [end for end in runs if end.state in (State.FAILED, State.BLOCKED)]
    if failed:
        return Tried(params, Fate.FAILED, cause=failed[0].cause or "a training failed")
    pruned = [end for end in runs if end.state == State.PRUNED]
    if pruned:
        return Tried(params, Fate.PRUNED, cause=pruned[0].cause)
    values = []
    for task, end in zip(search.tasks, runs, strict=True):
        split = task.development
        value = end.results.get((metrics.ACCURACY, split.name, split.split))
        if value is None:
            return Tried(params, Fate.FAILED, cause=f"there is no accuracy on {split.name}/{split.split}")
        values.append(value)
    return Tried(params, Fate.MEASURED, value=fmean(values))


def _mean_looks(looks: Sequence[Mapping[int, float]]) -> dict[int, float]:
    """Over the tasks, at the steps that all of them have reached."""
    common = set.intersection(*(set(each) for each in looks))
    return {step: fmean(each[step] for each in looks) for step in sorted(common)}


def _is_pruned(held: HeldSearch) -> bool:
    return held.planned.search.pruner != "none"
