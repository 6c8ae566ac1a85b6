"""Searches: each point once, the best and the first of equals, one step beyond an edge, keys and prices."""

import itertools
import json
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from studies.datasets import DIGITS
from studies.definitions import Classification, Evaluate, FineTune, Train, canonical_json
from studies.models import ViT
from studies.planned import PlannedRun
from studies.recipes import recipe
from studies.searches import (
    Impossible,
    Params,
    PlannedSearch,
    Range,
    Search,
    Task,
    Trial,
    at_edge,
    beyond,
    chosen,
    grid_points,
    key_of_search,
)

MODEL = ViT(patch=4, width=8, depth=1, mlp=8, heads=1, head="token")
RATES = (1e-3, 3e-3, 1e-2, 3e-2)


def pretraining() -> PlannedRun:
    run = Train(
        model=MODEL.model_copy(update={"head": "token-tanh"}),
        data=DIGITS.take("train"),
        image_size=8,
        recipe=recipe("small"),
        examples=1000,
        seed=0,
    )
    return PlannedRun(run, run, "ViT-8", "ViT", 1.0)


def task(split: str = "test", steps: int = 40) -> Task:
    return Task(
        search=DIGITS.take("train", 200),
        development=DIGITS.take("validation"),
        whole=DIGITS.take("train"),
        image_size=8,
        recipe=recipe("small-fine-tuning"),
        steps=steps,
        evaluations=(Classification(data=DIGITS.take(split), image_size=8),),
    )


def search(space: dict[str, Any] | None = None, **fields: Any) -> Search:
    given = {"upstream": pretraining().key, "model": MODEL, "tasks": (task(),), "space": space or {"lr_peak": RATES}}
    return Search(**{**given, **fields})


def trials(made: Search, best: Params) -> list[Trial]:
    """Each point of the grid, with one that is better than the others."""
    return [Trial(point, 0.9 if point == best else 0.5) for point in grid_points(made)]


def beyond_best(space: dict[str, Any], best: Params, **fields: Any) -> Params | None:
    made = search(space, **fields)
    told = trials(made, best)
    decided = chosen(told)
    assert decided is not None
    assert decided.params == best
    return beyond(made, told, decided)


positive = st.floats(1e-6, 1.0, exclude_max=True)
rates = st.lists(positive, min_size=1, max_size=5, unique=True)
spaces = st.fixed_dictionaries(
    {"lr_peak": rates},
    optional={
        "weight_decay": st.lists(positive, min_size=1, max_size=3, unique=True),
        "batch": st.lists(st.integers(1, 64), min_size=1, max_size=3, unique=True),
        "steps": st.lists(st.integers(11, 99), min_size=1, max_size=3, unique=True),
        "clip_norm": st.lists(st.none() | positive, min_size=1, max_size=3, unique=True),
    },
)


@given(spaces)
def test_a_grid_has_each_combination_once_and_in_the_order_written(space: dict[str, list[Any]]) -> None:
    points = grid_points(search(space))
    assert [tuple(point.values()) for point in points] == list(itertools.product(*space.values()))
    assert all(list(point) == list(space) for point in points)
    assert max(Counter(map(canonical_json, points)).values()) == 1


@given(st.lists(st.none() | st.floats(0, 1), max_size=8))
def test_the_highest_accuracy_is_chosen_and_of_equal_ones_the_first(values: list[float | None]) -> None:
    told = [Trial({"lr_peak": float(number)}, value) for number, value in enumerate(values)]
    best = chosen(told)
    known = [value for value in values if value is not None]
    if not known:
        assert best is None
        return
    assert best is not None
    assert best is told[values.index(max(known))]


def test_the_best_at_the_top_is_followed_by_the_ratio_of_the_last_two() -> None:
    assert beyond_best({"lr_peak": RATES}, {"lr_peak": 3e-2}) == {"lr_peak": 0.09}
    assert beyond_best({"lr_peak": RATES[::-1]}, {"lr_peak": 3e-2}) == {"lr_peak": 0.09}


def test_the_best_at_the_bottom_is_followed_by_the_ratio_of_the_first_two() -> None:
    assert beyond_best({"lr_peak": RATES}, {"lr_peak": 1e-3}) == {"lr_peak": 0.000333333}


def test_a_best_inside_is_not_followed() -> None:
    assert beyond_best({"lr_peak": RATES}, {"lr_peak": 1e-2}) is None


def test_whole_numbers_go_on_as_whole_numbers() -> None:
    found = beyond_best({"steps": [20, 30]}, {"steps": 30})
    assert found == {"steps": 45}
    assert found is not None
    assert isinstance(found["steps"], int)
    assert beyond_best({"batch": [2, 3]}, {"batch": 2}) == {"batch": 1}


def test_fields_at_an_edge_go_on_and_the_others_stay() -> None:
    space = {"lr_peak": [0.1, 0.2], "weight_decay": [0.1, 0.2, 0.4], "optimizer": [{"kind": "sgd"}, {"kind": "adamw"}]}
    best = {"lr_peak": 0.2, "weight_decay": 0.2, "optimizer": {"kind": "sgd"}}
    assert beyond_best(space, best) == {**best, "lr_peak": 0.4}


def test_a_value_that_the_field_cannot_have_is_not_tried() -> None:
    assert beyond_best({"dropout": [0.5, 0.9]}, {"dropout": 0.9}) is None
    assert beyond_best({"warmup_steps": [10, 39]}, {"warmup_steps": 39}) is None
    assert beyond_best({"batch": [1, 3]}, {"batch": 1}) is None


def test_a_null_among_numbers_is_no_edge_and_breaks_none() -> None:
    space = {"clip_norm": [None, 1.0, 2.0]}
    assert beyond_best(space, {"clip_norm": None}) is None
    assert beyond_best(space, {"clip_norm": 2.0}) == {"clip_norm": 4.0}


def test_a_zero_at_the_end_is_followed_by_an_even_step() -> None:
    assert beyond_best({"weight_decay": [0.0, 0.1]}, {"weight_decay": 0.1}) == {"weight_decay": 0.2}
    assert beyond_best({"weight_decay": [0.0, 0.1]}, {"weight_decay": 0.0}) is None


def test_a_search_goes_beyond_its_edge_once_and_only_where_it_shall() -> None:
    made = search()
    told = trials(made, {"lr_peak": 3e-2})
    further = Trial({"lr_peak": 0.09}, 1.0)
    assert beyond(made, [*told, further], further) is None
    assert at_edge(made, [*told, further], further) == {"lr_peak": "high"}
    assert beyond_best({"lr_peak": RATES}, {"lr_peak": 3e-2}, extend=False) is None


@given(spaces, st.data())
def test_a_point_beyond_is_new_possible_and_outside_of_what_was_tried(
    space: dict[str, Any], data: st.DataObject
) -> None:
    made = search(space)
    points = grid_points(made)
    best = data.draw(st.sampled_from(points))
    told = trials(made, best)
    found = beyond(made, told, Trial(best, 0.9))
    if found is None:
        return
    assert found not in points
    for name, side in at_edge(made, told, Trial(best, 0.9)).items():
        tried = [point[name] for point in points if point[name] is not None]
        assert found[name] < min(tried) if side == "low" else found[name] > max(tried)
        assert type(found[name]) is type(best[name])
    PlannedSearch(made, pretraining(), "fine-tuning").trial_runs(found)


def planned(made: Search) -> PlannedSearch:
    return PlannedSearch(made, pretraining(), "fine-tuning")


@settings(max_examples=20, deadline=None)
@given(spaces, st.integers(1, 3), st.integers(1, 3))
def test_the_price_of_a_search_is_that_of_all_that_it_makes(space: dict[str, Any], tasks: int, seeds: int) -> None:
    made = planned(search(space, tasks=(task(),) * tasks, seeds=tuple(range(seeds))))
    points = grid_points(made.search)
    trial_runs = [run for point in points for run in made.trial_runs(point)]
    finals = [made.final_runs(point) for point in points]
    assert made.trials == len(points)
    assert made.runs == len(trial_runs) + len(finals[0])
    dearest = max(sum(run.flops for run in each) for each in finals)
    assert made.flops == pytest.approx(sum(run.flops for run in trial_runs) + dearest)
    assert made.images == sum(run.images for run in trial_runs) + max(
        sum(run.images for run in each) for each in finals
    )


def test_a_trial_is_one_training_a_task_that_watches_its_development_split() -> None:
    made = planned(search(tasks=(task(), task(steps=50)), every=20))
    runs = made.trial_runs({"lr_peak": 1e-3})
    assert [(each.role, each.steps, each.training.data.rows) for each in runs] == [
        ("trial", 40, 200),
        ("trial", 50, 200),
    ]
    watch = runs[0].training.watches[0]
    assert (watch.data.split, watch.every, watch.keep) == ("validation", 20, "last")
    assert {each.sweep for each in runs} == {made.key}
    assert json.loads(str(runs[0].searched)) == {"lr_peak": 1e-3}


def test_the_choice_is_trained_on_the_whole_split_by_each_seed_and_evaluated() -> None:
    made = planned(search(seeds=(0, 7)))
    runs = made.final_runs({"lr_peak": 1e-2})
    assert [each.run.kind for each in runs] == ["finetune", "evaluate"] * 2
    for tuning, evaluation in zip(runs[::2], runs[1::2], strict=True):
        assert isinstance(tuning.run, FineTune)
        assert isinstance(evaluation.run, Evaluate)
        assert evaluation.run.upstream == tuning.key
        assert (tuning.run.data.rows, tuning.run.watches, tuning.run.recipe.lr_peak) == (1000, (), 1e-2)
    assert [each.training.seed for each in runs] == [0, 0, 7, 7]
    assert runs[0].train_flops == pretraining().train_flops


def test_searches_that_differ_in_any_field_have_other_names() -> None:
    base = search({"lr_peak": RATES, "weight_decay": (0.1, 0.2)})
    others = [
        base.model_copy(update=update)
        for update in (
            {"upstream": "ab" * 32},
            {"model": MODEL.model_copy(update={"width": 16})},
            {"tasks": (task(split="validation"),)},
            {"tasks": (task(), task())},
            {"trained": "head"},
            {"space": {"lr_peak": RATES[:3], "weight_decay": (0.1, 0.2)}},
            {"space": {"lr_peak": RATES[::-1], "weight_decay": (0.1, 0.2)}},
            {"sampler": "tpe", "trials": 4},
            {"sampler": "tpe", "trials": 5},
            {"pruner": "median"},
            {"every": 10},
            {"extend": False},
            {"seed": 1},
            {"seeds": (0, 1)},
        )
    ]
    assert len({key_of_search(each) for each in (base, *others)}) == 1 + len(others)
    assert key_of_search(Search.model_validate_json(base.model_dump_json())) == key_of_search(base)


@pytest.mark.parametrize("limits", [(0.001, 0.1), (20, 80)])
def test_a_range_keeps_its_kind_of_number_through_json(limits: tuple[float, float]) -> None:
    made = Range(low=limits[0], high=limits[1])
    back = Range.model_validate_json(made.model_dump_json())
    assert (type(back.low), type(back.high)) == (type(limits[0]), type(limits[1]))


@pytest.mark.parametrize(
    ("fields", "at", "sentence"),
    [
        ({"space": {"lr_peak": ("fast", 1.0)}}, ("space", "lr_peak", 0), "lr_peak: Input should be a valid number"),
        ({"space": {"lr_peek": (0.1, 1.0)}}, ("space", "lr_peek", 0), "is no field of a recipe"),
        ({"space": {"lr_peak": (0.1, 0.1)}}, ("space", "lr_peak"), "one of them is there twice"),
        ({"space": {"warmup_steps": (10, 40)}}, ("space", "warmup_steps", 1), "a warm-up of 40 steps needs a longer"),
        ({"sampler": "tpe"}, ("sampler",), "needs 'trials'"),
        ({"pruner": "halving"}, ("pruner",), "give 'every'"),
    ],
)
def test_an_impossible_search_says_which_of_its_fields_makes_it_so(
    fields: dict[str, Any], at: tuple[str | int, ...], sentence: str
) -> None:
    with pytest.raises(ValidationError, match=sentence) as caught:
        search(**fields)
    cause = caught.value.errors()[0]["ctx"]["error"]
    assert isinstance(cause, Impossible)
    assert cause.at == at
