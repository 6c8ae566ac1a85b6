"""What the store answers: frontiers against brute force, totals, exclusions, and the same from the views."""

import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import insert, text

from db import answers, frontiers, ledger, wishes
from db.store import Connection, Store
from db.tables import PointRow, SeriesRow, StudyRow
from db.views import frontier_rows
from studies import metrics
from tests import builders
from tests.builders import evaluation, fewshot, training

CloudPoint = tuple[str, float, float]
"""family, cost, quality."""


def cloud(connection: Connection, points: Sequence[CloudPoint], name: str = "cloud", metric: str = "accuracy") -> int:
    """A series of these points, named in the order given; its id."""
    study = connection.execute(
        insert(StudyRow)
        .values(name=name, title="", source="", shows="", text="", file="", submitted_at=0)
        .returning(StudyRow.id)
    ).scalar_one()
    direction = metrics.direction(metric)
    series = connection.execute(
        insert(SeriesRow)
        .values(
            study_id=study,
            kind="evaluate",
            metric=metric,
            dataset="digits",
            split="test",
            image_size=8,
            direction=direction,
        )
        .returning(SeriesRow.id)
    ).scalar_one()
    rows = [
        {
            "series_id": series,
            "configuration": f"{number:064x}",
            "training": f"{number:064x}",
            "family": family,
            "model": f"{family}-{number}",
            "cost": cost,
            "quality": quality,
            "value": direction * quality,
            "sd": None,
            "seeds": 1,
            "epochs": 1.0,
            "data_rows": 1,
            "parameters": 1,
            "sweep": None,
            "searched": None,
        }
        for number, (family, cost, quality) in enumerate(points)
    ]
    if rows:
        connection.execute(insert(PointRow), rows)
    return int(series)


def brute_force(points: Sequence[CloudPoint]) -> list[tuple[str, float, float, tuple[str, ...]]]:
    """By the definition: nobody is at most as dear and at least as good, and strictly better in one."""
    best: dict[tuple[float, float], list[int]] = {}
    for number, (_, cost, quality) in enumerate(points):
        if not any(c <= cost and q >= quality and (c < cost or q > quality) for _, c, q in points):
            best.setdefault((cost, quality), []).append(number)
    return [
        (f"{first:064x}", cost, quality, tuple(f"{other:064x}" for other in others))
        for (cost, quality), (first, *others) in sorted(best.items())
    ]


def plain(points: Sequence[frontiers.FrontierPoint]) -> list[tuple[str, float, float, tuple[str, ...]]]:
    return [(point.configuration, point.cost, point.quality, point.same) for point in points]


def view_rows(connection: Connection, study: str) -> list[Any]:
    query = text("SELECT family, configuration, cost, pooled FROM frontier WHERE study = :study")
    return sorted(tuple(row) for row in connection.execute(query, {"study": study}))


# Few distinct values, so that ties and exact duplicates are common.
clouds = st.lists(
    st.tuples(
        st.sampled_from(["Hybrid", "ResNet", "ViT"]),
        st.sampled_from([1.0, 1.5, 2.0, 1e18, 1e20]) | st.floats(1, 9),
        st.sampled_from([0.0, 0.25, 0.5, 1.0]) | st.floats(0, 1),
    ),
    max_size=40,
)


class _Undo(Exception):
    """Leaves a transaction without a trace."""


@given(points=clouds)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_frontier_is_the_one_of_its_definition_pooled_by_family_and_in_the_view(
    store: Store, points: list[CloudPoint]
) -> None:
    with pytest.raises(_Undo), store.begin() as c:  # noqa: PT012 - each example starts with an empty store
        series = cloud(c, points)
        cloud(c, [("ViT", 0.5, 2.0)], name="another study")
        pooled = frontiers.frontier(c, series)
        by_family = frontiers.frontier(c, series, by_family=True)
        assert plain(pooled) == brute_force(points)
        expected = []
        for family in ("Hybrid", "ResNet", "ViT"):
            # The others are put out of the way at a price that nobody beats, so that numbers stay.
            alone = [p if p[0] == family else (p[0], 1e300 + 1e290 * n, -1.0) for n, p in enumerate(points)]
            expected += [point for point in brute_force(alone) if point[1] < 1e299]
        assert plain(by_family) == expected
        rows = view_rows(c, "cloud")
        assert {row[1] for row in rows if row[3]} == {name for p in pooled for name in (p.configuration, *p.same)}
        assert {row[1] for row in rows} == {name for p in by_family for name in (p.configuration, *p.same)}
        raise _Undo


def test_a_tie_in_quality_keeps_the_cheapest_and_exact_duplicates_are_one_point(store: Store) -> None:
    with store.begin() as c:
        points = [("ViT", 2.0, 0.5), ("ViT", 1.0, 0.5), ("ResNet", 1.0, 0.5), ("ResNet", 1.0, 0.4), ("ViT", 3.0, 0.6)]
        series = cloud(c, points)
        first, last = frontiers.frontier(c, series)
        assert (first.cost, first.quality, first.configuration[-1], [s[-1] for s in first.same]) == (
            1.0,
            0.5,
            "1",
            ["2"],
        )
        assert (last.cost, last.quality, last.same) == (3.0, 0.6, ())
        assert [(p.family, p.cost) for p in frontiers.frontier(c, series, by_family=True)] == [
            ("ResNet", 1.0),
            ("ViT", 1.0),
            ("ViT", 3.0),
        ]


def test_less_of_a_loss_is_better_on_its_frontier(store: Store) -> None:
    with store.begin() as c:
        series = cloud(c, [("ViT", 1.0, -2.0), ("ViT", 2.0, -3.0), ("ViT", 3.0, -1.0)], metric=metrics.LOSS)
        assert [(point.cost, point.value) for point in frontiers.frontier(c, series)] == [(1.0, 2.0), (3.0, 1.0)]


def test_the_frontier_looks_at_its_index_only(store: Store) -> None:
    points = [(family, float(n), float(n % 97)) for n in range(3000) for family in ("ResNet", "ViT")]
    with store.begin() as c:
        series = cloud(c, points)
        c.execute(text("ANALYZE"))
        explain = "EXPLAIN QUERY PLAN" if store.dialect == "sqlite" else "EXPLAIN"
        query = frontier_rows(store.dialect, "WHERE s.id = :series_id")
        rows = c.execute(text(f"{explain} {query}"), {"series_id": series}).all()
        plan = "\n".join(str(row[-1]) for row in rows)
    if store.dialect == "sqlite":
        jumps = "SEARCH n USING COVERING INDEX point_frontier (series_id=? AND family=? AND cost>?)"
        assert jumps in plan, plan
        assert "SCAN p" not in plan
    else:
        assert "Index Only Scan using point_frontier on point n" in plan, plan
        assert "Seq Scan on point" not in plan


def test_the_standing_frontier_looks_at_the_index_of_leaders_only(store: Store) -> None:
    points = [(family, float(n), float(n % 97)) for n in range(3000) for family in ("ResNet", "ViT")]
    with store.begin() as c:
        cloud(c, points)
        c.execute(text("ANALYZE"))
        explain = "EXPLAIN QUERY PLAN" if store.dialect == "sqlite" else "EXPLAIN"
        for query in ("FROM frontier WHERE study = 'cloud'", "FROM point WHERE leads AND series_id = 1"):
            plan = "\n".join(str(row[-1]) for row in c.execute(text(f"{explain} SELECT cost {query}")))
            assert "point_leads" in plan, plan
            assert "point_frontier" not in plan
            assert "Seq Scan on point" not in plan


def study_with_one_of_each(connection: Connection) -> tuple[int, dict[str, str]]:
    """A study whose evaluations are in all states; the key of each by its state."""
    trainings = [training(seed=0, width=8 * (n + 1)) for n in range(6)]
    tests = [evaluation(run) for run in trainings]
    study = builders.submit(connection, [*trainings, *tests])
    claims = [builders.claim(connection) for _ in trainings]
    for claimed in claims[:4]:
        builders.commit(connection, claimed)
    builders.fail(connection, claims[4], outcome="not_finite", error="loss is nan", step=3)
    done, not_finite, failed, cancelled = (builders.claim(connection) for _ in range(4))
    builders.commit(connection, done, accuracy=0.5)
    builders.commit(connection, not_finite, accuracy=float("nan"))
    builders.fail(connection, failed, outcome="user_error", error="no")
    ledger.release(connection, run_id=cancelled.run_id, fence=cancelled.fence, step=0)
    wishes.cancel(connection, run_ids=[cancelled.run_id])
    names = ("done", "not a finite number", "failed", "cancelled", "blocked", "not finished")
    return study, dict(zip(names, (test.key for test in tests), strict=True))


def test_what_is_left_out_of_a_series_is_listed_with_its_reason(store: Store) -> None:
    with store.begin() as c:
        study, keys = study_with_one_of_each(c)
        (series,) = frontiers.series_of(c, study)
        left_out = frontiers.excluded(c, series)
        assert left_out == [
            (reason, [keys[reason]])
            for reason in ("failed", "blocked", "cancelled", "not finished", "not a finite number")
        ]
        (point,) = frontiers.frontier(c, series.id)
        assert point.runs == (keys["done"],)
        c.execute(text("UPDATE run SET train_flops = NULL WHERE key = :key"), {"key": keys["done"]})
        assert frontiers.excluded(c, series)[-1] == ("no known cost", [keys["done"]])


def test_a_few_shot_series_leaves_out_only_runs_that_would_measure_it(store: Store) -> None:
    first = training()
    five, ten = fewshot(first, shots=(5,)), fewshot(first, shots=(10,))
    with store.begin() as c:
        study = builders.submit(c, [first, five, ten, fewshot(training(seed=1), shots=(5,)), training(seed=1)][:3])
        builders.commit(c, builders.claim(c))
        claimed = builders.claim(c)
        value = builders.Value(metrics.fewshot_accuracy(5), 0.5)
        ledger.commit(c, run_id=claimed.run_id, fence=1, values=[value], checkpoint=None, step=0)
        (series,) = frontiers.series_of(c, study)
        assert frontiers.excluded(c, series) == []


def test_totals_count_states_and_work_done_by_the_share_of_steps(store: Store) -> None:
    first, second = training(seed=1), training(seed=2)
    with store.begin() as c:
        study = builders.submit(c, [first, second, evaluation(first)])
        builders.submit(c, [training(seed=3)], name="other")
        builders.commit(c, builders.claim(c, study=study))
        half = builders.claim(c, study=study)
        ledger.renew(c, run_id=half.run_id, fence=1, lease_seconds=9, step=20)
        totals = answers.totals(c, study)
        assert {state: n for state, n in totals.states.items() if n} == {"done": 1, "running": 1, "ready": 1}
        assert {state: n for state, n in totals.trainings.items() if n} == {"done": 1, "running": 1}
        assert (totals.runs, totals.unfinished) == (3, 2)
        assert totals.flops == pytest.approx(2 * first.flops + evaluation(first).flops)
        assert totals.flops_done == pytest.approx(1.5 * first.flops)
        assert (totals.images, totals.images_done) == (4500, 3000.0)
        assert answers.totals(c).runs == 4
        assert answers.totals(c, 999).runs == 0


def test_a_run_is_found_by_the_beginning_of_its_key(store: Store) -> None:
    with store.begin() as c:
        builders.submit(c, [training(seed=n) for n in range(40)])
        key = training(seed=7).key
        assert [run.key for run in answers.run_named(c, key[:9].upper())] == [key]
        assert [run.key for run in answers.run_named(c, key)] == [key]
        assert len(answers.run_named(c, key[:1])) >= 1
        assert answers.run_named(c, "") == answers.run_named(c, "no key%") == []


def test_the_result_table_follows_the_study_then_the_metric(store: Store) -> None:
    first = training()
    with store.begin() as c:
        study = builders.submit(c, [first, evaluation(first)])
        builders.commit(c, builders.claim(c))
        claimed = builders.claim(c)
        names = ["loss_nats", "accuracy"]
        values = [builders.Value(name, 0.5) for name in names]
        ledger.commit(c, run_id=claimed.run_id, fence=1, values=values, checkpoint=None, step=0)
        assert [result.metric for result in answers.results_of(c, study)] == sorted(names)


def test_studies_are_listed_with_what_is_done_of_them(store: Store) -> None:
    with store.begin() as c:
        builders.submit(c, [training()])
        builders.commit(c, builders.claim(c))
        builders.submit(c, [], name="empty")
        found = {study.name: (study.runs, study.done) for study in answers.studies(c)}
        assert found == {"tiny": (1, 1), "empty": (0, 0)}
        tiny = answers.study_named(c, "tiny")
        assert tiny is not None
        assert (tiny.title, tiny.text, tiny.file) == ("A tiny study", "name: tiny", "studies/tiny.yaml")
        assert answers.study_named(c, "none") is None


def test_the_measured_rate_of_a_device_is_the_median_over_the_steps_of_last_attempts(store: Store) -> None:
    with store.begin() as c:
        builders.submit(c, [training(seed=n) for n in range(3)])
        for _ in range(3):
            builders.commit(c, builders.claim(c))
        c.execute(text("UPDATE attempt SET ended_at = started_at + run_id * run_id"))
        flops = training().flops
        (rate,) = answers.measured_rate(c).values()
        rates = sorted(flops / run_id**2 for run_id in c.execute(text("SELECT id FROM run")).scalars())
        assert rate == pytest.approx(rates[1], rel=1e-4)


def test_the_view_run_summary_has_one_row_for_each_study_and_run(store: Store) -> None:
    first = training()
    with store.begin() as c:
        builders.submit(c, [first, evaluation(first)])
        builders.submit(c, [first], name="other")
        rows = c.execute(text("SELECT study, key, state, upstream FROM run_summary ORDER BY study, position")).all()
        assert [tuple(row) for row in rows] == [
            ("other", first.key, "ready", None),
            ("tiny", first.key, "ready", None),
            ("tiny", evaluation(first).key, "waiting", first.key),
        ]


def test_the_view_sweep_best_chooses_on_the_development_split_and_shows_the_test_value(store: Store) -> None:
    accuracy = {1e-3: (0.75, 0.9), 3e-3: (0.8, 0.7), 1e-2: (0.8, 0.6)}
    trainings = {lr: training(lr_peak=lr, sweep="vit-8") for lr in accuracy}
    with store.begin() as c:
        builders.submit(c, list(trainings.values()))
        for _ in trainings:
            builders.commit(c, builders.claim(c))
        for lr, run in trainings.items():
            splits = dict(zip(("validation", "test"), accuracy[lr], strict=True))
            study = builders.submit(c, [run, *(evaluation(run, split) for split in splits)], name=f"only {lr}")
            for split, value in splits.items():
                builders.commit(c, builders.claim(c, study=study), accuracy=value, split=split)
        everything = [evaluation(run, split) for run in trainings.values() for split in ("validation", "test")]
        builders.submit(c, [*trainings.values(), *everything], name="sweep")
        query = text("SELECT * FROM sweep_best WHERE study = 'sweep'")
        (best,) = c.execute(query).all()
        # Two are equally good and equally dear: the smaller name decides.
        chosen = min((trainings[lr] for lr in (3e-3, 1e-2)), key=lambda run: run.configuration)
        assert (best.sweep, best.dataset, best.model, best.candidates) == ("vit-8", "digits", "ViT-8", 3)
        assert (best.configuration, best.development_value) == (chosen.configuration, 0.8)
        assert best.test_value == accuracy[json.loads(best.searched)["lr_peak"]][1]
        assert best.searched == chosen.searched


@pytest.mark.parametrize("view", ["frontier", "run_summary", "sweep_best"])
def test_each_view_answers_on_an_empty_store(store: Store, view: str) -> None:
    with store.read() as c:
        assert c.execute(text(f"SELECT * FROM {view}")).all() == []
