"""Transfers of a study: what they make of a pre-training, and that every fault is named with its place."""

import json
from pathlib import Path
from typing import Any

import pytest

from studies import cost
from studies.datasets import BUILT_IN, DataSet, Part, StoredSplit
from studies.definitions import Evaluate, FineTune, Train
from studies.known_sizes import KNOWN_SIZES
from studies.language import load
from studies.models import AnyModel, MaskedPatch, ResNet, ViT
from studies.planned import PlannedRun
from studies.recipes import RECIPES, recipe
from studies.registry import Registry
from studies.searches import PlannedSearch, Range
from studies.transfers import check_models, planned_transfers
from studies.vtab import LAPTOP, VTAB_1K
from studies.yaml_source import StudyError

HEAD = """\
name: mini
title: A title
source: A source
shows: Something
grids: [{model: ViT-B/16, data: shapes, recipe: small, epochs: 1}]
transfers:
"""
TINY = ViT(patch=4, width=16, depth=2, mlp=32, heads=2)
BASE = ViT(patch=16, width=768, depth=12, mlp=3072, heads=12)
A, B = "aa" * 32, "bb" * 32


def named(name: str, *, channels: int = 3, image_size: int | None = 32, multi_label: bool = False) -> DataSet:
    """A set with a development split cut from its training images."""
    return DataSet(
        name=name,
        origin=None,
        splits={
            "train": StoredSplit(rows=5_000, fingerprint=A),
            "test": StoredSplit(rows=1_000, fingerprint=B),
            "development": Part(of="train", stop="2%"),
            "remaining": Part(of="train", start="2%"),
        },
        classes=10,
        channels=channels,
        image_size=image_size,
        multi_label=multi_label,
        source="tests",
    )


SETS = [
    named("birds"),
    named("plants"),
    named("gray", channels=1),
    named("many", multi_label=True),
    named("leaky").model_copy(
        update={"splits": {k: v for k, v in named("leaky").splits.items() if k != "remaining"}},
    ),
]
REGISTRY = Registry({**KNOWN_SIZES, **BUILT_IN, **{each.name: each for each in SETS}}, None)


def pretraining(model: AnyModel = TINY, image_size: int = 32) -> PlannedRun:
    name = "masked-patch" if isinstance(model, MaskedPatch) else "small"
    run = Train(
        model=model,
        data=BUILT_IN["shapes"].take("train", 1000),
        image_size=image_size,
        recipe=recipe(name, {"batch": 100, "warmup_steps": 10}),
        examples=4000,
        seed=0,
    )
    return PlannedRun(run, run, "ViT-xs/4", "ViT", 4.0)


Made = tuple[list[PlannedRun], list[PlannedSearch]]


def transfers(folder: Path, text: str, planned: PlannedRun | None = None) -> Made:
    path = folder / "study.yaml"
    path.write_text(HEAD + text)
    file, source = load(path, "study.yaml")
    return planned_transfers(file, source, REGISTRY, planned or pretraining())


def error(folder: Path, text: str, planned: PlannedRun | None = None) -> str:
    with pytest.raises(StudyError) as caught:
        transfers(folder, text, planned)
    return str(caught.value)


GIVEN = "  - {data: birds, steps: 600, image_size: 32"


def test_without_a_search_each_seed_is_a_fine_tuning_followed_by_its_evaluations(tmp_path: Path) -> None:
    planned = pretraining()
    runs, searches = transfers(tmp_path, "  - {data: [birds, plants], steps: 600, seeds: [0, 1]}", planned)
    assert not searches
    assert [(each.run.kind, each.training.data.name, each.training.seed) for each in runs] == [
        (kind, name, seed) for name in ("birds", "plants") for seed in (0, 1) for kind in ("finetune", "evaluate")
    ]
    assert {(each.transfer, each.role, each.pretraining, each.sweep) for each in runs} == {
        ("fine-tuning", None, planned.run, None)
    }
    tuning, evaluation = runs[0].run, runs[1].run
    assert isinstance(tuning, FineTune)
    assert isinstance(evaluation, Evaluate)
    assert tuning.upstream == planned.key
    assert evaluation.upstream == runs[0].key
    assert (tuning.data.split, tuning.data.rows, tuning.image_size, tuning.steps) == ("train", 5_000, 32, 600)
    assert tuning.recipe == RECIPES["fine-tuning"]
    assert evaluation.data.split == "test"
    assert len({each.key for each in runs}) == len(runs)


def test_the_tanh_layer_goes_and_a_masked_patch_model_leaves_its_transformer(tmp_path: Path) -> None:
    runs, _ = transfers(tmp_path, GIVEN + "}")
    assert runs[0].training.model == TINY.model_copy(update={"head": "token"})
    masked = MaskedPatch(vit=TINY.model_copy(update={"head": "token"}))
    runs, _ = transfers(tmp_path, GIVEN + "}", pretraining(masked))
    assert runs[0].training.model == masked.vit


def test_a_search_is_one_for_each_data_set_and_is_trained_without_what_decides(tmp_path: Path) -> None:
    text = "  - {name: sgd, data: [birds, plants], steps: 600, search: {lr_peak: [1, 3e-3, 1e-3]}, trained: head}"
    runs, searches = transfers(tmp_path, text)
    assert not runs
    assert [search.label for search in searches] == ["ViT-xs/4 @ birds", "ViT-xs/4 @ plants"]
    search = searches[0].search
    task = search.tasks[0]
    assert (task.search.split, task.development.split, task.whole.split) == ("remaining", "development", "train")
    assert (task.search.rows, task.development.rows, task.whole.rows) == (4_900, 100, 5_000)
    assert search.space == {"lr_peak": (1.0, 0.003, 0.001)}
    assert json.dumps(search.model_dump(mode="json")["space"]) == '{"lr_peak": [1.0, 0.003, 0.001]}'
    assert (search.trained, search.seeds, searches[0].transfer) == ("head", (0, 1, 2), "sgd")
    assert searches[0].key == transfers(tmp_path, text.replace("3e-3", "0.003"))[1][0].key


def test_one_search_for_all_chooses_together(tmp_path: Path) -> None:
    text = "  - {data: [birds, plants], steps: 600, choose: together, search: {lr_peak: [1e-3, 3e-3]}}"
    _, (search,) = transfers(tmp_path, text)
    assert [task.whole.name for task in search.search.tasks] == ["birds", "plants"]
    assert search.runs == 2 * 2 + 2 * 3 * 2


def test_a_set_without_a_development_split_is_chosen_on_its_validation_split(tmp_path: Path) -> None:
    text = "  - {data: shapes, subset: 2k, steps: 600, search: {lr_peak: [1e-3, 3e-3]}}"
    _, (search,) = transfers(tmp_path, text)
    task = search.search.tasks[0]
    assert (task.search, task.development.split, task.whole.rows) == (task.whole, "validation", 2_000)


def test_vtab_is_nineteen_tasks_with_one_setting_and_no_harmful_augmentation(tmp_path: Path) -> None:
    runs, _ = transfers(tmp_path, "  - {data: vtab-1k}", pretraining(BASE, 224))
    tunings = {each.run.data.name: each.run for each in runs if isinstance(each.run, FineTune)}
    assert set(tunings) == set(VTAB_1K.tasks)
    assert len(runs) == 19 * 3 * 2
    assert {(run.steps, run.recipe.lr_peak, run.image_size, run.data.rows) for run in tunings.values()} == {
        (2_500, 0.01, 384, 1_000)
    }
    orientation = tunings["vtab-dsprites-orientation"].recipe.augmentation
    count = tunings["vtab-clevr-count"].recipe.augmentation
    pets = tunings["vtab-pets"].recipe.augmentation
    assert (orientation.flip, orientation.crop.kind) == (False, "random-crop")
    assert (count.flip, count.crop.kind) == (True, "resize")
    assert (pets.flip, pets.crop.kind) == (True, "random-crop")


def test_a_search_on_a_suite_chooses_together_by_its_two_hundred_images(tmp_path: Path) -> None:
    _, (search,) = transfers(tmp_path, "  - {data: vtab-laptop, search: {lr_peak: [0.01, 0.03]}, steps: 50}")
    assert [task.whole.name for task in search.search.tasks] == list(LAPTOP.tasks)
    task = search.search.tasks[0]
    splits = [each.split for each in (task.search, task.development, task.whole, task.evaluations[0].data)]
    assert splits == ["train800", "val200", "train800val200", "test2000"]
    assert (task.steps, task.image_size, task.recipe.batch) == (50, 32, 32)


def test_bits_rule_decides_recipe_steps_and_resolution(tmp_path: Path) -> None:
    runs, _ = transfers(tmp_path, "  - {data: birds, recipe: {base: bit-hyperrule, lr_peak: 0.01}}")
    tuning = runs[0].run
    assert isinstance(tuning, FineTune)
    assert (tuning.steps, tuning.image_size, tuning.recipe.lr_peak, tuning.recipe.batch) == (500, 128, 0.01, 512)
    assert tuning.recipe.warmup_steps == 100


def test_epochs_are_of_the_whole_split(tmp_path: Path) -> None:
    runs, _ = transfers(tmp_path, "  - {data: birds, epochs: 20, recipe: {base: fine-tuning, warmup_steps: 5}}")
    assert runs[0].steps == 20 * 5_000 // 512
    assert runs[0].flops == cost.train_flops(runs[0].training.model, 32, 3, 10, 195 * 512)


def test_evaluations_may_be_of_another_set_of_the_same_classes_and_at_another_size(tmp_path: Path) -> None:
    text = GIVEN + ", seeds: 0, evaluations: [{kind: split, split: test}, {kind: split, split: test, data: plants"
    runs, _ = transfers(tmp_path, text + ", image_size: 64, view: center-crop}]}")
    found = [each.run for each in runs if isinstance(each.run, Evaluate)]
    assert [(run.data.name, run.image_size, run.view.kind) for run in found] == [
        ("birds", 32, "resize"),
        ("plants", 64, "center-crop"),
    ]


def test_a_transfer_may_be_of_some_models_and_two_of_one_name_may_be_of_different_models(tmp_path: Path) -> None:
    text = "  - {data: birds, steps: 600, models: ViT-xs/4}\n  - {data: birds, steps: 700, models: [ViT-m/4]}"
    runs, _ = transfers(tmp_path, text)
    assert {each.training.examples for each in runs} == {600 * 512}
    file, source = load(tmp_path / "study.yaml", "study.yaml")
    check_models(file, source, {"ViT-xs/4", "ViT-m/4"})
    with pytest.raises(StudyError, match=r"8:40: 'ViT-m/4' is no model that this study trains; did you mean 'ViT-m/2'"):
        check_models(file, source, {"ViT-xs/4", "ViT-m/2"})


def test_evaluations_of_other_classes_need_a_mapping(tmp_path: Path) -> None:
    (tmp_path / "same.csv").write_text("3,31\n")
    text = GIVEN + f", evaluations: [{{kind: split, split: test, data: shapes, mapping: {tmp_path}/same.csv}}]}}"
    runs, _ = transfers(tmp_path, text)
    run = runs[1].run
    assert isinstance(run, Evaluate)
    assert run.mapping == (-1, -1, -1, 31, -1, -1, -1, -1, -1, -1)


def test_a_range_of_whole_numbers_stays_one_and_of_rates_is_numbers(tmp_path: Path) -> None:
    text = "  - {data: birds, sampler: tpe, trials: 8, search: {lr_peak: {low: 1e-4, high: 1}"
    text += ", steps: {low: 600, high: 900}}}"
    _, (search,) = transfers(tmp_path, text)
    rate, steps = search.search.space["lr_peak"], search.search.space["steps"]
    assert isinstance(rate, Range)
    assert isinstance(steps, Range)
    assert [type(each) for each in (rate.high, steps.low)] == [float, int]
    assert search.trials == 8


SEARCH = "  - data: birds\n    steps: 600\n    search: {lr_peak: [1e-3, 3e-3]}\n"
FAULTS = [
    # What is written; what stands where the error points; what is wrong.
    (
        "  - {data: bird, steps: 600}",
        "bird, steps:",
        "'bird' is no data set; did you mean 'birds'?; no datasets.yaml was found",
    ),
    (
        "  - {data: [birds, bird], steps: 600}",
        "bird",
        "'bird' is no data set; did you mean 'birds'?; no datasets.yaml was found",
    ),
    ("  - {data: [birds, birds], steps: 600}", "[birds, birds", "data: birds is there twice"),
    ("  - {data: birds, steps: 600, seeds: [1, 1]}", "[1, 1", "seeds: 1 is there twice"),
    (
        "  - {data: gray, steps: 600}",
        "gray, steps:",
        "images of gray have 1 channel, and those of shapes, which the network is trained on, 3",
    ),
    (
        "  - {data: many, steps: 600}",
        "many, steps:",
        "images of many have lists of labels: take the loss sigmoid, not softmax",
    ),
    (
        "  - {data: many, steps: 600, search: {lr_peak: [1e-3, 3e-3]}}",
        "many, steps:",
        "images of many have lists of labels: take the loss sigmoid, not softmax",
    ),
    ("  - {data: shapes, steps: 600}", "shapes, steps:", "the train split of shapes is endless: give 'subset'"),
    (
        "  - {data: birds, subset: 6k, steps: 600}",
        "6k, steps:",
        "a subset of 6,000 images is larger than the train split of birds: 5,000",
    ),
    ("  - {data: birds}", "{data: birds", "how long is not said: give 'steps' or 'epochs'"),
    ("  - {data: birds, steps: 600, epochs: 3}", "epochs: 3", "'steps' and 'epochs' both say how long: keep one"),
    ("  - {data: birds, epochs: 0.01}", "0.01", "0.01 epochs of 5,000 images of birds are less than one batch of 512"),
    (
        "  - {data: birds, steps: 500}",
        "500",
        "a warm-up of 500 steps needs a longer training than 500 steps: give the recipe fewer warmup_steps",
    ),
    (
        "  - {data: birds, steps: 400, search: {lr_peak: [1e-3, 3e-3]}}",
        "400, search:",
        "a warm-up of 500 steps needs a longer training than 400 steps: give the recipe fewer warmup_steps",
    ),
    (
        "  - {data: birds, steps: 600, splits: {whole: trian}}",
        "trian",
        "'trian' is no split of birds; did you mean 'train'?",
    ),
    ("  - {data: birds, steps: 600, splits: {test: tst}}", "tst", "'tst' is no split of birds; did you mean 'test'?"),
    (
        "  - {data: birds, steps: 600, image_size: 30}",
        "30",
        "ViT-xs/4: patches of 4 pixels do not divide the image of 30 pixels; these do: 1, 2, 3, 5, 6, 10, 15, 30",
    ),
    (
        "  - {data: birds, steps: 600, recipe: fine-tunin}",
        "fine-tunin",
        "'fine-tunin' is no recipe; did you mean 'fine-tuning'?",
    ),
    (
        "  - {data: birds, steps: 600, recipe: {base: fine-tuning, lr_peek: 1}}",
        "lr_peek: 1",
        "unknown key 'lr_peek'; did you mean 'lr_peak'?",
    ),
    (
        "  - {data: birds, steps: 600, recipe: {base: fine-tuning, dropout: 2}}",
        "2",
        "transfers.0.recipe.dropout: 2 should be less than 1",
    ),
    (
        "  - {data: birds, steps: 9, recipe: bit-hyperrule}",
        "steps: 9",
        "'steps' has no effect: bit-hyperrule decides it",
    ),
    (
        "  - {data: birds, steps: 600, view: centre}",
        "centre",
        "'centre' is no view; valid: resize, center-crop, fewshot, or its fields",
    ),
    (
        "  - {data: birds, steps: 600}\n  - {data: plants, steps: 600}",
        "{data: plants",
        "the transfer of line 7 is called 'fine-tuning' too: give each its own 'name'",
    ),
    (
        "  - {data: birds, steps: 600}\n  - {name: b, data: birds, steps: 600}",
        "{name: b",
        "the transfer of line 7 does the same: keep one",
    ),
    (
        "  - {data: [vtab-1k, birds]}",
        "[vtab-1k, birds",
        "vtab-1k stands for 19 data sets: give others a transfer of their own",
    ),
    ("  - {data: birds, steps: 600, choose: together}", "choose: together", "'choose' has no effect without 'search'"),
    ("  - {data: birds, steps: 600, trials: 3}", "trials: 3", "'trials' has no effect without 'search'"),
    (
        "  - {data: birds, steps: 600, splits: {search: train}}",
        "search: train",
        "'splits.search' has no effect without 'search'",
    ),
    (GIVEN + ", evaluations: []}", "[", "transfers.0.evaluations: the list is empty"),
    (GIVEN + ", evaluations: [{kind: split, split: tst}]}", "tst", "'tst' is no split of birds; did you mean 'test'?"),
    (
        GIVEN + ", evaluations: [{kind: split, split: test, every: 5}]}",
        "every: 5",
        "'every' is for evaluations of pre-trainings: fine-tuned models are evaluated at the end",
    ),
    (
        GIVEN + ", evaluations: [{kind: split, split: test, data: digits}]}",
        "digits",
        "images of digits have 1 channel, and those of birds 3",
    ),
    (
        GIVEN + ", evaluations: [{kind: split, split: test, data: shapes}]}",
        "shapes",
        "shapes has 32 classes, and models are fine-tuned for the 10 of birds: a 'mapping' says which are the same",
    ),
    (
        GIVEN + ", evaluations: [{kind: split, split: test}, {kind: split, split: test}]}",
        "{kind: split",
        "'test' of birds is measured twice: see line 7",
    ),
    (SEARCH.replace("1e-3, 3e-3", "1e-3, fast"), "fast", "search.lr_peak.1: 'fast' should be a number"),
    (SEARCH.replace("1e-3, 3e-3", "1e-3, -1"), "-1", "search.lr_peak.1: -1 should be greater than 0"),
    (
        SEARCH.replace("1e-3, 3e-3", ""),
        "[",
        "a search needs a list of two values or more, or {low: ..., high: ...}; a single value is the recipe's",
    ),
    (
        SEARCH.replace("[1e-3, 3e-3]", "1e-3"),
        "1e-3",
        "a search needs a list of two values or more, or {low: ..., high: ...}; a single value is the recipe's",
    ),
    (
        SEARCH.replace("1e-3, 3e-3", "1e-3, 0.001"),
        "[1e-3, 0.001",
        "the values of lr_peak are none, or one of them is there twice",
    ),
    (
        SEARCH.replace("1e-3, 3e-3", "1, 1.0"),
        "[1, 1.0",
        "the values of lr_peak are none, or one of them is there twice",
    ),
    (
        SEARCH.replace("lr_peak", "lr_peek"),
        "lr_peek: [1e-3",
        "'lr_peek' is no field of a recipe; did you mean 'lr_peak'?",
    ),
    (
        SEARCH.replace("{lr_peak: [1e-3, 3e-3]}", "{}"),
        "search: {",
        "nothing is searched: give a recipe's field and its values",
    ),
    (
        SEARCH.replace("lr_peak: [1e-3, 3e-3]", "steps: [600, 700]"),
        "steps: 600",
        "'steps' has no effect while 'steps' are searched",
    ),
    (
        "  - {data: birds, search: {steps: [600, long]}}",
        "long",
        "'long' is no number of steps: give a whole number from 1",
    ),
    (
        "  - {data: birds, search: {steps: [400, 700]}}",
        "400, 700",
        "steps: a warm-up of 500 steps needs a longer training than 400 steps",
    ),
    (
        "  - {data: birds, epochs: 99, search: {batch: [256, 512]}}",
        "99, search:",
        "epochs are of one batch, and 'batch' is searched: give 'steps'",
    ),
    (
        SEARCH.replace("lr_peak: [1e-3, 3e-3]", "warmup_steps: [10, 900]"),
        "900",
        "warmup_steps: a warm-up of 900 steps needs a longer training than 600 steps",
    ),
    (
        SEARCH.replace("[1e-3, 3e-3]", "{low: 1e-3, high: 3e-3}"),
        "{low: 1e-3",
        "a grid needs a list of values for lr_peak: give one, or another sampler",
    ),
    (
        SEARCH.replace("[1e-3, 3e-3]", "{low: 3e-3, high: 1e-3}"),
        "{low: 3e-3",
        "a range goes from a smaller number to a larger one, and not from 0.003 to 0.001",
    ),
    (
        SEARCH.replace("[1e-3, 3e-3]", "{low: 3e-3, hgh: 1}"),
        "{low: 3e-3",
        "transfers.0.search.lr_peak: the key 'high' is missing",
    ),
    (SEARCH + "    trials: 4\n", "4", "'trials' has no effect on a grid: each of its points is tried once"),
    (SEARCH + "    sampler: tpe\n", "tpe", "the sampler tpe needs 'trials', the number of points to try"),
    (
        SEARCH + "    sampler: cma-es\n    trials: 4\n",
        "cma-es",
        "cma-es searches two ranges or more: give {low: ..., high: ...} for each field",
    ),
    (
        SEARCH + "    sampler: tpe\n    trials: 4\n    extend: false\n",
        "extend: false",
        "'extend' has no effect on the sampler tpe: a grid alone has edges",
    ),
    (SEARCH + "    pruner: median\n", "median", "the pruner median looks at trials on the way: give 'every', in steps"),
    (
        SEARCH + "    splits: {development: train, search: train}\n",
        "{development: train",
        "'train' of birds decides between trials and is in 'train', which they are trained on:"
        " write splits: {search: ...}",
    ),
    (
        "  - {data: leaky, steps: 600, search: {lr_peak: [1e-3, 3e-3]}}",
        "leaky, steps:",
        "'development' of leaky decides between trials and is in 'train', which they are trained on:"
        " write splits: {search: ...}",
    ),
]


@pytest.mark.parametrize(("text", "at", "sentence"), FAULTS, ids=[sentence for *_, sentence in FAULTS])
def test_a_fault_is_one_sentence_at_its_place(tmp_path: Path, text: str, at: str, sentence: str) -> None:
    place, found = error(tmp_path, text).split(": ", 1)
    _, line, column = place.split(":")
    assert found == sentence
    assert (HEAD + text).splitlines()[int(line) - 1][int(column) - 1 :].startswith(at)


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        (TINY.model_copy(update={"position": "relative"}), "relative positions for images of 32 pixels cannot see 64"),
        (ResNet(blocks=(1,), width=16, mixing="axial", root="3x3", groups=2), "an AxialResNet for images of 32 pixels"),
    ],
)
def test_positions_of_one_size_cannot_be_fine_tuned_at_another(tmp_path: Path, model: Any, sentence: str) -> None:
    assert transfers(tmp_path, "  - {data: birds, steps: 600, image_size: 32}", pretraining(model))[0]
    found = error(tmp_path, "  - {data: birds, steps: 600, image_size: 64}", pretraining(model))
    assert f"7:43: ViT-xs/4: {sentence}" in found
    assert "give image_size 32" in found
