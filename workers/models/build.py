"""From a model's definition to its network: the shape alone, or with its first values."""

import math
from typing import TypeVar, overload

import torch

from studies.cost import ImageSize, sides
from studies.models import AnyModel, Hybrid, MaskedPatch, ResNet, ViT, check_fits
from workers.models.draws import Draws
from workers.models.hybrid import HybridNetwork
from workers.models.masked import MaskedPatchNetwork
from workers.models.network import FeatureNetwork, HasConstants, Network
from workers.models.resnet import ResidualNetwork
from workers.models.vit import VisionTransformer

NetworkT = TypeVar("NetworkT", bound=FeatureNetwork)

AnyNetwork = Network | MaskedPatchNetwork
"""What a model's definition becomes."""


@overload
def build(
    model: ViT | ResNet | Hybrid,
    *,
    image_size: ImageSize,
    channels: int,
    classes: int,
    dropout: float = 0.0,
    stochastic_depth: float = 0.0,
    head_bias: float = 0.0,
    seed: int,
) -> Network: ...
@overload
def build(
    model: MaskedPatch,
    *,
    image_size: ImageSize,
    channels: int,
    classes: int,
    dropout: float = 0.0,
    stochastic_depth: float = 0.0,
    seed: int,
) -> MaskedPatchNetwork: ...
@overload
def build(
    model: AnyModel,
    *,
    image_size: ImageSize,
    channels: int,
    classes: int,
    dropout: float = 0.0,
    stochastic_depth: float = 0.0,
    head_bias: float = 0.0,
    seed: int,
) -> AnyNetwork: ...
def build(
    model: AnyModel,
    *,
    image_size: ImageSize,
    channels: int,
    classes: int,
    dropout: float = 0.0,
    stochastic_depth: float = 0.0,
    head_bias: float = 0.0,
    seed: int,
) -> AnyNetwork:
    """The network with its first values, on the CPU, in float32 and ready for training.

    Values are a function of the definition and the seed alone, the same on every machine.
    head_bias: first value of all biases of the last linear layer; masked-patch models have none.
    Other arguments and errors are those of `blueprint`.
    """
    shape = blueprint(
        model,
        image_size=image_size,
        channels=channels,
        classes=classes,
        dropout=dropout,
        stochastic_depth=stochastic_depth,
    )
    network = materialize(shape, "cpu")
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(math.nan)
        network.initialize(Draws(seed))
        if head_bias:
            assert isinstance(network, Network)
            network.get_parameter(f"{head_of(model)}.bias").fill_(head_bias)
    assert all(bool(parameter.isfinite().all()) for parameter in network.parameters()), "a parameter has no first value"
    return network


def head_of(model: AnyModel) -> str:
    """The name of the last linear layer in the model's network."""
    if isinstance(model, MaskedPatch):
        return "predict"
    return "vit.head" if isinstance(model, Hybrid) else "head"


def materialize(network: NetworkT, device: torch.device | str) -> NetworkT:
    """The same network with memory on a device and its constants filled in; its parameters have no values yet."""
    network.to_empty(device=device)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, HasConstants):
                module.fill_constants()
    return network


@overload
def blueprint(
    model: ViT | ResNet | Hybrid,
    *,
    image_size: ImageSize,
    channels: int,
    classes: int,
    dropout: float = 0.0,
    stochastic_depth: float = 0.0,
) -> Network: ...
@overload
def blueprint(
    model: MaskedPatch,
    *,
    image_size: ImageSize,
    channels: int,
    classes: int,
    dropout: float = 0.0,
    stochastic_depth: float = 0.0,
) -> MaskedPatchNetwork: ...
@overload
def blueprint(
    model: AnyModel,
    *,
    image_size: ImageSize,
    channels: int,
    classes: int,
    dropout: float = 0.0,
    stochastic_depth: float = 0.0,
) -> AnyNetwork: ...
def blueprint(
    model: AnyModel,
    *,
    image_size: ImageSize,
    channels: int,
    classes: int,
    dropout: float = 0.0,
    stochastic_depth: float = 0.0,
) -> AnyNetwork:
    """The network on the meta device: every shape, no memory.

    image_size: side of a square image in pixels, or (height, width).
    classes: of no effect on a masked-patch model, whose targets follow from its definition.
    Raises ValueError when patches do not tile the image, and for a dropout or a stochastic depth without effect.
    """
    size = sides(image_size)
    for side in size:
        check_fits(model.vit if isinstance(model, MaskedPatch) else model, side)
    with torch.device("meta"):
        if isinstance(model, ResNet):
            for name, share in (("dropout", dropout), ("stochastic depth", stochastic_depth)):
                if share:
                    raise ValueError(f"a ResNet has no {name}, so a {name} of {share} has no effect: set it to 0")
            return ResidualNetwork(model, size=size, channels=channels, classes=classes)
        if isinstance(model, MaskedPatch):
            return MaskedPatchNetwork(
                model, size=size, channels=channels, dropout=dropout, stochastic_depth=stochastic_depth
            )
        if isinstance(model, Hybrid):
            return HybridNetwork(
                model, size=size, channels=channels, classes=classes, dropout=dropout, stochastic_depth=stochastic_depth
            )
        return VisionTransformer(
            model, size=size, channels=channels, classes=classes, dropout=dropout, stochastic_depth=stochastic_depth
        )
