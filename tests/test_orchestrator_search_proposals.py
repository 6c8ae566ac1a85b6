"""What a search tries next, with Optuna's own samplers and its own tables."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import optuna
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from optuna.trial import TrialState, create_trial

from orchestrator.proposals import Fate, Tried, decoded, distributions, encoded, proposals, round_size
from orchestrator.trials import optuna_storage
from studies.definitions import canonical_json
from studies.searches import Params, Search, grid_points
from tests.searched import LRS, search

RANGES = {"lr_peak": {"low": 1e-4, "high": 0.1}, "steps": {"low": 4, "high": 200}}


def measured(params: Params, value: float) -> Tried:
    return Tried(params, Fate.MEASURED, value)


def quality(params: Params) -> float:
    return 0.9 - abs(math.log10(params["lr_peak"] / 0.01)) / 10


def all_points(of: Search, value: Callable[[Params], float] = quality) -> list[Params]:
    """What a search tries when everything is measured at once."""
    tried: list[Tried] = []
    while new := proposals(of, tried):
        tried += [measured(params, value(params)) for params in new]
    return [each.params for each in tried]


@pytest.fixture(scope="module")
def optuna_study(tmp_path_factory: pytest.TempPathFactory) -> Iterator[optuna.Study]:
    storage = optuna_storage(f"sqlite:///{tmp_path_factory.mktemp('optuna') / 'store.db'}")
    yield optuna.create_study(storage=storage, direction="maximize")
    storage.remove_session()
    storage.engine.dispose()


def kept(study: optuna.Study, of: Search, params: Params) -> dict[str, Any]:
    """A point as it comes out of Optuna's tables."""
    storage = study._storage
    fresh = optuna.create_study(storage=storage, direction="maximize")
    fresh.add_trial(
        create_trial(state=TrialState.RUNNING, params=encoded(of, params), distributions=distributions(of, params))
    )
    return dict(fresh.get_trials()[0].params)


floats = st.floats(1e-9, 1e3, allow_nan=False)
spaces = st.fixed_dictionaries(
    {},
    optional={
        "lr_peak": st.lists(floats, min_size=1, max_size=4, unique=True),
        "weight_decay": st.lists(st.floats(0, 1), min_size=1, max_size=3, unique=True),
        "warmup_steps": st.lists(st.integers(0, 19), min_size=1, max_size=3, unique=True),
        "clip_norm": st.lists(st.none() | floats, min_size=1, max_size=3, unique=True),
        "optimizer": st.just([{"kind": "sgd", "momentum": 0.9}, {"kind": "adamw"}]),
        "precision": st.just(["fp32", "bf16"]),
    },
).filter(bool)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(space=spaces, data=st.data())
def test_the_values_of_a_study_file_come_back_from_optunas_tables_to_the_last_bit(
    optuna_study: optuna.Study, space: dict[str, list[Any]], data: st.DataObject
) -> None:
    of = search(space=space)
    point = data.draw(st.sampled_from(grid_points(of)))
    found = decoded(of, kept(optuna_study, of, point))
    assert canonical_json(found) == canonical_json(point)
    assert [type(value) for value in found.values()] == [type(value) for value in point.values()]


@pytest.mark.parametrize("beyond", [0.1, 0.000333333])
def test_a_point_beyond_the_grid_comes_back_too(optuna_study: optuna.Study, beyond: float) -> None:
    of = search()
    assert decoded(of, kept(optuna_study, of, {"lr_peak": beyond})) == {"lr_peak": beyond}


def test_optuna_shows_numbers_as_numbers_and_takes_a_wider_grid_for_the_same_parameter(
    optuna_study: optuna.Study,
) -> None:
    of = search(space={"lr_peak": LRS, "steps": [10, 20], "precision": ["fp32", "bf16"]})
    study = optuna.create_study(storage=optuna_study._storage, direction="maximize")
    wider = {"lr_peak": 0.1, "steps": 40, "precision": "bf16"}
    for params in [*grid_points(of), wider]:
        study.add_trial(
            create_trial(state=TrialState.RUNNING, params=encoded(of, params), distributions=distributions(of, params))
        )
    assert study.get_trials()[-1].params == {"lr_peak": 0.1, "steps": 40, "precision": '"bf16"'}


def test_a_grid_is_tried_whole_then_waits_then_goes_one_step_beyond_its_edge() -> None:
    of = search()
    assert proposals(of, []) == [{"lr_peak": lr} for lr in LRS]
    tried = [measured({"lr_peak": lr}, lr) for lr in LRS]
    assert proposals(of, tried[:1]) == [{"lr_peak": lr} for lr in LRS[1:]]
    assert proposals(of, [*tried[:3], replace(tried[3], fate=Fate.OPEN, value=None)]) == []
    assert proposals(of, tried) == [{"lr_peak": 0.09}]
    further = measured({"lr_peak": 0.09}, 1.0)
    assert proposals(of, [*tried, further]) == []


def test_a_grid_without_a_single_value_goes_nowhere() -> None:
    assert proposals(search(), [Tried({"lr_peak": lr}, Fate.FAILED, cause="boom") for lr in LRS]) == []


def test_a_sampler_is_asked_for_a_round_and_then_waits_for_all_of_it() -> None:
    of = search(space=RANGES, sampler="tpe", trials=10)
    first = proposals(of, [])
    assert len(first) == 4
    opened = [Tried(params, Fate.OPEN) for params in first]
    assert proposals(of, opened) == []
    over = [measured(params, quality(params)) for params in first]
    assert proposals(of, [*over[:3], opened[3]]) == []
    assert len(proposals(of, over)) == 4
    assert len(all_points(of)) == 10


def test_random_points_are_all_asked_for_at_once() -> None:
    assert len(proposals(search(space=RANGES, sampler="random", trials=7), [])) == 7


@pytest.mark.parametrize("sampler", ["tpe", "random", "cma-es"])
def test_a_search_that_was_cut_off_anywhere_asks_for_the_same_points(sampler: str) -> None:
    of = search(space=RANGES, sampler=sampler, trials=14)
    points = all_points(of)
    assert len(points) == 14
    for count in range(len(points)):
        begun = count - count % round_size(of)
        known = [
            measured(params, quality(params)) if number < begun else Tried(params, Fate.OPEN)
            for number, params in enumerate(points[:count])
        ]
        new = proposals(of, known)
        assert new == points[count : count + len(new)]
        assert len(new) == min(begun + round_size(of), 14) - count


@pytest.mark.parametrize("sampler", ["tpe", "cma-es"])
def test_what_a_sampler_asks_for_depends_on_what_it_was_told(sampler: str) -> None:
    of = search(space=RANGES, sampler=sampler, trials=16)
    opposite = all_points(of, lambda params: -quality(params))
    size = round_size(of)
    assert all_points(of)[:size] == opposite[:size]
    assert all_points(of) != opposite


@pytest.mark.parametrize("sampler", ["tpe", "cma-es"])
def test_failed_and_pruned_trials_do_not_stop_a_sampler(sampler: str) -> None:
    of = search(space=RANGES, sampler=sampler, trials=15, pruner="median", every=5)
    tried: list[Tried] = []
    while new := proposals(of, tried):
        for params in new:
            failed = Tried(params, Fate.FAILED, cause="boom")
            pruned = Tried(params, Fate.PRUNED, looks={5: 0.1, 10: 0.2})
            tried.append([failed, pruned, measured(params, quality(params))][len(tried) % 3])
    assert len(tried) == 15


def test_sampled_numbers_are_short_whole_where_they_must_be_and_inside_their_range() -> None:
    low, high = 0.0012345678901, 0.0012345678999
    narrow = search(space={"lr_peak": {"low": low, "high": high}}, sampler="random", trials=5)
    assert all(low <= params["lr_peak"] <= high for params in all_points(narrow))
    for params in all_points(search(space=RANGES, sampler="random", trials=20)):
        assert len(f"{params['lr_peak']:.17g}") <= 22
        assert params["lr_peak"] == float(f"{params['lr_peak']:.6g}")
        assert type(params["steps"]) is int
        assert 4 <= params["steps"] <= 200


def test_a_sampler_that_chooses_from_a_list_takes_nothing_between_its_members() -> None:
    space: dict[str, Sequence[Any]] = {"lr_peak": LRS, "optimizer": [{"kind": "sgd"}, {"kind": "adamw"}]}
    of = search(space=space, sampler="tpe", trials=12)
    assert {canonical_json(params) for params in all_points(of)} <= {canonical_json(each) for each in grid_points(of)}


def test_two_searches_draw_other_points() -> None:
    one, two = (search(space=RANGES, sampler="random", trials=3, seed=seed) for seed in (0, 1))
    assert all_points(one) != all_points(two)
