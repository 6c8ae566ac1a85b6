"""Hyper-parameter searches in the store: who works on one, its runs and their results, and its choice.

The ledger is the truth: a trial's runs follow from its params alone, so whoever takes a search over finds them by their
keys. Each function takes the connection and the caller owns the transaction; each may be executed again after a lost
acknowledgement, and then changes nothing.
"""

import functools
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, func, or_, select, update

from db import dependents, points, wanting
from db.dialect import AnyRow, now_seconds
from db.tables import MeasurementRow, ResultRow, RunRow, SearchRow, SearchState, State, StudyRow, StudyRunRow, Wanted
from db.wanting import Asked
from studies.definitions import RUN, Train, canonical_json
from studies.planned import PlannedRun
from studies.searches import Params, PlannedSearch, Search


@dataclass(frozen=True)
class HeldSearch:
    """A search and where it is."""

    id: int
    study_id: int
    study: str
    key: str
    transfer: str
    definition: str
    """JSON of `studies.searches.Search`."""
    optuna_study: str
    state: str
    extended: bool
    upstream_state: str
    upstream_cause: str | None
    """Why the pre-training failed or is blocked."""
    planned: PlannedSearch


@dataclass(frozen=True)
class Ended:
    """A run as a search sees it."""

    state: str
    """Failed and pruned are final; a cancelled run comes back when somebody wants it again."""
    cause: str | None
    step: int
    results: Mapping[tuple[str, str, str], float | None]
    """Values by (metric, dataset, split), once it is done; None is not a finite number."""


# ------------------------------------------------------------------------------------------------- who works on which


def undecided(connection: Connection, study_id: int | None) -> list[HeldSearch]:
    """The open searches of a study, or of the store, whether or not their pre-training is done; in their order."""
    query = select_searches().where(SearchRow.state == SearchState.OPEN)
    if study_id is not None:
        query = query.where(SearchRow.study_id == study_id)
    return [as_held(row) for row in connection.execute(query)]


def hold(connection: Connection, search_id: int, owner: str, lease_seconds: float) -> bool:
    """Take an open search that nobody holds, or prolong one's own lease. False when somebody else holds it.

    A lease that is over is prolonged too, if nobody has taken the search. False also of a search that is not open.
    """
    free_for_us = or_(SearchRow.owner.is_(None), SearchRow.owner == owner, SearchRow.lease_until < now_seconds())
    held = connection.execute(
        update(SearchRow)
        .where(SearchRow.id == search_id, SearchRow.state == SearchState.OPEN, free_for_us)
        .values(owner=owner, lease_until=now_seconds() + lease_seconds)
    )
    return held.rowcount == 1


def let_go(connection: Connection, search_id: int, owner: str) -> None:
    """Give a search up, for anyone to take; nothing happens when it is no longer one's own."""
    connection.execute(
        update(SearchRow)
        .where(SearchRow.id == search_id, SearchRow.owner == owner)
        .values(owner=None, lease_until=None)
    )


def owners(connection: Connection) -> list[tuple[int, str]]:
    """(search, owner) of each search that somebody holds, whether or not the lease is over."""
    held = select(SearchRow.id, SearchRow.owner).where(SearchRow.owner.is_not(None)).order_by(SearchRow.id)
    return [(row.id, row.owner) for row in connection.execute(held)]


def free(connection: Connection, search_id: int, owner: str) -> None:
    """Take a search from an owner who is known to be dead, before the lease is over."""
    let_go(connection, search_id, owner)


# ---------------------------------------------------------------------------------------------------------- its trials


def add_runs(connection: Connection, search_id: int, planned: Sequence[PlannedRun]) -> None:
    """Put runs of an open search into the ledger and link its study to them, after all that the study wants.

    Those that the search has already are left as they are. A trial that another search of the same runs gave up stays
    given up, unless this one gives none up. Nothing happens when the search is no longer open.
    """
    wanting.lock(connection)
    search = _open(connection, search_id)
    if search is not None:
        _add_runs(connection, search, planned)


def outcomes(connection: Connection, keys: Sequence[str]) -> dict[str, Ended]:
    """Where each of these runs is, and its results; without those that are not in the ledger."""
    found: dict[str, Ended] = {}
    for chunk in wanting.chunks(list(keys)):
        results: dict[str, dict[tuple[str, str, str], float | None]] = defaultdict(dict)
        rows = connection.execute(
            select(RunRow.key, ResultRow.metric, ResultRow.dataset, ResultRow.split, ResultRow.value)
            .join(ResultRow, ResultRow.run_id == RunRow.id)
            .where(RunRow.key.in_(chunk))
        )
        for row in rows:
            results[row.key][row.metric, row.dataset, row.split] = row.value
        # After the results: a run that is done by now was not when they were read.
        runs = connection.execute(
            select(RunRow.key, RunRow.state, RunRow.cause, RunRow.step).where(RunRow.key.in_(chunk))
        )
        found.update({row.key: Ended(row.state, row.cause, row.step, results.get(row.key, {})) for row in runs})
    return found


def courses(connection: Connection, keys: Sequence[str], metric: str) -> dict[str, list[tuple[int, float]]]:
    """What each of these runs measured on the way: (step, value) by step, without what was not a finite number."""
    found: dict[str, list[tuple[int, float]]] = {key: [] for key in keys}
    for chunk in wanting.chunks(list(keys)):
        rows = connection.execute(
            select(RunRow.key, MeasurementRow.step, MeasurementRow.value)
            .join(MeasurementRow, MeasurementRow.run_id == RunRow.id)
            .where(RunRow.key.in_(chunk), MeasurementRow.metric == metric, MeasurementRow.value.is_not(None))
            .order_by(RunRow.key, MeasurementRow.step)
        )
        for row in rows:
            found[row.key].append((row.step, row.value))
    return found


def prune(connection: Connection, keys: Sequence[str], cause: str) -> None:
    """Give trials up: those that wait are pruned at once, those that run hear of it and will never have a result.

    A run that is over stays what it is, and so does one that anything else wants, in this study or in another:
    `outcomes` says what became of it.
    """
    others = select(func.count()).select_from(StudyRunRow).where(StudyRunRow.run_id == RunRow.id).scalar_subquery()
    is_named = (StudyRunRow.run_id == RunRow.id) & (StudyRunRow.role.is_(None) | (StudyRunRow.role != "trial"))
    alone = (others == 1) & ~select(StudyRunRow.run_id).where(is_named).exists()
    for chunk in wanting.chunks(sorted(keys)):
        rows = connection.execute(
            select(RunRow.id, RunRow.state)
            .where(
                RunRow.key.in_(chunk),
                RunRow.state.in_([State.READY, State.WAITING, State.BLOCKED, State.RUNNING]),
                alone,
            )
            .order_by(RunRow.id)
            .with_for_update()
        ).all()
        idle = [row.id for row in rows if row.state != State.RUNNING]
        running = [row.id for row in rows if row.state == State.RUNNING]
        connection.execute(update(RunRow).where(RunRow.id.in_(idle)).values(state=State.PRUNED, cause=cause))
        may_hear = RunRow.wanted.is_(None) | (RunRow.wanted == Wanted.YIELD)  # a cancelled one has heard worse
        connection.execute(
            update(RunRow).where(RunRow.id.in_(running), may_hear).values(wanted=Wanted.PRUNE, cause=cause)
        )


# ---------------------------------------------------------------------------------------------------------- its choice


def decide(
    connection: Connection,
    search_id: int,
    *,
    chosen: Params,
    development: float,
    edge: Mapping[str, str],
    extended: bool,
    trials: int,
    finals: Sequence[PlannedRun],
) -> None:
    """Store the choice of an open search together with the runs that measure it. A choice once made stays.

    development: mean accuracy of the choice on the development splits. edge: "low" or "high" by searched field.
    trials: how many ended, in whatever way.
    """
    wanting.lock(connection)
    search = _open(connection, search_id)
    if search is None:
        return
    _add_runs(connection, search, finals)
    connection.execute(
        update(SearchRow)
        .where(SearchRow.id == search_id)
        .values(
            state=SearchState.DECIDED,
            cause=None,
            chosen=canonical_json(dict(chosen)),
            development=development,
            edge=canonical_json(dict(edge)),
            extended=extended,
            trials=trials,
            owner=None,
            lease_until=None,
        )
    )


def fail(connection: Connection, search_id: int, cause: str) -> None:
    """No trial came to an end: there is nothing to choose from."""
    wanting.lock(connection)
    connection.execute(
        update(SearchRow)
        .where(SearchRow.id == search_id, SearchRow.state == SearchState.OPEN)
        .values(state=SearchState.FAILED, cause=cause, owner=None, lease_until=None)
    )


# -------------------------------------------------------------------------------------------------------------- inside


def select_searches() -> Any:
    """Searches with their study and pre-training, in the order of both."""
    return (
        select(
            SearchRow.id,
            SearchRow.study_id,
            StudyRow.name.label("study"),
            SearchRow.key,
            SearchRow.transfer,
            SearchRow.definition,
            SearchRow.optuna_study,
            SearchRow.state,
            SearchRow.cause,
            SearchRow.chosen,
            SearchRow.development,
            SearchRow.edge,
            SearchRow.extended,
            SearchRow.trials,
            RunRow.state.label("upstream_state"),
            RunRow.cause.label("upstream_cause"),
            RunRow.definition.label("upstream_definition"),
            RunRow.model,
            RunRow.family,
            RunRow.epochs,
        )
        .join(StudyRow, StudyRow.id == SearchRow.study_id)
        .join(RunRow, RunRow.id == SearchRow.upstream_id)
        .order_by(SearchRow.study_id, SearchRow.position)
    )


def as_held(row: AnyRow) -> HeldSearch:
    """A row of `select_searches`, its definitions read."""
    train = _train(row.upstream_definition)
    pretraining = PlannedRun(train, train, row.model, row.family, row.epochs)
    return HeldSearch(
        id=row.id,
        study_id=row.study_id,
        study=row.study,
        key=row.key,
        transfer=row.transfer,
        definition=row.definition,
        optuna_study=row.optuna_study,
        state=row.state,
        extended=row.extended,
        upstream_state=row.upstream_state,
        upstream_cause=row.upstream_cause,
        planned=PlannedSearch(_search(row.definition), pretraining, row.transfer),
    )


# A driver asks for its searches several times a second, and reading a definition takes milliseconds.
@functools.lru_cache(maxsize=1024)
def _search(definition: str) -> Search:
    return Search.model_validate_json(definition)


@functools.lru_cache(maxsize=1024)
def _train(definition: str) -> Train:
    run = RUN.validate_json(definition)
    assert isinstance(run, Train)
    return run


def _open(connection: Connection, search_id: int) -> AnyRow | None:
    """The search if it is still open. `wanting.lock` is held, under which alone a search is closed or dropped."""
    columns = (SearchRow.study_id, SearchRow.key, SearchRow.definition, SearchRow.cpus, SearchRow.gpus)
    return connection.execute(
        select(*columns, SearchRow.priority, SearchRow.micro_batch).where(
            SearchRow.id == search_id, SearchRow.state == SearchState.OPEN
        )
    ).one_or_none()


def _add_runs(connection: Connection, search: AnyRow, planned: Sequence[PlannedRun]) -> None:
    of_search = (StudyRunRow.study_id == search.study_id) & (StudyRunRow.sweep == search.key)
    linked = select(RunRow.key).join(StudyRunRow, StudyRunRow.run_id == RunRow.id).where(of_search)
    there = set(connection.execute(linked).scalars())
    added = {key: run for key, run in wanting.unique(planned).items() if key not in there}
    if not added:
        return
    asked = Asked(search.cpus, search.gpus, search.priority, search.micro_batch)
    stored = wanting.store(connection, added, asked)
    gives_up = _search(search.definition).pruner != "none"
    idle = stored.new_ids
    for is_trial in (True, False):
        again = [row for row in stored.unfinished if (added[row.key].role == "trial") == is_trial]
        idle += wanting.want_again(connection, again, asked, given_up=not (is_trial and gives_up))
    dependents.settle(connection, idle)
    last = select(func.max(StudyRunRow.position)).where(StudyRunRow.study_id == search.study_id)
    position = connection.execute(last).scalar()
    wanting.link(connection, search.study_id, added, stored.rows, 0 if position is None else position + 1)
    measured = {row.configuration for row in stored.rows.values() if row.state == State.DONE}
    for configuration in sorted(measured):
        points.refresh(connection, search.study_id, configuration)


def chosen_of(row: AnyRow) -> Params | None:
    """The choice of a search, read from its row."""
    return None if row.chosen is None else dict(json.loads(row.chosen))
