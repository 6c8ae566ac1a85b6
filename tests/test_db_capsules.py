"""A study of another store merged into this one: what comes, what stays, and what becomes of work in progress."""

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import select

from db import answers, capsules, claiming, exported, external, frontiers, laws, ledger, searches, wishes
from db.capsules import Merged
from db.exported import StudyTables
from db.laws import NewLaw
from db.store import Connection, Store, default_url
from db.tables import AttemptRow, RunRow, SearchRow, State
from studies import metrics
from studies.external import External
from studies.planned import PlannedRun
from tests import builders, searched
from tests.builders import evaluation, fine_tuning, training

FIRST, SECOND = training(seed=0), training(seed=1)
ALL = [FIRST, evaluation(FIRST), SECOND, evaluation(SECOND)]
ACCURACIES = (0.1 + 0.2, 0.7)


@pytest.fixture
def source(tmp_path: Path, sqlite_template: Path) -> Iterator[Store]:
    """The store that a capsule comes from."""
    file = tmp_path / "source" / ".vitscale" / "store.db"
    file.parent.mkdir(parents=True)
    shutil.copy(sqlite_template, file)
    opened = Store.open(default_url(tmp_path / "source"))
    yield opened
    opened.dispose()


def done(store: Store, planned: Sequence[PlannedRun] = ALL, accuracies: Sequence[float] = ACCURACIES) -> None:
    """Submit these runs, and do all: the evaluations have these accuracies in the order in which they are claimed."""
    left = list(accuracies)
    with store.begin() as connection:
        builders.submit(connection, planned)
        while (claimed := builders.try_claim(connection)) is not None:
            measure(connection, claimed, 0.5)
            builders.commit(connection, claimed, left.pop(0) if claimed.kind == "evaluate" else None)


def measure(connection: Connection, claimed: claiming.Claim, loss: float) -> None:
    if claimed.steps:
        ledger.renew(
            connection,
            run_id=claimed.run_id,
            fence=claimed.fence,
            lease_seconds=60,
            step=10,
            measurements=[(10, "loss", loss)],
        )


def tables(store: Store, study: str = "tiny") -> StudyTables:
    with store.read() as connection:
        found = answers.study_named(connection, study)
        assert found is not None
        return exported.tables_of(connection, found.id)


def merge(store: Store, capsule: StudyTables, name: str = "tiny", weights: Sequence[str] = ()) -> Merged:
    with store.begin() as connection:
        return capsules.merge(connection, capsule, name, weights)


def states(store: Store) -> dict[str, str]:
    with store.read() as connection:
        return {row.key: row.state for row in connection.execute(select(RunRow.key, RunRow.state))}


def run_of(connection: Connection, planned: PlannedRun) -> answers.Run:
    (found,) = answers.run_named(connection, planned.key)
    return found


def points(store: Store, study: str = "tiny") -> list[tuple[str, float, float | None, int]]:
    with store.read() as connection:
        found = answers.study_named(connection, study)
        assert found is not None
        (series,) = frontiers.series_of(connection, found.id)
        return [(p.model, p.value, p.sd, p.seeds) for p in frontiers.points_of(connection, series)]


# ------------------------------------------------------------------------------------------------------- what comes


def test_a_study_of_another_store_comes_whole_and_says_the_same_there(source: Store, store: Store) -> None:
    done(source)
    merged = merge(store, tables(source))
    assert (merged.new_study, merged.runs, merged.new, merged.new_done, merged.taken) == (True, 4, 4, 4, 0)
    assert tables(store) == tables(source)
    assert points(store) == points(source)


def test_a_second_import_changes_nothing(source: Store, store: Store) -> None:
    done(source)
    merge(store, tables(source))
    before = tables(store)
    merged = merge(store, tables(source))
    assert not merged.changed
    assert (merged.kept, merged.differences) == (4, ())
    assert tables(store) == before


def test_submitting_the_study_after_an_import_finds_every_run_done(source: Store, store: Store) -> None:
    done(source)
    merge(store, tables(source))
    with store.begin() as connection:
        builders.submit(connection, ALL)
        assert builders.try_claim(connection) is None
    assert set(states(store).values()) == {"done"}


def test_what_was_unfinished_there_is_cancelled_here_and_begins_anew_when_it_is_wanted(
    source: Store, store: Store
) -> None:
    with source.begin() as connection:
        builders.submit(connection, ALL)
        measure(connection, builders.claim_of(connection, FIRST), 0.5)
    merged = merge(store, tables(source))
    assert (merged.cancelled, merged.new_done) == (4, 0)
    assert set(states(store).values()) == {"cancelled"}
    with store.begin() as connection:
        assert answers.attempts_of(connection, run_of(connection, FIRST).id) == []
        builders.submit(connection, ALL)
        claimed = builders.claim_of(connection, FIRST)
        assert claimed.checkpoint is None
        assert answers.measurements_of(connection, claimed.run_id, "loss") == []


def test_what_failed_there_is_failed_here_with_its_attempts_and_can_be_tried_again(source: Store, store: Store) -> None:
    with source.begin() as connection:
        builders.submit(connection, [FIRST, evaluation(FIRST)])
        builders.fail(connection, builders.claim_of(connection, FIRST), outcome="not_finite", error="a loss of nan")
    merge(store, tables(source))
    assert states(store) == {FIRST.key: "failed", evaluation(FIRST).key: "blocked"}
    assert tables(store) == tables(source)
    with store.begin() as connection:
        assert wishes.requeue(connection, failed=True) == 2
        assert builders.claim_of(connection, FIRST).fence == 2


def test_a_run_that_is_blocked_there_is_not_blocked_by_what_is_done_here(source: Store, store: Store) -> None:
    other = evaluation(FIRST, "validation")
    done(store, [FIRST, evaluation(FIRST)])
    with source.begin() as connection:
        builders.submit(connection, [FIRST, evaluation(FIRST), other])
        builders.fail(connection, builders.claim_of(connection, FIRST), outcome="not_finite")
    merge(store, tables(source))
    assert states(store) == {FIRST.key: "done", evaluation(FIRST).key: "done", other.key: "cancelled"}


def test_trunks_come_with_what_starts_from_them(source: Store, store: Store) -> None:
    planned = builders.branches(20, 40)
    done(source, planned)
    merge(store, tables(source))
    assert tables(store) == tables(source)
    with store.read() as connection:
        assert run_of(connection, planned[3]).upstream == planned[2].key


# ------------------------------------------------------------------------------------------------------- what stays


def test_what_is_done_in_both_stays_and_each_difference_is_told(source: Store, store: Store) -> None:
    done(source)
    done(store, accuracies=(ACCURACIES[0], 0.7000000000000001))
    before = tables(store)
    merged = merge(store, tables(source))
    assert not merged.changed
    (difference,) = merged.differences
    assert (difference.key, difference.metric) == (evaluation(SECOND).key, metrics.ACCURACY)
    assert (difference.here, difference.there) == (0.7000000000000001, 0.7)
    assert tables(store) == before


def test_another_study_of_the_same_name_is_refused_and_can_be_called_otherwise(source: Store, store: Store) -> None:
    done(source)
    with store.begin() as connection:
        builders.submit(connection, [training(width=16)])
    other = replace(tables(source), study=(replace(tables(source).study[0], text="another"),))
    before = tables(store)
    with pytest.raises(ValueError, match=r"the store has another study 'tiny', with another text: .* --as NAME"):
        merge(store, other)
    assert tables(store) == before
    assert merge(store, other, "theirs").new_study
    assert points(store, "theirs") == points(source)
    assert not merge(store, other, "theirs").changed


def test_the_same_study_has_the_runs_of_both(source: Store, store: Store) -> None:
    done(source, ALL)
    done(store, ALL[:2])
    merged = merge(store, tables(source))
    assert (merged.new_study, merged.new, merged.kept, merged.added) == (False, 2, 2, 2)
    assert [link.key for link in tables(store).links] == [run.key for run in ALL]
    assert points(store) == points(source)


# ------------------------------------------------------------------------------------------------- work in progress


def test_runs_that_wait_here_take_the_results_in_every_study_that_wants_them(source: Store, store: Store) -> None:
    done(source)
    with store.begin() as connection:
        builders.submit(connection, ALL)
        builders.submit(connection, ALL, name="other")
    merged = merge(store, tables(source))
    assert (merged.taken, merged.new, merged.left) == (4, 0, ())
    assert set(states(store).values()) == {"done"}
    assert points(store) == points(store, "other") == points(source)


def test_an_attempt_at_work_has_lost_its_run_and_nothing_of_it_is_kept(source: Store, store: Store) -> None:
    done(source)
    with store.begin() as connection:
        builders.submit(connection, ALL)
        claimed = builders.claim_of(connection, FIRST)
        measure(connection, claimed, 0.9)
        ledger.record_checkpoint(connection, run_id=claimed.run_id, fence=claimed.fence, checkpoint="step-10", step=10)
    merge(store, tables(source))
    with store.begin() as connection:
        renewed = ledger.renew(connection, run_id=claimed.run_id, fence=claimed.fence, lease_seconds=60, step=20)
        assert renewed == "lost"
        assert not ledger.record_checkpoint(
            connection, run_id=claimed.run_id, fence=claimed.fence, checkpoint="step-20", step=20
        )
        assert not builders.commit(connection, claimed)
        assert builders.fail(connection, claimed) == "lost"
    with store.read() as connection:
        run = run_of(connection, FIRST)
        assert (run.state, run.owner, run.lease_until) == ("done", None, None)
        assert run.checkpoint == f"{FIRST.key[:12]}/final"
        assert answers.measurements_of(connection, run.id, "loss") == [(10, 0.5)]
        mine, theirs = answers.attempts_of(connection, run.id)
        assert (mine.outcome, theirs.outcome) == ("lost", "done")
        assert mine.refused_at is not None
        assert run.fence == theirs.fence > mine.fence == claimed.fence


def test_a_training_whose_weights_runs_wait_for_is_trained_here(source: Store, store: Store) -> None:
    done(source, [FIRST, evaluation(FIRST)])
    waiting = fine_tuning(FIRST)
    with store.begin() as connection:
        builders.submit(connection, [FIRST, evaluation(FIRST), waiting])
    merged = merge(store, tables(source))
    assert (merged.taken, merged.left) == (1, (FIRST.key,))
    assert states(store) == {FIRST.key: "ready", evaluation(FIRST).key: "done", waiting.key: "waiting"}
    with store.begin() as connection:
        builders.commit(connection, builders.claim_of(connection, FIRST))
        assert builders.claim_of(connection, waiting).upstream_checkpoint is not None


def test_a_training_that_an_open_search_stands_on_is_trained_here(source: Store, store: Store) -> None:
    done(source, [FIRST])
    with store.begin() as connection:
        builders.submit(connection, [FIRST], searches=[builders.search(FIRST)])
    assert merge(store, tables(source)).left == (FIRST.key,)
    assert states(store) == {FIRST.key: "ready"}


def test_weights_that_are_there_make_what_waits_for_them_ready(source: Store, store: Store) -> None:
    done(source, [FIRST])
    waiting = fine_tuning(FIRST)
    with store.begin() as connection:
        builders.submit(connection, [FIRST, waiting])
    merged = merge(store, tables(source), weights=[FIRST.key])
    assert (merged.taken, merged.left, merged.without_weights) == (1, (), ())
    with store.begin() as connection:
        assert builders.claim_of(connection, waiting).upstream_checkpoint == f"{FIRST.key[:12]}/final"


def test_a_training_without_weights_is_told_and_knows_where_they_would_be(source: Store, store: Store) -> None:
    done(source)
    merged = merge(store, tables(source), weights=[SECOND.key])
    assert merged.without_weights == (FIRST.key,)
    with store.begin() as connection:
        builders.submit(connection, [FIRST, fine_tuning(FIRST)])
        assert builders.claim(connection).upstream_checkpoint == f"{FIRST.key[:12]}/final"


def test_two_imports_at_once_are_as_one(source: Store, postgres_url: str) -> None:
    import threading

    done(source)
    capsule = tables(source)
    target = Store.open(postgres_url)
    found: list[Merged] = []
    threads = [threading.Thread(target=lambda: found.append(merge(target, capsule))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(merged.new for merged in found) == [0, 0, 4]
    assert tables(target) == capsule
    target.dispose()


# ------------------------------------------------------------------------------------------- imported results and laws

PUBLISHED = External(
    place="table.csv:2",
    kind="evaluate",
    metric="accuracy",
    dataset="digits",
    split="test",
    image_size=8,
    family="ViT",
    model="ViT-theirs",
    seed=0,
    value=0.9,
    train_flops=1e18,
    device_seconds=None,
    money=None,
    images=None,
    forward_flops=None,
    parameters=None,
    data_rows=None,
    epochs=None,
)


def test_imported_results_and_laws_come_with_the_study(source: Store, store: Store) -> None:
    done(source)
    with source.begin() as connection:
        external.store(connection, "tiny", [PUBLISHED], title="", source="")
        study = answers.study_named(connection, "tiny")
        assert study is not None
        names = {"kind": "evaluate", "metric": "accuracy", "dataset": "digits", "split": "test", "image_size": 8}
        bound = {"key": "a" * 64, "points_digest": "b" * 64, "form": "power", "family": None}
        laws.store(connection, study.id, NewLaw(**names, **bound, answer="{}", draws="[]"))  # type: ignore[arg-type]
    merge(store, tables(source))
    assert tables(store) == tables(source)
    assert "ViT-theirs" in [model for model, *_ in points(store)]
    assert not merge(store, tables(source)).changed


def test_an_imported_result_that_contradicts_one_here_stops_the_import(source: Store, store: Store) -> None:
    done(source)
    with source.begin() as connection:
        external.store(connection, "tiny", [PUBLISHED], title="", source="")
    done(store)
    with store.begin() as connection:
        other = replace(PUBLISHED, value=0.8, place="other.csv:7")
        external.store(connection, "tiny", [other], title="", source="")
    before = tables(store)
    with pytest.raises(ValueError, match=r"but other.csv:7 in the store says .*: take that out first"):
        merge(store, tables(source))
    assert tables(store) == before


# ------------------------------------------------------------------------------------------------------------ searches


def decided(store: Store) -> None:
    with store.begin() as connection:
        held = builders.searched(connection)
        searches.add_runs(connection, held.id, builders.trials(held))
    searched.work(store, searched.best_at(3e-3))
    with store.begin() as connection:
        builders.decide(connection, held)
    searched.work(store, searched.best_at(3e-3))


def test_a_search_comes_with_its_choice_and_the_runs_that_measured_it(source: Store, store: Store) -> None:
    decided(source)
    merge(store, tables(source))
    assert tables(store) == tables(source)
    assert tables(store).searches[0].chosen == '{"lr_peak":0.003}'


def test_an_open_search_here_takes_the_choice_from_there(source: Store, store: Store) -> None:
    decided(source)
    with store.begin() as connection:
        held = builders.searched(connection)
        assert searches.hold(connection, held.id, "a driver", 60)
    merged = merge(store, tables(source))
    assert merged.changed
    with store.begin() as connection:
        row = connection.execute(select(SearchRow)).one()
        assert (row.state, row.owner, row.lease_until) == ("decided", None, None)
        assert not searches.hold(connection, held.id, "a driver", 60)
    assert not merge(store, tables(source)).changed


def test_an_open_search_there_is_cancelled_here_and_named_after_its_new_study(source: Store, store: Store) -> None:
    with source.begin() as connection:
        builders.searched(connection)
    merge(store, tables(source), "theirs")
    (search,) = tables(store, "theirs").searches
    assert search.state == "cancelled"
    assert search.optuna_study == "theirs" + tables(source).searches[0].optuna_study.removeprefix("tiny")


def test_no_attempt_of_a_lost_lease_is_left_open(source: Store, store: Store) -> None:
    done(source)
    with store.begin() as connection:
        builders.submit(connection, ALL)
        builders.claim_of(connection, FIRST)
    merge(store, tables(source))
    with store.read() as connection:
        assert ledger.live_attempts(connection) == []
        open_ended = select(AttemptRow).where(AttemptRow.outcome.is_(None))
        assert connection.execute(open_ended).all() == []
        assert State.RUNNING not in states(store).values()
