"""What a training step minimizes: the loss of a network on one part of a batch. Updates are made elsewhere.

B = images, C = channels, H, W = pixels, K = classes.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from studies.cost import grid
from studies.definitions import AnyTraining, FineTune
from studies.models import MaskedPatch
from workers.devices import Device
from workers.models.build import AnyNetwork, head_of
from workers.models.masked import Corruption, MaskedPatchNetwork, corruption_of
from workers.optimization import loss_of


class Part(NamedTuple):
    """Images of a step that are on the device at a time, and what is to be said of them."""

    image_BCHW: Tensor
    target: Tensor
    """Of classes, as `loss_of` takes it; of no effect where there is a corruption."""
    corruption: Corruption | None


def trains_head_alone(run: AnyTraining) -> bool:
    """Whether all but the last layer stays as it is."""
    return isinstance(run, FineTune) and run.trained == "head"


def made_trainable(network: AnyNetwork, run: AnyTraining) -> AnyNetwork:
    """The same network, with gradients and chance where the run has them: a frozen body works as when it is used."""
    if not trains_head_alone(run):
        return network.train()
    head = head_of(run.model)
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name.rpartition(".")[0] == head)
    return network.eval()


def parts_of(
    run: AnyTraining, step: int, batch: tuple[Tensor, Tensor], *, number: int, device: Device
) -> Iterator[Part]:
    """The batch of a step, images and targets, in so many equal parts."""
    images, targets = (tensor.chunk(number) for tensor in batch)
    corruptions: list[Corruption] | list[None] = [None] * number
    if isinstance(run.model, MaskedPatch):
        down, across = grid(run.model, run.image_size)
        whole = corruption_of(run.seed, step, batch=run.recipe.batch, patches=down * across, share=run.model.corrupted)
        corruptions = [
            Corruption(*part) for part in zip(*(device.place(each).chunk(number) for each in whole), strict=True)
        ]
    return map(Part, images, targets, corruptions)


def part_loss(network: AnyNetwork, run: AnyTraining, part: Part, device: Device) -> Tensor:
    """The mean over the images of a part, a float32 scalar."""
    image_BCHW = part.image_BCHW
    if isinstance(network, MaskedPatchNetwork):
        assert part.corruption is not None
        with device.autocast(run.recipe.precision):
            predicted = network(image_BCHW, part.corruption)
        return network.loss(predicted, network.targets(image_BCHW, part.corruption))
    with device.autocast(run.recipe.precision):
        if trains_head_alone(run):
            with torch.no_grad():
                feature_BF = network.features(image_BCHW)
            logits_BK = network.classify(feature_BF)
        else:
            logits_BK = network(image_BCHW)
    return loss_of(logits_BK, part.target, run.recipe)
