"""A worker's way from a claim to a commit, in this process: real stores, real trainings, real checkpoints."""

import functools
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import Tensor

from db import answers, ledger, searches
from db.store import Store
from orchestrator import processes
from orchestrator.attempt import Attempt
from orchestrator.settings import Settings
from orchestrator.worker import Worker, log_path
from studies.datasets import DIGITS
from studies.definitions import AnyRun, Train
from studies.models import ViT
from studies.planned import PlannedRun
from studies.recipes import recipe
from tests import builders, searched
from tests.trained_digits import Silent
from workers.checkpoints import load, save
from workers.devices import Device
from workers.perform import perform
from workers.supervision import Finished, Place, Supervisor, Wish


def planned(steps: int, cooldown_steps: int, trunk: PlannedRun | None = None) -> PlannedRun:
    """A training of the reciprocal-square-root schedule."""
    schedule = {"kind": "rsqrt", "timescale": 10, "cooldown_steps": cooldown_steps}
    train = Train(
        model=ViT(patch=4, width=8, depth=1, mlp=8, heads=1),
        data=DIGITS.take("train", 100),
        image_size=8,
        recipe=recipe("small", {"schedule": schedule, "warmup_steps": 2, "batch": 20}),
        examples=20 * steps,
        seed=0,
    )
    return PlannedRun(train, train, "ViT-8", "ViT", 20 * steps / 100, trunk=trunk)


TRUNK = planned(steps=12, cooldown_steps=0)
BRANCH = planned(steps=16, cooldown_steps=4, trunk=TRUNK)


@contextmanager
def at_work(settings: Settings) -> Iterator[None]:
    """A worker that takes what is ready until the block ends."""
    worker = Worker(settings, cpus=1, gpus=0, perform=None, driver=(processes.HOST, *processes.own()))
    thread = threading.Thread(target=worker.work, args=(None,))
    thread.start()
    try:
        yield
    finally:
        worker.ask("yield")
        thread.join()


def finish(store: Store, settings: Settings, *runs: PlannedRun) -> list[answers.Run]:
    """Submit the runs and work until all are over."""
    with store.begin() as connection:
        study = builders.submit(connection, runs)
    end = time.monotonic() + 60
    with at_work(settings):
        while time.monotonic() < end:
            with store.read() as connection:
                if not answers.totals(connection, study).unfinished:
                    return answers.runs_of(connection, study)
            time.sleep(0.05)
    raise AssertionError("the runs came to no end")


def settings_in(folder: Path, url: str) -> Settings:
    return Settings(store_url=url, folder=folder, datasets=folder / "datasets.yaml")


def trained(settings: Settings, run: answers.Run) -> dict[str, Tensor]:
    """The weights that a training left."""
    assert run.checkpoint is not None
    return load(settings.checkpoints / run.checkpoint)[0]


@pytest.mark.parametrize("damage", ["none", "missing", "damaged", "of another class"])
def test_a_branch_whose_trunk_is_lost_trains_alone_to_the_same_bits(
    sqlite_url: str, tmp_path: Path, damage: str
) -> None:
    store, settings = Store.open(sqlite_url), settings_in(tmp_path, sqlite_url)
    (trunk,) = finish(store, settings, TRUNK)
    assert trunk.checkpoint is not None
    folder = settings.checkpoints / trunk.checkpoint
    if damage == "missing":
        shutil.rmtree(folder)
    elif damage == "damaged":
        for file in folder.iterdir():
            file.write_bytes(file.read_bytes()[:-1])
    elif damage == "of another class":
        tensors, facts = load(folder)
        shutil.rmtree(folder)
        save(folder, tensors, facts.model_copy(update={"numerics": "another machine"}))
    branch = finish(store, settings, TRUNK, BRANCH)[1]
    assert branch.state == "done", branch.cause
    log = log_path(settings.logs, branch.key, 1).read_text()
    assert ("does without its trunk" in log) == (damage != "none")
    assert_equal(trained(settings, branch), alone())
    store.dispose()


def test_a_pruned_attempt_stops_at_once_and_leaves_no_result(store: Store, store_url: str, tmp_path: Path) -> None:
    settings = Settings(store_url=store_url, folder=tmp_path, datasets=tmp_path / "none.yaml", lease_seconds=0.3)
    with store.begin() as connection:
        study = searched.submit(connection, searched.search())
        claimed = builders.claim(connection)
        searched.hand_in(connection, claimed, searched.best_at(0.01))
        (held,) = searches.undecided(connection, study)
        trial = held.planned.trial_runs({"lr_peak": 0.003})
        searches.add_runs(connection, held.id, trial)
        claimed = builders.claim(connection)
    with Attempt(store, claimed, settings) as attempt:
        assert attempt.reached(1) is Wish.CONTINUE
        with store.begin() as connection:
            searches.prune(connection, [claimed.key], "it is behind")
        end = time.monotonic() + 20
        while attempt.reached(2) is Wish.CONTINUE and time.monotonic() < end:
            time.sleep(0.02)
        assert attempt.reached(3) is Wish.STOP
        assert not attempt.lost
    with store.begin() as connection:
        assert ledger.release(connection, run_id=claimed.run_id, fence=claimed.fence, step=3) == "pruned"
        assert searches.outcomes(connection, [claimed.key])[claimed.key].state == "pruned"


def test_a_worker_that_is_let_go_ends_the_run_that_it_took_meanwhile(
    store: Store, store_url: str, tmp_path: Path
) -> None:
    begun, dismissed = threading.Event(), threading.Event()

    def perform_slowly(run: AnyRun, place: Place, supervisor: Supervisor) -> Finished:
        begun.set()
        assert dismissed.wait(20)
        return perform(run, place, supervisor)

    with store.begin() as connection:
        study = builders.submit(connection, [TRUNK])
    driver = (processes.HOST, *processes.own())
    worker = Worker(settings_in(tmp_path, store_url), cpus=1, gpus=0, perform=perform_slowly, driver=driver)
    thread = threading.Thread(target=worker.work, args=(None,))
    thread.start()
    assert begun.wait(20)
    worker.dismiss()
    dismissed.set()
    end = time.monotonic() + 20
    while thread.is_alive() and time.monotonic() < end:
        time.sleep(0.02)
        with store.read() as connection:
            if not answers.totals(connection, study).unfinished:
                worker.dismiss()  # as the driver does at each tick without work
    assert not thread.is_alive()
    with store.read() as connection:
        (run,) = answers.runs_of(connection, study)
        assert [attempt.outcome for attempt in answers.attempts_of(connection, run.id)] == ["done"]


@functools.cache
def alone() -> dict[str, Tensor]:
    """What the branch comes to without any trunk."""
    assert isinstance(BRANCH.run, Train)
    with tempfile.TemporaryDirectory() as folder:
        finished = perform(BRANCH.run, Place(Device.named("cpu", threads=1), Path(folder)), Silent())
        assert finished.checkpoint is not None
        return load(finished.checkpoint)[0]


def assert_equal(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())
