"""Named recipes: complete training configurations that a study uses as they are or overrides field by field."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from studies.architectures import nearest
from studies.augmentations import AUGMENTATIONS, View, bit_transfer
from studies.definitions import SGD, Adafactor, AdamW, Recipe
from studies.language import RecipeUse, validated
from studies.schedules import Cosine, Linear, ReciprocalSqrt, Steps
from studies.yaml_source import Place, Source

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
# arXiv:2010.11929v2, section 4.1 and Table 4; the warm-up and the crop are those of the released code, as the paper has
# none. 0.01 is in every row's grid, and VTAB's setting; steps and grids by data set are in the study files.
_FINE_TUNING = Recipe(
    optimizer=SGD(momentum=0.9),
    lr_peak=0.01,
    schedule=Cosine(),
    warmup_steps=500,
    weight_decay=0.0,
    batch=512,
    clip_norm=1.0,
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
    # arXiv:2010.11929v2, B.1.2; the decay is that of section 4.1.
    "masked-patch": _VIT.model_copy(update={"lr_peak": 2e-4, "schedule": Cosine(), "loss": "softmax"}),
    "fine-tuning": _FINE_TUNING,
    # B.1.1: one setting for all tasks of VTAB, with BiT's crops; what they spare: `studies/augmentations.py`. The
    # warm-up is the released code's of trainings of 500 steps, which is one of the two lengths that were tried.
    "vtab": _FINE_TUNING.model_copy(update={"warmup_steps": 100, "augmentation": AUGMENTATIONS["bit-large"]}),
    # Rates between 0.03 and 0.1 were best on the tasks of vtab-laptop; studies/LOG.md has the numbers.
    "small-fine-tuning": _FINE_TUNING.model_copy(
        update={
            "lr_peak": 0.03,
            "warmup_steps": 10,
            "batch": 32,
            "augmentation": AUGMENTATIONS["none"],
            "precision": "fp32",
        }
    ),
}
BIT_HYPERRULE = "bit-hyperrule"
"""What a transfer calls the rule below, in the place of a recipe."""


def recipe(name: str, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """The recipe of this name with some fields replaced.

    Raises ValueError with the nearest valid name; pydantic's ValidationError for an override that does not fit.
    """
    if name not in RECIPES:
        raise ValueError(f"'{name}' is no recipe{nearest(name, list(RECIPES))}")
    return Recipe.model_validate({**RECIPES[name].model_dump(), **(overrides or {})})


def resolved(written: RecipeUse, source: Source, place: Place, recipes: Mapping[str, Recipe] = RECIPES) -> Recipe:
    """The recipe that stands at `place` of a study file: a name, a name with fields replaced, or all fields.

    recipes: those that a name may mean.
    Raises StudyError at the name or field that is wrong.
    """
    fields = dict(written) if isinstance(written, dict) else {"base": written}
    if "base" in fields:
        base = fields.pop("base")
        if not isinstance(base, str) or base not in recipes:
            at = (*place, "base") if isinstance(written, dict) else place
            raise source.error(at, f"'{base}' is no recipe{nearest(str(base), list(recipes))}")
        fields = {**recipes[base].model_dump(), **fields}
    return validated(Recipe, fields, source, place)


class Ruled(NamedTuple):
    """What a rule decides for a data set."""

    recipe: Recipe
    steps: int
    image_size: int
    view: View


def bit_hyperrule(rows: int, image_size: int | None, task: str | None = None) -> Ruled:
    """BiT-HyperRule (arXiv:1912.11370v3, section 3.3): all of a fine-tuning from how many images there are, how large.

    rows: images to train on. image_size: side of the stored images in pixels; None where they differ, and are taken
    for large. task: as of `bit_transfer`.
    The rate falls at the paper's shares of the training; the released code has others for 500 steps. The warm-up is
    the released code's.
    """
    side = image_size or _LARGE_PIXELS
    transfer = bit_transfer(side, side, task)
    steps = 500 if rows < 20_000 else 10_000 if rows < 500_000 else 20_000
    mixup = 0.0 if steps == 500 else 0.1
    recipe = Recipe(
        optimizer=SGD(momentum=0.9),
        lr_peak=0.003,
        schedule=Steps(at=(0.3, 0.6, 0.9)),
        warmup_steps=100 if steps == 500 else 500,
        weight_decay=0.0,
        batch=512,
        augmentation=transfer.train.model_copy(update={"mixup": mixup}),
        precision="bf16",
    )
    return Ruled(recipe, steps, transfer.image_size, transfer.evaluate)


_LARGE_PIXELS = 96
