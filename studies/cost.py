"""What a model costs: parameters, tokens and floating-point operations, from its shape alone.

Convention (`docs/definitions.md`): a multiply-add is 2 FLOPs; the taps of a convolution that fall on zero padding are
not counted unless `padded_taps` asks for it; the head is; a training step costs three forward passes. Element-wise work
is left out. On the 18 trainings of arXiv:2010.11929v2, Table 6, this meets the published column within 0.7 %.

`image_size` is the side of a square image in pixels, or (height, width). Nothing here checks that patches tile it:
`models.check_fits` does.
"""

from functools import lru_cache

from studies import cost_resnet, cost_vit
from studies.models import AnyModel, Hybrid, MaskedPatch, ResNet, ViT

ImageSize = int | tuple[int, int]

TRAINING_PASSES = 3
"""A training step in forward passes: one forward, two for the gradients of inputs and weights."""


@lru_cache(maxsize=4096)
def parameters(model: AnyModel, image_size: ImageSize, channels: int, classes: int) -> int:
    """Trainable parameters, head included. A masked-patch model has no classifier, and `classes` no effect."""
    if isinstance(model, ViT):
        return cost_vit.parameters(model, *grid(model, image_size), channels, classes)
    if isinstance(model, ResNet):
        return cost_resnet.parameters(model, sides(image_size), channels) + (model.channels + 1) * classes
    if isinstance(model, MaskedPatch):
        return cost_vit.masked_parameters(model, *grid(model, image_size), channels)
    body = cost_resnet.parameters(model.body, sides(image_size), channels)
    return body + cost_vit.parameters(model.vit, *grid(model, image_size), model.body.channels, classes)


@lru_cache(maxsize=4096)
def forward_flops(
    model: AnyModel, image_size: ImageSize, channels: int, classes: int, *, padded_taps: bool = False
) -> int:
    """FLOPs of one forward pass on one image, as in a training: a masked-patch model predicts what is corrupted.

    padded_taps: count the taps of convolutions on zero padding too, as `torch.utils.flop_counter` does.
    """
    if isinstance(model, ViT):
        return 2 * cost_vit.macs(model, *grid(model, image_size), channels, classes)
    if isinstance(model, ResNet):
        return 2 * (cost_resnet.macs(model, sides(image_size), channels, padded_taps) + model.channels * classes)
    if isinstance(model, MaskedPatch):
        return 2 * cost_vit.masked_macs(model, *grid(model, image_size), channels)
    body = cost_resnet.macs(model.body, sides(image_size), channels, padded_taps)
    return 2 * (body + cost_vit.macs(model.vit, *grid(model, image_size), model.body.channels, classes))


def train_flops(
    model: AnyModel, image_size: ImageSize, channels: int, classes: int, examples: int, *, padded_taps: bool = False
) -> float:
    """FLOPs of a training that sees this many images, repeats counted."""
    forward = forward_flops(model, image_size, channels, classes, padded_taps=padded_taps)
    return float(TRAINING_PASSES * forward * examples)


def tokens(model: AnyModel, image_size: ImageSize) -> int:
    """Tokens of one image in the transformer's layers, the class token included; 0 for a ResNet."""
    if isinstance(model, ResNet):
        return 0
    rows, columns = grid(model, image_size)
    vit = model if isinstance(model, ViT) else model.vit
    return rows * columns + vit.has_token


def grid(model: ViT | Hybrid | MaskedPatch, image_size: ImageSize) -> tuple[int, int]:
    """Patches of one image: down and across."""
    pixels = model.patch if isinstance(model, ViT) else model.vit.patch
    if isinstance(model, Hybrid):
        pixels *= model.body.stride
    height, width = sides(image_size)
    return height // pixels, width // pixels


def sides(image_size: ImageSize) -> tuple[int, int]:
    """(height, width) in pixels."""
    return (image_size, image_size) if isinstance(image_size, int) else image_size
