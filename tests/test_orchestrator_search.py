"""Searches move on as their runs end: real stores, Optuna's real tables, and workers who hand accuracies in."""

import gc
import multiprocessing
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import Engine, event, select

from db import answers, ledger, searches, wishes
from db.searches import HeldSearch
from db.store import Store, default_url
from db.tables import SearchRow
from orchestrator.searching import Searching, judge
from orchestrator.settings import Settings
from orchestrator.trials import enter, optuna_storage
from studies.definitions import FineTune
from studies.searches import Search
from tests import builders
from tests.searched import DEVELOPMENT, LRS, Quality, best_at, hand_in, measure, search, submit, task, work


class Site:
    """A store with a study of searches, and a driver's view of it."""

    def __init__(self, store: Store, url: str, folder: Path) -> None:
        self.store, self.url = store, url
        self.settings = Settings(store_url=url, folder=folder, datasets=folder / "datasets.yaml", lease_seconds=30)
        self.searching = Searching(store, self.settings, None)

    def submit(self, *of: Search) -> int:
        with self.store.begin() as connection:
            return submit(connection, *of)

    def finish(self, quality: Quality, *, most: int | None = None) -> None:
        """Work and search by turns until nothing moves."""
        while work(self.store, quality, most=most) or self.searching.advance():
            pass

    def held(self) -> list[HeldSearch]:
        with self.store.read() as connection:
            return searches.undecided(connection, None)

    @contextmanager
    def seen_by_optuna(self, name: str) -> Iterator[optuna.Study]:
        """The Optuna study, as anybody opens it."""
        storage = optuna_storage(self.url)
        try:
            yield optuna.load_study(study_name=name, storage=storage)
        finally:
            storage.remove_session()
            storage.engine.dispose()

    def trials(self, name: str) -> list[FrozenTrial]:
        with self.seen_by_optuna(name) as study:
            return study.get_trials()

    def runs(self, study: int) -> list[answers.Run]:
        with self.store.read() as connection:
            return answers.runs_of(connection, study)

    def decisions(self) -> list[tuple[Any, ...]]:
        """Key, state, choice, development accuracy, edge, extended and number of trials of each search."""
        row = SearchRow
        columns = (row.key, row.state, row.chosen, row.development, row.edge, row.extended, row.trials)
        with self.store.read() as connection:
            return [tuple(each) for each in connection.execute(select(*columns).order_by(row.id))]


@pytest.fixture
def site(store: Store, store_url: str, tmp_path: Path) -> Iterator[Site]:
    site = Site(store, store_url, tmp_path)
    yield site
    site.searching.close()


@pytest.fixture
def lite(sqlite_url: str, tmp_path: Path) -> Iterator[Site]:
    """On SQLite alone, where it is not SQL that matters."""
    store = Store.open(sqlite_url)
    site = Site(store, sqlite_url, tmp_path)
    yield site
    site.searching.close()
    store.dispose()


def test_a_search_waits_for_its_pre_training(site: Site) -> None:
    study = site.submit(search())
    assert not site.searching.advance()
    assert len(site.runs(study)) == 1


def test_a_grid_is_tried_once_a_point_and_its_best_is_trained_with_three_seeds(site: Site) -> None:
    study = site.submit(search())
    name = site.held()[0].optuna_study
    site.finish(best_at(0.01))
    kinds = Counter((run.kind, run.state) for run in site.runs(study))
    assert kinds == {("train", "done"): 1, ("finetune", "done"): 4 + 3, ("evaluate", "done"): 3}
    trials = site.trials(name)
    assert [trial.params["lr_peak"] for trial in trials] == list(LRS)
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 4
    assert max(trials, key=lambda trial: trial.value or 0).params == {"lr_peak": 0.01}
    assert site.held() == []


def test_a_best_value_at_the_edge_leads_to_one_value_beyond_it(lite: Site) -> None:
    lite.submit(search())
    name = lite.held()[0].optuna_study
    lite.finish(best_at(1.0))
    assert [trial.params["lr_peak"] for trial in lite.trials(name)] == [*LRS, 0.09]


def test_several_tasks_share_the_choice_of_the_best_mean(lite: Site) -> None:
    tasks = (task(rows=100), task(rows=200))
    study = lite.submit(search(tasks=tasks))
    name = lite.held()[0].optuna_study

    def quality(run: FineTune) -> float:
        return (best_at(0.003) if run.data.rows == 100 else best_at(0.01))(run)

    lite.finish(quality)
    trials = lite.trials(name)
    assert len(trials) == 4
    assert all(len(trial.user_attrs["runs"]) == 2 for trial in trials)
    assert trials[1].value == pytest.approx(trials[2].value, abs=1e-9)
    assert Counter(run.kind for run in lite.runs(study))["finetune"] == 8 + 3


@pytest.mark.parametrize("sampler", ["tpe", "random", "cma-es"])
def test_a_sampler_makes_as_many_trials_as_it_was_given(lite: Site, sampler: str) -> None:
    space = {"lr_peak": {"low": 1e-4, "high": 0.1}, "steps": {"low": 5, "high": 40}}
    lite.submit(search(space=space, sampler=sampler, trials=9))
    name = lite.held()[0].optuna_study
    lite.finish(best_at(0.01), most=3)
    assert [trial.state for trial in lite.trials(name)] == [TrialState.COMPLETE] * 9
    assert lite.held() == []


def test_a_failed_trial_fails_in_optuna_with_its_cause_and_the_others_are_chosen_from(lite: Site) -> None:
    lite.submit(search())
    name = lite.held()[0].optuna_study
    work(lite.store, best_at(0.01))
    lite.searching.advance()
    with lite.store.begin() as connection:
        builders.fail(connection, builders.claim(connection), outcome="not_finite", error="the loss is nan")
    lite.finish(best_at(0.001))
    trials = lite.trials(name)
    assert [trial.state for trial in trials] == [TrialState.FAIL, *[TrialState.COMPLETE] * 3]
    assert "the loss is nan" in trials[0].user_attrs["cause"]
    assert lite.held() == []


def test_a_search_without_a_single_value_fails_with_the_first_cause(lite: Site) -> None:
    study = lite.submit(search())
    work(lite.store, best_at(0.01))
    lite.searching.advance()
    while True:
        with lite.store.begin() as connection:
            claimed = builders.try_claim(connection)
            if claimed is None:
                break
            builders.fail(connection, claimed, outcome="not_finite", error="the loss is nan")
    lite.searching.advance()
    assert lite.held() == []
    assert all(run.kind != "evaluate" for run in lite.runs(study))


def test_a_trial_that_failed_and_is_wanted_again_is_tried_again(site: Site) -> None:
    study = site.submit(search())
    name = site.held()[0].optuna_study
    work(site.store, best_at(0.01))
    site.searching.advance()
    with site.store.begin() as connection:
        builders.fail(connection, builders.claim(connection), outcome="not_finite")
    site.searching.advance()
    assert site.trials(name)[0].state is TrialState.FAIL
    with site.store.begin() as connection:
        wishes.requeue(connection, study_id=study, failed=True)
    site.finish(best_at(0.001))
    assert [trial.params["lr_peak"] for trial in site.trials(name)] == [*LRS, 0.001, 0.000333333]
    assert [trial.state.name for trial in site.trials(name)] == ["FAIL", *["COMPLETE"] * 5]


def test_whoever_finds_a_search_held_leaves_it_alone_until_its_lease_is_over(site: Site) -> None:
    study = site.submit(search())
    work(site.store, best_at(0.01))
    with site.store.begin() as connection:
        assert searches.hold(connection, site.held()[0].id, "elsewhere:1:2.0", 0.3)
    assert site.searching.advance()
    assert len(site.runs(study)) == 1
    time.sleep(0.4)
    assert site.searching.advance()
    assert len(site.runs(study)) == 5


def test_what_a_dead_process_of_this_host_holds_is_free_at_once(lite: Site) -> None:
    lite.submit(search())
    process = multiprocessing.get_context("spawn").Process(target=_hold_and_die, args=(lite.url, lite.settings))
    process.start()
    process.join()
    with lite.store.read() as connection:
        assert len(searches.owners(connection)) == 1
    lite.searching.free_those_of_the_dead()
    with lite.store.read() as connection:
        assert searches.owners(connection) == []


def _hold_and_die(url: str, settings: Settings) -> None:
    store = Store.open(url, create=False)
    held = Searching(store, settings, None)
    with store.begin() as connection:
        searches.hold(connection, searches.undecided(connection, None)[0].id, held.owner, 60)


def test_trials_that_another_driver_entered_twice_count_once_and_hear_the_same(site: Site) -> None:
    site.submit(search())
    name = site.held()[0].optuna_study
    work(site.store, best_at(0.01))
    frozen = site.held()[0]
    site.searching.advance()
    with site.seen_by_optuna(name) as study:  # the other woke up, and believes that it still has the search
        enter(study, frozen, 2, {"lr_peak": 0.01})
    site.finish(best_at(0.01))
    trials = site.trials(name)
    assert len(trials) == 5
    assert trials[2].value == trials[4].value
    assert site.decisions()[0][-1] == 4


@pytest.mark.parametrize("sampler", ["grid", "tpe"])
def test_a_deleted_optuna_study_is_made_anew_from_the_ledger(lite: Site, sampler: str) -> None:
    fields: dict[str, Any] = (
        {} if sampler == "grid" else {"space": {"lr_peak": {"low": 1e-4, "high": 0.1}}, "trials": 6}
    )
    study = lite.submit(search(sampler=sampler, **fields))
    name = lite.held()[0].optuna_study
    work(lite.store, best_at(0.01))
    lite.searching.advance()
    before = [trial.params for trial in lite.trials(name)]
    work(lite.store, best_at(0.01), most=2)
    with lite.seen_by_optuna(name) as found:
        optuna.delete_study(study_name=name, storage=found._storage)
    lite.finish(best_at(0.01))
    after = [trial.params for trial in lite.trials(name)]
    assert after[: len(before)] == before
    assert len(after) == (4 if sampler == "grid" else 6)
    assert Counter(run.kind for run in lite.runs(study))["finetune"] == len(after) + 3


def test_a_study_that_knows_all_results_already_decides_without_any_work(site: Site) -> None:
    site.submit(search())
    site.finish(best_at(0.01))
    with site.store.begin() as connection:
        other = submit(connection, search(), name="other")
    name = site.held()[0].optuna_study
    assert site.searching.advance()
    assert [trial.state for trial in site.trials(name)] == [TrialState.COMPLETE] * 4
    assert {run.state for run in site.runs(other)} == {"done"}
    assert len(site.runs(other)) == 1 + 4 + 3 + 3


@pytest.mark.parametrize("pruner", ["median", "halving"])
def test_a_trial_behind_the_others_is_pruned_and_has_no_result(lite: Site, pruner: str) -> None:
    lrs = [0.001, 0.002, 0.004, 0.03]
    study = lite.submit(search(space={"lr_peak": lrs}, pruner=pruner, every=5, extend=False))
    name = lite.held()[0].optuna_study
    work(lite.store, best_at(0.001))
    lite.searching.advance()
    for _ in range(3):
        with lite.store.begin() as connection:
            claimed = builders.claim(connection)
            measure(connection, claimed, 5, 0.8)
        lite.searching.advance()
        with lite.store.begin() as connection:
            hand_in(connection, claimed, best_at(0.001))
        lite.searching.advance()
    with lite.store.begin() as connection:
        claimed = builders.claim(connection)
        assert measure(connection, claimed, 5, 0.2) == "continue"
    lite.searching.advance()
    with lite.store.begin() as connection:
        assert measure(connection, claimed, 6) == "prune"
        ledger.release(connection, run_id=claimed.run_id, fence=claimed.fence, step=6)
    lite.finish(best_at(0.001))
    last = lite.trials(name)[-1]
    assert last.state is TrialState.PRUNED
    assert last.intermediate_values == {5: 0.2}
    pruned = [run for run in lite.runs(study) if run.state == "pruned"]
    assert [run.key for run in pruned] == [claimed.key]
    assert lite.held() == []


def test_a_study_says_to_whoever_looks_at_it_with_optuna_what_it_searches(lite: Site) -> None:
    lite.submit(search())
    held = lite.held()[0]
    lite.finish(best_at(0.01))
    with lite.seen_by_optuna(held.optuna_study) as study:
        assert study.user_attrs["model"] == "ViT-8"
        assert study.user_attrs["data"] == ["digits"]
        assert study.user_attrs["transfer"] == "fine-tuning"
        assert study.metric_names == ["development accuracy"]
        assert study.best_params == {"lr_peak": 0.01}


def test_a_point_is_open_while_one_of_its_runs_may_still_end() -> None:
    of = search(tasks=(task(rows=100), task(rows=200)))
    done = searches.Ended("done", None, 20, {("accuracy", DEVELOPMENT.name, DEVELOPMENT.split): 0.5})
    for state in ("waiting", "ready", "running", "cancelled"):
        assert judge(of, {}, [done, searches.Ended(state, None, 0, {})]).fate.value == "open"
    assert judge(of, {}, [done, None]).fate.value == "open"
    assert judge(of, {}, [done, done]).value == 0.5
    assert judge(of, {}, [done, searches.Ended("pruned", "behind", 5, {})]).fate.value == "pruned"
    assert judge(of, {}, [done, searches.Ended("failed", "boom", 5, {})]).cause == "boom"
    nothing = searches.Ended("done", None, 20, {("accuracy", DEVELOPMENT.name, DEVELOPMENT.split): None})
    assert judge(of, {}, [done, nothing]).fate.value == "failed"


# ------------------------------------------------------------------------------------------------------------- crashes


class Killed(BaseException):
    """The process ends here."""


class Commits:
    """Counts the commits of all connections, ours and Optuna's. From one on none succeeds: the process is dead."""

    def __init__(self) -> None:
        self.counts = False
        self.seen = 0
        self.last: int | None = None

    def count(self, *_: Any) -> None:
        if self.counts:
            self.seen += 1
        self.live()

    def live(self, *_: Any) -> None:
        if self.counts and self.last is not None and self.seen > self.last:
            raise Killed

    @contextmanager
    def counted(self) -> Iterator[None]:
        self.counts = True
        try:
            yield
        finally:
            self.counts = False


@pytest.fixture
def commits() -> Iterator[Commits]:
    counted = Commits()
    event.listen(Engine, "commit", counted.count)
    event.listen(Engine, "before_cursor_execute", counted.live)
    yield counted
    event.remove(Engine, "commit", counted.count)
    event.remove(Engine, "before_cursor_execute", counted.live)


SEARCHES: dict[str, dict[str, Any]] = {
    "grid": {"space": {"lr_peak": LRS[1:]}},
    "tpe": {"sampler": "tpe", "space": {"lr_peak": {"low": 1e-4, "high": 0.1}}, "trials": 6},
}


def told(site: Site, commits: Commits, kind: str) -> Any:
    """Work and search by turns, three runs a turn, going on after the kill; all that is left, but for times."""
    study = site.submit(search(**SEARCHES[kind]))
    name = site.held()[0].optuna_study
    moved = True
    while work(site.store, best_at(0.1), most=3) or moved:
        try:
            with commits.counted():
                moved = site.searching.advance()
        except Killed:
            commits.last, moved = None, True
            site.searching.close()
            site.store.dispose()  # with what it had begun
            site.searching = Searching(site.store, site.settings, None)
        gc.collect()  # connections that Optuna had just opened end with their process, too
    trials = [(trial.params, trial.state, trial.value, trial.user_attrs) for trial in site.trials(name)]
    runs = sorted((run.key, run.state) for run in site.runs(study))
    return trials, runs, site.decisions()


def killed_at(commits: Commits, kind: str, write: int | None, template: str, folder: Path) -> Any:
    """The story in a store of its own, with a kill before a write of the searches (the first is 0), or with None."""
    place = folder / str(write) / ".vitscale"
    place.mkdir(parents=True)
    shutil.copy(template.removeprefix("sqlite:///"), place / "store.db")
    url = default_url(place.parent)
    store = Store.open(url)
    commits.seen, commits.last = 0, write
    site = Site(store, url, place.parent)
    try:
        return told(site, commits, kind)
    finally:
        site.searching.close()
        store.dispose()


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("kind", "stride"),
    [
        # A stride of 1 holds too; primes so that all kinds of writes are met in a tenth of the minutes.
        ("grid", 7),
        ("tpe", 13),
    ],
)
def test_a_process_killed_between_any_two_writes_leaves_each_point_once_and_the_same_choice(
    commits: Commits, sqlite_url: str, tmp_path: Path, kind: str, stride: int
) -> None:
    undisturbed = killed_at(commits, kind, None, sqlite_url, tmp_path)
    writes = commits.seen
    assert writes > 20
    for write in range(0, writes, stride):
        assert killed_at(commits, kind, write, sqlite_url, tmp_path) == undisturbed, f"killed before write {write}"


@pytest.mark.slow
def test_processes_that_make_optunas_tables_at_once_all_find_them(empty_url: str) -> None:
    Store.open(empty_url).dispose()
    spawn = multiprocessing.get_context("spawn")
    start = spawn.Barrier(6)
    processes = [spawn.Process(target=_make_tables, args=(empty_url, start, number)) for number in range(6)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 6
    storage = optuna_storage(empty_url)
    assert len(storage.get_all_studies()) == 6
    storage.remove_session()
    storage.engine.dispose()


def _make_tables(url: str, start: Any, number: int) -> None:
    start.wait()
    optuna.create_study(study_name=f"study {number}", storage=optuna_storage(url))
