"""Trials of a search as one program, from claim to commit: real stores, workers and trainings, and real kills."""

import multiprocessing
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from db import answers, ledger, searches, studies, wishes
from db.beside import Waiting
from db.store import Store
from db.tables import SearchRow
from orchestrator import processes
from orchestrator.searching import Searching
from orchestrator.settings import Settings
from orchestrator.stacking import seats_beside
from orchestrator.submission import store_study
from orchestrator.worker import Worker, log_path
from studies import metrics
from studies.definitions import canonical
from studies.grid import Study, load_study
from studies.models import fine_tuned
from studies.searches import PlannedSearch
from studies.yaml_source import StudyError
from tests import searched
from workers.devices import Device
from workers.stacked import MOST, Seat, numerics_in

CPU = Device.named("cpu")
RATES = (0.003, 0.01, 0.03, 0.1)
DIVERGING = 1e25
SHORT, LONG = 20, 700
LEASE_SECONDS = 0.3
"""How far a run is reaches the store three times as often."""
LONG_ENOUGH = 90


def search_of(lrs: Sequence[float] = RATES, steps: int = SHORT) -> PlannedSearch:
    fields: dict[str, Any] = {"space": {"lr_peak": lrs}, "extend": False, "seeds": (0,)}
    search = searched.search(tasks=(searched.task(steps=steps),), **fields)
    model = fine_tuned(searched.PRETRAINING.root.model)
    return PlannedSearch(search.model_copy(update={"model": model}), searched.PRETRAINING, "fine-tuning")


class Site:
    """A store with a study of one search, whose trials are ready, and what a driver and its workers do there."""

    def __init__(self, url: str, folder: Path, search: PlannedSearch, *, together: bool = True, **tuned: Any) -> None:
        self.store = Store.open(url)
        self.settings = Settings(store_url=url, folder=folder, datasets=folder / "none.yaml", **tuned)
        self.searching = Searching(self.store, self.settings, None)
        self.search = search
        with self.store.begin() as connection:
            self.study = studies.submit(
                connection,
                name="tiny",
                title="A tiny study",
                source="tests",
                shows="nothing",
                text="name: tiny",
                file="studies/tiny.yaml",
                planned=[searched.PRETRAINING],
                searches=[search],
                cpus=1,
                gpus=0,
                priority=0,
                together=together,
            ).study_id
        with self.at_work():
            self.wait_until(lambda: self.states()["done"] == 1)
        self.searching.advance()

    def close(self) -> None:
        self.searching.close()
        self.store.dispose()

    def worker(self) -> Worker:
        return Worker(self.settings, cpus=1, gpus=0, perform=None, driver=(processes.HOST, *processes.own()))

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """A worker that takes what is ready until the block ends, and then yields."""
        worker = self.worker()
        thread = threading.Thread(target=worker.work, args=(None,))
        thread.start()
        try:
            yield
        finally:
            worker.ask("yield")
            thread.join()

    def finish(self) -> None:
        """Work and search until the search is decided and its choice measured."""
        with self.at_work():
            self.wait_until(lambda: self.searching.advance() is None or not self.unfinished())

    def unfinished(self) -> int:
        with self.store.read() as connection:
            totals = answers.totals(connection, self.study)
        return totals.unfinished + totals.searches_open

    def wait_until(self, condition: Callable[[], object]) -> None:
        end = time.monotonic() + LONG_ENOUGH
        while not condition():
            assert time.monotonic() < end, "the moment that the test waits for did not come"
            time.sleep(0.02)

    def runs(self) -> list[answers.Run]:
        with self.store.read() as connection:
            return answers.runs_of(connection, self.study)

    def trials(self) -> list[answers.Run]:
        """In the order of the rates."""
        by_key = {run.key: run for run in self.runs()}
        rates = self.search.search.space["lr_peak"]
        assert isinstance(rates, tuple)
        return [by_key[run.key] for rate in rates for run in self.search.trial_runs({"lr_peak": rate})]

    def states(self) -> Counter[str]:
        return Counter(run.state for run in self.runs())

    def outcomes(self) -> list[list[str | None]]:
        """How the attempts at each trial ended."""
        with self.store.read() as connection:
            return [[each.outcome for each in answers.attempts_of(connection, run.id)] for run in self.trials()]

    def seats(self) -> list[str | None]:
        """What the numerics of each trial say beside those of the place."""
        return [(run.numerics or "none").removeprefix(CPU.numerics) for run in self.trials()]

    def weights(self) -> list[bytes]:
        """What each trial left."""
        folders = [self.settings.checkpoints / (run.checkpoint or "none") for run in self.trials()]
        return [(folder / "state.safetensors").read_bytes() for folder in folders]

    def choice(self) -> Any:
        with self.store.read() as connection:
            return connection.execute(select(SearchRow.chosen)).scalar_one()

    def declare_dead(self) -> None:
        with self.store.begin() as connection:
            for attempt in ledger.live_attempts(connection):
                ledger.declare_dead(connection, run_id=attempt.run_id, fence=attempt.fence, reason="it was killed")


SEATS = [f" stacked={seat}/4" for seat in range(4)]


@pytest.fixture
def made() -> Iterator[Callable[..., Site]]:
    """Makes sites, and closes them in the end."""
    sites: list[Site] = []

    def make(*arguments: Any, **named: Any) -> Site:
        sites.append(Site(*arguments, **named))
        return sites[-1]

    yield make
    for site in sites:
        site.close()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """What the long trials leave as one program that nothing disturbs."""
    folder = tmp_path_factory.mktemp("undisturbed")
    site = Site(f"sqlite:///{folder / 'store.db'}", folder, search_of(steps=LONG))
    with site.at_work():
        site.wait_until(lambda: not site.unfinished() or site.states()["done"] == 5)
    assert site.seats() == SEATS
    site.close()
    return site.weights()


# ---------------------------------------------------------------------------------------------------- from end to end


def test_trials_in_a_stack_are_each_committed_once_and_lead_to_the_choice_of_those_apart(
    store_url: str, tmp_path: Path, made: Callable[..., Site]
) -> None:
    site = made(store_url, tmp_path / "together", search_of())
    site.finish()
    assert site.seats() == SEATS
    assert site.outcomes() == [["done"]] * 4
    with site.store.read() as connection:
        for run in site.trials():
            assert {result.metric for result in answers.results_of_run(connection, run.id)} >= {"accuracy"}
            assert len(answers.measurements_of(connection, run.id, metrics.TRAIN_LOSS)) == SHORT
    final = next(run for run in site.runs() if run.kind == "finetune" and run not in site.trials())
    assert final.numerics == CPU.numerics, "what is measured in the end is trained alone"
    (first, *_) = site.trials()
    log = log_path(site.settings.logs, first.key, 1).read_text()
    assert "trained together: 4 runs" in log
    assert log.count(": done") == 1

    apart = made(f"sqlite:///{tmp_path / 'apart.db'}", tmp_path / "apart", search_of(), together=False)
    apart.finish()
    assert apart.seats() == [""] * 4
    assert apart.choice() == site.choice()
    assert apart.weights() != site.weights()


def test_a_trial_that_diverges_fails_alone(sqlite_url: str, tmp_path: Path, made: Callable[..., Site]) -> None:
    site = made(sqlite_url, tmp_path, search_of((*RATES[:3], DIVERGING)))
    site.finish()
    assert site.outcomes() == [["done"]] * 3 + [["not_finite"]]
    assert "the training loss at step" in (site.trials()[3].cause or "")
    assert site.seats() == SEATS


def test_too_few_trials_train_apart(sqlite_url: str, tmp_path: Path, made: Callable[..., Site]) -> None:
    site = made(sqlite_url, tmp_path, search_of(RATES[:3]))
    site.finish()
    assert site.seats() == [""] * 3
    assert site.outcomes() == [["done"]] * 3


@pytest.mark.slow
def test_a_cancelled_trial_leaves_the_stack_and_the_others_go_on(
    sqlite_url: str, tmp_path: Path, made: Callable[..., Site], undisturbed: list[bytes]
) -> None:
    site = made(sqlite_url, tmp_path, search_of(steps=LONG), lease_seconds=LEASE_SECONDS)
    second = site.trials()[1]
    with site.at_work():
        site.wait_until(lambda: site.states()["running"] == 4)
        with site.store.begin() as connection:
            wishes.cancel(connection, run_ids=[second.id])
        site.wait_until(lambda: site.trials()[1].state == "cancelled")
        assert site.states()["running"] == 3, "it is told of at once"
        site.wait_until(lambda: site.states()["done"] == 4)
    assert site.outcomes() == [["done"], ["cancelled"], ["done"], ["done"]]
    with site.store.begin() as connection:
        wishes.requeue(connection, study_id=site.study)
    with site.at_work():
        site.wait_until(lambda: site.states()["done"] == 5)
    assert site.seats() == SEATS
    assert site.weights() == undisturbed


# -------------------------------------------------------------------------------------------------------- the setting

STUDY = """\
name: searched
title: A search
source: tests
shows: nothing
shapes: {ViT: {t: {width: 16, depth: 1, mlp: 32, heads: 2}}}
grids: [{model: ViT-t/4, data: digits, recipe: small, head: gap, epochs: 2, seed: 0}]
"""
TRANSFER = "transfers: [{data: digits, recipe: small-fine-tuning, steps: 20, search: {lr_peak: [0.01, 0.1]}}]\n"


def study_of(folder: Path, text: str) -> Study:
    (folder / "study.yaml").write_text(text)
    return load_study(folder / "study.yaml", "study.yaml")


def test_a_study_says_whether_its_trials_are_trained_together_and_its_keys_do_not(store: Store, tmp_path: Path) -> None:
    apart = study_of(tmp_path, STUDY + TRANSFER)
    together = study_of(tmp_path, STUDY + TRANSFER + "resources: {together: true}\n")
    assert [search.key for search in apart.searches] == [search.key for search in together.searches]
    for study, expected in ((apart, False), (together, True), (apart, False)):
        store_study(store, study)
        with store.read() as connection:
            assert connection.execute(select(SearchRow.together)).scalars().all() == [expected]


def test_together_without_a_search_is_an_error_where_it_stands(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=r"study.yaml:7:\d+: 'together' has no effect on a study without a search"):
        study_of(tmp_path, STUDY + "resources: {together: true}\n")


# ------------------------------------------------------------------------------------------------------- interrupted


def work_until_killed(settings: Settings) -> None:
    driver = (processes.HOST, *processes.own())
    Worker(settings, cpus=1, gpus=0, perform=None, driver=driver).work(None)


@pytest.mark.slow
@pytest.mark.parametrize("checkpoint_seconds", [0.1, 60.0], ids=["with checkpoints", "without a checkpoint"])
def test_a_stack_that_was_killed_comes_to_the_bits_of_an_undisturbed_one(
    store_url: str, tmp_path: Path, made: Callable[..., Site], undisturbed: list[bytes], checkpoint_seconds: float
) -> None:
    site = made(
        store_url, tmp_path, search_of(steps=LONG), checkpoint_seconds=checkpoint_seconds, lease_seconds=LEASE_SECONDS
    )
    process = multiprocessing.get_context("spawn").Process(target=work_until_killed, args=(site.settings,))
    process.start()
    if checkpoint_seconds < 1:
        site.wait_until(lambda: all(run.checkpoint_step > 0 for run in site.trials()))
    else:
        site.wait_until(lambda: all(run.step > 0 for run in site.trials()))
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert site.states()["running"] == 4
    site.declare_dead()
    with site.at_work():
        site.wait_until(lambda: site.states()["done"] == 5)
    assert site.outcomes() == [["died", "done"]] * 4
    assert site.seats() == SEATS
    assert site.weights() == undisturbed
    with site.store.read() as connection:
        last = [answers.attempts_of(connection, run.id)[-1] for run in site.trials()]
    assert [(attempt.first_step > 0) for attempt in last] == [checkpoint_seconds < 1] * 4


@pytest.mark.slow
def test_a_stack_that_yields_goes_on_to_the_same_bits(
    sqlite_url: str, tmp_path: Path, made: Callable[..., Site], undisturbed: list[bytes]
) -> None:
    site = made(sqlite_url, tmp_path, search_of(steps=LONG), lease_seconds=LEASE_SECONDS)
    with site.at_work():
        site.wait_until(lambda: all(run.step > 0 for run in site.trials()))
    (step,) = {run.checkpoint_step for run in site.trials()}
    assert 0 < step < LONG
    assert site.states()["ready"] == 4
    with site.at_work():
        site.wait_until(lambda: site.states()["done"] == 5)
    assert site.outcomes() == [["preempted", "done"]] * 4
    assert site.weights() == undisturbed


@pytest.mark.slow
@pytest.mark.parametrize("together", [True, False], ids=["still together", "no longer together"])
def test_a_trial_that_is_left_of_a_stack_goes_on_by_itself_to_the_same_bits(
    sqlite_url: str, tmp_path: Path, made: Callable[..., Site], undisturbed: list[bytes], together: bool
) -> None:
    site = made(sqlite_url, tmp_path, search_of(steps=LONG), lease_seconds=LEASE_SECONDS)
    with site.at_work():
        site.wait_until(lambda: all(run.step > 0 for run in site.trials()))
    with site.store.begin() as connection:
        wishes.cancel(connection, run_ids=[site.trials()[number].id for number in (0, 1, 3)])
        (held,) = searches.undecided(connection, site.study)
        connection.execute(SearchRow.__table__.update().values(together=together))  # type: ignore[attr-defined]
        assert held.state == "open"
    with site.at_work():
        site.wait_until(lambda: site.states()["done"] == 2)
    assert site.trials()[2].numerics == CPU.numerics + SEATS[2]
    checkpoint = site.settings.checkpoints / (site.trials()[2].checkpoint or "none")
    assert (checkpoint / "state.safetensors").read_bytes() == undisturbed[2]


# ------------------------------------------------------------------------------------------------------------- seats

FOUR = search_of()


def waiting(
    number: int, rate: float | None = None, step: int = 0, numerics: str | None = None, micro_batch: int | None = None
) -> Waiting:
    """A trial of this id; its rate follows from it where none is given."""
    (run,) = FOUR.trial_runs({"lr_peak": rate or 0.001 * (1 + number)})
    return Waiting(number, canonical(run.run), step, micro_batch, numerics)


def seat(number: int, size: int = 4, place: str = CPU.numerics) -> str:
    return numerics_in(Seat(number, size), place)


def seats(run_id: int, *found: Waiting) -> dict[int, tuple[int, int]]:
    return {other: tuple(its) for other, its in seats_beside(run_id, found, CPU).items()}  # type: ignore[misc]


def test_trials_take_seats_in_the_order_in_which_they_wait() -> None:
    assert seats(5, *map(waiting, (5, 3, 8, 9))) == {5: (0, 4), 3: (1, 4), 8: (2, 4), 9: (3, 4)}


def test_a_stack_has_no_more_seats_than_were_measured() -> None:
    taken = seats(0, *map(waiting, range(MOST + 5)))
    assert taken == {number: (number, MOST) for number in range(MOST)}


def test_a_trial_with_few_beside_it_trains_alone() -> None:
    assert seats(0, *map(waiting, range(3))) == {}


def test_trials_that_have_begun_or_are_divided_are_not_beside_one_that_begins() -> None:
    others = [waiting(4, step=10), waiting(5, numerics=seat(2)), waiting(6, micro_batch=10), waiting(7, micro_batch=50)]
    assert seats(0, *map(waiting, range(3)), *others) == {0: (0, 4), 1: (1, 4), 2: (2, 4), 7: (3, 4)}


def test_a_trial_that_began_alone_goes_on_alone() -> None:
    own = waiting(0, step=10, numerics=CPU.numerics)
    assert seats(0, own, *map(waiting, range(1, 5))) == {}


def test_trials_sit_in_the_seats_in_which_they_began_with_those_of_their_step() -> None:
    found = [
        waiting(0, step=10, numerics=seat(2)),
        waiting(1, step=10, numerics=seat(0)),
        waiting(2, step=20, numerics=seat(1)),
        waiting(3, step=10, numerics=seat(3, size=5)),
        waiting(4, step=10, numerics=seat(2)),
        waiting(5),
    ]
    assert seats(0, *found) == {1: (0, 4), 0: (2, 4)}
    assert seats(2, *found) == {2: (1, 4)}


def test_a_stack_of_another_numerics_class_is_none_here() -> None:
    found = [waiting(number, step=10, numerics=seat(number, place="cuda")) for number in range(4)]
    assert seats(0, *found) == {}


def test_a_trial_that_cannot_be_read_is_left_to_itself() -> None:
    broken = Waiting(0, "{}", 0, None, None)
    assert seats(0, broken, *map(waiting, range(1, 6))) == {}
    assert 0 not in seats(1, broken, *map(waiting, range(1, 6)))
