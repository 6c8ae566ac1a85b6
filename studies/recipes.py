"""Named recipes: complete training configurations that a study uses as they are or overrides field by field."""

from collections.abc import Mapping
from typing import Any

from studies.architectures import nearest
from studies.augmentations import AUGMENTATIONS
from studies.definitions import SGD, Adafactor, AdamW, Recipe
from studies.schedules import Cosine, Linear, ReciprocalSqrt, Steps

_INCEPTION = AUGMENTATIONS["inception"]

# The small ones were tuned on the validation split of digits; studies/LOG.md has the numbers.
_SMALL = Recipe(
    optimizer=AdamW(),
    lr_peak=5e-3,
    schedule=Cosine(),
    warmup_steps=10,
    weight_decay=0.1,
    batch=25,
    clip_norm=1.0,
)
# arXiv:2010.11929v2, Table 3, the rows of ViT-B/16. Other models of JFT-300M have other rates: 6e-4 for ViT-L/32 and
# R152x1, 4e-4 for ViT-L/16 and R50+ViT-L/16, 3e-4 for ViT-H/14, 1e-3 for R50x1 and R50x2, 2e-4 for R50+ViT-L/32.
_VIT = Recipe(
    optimizer=AdamW(beta1=0.9, beta2=0.999),
    lr_peak=8e-4,
    schedule=Linear(),
    warmup_steps=10_000,
    weight_decay=0.1,
    batch=4096,
    loss="sigmoid",
    augmentation=_INCEPTION,
    precision="bf16",
)
RECIPES = {
    "small": _SMALL,
    # Convolutions gain from shifted images where a transformer of a few pixels cannot follow them.
    "small-resnet": _SMALL.model_copy(update={"lr_peak": 1e-2, "augmentation": AUGMENTATIONS["shift"]}),
    "vit-jft": _VIT,
    "vit-i21k": _VIT.model_copy(update={"lr_peak": 1e-3, "weight_decay": 0.03, "dropout": 0.1, "loss": "softmax"}),
    "vit-imagenet": _VIT.model_copy(
        update={
            "lr_peak": 3e-3,
            "schedule": Cosine(),
            "weight_decay": 0.3,
            "dropout": 0.1,
            "clip_norm": 1.0,
            "loss": "softmax",
        }
    ),
    # arXiv:1912.11370v3, section 3.3, as of BiT-S and -M: 90 epochs, a rate of 0.03 for each 256 images of the batch,
    # a tenth at epochs 30, 60 and 80. Its decay is coupled to the gradient, so that momentum multiplies it by ten;
    # ours is decoupled: 1e-3 is what becomes of its 1e-4.
    "bit": Recipe(
        optimizer=SGD(momentum=0.9),
        lr_peak=0.03 * 4096 / 256,
        schedule=Steps(at=(30 / 90, 60 / 90, 80 / 90)),
        warmup_steps=5_000,
        weight_decay=1e-3,
        batch=4096,
        augmentation=_INCEPTION,
        precision="bf16",
    ),
    # arXiv:2106.04560v2, sections 3.1 to 3.5, with the numbers of big_vision's train_vit_g where the paper has none.
    # Trainings of 120,000 steps and more have a cooldown of 50,000.
    "scaling-vit": Recipe(
        optimizer=Adafactor(),
        lr_peak=8e-4,
        schedule=ReciprocalSqrt(timescale=10_000, cooldown_steps=10_000),
        warmup_steps=10_000,
        weight_decay=0.03,
        head_weight_decay=3.0,
        batch=4096,
        clip_norm=1.0,
        loss="sigmoid",
        head_bias=-10.0,
        augmentation=_INCEPTION,
        precision="bf16",
    ),
    # arXiv:2106.10270 at its middle level of augmentation; the others are names of augmentations.
    "augreg": Recipe(
        optimizer=AdamW(momentum_precision="bf16"),
        lr_peak=1e-3,
        schedule=Cosine(),
        warmup_steps=10_000,
        weight_decay=0.03,
        batch=4096,
        clip_norm=1.0,
        loss="sigmoid",
        head_bias=-10.0,
        augmentation=AUGMENTATIONS["medium1"],
        precision="bf16",
    ),
}


def recipe(name: str, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """The recipe of this name with some fields replaced.

    Raises ValueError with the nearest valid name; pydantic's ValidationError for an override that does not fit.
    """
    if name not in RECIPES:
        raise ValueError(f"'{name}' is no recipe{nearest(name, list(RECIPES))}")
    return Recipe.model_validate({**RECIPES[name].model_dump(), **(overrides or {})})
