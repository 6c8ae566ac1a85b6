"""Named recipes: the numbers of the papers' tables."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from studies.augmentations import Resize
from studies.definitions import SGD, Adafactor, AdamW, Recipe
from studies.recipes import RECIPES, bit_hyperrule, recipe, resolved
from studies.schedules import Cosine, ReciprocalSqrt, Steps
from studies.yaml_source import StudyError, read

TABLE_3 = {
    # arXiv:2010.11929v2, Table 3: rate, shape of the decay, weight decay, dropout, clipping.
    "vit-jft": (8e-4, "linear", 0.1, 0.0, None),
    "vit-i21k": (1e-3, "linear", 0.03, 0.1, None),
    "vit-imagenet": (3e-3, "cosine", 0.3, 0.1, 1.0),
}


@pytest.mark.parametrize("name", TABLE_3)
def test_a_recipe_of_the_first_paper_is_its_row_of_table_3(name: str) -> None:
    found = RECIPES[name]
    numbers = found.lr_peak, found.schedule.kind, found.weight_decay, found.dropout, found.clip_norm
    assert numbers == TABLE_3[name]
    assert (found.batch, found.warmup_steps) == (4096, 10_000)
    assert found.optimizer == AdamW(beta1=0.9, beta2=0.999)


def test_the_second_papers_recipe_has_its_optimizer_its_schedule_and_two_decays() -> None:
    found = RECIPES["scaling-vit"]
    assert found.optimizer == Adafactor(beta1=0.9, decay_exponent=0.8, decay_most=0.999)
    assert found.schedule == ReciprocalSqrt(timescale=10_000, cooldown_steps=10_000)
    assert (found.weight_decay, found.head_weight_decay, found.head_bias, found.loss) == (0.03, 3.0, -10.0, "sigmoid")


def test_big_transfers_rate_is_003_for_256_images_and_falls_at_epochs_30_60_and_80_of_90() -> None:
    found = RECIPES["bit"]
    assert found.lr_peak == pytest.approx(0.48)
    assert isinstance(found.schedule, Steps)
    assert [90 * share for share in found.schedule.at] == pytest.approx([30, 60, 80])
    rates = [found.lr_at(step, 9_000 * 10) for step in (29_999, 30_000, 59_999, 60_000, 80_000)]
    assert rates == pytest.approx([0.48, 0.048, 0.048, 0.0048, 0.00048])


def test_fine_tuning_is_sgd_with_a_cosine_clipping_and_no_decay() -> None:
    found = RECIPES["fine-tuning"]
    assert (found.optimizer, found.schedule, found.batch, found.clip_norm) == (SGD(momentum=0.9), Cosine(), 512, 1.0)
    assert (found.weight_decay, found.dropout, found.warmup_steps, found.polyak) == (0.0, 0.0, 500, None)


def test_masked_patches_are_predicted_at_2e4_with_a_cosine() -> None:
    found = RECIPES["masked-patch"]
    assert (found.lr_peak, found.warmup_steps, found.batch, found.schedule) == (2e-4, 10_000, 4096, Cosine())
    assert (found.loss, found.head_bias, found.label_smoothing) == ("softmax", 0.0, 0.0)


@pytest.mark.parametrize(
    ("rows", "steps", "mixup", "warmup"),
    [
        (1_000, 500, 0.0, 100),
        (19_999, 500, 0.0, 100),
        (20_000, 10_000, 0.1, 500),
        (499_999, 10_000, 0.1, 500),
        (500_000, 20_000, 0.1, 500),
    ],
)
def test_bits_rule_goes_by_the_number_of_images(rows: int, steps: int, mixup: float, warmup: int) -> None:
    found = bit_hyperrule(rows, 32)
    assert (found.steps, found.recipe.augmentation.mixup, found.recipe.warmup_steps) == (steps, mixup, warmup)
    assert (found.recipe.lr_peak, found.recipe.batch, found.recipe.optimizer) == (0.003, 512, SGD(momentum=0.9))
    shares = [0.0, 0.298, 0.3, 0.598, 0.6, 0.898, 0.9]
    rates = [found.recipe.lr_at(round(share * steps) + (warmup if not share else 0), steps) for share in shares]
    assert rates == pytest.approx([0.003, 0.003, 3e-4, 3e-4, 3e-5, 3e-5, 3e-6])


def test_bits_rule_goes_by_the_size_of_images_and_takes_those_of_many_sizes_for_large() -> None:
    small, large, varied = (bit_hyperrule(1_000, size) for size in (95, 96, None))
    assert (small.image_size, large.image_size, varied) == (128, 384, large)
    assert small.view == Resize()
    assert small.recipe.augmentation.model_dump()["crop"]["resize"] == 160
    assert not bit_hyperrule(1_000, 96, "snorb-azimuth").recipe.augmentation.flip


@pytest.mark.parametrize(
    ("written", "place", "sentence"),
    [
        ("smal", "1:9", "'smal' is no recipe; did you mean 'small'"),
        ("{base: smal}", "1:16", "'smal' is no recipe; did you mean 'small'"),
        ("{base: [small]}", "1:16", "is no recipe"),
        ("{base: small, lr_peek: 1}", "1:23", "unknown key 'lr_peek'; did you mean 'lr_peak'"),
        ("{base: small, lr_peak: fast}", "1:32", "'fast' should be a number"),
    ],
)
def test_a_fault_in_a_recipe_is_named_with_its_place(tmp_path: Path, written: str, place: str, sentence: str) -> None:
    file = tmp_path / "x.yaml"
    file.write_text(f"recipe: {written}\n")
    source = read(file, "x.yaml")
    with pytest.raises(StudyError) as caught:
        resolved(source.data["recipe"], source, ("recipe",))
    assert str(caught.value).startswith(f"x.yaml:{place}: ")
    assert sentence in str(caught.value)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_can_be_changed_field_by_field(name: str) -> None:
    assert recipe(name, {"lr_peak": 0.5}) == RECIPES[name].model_copy(update={"lr_peak": 0.5})


def test_what_has_no_effect_or_no_meaning_is_refused() -> None:
    with pytest.raises(ValidationError, match="has no effect without momentum"):
        SGD(momentum=0.0, momentum_precision="bf16")
    with pytest.raises(ValidationError, match="ascend"):
        Steps(at=(0.6, 0.3))
    with pytest.raises(ValidationError):
        Recipe.model_validate({**RECIPES["small"].model_dump(), "schedule": "sinus"})
