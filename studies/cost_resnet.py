"""Parameters and multiply-adds of a ResNet up to its feature map; `cost.py` is the way in.

Sources: the released code of arXiv:1912.11370v3 for the pre-activation form, of arXiv:2010.11929v2 for the other, of
arXiv:2003.07853 for axial mixing. Units of a stage but its first are alike, so that all here goes stage by stage.
"""

from collections.abc import Iterator
from typing import NamedTuple

from studies.models import AXIAL_HEADS, ResNet

Size = tuple[int, int]
"""Height and width in pixels."""

EXPANSION = 4
"""Channels at the end of a bottleneck over those inside."""


class Units(NamedTuple):
    """Bottleneck units that are alike: the first of a stage, or those behind it."""

    number: int
    inputs: int
    inner: int
    outputs: int
    stride: int
    size_in: Size
    size_out: Size
    has_projection: bool


def units(model: ResNet, size: Size) -> Iterator[Units]:
    """The units in their order, for images of this size."""
    size = after_root(model, size)
    inputs = model.width
    for stage, count in enumerate(model.blocks):
        inner, stride = model.width << stage, 2 if stage else 1
        outputs = EXPANSION * inner
        before, size = size, _strided(size, stride) if stride > 1 else size
        yield Units(1, inputs, inner, outputs, stride, before, size, True)
        if count > 1:
            yield Units(count - 1, outputs, inner, outputs, 1, size, size, False)
        inputs = outputs


def parameters(model: ResNet, size: Size, channels: int) -> int:
    """Trainable parameters of the body. The image's size matters to axial mixing alone: its tables hold offsets."""
    after, is_axial = model.form == "post-activation", model.mixing == "axial"
    total = root_kernel(model) ** 2 * channels * model.width + 2 * (model.width if after else model.channels)
    for number, inputs, inner, outputs, _, size_in, _, has_projection in units(model, size):
        unit = (inputs + outputs) * inner
        if has_projection:
            unit += inputs * outputs + (2 * outputs if after else 0)
        unit += 2 * (2 * inner + (outputs if after else inputs))
        unit += _axial_parameters(inner, size_in) if is_axial else 9 * inner * inner
        total += number * unit
    return total


def macs(model: ResNet, size: Size, channels: int, padded_taps: bool) -> int:
    """Multiply-adds of the body on one image.

    padded_taps: count the taps of convolutions on zero padding too.
    """
    same, is_axial = model.form == "post-activation", model.mixing == "axial"
    total = _taps(size, root_kernel(model), root_stride(model), same, padded_taps) * channels * model.width
    for number, inputs, inner, outputs, stride, size_in, size_out, has_projection in units(model, size):
        pixels_out = size_out[0] * size_out[1]
        unit = size_in[0] * size_in[1] * inputs * inner + pixels_out * inner * outputs
        if has_projection:
            unit += pixels_out * inputs * outputs
        if is_axial:
            unit += _axial_macs(inner, size_in)
        else:
            unit += _taps(size_in, 3, stride, same, padded_taps) * inner * inner
        total += number * unit
    return total


def root_kernel(model: ResNet) -> int:
    """Side of the root's filters."""
    return 7 if model.root == "7x7" else 3


def root_stride(model: ResNet) -> int:
    """Stride of the root, and of the pool behind it where there is one."""
    return 2 if model.root == "7x7" else 1


def after_root(model: ResNet, size: Size) -> Size:
    """The feature map that the first unit reads."""
    return _strided(size, root_stride(model) ** 2)


def _strided(size: Size, stride: int) -> Size:
    height, width = size
    return -(-height // stride), -(-width // stride)


def _axial_parameters(inner: int, size: Size) -> int:
    """Of two attentions, each with queries, keys and values, three norms, and a table of offsets that heads share."""
    norms = 2 * (2 * inner + 3 * AXIAL_HEADS + 2 * inner)
    offsets = (2 * size[0] - 1) + (2 * size[1] - 1)
    return 2 * (2 * inner * inner + norms) + offsets * (2 * inner // AXIAL_HEADS)


def _axial_macs(inner: int, size: Size) -> int:
    """Of both attentions: three terms of the logits at half of `inner` channels, two sums over values at all."""
    height, width = size
    return height * width * (2 * 2 * inner * inner + (height + width) * (3 * inner // 2 + 2 * inner))


def _taps(size: Size, kernel: int, stride: int, same: bool, padded: bool) -> int:
    """Pairs of an output pixel and a tap of its filter that meets a pixel, or with `padded` meets padding."""
    height, width = size
    if padded:
        return kernel * -(-height // stride) * kernel * -(-width // stride)
    down = _taps_along(height, kernel, stride, same)
    return down * (down if width == height else _taps_along(width, kernel, stride, same))


def _taps_along(size: int, kernel: int, stride: int, same: bool) -> int:
    """The same along one side of `size` pixels.

    same: padding as TensorFlow's SAME, which has the odd pixel at the end; otherwise as much at both ends.
    """
    outputs = -(-size // stride)
    overhang = (outputs - 1) * stride + kernel - size
    before = max(0, overhang) // 2 if same else kernel // 2
    return kernel * outputs - _missed(before, outputs, stride) - _missed(overhang - before, outputs, stride)


def _missed(overhang: int, outputs: int, stride: int) -> int:
    """Taps beyond one end: the outermost filter has `overhang` of them, the next ones a stride less each."""
    if overhang <= 0:
        return 0
    filters = min(outputs, -(-overhang // stride))
    return filters * overhang - stride * filters * (filters - 1) // 2
