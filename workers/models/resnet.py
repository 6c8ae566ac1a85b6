"""Residual networks with group normalization and standardized weights, in the two forms that were released.

Pre-activation is the ResNet-v2 of Big Transfer (arXiv:1912.11370v3, google-research/big_transfer): the stride sits on
the 3x3 convolution, a projection starts from the activated tensor, convolutions pad evenly and the root's pool pads
with zeros. Post-activation is the ResNet-v1 inside the hybrids of google-research/vision_transformer: norms close every
convolution and projection, the last one starts at zero, and padding is TensorFlow's SAME.

B = images, C = channels, H, W = pixels, F = channels of the last feature map, K = classes.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from studies.models import ResNet
from workers.kernels.rules import GroupNorm, Linear
from workers.models.axial import AxialMixing, LineAttention
from workers.models.convolutions import SameConv2d, StandardizedConv2d
from workers.models.draws import Draws
from workers.models.network import Network, start_head

Size = tuple[int, int]
"""Height and width in pixels."""


class ResidualNetwork(Network):
    """A body, a global average pool and a linear head, for images of `size` pixels."""

    def __init__(self, model: ResNet, *, size: Size, channels: int, classes: int) -> None:
        super().__init__()
        self.body = Body(model, channels, size)
        self.head = Linear(model.channels, classes)

    def features(self, image_BCHW: Tensor) -> Tensor:
        """The mean over the last feature map, (B, F)."""
        pooled_BF: Tensor = self.body(image_BCHW).mean(dim=(2, 3))
        return pooled_BF

    def classify(self, feature_BF: Tensor) -> Tensor:
        """The last linear layer: class logits, (B, K)."""
        logits_BK: Tensor = self.head(feature_BF)
        return logits_BK

    def initialize(self, draws: Draws) -> None:
        """First values of the body, and a head of zeros."""
        self.body.initialize(draws.within("body"))
        start_head(self.head)


class Body(nn.Module):
    """Root, stages of bottlenecks and, where activations come before convolutions, a last norm and ReLU."""

    def __init__(self, model: ResNet, channels: int, size: Size) -> None:
        super().__init__()
        self.after = model.form == "post-activation"
        self.pools = model.root == "7x7"
        convolution = SameConv2d if self.after else StandardizedConv2d
        if self.pools:
            self.root = convolution(channels, model.width, 7, stride=2)
            size = _halved(_halved(size))
        else:
            self.root = convolution(channels, model.width, 3)
        self.root_norm = _norm(model, model.width) if self.after else None
        units: list[PostActivation | PreActivation] = []
        inputs = model.width
        for stage, count in enumerate(model.blocks):
            inner = model.width * 2**stage
            for unit in range(count):
                stride = 2 if stage > 0 and unit == 0 else 1
                units.append(
                    PostActivation(model, inputs, inner, stride)
                    if self.after
                    else PreActivation(model, inputs, inner, stride, size)
                )
                inputs = 4 * inner
                size = _halved(size) if stride == 2 else size
        self.units = nn.Sequential(*units)
        self.norm = None if self.after else _norm(model, inputs)

    def forward(self, image_BCHW: Tensor) -> Tensor:
        """The last feature map after its ReLU, (B, F, H / stride, W / stride), rounded up."""
        # Pixel by pixel in memory, channels inside: what convolutions and pools are fastest on, wherever they run.
        x_BCHW = self.root(image_BCHW.contiguous(memory_format=torch.channels_last))
        if self.root_norm is not None:
            x_BCHW = self.root_norm(x_BCHW)
        if self.pools:
            x_BCHW = _pooled(x_BCHW, same=self.after)
        last_BCHW: Tensor = self.units(x_BCHW)
        if self.norm is not None:
            last_BCHW = self.norm(last_BCHW)
        return last_BCHW

    def initialize(self, draws: Draws) -> None:
        """LeCun-normal kernels and norms at identity, but for post-activation units, which start as their shortcuts."""
        for name, module in self.named_modules():
            if isinstance(module, StandardizedConv2d):
                draws.lecun_normal(name, module.weight)
            elif isinstance(module, GroupNorm):
                nn.init.ones_(module.weight)
                nn.init.zeros_(module.bias)
        for name, module in self.named_modules():
            if isinstance(module, PostActivation):
                nn.init.zeros_(module.norm3.weight)
            elif isinstance(module, LineAttention):
                module.initialize(draws.within(name))


class PreActivation(nn.Module):
    """Norm, ReLU and a convolution, three times: 1x1 down, 3x3 with the stride, 1x1 up to four times as wide.

    In the middle there may be axial attention for the 3x3 convolution, which needs the `size` of the feature map.
    """

    def __init__(self, model: ResNet, inputs: int, inner: int, stride: int, size: Size) -> None:
        super().__init__()
        outputs = 4 * inner
        changes = inputs != outputs or stride > 1
        self.project = StandardizedConv2d(inputs, outputs, stride=stride) if changes else None
        self.norm1, self.conv1 = _norm(model, inputs), StandardizedConv2d(inputs, inner)
        self.norm2 = _norm(model, inner)
        if model.mixing == "axial":
            self.attend2 = AxialMixing(inner, size, stride=stride, groups=model.groups)
        else:
            self.conv2 = StandardizedConv2d(inner, inner, 3, stride=stride)
        self.norm3, self.conv3 = _norm(model, inner), StandardizedConv2d(inner, outputs)
        self.axial = model.mixing == "axial"

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """The feature map after this unit."""
        active_BCHW = self.norm1(x_BCHW)
        shortcut_BCHW = x_BCHW if self.project is None else self.project(active_BCHW)
        inner_BCHW = self.norm2(self.conv1(active_BCHW))
        inner_BCHW = self.norm3(self.attend2(inner_BCHW) if self.axial else self.conv2(inner_BCHW))
        out_BCHW: Tensor = self.conv3(inner_BCHW) + shortcut_BCHW
        return out_BCHW


class PostActivation(nn.Module):
    """The same convolutions, each with its norm behind it; the last ReLU comes after the shortcut is added."""

    def __init__(self, model: ResNet, inputs: int, inner: int, stride: int) -> None:
        super().__init__()
        outputs = 4 * inner
        changes = inputs != outputs or stride > 1
        self.project = SameConv2d(inputs, outputs, stride=stride) if changes else None
        self.project_norm = _norm(model, outputs, relu=False) if changes else None
        self.conv1, self.norm1 = SameConv2d(inputs, inner), _norm(model, inner)
        self.conv2, self.norm2 = SameConv2d(inner, inner, 3, stride=stride), _norm(model, inner)
        self.conv3, self.norm3 = SameConv2d(inner, outputs), _norm(model, outputs, relu=False)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """The feature map after this unit."""
        shortcut_BCHW = x_BCHW
        if self.project is not None and self.project_norm is not None:
            shortcut_BCHW = self.project_norm(self.project(x_BCHW))
        inner_BCHW = self.norm1(self.conv1(x_BCHW))
        inner_BCHW = self.norm2(self.conv2(inner_BCHW))
        return functional.relu(self.norm3(self.conv3(inner_BCHW)) + shortcut_BCHW)


def _pooled(x_BCHW: Tensor, *, same: bool) -> Tensor:
    """The stride-2 maximum of 3x3 pixels, with a row of zeros after the map and one before it; (B, C, H / 2, W / 2).

    same: TensorFlow's padding, which leaves the row before an even side out. It pads with minus infinity, but a zero is
    as good beside the values of a ReLU. In Big Transfer the map has negative values and the zeros do count.
    """
    top, left = (side % 2 if same else 1 for side in x_BCHW.shape[2:])
    return functional.max_pool2d(functional.pad(x_BCHW, (left, 1, top, 1)), kernel_size=3, stride=2)


def _norm(model: ResNet, channels: int, *, relu: bool = True) -> GroupNorm:
    """The form's normalization: 1e-5 beside the variance in Big Transfer, flax's 1e-6 in the released hybrids."""
    return GroupNorm(model.groups, channels, eps=1e-6 if model.form == "post-activation" else 1e-5, relu=relu)


def _halved(size: Size) -> Size:
    """The size after a stride of 2, rounded up."""
    return (size[0] + 1) // 2, (size[1] + 1) // 2
