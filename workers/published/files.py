"""Published weights into a network, all or nothing, and what a file holds."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from studies.cost import ImageSize, grid
from studies.models import Hybrid, ResNet, ViT
from workers.models.build import blueprint
from workers.models.network import Network
from workers.models.positions import Grid
from workers.models.transfer import loaded
from workers.published.conventions import FormatError
from workers.published.matching import Classifier, match
from workers.published.recognition import Holding, definition_of
from workers.published.tensors import read
from workers.published.timm_files import ARGUMENTS, save_timm

__all__ = ["Description", "FormatError", "Holding", "definition_of", "describe", "load", "save_timm"]


def load(
    path: Path,
    network: Network,
    model: ViT | ResNet | Hybrid,
    *,
    head: Classifier = "keep",
    image_size: ImageSize | None = None,
) -> None:
    """Fill a network of this model with the weights of a published file, whichever of the conventions it follows.

    Positions for another resolution are interpolated to the network's.
    head: `keep` wants the file's classifier to be the network's; `drop` takes none and starts the network's at zero,
    for another task. Where the network has no pre-logits layer, `drop` leaves the file's too.
    image_size: what the file's positions are for: the side of a square in pixels, or (height, width). By default what
    the file says, else a square.
    Raises FormatError when the file does not fit, with the tensors that are missing, extra or of another shape, and
    OSError as it comes; the network is then as it was.
    """
    if any(parameter.is_meta for parameter in network.parameters()):
        raise ValueError("the network has no memory to load into: materialize it first")
    tensors, facts = read(path)
    try:
        found = match(tensors, network, model, head=head, file_grid=_grid(model, image_size, facts))
        if misfits := found.misfits():
            raise FormatError("; ".join(misfits))
    except FormatError as error:
        raise FormatError(f"{path} does not fit: {error}") from error
    loaded(network, found.weights)


@dataclass(frozen=True)
class Description:
    """What a file holds."""

    holding: Holding
    numbers: int
    """In all its tensors."""
    misfits: tuple[str, ...]
    """What keeps the model from being whole; nothing when it is."""


def describe(path: Path) -> Description:
    """What a published file holds, and whether it is whole.

    Raises FormatError when it is no such file, its names are of no known convention, or its shapes make no model.
    """
    tensors, facts = read(path)
    try:
        told = _arguments(facts)
        holding = definition_of(
            {name: tuple(tensor.shape) for name, tensor in tensors.items()},
            heads=told.get("num_heads"),
            token_has_row=not told["no_embed_class"] if "no_embed_class" in told else None,
            gelu="tanh" if told.get("act_layer") == "gelu_tanh" else None,
        )
        misfits = _own_misfits(holding, tensors)
    except FormatError as error:
        raise FormatError(f"{path}: {error}") from error
    return Description(holding, sum(tensor.numel() for tensor in tensors.values()), tuple(misfits))


def _own_misfits(holding: Holding, tensors: Mapping[str, Tensor]) -> list[str]:
    """What the tensors lack of the model that most of them make."""
    model = holding.model
    strip: Grid | None = None
    size = (model.stride, model.stride) if isinstance(model, ResNet) else (0, 0)
    if not isinstance(model, ResNet):
        # The patches in one row, since their number alone is known.
        strip = (1, holding.patches or 1)
        tile = model.patch if isinstance(model, ViT) else model.vit.patch * model.body.stride
        size = (tile, tile * strip[1])
    network = blueprint(model, image_size=size, channels=holding.channels, classes=holding.classes or 1)
    head: Classifier = "drop" if holding.classes is None else "keep"
    return match(tensors, network, model, head=head, file_grid=strip).misfits()


def _grid(model: ViT | ResNet | Hybrid, image_size: ImageSize | None, facts: Mapping[str, str]) -> Grid | None:
    """The patches that a file's positions are for, where that is known."""
    if isinstance(model, ResNet):
        return None
    told = _arguments(facts).get("img_size")
    if image_size is None and isinstance(told, list) and len(told) == 2:
        image_size = (int(told[0]), int(told[1]))
    return None if image_size is None else grid(model, image_size)


def _arguments(facts: Mapping[str, str]) -> dict[str, Any]:
    """timm's arguments of the model, where the file has them."""
    try:
        arguments = json.loads(facts.get(ARGUMENTS, "{}"))
    except ValueError as error:
        raise FormatError(f"what it says of itself under {ARGUMENTS} is no JSON") from error
    return arguments if isinstance(arguments, dict) else {}
