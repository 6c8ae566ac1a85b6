"""Suites of tasks: which there are, that their images are known, and how their score is made."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from studies.augmentations import NO_CROP, NO_FLIP
from studies.procedural import Shapes
from studies.recipes import RECIPES
from studies.registry import BUILT_IN_ONLY
from studies.vtab import LAPTOP, SUITES, VTAB_1K, group_means, task_of


def test_vtab_has_seven_natural_four_specialized_and_eight_structured_tasks() -> None:
    assert {group: len(names) for group, names in VTAB_1K.groups.items()} == {
        "natural": 7,
        "specialized": 4,
        "structured": 8,
    }
    assert len(set(VTAB_1K.tasks)) == 19


def test_tasks_whose_labels_an_augmentation_would_change_are_tasks_of_vtab() -> None:
    assert {task_of(name) for name in VTAB_1K.tasks} > NO_FLIP | NO_CROP
    assert task_of("pets") is None
    assert task_of("shapes-usual-1") is None


@pytest.mark.parametrize("suite_name", SUITES)
def test_each_task_has_a_thousand_images_of_which_two_hundred_choose(suite_name: str) -> None:
    suite = SUITES[suite_name]
    for name in suite.tasks:
        data_set = BUILT_IN_ONLY.get(name)
        splits = (suite.splits.search, suite.splits.development, suite.splits.whole)
        assert [data_set.take(str(split)).rows for split in splits] == [800, 200, 1000]
        assert data_set.take(suite.splits.test).rows >= 700
        assert data_set.channels == 3
    assert suite.recipe in RECIPES


def test_the_papers_setting_of_vtab_is_001_for_2500_steps_at_384_pixels_with_bits_crops() -> None:
    recipe = RECIPES[VTAB_1K.recipe]
    assert (VTAB_1K.steps, VTAB_1K.image_size, recipe.lr_peak, recipe.batch) == (2_500, 384, 0.01, 512)
    assert recipe.augmentation.model_dump()["crop"] == {"kind": "random-crop", "resize": 448, "keep_aspect": False}


def test_a_laptops_tasks_are_other_images_and_its_search_and_development_splits_share_none() -> None:
    sets = [BUILT_IN_ONLY.get(name) for name in LAPTOP.tasks]
    assert all(isinstance(each.origin, Shapes) for each in sets)
    assert len({each.take("train800").fingerprint for each in (*sets,)} | {None}) == len(sets) + 1
    for each in sets:
        searched, development, whole = (each.selection(split) for split in ("train800", "val200", "train800val200"))
        cuts = [selection.steps[-1] for selection in (searched, development, whole)]
        assert [(cut.start, cut.rows, cut.shuffled) for cut in cuts if not hasattr(cut, "lists")] == [
            (0, 800, None),
            (800, 200, None),
            (0, 1000, None),
        ]


@given(st.lists(st.floats(0, 1), min_size=19, max_size=19))
def test_the_score_is_the_mean_of_the_tasks_and_not_of_the_groups(values: list[float]) -> None:
    means = group_means(dict(zip(VTAB_1K.tasks, values, strict=True)))
    assert list(means) == ["natural", "specialized", "structured", "mean"]
    assert means["mean"] == pytest.approx(sum(values) / 19)
    weighted = 7 * means["natural"] + 4 * means["specialized"] + 8 * means["structured"]
    assert means["mean"] == pytest.approx(weighted / 19)


def test_a_score_needs_every_task_and_no_other() -> None:
    values = dict.fromkeys(LAPTOP.tasks, 0.5)
    assert group_means(values, LAPTOP) == {"plain": 0.5, "usual": 0.5, "messy": 0.5, "mean": 0.5}
    with pytest.raises(ValueError, match=r"no score yet: shapes-plain-1 of its 6 tasks missing"):
        group_means(dict.fromkeys(LAPTOP.tasks[1:], 0.5), LAPTOP)
    with pytest.raises(ValueError, match="digits: no task of vtab-laptop"):
        group_means({**values, "digits": 1.0}, LAPTOP)
