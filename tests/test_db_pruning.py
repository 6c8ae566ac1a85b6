"""Trials that a search gives up: pruned whatever happens at the same time, and never with a result."""

import pytest

from db import answers, ledger, searches, wishes
from db.store import Connection, Store
from studies.planned import PlannedRun
from tests import builders
from tests.builders import claim_of, searched, training, trials

NAME = ("accuracy", "digits", "validation")


def state(connection: Connection, planned: PlannedRun) -> str:
    return answers.known(connection, [planned.key])[planned.key]


def test_a_trial_that_waits_is_pruned_at_once_and_only_an_ordinary_wish_brings_it_back(store: Store) -> None:
    with store.begin() as c:
        held = searched(c, pruner="median", every=10)
        searches.add_runs(c, held.id, trials(held))
        first, second = trials(held)
        searches.prune(c, [first.key], "behind")
        searches.prune(c, [first.key], "behind, says a repeat")
        assert searches.outcomes(c, [first.key])[first.key].cause == "behind"
        assert claim_of(c, second).fence == 1
        searches.add_runs(c, held.id, trials(held))
        wishes.requeue(c, study_id=held.study_id, failed=True)
        builders.submit(c, [training()], searches=[held.planned])
        assert state(c, first) == "pruned"
        totals = answers.totals(c, held.study_id)
        assert (totals.states["pruned"], totals.unfinished) == (1, 1)

        builders.submit(c, [training(), held.planned.trial_runs({"lr_peak": 1e-3})[0]], name="ordinary")
        (run,) = answers.run_named(c, first.key)
        assert (run.state, run.cause) == ("ready", None)


@pytest.mark.parametrize("ending", ["release", "fail", "die", "commit"])
def test_a_trial_that_runs_hears_of_it_and_ends_pruned_however_it_ends(store: Store, ending: str) -> None:
    with store.begin() as c:
        held = searched(c, pruner="median", every=10)
        searches.add_runs(c, held.id, trials(held))
        first = trials(held)[0]
        claimed = claim_of(c, first)
        searches.prune(c, [first.key], "behind")

        def renew() -> str:
            return ledger.renew(c, run_id=claimed.run_id, fence=1, lease_seconds=9, step=4)

        def end() -> object:
            if ending == "commit":
                return builders.commit(c, claimed, accuracy=0.99, split="validation")
            if ending == "fail":
                return builders.fail(c, claimed, outcome="user_error", error="no")
            if ending == "die":
                return ledger.declare_dead(c, run_id=claimed.run_id, fence=1, reason="gone")
            return ledger.release(c, run_id=claimed.run_id, fence=1, step=4)

        assert renew() == "prune"
        answer = False if ending == "commit" else "pruned"
        assert [end(), end()] == [answer, answer]
        ended = searches.outcomes(c, [first.key])[first.key]
        assert (ended.state, ended.cause, dict(ended.results)) == ("pruned", "behind", {})
        outcomes = [attempt.outcome for attempt in answers.attempts_of(c, claimed.run_id)]
        assert outcomes == [{"fail": "user_error", "die": "died"}.get(ending, "pruned")]
        assert renew() == "lost"


def test_a_trial_that_is_done_is_never_pruned_and_one_that_was_cancelled_stays_so(store: Store) -> None:
    with store.begin() as c:
        held = searched(c, pruner="median", every=10)
        searches.add_runs(c, held.id, trials(held))
        done, stopping = trials(held)
        builders.commit(c, claim_of(c, done), accuracy=0.5, split="validation")
        claimed = claim_of(c, stopping)
        wishes.cancel(c, study_id=held.study_id)
        searches.prune(c, [done.key, stopping.key], "behind")
        assert ledger.renew(c, run_id=claimed.run_id, fence=1, lease_seconds=9, step=0) == "stop"
        assert ledger.release(c, run_id=claimed.run_id, fence=1, step=0) == "cancelled"
        assert [state(c, run) for run in (done, stopping)] == ["done", "cancelled"]
        assert searches.outcomes(c, [done.key])[done.key].results == {NAME: 0.5}


def test_a_trial_that_something_else_wants_is_not_pruned(store: Store) -> None:
    with store.begin() as c:
        held = searched(c, pruner="median", every=10)
        other = searched(c, name="other", pruner="median", every=10)
        for each in (held, other):
            searches.add_runs(c, each.id, trials(each))
        searches.prune(c, [run.key for run in trials(held)], "behind")
        assert {state(c, run) for run in trials(held)} == {"ready"}


def test_a_pruned_trial_comes_back_for_a_search_that_gives_none_up(store: Store) -> None:
    with store.begin() as c:
        held = searched(c, pruner="median", every=10)
        patient = searched(c, name="patient", every=10)
        assert [run.key for run in trials(held)] == [run.key for run in trials(patient)]
        searches.add_runs(c, held.id, trials(held))
        claimed = builders.claim(c)
        searches.prune(c, [run.key for run in trials(held)], "behind")
        searches.add_runs(c, patient.id, trials(patient))
        assert [state(c, run) for run in trials(held)] == ["running", "ready"]
        assert ledger.renew(c, run_id=claimed.run_id, fence=1, lease_seconds=9, step=0) == "continue"


def test_a_search_finds_the_trials_that_another_study_cancelled_or_did(store: Store) -> None:
    with store.begin() as c:
        held = searched(c)
        searches.add_runs(c, held.id, trials(held))
        builders.commit(c, builders.claim(c), accuracy=0.5, split="validation")
        wishes.cancel(c, study_id=held.study_id)
        other = searched(c, name="other")
        searches.add_runs(c, other.id, trials(other))
        assert [state(c, run) for run in trials(other)] == ["done", "ready"]
