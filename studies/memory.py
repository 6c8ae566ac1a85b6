"""Bytes on the device during one training step, and the largest batch that fits, from the shape alone.

Counted (`docs/definitions.md`) are parameters and gradients in float32, the optimizer's state, and the tensors that
autograd keeps from the forward to the backward pass of our networks, run eagerly. Not counted are gradients of
activations while they pass by, workspaces, fragmentation, and the program itself.
"""

from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import Literal

from studies import activations
from studies.cost import AnyModel, ImageSize, parameters
from studies.definitions import AdamW, Recipe
from studies.devices import DeviceFacts, Kind
from studies.matrices import matrices

Keeping = Literal["adam", "adam-bf16", "adafactor", "sgd", "none"]
"""What an optimizer keeps of each parameter. `adam`: two moments in float32; `adam-bf16`: the first in bfloat16;
`adafactor`: the second paper's, the first in bfloat16 and the second of a matrix as a row and a column
(arXiv:2106.04560v2, section 3.4); `sgd`: a momentum in float32; `none`: nothing."""

Precision = Literal["fp32", "bf16"]

FLOAT_BYTES, HALF_BYTES = 4, 2
LEAST_FACTORED = 32
"""Adafactor factors a tensor whose second largest side is at least this."""


@dataclass(frozen=True)
class Memory:
    """Bytes of one training step."""

    parameters: int
    gradients: int
    optimizer: int
    copies: int
    """Of kernels as layers use them: cast by autocast, or standardized. They do not grow with the batch."""
    per_image: int
    """Activations kept for the backward pass, for each image of the batch."""

    @property
    def fixed(self) -> int:
        """All that does not grow with the batch."""
        return self.parameters + self.gradients + self.optimizer + self.copies

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
    precision: Precision = "fp32",
    kind: Kind = "gpu",
    token_multiple: int = 1,
    dropout: bool = False,
) -> Memory:
    """What a training step of this model needs.

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
        optimizer=_state(optimizer, count, model, image_size, channels, classes),
        copies=kept.once,
        per_image=kept.per_image,
    )


def recipe_memory(
    model: AnyModel, image_size: ImageSize, channels: int, classes: int, recipe: Recipe, device: DeviceFacts
) -> Memory:
    """What a training step of this recipe needs on a device."""
    chosen = recipe.optimizer
    optimizer: Keeping = "adam" if isinstance(chosen, AdamW) else "sgd" if chosen.momentum else "none"
    return training_memory(
        model,
        image_size,
        channels,
        classes,
        optimizer=optimizer,
        precision=recipe.precision,
        kind=device.kind,
        token_multiple=device.token_multiple,
        dropout=recipe.dropout > 0,
    )


def _state(optimizer: Keeping, count: int, model: AnyModel, image_size: ImageSize, channels: int, classes: int) -> int:
    """Bytes of an optimizer's state for so many parameters."""
    if optimizer == "adam":
        return 2 * FLOAT_BYTES * count
    if optimizer == "adam-bf16":
        return (HALF_BYTES + FLOAT_BYTES) * count
    if optimizer == "adafactor":
        second = count
        for matrix in matrices(model, image_size, channels, classes):
            *rest, shorter, longer = sorted(matrix.shape)
            if shorter >= LEAST_FACTORED:
                second -= matrix.count * prod(rest) * (shorter * longer - shorter - longer)
        return HALF_BYTES * count + FLOAT_BYTES * second
    return FLOAT_BYTES * count if optimizer == "sgd" else 0
