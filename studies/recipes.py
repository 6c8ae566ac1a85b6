"""Named recipes: complete training configurations that a study uses as they are or overrides field by field."""

from collections.abc import Mapping
from typing import Any

from studies.architectures import nearest
from studies.definitions import SGD, AdamW, Recipe

RECIPES = {
    # Tuned on the validation split of digits: see studies/LOG.md.
    "small": Recipe(
        optimizer=AdamW(),
        lr_peak=3e-3,
        schedule="cosine",
        warmup_steps=10,
        weight_decay=0.1,
        batch=50,
        clip_norm=1.0,
        augmentation="shift",
    ),
    "small-sgd": Recipe(
        optimizer=SGD(),
        lr_peak=0.1,
        schedule="cosine",
        warmup_steps=10,
        weight_decay=1e-4,
        batch=50,
        clip_norm=1.0,
        augmentation="shift",
    ),
}


def recipe(name: str, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """The recipe of this name with some fields replaced.

    Raises ValueError with the nearest valid name; pydantic's ValidationError for an override that does not fit.
    """
    if name not in RECIPES:
        raise ValueError(f"'{name}' is no recipe{nearest(name, list(RECIPES))}")
    return Recipe.model_validate({**RECIPES[name].model_dump(), **(overrides or {})})
