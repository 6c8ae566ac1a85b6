"""Submitting studies: runs once by key, links, states, and points made anew."""

import math
import statistics
import threading
import time
from dataclasses import replace

import pytest
from sqlalchemy import text

from db import answers, frontiers, ledger, studies, wishes
from db.store import Connection, Store
from tests import builders
from tests.builders import branches, evaluation, fine_tuning, training


def test_runs_are_inserted_once_and_counted_as_new_known_and_done(store: Store) -> None:
    first, second = training(seed=1), training(seed=2)
    options = {"title": "", "source": "", "shows": "", "text": "", "file": "", "cpus": 1, "gpus": 0, "priority": 0}
    with store.begin() as c:
        one = studies.submit(c, name="one", planned=[first, first], **options)  # type: ignore[arg-type]
        assert (one.new, one.known, one.done) == (1, 0, 0)
        builders.commit(c, builders.claim(c))
        two = studies.submit(c, name="two", planned=[second, first], **options)  # type: ignore[arg-type]
        assert (two.new, two.known, two.done) == (1, 1, 1)
        again = studies.submit(c, name="two", planned=[second, first], **options)  # type: ignore[arg-type]
        assert (again.study_id, again.new, again.known, again.done) == (two.study_id, 0, 2, 1)
        assert [run.key for run in answers.runs_of(c, two.study_id)] == [second.key, first.key]


def test_a_run_row_says_what_was_planned(store: Store) -> None:
    first = training(sweep="s")
    test = evaluation(first, "validation")
    with store.begin() as c:
        study = builders.submit(c, [first, test])
        train, evaluate = answers.runs_of(c, study)
    assert (train.kind, train.dataset, train.split, train.data_rows, train.steps) == (
        "train",
        "digits",
        "train",
        100,
        40,
    )
    assert (train.flops, train.train_flops, train.images) == (first.flops, first.train_flops, 2000)
    assert (evaluate.kind, evaluate.split, evaluate.upstream) == ("evaluate", "validation", first.key)
    assert (evaluate.train_flops, evaluate.flops, evaluate.data_rows) == (first.train_flops, test.flops, 100)
    assert (evaluate.model, evaluate.family, evaluate.seed, evaluate.epochs) == ("ViT-8", "ViT", 0, 20.0)


def test_a_new_list_replaces_the_old_one_and_leaves_the_runs(store: Store) -> None:
    first, second = training(seed=1), training(seed=2)
    with store.begin() as c:
        study = builders.submit(c, [first])
        assert builders.submit(c, [second]) == study
        assert [run.key for run in answers.runs_of(c, study)] == [second.key]
        assert set(answers.known(c, [first.key, second.key])) == {first.key, second.key}


def test_an_evaluation_is_ready_waiting_or_blocked_as_its_known_training_is(store: Store) -> None:
    done, waiting, failed = (training(seed=n) for n in range(3))
    with store.begin() as c:
        builders.submit(c, [done, failed, waiting])
        builders.commit(c, builders.claim(c))
        builders.fail(c, builders.claim(c), outcome="user_error", error="no")
        study = builders.submit(c, [evaluation(run) for run in (done, waiting, failed)], name="tests")
        runs = answers.runs_of(c, study)
        assert [run.state for run in runs] == ["ready", "waiting", "blocked"]
        assert runs[2].cause == f"its training {failed.key[:12]} is failed: user_error at step 0: no"


def test_a_run_that_stands_on_nothing_known_is_refused_and_nothing_is_stored(store: Store) -> None:
    with pytest.raises(ValueError, match="neither planned nor in the store"), store.begin() as c:
        builders.submit(c, [training(seed=1), evaluation(training(seed=2))])
    with pytest.raises(ValueError, match="planned before the run that it stands on"), store.begin() as c:
        builders.submit(c, [evaluation(training()), training()])
    with store.read() as c:
        assert answers.totals(c).runs == 0


def test_submitting_again_brings_cancelled_runs_back(store: Store) -> None:
    first, running = training(seed=1), training(seed=0)
    planned = [running, first, evaluation(first)]
    with store.begin() as c:
        study = builders.submit(c, planned)
        claimed = builders.claim(c)
        wishes.cancel(c, study_id=study)
        builders.submit(c, planned)
        assert [run.state for run in answers.runs_of(c, study)] == ["running", "ready", "waiting"]
        answer = ledger.renew(c, run_id=claimed.run_id, fence=claimed.fence, lease_seconds=9, step=0)
        assert answer == "continue"


def test_submitting_again_makes_a_waiting_run_more_urgent_but_never_less(store: Store) -> None:
    with store.begin() as c:
        study = builders.submit(c, [training()], priority=5)
        builders.submit(c, [training()], priority=1)
        builders.submit(c, [training()], priority=7)
        assert [run.priority for run in answers.runs_of(c, study)] == [1]


def test_a_run_keeps_its_micro_batch_once_it_has_a_checkpoint(store: Store) -> None:
    options = {"title": "", "source": "", "shows": "", "text": "", "file": "", "cpus": 1, "gpus": 0, "priority": 0}

    def wanted(c: Connection, micro_batch: int) -> int:
        found = studies.submit(c, name="tiny", planned=[training()], micro_batch=micro_batch, **options)  # type: ignore[arg-type]
        return found.study_id

    with store.begin() as c:
        study = wanted(c, 8)
        wanted(c, 16)
        assert [run.micro_batch for run in answers.runs_of(c, study)] == [16]
        claimed = builders.claim(c)
        assert claimed.micro_batch == 16
        ledger.record_checkpoint(c, run_id=claimed.run_id, fence=claimed.fence, checkpoint="x", step=1)
        ledger.release(c, run_id=claimed.run_id, fence=claimed.fence, step=1)
        wanted(c, 4)
        assert [run.micro_batch for run in answers.runs_of(c, study)] == [16]


def test_a_study_of_known_results_has_its_points_at_once(store: Store) -> None:
    first = training()
    test = evaluation(first)
    with store.begin() as c:
        builders.submit(c, [first, test])
        builders.commit(c, builders.claim(c))
        builders.commit(c, builders.claim(c), accuracy=0.75)
        study = builders.submit(c, [first, test], name="other")
        (series,) = frontiers.series_of(c, study)
        (point,) = frontiers.points_of(c, series.id)
        assert (point.value, point.cost, point.runs) == (0.75, first.train_flops, (test.key,))
        assert (point.configuration, point.training) == (test.configuration, first.configuration)
        builders.submit(c, [first], name="other")
        assert frontiers.series_of(c, study) == []


def test_seeds_are_averaged_exactly_in_whichever_order_they_finish(store: Store) -> None:
    accuracies = {0: 0.1, 1: 0.2, 2: 0.3, 3: 0.7}
    found = set()
    for number, order in enumerate([(0, 1, 2, 3), (3, 1, 0, 2), (2, 3, 1, 0)]):
        width = 8 * (number + 1)
        trainings = [training(seed=seed, width=width) for seed in order]
        with store.begin() as c:
            study = builders.submit(c, [*trainings, *(evaluation(run) for run in trainings)], name=str(number))
            for _ in trainings:
                builders.commit(c, builders.claim(c, study=study))
            for seed in order:
                builders.commit(c, builders.claim(c, study=study), accuracy=accuracies[seed])
            (series,) = frontiers.series_of(c, study)
            (point,) = frontiers.points_of(c, series.id)
            found.add((point.value, point.sd, point.seeds))
    ((mean, sd, seeds),) = found
    assert (mean, seeds) == (math.fsum(accuracies.values()) / 4, 4)
    assert sd == pytest.approx(statistics.stdev(accuracies.values()))


def test_a_point_is_the_mean_of_the_seeds_with_a_finite_value(store: Store) -> None:
    trainings = [training(seed=seed) for seed in range(3)]
    with store.begin() as c:
        study = builders.submit(c, [*trainings, *(evaluation(run) for run in trainings)])
        for _ in trainings:
            builders.commit(c, builders.claim(c))
        seen = []
        for accuracy in (math.nan, 0.5, 0.75):
            builders.commit(c, builders.claim(c), accuracy=accuracy)
            (series,) = frontiers.series_of(c, study)
            seen.append([(point.value, point.seeds, len(point.runs)) for point in frontiers.points_of(c, series.id)])
        assert seen == [[], [(0.5, 1, 1)], [(0.625, 2, 2)]]


def test_two_seeds_that_are_committed_at_once_are_both_in_the_mean(postgres_url: str) -> None:
    store = Store.open(postgres_url)
    trainings = [training(seed=seed) for seed in range(2)]
    with store.begin() as c:
        study = builders.submit(c, [*trainings, *(evaluation(run) for run in trainings)])
        for _ in trainings:
            builders.commit(c, builders.claim(c))
        claims = [builders.claim(c), builders.claim(c)]
    first_wrote = threading.Event()

    def second() -> None:
        first_wrote.wait()
        with store.begin() as c:
            builders.commit(c, claims[1], accuracy=0.75)

    thread = threading.Thread(target=second)
    thread.start()
    with store.begin() as c:
        builders.commit(c, claims[0], accuracy=0.25)
        first_wrote.set()
        time.sleep(0.3)  # the second has written its result by now and waits for the study
        assert thread.is_alive()
    thread.join()
    with store.read() as c:
        (series,) = frontiers.series_of(c, study)
        (point,) = frontiers.points_of(c, series.id)
        assert (point.value, point.seeds) == (0.5, 2)
    store.dispose()


def test_a_result_that_is_committed_while_a_study_is_submitted_gets_its_point(postgres_url: str) -> None:
    store = Store.open(postgres_url)
    first = training()
    with store.begin() as c:
        builders.submit(c, [first, evaluation(first)])
        builders.commit(c, builders.claim(c))
        claimed = builders.claim(c)
    committed = threading.Event()

    def submit() -> None:
        committed.wait()
        with store.begin() as c:
            builders.submit(c, [first, evaluation(first)], name="other")

    thread = threading.Thread(target=submit)
    thread.start()
    with store.begin() as c:
        builders.commit(c, claimed, accuracy=0.5)
        committed.set()
        time.sleep(0.3)
        assert thread.is_alive()
    thread.join()
    with store.read() as c:
        other = answers.study_named(c, "other")
        assert other is not None
        (series,) = frontiers.series_of(c, other.id)
        assert series.points == 1
    store.dispose()


def test_a_branch_starts_from_its_trunk_which_starts_from_the_shorter_one(store: Store) -> None:
    short_trunk, short, long_trunk, long = planned = branches(40, 60)
    with store.begin() as c:
        study = builders.submit(c, planned)
        runs = answers.runs_of(c, study)
        assert [run.upstream for run in runs] == [None, short_trunk.key, short_trunk.key, long_trunk.key]
        assert [run.state for run in runs] == ["ready", "waiting", "waiting", "waiting"]
        # What each spends itself; what it costs alone is the price of its point.
        assert [run.flops for run in runs] == pytest.approx([short.flops * 3, short.flops, 2 * short.flops, long.flops])
        assert [run.train_flops for run in runs[1::2]] == pytest.approx([4 * short.flops, 6 * short.flops])
        builders.commit(c, builders.claim(c))
        claimed = builders.claim(c)
        assert (claimed.key, claimed.upstream_checkpoint) == (short.key, f"{short_trunk.key[:12]}/final")
        assert answers.results_of(c, study) == []


def test_a_trunk_whose_branches_are_all_done_is_left_out(store: Store) -> None:
    short_trunk, short, long_trunk, long = branches(40, 60)
    alone, alone_long = branches(40, 60, trunks=False)
    assert (short.key, long.key) == (alone.key, alone_long.key)
    with store.begin() as c:
        builders.submit(c, [alone], name="before")
        builders.commit(c, builders.claim(c))
        study = builders.submit(c, [short_trunk, short])
        assert [run.key for run in answers.runs_of(c, study)] == [short.key]
        study = builders.submit(c, [short_trunk, short, long_trunk, long])
        assert [run.key for run in answers.runs_of(c, study)] == [
            short_trunk.key,
            short.key,
            long_trunk.key,
            long.key,
        ], "the longer trunk starts from the shorter"
        for _ in range(3):
            builders.commit(c, builders.claim(c))
        study = builders.submit(c, [short_trunk, short, long_trunk, long], name="afterwards")
        assert [run.key for run in answers.runs_of(c, study)] == [short.key, long.key]


def test_a_training_that_began_without_a_trunk_goes_on_without(store: Store) -> None:
    trunk, branch = branches(40)
    with store.begin() as c:
        builders.submit(c, branches(40, trunks=False), name="alone")
        study = builders.submit(c, [trunk, branch])
        (run,) = answers.runs_of(c, study)
        assert (run.key, run.upstream, run.state) == (branch.key, None, "ready")


def test_a_study_without_trunks_wants_the_one_that_its_known_training_starts_from(store: Store) -> None:
    short_trunk, _, long_trunk, long = branches(40, 60)
    with store.begin() as c:
        other = builders.submit(c, [short_trunk, long_trunk, long], name="other")
        wishes.cancel(c, study_id=other)
        study = builders.submit(c, branches(60, trunks=False))
        assert [(run.key, run.state) for run in answers.runs_of(c, study)] == [
            (long.key, "waiting"),
            (short_trunk.key, "ready"),
            (long_trunk.key, "waiting"),
        ]
        for _ in range(3):
            builders.commit(c, builders.claim(c, study=study))
        assert answers.totals(c, study).unfinished == 0


def test_a_trunk_that_is_a_cell_of_the_study_too_is_listed_as_a_cell(store: Store) -> None:
    trunk, branch = branches(40)
    cell = replace(trunk, role=None)
    with store.begin() as c:
        builders.submit(c, [trunk, branch, cell])
        roles = c.execute(text("SELECT key, role FROM run_summary ORDER BY position")).all()
        assert [tuple(row) for row in roles] == [(cell.key, None), (branch.key, None)]


def test_a_failed_trunk_blocks_its_branches_and_what_stands_on_them(store: Store) -> None:
    trunk, branch = branches(40)
    with store.begin() as c:
        study = builders.submit(c, [trunk, branch, evaluation(branch)])
        builders.fail(c, builders.claim(c), outcome="not_finite", error="loss is nan")
        assert [run.state for run in answers.runs_of(c, study)] == ["failed", "blocked", "blocked"]
        assert wishes.requeue(c, study_id=study, failed=True) == 3
        assert [run.state for run in answers.runs_of(c, study)] == ["ready", "waiting", "waiting"]


def test_a_new_run_of_a_cancelled_training_waits_for_it_once_that_is_wanted_again(store: Store) -> None:
    first = training()
    with store.begin() as c:
        study = builders.submit(c, [first])
        wishes.cancel(c, study_id=study)
        builders.submit(c, [first, evaluation(first)])
        assert [run.state for run in answers.runs_of(c, study)] == ["ready", "waiting"]


def test_transfers_of_a_pretraining_have_series_of_their_own_at_its_cost(store: Store) -> None:
    first = training()
    tuned = [fine_tuning(first, seed=seed) for seed in (0, 1)]
    probed = fine_tuning(first, lr_peak=0.1, transfer="probe")
    planned = [first, evaluation(first), *tuned, *map(evaluation, tuned), probed, evaluation(probed)]
    with store.begin() as c:
        study = builders.submit(c, planned)
        accuracy = {
            evaluation(run).key: value for run, value in zip([first, *tuned, probed], (1, 2, 4, 6), strict=True)
        }
        for _ in planned:
            claimed = builders.claim(c)
            builders.commit(c, claimed, accuracy=accuracy.get(claimed.key, 0) / 8 if not claimed.steps else None)
        points = {
            series.kind: [
                (point.value, point.seeds, point.cost, point.training, point.data_rows, point.epochs)
                for point in frontiers.points_of(c, series.id)
            ]
            for series in frontiers.series_of(c, study)
        }
        pretraining = (first.train_flops, 100, 20.0)
        assert points == {
            kind: [(value, seeds, pretraining[0], of.configuration, *pretraining[1:])]
            for kind, value, seeds, of in (
                ("evaluate", 0.125, 1, first),
                ("tuned", 0.375, 2, tuned[0]),
                ("probe", 0.75, 1, probed),
            )
        }
        assert answers.totals(c, study).trainings["done"] == 4


def test_a_study_of_3000_runs_is_submitted_within_seconds(store: Store) -> None:
    trainings = [training(seed=seed) for seed in range(1500)]
    planned = [run for first in trainings for run in (first, evaluation(first))]
    for run in planned:
        assert len(run.key) == len(run.configuration) == 64  # hashing is not what is timed
    start = time.perf_counter()
    with store.begin() as c:
        study = builders.submit(c, planned)
    seconds = time.perf_counter() - start
    with store.read() as c:
        assert answers.totals(c, study).states["waiting"] == 1500
    assert seconds < 5, f"{seconds:.2f} s"
