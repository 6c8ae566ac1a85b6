"""The parameters of a model that have two dimensions or more, by shape: what is multiplied with, and what is looked up.

Adafactor factors them, and autocast copies those that are multiplied.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from studies import cost_resnet, cost_vit
from studies.cost import ImageSize, grid, sides
from studies.models import AXIAL_HEADS, AnyModel, MaskedPatch, ResNet, ViT


@dataclass(frozen=True)
class Matrix:
    """So many parameters of one shape."""

    count: int
    shape: tuple[int, ...]
    is_kernel: bool = True
    """Of a linear layer or a convolution; otherwise a table of positions or offsets."""
    is_standardized: bool = False
    """Of a ResNet's convolution."""

    @property
    def values(self) -> int:
        """Numbers in all of them."""
        total = self.count
        for side in self.shape:
            total *= side
        return total


def matrices(model: AnyModel, image_size: ImageSize, channels: int, classes: int) -> Iterator[Matrix]:
    """All of them. Vectors, class tokens and probes (1, D) among them, are left out."""
    if isinstance(model, ResNet):
        yield from _of_body(model, image_size, channels)
        yield Matrix(1, (classes, model.channels))
        return
    vit = model if isinstance(model, ViT) else model.vit
    if isinstance(model, MaskedPatch):
        outputs = cost_vit.predictions(model, channels)
    else:
        outputs = classes
        if not isinstance(model, ViT):
            yield from _of_body(model.body, image_size, channels)
            channels = model.body.channels
    yield from _of_vit(vit, *grid(model, image_size), channels)
    yield Matrix(1, (outputs, vit.width))


def _of_vit(model: ViT, rows: int, columns: int, channels: int) -> Iterator[Matrix]:
    width, mlp = model.width, model.mlp
    yield Matrix(1, (width, channels, model.patch, model.patch))
    layers = model.depth * (2 if model.attention == "axial" else 1)
    yield Matrix(layers, (3 * width, width))
    yield Matrix(layers, (width, width))
    yield Matrix(2 * layers, (mlp, width))
    if model.head == "token-tanh":
        yield Matrix(1, (width, width))
    elif model.head == "map":
        yield Matrix(2, (width, width))
        yield Matrix(1, (2 * width, width))
        yield Matrix(2, (mlp, width))
    yield from _positions(model, rows, columns)


def _positions(model: ViT, rows: int, columns: int) -> Iterator[Matrix]:
    tables = model.depth if model.position_at == "layers" else 1
    if model.position == "learned-1d":
        own = model.has_token and model.code == "vision-transformer"
        yield Matrix(tables, (rows * columns + own, model.width), is_kernel=False)
    elif model.position == "learned-2d":
        yield Matrix(tables, (rows, model.width // 2), is_kernel=False)
        yield Matrix(tables, (columns, model.width // 2), is_kernel=False)
    elif model.position == "relative":
        yield Matrix(model.depth, (2 * (rows * columns + model.has_token) - 1, model.width), is_kernel=False)


def _of_body(model: ResNet, image_size: ImageSize, channels: int) -> Iterator[Matrix]:
    kernel = cost_resnet.root_kernel(model)
    yield Matrix(1, (model.width, channels, kernel, kernel), is_standardized=True)
    for unit in cost_resnet.units(model, sides(image_size)):
        inner, outputs = unit.inner, unit.outputs
        yield Matrix(unit.number, (inner, unit.inputs), is_standardized=True)
        yield Matrix(unit.number, (outputs, inner), is_standardized=True)
        if unit.has_projection:
            yield Matrix(1, (outputs, unit.inputs), is_standardized=True)
        if model.mixing == "convolution":
            yield Matrix(unit.number, (inner, inner, 3, 3), is_standardized=True)
        else:
            yield Matrix(2 * unit.number, (2 * inner, inner), is_standardized=True)
            for side in unit.size_in:
                yield Matrix(unit.number, (2 * side - 1, 2 * inner // AXIAL_HEADS), is_kernel=False)
