"""Frontiers on every axis of cost, means over data sets, imported results beside own ones, and what is left out."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import insert, text

from db import frontiers, ledger, points
from db.frontiers import AVG5, AXES
from db.left_out import runs_behind
from db.series import series_with
from db.store import Connection, Store
from db.tables import ExternalRow, PointRow, SeriesRow, StudyRow
from db.ties import ties
from db.views import frontier_rows
from studies import metrics
from studies.frontiers import tied
from studies.planned import PlannedRun
from tests import builders
from tests.builders import evaluation, fine_tuning, training

COLUMNS = {
    "flops": "cost",
    "device-seconds": "device_seconds",
    "images": "images",
    "parameters": "parameters",
    "forward-flops": "forward_flops",
    "money": "money",
}
Cloud = Sequence[tuple[str, float | None, float]]
"""family, cost, quality of each point."""


class _Undo(Exception):
    """Leaves a transaction without a trace."""


def study_named(connection: Connection, name: str = "cloud") -> int:
    row = insert(StudyRow).values(name=name, title="", source="", shows="", text="", file="", submitted_at=0)
    return int(connection.execute(row.returning(StudyRow.id)).scalar_one())


def cloud(connection: Connection, given: Cloud, axis: str) -> int:
    """A series of points that have a cost on this axis alone."""
    names = {"kind": "evaluate", "metric": "accuracy", "dataset": "digits", "split": "test", "image_size": 8}
    row = insert(SeriesRow).values(study_id=study_named(connection), direction=1, **names)
    series = int(connection.execute(row.returning(SeriesRow.id)).scalar_one())
    rows = [
        {
            **{"series_id": series, "configuration": f"{n:064x}", "training": f"{n:064x}", "family": family},
            **{"model": family, "quality": quality, "value": quality, "seeds": 1},
            # Training FLOPs are stored where they are a cost, and only there.
            COLUMNS[axis]: (cost or None) if axis == "flops" else cost,
        }
        for n, (family, cost, quality) in enumerate(given)
    ]
    if rows:
        connection.execute(insert(PointRow), rows)
    return series


def by_definition(given: Cloud, families: set[str]) -> set[str]:
    """Names of the points of these families that none of them beats."""
    known = [(n, cost, quality) for n, (family, cost, quality) in enumerate(given) if cost and family in families]
    return {
        f"{n:064x}"
        for n, cost, quality in known
        if not any(c <= cost and q >= quality and (c < cost or q > quality) for _, c, q in known)
    }


def names_of(found: Sequence[frontiers.FrontierPoint]) -> set[str]:
    return {name for point in found for name in (point.configuration, *point.same)}


# Few distinct values, so that ties, exact duplicates and unknown costs are common. Whole: parameters are counted.
clouds = st.lists(
    st.tuples(
        st.sampled_from(["ResNet", "ViT"]),
        st.none() | st.sampled_from([0, 1, 2, 3, 10**15]) | st.integers(1, 9),
        st.sampled_from([0.0, 0.25, 0.5, 1.0]) | st.floats(0, 1),
    ),
    max_size=30,
)


@given(given=clouds, axis=st.sampled_from(AXES))
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_frontier_on_every_axis_is_the_one_of_its_definition(store: Store, given: Cloud, axis: str) -> None:
    with pytest.raises(_Undo), store.begin() as c:  # noqa: PT012 - each example starts with an empty store
        series = cloud(c, given, axis)
        pooled = frontiers.frontier(c, series, axis=axis)
        assert names_of(pooled) == by_definition(given, {"ResNet", "ViT"})
        assert [point.cost for point in pooled] == sorted({point.cost for point in pooled})
        by_family = frontiers.frontier(c, series, by_family=True, axis=axis)
        for family in ("ResNet", "ViT"):
            found = [point for point in by_family if point.family == family]
            assert names_of(found) == by_definition(given, {family})
        counted = frontiers.configurations(c, series_with(c, series), axis)
        assert counted == len(frontiers.points_of(c, series, axis)) == sum(bool(cost) for _, cost, _ in given)
        if axis == "flops":
            jumped = c.execute(text(frontier_rows(store.dialect, "WHERE s.id = :of")), {"of": series}).all()
            assert {row.configuration for row in jumped} == names_of(by_family)
            assert {row.configuration for row in jumped if row.pooled} == names_of(pooled)
        raise _Undo


def test_an_axis_that_is_none_and_a_price_that_is_none_are_refused(store: Store) -> None:
    with store.begin() as c:
        series = cloud(c, [("ViT", 1, 0.5)], "flops")
        with pytest.raises(ValueError, match="'gold' is no axis of cost: take one of flops"):
            frontiers.frontier(c, series, axis="gold")
        for price in (0.0, -1.0, float("nan"), float("inf")):
            with pytest.raises(ValueError, match="of h200 is no positive amount of money"):
                frontiers.points_of(c, series, "money", {"h200": price})


# ----------------------------------------------------------------------------------------------------------------- ties


def tied_by_definition(all_points: Sequence[frontiers.Point], led: Sequence[frontiers.FrontierPoint]) -> set[str]:
    """Names of the points that the definition calls tied, of one frontier and all points that it is of."""
    names = [point.configuration for point in all_points]
    rows = tied(
        [point.cost for point in all_points],
        [point.quality for point in all_points],
        [math.nan if point.sd is None else point.sd / math.sqrt(point.seeds) for point in all_points],
        [names.index(point.configuration) for point in led],
    )
    return {names[row] for row in rows}


def check_ties(connection: Connection, series: frontiers.Series, axis: str) -> int:
    """How many ties there are with the frontier of all, once what SQL finds is what the definition says."""
    all_points = frontiers.points_of(connection, series, axis)
    known = {point.configuration: point for point in all_points}
    pooled = ties(connection, series, frontiers.frontier(connection, series, axis=axis), axis=axis)
    by_family = ties(connection, series, frontiers.frontier(connection, series, True, axis), True, axis)
    led = frontiers.frontier(connection, series, axis=axis)
    assert {point.configuration for point in pooled} == tied_by_definition(all_points, led)
    for family in {point.family for point in all_points}:
        own = [point for point in all_points if point.family == family]
        led = [p for p in frontiers.frontier(connection, series, by_family=True, axis=axis) if p.family == family]
        found = {point.configuration for point in by_family if point.family == family}
        assert found == tied_by_definition(own, led)
    assert [known[point.configuration] for point in (*pooled, *by_family)] == [*pooled, *by_family]
    assert pooled == sorted(pooled, key=lambda point: (point.cost, -point.quality, point.configuration))
    assert [p.family for p in by_family] == sorted(p.family for p in by_family)
    return len(pooled)


# Deviations whose standard errors are just as large as differences are common too.
deviations = st.none() | st.sampled_from([0.0, 0.5, 1.0]) | st.floats(1e-9, 0.1)


@given(
    given=clouds,
    spread=st.lists(st.tuples(deviations, st.sampled_from([2, 4, 5])), min_size=30, max_size=30),
    axis=st.sampled_from(AXES),
)
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_sql_finds_tied_is_what_the_definition_says(
    store: Store, given: Cloud, spread: Sequence[tuple[float | None, int]], axis: str
) -> None:
    with pytest.raises(_Undo), store.begin() as c:  # noqa: PT012 - each example starts with an empty store
        series = series_with(c, cloud(c, given, axis))
        for n, (_, (sd, seeds)) in enumerate(zip(given, spread, strict=False)):
            fields = {"sd": sd, "seeds": 1 if sd is None else seeds, "name": f"{n:064x}"}
            c.execute(text("UPDATE point SET sd = :sd, seeds = :seeds WHERE configuration = :name"), fields)
        check_ties(c, series, axis)
        raise _Undo


seeds_of_networks = st.lists(
    st.tuples(
        st.sampled_from(["ResNet", "ViT"]),
        st.sampled_from([1.0, 2.0, 3.0, 4.0]),
        st.lists(
            st.tuples(st.sampled_from([0.25, 0.5]) | st.floats(0, 1), st.sampled_from([0.25, 0.5])),
            min_size=1,
            max_size=3,
        ),
    ),
    max_size=8,
)


@given(networks=seeds_of_networks)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_sql_finds_tied_with_a_mean_is_what_the_definition_says(store: Store, networks: Sequence[Any]) -> None:
    with pytest.raises(_Undo), store.begin() as c:  # noqa: PT012 - each example starts with an empty store
        study = study_named(c)
        for n, (family, flops, seeds) in enumerate(networks):
            for seed, of_datasets in enumerate(seeds):
                for dataset, value in zip("ab", of_datasets, strict=True):
                    fields = {"dataset": dataset, "seed": seed, "family": family, "train_flops": flops}
                    external(c, study, f"network {n}", value, **fields)
        points.refresh(c, study)
        if networks:
            check_ties(c, frontiers.mean_of(c, study, "mean(a,b)"), "flops")
        raise _Undo


@pytest.mark.parametrize("axis", ["flops", "images"])
def test_a_frontier_longer_than_one_statement_asks_for_has_all_its_ties(store: Store, axis: str) -> None:
    length = 1_100
    given = [("ViT", float(cost), cost / 4096) for cost in range(1, length + 1)]
    given += [("ViT", cost + 0.5, cost / 4096 - 1e-5) for cost in range(1, length + 1)]
    with store.begin() as c:
        series = series_with(c, cloud(c, given, axis))
        c.execute(text("UPDATE point SET sd = 4e-5, seeds = 4"))
        assert check_ties(c, series, axis) == length
        c.execute(text("UPDATE point SET sd = NULL, seeds = 1 WHERE quality * 4096 = floor(quality * 4096)"))
        assert check_ties(c, series, axis) == length
        c.execute(text("UPDATE point SET sd = NULL, seeds = 1"))
        assert check_ties(c, series, axis) == 0


# ------------------------------------------------------------------------------------------------------------- own runs


def finish(connection: Connection, run: PlannedRun, accuracy: float | None = None) -> None:
    """Claim the run, which comes next, and commit it."""
    claimed = builders.claim_of(connection, run)
    data = run.run.data
    values = [] if accuracy is None else [builders.Value(metrics.ACCURACY, accuracy, data.name, data.split)]
    checkpoint = f"{claimed.key[:12]}/final" if claimed.steps else None
    ledger.commit(connection, run_id=claimed.run_id, fence=1, values=values, checkpoint=checkpoint, step=claimed.steps)


def one_point(connection: Connection, study: int) -> frontiers.Point:
    (series,) = frontiers.series_of(connection, study)
    (point,) = frontiers.points_of(connection, series)
    return point


def take_seconds(connection: Connection, seconds: dict[str, float]) -> None:
    """Say how long the runs of these keys took, and make all points anew."""
    for key, value in seconds.items():
        connection.execute(text("UPDATE run SET seconds = :value WHERE key = :key"), {"value": value, "key": key})
    points.rebuild(connection)


def test_a_point_has_the_other_costs_of_its_pre_training(store: Store) -> None:
    first, second = training(seed=0), training(seed=1)
    with store.begin() as c:
        study = builders.submit(c, [first, second, evaluation(first), evaluation(second)])
        for run in (first, second):
            finish(c, run)
        for run, value in ((first, 0.5), (second, 0.75)):
            finish(c, evaluation(run), value)
        c.execute(text("UPDATE run SET cpus = 4"))
        take_seconds(c, {first.key: 2.0, second.key: 3.0})
        point = one_point(c, study)
        assert (point.images, point.device_seconds, point.device) == (2000.0, 10.0, "cpu")
        assert (point.forward_flops, point.money, point.external) == (first.flops / 2000 / 3, None, False)
        assert point.pretraining == point.training == first.configuration
        costs = {axis: [p.cost for p in frontiers.points_of(c, study, axis)] for axis in AXES if axis != "money"}
        assert costs == {
            "flops": [first.flops],
            "device-seconds": [10.0],
            "images": [2000.0],
            "parameters": [float(first.parameters)],
            "forward-flops": [point.forward_flops],
        }
        for prices in ({"cpu": 36.0}, {"": 36.0}, {"cpu": 36.0, "": 1.0}, {"tpu": 1.0, "": 36.0}):
            assert [p.cost for p in frontiers.frontier(c, study, axis="money", prices=prices)] == [0.1]
        assert frontiers.points_of(c, study, "money", {"tpu": 1.0}) == frontiers.points_of(c, study, "money") == []
        (series,) = frontiers.series_of(c, study)
        keys = [evaluation(run).key for run in (first, second)]
        assert frontiers.excluded(c, series, "money", {"tpu": 1.0}) == [("no known cost", keys)]
        assert frontiers.excluded(c, series, "money", {"cpu": 1.0}) == frontiers.excluded(c, series) == []


def test_time_on_gpus_counts_those_and_time_on_two_kinds_of_devices_has_no_price(store: Store) -> None:
    first = training()
    with store.begin() as c:
        study = builders.submit(c, [first, evaluation(first)])
        finish(c, first)
        finish(c, evaluation(first), 0.5)
        c.execute(text("UPDATE run SET gpus = 8, cpus = 4"))
        take_seconds(c, {first.key: 450.0})
        assert [p.cost for p in frontiers.points_of(c, study, "money", {"cpu": 2.0})] == [2.0]
        more = "INSERT INTO attempt SELECT run_id, 2, owner, host, pid, process_started, 'h200', started_at"
        fields = "ended_at, outcome, error, traceback, numerics, first_step, last_step, refused_at"
        c.execute(text(f"{more}, {fields} FROM attempt WHERE run_id = (SELECT id FROM run WHERE kind = 'train')"))
        points.rebuild(c)
        point = one_point(c, study)
        assert (point.device_seconds, point.device) == (3600.0, None)
        assert frontiers.points_of(c, study, "money", {"cpu": 2.0, "h200": 2.0, "": 2.0}) == []
        assert [p.cost for p in frontiers.points_of(c, study, "money", {"": 2.0})] == [2.0]


def test_a_branch_takes_the_time_of_its_trunks_too_and_its_images_from_the_first_step(store: Store) -> None:
    runs = builders.branches(40, 60)
    branch = runs[-1]
    with store.begin() as c:
        study = builders.submit(c, [*runs, evaluation(branch)])
        for number in range(len(runs)):
            claimed = builders.claim(c)
            builders.commit(c, claimed)
            c.execute(text("UPDATE run SET seconds = :s WHERE id = :id"), {"s": 10.0**number, "id": claimed.run_id})
        finish(c, evaluation(branch), 0.5)
        point = one_point(c, study)
        chain, upstream = 0.0, branch.key
        while upstream:
            row = c.execute(
                text("SELECT r.seconds, u.key FROM run r LEFT JOIN run u ON u.id = r.upstream_id WHERE r.key = :key"),
                {"key": upstream},
            ).one()
            chain, upstream = chain + row.seconds, row.key
        assert (point.device_seconds, point.images) == (chain, 3000.0)
        assert chain > 1000  # its own, and two trunks below it


def test_a_point_of_a_fine_tuned_network_stands_on_its_pre_training(store: Store) -> None:
    first = training()
    tuned = fine_tuning(first)
    with store.begin() as c:
        study = builders.submit(c, [first, tuned, evaluation(tuned)])
        for run in (first, tuned):
            finish(c, run)
        finish(c, evaluation(tuned), 0.5)
        point = one_point(c, study)
        assert (point.training, point.pretraining) == (tuned.configuration, first.configuration)
        assert (point.images, point.forward_flops) == (2000.0, tuned.flops / 1000 / 3)


# -------------------------------------------------------------------------------------------------------- imported ones


def external(connection: Connection, study: int, label: str, value: float | None, **fields: Any) -> str:
    """An imported result of a network; its key."""
    row = {
        **{"kind": "evaluate", "metric": "accuracy", "dataset": "digits", "split": "test", "image_size": 8},
        **{"family": "ViT", "model": label, "seed": 0, "source": f"table.csv:{label}", "imported_at": 0.0},
        **{"train_flops": 1e18, "value": value, **fields},
    }
    row["training"] = f"{label:-<64}"
    row["configuration"] = f"{label + row['dataset'] + row['split'] + row['metric']:-<64}"
    row["key"] = f"{row['configuration'][:60]}{row['seed']:04}"
    connection.execute(insert(ExternalRow).values(study_id=study, **row))
    return str(row["key"])


def test_imported_results_are_points_beside_own_ones_and_seeds_of_them_are_averaged(store: Store) -> None:
    first = training()
    with store.begin() as c:
        study = builders.submit(c, [first, evaluation(first)])
        keys = [
            external(c, study, "B", 0.9, seed=seed, train_flops=1e3, device_seconds=3600.0 * seed, images=5.0)
            for seed in (1, 2)
        ]
        points.refresh(c, study)
        finish(c, first)
        finish(c, evaluation(first), 0.95)
        (series,) = frontiers.series_of(c, study)
        imported, own = frontiers.points_of(c, series)
        assert (imported.model, imported.external, imported.runs) == ("B", True, tuple(keys))
        assert (imported.cost, imported.seeds, imported.images, imported.device_seconds) == (1e3, 2, 5.0, 5400.0)
        assert (own.model, own.external, own.runs) == ("ViT-8", False, (evaluation(first).key,))
        assert [point.external for point in frontiers.frontier(c, series)] == [True, False]
        assert imported.epochs is imported.data_rows is imported.parameters is None
        c.execute(text("DELETE FROM external"))
        points.refresh(c, study)
        assert [point.external for point in frontiers.frontier(c, series)] == [False]


def test_an_imported_result_without_training_flops_stands_on_its_own_axis_alone(store: Store) -> None:
    with store.begin() as c:
        study = study_named(c)
        keys = {label: external(c, study, label, 0.5, train_flops=None) for label in ("no cost", "hours")}
        keys["not finite"] = external(c, study, "not finite", None)
        c.execute(text("UPDATE external SET money = 7 WHERE model = 'hours'"))
        points.refresh(c, study)
        (series,) = frontiers.series_of(c, study)
        assert frontiers.frontier(c, series) == []
        (point,) = frontiers.frontier(c, series, axis="money", prices={"": 1e9})
        assert (point.model, point.cost, point.runs) == ("hours", 7.0, (keys["hours"],))
        both = [keys["hours"], keys["no cost"]]
        assert frontiers.excluded(c, series) == [
            ("not a finite number", [keys["not finite"]]),
            ("no known cost", both),
        ]
        assert frontiers.excluded(c, series, "money")[-1] == ("no known cost", [keys["no cost"]])


# ---------------------------------------------------------------------------------------------------------------- means


def five(connection: Connection, study: int, label: str, values: Sequence[float], **fields: Any) -> list[str]:
    splits = ("validation", "test", "test", "test", "test")
    return [
        external(connection, study, label, value, dataset=dataset, split=split, **fields)
        for dataset, split, value in zip(AVG5, splits, values, strict=False)
    ]


def test_avg5_is_the_mean_of_configurations_that_have_all_five(store: Store) -> None:
    with store.begin() as c:
        study = study_named(c)
        whole = five(c, study, "whole", [0.7, 0.8, 0.9, 0.95, 0.15], train_flops=2.0)
        partly = five(c, study, "partly", [1.0, 1.0, 1.0], train_flops=1.0)
        five(c, study, "dear", [0.7, 0.8, 0.9, 0.95, 0.1], train_flops=3.0, family="ResNet")
        points.refresh(c, study)
        mean = frontiers.mean_of(c, study, "avg5")
        assert (mean.metric, mean.datasets, mean.split, mean.image_size) == ("avg5", AVG5, "validation, test", 8)
        assert (frontiers.configurations(c, mean), mean.direction, mean.kind) == (2, 1, "evaluate")
        (best,) = frontiers.frontier(c, mean)
        assert best.value == pytest.approx(0.7, rel=1e-15)
        assert (best.cost, best.sd) == (2.0, None)
        assert (best.model, best.runs, best.external) == ("whole", tuple(whole), True)
        assert [p.family for p in frontiers.frontier(c, mean, by_family=True)] == ["ResNet", "ViT"]
        assert [p.model for p in frontiers.points_of(c, mean)] == ["whole", "dear"]
        assert frontiers.excluded(c, mean) == [("no result on pets", partly)]


def test_a_mean_over_fine_tunings_is_of_one_pre_training(store: Store) -> None:
    with store.begin() as c:
        first = training()
        tunings = [fine_tuning(first, lr_peak=lr) for lr in (1e-3, 3e-3)]
        elsewhere = evaluation(tunings[1])
        data = elsewhere.run.data.model_copy(update={"name": "cifar10"})
        elsewhere = replace(elsewhere, run=elsewhere.run.model_copy(update={"data": data}))
        study = builders.submit(c, [first, *tunings, evaluation(tunings[0]), elsewhere])
        for run in (first, *tunings):
            finish(c, run)
        finish(c, evaluation(tunings[0]), 0.5)
        finish(c, elsewhere, 0.75)
        mean = frontiers.mean_of(c, study, "mean(digits, cifar10)")
        (point,) = frontiers.frontier(c, mean, axis="images")
        assert (point.value, point.pretraining, point.cost) == (0.625, first.configuration, 2000.0)
        assert point.runs == (evaluation(tunings[0]).key, elsewhere.key)
        assert runs_behind(c, mean, []) == {}


def test_the_deviation_of_a_mean_is_that_of_the_means_of_its_seeds(store: Store) -> None:
    with store.begin() as c:
        study = study_named(c)
        # What one seed gains on the first data set, it loses on the second: the mean hardly spreads.
        for seed, (first, second) in enumerate([(0.5, 0.9), (0.6, 0.8), (0.7, 0.73)]):
            external(c, study, "steady", first, dataset="a", seed=seed)
            external(c, study, "steady", second, dataset="b", seed=seed)
        for seed in (0, 1):
            external(c, study, "half", 0.5, dataset="a", seed=seed)
        external(c, study, "half", 0.5, dataset="b")
        points.refresh(c, study)
        steady, half = sorted(
            frontiers.points_of(c, frontiers.mean_of(c, study, "mean(a,b)")), key=lambda point: -point.seeds
        )
        assert steady.sd == pytest.approx(statistics.stdev([0.7, 0.7, 0.715]), rel=1e-12)
        assert (steady.seeds, half.seeds, half.sd) == (3, 1, None)
        (best,) = frontiers.frontier(c, frontiers.mean_of(c, study, "mean(a,b)"))
        assert best.sd == steady.sd


def test_two_results_of_a_pre_training_on_one_data_set_are_not_averaged_but_named(store: Store) -> None:
    with store.begin() as c:
        study = study_named(c)
        keys = five(c, study, "A", [0.5] * 5)
        c.execute(text("UPDATE external SET training = :a"), {"a": "a" * 64})
        keys.insert(1, external(c, study, "B", 0.6, dataset="imagenet", split="validation"))
        c.execute(text("UPDATE external SET training = :a"), {"a": "a" * 64})
        points.refresh(c, study)
        mean = frontiers.mean_of(c, study, "avg5")
        assert frontiers.points_of(c, mean) == []
        ((reason, left),) = frontiers.excluded(c, mean)
        assert (reason, sorted(left)) == ("several results on imagenet", sorted(keys))


def test_a_mean_never_mixes_kinds_splits_or_image_sizes(store: Store) -> None:
    with store.begin() as c:
        study = study_named(c)
        for dataset in ("a", "b"):
            for size in (8, 16):
                external(c, study, f"s{size}", 0.5, dataset=dataset, image_size=size)
            for split in ("remaining", "development"):
                external(c, study, f"s{split}", 0.5, dataset=dataset, split=split)
            for kind in ("one", "two"):
                external(c, study, f"k{kind}", 0.5, dataset=dataset, kind=kind)
        external(c, study, "alone", 0.5, dataset="c", kind="one")
        external(c, study, "loss", 0.5, dataset="c", metric=metrics.LOSS)
        points.refresh(c, study)

        def mean(name: str, **fields: Any) -> frontiers.Series:
            return frontiers.mean_of(c, study, name, **fields)

        with pytest.raises(ValueError, match=r"would mix image sizes 16 and 8 of a: choose one with --image-size"):
            mean("mean(a,b)")
        assert [part.split for part in mean("mean(a,b)", image_size=16).parts] == ["test", "test"]
        assert mean("mean(a,b)", split="remaining").split == "remaining"
        c.execute(text("DELETE FROM external WHERE split = 'test' AND kind = 'evaluate'"))
        points.refresh(c, study)
        with pytest.raises(ValueError, match=r"would mix splits development and remaining of a: choose one with --spl"):
            mean("mean(a,b)")
        c.execute(text("DELETE FROM external WHERE kind = 'evaluate'"))
        points.refresh(c, study)
        with pytest.raises(ValueError, match=r"would mix one and two: choose one with --kind"):
            mean("mean(a,b)")
        assert mean("mean(a,b)", kind="two").kind == "two"
        with pytest.raises(ValueError, match="there is no such accuracy on pets, over which mean"):
            mean("mean(a,pets)")
        c.execute(text("DELETE FROM external WHERE dataset = 'b' AND kind = 'one'"))
        points.refresh(c, study)
        with pytest.raises(ValueError, match=r"no one kind of run has the accuracy on all data sets of mean\(b,c\)"):
            mean("mean(b,c)")
        for name in ("mean(a,a)", "mean(a,)", "mean()"):
            with pytest.raises(ValueError, match="names no data sets to average over"):
                mean(name)


def test_a_metric_that_is_a_mean_is_told_from_others() -> None:
    assert all(map(frontiers.is_a_mean, ("avg5", "mean(a,b)")))
    assert not any(map(frontiers.is_a_mean, ("accuracy", "avg6", "mean")))
