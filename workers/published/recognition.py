"""Which model a published file holds, from the names and shapes of its tensors alone."""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from pydantic import ValidationError
from torch import Tensor

from studies.architectures import PUBLISHED
from studies.models import Gelu, Head, Hybrid, ResNet, ViT
from workers.published.conventions import Convention, FormatError, place_of
from workers.published.layouts import TO_HEADS
from workers.published.tables import recognized

_HEAD_WIDTH = 64
"""Width of an attention head in every published transformer whose shape `PUBLISHED` does not name."""


@dataclass(frozen=True)
class Holding:
    """What a file holds."""

    convention: Convention
    prefix: str
    model: ViT | ResNet | Hybrid
    image_size: int | None
    """Side of the square images that the positions are for, in pixels; None where any size will do or none is known."""
    patches: int | None
    """How many the positions are for; None without any."""
    channels: int
    classes: int | None
    """None where the classifier was left out."""


def definition_of(
    shapes: Mapping[str, tuple[int, ...]],
    *,
    heads: int | None = None,
    token_has_row: bool | None = None,
    gelu: Gelu | None = None,
) -> Holding:
    """The model that tensors of these names and shapes make.

    heads: attention heads, which most files do not tell. Without it, those of the file's shapes where they say it, else
    of the published transformer of this width, depth and MLP, else one for each 64 of the width.
    token_has_row: whether a class token has a position. Without it, unless the positions then would make no square and
    are one without it.
    gelu: without it, that which the code base of the convention computes: google-research's the tanh form.
    Raises FormatError when the names are of no known convention, or the shapes make no model.
    """
    convention, prefix = recognized(shapes)
    ours, heads_there = _ours(convention, prefix, shapes)
    try:
        gelu = gelu or convention.gelu
        return _Reader(ours, heads or heads_there, token_has_row, gelu).holding(convention, prefix)
    except ValidationError as error:
        raise FormatError(f"its shapes make no model: {error.errors()[0]['msg']}") from error


def _ours(
    convention: Convention, prefix: str, shapes: Mapping[str, tuple[int, ...]]
) -> tuple[dict[str, torch.Size], int | None]:
    """Shapes by our names, `{stage}.{unit}` standing for a ResNet's unit; and the attention heads, where told."""
    parts: dict[str, dict[int, Tensor]] = defaultdict(dict)
    heads = None
    for name, shape in shapes.items():
        place = place_of(convention, canonical(convention, prefix, name))
        if place is None:
            continue
        try:
            tensor = place.layout.read(flat_norm(name, torch.empty(shape, device="meta")))
        except (IndexError, RuntimeError) as error:
            raise FormatError(f"{name} has the shape {shape}, which no such tensor has") from error
        parts[place.ours.replace("{unit}", f"{place.stage}.{place.unit}")][place.part] = tensor
        heads = shape[1] if place.layout is TO_HEADS else heads
    return {ours: _joined(of_ours) for ours, of_ours in parts.items()}, heads


def _joined(parts: dict[int, Tensor]) -> torch.Size:
    shape = next(iter(parts.values())).shape
    return torch.Size((sum(len(part) for part in parts.values()), *shape[1:])) if shape else shape


def canonical(convention: Convention, prefix: str, name: str) -> str:
    """A file's name for a tensor as the convention's table has it, without the prefix."""
    return name.removeprefix(prefix) if convention.spelled(name.removeprefix(prefix), prefix) == name else name


def flat_norm(name: str, tensor: Tensor) -> Tensor:
    """The tensor, or of a group normalization as older flax wrote it, (1, 1, 1, C), its C values."""
    layer = name.split("/")[-2:-1]
    return tensor.flatten() if layer and layer[0].startswith("gn") and tensor.shape[:-1] == (1, 1, 1) else tensor


class _Reader:
    """Reads a definition off the shapes of our parameters."""

    def __init__(
        self, shapes: dict[str, torch.Size], heads: int | None, token_has_row: bool | None, gelu: Gelu
    ) -> None:
        self.shapes = shapes
        self.gelu = gelu
        self.heads = heads
        self.token_has_row = token_has_row

    def holding(self, convention: Convention, prefix: str) -> Holding:
        model: ViT | ResNet | Hybrid
        first, vit, stride, tile, patches = "body.root.weight", "", 1, 1, None
        if convention.kind == "vit":
            model, patches = self.encoder(vit)
            first, tile = "embed.weight", model.patch
        elif convention.kind == "resnet":
            model = self.body()
        else:
            body, vit = self.body(), "vit."
            encoder, patches = self.encoder(vit)
            model = Hybrid(body=body, vit=encoder)
            stride, tile = body.stride, encoder.patch
        channels = self.shape(first, 4)[1]
        side = _root(patches) if patches else None
        head = self.shapes.get(f"{vit}head.weight")
        image_size = side * tile * stride if side else None
        return Holding(convention, prefix, model, image_size, patches, channels, head[0] if head else None)

    def shape(self, name: str, dims: int) -> torch.Size:
        shape = self.shapes.get(name)
        if shape is None or len(shape) != dims:
            what = "is not there" if shape is None else f"has {len(shape)} dims and not {dims}"
            raise FormatError(f"what stands for {name} {what}, so its model cannot be told")
        return shape

    def count(self, numbers: Iterable[int]) -> int:
        """How many there are of what is numbered from zero; a gap is found later, as something missing."""
        highest = max(numbers, default=-1)
        if highest > len(self.shapes):
            raise FormatError(f"it numbers its layers up to {highest:,} and has fewer tensors")
        return highest + 1

    def encoder(self, vit: str) -> tuple[ViT, int | None]:
        """The transformer, and how many patches its positions are for."""
        width, _, patch, _ = self.shape(f"{vit}embed.weight", 4)
        mlp = self.shape(f"{vit}blocks.0.mlp1.weight", 2)[0]
        depth = self.count(int(name.split("blocks.")[1].split(".")[0]) for name in self.shapes if "blocks." in name)
        head = self.head(vit)
        rows = self.shape(f"{vit}position_TD", 2)[0] if f"{vit}position_TD" in self.shapes else 0
        # A class token's row makes one more than a square; without it the positions are a square, as in big_vision.
        has_row = _root(rows) is None if self.token_has_row is None else self.token_has_row
        token_without_row = head in ("token", "token-tanh") and rows > 0 and not has_row
        made = ViT(
            patch=patch,
            width=width,
            depth=depth,
            mlp=mlp,
            heads=self.heads or _heads(width, depth, mlp),
            head=head,
            gelu=self.gelu,
            position="learned-1d" if rows else "none",
            code="big-vision" if token_without_row else "vision-transformer",
        )
        return made, rows - made.has_token + token_without_row if rows else None

    def head(self, vit: str) -> Head:
        if f"{vit}pool.probe_1D" in self.shapes:
            return "map"
        if f"{vit}pre_logits.weight" in self.shapes:
            return "token-tanh"
        return "token" if f"{vit}cls_1D" in self.shapes else "gap"

    def body(self) -> ResNet:
        width, _, kernel, _ = self.shape("body.root.weight", 4)
        if kernel not in (3, 7):
            raise FormatError(f"its root has filters of {kernel}x{kernel}; valid are 7x7 and 3x3")
        units: dict[int, set[int]] = defaultdict(set)
        for name in self.shapes:
            if name.startswith("body.units."):
                stage, unit = map(int, name.split(".")[2:4])
                units[stage].add(unit)
        return ResNet(
            blocks=tuple(self.count(units[stage]) for stage in range(self.count(units))),
            width=width,
            root="7x7" if kernel == 7 else "3x3",
            form="post-activation" if "body.root_norm.weight" in self.shapes else "pre-activation",
        )


def _root(count: int) -> int | None:
    """The side of a square of so many patches."""
    side = math.isqrt(count)
    return side if side * side == count else None


def _heads(width: int, depth: int, mlp: int) -> int:
    for encoder in PUBLISHED.ViT.values():
        if (encoder.width, encoder.depth, encoder.mlp) == (width, depth, mlp):
            return encoder.heads
    if width % _HEAD_WIDTH:
        raise FormatError(f"its attention heads cannot be told: {_HEAD_WIDTH} does not divide the width {width}")
    return width // _HEAD_WIDTH
