"""What studies say about evaluations on the way, few-shot draws and mappings, and what trainings make of it."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from studies.definitions import Evaluate, FewShot, FewShotWatch, SplitWatch, Train
from studies.grid import Study, load_study
from studies.planned import watched_steps
from studies.yaml_source import StudyError

HEAD = """\
name: mini
title: A title
source: A source
shows: Something
shapes: {ViT: {xs: {width: 32, depth: 2, mlp: 64, heads: 2}}}
defaults: {model: ViT-xs/4, data: digits, recipe: small, head: gap, epochs: 40}
"""
GRID = "grids: [{seed: 0}]\n"


def study(folder: Path, text: str) -> Study:
    path = folder / "study.yaml"
    path.write_text(HEAD + text)
    return load_study(path, "study.yaml")


def error(folder: Path, text: str) -> str:
    with pytest.raises(StudyError) as caught:
        study(folder, text)
    return str(caught.value)


def trained(made: Study) -> Train:
    run = made.runs[0].run
    assert isinstance(run, Train)
    return run


def test_an_evaluation_with_every_is_a_watch_of_the_training_and_a_run_after_it(tmp_path: Path) -> None:
    made = study(
        tmp_path,
        GRID + "evaluations:\n"
        "  - {kind: split, split: validation, every: 100, keep: best}\n"
        "  - {kind: fewshot, shots: [1, 5], every: 400}\n"
        "  - {kind: split, split: test}\n",
    )
    split, fewshot = trained(made).watches
    assert isinstance(split, SplitWatch)
    assert isinstance(fewshot, FewShotWatch)
    assert (split.data.split, split.every, split.keep) == ("validation", 100, "best")
    assert (fewshot.every, fewshot.keep, fewshot.support_seeds) == (400, "last", (0, 1, 2))
    assert [each.run.kind for each in made.runs] == ["train", "evaluate", "fewshot", "evaluate"]
    assert all(each.upstream == made.runs[0].key for each in made.runs[1:])


def test_a_training_without_evaluations_on_the_way_has_the_key_that_it_had(tmp_path: Path) -> None:
    bare = study(tmp_path, GRID)
    assert study(tmp_path, GRID + "evaluations: [{kind: split, split: test}]").runs[0].key == bare.runs[0].key
    watched = study(tmp_path, GRID + "evaluations: [{kind: split, split: test, every: 100}]")
    assert watched.runs[0].key != bare.runs[0].key


@given(st.integers(1, 200), st.booleans())
def test_automatic_evaluations_see_one_image_for_forty_that_are_trained_on_at_the_most(
    tmp_path_factory: pytest.TempPathFactory, epochs: int, with_fewshot: bool
) -> None:
    fewshot = "  - {kind: fewshot, shots: 5, every: auto}\n" if with_fewshot else ""
    text = (
        f"grids: [{{epochs: {epochs}}}]\nevaluations:\n  - {{kind: split, split: validation, every: auto}}\n{fewshot}"
    )
    made = study(tmp_path_factory.mktemp("auto"), text)
    run = trained(made)
    images = 297 + (500 + 5 * 10 * 3 if with_fewshot else 0)
    fewest = -(-images * 40 // run.recipe.batch)
    assert {watch.every for watch in run.watches} <= {fewest}
    assert bool(run.watches) == (fewest < run.steps)
    if run.watches:
        on_the_way = watched_steps(fewest, run.steps)[:-1]
        assert 40 * images * len(on_the_way) <= run.examples
        assert 40 * images > run.recipe.batch * (fewest - 1), "no smaller number of steps would do"


def test_evaluations_at_fixed_steps_leave_less_room_to_automatic_ones(tmp_path: Path) -> None:
    text = "evaluations: [{kind: split, split: test, every: auto}, {kind: split, split: validation, every: 1000}]"
    alone = study(tmp_path, GRID + "evaluations: [{kind: split, split: test, every: auto}]")
    beside = study(tmp_path, GRID + text)
    # 297 images every 1,000 steps of 25 leave less than the fortieth to the other 500.
    assert trained(alone).watches[0].every == 500 * 40 // 25
    assert trained(beside).watches[0].every == 1525
    assert (500 / (1525 * 25) + 297 / 25_000) <= 1 / 40 < (500 / (1524 * 25) + 297 / 25_000)


def test_the_older_evaluator_draws_the_first_images_and_chooses_among_penalties(tmp_path: Path) -> None:
    made = study(tmp_path, GRID + "evaluations: [{kind: fewshot, shots: 5, draw: first, l2: [1, 1024]}]")
    run = made.runs[1].run
    assert isinstance(run, FewShot)
    assert (run.draw, run.support_seeds, run.l2) == ("first", (0,), (1.0, 1024.0))


def test_a_mapping_is_read_beside_the_study(tmp_path: Path) -> None:
    (tmp_path / "to-shapes.csv").write_text("network,data\n" + "".join(f"{label},{label + 5}\n" for label in range(9)))
    made = study(tmp_path, GRID + "evaluations: [{kind: split, data: shapes, split: test, mapping: to-shapes.csv}]\n")
    run = made.runs[1].run
    assert isinstance(run, Evaluate)
    assert run.mapping == (5, 6, 7, 8, 9, 10, 11, 12, 13, -1)


def test_masked_patch_models_have_few_shot_evaluations_and_a_name(tmp_path: Path) -> None:
    made = study(
        tmp_path,
        "grids:\n"
        "  - model:\n"
        "      - {base: ViT-xs/4, masked: mean-color}\n"
        "      - {base: ViT-xs/4, masked: pixels, corrupted: 0.25, position: none}\n"
        "      - {base: ViT-xs/4, position: none}\n"
        "    head: token\n"
        "evaluations: [{kind: fewshot, shots: 5}]\n",
    )
    trainings = {each.model: each for each in made.runs if each.run.kind == "train"}
    assert set(trainings) == {
        "ViT-xs/4 masked=mean-color",
        "ViT-xs/4 corrupted=0.25 masked=pixels position=none",
        "ViT-xs/4 position=none",
    }
    first = trainings["ViT-xs/4 masked=mean-color"]
    assert first.family == "Masked-ViT"
    assert first.training.model.kind == "masked-patch"
    assert first.training.model.corrupted == 0.5
    assert [each.run.kind for each in made.runs] == ["train", "fewshot"] * 3


def test_masked_patch_models_may_be_written_out_and_need_no_axis_of_heads(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    vit = "{kind: vit, patch: 4, width: 8, depth: 1, mlp: 8, heads: 1, head: token}"
    path.write_text(
        HEAD.replace(", head: gap", "").replace("model: ViT-xs/4, ", "")
        + f"grids: [{{model: [{{kind: masked-patch, vit: {vit}}}, {{base: ViT-xs/4, masked: pixels}}]}}]\n"
    )
    made = load_study(path)
    assert {(each.model, each.family) for each in made.runs} == {
        ("vit 8x1 mlp 8 heads 1 /4 masked=mean-color", "Masked-ViT"),
        ("ViT-xs/4 masked=pixels", "Masked-ViT"),
    }


def test_the_length_of_a_training_is_given_in_steps_too(tmp_path: Path) -> None:
    made = study(tmp_path, "grids: [{steps: [40, 100], subset: 500}]")
    assert [(each.steps, each.epochs) for each in made.runs] == [(40, 2.0), (100, 5.0)]


def test_trainings_by_the_reciprocal_square_root_come_after_their_trunks(tmp_path: Path) -> None:
    made = study(
        tmp_path,
        "grids:\n"
        "  - steps: [200, 100, 400]\n"
        "    recipe: {base: small, schedule: {kind: rsqrt, timescale: 50, cooldown_steps: 20}}\n"
        "evaluations: [{kind: split, split: test}]\n",
    )
    assert [(each.run.kind, each.role, each.steps) for each in made.runs] == [
        ("train", "trunk", 80),
        ("train", None, 100),
        ("evaluate", None, 0),
        ("train", "trunk", 180),
        ("train", None, 200),
        ("evaluate", None, 0),
        ("train", None, 400),
        ("evaluate", None, 0),
    ]


def test_automatic_evaluations_keep_trainings_of_several_lengths_on_one_trunk(tmp_path: Path) -> None:
    made = study(
        tmp_path,
        "grids:\n"
        "  - steps: [2170, 1000, 4000]\n"
        "    recipe: {base: small, schedule: {kind: rsqrt, timescale: 50, cooldown_steps: 20}}\n"
        "evaluations: [{kind: split, split: validation, every: auto}]\n",
    )
    assert sum(each.role == "trunk" for each in made.runs) == 2
    assert {watch.every for each in made.runs if isinstance(each.run, Train) for watch in each.run.watches} == {476}


MASKED = "grids: [{model: {base: ViT-xs/4, masked: mean-color}, head: token}]\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            GRID + "evaluations: [{kind: split, split: test, keep: best}]",
            "8:48: keep: best has no effect on an evaluation at the end alone: give 'every', in steps or auto",
        ),
        (
            GRID + "evaluations:\n  - {kind: split, split: test, every: 10, keep: best}\n"
            "  - {kind: fewshot, shots: 5, every: 10, keep: best}",
            "10:48: one evaluation decides which weights are kept: see line 9",
        ),
        (GRID + "evaluations: [{kind: split, split: test, every: often}]", "8:49: evaluations.0.every: 'often'"),
        (GRID + "evaluations: [{kind: split, split: test, every: 0}]", "8:49: evaluations.0.every: 0 should be"),
        (
            "grids: [{epochs: 1}]\nevaluations: [{kind: split, split: test, every: auto, keep: best}]",
            "8:49: a training of 40 steps is too short for 'auto', which takes 800: give 'every' in steps",
        ),
        (
            GRID + "evaluations:\n  - {kind: split, split: test, every: 10}\n"
            "  - {kind: split, split: validation, every: auto}",
            "10:45: 'auto' finds no room: the other evaluations see 200 % as many images as are trained on",
        ),
        (
            GRID + "evaluations: [{kind: fewshot, shots: 5, draw: first, seeds: [0, 1]}]",
            "8:61: the first images of each class are one support: give one seed",
        ),
        (
            GRID + "evaluations: [{kind: split, data: shapes, split: test}]",
            "8:35: shapes has 32 classes, and the models are trained for 10: a 'mapping' says which are the same",
        ),
        (GRID + "evaluations: [{kind: split, split: test, mapping: absent.csv}]", "8:51: "),
        (
            MASKED + "evaluations: [{kind: split, split: test}]",
            "8:15: a masked-patch model knows no classes: give few-shot evaluations, or 'transfers'",
        ),
        ("grids: [{model: {base: ViT-xs/4, masked: mean}, head: token}]", "7:42: Input should be 'mean-color'"),
        ("grids: [{model: {base: ViT-xs/4, masked: pixels}}]", "7:42: masked patches are read from their own tokens"),
        ("grids: [{model: {base: R50x1, masked: pixels}}]", "7:24: 'R50x1' is no ViT"),
        ("grids: [{model: {base: ViT-xs/4, corrupted: 0.1}}]", "7:34: unknown key 'corrupted'"),
        ("grids: [{steps: 10, epochs: 1}]", "7:17: 'epochs' and 'steps' both say how long to train: keep one"),
        ("grids: [{steps: 0}]", "7:17: grids.0.steps: 0 should be greater than 0"),
        ("grids: [{steps: 10}]", "7:17: a warm-up of 10 steps needs a longer training than 10 steps"),
        (
            "grids: [{steps: 100, recipe: {base: small, schedule: {kind: rsqrt, cooldown_steps: 95}}}]",
            "7:17: a warm-up of 10 steps and a cooldown of 95 need a longer training than 100 steps",
        ),
        (
            "grids: [{epochs: [40, 2], recipe: {base: small, schedule: {kind: rsqrt, cooldown_steps: 95}}}]",
            "7:23: a warm-up of 10 steps and a cooldown of 95 need a longer training than 80 steps",
        ),
        (
            "grids: [{recipe: {base: small, stochastic_depth: 0.1}, model: R50x1}]",
            "7:18: stochastic_depth has no effect on a ResNet",
        ),
    ],
)
def test_what_a_study_says_wrongly_about_evaluations_and_lengths_is_named_at_its_place(
    tmp_path: Path, text: str, message: str
) -> None:
    assert f"study.yaml:{message}" in error(tmp_path, text + "\n")
