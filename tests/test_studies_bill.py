"""The bill of a study: what trunks save, what searches take, and what is left when a part is done."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from studies.bill import Bill, as_json, bill, keys_of
from studies.datasets import DIGITS
from studies.definitions import SGD, Classification, Recipe, Train
from studies.devices import device_facts
from studies.grid import Study, load_study
from studies.models import fine_tuned
from studies.schedules import Cosine
from studies.searches import PlannedSearch, Search, Task, beyond, grid_points
from studies.searches import Trial as Tried

TEXT = """\
name: mini
title: A title
source: A source
shows: Something
shapes: {ViT: {xs: {width: 32, depth: 2, mlp: 64, heads: 2}}}
defaults:
  model: ViT-xs/4
  data: digits
  head: gap
  recipe: {base: small, schedule: {kind: rsqrt, timescale: 50, cooldown_steps: 20}}
"""
RATES = (1e-3, 3e-3, 1e-2)


def study(folder: Path, text: str) -> Study:
    path = folder / "study.yaml"
    path.write_text(TEXT + text)
    return load_study(path)


def search_of(made: Study, **fields: Any) -> PlannedSearch:
    """A search of three rates on the digits, on the first training."""
    planned = made.runs[0]
    assert isinstance(planned.run, Train)
    recipe = Recipe(optimizer=SGD(), lr_peak=1e-3, schedule=Cosine(), warmup_steps=2, weight_decay=0, batch=50)
    task = Task(
        search=DIGITS.take("train", 500),
        development=DIGITS.take("validation"),
        whole=DIGITS.take("train"),
        image_size=8,
        recipe=recipe,
        steps=10,
        evaluations=(Classification(data=DIGITS.take("test"), image_size=8),),
    )
    search = Search.model_validate(
        {
            "upstream": planned.key,
            "model": fine_tuned(planned.run.model),
            "tasks": (task,),
            "space": {"lr_peak": RATES},
            **fields,
        }
    )
    return PlannedSearch(search, planned, "fine-tuning")


def priced(made: Study, known: dict[str, str] | None = None) -> Bill:
    return bill(made, known or {}, device_facts("cpu"), 1, None, None)


def test_the_bill_says_what_trunks_save(tmp_path: Path) -> None:
    shared = priced(study(tmp_path, "grids: [{steps: [100, 200, 400]}]"))
    alone = [priced(study(tmp_path, f"grids: [{{steps: {steps}}}]")).flops for steps in (100, 200, 400)]
    assert shared.flops_saved == sum(alone) - shared.flops
    assert shared.flops_saved / sum(alone) == pytest.approx((80 + 180) / 700)
    assert (shared.trainings, shared.trunks) == (3, 2)
    assert priced(study(tmp_path, "grids: [{steps: 100}]")).flops_saved == 0


def test_a_trunk_is_to_be_paid_for_as_long_as_somebody_starts_from_it(tmp_path: Path) -> None:
    made = study(tmp_path, "grids: [{steps: [100, 200, 400]}]")
    trunk, short, second, middle, long = made.runs
    assert priced(made, {short.key: "done"}).flops_left == sum(each.flops for each in (trunk, second, middle, long)), (
        "the second trunk starts from the first"
    )
    assert priced(made, {each.key: "done" for each in (short, middle)}).flops_left == sum(
        each.flops for each in (trunk, second, long)
    )
    assert priced(made, {each.key: "done" for each in (short, middle, long)}).flops_left == 0


def test_evaluations_on_the_way_are_a_part_of_the_price(tmp_path: Path) -> None:
    made = study(tmp_path, "grids: [{steps: 100}]\nevaluations: [{kind: split, split: validation, every: 50}]")
    training, evaluation = made.runs
    assert priced(made).flops_watched == 2 * evaluation.flops
    assert training.flops == training.train_flops + 2 * evaluation.flops
    assert as_json(made, priced(made))["total"]["flops_watched"] == 2 * evaluation.flops


def test_searches_are_in_the_total(tmp_path: Path) -> None:
    made = study(tmp_path, "grids: [{steps: 100}]")
    search = search_of(made)
    with_search = replace(made, searches=(search,))
    found = priced(with_search)
    assert found.flops == found.flops_left == priced(made).flops + search.flops
    assert found.images_left == priced(made).images_left + search.images
    written = as_json(with_search, found)
    assert written["total"]["searches"] == 1
    assert written["total"]["search_runs"] == written["searches"][0]["runs"] == search.runs == 3 + 3 * 2
    assert written["searches"][0]["trials"] == 3
    assert written["searches"][0]["memory_bytes"] > 0


def test_what_a_search_has_done_is_not_paid_again(tmp_path: Path) -> None:
    made = study(tmp_path, "grids: [{steps: 100}]")
    search = search_of(made)
    made = replace(made, searches=(search,))
    points = grid_points(search.search)
    first = [run for point in points[:2] for run in search.trial_runs(point)]
    before = priced(made)
    after = priced(made, {run.key: "done" for run in first})
    assert before.flops_left - after.flops_left == pytest.approx(sum(run.flops for run in first))
    assert (before.done, after.done) == (0, 2)


@pytest.mark.parametrize("best", [0, 1, 2])
def test_nothing_is_left_of_a_search_whose_choice_was_measured_even_beyond_the_edge(tmp_path: Path, best: int) -> None:
    made = study(tmp_path, "grids: [{steps: 100}]")
    search = search_of(made)
    made = replace(made, searches=(search,))
    points = grid_points(search.search)
    tried = [Tried(point, 0.0) for point in points]
    choice = beyond(search.search, tried, tried[best]) or points[best]
    assert (choice in points) == (best == 1)
    done = [run for point in [*points, choice] for run in search.trial_runs(point)] + search.final_runs(choice)
    found = priced(made, {run.key: "done" for run in [*made.runs, *done]})
    assert found.flops_left == 0
    assert {run.key for run in done} - set(keys_of(made)) <= {run.key for run in search.trial_runs(choice)}
    assert {run.key for run in search.final_runs(choice)} <= set(keys_of(made))


def test_searches_by_samplers_are_priced_by_their_number_of_trials(tmp_path: Path) -> None:
    made = study(tmp_path, "grids: [{steps: 100}]")
    search = search_of(made, sampler="tpe", trials=5, space={"lr_peak": {"low": 1e-3, "high": 1e-1}})
    found = priced(replace(made, searches=(search,)))
    (row,) = found.searches
    assert (row.runs, row.planned.trials, row.flops) == (5 + 6, 5, search.flops)
    assert keys_of(replace(made, searches=(search,))) == keys_of(made)


def test_a_search_that_will_not_fit_is_said(tmp_path: Path) -> None:
    made = study(tmp_path, "grids: [{steps: 100}]")
    made = replace(made, searches=(search_of(made),))
    small = bill(made, {made.runs[0].key: "done"}, device_facts("cpu"), 1, None, 1000)
    assert [(model, runs) for (model, _), (_, runs) in small.misfits.items()] == [("ViT-xs/4", 1)]
