"""A trained network's weights for images of another size, and for other classes (arXiv:2010.11929v2, section 3.2).

T = tokens, D = width, H, W = rows and columns of patches, d = half the width. Weights are tensors by the names of
`named_parameters`.
"""

from collections.abc import Mapping
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn import functional

from studies.cost import ImageSize, grid, sides
from studies.models import AnyModel, MaskedPatch, ResNet, ViT, fine_tuned
from workers.models.build import blueprint, head_of, materialize
from workers.models.network import FeatureNetwork, Network, start_head
from workers.models.positions import Grid

NetworkT = TypeVar("NetworkT", bound=FeatureNetwork)

_HEAD = ("head.weight", "head.bias", "vit.head.weight", "vit.head.bias")


def transferred(
    weights: Mapping[str, Tensor],
    model: AnyModel,
    *,
    from_size: ImageSize,
    to_size: ImageSize,
    channels: int,
    classes: int,
    dropout: float = 0.0,
    stochastic_depth: float = 0.0,
    head_bias: float = 0.0,
) -> Network:
    """The network of `fine_tuned(model)` on the CPU, ready for fine-tuning on other images and classes.

    Its one linear layer starts at zero, but for its biases where `head_bias` is another number; positions are those of
    `resized`; all else is kept bit for bit. Of a masked-patch model the transformer goes on.

    Raises ValueError as `resized` does, when patches do not tile the new image, and when the weights are not the
    model's.
    """
    kept = resized(weights, model, from_size=from_size, to_size=to_size)
    if isinstance(model, MaskedPatch):
        kept = {name.removeprefix("vit."): tensor for name, tensor in kept.items() if name.startswith("vit.")}
    target = fine_tuned(model)
    shape = blueprint(
        target,
        image_size=to_size,
        channels=channels,
        classes=classes,
        dropout=dropout,
        stochastic_depth=stochastic_depth,
    )
    network = materialize(shape, "cpu")
    head = network.get_submodule(head_of(target))
    assert isinstance(head, torch.nn.Linear)
    start_head(head)
    torch.nn.init.constant_(head.bias, head_bias)
    new = {name: parameter.detach() for name, parameter in network.named_parameters() if name in _HEAD}
    return loaded(network, {name: kept[name] for name in kept if not _is_dropped(name)} | new)


def loaded(network: NetworkT, weights: Mapping[str, Tensor]) -> NetworkT:
    """The same network with these values in its parameters.

    Raises ValueError, before anything is written, when names or shapes are not those of the network.
    """
    parameters = dict(network.named_parameters())
    ours = {name: tuple(parameter.shape) for name, parameter in parameters.items()}
    theirs = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    if ours != theirs:
        wrong = sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name))
        first = wrong[0]
        raise ValueError(
            f"{len(wrong)} tensors are not the network's; the first, {first}, has the shape"
            f" {theirs.get(first, 'none')} and not {ours.get(first, 'none')}"
        )
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(weights[name])
    return network


def resized(
    weights: Mapping[str, Tensor], model: AnyModel, *, from_size: ImageSize, to_size: ImageSize
) -> dict[str, Tensor]:
    """The weights for images of another size: learned positions interpolated, all else the same tensors.

    Sizes are the side of a square image in pixels, or (height, width).

    Raises ValueError for a model whose positions have no meaning at another size: relative ones, whose offsets in
    raster order have no scale, and those inside an axial ResNet.
    """
    if sides(from_size) == sides(to_size):
        return dict(weights)
    if isinstance(model, ResNet):
        if model.mixing == "axial":
            raise ValueError(
                f"an AxialResNet for images of {_pixels(from_size)} cannot see {_pixels(to_size)}: its relative"
                " positions are of one size"
            )
        return dict(weights)
    vit = model if isinstance(model, ViT) else model.vit
    if vit.position == "relative":
        raise ValueError(
            f"a transformer with relative positions for images of {_pixels(from_size)} cannot see {_pixels(to_size)}:"
            " its offsets count tokens in raster order, and have no scale to interpolate on"
        )
    before, after = grid(model, from_size), grid(model, to_size)
    return {name: _resized_table(name, tensor, before, after) for name, tensor in weights.items()}


def resized_positions(table_TD: Tensor, before: Grid, after: Grid) -> Tensor:
    """A table in raster order for another grid, (T, D): bilinear, with the corners on the corners.

    A class token's row before the patches' stays as it is. The released code does this with
    scipy.ndimage.zoom(order=1). Raises ValueError for a table that is not of the grid `before`.
    """
    patches = before[0] * before[1]
    if len(table_TD) - patches not in (0, 1):
        raise ValueError(f"a table of {len(table_TD)} positions is none of {before[0]} x {before[1]} patches")
    if before == after:
        return table_TD
    token_TD, patch_TD = table_TD[:-patches], table_TD[-patches:]
    table_1DHW = patch_TD.double().view(*before, -1).permute(2, 0, 1)[None]
    zoomed_1DHW = functional.interpolate(table_1DHW, size=after, mode="bilinear", align_corners=True)
    zoomed_TD = zoomed_1DHW[0].flatten(1).mT.to(table_TD.dtype)
    return torch.cat([token_TD, zoomed_TD])


def _resized_table(name: str, tensor: Tensor, before: Grid, after: Grid) -> Tensor:
    last = name.rpartition(".")[2]
    if last == "position_TD":
        return resized_positions(tensor, before, after)
    # One of two tables whose rows lie on a line.
    if last == "position_row_Hd":
        return resized_positions(tensor, (before[0], 1), (after[0], 1))
    if last == "position_col_Wd":
        return resized_positions(tensor, (before[1], 1), (after[1], 1))
    return tensor


def _is_dropped(name: str) -> bool:
    """Whether a tensor belongs to the layers of pre-training that fine-tuning replaces."""
    return name in _HEAD or name.removeprefix("vit.").startswith("pre_logits.")


def _pixels(size: ImageSize) -> str:
    return f"{size}" if isinstance(size, int) else f"{size[0]} x {size[1]}"
