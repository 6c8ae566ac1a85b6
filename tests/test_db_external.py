"""Imported results in the store: once, whole or not at all, beside a study's own, and out again."""

from dataclasses import replace

import pytest

from db import answers, external, frontiers
from db.store import Connection, Store
from studies import references
from studies.external import External
from tests.builders import claim, commit, evaluation, submit, training

ROWS = references.reference("vit-paper").rows
IMAGENET = [row for row in ROWS if row.dataset == "imagenet"]


def put(connection: Connection, rows: list[External], study: str = "published") -> external.Stored:
    return external.store(connection, study, rows, title="Published", source="a paper")


def beside(row: External, **fields: object) -> External:
    """A result of the series that `tests.builders` measures its own in."""
    series = {"kind": "evaluate", "dataset": "digits", "split": "test", "image_size": 8}
    return replace(row, **{**series, **fields})  # type: ignore[arg-type]


def models_on_frontier(connection: Connection, study_id: int) -> list[str]:
    [series] = frontiers.series_of(connection, study_id)
    return [point.model for point in frontiers.frontier(connection, series)]


def test_results_make_a_study_its_series_and_its_frontier(store: Store) -> None:
    with store.begin() as connection:
        stored = put(connection, IMAGENET)
        assert (stored.new, stored.known) == (18, 0)
        found = answers.study_named(connection, "published")
        assert found is not None
        assert (found.title, found.source, found.runs) == ("Published", "a paper", 0)
        [series] = frontiers.series_of(connection, found.id)
        assert (series.metric, series.dataset, series.points) == ("accuracy", "imagenet", 18)
        best = frontiers.frontier(connection, series)
    assert (best[0].model, best[-1].model) == ("ResNet50x1", "ViT-H/14")
    assert all(point.external for point in best)


def test_the_same_results_again_change_nothing(store: Store) -> None:
    with store.begin() as connection:
        first = put(connection, IMAGENET)
    with store.begin() as connection:
        again = put(connection, list(reversed(IMAGENET)))
        assert again == (first.study_id, 0, 18)
        assert external.rows_of(connection, first.study_id) == IMAGENET


def test_a_result_says_the_same_in_the_store_as_before(store: Store) -> None:
    odd = replace(
        IMAGENET[0], value=None, train_flops=None, device_seconds=0.1 + 0.2, money=1e-300, forward_flops=1.1e9, seed=-1,
        parameters=2**63 - 1, epochs=None, has_seeds=True, place="a: b.csv:7", device="TPU v3",
    )  # fmt: skip
    with store.begin() as connection:
        stored = put(connection, [odd])
        [found] = external.rows_of(connection, stored.study_id)
    assert found == odd
    assert found.key == odd.key


def test_another_value_of_the_same_is_refused_and_nothing_is_stored(store: Store) -> None:
    other = replace(IMAGENET[3], value=0.9, place="new.csv:5")
    with store.begin() as connection:
        stored = put(connection, IMAGENET)
    with pytest.raises(ValueError, match=r"^new\.csv:5 says 0\.9 at") as raised, store.begin() as connection:
        put(connection, [*IMAGENET[:3], other])
    said = str(raised.value)
    assert "vit-paper.csv:5 in the store says 0.863" in said
    assert said.endswith("vitscale results remove published --source vit-paper.csv")
    with store.read() as connection:
        assert len(external.rows_of(connection, stored.study_id)) == 18


def test_another_cost_of_the_same_is_refused_though_fewer_columns_were_read(store: Store) -> None:
    bare = replace(IMAGENET[0], train_flops=1e18, epochs=None, images=None, data_rows=None)
    with store.begin() as connection:
        put(connection, IMAGENET)
        with pytest.raises(ValueError, match=r"says 0\.8073 at 1e\+18 flops"):
            external.check(connection, put(connection, IMAGENET).study_id, [bare])


def test_further_costs_of_a_network_come_in_with_those_that_are_there(store: Store) -> None:
    longer = replace(IMAGENET[0], train_flops=1e20, value=0.85, epochs=None)
    shorter = replace(IMAGENET[0], epochs=None)
    with store.begin() as connection:
        put(connection, [shorter])
        assert put(connection, [shorter, longer]).new == 1
        assert put(connection, [longer]).new == 0


def _put_and_fail(connection: Connection) -> None:
    put(connection, IMAGENET)
    raise RuntimeError("gone")


def test_a_failing_import_makes_no_study(store: Store) -> None:
    with pytest.raises(RuntimeError, match="gone"), store.begin() as connection:
        _put_and_fail(connection)
    with store.read() as connection:
        assert answers.studies(connection) == []


def test_imported_results_stand_beside_own_ones_and_survive_a_new_submission(store: Store) -> None:
    run = training()
    with store.begin() as connection:
        study_id = submit(connection, [run, evaluation(run)])
        commit(connection, claim(connection))
        commit(connection, claim(connection), accuracy=0.6)
        better = beside(IMAGENET[0], value=0.9, train_flops=1e30, model="large")
        put(connection, [better, beside(better, value=0.1, model="worse")], "tiny")
        assert models_on_frontier(connection, study_id) == ["ViT-8", "large"]
    with store.begin() as connection:
        assert submit(connection, [run, evaluation(run)]) == study_id
        assert models_on_frontier(connection, study_id) == ["ViT-8", "large"]
        assert len(external.rows_of(connection, study_id)) == 2


def test_a_study_that_is_submitted_after_an_import_keeps_what_was_imported(store: Store) -> None:
    run = training()
    with store.begin() as connection:
        first = put(connection, [beside(IMAGENET[0])], "tiny").study_id
        assert submit(connection, [run, evaluation(run)]) == first
        assert models_on_frontier(connection, first) == ["ViT-B/32"]
        found = answers.study_named(connection, "tiny")
        assert found is not None
        assert (found.title, found.runs) == ("A tiny study", 2)


def test_seeds_are_averaged_whatever_time_they_took(store: Store) -> None:
    first = replace(IMAGENET[0], has_seeds=True, device_seconds=3.0, value=0.8)
    with store.begin() as connection:
        stored = put(connection, [first, replace(first, seed=1, device_seconds=5.0, value=0.9)])
        [series] = frontiers.series_of(connection, stored.study_id)
        [point] = frontiers.points_of(connection, series)
    assert point.seeds == 2
    assert point.value == pytest.approx(0.85, abs=1e-15)


def test_imported_time_has_the_kind_of_its_devices_and_so_a_price(store: Store) -> None:
    first = replace(IMAGENET[0], device_seconds=7200.0, device="v3")
    second = replace(IMAGENET[1], device_seconds=3600.0)
    with store.begin() as connection:
        stored = put(connection, [first, second])
        [series] = frontiers.series_of(connection, stored.study_id)
        priced = {
            name: [(point.device, point.cost) for point in frontiers.points_of(connection, series, "money", prices)]
            for name, prices in {"v3": {"v3": 2.0}, "any": {"": 5.0}, "v4": {"v4": 2.0}}.items()
        }
    assert priced == {"v3": [("v3", 4.0)], "any": [(None, 5.0), ("v3", 10.0)], "v4": []}


def test_time_of_seeds_on_several_kinds_of_devices_is_of_none(store: Store) -> None:
    seed = replace(IMAGENET[0], has_seeds=True, device_seconds=3.0, device="v3")
    with store.begin() as connection:
        stored = put(connection, [seed, replace(seed, seed=1, device="v4", value=0.9)])
        [series] = frontiers.series_of(connection, stored.study_id)
        [point] = frontiers.points_of(connection, series)
    assert (point.seeds, point.device) == (2, None)


def test_a_device_that_is_named_later_is_another_result_and_the_message_says_so(store: Store) -> None:
    unnamed = replace(IMAGENET[0], device_seconds=3.0)
    with store.begin() as connection:
        put(connection, [unnamed])
        with pytest.raises(ValueError, match=r"3\.0 device-seconds on v3, .* says 0\.8073 at .*device-seconds, "):
            put(connection, [replace(unnamed, device="v3")])


def test_removing_a_file_leaves_the_others_and_own_results(store: Store) -> None:
    run = training()
    with store.begin() as connection:
        study_id = submit(connection, [run, evaluation(run)])
        commit(connection, claim(connection))
        commit(connection, claim(connection), accuracy=0.6)
        put(connection, [beside(IMAGENET[0], place="a.csv:2"), beside(IMAGENET[1], place="b.csv:2")], "tiny")
        assert external.remove(connection, study_id, "a.csv") == 1
        assert [row.place for row in external.rows_of(connection, study_id)] == ["b.csv:2"]
        assert external.remove(connection, study_id) == 1
        assert models_on_frontier(connection, study_id) == ["ViT-8"]
        assert answers.study_named(connection, "tiny") is not None


def test_a_study_that_an_import_made_goes_with_its_last_result(store: Store) -> None:
    with store.begin() as connection:
        study_id = put(connection, list(ROWS)).study_id
        assert external.remove(connection, study_id) == 108
        assert answers.studies(connection) == []
        assert frontiers.series_of(connection, study_id) == []


def test_imports_are_listed_by_study_and_file(store: Store) -> None:
    with store.begin() as connection:
        put(connection, IMAGENET, "b")
        put(connection, [replace(IMAGENET[0], place="folder/x: y.csv:12", model="other")], "b")
        put(connection, list(ROWS), "a")
        listed = external.imports_of(connection)
        assert [(each.study, each.file, each.rows) for each in listed] == [
            ("a", "vit-paper.csv", 108),
            ("b", "vit-paper.csv", 18),
            ("b", "folder/x: y.csv", 1),
        ]
        assert [len(each.series) for each in listed] == [6, 1, 1]
        assert len(external.imports_of(connection, put(connection, IMAGENET, "b").study_id)) == 2
