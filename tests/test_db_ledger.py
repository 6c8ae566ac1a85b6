"""The life of runs in the ledger, on both databases."""

import math
from collections.abc import Callable

import pytest
from sqlalchemy import text

from db import answers, claiming, frontiers, ledger, wishes
from db.store import Connection, Store
from studies import metrics
from tests import builders
from tests.builders import Value, evaluation, fewshot, training


def state(connection: Connection, key: str) -> str:
    return answers.known(connection, [key])[key]


def expire(connection: Connection, run_id: int) -> None:
    """Let a lease run out without waiting for it."""
    connection.execute(text("UPDATE run SET lease_until = lease_until - 1000 WHERE id = :id"), {"id": run_id})


def renew(connection: Connection, claimed: claiming.Claim, step: int = 0, **more: object) -> str:
    measurements = more.get("measurements", ())
    assert isinstance(measurements, list | tuple)
    return ledger.renew(
        connection,
        run_id=claimed.run_id,
        fence=claimed.fence,
        lease_seconds=60,
        step=step,
        measurements=measurements,
    )


def checkpoint(connection: Connection, claimed: claiming.Claim, step: int) -> bool:
    return ledger.record_checkpoint(
        connection,
        run_id=claimed.run_id,
        fence=claimed.fence,
        checkpoint=f"{claimed.fence}/{step}",
        step=step,
    )


def dead(connection: Connection, claimed: claiming.Claim) -> str:
    return ledger.declare_dead(connection, run_id=claimed.run_id, fence=claimed.fence, reason="the process is gone")


def test_a_run_is_claimed_renewed_committed_and_its_evaluation_follows(store: Store) -> None:
    first = training()
    test = evaluation(first)
    with store.begin() as c:
        study = builders.submit(c, [first, test])
        claimed = builders.claim(c)
        assert (claimed.key, claimed.fence, claimed.checkpoint, claimed.checkpoint_step) == (first.key, 1, None, 0)
        assert claimed.definition == first.definition
        assert builders.try_claim(c) is None, "the evaluation waits"
        assert renew(c, claimed, 10, measurements=[(10, metrics.TRAIN_LOSS, 2.5)]) == "continue"
        assert checkpoint(c, claimed, 20)
        assert builders.commit(c, claimed)
    with store.begin() as c:
        assert state(c, first.key) == "done"
        assert state(c, test.key) == "ready"
        of_test = builders.claim(c)
        assert of_test.upstream_checkpoint == f"{first.key[:12]}/final"
        assert builders.commit(c, of_test, accuracy=0.75)
    with store.read() as c:
        (result,) = answers.results_of(c, study)
        assert (result.key, result.metric, result.value) == (test.key, "accuracy", 0.75)
        (attempt,) = answers.attempts_of(c, claimed.run_id)
        assert (attempt.outcome, attempt.numerics, attempt.last_step) == ("done", "cpu-avx2-1", 40)
        assert answers.measurements_of(c, claimed.run_id, metrics.TRAIN_LOSS) == [(10, 2.5)]
        (run,) = answers.run_named(c, first.key[:10])
        assert (run.step, run.numerics, run.owner, run.lease_until) == (40, "cpu-avx2-1", None, None)
        assert run.seconds is not None
        assert run.seconds >= 0


def test_a_dependent_becomes_ready_in_the_same_transaction_as_the_commit(store: Store) -> None:
    first = training()
    test = evaluation(first)
    with store.begin() as c:
        builders.submit(c, [first, test])
        claimed = builders.claim(c)
    with pytest.raises(ZeroDivisionError), store.begin() as c:  # noqa: PT012 - what it did is to be undone
        assert builders.commit(c, claimed)
        assert state(c, test.key) == "ready"
        raise ZeroDivisionError
    with store.begin() as c:
        assert (state(c, first.key), state(c, test.key)) == ("running", "waiting")
        assert builders.commit(c, claimed)


def test_a_run_whose_lease_ran_out_goes_to_the_next_worker(store: Store) -> None:
    with store.begin() as c:
        builders.submit(c, [training()])
        stale = builders.claim(c, owner="stale")
        checkpoint(c, stale, 20)
        assert ledger.reap(c) == []
        expire(c, stale.run_id)
        assert ledger.reap(c) == [(stale.key, 1)]
        assert ledger.reap(c) == []
        taken = builders.claim(c, owner="next")
        assert (taken.run_id, taken.fence, taken.checkpoint, taken.checkpoint_step) == (stale.run_id, 2, "1/20", 20)


def test_a_stale_worker_is_refused_and_recorded_whatever_it_writes(store: Store) -> None:
    writes: dict[str, Callable[[Connection, claiming.Claim], bool]] = {
        "renew": lambda c, old: renew(c, old, 5, measurements=[(5, "train_loss_nats", 1.0)]) == "lost",
        "checkpoint": lambda c, old: not checkpoint(c, old, 5),
        "commit": lambda c, old: not builders.commit(c, old, accuracy=0.9),
        "fail": lambda c, old: builders.fail(c, old) == "lost",
        "release": lambda c, old: ledger.release(c, run_id=old.run_id, fence=old.fence, step=1) == "lost",
    }
    for number, (name, write) in enumerate(writes.items()):
        with store.begin() as c:
            study = builders.submit(c, [training(seed=number)], name=name)
            stale = builders.claim(c, study=study)
            expire(c, stale.run_id)
            ledger.reap(c)
            taken = builders.claim(c, study=study)
            assert write(c, stale), name
            old, new = answers.attempts_of(c, stale.run_id)
            assert (old.outcome, old.refused_at is not None, new.outcome, new.refused_at) == ("lost", True, None, None)
            (run,) = answers.runs_of(c, study)
            assert (run.state, run.fence, run.checkpoint, run.step) == ("running", 2, None, 0), name
            assert answers.results_of(c, study) == []
            assert answers.measured_metrics_of(c, run.id) == []
            assert builders.commit(c, taken)


def test_a_commit_after_the_lease_is_good_as_long_as_nobody_took_the_run(store: Store) -> None:
    first = training()
    with store.begin() as c:
        builders.submit(c, [first])
        claimed = builders.claim(c)
        expire(c, claimed.run_id)
        assert renew(c, claimed, 3) == "continue"
        expire(c, claimed.run_id)
        assert builders.commit(c, claimed)
        assert ledger.reap(c) == []
        assert state(c, first.key) == "done"


def test_a_repeat_after_a_lost_acknowledgement_changes_nothing_and_answers_the_same(store: Store) -> None:
    first = training()
    test = evaluation(first)
    with store.begin() as c:
        study = builders.submit(c, [first, test])
        claimed = builders.claim(c)
        assert [renew(c, claimed, 4, measurements=[(4, "train_loss_nats", 1.5)]) for _ in range(2)] == ["continue"] * 2
        assert [checkpoint(c, claimed, 4) for _ in range(2)] == [True, True]
        assert [builders.fail(c, claimed) for _ in range(2)] == ["ready", "ready"]
        claimed = builders.claim(c)
        given_back = [ledger.release(c, run_id=claimed.run_id, fence=claimed.fence, step=4) for _ in range(2)]
        assert given_back == ["ready", "ready"]
        claimed = builders.claim(c)
        assert [dead(c, claimed) for _ in range(2)] == ["ready", "ready"]
        claimed = builders.claim(c)
        assert [builders.commit(c, claimed) for _ in range(2)] == [True, True]
        of_test = builders.claim(c)
        assert [builders.commit(c, of_test, accuracy=0.5) for _ in range(2)] == [True, True]
        (run, _) = answers.runs_of(c, study)
        assert (run.failures, run.preemptions, run.fence) == (1, 1, 4)
        assert len(answers.results_of(c, study)) == 1
        attempts = answers.attempts_of(c, run.id)
        assert [attempt.outcome for attempt in attempts] == ["unknown", "preempted", "died", "done"]
        assert [attempt.refused_at for attempt in attempts] == [None] * 4
        assert answers.measurements_of(c, run.id, "train_loss_nats") == [(4, 1.5)]


def test_a_repeated_final_failure_answers_failed_again(store: Store) -> None:
    with store.begin() as c:
        builders.submit(c, [training()])
        claimed = builders.claim(c)
        assert [builders.fail(c, claimed, outcome="not_finite") for _ in range(2)] == ["failed", "failed"]


@pytest.mark.parametrize("outcome", ["user_error", "not_finite"])
def test_an_error_that_would_come_again_is_final_at_once_and_blocks_what_depends_on_it(
    store: Store, outcome: str
) -> None:
    first = training()
    test = evaluation(first)
    with store.begin() as c:
        study = builders.submit(c, [first, test])
        answer = builders.fail(c, builders.claim(c), outcome=outcome, error="loss is nan\nmore", step=40)
        assert answer == "failed"
        failed, blocked = answers.runs_of(c, study)
        assert (failed.state, failed.cause) == ("failed", f"{outcome} at step 40: loss is nan")
        assert blocked.state == "blocked"
        assert blocked.cause == f"its training {first.key[:12]} failed: {outcome} at step 40: loss is nan"
        assert builders.try_claim(c) is None


def test_the_budget_of_failures_is_two_and_preemptions_cost_none_of_it(store: Store) -> None:
    with store.begin() as c:
        study = builders.submit(c, [training()])
        for number in range(20):
            claimed = builders.claim(c)
            assert ledger.release(c, run_id=claimed.run_id, fence=claimed.fence, step=number) == "ready"
        assert [builders.fail(c, builders.claim(c), error=f"error {n}") for n in range(3)] == [
            "ready",
            "ready",
            "failed",
        ]
        (run,) = answers.runs_of(c, study)
        assert (run.failures, run.preemptions) == (3, 20)
        assert run.cause == "unknown at step 0: error 2 (failure 3 of 2 allowed)"


def test_the_same_error_at_the_same_step_twice_is_final(store: Store) -> None:
    with store.begin() as c:
        study = builders.submit(c, [training()])
        assert builders.fail(c, builders.claim(c), error="disk full", step=7) == "ready"
        between = builders.claim(c)
        ledger.release(c, run_id=between.run_id, fence=between.fence, step=9)
        assert builders.fail(c, builders.claim(c), error="disk full", step=7) == "failed"
        (run,) = answers.runs_of(c, study)
        assert run.cause == "unknown at step 7: disk full (twice the same)"


def test_five_deaths_without_progress_are_final_and_a_checkpoint_starts_the_count_anew(store: Store) -> None:
    with store.begin() as c:
        study = builders.submit(c, [training()])
        assert [dead(c, builders.claim(c)) for _ in range(4)] == ["ready"] * 4
        progress = builders.claim(c)
        checkpoint(c, progress, 10)
        assert dead(c, progress) == "ready"
        assert [dead(c, builders.claim(c)) for _ in range(3)] == ["ready"] * 3
        assert dead(c, builders.claim(c)) == "failed"
        (run,) = answers.runs_of(c, study)
        assert run.cause == "died 5 times at step 10 without a trace; likely killed for memory"


def test_an_error_between_deaths_starts_their_count_anew(store: Store) -> None:
    with store.begin() as c:
        builders.submit(c, [training()])
        assert [dead(c, builders.claim(c)) for _ in range(4)] == ["ready"] * 4
        assert builders.fail(c, builders.claim(c)) == "ready"
        assert [dead(c, builders.claim(c)) for _ in range(4)] == ["ready"] * 4
        assert dead(c, builders.claim(c)) == "failed"


def test_a_value_that_is_not_a_finite_number_is_stored_as_null(store: Store) -> None:
    first = training()
    with store.begin() as c:
        study = builders.submit(c, [first, evaluation(first)])
        claimed = builders.claim(c)
        rows = [(1, "train_loss_nats", math.nan), (2, "train_loss_nats", math.inf), (3, "train_loss_nats", None)]
        assert renew(c, claimed, 3, measurements=rows) == "continue"
        assert answers.measurements_of(c, claimed.run_id, "train_loss_nats") == [(1, None), (2, None), (3, None)]
        builders.commit(c, claimed)
        builders.commit(c, builders.claim(c), accuracy=math.nan)
        (result,) = answers.results_of(c, study)
        assert result.value is None
        (series,) = frontiers.series_of(c, study)
        assert series.points == 0
        assert [reason for reason, _ in frontiers.excluded(c, series)] == ["not a finite number"]


def test_a_claim_takes_the_lowest_priority_number_then_the_order_of_the_study(store: Store) -> None:
    late, early, urgent = training(seed=1), training(seed=2), training(seed=3)
    with store.begin() as c:
        builders.submit(c, [early, late])
        builders.submit(c, [urgent], name="urgent", priority=-1)
        assert [builders.claim(c).key for _ in range(3)] == [urgent.key, early.key, late.key]


def test_a_claim_fits_the_place_and_the_study(store: Store) -> None:
    with store.begin() as c:
        builders.submit(c, [training(seed=1)])
        other = builders.submit(c, [training(seed=2)], name="other")
        place = {
            "owner": "a",
            "host": "h",
            "pid": 1,
            "process_started": None,
            "lease_seconds": 9.0,
            "device": "cpu",
            "numerics": "x",
        }
        assert claiming.claim(c, **place, cpus=0, gpus=0) is None  # type: ignore[arg-type]
        assert claiming.claim(c, **place, cpus=8, gpus=1) is None  # type: ignore[arg-type]
        assert builders.claim(c, study=other).key == training(seed=2).key


def test_a_cancelled_study_stops_what_runs_and_leaves_what_another_study_wants(store: Store) -> None:
    running, idle, shared = (training(seed=n) for n in range(3))
    test = evaluation(idle)
    with store.begin() as c:
        study = builders.submit(c, [running, idle, test, shared])
        builders.submit(c, [shared], name="other")
        claimed = builders.claim(c)
        assert wishes.cancel(c, study_id=study) == {"cancelled": 2, "stopping": 1}
        assert wishes.cancel(c, study_id=study) == {"cancelled": 0, "stopping": 1}
        assert [state(c, r.key) for r in (running, idle, test, shared)] == [
            "running",
            "cancelled",
            "cancelled",
            "ready",
        ]
        assert renew(c, claimed) == "stop"
        assert ledger.release(c, run_id=claimed.run_id, fence=claimed.fence, step=1) == "cancelled"
        assert ledger.release(c, run_id=claimed.run_id, fence=claimed.fence, step=1) == "cancelled"
        assert state(c, running.key) == "cancelled"
        assert answers.attempts_of(c, claimed.run_id)[0].outcome == "cancelled"
        assert wishes.requeue(c, study_id=study) == 3
        assert [state(c, r.key) for r in (running, idle, test)] == ["ready", "ready", "waiting"]


@pytest.mark.parametrize("ending", ["fails", "dies", "is reaped"])
def test_a_run_that_was_to_stop_is_cancelled_however_its_attempt_ends(store: Store, ending: str) -> None:
    first = training()
    with store.begin() as c:
        builders.submit(c, [first, evaluation(first)])
        claimed = builders.claim(c)
        wishes.cancel(c, run_ids=[claimed.run_id])
        if ending == "fails":
            assert builders.fail(c, claimed) == "cancelled"
        elif ending == "dies":
            assert dead(c, claimed) == "cancelled"
        else:
            expire(c, claimed.run_id)
            ledger.reap(c)
        assert state(c, first.key) == "cancelled"
        assert state(c, evaluation(first).key) == "blocked"
        assert wishes.requeue(c) == 2
        assert [state(c, r.key) for r in (first, evaluation(first))] == ["ready", "waiting"]


def test_a_run_that_was_to_stop_but_finished_is_done(store: Store) -> None:
    first = training()
    with store.begin() as c:
        builders.submit(c, [first])
        claimed = builders.claim(c)
        wishes.cancel(c, run_ids=[claimed.run_id])
        assert builders.commit(c, claimed)
        assert state(c, first.key) == "done"


def test_requeue_takes_back_a_stop_that_was_not_heard_yet(store: Store) -> None:
    with store.begin() as c:
        study = builders.submit(c, [training()])
        claimed = builders.claim(c)
        wishes.cancel(c, study_id=study)
        wishes.requeue(c, study_id=study)
        assert renew(c, claimed) == "continue"


def test_requeue_with_failed_gives_a_new_budget_and_unblocks_what_depends_on_it(store: Store) -> None:
    first = training()
    test = evaluation(first)
    with store.begin() as c:
        study = builders.submit(c, [first, test])
        assert [builders.fail(c, builders.claim(c), error="e", step=1) for _ in range(2)] == ["ready", "failed"]
        assert wishes.requeue(c, study_id=study) == 0
        assert [state(c, r.key) for r in (first, test)] == ["failed", "blocked"]
        assert wishes.requeue(c, study_id=study, failed=True) == 2
        assert [state(c, r.key) for r in (first, test)] == ["ready", "waiting"]
        assert builders.fail(c, builders.claim(c), error="e", step=1) == "ready", "errors before do not count"
        assert [dead(c, builders.claim(c)) for _ in range(4)] == ["ready"] * 4
        assert dead(c, builders.claim(c)) == "failed"
        wishes.requeue(c, failed=True)
        assert dead(c, builders.claim(c)) == "ready", "deaths before do not count"


def test_who_is_asked_to_yield_hears_it_with_the_next_renewal_and_the_run_is_ready_again(store: Store) -> None:
    with store.begin() as c:
        study = builders.submit(c, [training()])
        assert wishes.ask_to_yield(c, study_id=study) == 0
        claimed = builders.claim(c)
        assert wishes.ask_to_yield(c) == 1
        assert renew(c, claimed) == "yield"
        assert ledger.release(c, run_id=claimed.run_id, fence=claimed.fence, step=3) == "ready"
        assert renew(c, builders.claim(c)) == "continue"


def test_live_attempts_are_those_at_work_and_say_whether_their_lease_is_over(store: Store) -> None:
    with store.begin() as c:
        builders.submit(c, [training(seed=n) for n in range(3)])
        done, live = builders.claim(c), builders.claim(c)
        builders.commit(c, done)
        (attempt,) = ledger.live_attempts(c)
        assert attempt[:6] == (live.run_id, live.fence, "a", "here", 1, 0.0)
        assert not attempt.is_over
        expire(c, live.run_id)
        assert [attempt.is_over for attempt in ledger.live_attempts(c)] == [True]


def test_the_numerics_class_of_step_0_stays_the_one_of_the_run(store: Store) -> None:
    with store.begin() as c:
        study = builders.submit(c, [training()])
        first = builders.try_claim(c, numerics="first")
        assert first is not None
        dead(c, first)
        again = builders.try_claim(c, numerics="second")
        assert again is not None
        checkpoint(c, again, 5)
        dead(c, again)
        assert builders.try_claim(c, numerics="third") is not None
        (run,) = answers.runs_of(c, study)
        assert run.numerics == "second"


def test_only_the_mean_over_support_seeds_makes_a_series_of_few_shot_results(store: Store) -> None:
    first = training()
    few = fewshot(first)
    with store.begin() as c:
        study = builders.submit(c, [first, few])
        builders.commit(c, builders.claim(c))
        claimed = builders.claim(c)
        values = [
            Value(metrics.fewshot_accuracy(5), 0.5),
            Value(metrics.fewshot_accuracy_of_seed(5, 0), 0.4),
            Value(metrics.fewshot_accuracy_of_seed(5, 1), 0.6),
            Value("calibration", 0.1),
        ]
        assert ledger.commit(c, run_id=claimed.run_id, fence=1, values=values, checkpoint=None, step=0)
        assert [(s.kind, s.metric) for s in frontiers.series_of(c, study)] == [("fewshot", "accuracy_5shot")]
        assert len(answers.results_of(c, study)) == 4
