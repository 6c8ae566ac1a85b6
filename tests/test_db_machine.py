"""Any order of claims, renewals, endings and lost leases: one result for each run, and fences only grow."""

from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from sqlalchemy import text

from db import answers, frontiers, ledger, searches
from db.claiming import Claim
from db.store import Connection, Store
from studies.planned import PlannedRun
from tests import builders
from tests.builders import evaluation, search, training

T = TypeVar("T")
SEEDS = range(2)
TRAININGS = [training(seed=seed) for seed in SEEDS]
PLANNED = [*TRAININGS, *(evaluation(run) for run in TRAININGS)]
SEARCH = search(TRAININGS[0], pruner="median", every=10)
TRIALS = [run for lr in (1e-3, 3e-3) for run in SEARCH.trial_runs({"lr_peak": lr})]
EVERYTHING = [*PLANNED, *TRIALS]
UPSTREAM = {**{evaluation(run).key: run.key for run in TRAININGS}, **{run.key: TRAININGS[0].key for run in TRIALS}}


class Ledger(RuleBasedStateMachine):
    """The ledger beside a model of it: the state of each run, and who holds it under which fence."""

    store: Store
    claims: list[Claim]

    def __init__(self) -> None:
        super().__init__()
        with self.store.begin() as c:
            for table in ("point", "series", "study_run", "search", "study", "measurement", "result", "attempt"):
                c.execute(text(f"DELETE FROM {table}"))
            c.execute(text("UPDATE run SET upstream_id = NULL"))
            c.execute(text("DELETE FROM run"))
            self.study = builders.submit(c, PLANNED, searches=[SEARCH])
            (found,) = searches.undecided(c, self.study)
            searches.add_runs(c, found.id, TRIALS)
        self.search = found.id
        self.claims = []
        self.held: dict[str, int] = {}
        self.doomed: set[str] = set()
        self.fence = {run.key: 0 for run in EVERYTHING}
        self.state = {run.key: "waiting" if run.key in UPSTREAM else "ready" for run in EVERYTHING}
        self.failures = {run.key: 0 for run in EVERYTHING}
        self.number = count()

    def write(self, function: Callable[[Connection], T]) -> T:
        with self.store.begin() as c:
            return function(c)

    def is_held(self, claimed: Claim) -> bool:
        return self.held.get(claimed.key) == claimed.fence

    def end(self, claimed: Claim, state: str) -> None:
        del self.held[claimed.key]
        self.state[claimed.key] = "pruned" if claimed.key in self.doomed else state
        for below, upstream in UPSTREAM.items():
            if upstream == claimed.key and self.state[below] != "pruned" and state in ("done", "failed"):
                self.state[below] = "ready" if state == "done" else "blocked"

    @rule()
    def claim(self) -> None:
        claimed = self.write(builders.try_claim)
        ready = [key for key, state in self.state.items() if state == "ready"]
        if claimed is None:
            assert not ready
            return
        assert claimed.key in ready
        assert claimed.fence == self.fence[claimed.key] + 1
        self.claims.append(claimed)
        self.held[claimed.key] = self.fence[claimed.key] = claimed.fence
        self.state[claimed.key] = "running"

    @precondition(lambda self: self.claims)
    @rule(data=st.data())
    def renew(self, data: Any) -> None:
        claimed = data.draw(st.sampled_from(self.claims))
        answer = self.write(
            lambda c: ledger.renew(
                c,
                run_id=claimed.run_id,
                fence=claimed.fence,
                lease_seconds=60,
                step=1,
                measurements=[(claimed.fence, "train_loss_nats", 1.0)],
            )
        )
        held = "prune" if claimed.key in self.doomed else "continue"
        assert answer == (held if self.is_held(claimed) else "lost")

    @precondition(lambda self: self.claims)
    @rule(data=st.data(), twice=st.booleans())
    def commit(self, data: Any, twice: bool) -> None:
        claimed = data.draw(st.sampled_from(self.claims))
        accuracy = None if claimed.key in {run.key for run in TRAININGS} else 0.5
        held = self.is_held(claimed)
        taken = held and claimed.key not in self.doomed
        accepted = self.write(lambda c: builders.commit(c, claimed, accuracy))
        again_after_own = self.state[claimed.key] == "done" and self.fence[claimed.key] == claimed.fence
        assert accepted == (taken or again_after_own)
        if held:
            self.end(claimed, "done")
            if twice:
                assert self.write(lambda c: builders.commit(c, claimed, accuracy)) == taken

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def fail(self, data: Any) -> None:
        claimed = data.draw(st.sampled_from([claimed for claimed in self.claims if self.is_held(claimed)]))
        error = f"error {next(self.number)}"
        answer = self.write(lambda c: builders.fail(c, claimed, error=error))
        self.failures[claimed.key] += 1
        expected = "failed" if self.failures[claimed.key] > 2 else "ready"
        assert answer == ("pruned" if claimed.key in self.doomed else expected)
        self.end(claimed, answer)

    @precondition(lambda self: any(not self.is_held(claimed) for claimed in self.claims))
    @rule(data=st.data())
    def fail_of_an_attempt_that_is_over_changes_nothing(self, data: Any) -> None:
        claimed = data.draw(st.sampled_from([claimed for claimed in self.claims if not self.is_held(claimed)]))
        self.write(lambda c: builders.fail(c, claimed))

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def release(self, data: Any) -> None:
        claimed = data.draw(st.sampled_from([claimed for claimed in self.claims if self.is_held(claimed)]))
        answer = self.write(lambda c: ledger.release(c, run_id=claimed.run_id, fence=claimed.fence, step=0))
        assert answer == ("pruned" if claimed.key in self.doomed else "ready")
        self.end(claimed, "ready")

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def lose_the_lease(self, data: Any) -> None:
        claimed = data.draw(st.sampled_from([claimed for claimed in self.claims if self.is_held(claimed)]))
        # A checkpoint first: five deaths without progress would be final, and have tests of their own.
        self.write(
            lambda c: ledger.record_checkpoint(
                c,
                run_id=claimed.run_id,
                fence=claimed.fence,
                checkpoint="x",
                step=claimed.checkpoint_step + 1,
            )
        )
        over = text("UPDATE run SET lease_until = 0 WHERE id = :id")
        self.write(lambda c: c.execute(over, {"id": claimed.run_id}))
        assert self.write(ledger.reap) == [(claimed.key, claimed.fence)]
        self.end(claimed, "ready")

    @rule()
    def submit_again(self) -> None:
        assert self.write(lambda c: builders.submit(c, PLANNED, searches=[SEARCH])) == self.study

    @rule()
    def add_the_trials_again(self) -> None:
        self.write(lambda c: searches.add_runs(c, self.search, TRIALS))

    @rule(trial=st.sampled_from(TRIALS))
    def prune(self, trial: PlannedRun) -> None:
        self.write(lambda c: searches.prune(c, [trial.key], "behind"))
        if self.state[trial.key] == "running":
            self.doomed.add(trial.key)
        elif self.state[trial.key] in ("ready", "waiting", "blocked"):
            self.state[trial.key] = "pruned"

    @invariant()
    def the_store_is_as_the_model(self) -> None:
        with self.store.read() as c:
            runs = {run.key: run for run in answers.runs_of(c, self.study)}
            assert {key: run.state for key, run in runs.items()} == self.state
            assert {key: run.fence for key, run in runs.items()} == self.fence
            results = [result.key for result in answers.results_of(c, self.study)]
            done = [key for key in UPSTREAM if self.state[key] == "done"]
            assert sorted(results) == sorted(done)
            assert not self.doomed.intersection(done)
            for run in runs.values():
                attempts = answers.attempts_of(c, run.id)
                assert [attempt.fence for attempt in attempts] == list(range(1, run.fence + 1))
                open_attempts = [attempt.fence for attempt in attempts if attempt.ended_at is None]
                assert open_attempts == ([run.fence] if run.state == "running" else [])
            points = [series.points for series in frontiers.series_of(c, self.study)]
            measured = {evaluation(run).key for run in TRAININGS}.intersection(done)
            assert points == ([1] if measured else [])


@pytest.mark.parametrize("examples", [6, pytest.param(150, marks=[pytest.mark.slow, pytest.mark.timeout(1200)])])
def test_any_order_of_events_gives_one_result_a_run(store: Store, examples: int, tmp_path: Path) -> None:
    Ledger.store = store
    run_state_machine_as_test(
        Ledger,
        settings=settings(
            max_examples=examples,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            database=None,
        ),
    )
