"""What a run is: frozen definitions of models, recipes, data and runs, and the key that names each run.

Everything here decides numbers and so is hashed. Names, prices, places and hints live elsewhere.
"""

import hashlib
import json
from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeInt, PositiveInt, TypeAdapter
from pydantic import model_validator as validator

from studies.augmentations import Augmentation, AugmentationUse, Resize, View, check_sizes
from studies.frozen import Digest, Finite, Frozen, Listed, NonNegative, Positive, Share
from studies.models import (
    AnyModel,
    Classifier,
    MaskedPatch,
    Model,
    ResNet,
    check_fits,
    transformer_of,
)
from studies.schedules import ReciprocalSqrt, Schedule, lr_at

REVISION = 1
"""Part of every key. Raise it when the code, not a definition, changes the numbers of a run."""

# --------------------------------------------------------------------------------------------------------- recipes


class AdamW(Frozen):
    """Adam with decoupled weight decay: each step removes lr * weight_decay of every kernel."""

    kind: Literal["adamw"] = "adamw"
    beta1: Share = 0.9
    beta2: Share = 0.999
    momentum_precision: Literal["fp32", "bf16"] = "fp32"
    """What the first moment is kept in."""


class SGD(Frozen):
    """Stochastic gradient descent with momentum; weight decay is decoupled as for AdamW."""

    kind: Literal["sgd"] = "sgd"
    momentum: Share = 0.9
    momentum_precision: Literal["fp32", "bf16"] = "fp32"

    @validator(mode="after")
    def _is_possible(self) -> "SGD":
        if not self.momentum and self.momentum_precision != "fp32":
            raise ValueError(f"momentum_precision: {self.momentum_precision} has no effect without momentum")
        return self


class Adafactor(Frozen):
    """Adafactor as modified for vision transformers (arXiv:2106.04560v2, section 3.4): a first moment in bfloat16, a
    second moment factored into a row and a column, and no scaling by the norms of parameters.
    """

    kind: Literal["adafactor"] = "adafactor"
    beta1: Share = 0.9
    decay_exponent: Annotated[float, Field(gt=0, le=1)] = 0.8
    """Update t keeps 1 - t ** -decay_exponent of the second moment, at most `decay_most`."""
    decay_most: Share = 0.999
    factored_from: PositiveInt = 32
    """The second moment of a tensor is factored where its second largest side has so many numbers."""


class Recipe(Frozen):
    """How a model is trained: every number that decides the result, but for model, data, length and seed."""

    optimizer: Annotated[AdamW | SGD | Adafactor, Field(discriminator="kind")] = AdamW()
    lr_peak: Positive
    schedule: Schedule
    """Shape of the decay from `lr_peak`, after a linear warm-up of `warmup_steps`."""
    warmup_steps: NonNegativeInt
    weight_decay: NonNegative
    """Applied to kernels only: never to biases, normalization, class token or position embedding."""
    head_weight_decay: NonNegative | None = None
    """That of the last linear layer's kernel, where it differs (arXiv:2106.04560v2, section 3.3)."""
    batch: PositiveInt
    clip_norm: Positive | None = None
    """Largest global norm of the gradient; null means no clipping."""
    loss: Literal["softmax", "sigmoid"] = "softmax"
    head_bias: Finite = 0.0
    """First value of the head's biases: -10 begins a sigmoid loss near the share of classes that an image has."""
    label_smoothing: Share = 0.0
    dropout: Share = 0.0
    """After every dense layer of a transformer but queries, keys and values, and after the position embedding."""
    stochastic_depth: Share = 0.0
    """Chance that an example skips the last layer of a transformer; it grows linearly from 0 at the first."""
    augmentation: AugmentationUse = Augmentation()
    """What chance does to the images; a study may name one of `studies/augmentations.py`."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """`bf16`: autocast, with parameters in float32."""
    polyak: Share | None = None
    """Decay of an average of the weights, which is what is evaluated; null means the last weights."""

    def lr_at(self, step: int, steps: int) -> float:
        """The learning rate of the update from `step` to `step + 1` of so many; forms: `studies/schedules.py`."""
        return lr_at(step, self.schedule, lr_peak=self.lr_peak, warmup_steps=self.warmup_steps, steps=steps)


# ------------------------------------------------------------------------------------------------------------ runs


class Data(Frozen):
    """The first `rows` images of the keyed permutation of a split: each smaller subset is a prefix of a larger one."""

    name: str
    fingerprint: Digest | None
    """Names the bytes of the split's files and which of their rows it takes (`studies/datasets.py`); a worker refuses
    to read others. None of a set known by its sizes, which has only a price."""
    split: str
    rows: PositiveInt
    per_class: PositiveInt | None = None
    """So many images of each class, `rows` together, instead of the first of all."""
    classes: Annotated[int, Field(ge=2)]
    channels: PositiveInt
    image_size: PositiveInt | None
    """Side of the images as they are stored, in pixels; None where it differs from image to image."""
    multi_label: bool = False
    """An image has a list of labels instead of one."""

    @validator(mode="after")
    def _is_possible(self) -> "Data":
        if self.per_class is not None and self.rows != self.per_class * self.classes:
            raise ValueError(f"{self.per_class} images of {self.classes} classes are not {self.rows} images")
        return self


class Classification(Frozen):
    """What is measured when a split is classified with a trained network."""

    data: Data
    image_size: PositiveInt
    view: View = Resize()
    mapping: Listed[Annotated[int, Field(ge=-1)]] | None = None
    """The data's class for each class of the network, -1 where it has none, for data of other classes than the
    network's (ObjectNet, arXiv: Barbu et al. 2019); None where they are the same."""

    @validator(mode="after")
    def _is_seen(self) -> "Classification":
        check_sizes(self.view, self.image_size)
        if self.mapping is not None:
            known = {label for label in self.mapping if label >= 0}
            if not known:
                raise ValueError(f"the mapping of classes names no class of {self.data.name}")
            if max(known) >= self.data.classes:
                raise ValueError(
                    f"the mapping names class {max(known)}, and {self.data.name} has {self.data.classes} classes"
                )
        return self


class FewShotClassification(Frozen):
    """Closed-form ridge regression from frozen features to {-1, +1} targets, as in `docs/definitions.md`."""

    support: Data
    """Where the labelled examples of each class are drawn from."""
    data: Data
    """What is classified."""
    image_size: PositiveInt
    view: View = Resize()
    """Of support and classified images alike."""
    shots: Annotated[Listed[PositiveInt], Field(min_length=1)]
    support_seeds: Annotated[Listed[NonNegativeInt], Field(min_length=1)]
    """Of the draws. Under `draw: first` there is one support, and one seed that means nothing."""
    l2: Annotated[Listed[Positive], Field(min_length=1)]
    """Penalties on the squared weights. Of several, each number of shots takes the one of the best mean accuracy on
    the classified images, as the older evaluator of the papers' authors did."""
    draw: Literal["seeded", "first"] = "seeded"
    """`seeded`: the first images of each class in a permutation by the seed; `first`: in the order of the support."""

    @validator(mode="after")
    def _is_seen(self) -> "FewShotClassification":
        check_sizes(self.view, self.image_size)
        if self.draw == "first" and len(self.support_seeds) > 1:
            raise ValueError("the first images of each class are one support: give one seed")
        return self


class SplitWatch(Classification):
    """A split that is classified during a training."""

    kind: Literal["split"] = "split"
    every: PositiveInt | None = None
    """Steps between two evaluations; the last step is always one. None: the last step alone."""
    keep: Literal["last", "best"] = "last"
    """Which weights the training leaves: `best` are those of the step with the highest accuracy, the first of equal
    ones: early stopping as in arXiv:2010.11929v2, section 4.3, where all steps are done and the best is reported."""


class FewShotWatch(FewShotClassification):
    """A few-shot evaluation that is made during a training."""

    kind: Literal["fewshot"] = "fewshot"
    every: PositiveInt | None = None
    keep: Literal["last", "best"] = "last"
    """As of `SplitWatch`, by the mean accuracy of the largest number of shots."""


Watch = Annotated[SplitWatch | FewShotWatch, Field(discriminator="kind")]


class _Training(Frozen):
    """What trainings of every kind have."""

    data: Data
    image_size: PositiveInt
    recipe: Recipe
    examples: PositiveInt
    """Training images seen, repeats counted: a multiple of the batch."""
    seed: NonNegativeInt
    watches: Listed[Watch] = ()
    """What is measured on the way. At most one decides which weights are kept."""

    @property
    def steps(self) -> int:
        """Optimizer updates."""
        return self.examples // self.recipe.batch

    def _check(self, model: AnyModel) -> None:
        """Raise ValueError for what cannot be trained."""
        check_fits(model, self.image_size)
        check_sizes(self.recipe.augmentation.crop, self.image_size)
        if self.examples % self.recipe.batch:
            raise ValueError(f"{self.examples} examples are no multiple of the batch {self.recipe.batch}")
        _check_loss(model, self.data, self.recipe)
        _check_depth(model, self.recipe)
        if self.recipe.warmup_steps >= self.steps:
            raise ValueError(
                f"a warm-up of {self.recipe.warmup_steps} steps needs a longer training than {self.steps} steps"
            )
        schedule = self.recipe.schedule
        if isinstance(schedule, ReciprocalSqrt) and self.recipe.warmup_steps + schedule.cooldown_steps > self.steps:
            raise ValueError(
                f"a warm-up of {self.recipe.warmup_steps} steps and a cooldown of {schedule.cooldown_steps} need a"
                f" longer training than {self.steps} steps"
            )
        if sum(watch.keep == "best" for watch in self.watches) > 1:
            raise ValueError("two evaluations both decide which weights are kept: give keep: best to one")
        names = [(watch.kind, watch.data.name, watch.data.split) for watch in self.watches]
        if len(set(names)) < len(names):
            raise ValueError("two evaluations on the way would measure the same by the same name: keep one")
        if isinstance(model, MaskedPatch) and any(isinstance(watch, SplitWatch) for watch in self.watches):
            raise ValueError(
                "a masked-patch model classifies nothing: on the way only few-shot evaluations are possible"
            )


class Train(_Training):
    """Train a model from its initialization."""

    kind: Literal["train"] = "train"
    model: Model

    @validator(mode="after")
    def _is_possible(self) -> "Train":
        self._check(self.model)
        return self


class FineTune(_Training):
    """Go on from a trained network on other images and classes: its last layer is new and starts at zero, learned
    positions are interpolated to the image size.
    """

    kind: Literal["finetune"] = "finetune"
    upstream: Digest
    """Key of the pre-training."""
    model: Classifier
    """What is trained: `fine_tuned` of the pre-training's model."""
    trained: Literal["all", "head"] = "all"
    """`head`: a linear probe, all but the last layer stays as it is."""

    @validator(mode="after")
    def _is_possible(self) -> "FineTune":
        self._check(self.model)
        if self.trained == "head" and (self.recipe.dropout or self.recipe.stochastic_depth):
            raise ValueError(
                "dropout and stochastic_depth have no effect on a linear probe: its body is as in evaluation"
            )
        return self


class Evaluate(Classification):
    """Classify a split with a trained model."""

    kind: Literal["evaluate"] = "evaluate"
    upstream: Digest
    """Key of the training."""


class FewShot(FewShotClassification):
    """Few-shot classification from the features of a trained model."""

    kind: Literal["fewshot"] = "fewshot"
    upstream: Digest
    """Key of the training."""


AnyTraining = Train | FineTune
AnyRun = Train | FineTune | Evaluate | FewShot
RUN: TypeAdapter[AnyRun] = TypeAdapter(Annotated[AnyRun, Field(discriminator="kind")])


def _check_loss(model: AnyModel, data: Data, recipe: Recipe) -> None:
    if isinstance(model, MaskedPatch):
        for name, none in (("label_smoothing", 0.0), ("head_bias", 0.0), ("loss", "softmax")):
            if getattr(recipe, name) != none:
                raise ValueError(f"{name} has no effect on a masked-patch model: its targets are patches, not classes")
        if recipe.augmentation.mixup:
            raise ValueError("mixup has no effect on a masked-patch model: its targets are patches, not classes")
    elif data.multi_label and recipe.loss == "softmax":
        raise ValueError(f"images of {data.name} have lists of labels: take the loss sigmoid, not softmax")


def _check_depth(model: AnyModel, recipe: Recipe) -> None:
    if isinstance(model, ResNet):
        for name in ("dropout", "stochastic_depth"):
            if getattr(recipe, name):
                raise ValueError(f"{name} has no effect on a ResNet: the papers' have none")
    elif recipe.stochastic_depth and transformer_of(model).depth == 1:
        raise ValueError("stochastic_depth has no effect on a single layer: the first is never skipped")


# ------------------------------------------------------------------------------------------------------------ keys


def canonical(definition: AnyRun) -> str:
    """The definition as JSON: every field, keys sorted, no spaces. Equal text means equal numbers."""
    return canonical_json(definition.model_dump(mode="json"))


def key_of(run: AnyRun) -> str:
    """The run's name: SHA-256 over the revision and its canonical JSON, as 64 hexadecimal digits."""
    return _digest({"revision": REVISION, "run": run.model_dump(mode="json")})


def configuration_of(run: AnyRun, upstream: str | None = None) -> str:
    """The name that replicates share: the key without the seeds, its own and those of what it stands on.

    upstream: the configuration of the training that the run stands on; None for a pre-training.
    """
    fields = run.model_dump(mode="json")
    if isinstance(run, Train | FineTune):
        del fields["seed"]
    if isinstance(run, Train):
        assert upstream is None
    else:
        assert upstream is not None
        fields["upstream"] = upstream
    return _digest({"revision": REVISION, "configuration": fields})


def _digest(value: Any) -> str:
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def canonical_json(value: Any) -> str:
    """A value as JSON, keys sorted, no spaces."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
