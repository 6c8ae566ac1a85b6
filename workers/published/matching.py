"""A file's tensors fitted to a network's parameters: each by its name, in the network's layout and for its image size.

D = width, T = tokens.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from studies.models import Hybrid, ResNet, ViT
from workers.models.network import Network
from workers.models.positions import Grid, Positioned
from workers.models.transfer import resized_positions
from workers.published.conventions import Convention, FormatError, Link, links
from workers.published.recognition import canonical, flat_norm
from workers.published.tables import recognized

Model = ViT | ResNet | Hybrid
Classifier = Literal["keep", "drop"]

GROUPS = 32
"""Groups of every published group normalization. No shape tells them."""
_MOST_NAMED = 8
"""So many tensors of each kind of misfit are named one by one."""


@dataclass
class Match:
    """What a file has for a network, and what it lacks."""

    weights: dict[str, Tensor] = field(default_factory=dict)
    """By the network's names and in its shapes: whole when there are no misfits."""
    missing: list[str] = field(default_factory=list)
    extra: list[str] = field(default_factory=list)
    misshaped: list[str] = field(default_factory=list)

    def take(self, link: Link, name: str, tensor: Tensor | None, shape: tuple[int, ...]) -> None:
        """Note what the file has for a link; parts of one tensor of ours come in their order."""
        if tensor is None:
            self.missing.append(f"{name} {shape}")
        elif tensor.shape != shape:
            self.misshaped.append(f"{name} is {tuple(tensor.shape)} and not {shape}")
        else:
            before = [self.weights[link.ours]] if link.ours in self.weights else []
            self.weights[link.ours] = torch.cat([*before, link.read(tensor)])

    def misfits(self) -> list[str]:
        """One phrase for each kind of misfit, with the file's names of the tensors and their shapes."""
        kinds = (("missing", self.missing), ("extra", self.extra), ("of another shape", self.misshaped))
        return [f"{len(found):,} {kind}: {_listed(found)}" for kind, found in kinds if found]


def match(
    tensors: Mapping[str, Tensor], network: Network, model: Model, *, head: Classifier, file_grid: Grid | None
) -> Match:
    """Find every parameter of the network among tensors of any known convention.

    file_grid: rows and columns of patches that the file's positions are for; None: a square, or where no square has so
    many patches, the network's own.
    Raises FormatError when the convention has no place for such a network at all.
    """
    convention, prefix = recognized(tensors)
    _check_kind(convention, model)
    heads = 1 if isinstance(model, ResNet) else _encoder_of(model).heads
    wanted = links(convention, network, model)
    if head == "drop":
        wanted = [link for link in wanted if not _is_classifier(link.ours)]
    theirs = {canonical(convention, prefix, name): flat_norm(name, tensor) for name, tensor in tensors.items()}
    shapes = {name: torch.empty_like(parameter, device="meta") for name, parameter in network.named_parameters()}
    found = Match()
    for link in wanted:
        shape = tuple(link.write(shapes[link.ours], heads).shape)
        tensor = theirs.pop(link.theirs, None)
        if tensor is not None and link.ours.endswith("position_TD"):
            tensor = _at_grid(tensor, shape, _grid_of(network), file_grid)
        found.take(link, convention.spelled(link.theirs, prefix), tensor, shape)
    left_behind = convention.head_names if head == "drop" else frozenset()
    found.extra = [
        f"{convention.spelled(name, prefix)} {tuple(tensor.shape)}"
        for name, tensor in sorted(theirs.items())
        if name not in left_behind
    ]
    if head == "drop":
        found.weights |= {name: torch.zeros(meta.shape) for name, meta in shapes.items() if _is_classifier(name)}
    return found


def _check_kind(convention: Convention, model: Model) -> None:
    if convention.kind != model.kind:
        raise FormatError(f"it holds a {convention.kind} by the names of {convention.source}, and not a {model.kind}")
    if not isinstance(model, ResNet) and _encoder_of(model).position_at != "stem":
        raise FormatError("published transformers have their positions at the stem; the network has them at its layers")
    body = model.body if isinstance(model, Hybrid) else model
    if isinstance(body, ResNet) and body.groups != GROUPS:
        raise FormatError(f"published ResNets normalize {GROUPS} groups of channels, and the network {body.groups}")


def _at_grid(table_1TD: Tensor, shape: tuple[int, ...], grid: Grid, file_grid: Grid | None) -> Tensor:
    """Positions interpolated to the network's grid; as they are where they cannot be."""
    if table_1TD.dim() != 3 or table_1TD.shape[0] != 1:
        return table_1TD
    token_rows = shape[1] - grid[0] * grid[1]
    patches = table_1TD.shape[1] - token_rows
    side = math.isqrt(max(0, patches))
    before = file_grid or ((side, side) if side * side == patches else grid)
    if before[0] * before[1] != patches or not patches:
        return table_1TD
    return resized_positions(table_1TD[0], before, grid)[None]


def _grid_of(network: Network) -> Grid:
    encoder = next(module for module in network.modules() if isinstance(module, Positioned))
    assert encoder.grid is not None
    return encoder.grid


def _encoder_of(model: ViT | Hybrid) -> ViT:
    return model.vit if isinstance(model, Hybrid) else model


def _is_classifier(name: str) -> bool:
    return name.removeprefix("vit.") in ("head.weight", "head.bias")


def _listed(names: Iterable[str]) -> str:
    named = list(names)
    more = len(named) - _MOST_NAMED
    return ", ".join(named[:_MOST_NAMED]) + (f" and {more:,} more" if more > 0 else "")
