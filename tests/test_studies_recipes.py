"""Named recipes: the numbers of the papers' tables."""

import pytest
from pydantic import ValidationError

from studies.definitions import SGD, Adafactor, AdamW, Recipe
from studies.recipes import RECIPES, recipe
from studies.schedules import ReciprocalSqrt, Steps

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
