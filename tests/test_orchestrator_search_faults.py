"""Searches by the real command, with its own Ray, real trainings and Optuna's tables, and what goes wrong with them."""

import json
import random
import subprocess
import time
from collections import Counter
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import FrozenTrial
from sqlalchemy import select

from db.store import Store, StoreError
from db.tables import SearchRow
from orchestrator.trials import optuna_storage
from tests.sites import Site, assert_each_run_was_done_once, kill

pytestmark = pytest.mark.slow

SEARCHED = """\
name: searched
title: Learning rates of fine-tunings
source: tests
shows: that each point is tried once
shapes: {ViT: {t: {width: 16, depth: 1, mlp: 32, heads: 2}}}
grids: [{model: ViT-t/4, data: digits, recipe: small, head: gap, epochs: 2, seed: 0}]
transfers:
  - name: by-grid
    data: digits
    recipe: small-fine-tuning
    steps: 40
    search: {lr_peak: [0.003, 0.01, 0.03, 0.1]}
  - name: by-tpe
    data: digits
    recipe: small-fine-tuning
    search: {lr_peak: {low: 0.003, high: 0.3}, steps: {low: 15, high: 50}}
    sampler: tpe
    trials: 8
    seeds: [0]
"""
PRUNED = """\
name: pruned
title: A search that gives up what is behind
source: tests
shows: that it is recorded as such
shapes: {ViT: {m: {width: 32, depth: 2, mlp: 64, heads: 2}}}
grids: [{model: ViT-m/2, data: digits, recipe: small, head: gap, epochs: 2, seed: 0}]
transfers:
  - data: digits
    recipe: small-fine-tuning
    steps: 400
    search: {lr_peak: [0.03, 0.02, 0.025, 0.000001]}
    pruner: median
    every: 50
    extend: false
    seeds: [0]
"""


def trials_of(site: Site) -> dict[str, list[FrozenTrial]]:
    """Of each Optuna study in the store, as anybody finds them."""
    storage = optuna_storage(site.url)
    try:
        names = optuna.get_all_study_names(storage=storage)
        return {name: optuna.load_study(study_name=name, storage=storage).get_trials() for name in names}
    finally:
        storage.remove_session()
        storage.engine.dispose()


def choices(site: Site) -> list[tuple[Any, ...]]:
    """State, choice, development accuracy, edge and number of trials of each search."""
    store = Store.open(site.url, create=False)
    columns = (SearchRow.transfer, SearchRow.state, SearchRow.chosen, SearchRow.development, SearchRow.edge)
    try:
        with store.read() as connection:
            return [tuple(row) for row in connection.execute(select(*columns, SearchRow.trials).order_by(SearchRow.id))]
    finally:
        store.dispose()


def story(site: Site) -> Any:
    """All that the searches left, every digit of it, but for times and for which was decided first."""
    trials = {
        name: [(trial.params, trial.state.name, trial.value, trial.user_attrs) for trial in found]
        for name, found in sorted(trials_of(site).items())
    }
    return trials, choices(site), sorted(site.table().splitlines())


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What the searches leave when nothing goes wrong."""
    site = Site(tmp_path_factory.mktemp("undisturbed"), SEARCHED)
    code, printed = site.submit()
    assert code == 0, printed
    return story(site)


def test_a_search_chooses_and_measures_its_choice_on_the_seeds_and_optuna_lists_its_trials(undisturbed: Any) -> None:
    trials, found, table = undisturbed
    by_grid, by_tpe = trials.values()
    lrs = [params["lr_peak"] for params, *_ in by_grid]
    values = [value for *_, value, _ in by_grid]
    assert lrs[:4] == [0.003, 0.01, 0.03, 0.1]
    assert {state for _, state, *_ in [*by_grid, *by_tpe]} == {"COMPLETE"}
    assert len(by_tpe) == 8
    assert [state for _, state, *_ in found] == ["decided", "decided"]
    assert json.loads(found[0][2])["lr_peak"] == lrs[values.index(max(values))]
    assert found[0][3] == max(values)
    assert max(values) > min(values) > 0.1
    assert table


def progress(site: Site) -> int:
    """Grows with each run that is done."""
    try:
        return sum(run.state == "done" for run in site.runs())
    except StoreError:
        return 0


def kill_at_random(site: Site, kills: int, luck: random.Random) -> int:
    """Kill the driver soon after something moved, until the study is done or so many kills were made; their number."""
    killed = 0
    while killed < kills:
        driver = site.start("resume") if site.is_stored() else site.start_submit()
        before = progress(site)
        try:
            while driver.poll() is None and progress(site) == before:
                time.sleep(0.2)
            time.sleep(luck.uniform(0, 1.5))
            if driver.poll() is not None:
                break
            killed += 1
        finally:
            kill(driver)
    return killed


@pytest.mark.timeout(2400)
def test_a_driver_killed_at_twenty_random_moments_leaves_each_point_once_and_the_same_choice(
    tmp_path: Path, undisturbed: Any
) -> None:
    luck, killed, number = random.Random(time.time_ns()), 0, 0
    while killed < 20:
        site = Site(tmp_path / str(number), SEARCHED)
        killed += kill_at_random(site, 20 - killed, luck)
        code, printed = site.submit()
        assert code == 0, printed
        assert story(site) == undisturbed
        assert_each_run_was_done_once(site)
        number += 1


@pytest.mark.timeout(900)
def test_kills_change_no_search_on_postgresql(tmp_path: Path, postgres_url: str, undisturbed: Any) -> None:
    site = Site(tmp_path, SEARCHED, postgres_url)
    assert kill_at_random(site, 4, random.Random(time.time_ns())) > 0
    code, printed = site.submit()
    assert code == 0, printed
    assert story(site) == undisturbed
    assert_each_run_was_done_once(site)


@pytest.mark.timeout(900)
def test_two_drivers_on_one_store_try_each_point_once(tmp_path: Path, store_url: str, undisturbed: Any) -> None:
    site = Site(tmp_path / "site", SEARCHED, store_url, VITSCALE_LEASE_SECONDS="60")
    drivers: list[subprocess.Popen[str]] = [site.start_submit("--workers", "1") for _ in range(2)]
    for driver in drivers:
        printed, _ = driver.communicate(timeout=800)
        assert driver.returncode == 0, printed
    assert story(site) == undisturbed
    attempts = site.attempts()
    more = {run for run, number in Counter(attempt.run_id for attempt in attempts).items() if number > 1}
    assert not more, [attempt for attempt in attempts if attempt.run_id in more]


@pytest.mark.timeout(900)
def test_a_pruned_trial_is_recorded_as_such_and_has_no_result(tmp_path: Path) -> None:
    site = Site(tmp_path, PRUNED, VITSCALE_LEASE_SECONDS="1.5")
    code, printed = site.submit("--workers", "1")
    assert code == 0, printed
    (trials,) = trials_of(site).values()
    assert [trial.state.name for trial in trials] == ["COMPLETE", "COMPLETE", "COMPLETE", "PRUNED"]
    assert trials[3].intermediate_values
    pruned = [run for run in site.runs() if run.state == "pruned"]
    assert len(pruned) == 1
    assert pruned[0].key[:12] in trials[3].user_attrs["runs"]
    assert pruned[0].key[:12] not in site.table()
    assert Counter(attempt.outcome for attempt in site.attempts())["pruned"] == 1
    assert choices(site)[0][-1] == 4
