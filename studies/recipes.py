"""Named recipes: complete training configurations that a study uses as they are or overrides field by field."""

from collections.abc import Mapping
from typing import Any

from studies.architectures import nearest
from studies.augmentations import AUGMENTATIONS
from studies.definitions import AdamW, Recipe

# The small ones were tuned on the validation split of digits; studies/LOG.md has the numbers.
_SMALL = Recipe(
    optimizer=AdamW(),
    lr_peak=5e-3,
    schedule="cosine",
    warmup_steps=10,
    weight_decay=0.1,
    batch=25,
    clip_norm=1.0,
)
RECIPES = {
    "small": _SMALL,
    # Convolutions gain from shifted images where a transformer of a few pixels cannot follow them.
    "small-resnet": _SMALL.model_copy(update={"lr_peak": 1e-2, "augmentation": AUGMENTATIONS["shift"]}),
}


def recipe(name: str, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """The recipe of this name with some fields replaced.

    Raises ValueError with the nearest valid name; pydantic's ValidationError for an override that does not fit.
    """
    if name not in RECIPES:
        raise ValueError(f"'{name}' is no recipe{nearest(name, list(RECIPES))}")
    return Recipe.model_validate({**RECIPES[name].model_dump(), **(overrides or {})})
