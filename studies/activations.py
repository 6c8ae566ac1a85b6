"""The tensors that autograd keeps between the forward and the backward pass of a training step, in bytes.

A layer keeps what its gradients need: a linear layer and a convolution their input, a normalization its input with a
mean and a reciprocal deviation, GELU its input, ReLU its output, attention its queries, keys, values and output. A
tensor that two layers keep is there once. Every term below is a line of `workers/models`; a test counts the storages of
the built networks.
"""

from dataclasses import dataclass

from studies import cost_resnet, cost_vit
from studies.cost import ImageSize, grid, sides
from studies.devices import Kind
from studies.matrices import matrices
from studies.models import AXIAL_HEADS, AnyModel, Hybrid, MaskedPatch, ResNet, ViT

FLOAT, HALF, INDEX = 4, 2, 8
LEAST_GATHERED = 512
"""Channels from which on a 3x3 convolution on a CPU is a product of matrices."""
STATISTICS = 2 * FLOAT
"""Of one normalization: a mean and a reciprocal deviation."""


@dataclass(frozen=True)
class Setting:
    """What decides in which form tensors are kept."""

    autocast: bool
    """To bfloat16; otherwise everything is in float32."""
    kind: Kind
    token_multiple: int
    dropout: bool

    @property
    def operand(self) -> int:
        """Bytes of a number that is multiplied: by a linear layer, a convolution or attention."""
        return HALF if self.autocast else FLOAT

    @property
    def norm_input(self) -> int:
        """Bytes of a number that a group norm reads: autocast raises it to float32, but on a CPU."""
        return HALF if self.autocast and self.kind == "cpu" else FLOAT

    @property
    def active(self) -> int:
        """Bytes of a number behind a group norm and ReLU, and of the copy that a convolution then makes."""
        return FLOAT + HALF if self.autocast and self.kind != "cpu" else self.operand

    @property
    def fuses_attention(self) -> bool:
        """Whether attention keeps the sum of a row of weights and not the row. The rule is that of
        `workers/kernels/rules.py`; XLA has no fused kernel that its SDPA would use."""
        return self.kind == "gpu" or (self.kind == "cpu" and not self.autocast)

    @property
    def mask(self) -> int:
        """Bytes that dropout keeps of a number: a mask, which only a GPU's kernel packs."""
        if not self.dropout:
            return 0
        return 1 if self.kind == "gpu" else self.operand


@dataclass(frozen=True)
class Kept:
    """Bytes that are kept."""

    per_image: int
    once: int
    """Whatever the batch: kernels as they are used, where that is not as they are stored."""


def kept(model: AnyModel, image_size: ImageSize, channels: int, classes: int, setting: Setting) -> Kept:
    """What a training step keeps, from the images to the loss."""
    height, width = sides(image_size)
    total = channels * height * width * setting.operand
    if isinstance(model, ResNet):
        body = _of_body(model, (height, width), channels, setting)
        total += body + model.channels * setting.operand + classes * FLOAT
    elif isinstance(model, ViT):
        total += _of_vit(model, grid(model, image_size), setting) + classes * FLOAT
    elif isinstance(model, MaskedPatch):
        total += _of_masked(model, grid(model, image_size), channels, setting)
    else:
        total += _of_body(model.body, (height, width), channels, setting)
        total += _of_vit(model.vit, grid(model, image_size), setting) + classes * FLOAT
    return Kept(total, _once(model, image_size, channels, classes, setting))


def _once(model: AnyModel, image_size: ImageSize, channels: int, classes: int, setting: Setting) -> int:
    """Kernels of convolutions are standardized, with autocast all are cast; tables of axial attention are spread."""
    body = model if isinstance(model, ResNet) else model.body if isinstance(model, Hybrid) else None
    total = 0
    for matrix in matrices(model, image_size, channels, classes):
        if matrix.is_kernel and (setting.autocast or matrix.is_standardized):
            total += matrix.values * setting.operand
        if matrix.is_standardized:
            total += matrix.count * matrix.shape[0] * STATISTICS
            if body and body.form == "post-activation":  # the weights less their mean
                total += matrix.values * FLOAT
    if body and body.mixing == "axial":
        for unit in cost_resnet.units(body, sides(image_size)):
            pairs = sum(side * side for side in unit.size_in)
            total += unit.number * pairs * (2 * unit.inner // AXIAL_HEADS * setting.operand + INDEX)
    return total


# --------------------------------------------------------------------------------------------------------- transformers


def _of_vit(model: ViT, patches: tuple[int, int], setting: Setting) -> int:
    """From the patches' embedding to the input of the classifier."""
    width, operand = model.width, setting.operand
    tokens = _padded(patches[0] * patches[1] + model.has_token, setting)
    total = _of_layers(model, patches, setting) + tokens * width * FLOAT + width * operand
    if model.has_token:
        return total + STATISTICS + (width * operand if model.head == "token-tanh" else 0)
    total += tokens * STATISTICS
    if model.head == "map":
        normal_keys_and_values = 3 * tokens * width
        weights = model.heads * FLOAT if setting.fuses_attention else (model.heads * tokens + width) * operand
        one_token = 3 * width + 2 * model.mlp
        total += (normal_keys_and_values + one_token) * operand + weights + STATISTICS
    return total


def _of_masked(model: MaskedPatch, patches: tuple[int, int], channels: int, setting: Setting) -> int:
    """From the patches' embedding to the loss. What stands at each patch is an index, and whether it is masked."""
    count, corrupted = patches[0] * patches[1], cost_vit.corrupted(model.corrupted, patches[0] * patches[1])
    indices = count * (INDEX + 1) + corrupted * INDEX
    predicting = corrupted * (model.vit.width * (FLOAT + setting.operand) + STATISTICS)
    outputs = corrupted * cost_vit.predictions(model, channels) * FLOAT
    # A squared error keeps predictions and targets.
    loss = 2 * outputs if model.target == "pixels" else outputs
    return indices + _of_layers(model.vit, patches, setting) + predicting + loss


def _of_layers(model: ViT, patches: tuple[int, int], setting: Setting) -> int:
    """All blocks, and the dropout before them."""
    rows, columns = patches
    tokens = _padded(rows * columns + model.has_token, setting)
    stem = tokens * model.width * (FLOAT if setting.mask > 1 else setting.mask)
    if model.attention == "axial":
        return stem + model.depth * (_layer(model, tokens, columns, setting) + _layer(model, tokens, rows, setting))
    return stem + model.depth * _layer(model, tokens, tokens, setting)


def _layer(model: ViT, tokens: int, seen: int, setting: Setting) -> int:
    """Attention, where each token sees so many, and an MLP."""
    width, operand = model.width, setting.operand
    # The residual path stays in float32: autocast adds a half to a float there.
    norms = 2 * tokens * (width * FLOAT + STATISTICS)
    linears = tokens * (6 * width + 2 * model.mlp) * operand
    masks = tokens * (2 * width + model.mlp) * setting.mask
    if model.position == "relative":
        # Scaled queries, and the keys of all offsets once more for each image; no fused kernel learns a bias.
        attention = (tokens * width + (2 * tokens - 1) * width + model.heads * tokens * seen) * operand
    elif setting.fuses_attention:
        attention = model.heads * tokens * FLOAT
    else:
        attention = model.heads * tokens * seen * operand
    return norms + linears + attention + masks


def _padded(tokens: int, setting: Setting) -> int:
    return -(-tokens // setting.token_multiple) * setting.token_multiple


# ------------------------------------------------------------------------------------------------------------- ResNets


def _of_body(model: ResNet, size: cost_resnet.Size, channels: int, setting: Setting) -> int:
    """From behind the image to the feature map."""
    total = _root(model, size, channels, setting)
    size_out = cost_resnet.after_root(model, size)
    for unit in cost_resnet.units(model, size):
        size_out = unit.size_out
        each = _post_activation(unit, setting) if model.form == "post-activation" else _pre_activation(unit, setting)
        norms = 3 + (model.form == "post-activation" and unit.has_projection)
        each += norms * model.groups * STATISTICS
        if model.mixing == "axial":
            each += _axial(unit, model.groups, setting)
        if setting.kind == "cpu":
            each += _gathered(unit, model.mixing == "axial") * setting.operand
        total += unit.number * each
    last = 0
    if model.form == "pre-activation":
        last = model.channels * _pixels(size_out) * (setting.norm_input + setting.active)
    return total + last + model.groups * STATISTICS  # of the last norm, or of the root's


def _pre_activation(unit: cost_resnet.Units, setting: Setting) -> int:
    """Three norms with a ReLU: the first reads what came before, the others what a convolution wrote."""
    pixels_in, pixels_out = _pixels(unit.size_in), _pixels(unit.size_out)
    numbers = (unit.inputs + unit.inner) * pixels_in + unit.inner * pixels_out
    return numbers * (setting.norm_input + setting.active)


def _post_activation(unit: cost_resnet.Units, setting: Setting) -> int:
    """Two norms with a ReLU, one without, that of the projection, and the ReLU at the end."""
    pixels_in, pixels_out = _pixels(unit.size_in), _pixels(unit.size_out)
    inner, outputs = unit.inner * (pixels_in + pixels_out), unit.outputs * pixels_out
    copy = unit.inner * _padded_pixels(unit.size_in, 3, unit.stride) * setting.operand
    read = inner + outputs * (1 + unit.has_projection)
    return read * setting.norm_input + (inner + outputs) * setting.active + copy


def _root(model: ResNet, size: cost_resnet.Size, channels: int, setting: Setting) -> int:
    """The root and its pool up to what the first unit reads. A pool keeps its padded map and where each maximum was."""
    after, stride = model.form == "post-activation", cost_resnet.root_stride(model)
    height, width = -(-size[0] // stride), -(-size[1] // stride)
    total = 0
    if after:
        total += height * width * model.width * (setting.norm_input + setting.active)
        # An image that is padded unevenly is kept as the padded copy alone.
        padded = _padded_pixels(size, cost_resnet.root_kernel(model), stride)
        total += channels * (padded - _pixels(size) if padded else 0) * setting.operand
    if stride == 2:
        rows, columns = (side + 1 + (side % 2 if after else 1) for side in (height, width))
        total += rows * columns * model.width * (setting.norm_input if after else setting.operand)
        pooled = _pixels(cost_resnet.after_root(model, size)) * model.width
        total += pooled * (INDEX + (setting.operand if after else 0))
    return total


def _gathered(unit: cost_resnet.Units, is_axial: bool) -> int:
    """Numbers that are copied where a convolution is a product of matrices: `convolve` in rules.py.

    In float32 it is one on some processors alone; here it is taken for one on all.
    """
    pixels_in, pixels_out = _pixels(unit.size_in), _pixels(unit.size_out)
    projected = unit.inputs * pixels_out if unit.stride > 1 else 0
    if is_axial:  # into columns, and out of the layout that attention leaves
        return projected + unit.inner * (pixels_in + pixels_out)
    return projected + (9 * unit.inner * pixels_out if unit.inner >= LEAST_GATHERED else 0)


def _axial(unit: cost_resnet.Units, groups: int, setting: Setting) -> int:
    """Both attentions in place of the 3x3 convolution, up to what the last norm reads."""
    height, width = unit.size_in
    numbers = height * width * unit.inner
    # Of each attention: what two norms read, copies of queries and keys for two products each, values.
    each = numbers * (4 * setting.norm_input + 3 * setting.operand)
    pairs = height * width * (height + width) * AXIAL_HEADS
    logits_and_weights = pairs * (3 * setting.norm_input + setting.active)
    between = numbers * setting.operand
    pool = numbers * setting.norm_input if unit.stride > 1 else 0
    norms = 2 * (4 * groups + 3 * AXIAL_HEADS) * STATISTICS
    return 2 * each + logits_and_weights + between + pool + norms


def _pixels(size: cost_resnet.Size) -> int:
    return size[0] * size[1]


def _padded_pixels(size: cost_resnet.Size, kernel: int, stride: int) -> int:
    """Pixels of the copy that SAME padding makes where it is not the same at both ends; 0 where it is."""
    padding = [max(0, (-(-side // stride) - 1) * stride + kernel - side) for side in size]
    if all(total % 2 == 0 for total in padding):
        return 0
    return (size[0] + padding[0]) * (size[1] + padding[1])
