"""Searches in the store: leases, trials that are added once, and a choice that is made once."""

import threading
import time

import pytest
from sqlalchemy import text

from db import answers, ledger, searches, sweeps, wishes
from db.store import Connection, Store
from studies import metrics
from studies.planned import PlannedRun
from tests import builders
from tests.builders import claim_of, decide, evaluation, search, searched, training, trials

LRS = (1e-3, 3e-3)
NAME = ("accuracy", "digits", "validation")


def links(connection: Connection) -> list[tuple[object, ...]]:
    query = text("SELECT study_id, run_id, position, sweep, searched, role, transfer FROM study_run ORDER BY 1, 3")
    return [tuple(row) for row in connection.execute(query)]


def state(connection: Connection, planned: PlannedRun) -> str:
    return answers.known(connection, [planned.key])[planned.key]


def test_a_search_is_stored_with_its_pretraining_and_read_back_whole(store: Store) -> None:
    with store.begin() as c:
        first, second = training(seed=0), training(seed=1)
        planned = [search(first, LRS), search(second, LRS, tasks=2)]
        study = builders.submit(c, [first, second], searches=planned)
        found = searches.undecided(c, study)
        assert [each.planned.search for each in found] == [each.search for each in planned]
        assert [each.key for each in found] == [each.key for each in planned]
        assert [run.key for run in found[1].planned.trial_runs({"lr_peak": 1e-3})] == [
            run.key for run in planned[1].trial_runs({"lr_peak": 1e-3})
        ]
        assert {(each.state, each.upstream_state, each.study, each.transfer) for each in found} == {
            ("open", "ready", "tiny", "searched")
        }
        assert len({each.optuna_study for each in found}) == 2
        assert found[0].optuna_study == f"tiny/searched/ViT-8 @ digits/{planned[0].key[:12]}"
        assert searches.undecided(c, study + 1) == []


def test_a_search_on_a_run_that_nobody_knows_is_refused_and_nothing_is_stored(store: Store) -> None:
    with pytest.raises(ValueError, match="the search ViT-8 @ digits stands on run"), store.begin() as c:
        builders.submit(c, [training(seed=1)], searches=[search(training(seed=0))])
    with store.read() as c:
        assert answers.totals(c).runs == 0


def test_of_two_owners_one_holds_a_search_until_it_lets_go_or_its_lease_is_over(store: Store) -> None:
    with store.begin() as c:
        held = searched(c)
        assert searches.hold(c, held.id, "a", 60)
        assert searches.hold(c, held.id, "a", 60), "its own lease is prolonged"
        assert not searches.hold(c, held.id, "b", 60)
        searches.let_go(c, held.id, "b")
        assert searches.owners(c) == [(held.id, "a")]
        searches.let_go(c, held.id, "a")
        assert searches.hold(c, held.id, "b", -1)
        assert searches.hold(c, held.id, "b", -1), "nobody took it: it is prolonged late"
        assert searches.hold(c, held.id, "c", 60)
        assert not searches.hold(c, held.id, "b", 60)
        searches.free(c, held.id, "b")
        assert searches.owners(c) == [(held.id, "c")]
        searches.free(c, held.id, "c")
        assert searches.owners(c) == []


def test_two_drivers_that_take_a_search_at_once_do_not_both_have_it(store: Store) -> None:
    with store.begin() as c:
        held = searched(c)
    taken: list[str] = []
    go = threading.Barrier(8)

    def take(owner: str) -> None:
        go.wait()
        with store.begin() as c:
            if searches.hold(c, held.id, owner, 60):
                taken.append(owner)

    threads = [threading.Thread(target=take, args=(str(n),)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with store.read() as c:
        assert searches.owners(c) == [(held.id, owner) for owner in taken]
    assert len(taken) == 1


def test_trials_are_added_once_after_the_runs_of_the_study(store: Store) -> None:
    with store.begin() as c:
        held = searched(c)
        searches.add_runs(c, held.id, trials(held)[:1])
        once = links(c)
        searches.add_runs(c, held.id, trials(held)[:1])
        assert links(c) == once
        searches.add_runs(c, held.id, trials(held))
        searches.add_runs(c, held.id, trials(held))
        rows = links(c)
        assert [row[2] for row in rows] == [0, 1, 2]
        assert [row[3:] for row in rows[1:]] == [(held.key, f'{{"lr_peak":{lr}}}', "trial", "searched") for lr in LRS]
        runs = answers.runs_of(c, held.study_id)
        assert [run.key for run in runs[1:]] == [run.key for run in trials(held)]
        assert {(run.kind, run.state, run.upstream, run.cpus) for run in runs[1:]} == {
            ("finetune", "ready", training().key, 1)
        }
        claimed = claim_of(c, trials(held)[0])
        assert claimed.upstream_checkpoint == f"{training().key[:12]}/final"


def test_two_drivers_that_add_the_same_trials_at_once_add_them_once(store: Store) -> None:
    with store.begin() as c:
        held = searched(c)
    go = threading.Barrier(4)

    def add() -> None:
        go.wait()
        with store.begin() as c:
            searches.add_runs(c, held.id, trials(held))

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with store.read() as c:
        assert [run.key for run in answers.runs_of(c, held.study_id)][1:] == [run.key for run in trials(held)]
        assert [row[2] for row in links(c)] == [0, 1, 2]


def test_outcomes_and_courses_tell_what_became_of_trials(store: Store) -> None:
    with store.begin() as c:
        held = searched(c)
        first, second = trials(held)
        assert searches.outcomes(c, [first.key]) == {}
        searches.add_runs(c, held.id, trials(held))
        claimed = claim_of(c, first)
        watched = metrics.watched("accuracy", "digits", "validation")
        measured = [(10, watched, 0.25), (5, watched, 0.125), (15, watched, float("nan")), (10, "other", 9.0)]
        ledger.renew(c, run_id=claimed.run_id, fence=1, lease_seconds=9, step=15, measurements=measured)
        builders.fail(c, builders.claim(c), outcome="user_error", error="no")
        found = searches.outcomes(c, [first.key, second.key, "0" * 64])
        assert {key: (end.state, end.cause, end.step, dict(end.results)) for key, end in found.items()} == {
            first.key: ("running", None, 15, {}),
            second.key: ("failed", "user_error at step 0: no", 0, {}),
        }
        assert searches.courses(c, [first.key, second.key], watched) == {
            first.key: [(5, 0.125), (10, 0.25)],
            second.key: [],
        }
        builders.commit(c, claimed, accuracy=0.5, split="validation")
        assert searches.outcomes(c, [first.key])[first.key].results == {NAME: 0.5}


def test_a_choice_is_made_once_together_with_the_runs_that_measure_it(store: Store) -> None:
    with store.begin() as c:
        held = searched(c)
        searches.add_runs(c, held.id, trials(held))
        searches.hold(c, held.id, "a", 60)
        decide(c, held)
        once = links(c)
        decide(c, held)
        decide(c, held, lr=1e-3, development=0.5)
        searches.add_runs(c, held.id, held.planned.trial_runs({"lr_peak": 1.0}))
        searches.fail(c, held.id, "too late")
        assert links(c) == once
        assert [row[5] for row in once] == [None, "trial", "trial", *["final"] * 6]
        assert searches.undecided(c, None) == []
        assert searches.owners(c) == []
        (sweep,) = sweeps.of_study(c, held.study_id)
        assert (sweep.search.state, sweep.chosen, sweep.development) == ("decided", {"lr_peak": 3e-3}, 0.75)
        assert sweep.edge == {"lr_peak": "high"}


def test_a_choice_that_is_undone_half_way_leaves_neither_choice_nor_runs(store: Store) -> None:
    with store.begin() as c:
        held = searched(c)

    def die_before_the_commit() -> None:
        with store.begin() as c:
            decide(c, held)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        die_before_the_commit()
    with store.read() as c:
        assert [each.id for each in searches.undecided(c, None)] == [held.id]
        assert answers.totals(c).runs == 1


def test_a_study_that_is_submitted_again_keeps_its_trials_and_choices_until_it_no_longer_wants_them(
    store: Store,
) -> None:
    first, other = training(), training(seed=1)
    with store.begin() as c:
        held = searched(c)
        searches.add_runs(c, held.id, trials(held))
        study = builders.submit(c, [first, evaluation(first)], searches=[search(other), held.planned][1:])
        assert [(run.key, run.kind) for run in answers.runs_of(c, study)] == [
            (first.key, "train"),
            (evaluation(first).key, "evaluate"),
            *((run.key, "finetune") for run in trials(held)),
        ]
        assert [each.id for each in searches.undecided(c, study)] == [held.id]
        decide(c, held)
        decided = links(c)
        builders.submit(c, [first, evaluation(first)], searches=[held.planned])
        assert links(c) == decided
        assert searches.undecided(c, study) == []

        renamed = search(first, LRS, transfer="renamed")
        builders.submit(c, [first], searches=[renamed, search(first, (0.1,))])
        assert {row[6] for row in links(c)[1:]} == {"renamed"}
        assert [each.planned.search.space for each in searches.undecided(c, study)] == [{"lr_peak": (0.1,)}]

        builders.submit(c, [first])
        assert [run.key for run in answers.runs_of(c, study)] == [first.key]
        assert sweeps.of_study(c, study) == []
        assert [run.state for run in answers.run_named(c, trials(held)[0].key)] == ["ready"], "the runs stay"


def test_cancelling_a_study_cancels_its_searches_and_submitting_or_requeueing_opens_them(store: Store) -> None:
    with store.begin() as c:
        held = searched(c)
        searches.add_runs(c, held.id, trials(held))
        for how in ("submit", "requeue"):
            wishes.cancel(c, study_id=held.study_id)
            assert searches.undecided(c, None) == []
            searches.add_runs(c, held.id, held.planned.trial_runs({"lr_peak": 1.0}))
            assert [state(c, run) for run in trials(held)] == ["cancelled", "cancelled"]
            if how == "submit":
                builders.submit(c, [training()], searches=[held.planned])
            else:
                wishes.requeue(c, study_id=held.study_id)
            assert len(searches.undecided(c, None)) == 1
            assert [run.state for run in answers.runs_of(c, held.study_id)] == ["done", "ready", "ready"]


def test_a_search_that_failed_is_open_again_when_what_failed_is_requeued(store: Store) -> None:
    with store.begin() as c:
        held = searched(c)
        searches.add_runs(c, held.id, trials(held))
        for _ in LRS:
            builders.fail(c, builders.claim(c), outcome="user_error", error="no")
        searches.fail(c, held.id, "no trial came to an end")
        assert answers.totals(c).searches_failed == 1
        wishes.requeue(c, study_id=held.study_id)
        assert searches.undecided(c, None) == []
        wishes.requeue(c, study_id=held.study_id, failed=True)
        assert [each.state for each in searches.undecided(c, None)] == ["open"]
        assert [state(c, run) for run in trials(held)] == ["ready", "ready"]


def test_totals_count_open_searches_only_while_they_can_move(store: Store) -> None:
    first = training()
    with store.begin() as c:
        held = searched(c, is_done=False)
        study = held.study_id

        def counts() -> tuple[int, int, int]:
            totals = answers.totals(c, study)
            assert totals == answers.totals(c)
            return totals.searches_open, totals.searches_stuck, totals.searches_decided

        assert counts() == (1, 0, 0)
        builders.fail(c, builders.claim(c), outcome="user_error", error="no")
        assert counts() == (0, 1, 0)
        (found,) = searches.undecided(c, study)
        assert (found.upstream_state, found.upstream_cause) == ("failed", "user_error at step 0: no")
        wishes.requeue(c, study_id=study, failed=True)
        assert counts() == (1, 0, 0)
        builders.commit(c, builders.claim(c))
        searches.add_runs(c, held.id, trials(held))
        assert counts() == (1, 0, 0)
        wishes.cancel(c, run_ids=[run.id for run in answers.run_named(c, trials(held)[0].key)])
        assert counts() == (0, 1, 0), "its trial waits to be wanted again"
        builders.submit(c, [first], searches=[held.planned])
        assert counts() == (1, 0, 0)
        decide(c, held)
        assert counts() == (0, 0, 1)


def test_a_study_of_many_searches_asks_for_them_in_milliseconds(store: Store) -> None:
    trainings = [training(seed=seed) for seed in range(50)]
    with store.begin() as c:
        builders.submit(c, trainings, searches=[search(run, LRS) for run in trainings])
        assert len(searches.undecided(c, None)) == 50
        start = time.perf_counter()
        assert len(searches.undecided(c, None)) == 50
        assert time.perf_counter() - start < 0.5
