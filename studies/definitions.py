"""What a run is: frozen definitions of models, recipes, data and runs, and the key that names each run.

Everything here decides numbers and so is hashed. Names, prices, places and hints live elsewhere.
"""

import hashlib
import json
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt, StringConstraints, TypeAdapter
from pydantic import model_validator as validator

REVISION = 1
"""Part of every key. Raise it when the code, not a definition, changes the numbers of a run."""

Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]

T = TypeVar("T")
Listed = Annotated[tuple[T, ...], Field(strict=False)]
"""A list, as YAML and JSON write tuples."""


class Frozen(BaseModel):
    """A configuration: it never changes once made, an unknown key is an error, and text is no number."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


# ---------------------------------------------------------------------------------------------------------- models


class ViT(Frozen):
    """A plain vision transformer (arXiv:2010.11929v2, section 3.1)."""

    kind: Literal["vit"] = "vit"
    patch: PositiveInt
    """Side of a square patch in pixels of the image, or of the feature map in a hybrid."""
    width: PositiveInt
    depth: PositiveInt
    mlp: PositiveInt
    heads: PositiveInt
    head: Literal["token-tanh", "token", "gap"] = "token-tanh"
    """`token-tanh`: class token, tanh pre-logits layer of the body's width, linear layer (the paper's
    pre-training head); `token`: class token and one linear layer; `gap`: mean over patches, no class token."""

    @validator(mode="after")
    def _heads_divide_the_width(self) -> "ViT":
        if self.width % self.heads:
            valid = [n for n in range(1, self.width + 1) if self.width % n == 0]
            nearest = min(valid, key=lambda n: abs(n - self.heads))
            raise ValueError(f"{self.heads} heads do not divide the width {self.width}; the nearest that do: {nearest}")
        return self


class ResNet(Frozen):
    """A BiT ResNet: pre-activation bottlenecks, group normalization, weight standardization (arXiv:1912.11370v3)."""

    kind: Literal["resnet"] = "resnet"
    blocks: Annotated[Listed[PositiveInt], Field(min_length=1)]
    """Bottleneck units in each stage; every stage but the first halves the resolution."""
    width: PositiveInt = 64
    """Channels of the root. Stage s has width * 2**s inside its bottlenecks and four times that at its end."""
    root: Literal["7x7", "3x3"] = "7x7"
    """`7x7`: stride 2 and a stride-2 max pool, as published; `3x3`: stride 1, no pool, for images of a few pixels."""
    groups: PositiveInt = 32

    @validator(mode="after")
    def _groups_divide_the_width(self) -> "ResNet":
        if self.width % self.groups:
            raise ValueError(f"{self.groups} normalization groups do not divide the width {self.width}")
        return self

    @property
    def stride(self) -> int:
        """Pixels of the image per pixel of the feature map, along one side."""
        return (4 if self.root == "7x7" else 1) << (len(self.blocks) - 1)

    @property
    def channels(self) -> int:
        """Channels of the feature map."""
        return 4 * self.width << (len(self.blocks) - 1)


class Hybrid(Frozen):
    """A ResNet whose feature map, cut into patches, is the input of a ViT (arXiv:2010.11929v2, section 3.1)."""

    kind: Literal["hybrid"] = "hybrid"
    body: ResNet
    vit: ViT


Model = Annotated[ViT | ResNet | Hybrid, Field(discriminator="kind")]


# --------------------------------------------------------------------------------------------------------- recipes


class AdamW(Frozen):
    """Adam with decoupled weight decay: each step removes lr * weight_decay of every kernel."""

    kind: Literal["adamw"] = "adamw"
    beta1: Share = 0.9
    beta2: Share = 0.999


class SGD(Frozen):
    """Stochastic gradient descent with momentum; weight decay is decoupled as for AdamW."""

    kind: Literal["sgd"] = "sgd"
    momentum: Share = 0.9


class Recipe(Frozen):
    """How a model is trained: every number that decides the result, but for model, data, length and seed."""

    optimizer: Annotated[AdamW | SGD, Field(discriminator="kind")] = AdamW()
    lr_peak: Positive
    schedule: Literal["cosine", "linear"]
    """Shape of the decay from `lr_peak` to zero, after a linear warm-up of `warmup_steps`."""
    warmup_steps: NonNegativeInt
    weight_decay: NonNegative
    """Applied to kernels only: never to biases, normalization, class token or position embedding."""
    batch: PositiveInt
    clip_norm: Positive | None = None
    """Largest global norm of the gradient; null means no clipping."""
    loss: Literal["softmax", "sigmoid"] = "softmax"
    label_smoothing: Share = 0.0
    dropout: Share = 0.0
    augmentation: Literal["none", "shift"] = "none"
    """`shift`: each image is moved by -1, 0 or 1 pixels along both sides, filled with the darkest value."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """`bf16`: autocast, with parameters and optimizer state in float32."""


# ------------------------------------------------------------------------------------------------------------ runs


class Data(Frozen):
    """The first `rows` images of the keyed permutation of a split: each smaller subset is a prefix of a larger one."""

    name: str
    fingerprint: Digest
    """SHA-256 of the files; a worker refuses to read other bytes."""
    split: str
    rows: PositiveInt
    classes: Annotated[int, Field(ge=2)]
    channels: PositiveInt


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
        if self.examples % self.recipe.batch:
            raise ValueError(f"{self.examples} examples are no multiple of the batch {self.recipe.batch}")
        if self.recipe.dropout and isinstance(self.model, ResNet):
            raise ValueError("dropout has no effect on a ResNet: the paper's has none")
        if self.recipe.warmup_steps >= self.steps:
            raise ValueError(
                f"a warm-up of {self.recipe.warmup_steps} steps needs a longer training than {self.steps} steps"
            )
        return self


class Evaluate(Frozen):
    """Classify a split with a trained model."""

    kind: Literal["evaluate"] = "evaluate"
    upstream: Digest
    """Key of the training."""
    data: Data
    image_size: PositiveInt


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
    shots: Annotated[Listed[PositiveInt], Field(min_length=1)]
    support_seeds: Annotated[Listed[NonNegativeInt], Field(min_length=1)]
    l2: Positive


Run = Annotated[Train | Evaluate | FewShot, Field(discriminator="kind")]
RUN: TypeAdapter[Train | Evaluate | FewShot] = TypeAdapter(Run)


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
