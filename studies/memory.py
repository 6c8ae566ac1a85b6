"""Bytes on the device during one training step, and the largest batch that fits, from the shape alone.

Counted (`docs/definitions.md`) are parameters and gradients in float32, the optimizer's state, an average of the
weights, and the tensors that autograd keeps from the forward to the backward pass of our networks, run eagerly. Not
counted are gradients of activations while they pass by, workspaces, fragmentation, and the program itself.
"""

from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import Literal

from studies import activations
from studies.cost import ImageSize, parameters
from studies.definitions import SGD, Adafactor, AdamW, Recipe
from studies.devices import DeviceFacts, Kind
from studies.matrices import matrices
from studies.models import AnyModel

Keeping = Literal["adam", "adam-bf16", "adafactor", "sgd", "sgd-bf16", "none"]
"""What an optimizer keeps of each parameter. `adam`: two moments in float32; `adam-bf16`: the first in bfloat16;
`adafactor`: the second paper's, the first in bfloat16 and the second of a matrix as a row and a column
(arXiv:2106.04560v2, section 3.4); `sgd`: a momentum in float32; `sgd-bf16`: in bfloat16; `none`: nothing."""

Precision = Literal["fp32", "bf16"]

FLOAT_BYTES, HALF_BYTES = 4, 2
LEAST_FACTORED = 32
"""Adafactor factors a tensor whose second largest side is at least this, where nothing else is said."""


def micro_batch_of(batch: int, most: int | None) -> int:
    """Images of a step that are on the device at a time: the largest part of the batch that is no larger than `most`.

    All parts are equal, so it divides the batch; without a bound it is the batch.
    """
    if most is None or most >= batch:
        return batch
    return max(part for part in range(1, most + 1) if batch % part == 0)


@dataclass(frozen=True)
class Memory:
    """Bytes of one training step."""

    parameters: int
    gradients: int
    optimizer: int
    average: int
    """Of the weights, where the recipe has one."""
    copies: int
    """Of kernels as layers use them: cast by autocast, or standardized. They do not grow with the batch."""
    per_image: int
    """Activations kept for the backward pass, for each image of the batch."""

    @property
    def fixed(self) -> int:
        """All that does not grow with the batch."""
        return self.parameters + self.gradients + self.optimizer + self.average + self.copies

    def at(self, batch: int) -> int:
        """Bytes at so many images in a step."""
        return self.fixed + batch * self.per_image

    def largest_batch(self, memory_bytes: int) -> int:
        """Images that fit in a step; 0 where not even one does."""
        return max(0, (memory_bytes - self.fixed) // self.per_image)


@lru_cache(maxsize=4096)
def training_memory(
    model: AnyModel,
    image_size: ImageSize,
    channels: int,
    classes: int,
    *,
    optimizer: Keeping = "adam",
    factored_from: int = LEAST_FACTORED,
    averaged: bool = False,
    precision: Precision = "fp32",
    kind: Kind = "gpu",
    token_multiple: int = 1,
    dropout: bool = False,
) -> Memory:
    """What a training step of this model needs.

    factored_from: which tensors Adafactor factors, of no effect on other optimizers.
    averaged: an average of the weights is kept beside them.
    precision: `bf16` is autocast over float32 parameters.
    kind: of the device, which decides how attention and normalization are computed, and so what they keep.
    token_multiple: tokens of an image are padded in memory to a multiple of this, as TPUs do to 128.
    """
    count = parameters(model, image_size, channels, classes)
    kept = activations.kept(
        model,
        image_size,
        channels,
        classes,
        activations.Setting(precision == "bf16", kind, token_multiple, dropout),
    )
    return Memory(
        parameters=FLOAT_BYTES * count,
        gradients=FLOAT_BYTES * count,
        optimizer=_state(optimizer, count, model, image_size, channels, classes, factored_from),
        average=FLOAT_BYTES * count if averaged else 0,
        copies=kept.once,
        per_image=kept.per_image,
    )


def recipe_memory(
    model: AnyModel, image_size: ImageSize, channels: int, classes: int, recipe: Recipe, device: DeviceFacts
) -> Memory:
    """What a training step of this recipe needs on a device."""
    chosen = recipe.optimizer
    return training_memory(
        model,
        image_size,
        channels,
        classes,
        optimizer=keeping_of(chosen),
        factored_from=chosen.factored_from if isinstance(chosen, Adafactor) else LEAST_FACTORED,
        averaged=recipe.polyak is not None,
        precision=recipe.precision,
        kind=device.kind,
        token_multiple=device.token_multiple,
        dropout=recipe.dropout > 0,
    )


def keeping_of(chosen: AdamW | SGD | Adafactor) -> Keeping:
    """What a recipe's optimizer keeps."""
    match chosen:
        case Adafactor():
            return "adafactor"
        case AdamW():
            return "adam" if chosen.momentum_precision == "fp32" else "adam-bf16"
        case SGD():
            if not chosen.momentum:
                return "none"
            return "sgd" if chosen.momentum_precision == "fp32" else "sgd-bf16"


def _state(
    optimizer: Keeping,
    count: int,
    model: AnyModel,
    image_size: ImageSize,
    channels: int,
    classes: int,
    factored_from: int,
) -> int:
    """Bytes of an optimizer's state for so many parameters."""
    if optimizer == "adam":
        return 2 * FLOAT_BYTES * count
    if optimizer == "adam-bf16":
        return (HALF_BYTES + FLOAT_BYTES) * count
    if optimizer == "adafactor":
        second = count
        for matrix in matrices(model, image_size, channels, classes):
            *rest, shorter, longer = sorted(matrix.shape)
            if shorter >= factored_from:
                second -= matrix.count * prod(rest) * (shorter * longer - shorter - longer)
        return HALF_BYTES * count + FLOAT_BYTES * second
    return {"sgd": FLOAT_BYTES, "sgd-bf16": HALF_BYTES, "none": 0}[optimizer] * count
