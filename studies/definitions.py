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
from studies.schedules import ReciprocalSqrt, Schedule, lr_at

REVISION = 1
"""Part of every key. Raise it when the code, not a definition, changes the numbers of a run."""

Head = Literal["token-tanh", "token", "gap", "map"]
Gelu = Literal["tanh", "exact"]
Position = Literal["learned-1d", "learned-2d", "sincos-2d", "relative", "none"]

# ---------------------------------------------------------------------------------------------------------- models


class ViT(Frozen):
    """A vision transformer (arXiv:2010.11929v2, section 3.1), with the choices that the two papers compare."""

    kind: Literal["vit"] = "vit"
    patch: PositiveInt
    """Side of a square patch in pixels of the image, or of the feature map in a hybrid."""
    width: PositiveInt
    depth: PositiveInt
    mlp: PositiveInt
    heads: PositiveInt
    head: Head = "token-tanh"
    """`token-tanh`: class token, tanh pre-logits layer of the body's width, linear layer (the first paper's
    pre-training head); `token`: class token and one linear layer; `gap`: mean over patches, no class token; `map`:
    multi-head attention pooling over patches, no class token (arXiv:2106.04560v2, section 3.2)."""
    position: Position = "learned-1d"
    """How tokens know their place (appendix D.4). `learned-1d`: a table with a row a token in raster order;
    `learned-2d`: a table for rows and one for columns, half the width each, concatenated; `sincos-2d`: fixed sines and
    cosines; `relative`: keys for the offset between two tokens, in every layer; `none`: a bag of patches. A class token
    has a row in `learned-1d` alone."""
    position_at: Literal["stem", "layers", "shared"] = "stem"
    """Where a learned table is added: before the first layer; before every layer, each with its own; before every
    layer, one for all."""
    attention: Literal["global", "axial"] = "global"
    """`axial`: every block is attention within rows and an MLP, then attention within columns and an MLP (D.6)."""
    gelu: Gelu = "tanh"
    """`tanh`: the approximation that the released code takes by flax's default; `exact`: x times the normal
    distribution, as the paper writes it and as timm and Hugging Face compute it."""
    code: Literal["vision-transformer", "big-vision"] = "vision-transformer"
    """Which released code `learned-1d` follows where the two differ. vision_transformer, as the paper, has a row for
    the class token and starts with a standard deviation of 0.02; big_vision has none and starts with width ** -0.5."""

    @property
    def has_token(self) -> bool:
        """Whether a class token stands before the patches."""
        return self.head in ("token-tanh", "token")

    @validator(mode="after")
    def _is_possible(self) -> "ViT":
        if self.width % self.heads:
            valid = [n for n in range(1, self.width + 1) if self.width % n == 0]
            nearest = min(valid, key=lambda n: abs(n - self.heads))
            raise ValueError(f"{self.heads} heads do not divide the width {self.width}; the nearest that do: {nearest}")
        if self.attention == "axial":
            if self.has_token:
                raise ValueError(f"axial attention has no class token: the head {self.head} cannot be; valid: gap, map")
            if self.position == "relative":
                raise ValueError(
                    "relative positions need global attention; beside axial attention valid are learned-1d, learned-2d,"
                    " sincos-2d and none"
                )
        part = {"learned-2d": 2, "sincos-2d": 4}.get(self.position, 1)
        if self.width % part:
            raise ValueError(f"{self.position} positions need a width that {part} divides, and {self.width} is none")
        if self.position_at != "stem" and not self.position.startswith("learned"):
            raise ValueError(
                f"position_at: {self.position_at} is for learned-1d and learned-2d, not for {self.position}"
            )
        if self.code != "vision-transformer" and self.position != "learned-1d":
            raise ValueError(f"code: {self.code} has no effect on {self.position} positions, only on learned-1d")
        return self


class ResNet(Frozen):
    """A ResNet with group normalization and weight standardization (Big Transfer, arXiv:1912.11370v3)."""

    kind: Literal["resnet"] = "resnet"
    blocks: Listed[PositiveInt]
    """Bottleneck units in each stage; every stage but the first halves the resolution. No stage: the root alone."""
    width: PositiveInt = 64
    """Channels of the root. Stage s has width * 2**s inside its bottlenecks and four times that at its end."""
    root: Literal["7x7", "3x3"] = "7x7"
    """`7x7`: stride 2 and a stride-2 max pool, as published; `3x3`: stride 1, no pool, for images of a few pixels."""
    groups: PositiveInt = 32
    form: Literal["pre-activation", "post-activation"] = "pre-activation"
    """`pre-activation`: ResNet-v2, as in Big Transfer; `post-activation`: ResNet-v1, as in the hybrids that
    vision_transformer and big_vision released."""
    mixing: Literal["convolution", "axial"] = "convolution"
    """What mixes pixels inside a bottleneck: a 3x3 convolution, or attention within columns and then within rows with
    relative positions (arXiv:2003.07853, as in arXiv:2010.11929v2, D.6)."""

    @validator(mode="after")
    def _is_possible(self) -> "ResNet":
        if self.width % self.groups:
            raise ValueError(f"{self.groups} normalization groups do not divide the width {self.width}")
        if self.mixing == "axial":
            if not self.blocks:
                raise ValueError("axial mixing has no effect on a ResNet without blocks")
            if self.form == "post-activation":
                raise ValueError("axial mixing is for the pre-activation form")
            if self.width % (2 * AXIAL_HEADS):
                raise ValueError(f"axial mixing needs a width that {2 * AXIAL_HEADS} divides, and {self.width} is none")
        return self

    @property
    def stride(self) -> int:
        """Pixels of the image per pixel of the feature map, along one side."""
        return (4 if self.root == "7x7" else 1) << max(0, len(self.blocks) - 1)

    @property
    def channels(self) -> int:
        """Channels of the feature map."""
        return 4 * self.width << (len(self.blocks) - 1) if self.blocks else self.width


AXIAL_HEADS = 8
"""Heads of the axial attention inside a ResNet's bottleneck (axial-deeplab's `groups`)."""


class Hybrid(Frozen):
    """A ResNet whose feature map, cut into patches, is the input of a ViT (arXiv:2010.11929v2, section 3.1)."""

    kind: Literal["hybrid"] = "hybrid"
    body: ResNet
    vit: ViT

    @validator(mode="after")
    def _is_possible(self) -> "Hybrid":
        if self.body.mixing == "axial":
            raise ValueError("a hybrid's ResNet mixes by convolution; axial mixing is for a ResNet alone")
        return self


class MaskedPatch(Frozen):
    """A ViT that predicts what was under corrupted patches (arXiv:2010.11929v2, section 4.6 and B.1.2).

    Of the corrupted patches 80 % become a learned embedding, 10 % another random patch's, and 10 % stay.
    """

    kind: Literal["masked-patch"] = "masked-patch"
    vit: ViT
    target: Literal["mean-color", "small-colors", "pixels"] = "mean-color"
    """`mean-color`: one of 512, the patch's mean with 3 bits a channel; `small-colors`: 16 such, for the patch reduced
    to 4x4; `pixels`: the values themselves, by squared error."""
    corrupted: Share = 0.5
    """Share of the patches that are corrupted and predicted."""

    @validator(mode="after")
    def _is_possible(self) -> "MaskedPatch":
        if self.target == "small-colors" and self.vit.patch % 4:
            raise ValueError(f"small-colors needs patches that 4 divides, not of {self.vit.patch} pixels")
        if self.vit.head != "token":
            raise ValueError(
                f"masked patches are read from their own tokens: give the ViT the head token, not {self.vit.head}"
            )
        return self


Model = Annotated[ViT | ResNet | Hybrid, Field(discriminator="kind")]


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
    to read others. None of a private set, which has only a price."""
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


class Train(Frozen):
    """Train a model from its initialization."""

    kind: Literal["train"] = "train"
    model: Model
    data: Data
    image_size: PositiveInt
    recipe: Recipe
    examples: PositiveInt
    """Training images seen, repeats counted: a multiple of the batch."""
    seed: NonNegativeInt

    @property
    def steps(self) -> int:
        """Optimizer updates."""
        return self.examples // self.recipe.batch

    @validator(mode="after")
    def _is_possible(self) -> "Train":
        check_fits(self.model, self.image_size)
        check_sizes(self.recipe.augmentation.crop, self.image_size)
        if self.data.multi_label and self.recipe.loss == "softmax":
            raise ValueError(f"images of {self.data.name} have lists of labels: take the loss sigmoid, not softmax")
        if self.examples % self.recipe.batch:
            raise ValueError(f"{self.examples} examples are no multiple of the batch {self.recipe.batch}")
        if isinstance(self.model, ResNet):
            for name in ("dropout", "stochastic_depth"):
                if getattr(self.recipe, name):
                    raise ValueError(f"{name} has no effect on a ResNet: the papers' have none")
        elif self.recipe.stochastic_depth and _transformer(self.model).depth == 1:
            raise ValueError("stochastic_depth has no effect on a single layer: the first is never skipped")
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
        return self


class Evaluate(Frozen):
    """Classify a split with a trained model."""

    kind: Literal["evaluate"] = "evaluate"
    upstream: Digest
    """Key of the training."""
    data: Data
    image_size: PositiveInt
    view: View = Resize()

    @validator(mode="after")
    def _is_possible(self) -> "Evaluate":
        check_sizes(self.view, self.image_size)
        return self


class FewShot(Frozen):
    """Closed-form ridge regression from frozen features to {-1, +1} targets, as in `docs/definitions.md`."""

    kind: Literal["fewshot"] = "fewshot"
    upstream: Digest
    """Key of the training."""
    support: Data
    """Where the labelled examples of each class are drawn from."""
    data: Data
    """What is classified."""
    image_size: PositiveInt
    view: View = Resize()
    """Of support and classified images alike."""
    shots: Annotated[Listed[PositiveInt], Field(min_length=1)]
    support_seeds: Annotated[Listed[NonNegativeInt], Field(min_length=1)]
    l2: Positive

    @validator(mode="after")
    def _is_possible(self) -> "FewShot":
        check_sizes(self.view, self.image_size)
        return self


Run = Annotated[Train | Evaluate | FewShot, Field(discriminator="kind")]
RUN: TypeAdapter[Train | Evaluate | FewShot] = TypeAdapter(Run)


def _transformer(model: ViT | Hybrid) -> ViT:
    return model.vit if isinstance(model, Hybrid) else model


def check_fits(model: ViT | ResNet | Hybrid, image_size: int) -> None:
    """Raise ValueError when the model's patches do not tile a square image of this size."""
    if isinstance(model, ResNet):
        return
    body = model.body if isinstance(model, Hybrid) else None
    patch = model.vit.patch if isinstance(model, Hybrid) else model.patch
    side = image_size // body.stride if body else image_size
    if body and image_size % body.stride:
        raise ValueError(f"the ResNet's total stride of {body.stride} does not divide the image of {image_size} pixels")
    if side % patch:
        what = f"the feature map of {side} pixels" if body else f"the image of {image_size} pixels"
        valid = [n for n in range(1, side + 1) if side % n == 0]
        raise ValueError(f"patches of {patch} pixels do not divide {what}; these do: {', '.join(map(str, valid))}")


# ------------------------------------------------------------------------------------------------------------ keys


def canonical(definition: Train | Evaluate | FewShot) -> str:
    """The definition as JSON: every field, keys sorted, no spaces. Equal text means equal numbers."""
    return _canonical(definition.model_dump(mode="json"))


def key_of(run: Train | Evaluate | FewShot) -> str:
    """The run's name: SHA-256 over the revision and its canonical JSON, as 64 hexadecimal digits."""
    return _digest({"revision": REVISION, "run": run.model_dump(mode="json")})


def configuration_of(run: Train | Evaluate | FewShot, upstream: str | None = None) -> str:
    """The name that replicates share: the key without the seed.

    upstream: the configuration of the training that an evaluation stands on; None for a training.
    """
    fields = run.model_dump(mode="json")
    if isinstance(run, Train):
        assert upstream is None
        del fields["seed"]
    else:
        assert upstream is not None
        fields["upstream"] = upstream
    return _digest({"revision": REVISION, "configuration": fields})


def _digest(value: Any) -> str:
    return hashlib.sha256(_canonical(value).encode()).hexdigest()


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
