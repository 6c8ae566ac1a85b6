"""From a model's definition to its network: the shape alone, or with its first values."""

import math

import torch

from studies.definitions import Hybrid, ResNet, ViT, check_fits
from workers.models.draws import Draws
from workers.models.hybrid import HybridNetwork
from workers.models.network import Network
from workers.models.resnet import ResidualNetwork
from workers.models.vit import VisionTransformer


def build(
    model: ViT | ResNet | Hybrid, *, image_size: int, channels: int, classes: int, dropout: float, seed: int
) -> Network:
    """The network with its first values, on the CPU, in float32 and ready for training.

    Values are a function of the definition and the seed alone, the same on every machine.
    Raises ValueError as `blueprint` does.
    """
    network = blueprint(model, image_size=image_size, channels=channels, classes=classes, dropout=dropout)
    network.to_empty(device="cpu")
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(math.nan)
        network.initialize(Draws(seed))
    assert all(bool(parameter.isfinite().all()) for parameter in network.parameters()), "a parameter has no first value"
    return network


def blueprint(model: ViT | ResNet | Hybrid, *, image_size: int, channels: int, classes: int, dropout: float) -> Network:
    """The network on the meta device: every shape, no memory.

    Raises ValueError when patches do not tile the image, and for a dropout that would have no effect.
    """
    check_fits(model, image_size)
    with torch.device("meta"):
        if isinstance(model, ViT):
            return VisionTransformer(model, side=image_size, channels=channels, classes=classes, dropout=dropout)
        if isinstance(model, Hybrid):
            return HybridNetwork(model, image_size=image_size, channels=channels, classes=classes, dropout=dropout)
        if dropout:
            raise ValueError(f"a ResNet has no dropout, so a dropout of {dropout} has no effect: set it to 0")
        return ResidualNetwork(model, channels=channels, classes=classes)
