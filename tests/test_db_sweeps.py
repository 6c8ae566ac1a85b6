"""What became of a search, as `sweeps`, the view and the points of its transfer tell it."""

import statistics

import pytest
from sqlalchemy import text

from db import frontiers, searches, sweeps
from db.searches import HeldSearch
from db.store import Connection, Store
from tests import builders
from tests.builders import decide, searched, training, trials


def decided_study(connection: Connection) -> tuple[HeldSearch, list[float]]:
    """A search of two tasks that chose 3e-3, with three seeds of each measured but the last."""
    held = searched(connection, tasks=2)
    searches.add_runs(connection, held.id, trials(held))
    for accuracy in (0.5, 0.25, 0.75, 1.0):
        builders.commit(connection, builders.claim(connection), accuracy=accuracy, split="validation")
    decide(connection, held, development=0.875)
    accuracies = []
    for number in range(5):
        builders.commit(connection, builders.claim(connection))
        accuracies.append(0.5 + 0.0625 * number)
        builders.commit(connection, builders.claim(connection), accuracy=accuracies[-1])
    return held, accuracies


def test_a_sweep_shows_its_grid_its_choice_and_what_that_was_measured_at(store: Store) -> None:
    with store.begin() as c:
        held, accuracies = decided_study(c)
        (sweep,) = sweeps.of_study(c, held.study_id)
        assert (sweep.model, sweep.tasks) == ("ViT-8", ("digits", "digits"))
        assert [(each.params["lr_peak"], each.state, each.values, each.value) for each in sweep.tried] == [
            (1e-3, "done", (0.5, 0.25), 0.375),
            (3e-3, "done", (0.75, 1.0), 0.875),
        ]
        assert sweep.finals == {"done": 10, "ready": 1, "waiting": 1}
        assert [dict(each.values) for each in sweep.measured] == [
            dict(zip((0, 1, 2), accuracies[:3], strict=True)),
            dict(zip((0, 1), accuracies[3:], strict=True)),
        ]
        first, second = sweep.measured
        assert (first.metric, first.dataset, first.split, first.image_size) == ("accuracy", "digits", "test", 8)
        assert first.mean == pytest.approx(statistics.fmean(accuracies[:3]))
        assert first.sd == pytest.approx(statistics.stdev(accuracies[:3]))
        assert second.sd == pytest.approx(statistics.stdev(accuracies[3:]))


def test_a_sweep_shows_points_without_runs_and_what_was_tried_beyond_the_grid(store: Store) -> None:
    with store.begin() as c:
        held = searched(c)
        searches.add_runs(c, held.id, trials(held)[:1])
        searches.add_runs(c, held.id, held.planned.trial_runs({"lr_peak": 0.01}))
        builders.fail(c, builders.claim(c), outcome="user_error", error="no")
        (sweep,) = sweeps.of_study(c, held.study_id)
        assert [(each.params["lr_peak"], each.state, each.is_beyond, each.cause) for each in sweep.tried] == [
            (1e-3, "failed", False, "user_error at step 0: no"),
            (3e-3, "untried", False, None),
            (0.01, "ready", True, None),
        ]
        assert (sweep.chosen, sweep.measured, sweep.finals) == (None, (), {})


def test_the_view_sweep_best_has_a_row_for_each_task_of_a_search_that_has_chosen(store: Store) -> None:
    with store.begin() as c:
        held, accuracies = decided_study(c)
        searched(c, name="undecided", seed=5)
        rows = c.execute(text("SELECT * FROM sweep_best ORDER BY test_value")).all()
        runs = [run for run in held.planned.final_runs({"lr_peak": 3e-3}) if run.run.kind == "finetune"]
        assert [row.configuration for row in rows] == [runs[0].configuration, runs[3].configuration]
        assert {(row.study, row.sweep, row.dataset, row.image_size, row.model) for row in rows} == {
            ("tiny", held.key, "digits", 8, "ViT-8")
        }
        assert {(row.searched, row.edge, row.candidates, row.development_value, row.cost) for row in rows} == {
            ('{"lr_peak":0.003}', '{"lr_peak":"high"}', 2, 0.875, training().train_flops)
        }
        assert [bool(row.extended) for row in rows] == [False, False]
        assert [row.seeds for row in rows] == [3, 2]
        for row, values in zip(rows, (accuracies[:3], accuracies[3:]), strict=True):
            assert row.test_value == pytest.approx(statistics.fmean(values))
            assert row.test_sd == pytest.approx(statistics.stdev(values))


def test_what_measures_a_choice_makes_points_of_its_transfer_and_trials_make_none(store: Store) -> None:
    with store.begin() as c:
        held, accuracies = decided_study(c)
        (series,) = frontiers.series_of(c, held.study_id)
        assert (series.kind, series.metric, series.dataset, series.split) == ("searched", "accuracy", "digits", "test")
        by_seeds = {point.seeds: point for point in frontiers.points_of(c, series.id)}
        finals = held.planned.final_runs({"lr_peak": 3e-3})
        assert by_seeds[3].value == pytest.approx(statistics.fmean(accuracies[:3]))
        assert (by_seeds[3].cost, by_seeds[3].training) == (training().train_flops, finals[0].configuration)
        assert by_seeds[3].runs == tuple(run.key for run in finals[1:6:2])
        assert frontiers.excluded(c, series) == [("not finished", [finals[-1].key])]


def test_a_choice_whose_runs_another_study_did_has_its_points_at_once(store: Store) -> None:
    with store.begin() as c:
        held = searched(c)
        decide(c, held)
        for _ in range(3):
            builders.commit(c, builders.claim(c))
            builders.commit(c, builders.claim(c), accuracy=0.5)
        other = searched(c, name="other")
        decide(c, other)
        (series,) = frontiers.series_of(c, other.study_id)
        (point,) = frontiers.points_of(c, series.id)
        assert (point.value, point.seeds) == (0.5, 3)
