"""What a model costs: parameters and floating-point operations, from its shape alone.

Convention (`docs/definitions.md`): a multiply-add is 2 FLOPs; the taps of a convolution that fall on zero padding are
not counted; the head is; a training step costs three forward passes. Element-wise work is left out. On the 18 trainings
of arXiv:2010.11929v2, Table 6, this meets the published column within 0.7 %.
"""

from functools import lru_cache

from studies.definitions import Hybrid, ResNet, ViT

TRAINING_PASSES = 3
"""A training step in forward passes: one forward, two for the gradients of inputs and weights."""


@lru_cache(maxsize=4096)
def parameters(model: ViT | ResNet | Hybrid, image_size: int, channels: int, classes: int) -> int:
    """Trainable parameters, head included."""
    if isinstance(model, ViT):
        return _vit_parameters(model, image_size // model.patch, channels, classes)
    if isinstance(model, Hybrid):
        side = image_size // model.body.stride // model.vit.patch
        return _body_parameters(model.body, channels) + _vit_parameters(model.vit, side, model.body.channels, classes)
    return _body_parameters(model, channels) + (model.channels + 1) * classes


@lru_cache(maxsize=4096)
def forward_flops(model: ViT | ResNet | Hybrid, image_size: int, channels: int, classes: int) -> int:
    """FLOPs of one forward pass on one image."""
    if isinstance(model, ViT):
        return 2 * _vit_macs(model, image_size // model.patch, channels, classes)
    if isinstance(model, Hybrid):
        macs, side = _body_macs(model.body, image_size, channels)
        return 2 * (macs + _vit_macs(model.vit, side // model.vit.patch, model.body.channels, classes))
    macs, _ = _body_macs(model, image_size, channels)
    return 2 * (macs + model.channels * classes)


def train_flops(model: ViT | ResNet | Hybrid, image_size: int, channels: int, classes: int, examples: int) -> float:
    """FLOPs of a training that sees this many images, repeats counted."""
    return float(TRAINING_PASSES * forward_flops(model, image_size, channels, classes) * examples)


# ------------------------------------------------------------------------------------------------------------- ViT


def _vit_parameters(model: ViT, side: int, channels: int, classes: int) -> int:
    width, tokens = model.width, side * side + (model.head != "gap")
    embed = (channels * model.patch**2 + 1) * width + tokens * width + (width if model.head != "gap" else 0)
    attention = 4 * (width + 1) * width
    mlp = (width + 1) * model.mlp + (model.mlp + 1) * width
    block = 2 * 2 * width + attention + mlp
    pre_logits = (width + 1) * width if model.head == "token-tanh" else 0
    return embed + model.depth * block + 2 * width + pre_logits + (width + 1) * classes


def _vit_macs(model: ViT, side: int, channels: int, classes: int) -> int:
    width, patches = model.width, side * side
    tokens = patches + (model.head != "gap")
    embed = patches * channels * model.patch**2 * width
    block = tokens * (4 * width * width + 2 * width * model.mlp) + 2 * tokens * tokens * width
    pre_logits = width * width if model.head == "token-tanh" else 0
    return embed + model.depth * block + pre_logits + width * classes


# ---------------------------------------------------------------------------------------------------------- ResNet


def _stages(model: ResNet) -> list[tuple[int, int, int, int]]:
    """(input channels, inner channels, output channels, stride) of every bottleneck unit, in order."""
    units = []
    cin = model.width
    for stage, count in enumerate(model.blocks):
        inner = model.width * 2**stage
        for unit in range(count):
            units.append((cin, inner, 4 * inner, 2 if stage > 0 and unit == 0 else 1))
            cin = 4 * inner
    return units


def _body_parameters(model: ResNet, channels: int) -> int:
    kernel = 7 if model.root == "7x7" else 3
    total = kernel**2 * channels * model.width
    for cin, inner, cout, stride in _stages(model):
        norms = 2 * (cin + 2 * inner)
        projection = cin * cout if cin != cout or stride > 1 else 0
        total += norms + projection + cin * inner + 9 * inner * inner + inner * cout
    return total + 2 * model.channels


def _body_macs(model: ResNet, image_size: int, channels: int) -> tuple[int, int]:
    """Multiply-adds of the body on one image, and the side of its feature map."""
    if model.root == "7x7":
        side, taps = _convolved(image_size, kernel=7, stride=2, padding=3)
        macs = taps**2 * channels * model.width
        side, _ = _convolved(side, kernel=3, stride=2, padding=1)
    else:
        side, taps = _convolved(image_size, kernel=3, stride=1, padding=1)
        macs = taps**2 * channels * model.width
    for cin, inner, cout, stride in _stages(model):
        out, taps = _convolved(side, kernel=3, stride=stride, padding=1)
        projection = out * out * cin * cout if cin != cout or stride > 1 else 0
        macs += projection + side * side * cin * inner + taps**2 * inner * inner + out * out * inner * cout
        side = out
    return macs, side


def _convolved(side: int, *, kernel: int, stride: int, padding: int) -> tuple[int, int]:
    """Side of the output, and the taps along one side that meet a pixel and not padding."""
    out = (side + 2 * padding - kernel) // stride + 1
    taps = sum(min(start + kernel, side) - max(start, 0) for start in range(-padding, -padding + out * stride, stride))
    return out, taps
