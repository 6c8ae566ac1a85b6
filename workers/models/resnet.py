"""The ResNet-v2 of Big Transfer (arXiv:1912.11370v3): pre-activation bottlenecks, group norm, standardized weights.

B = images, C = channels, H, W = pixels, F = channels of the last feature map, K = classes. Details follow the released
code: the stride sits on the 3x3 convolution, a projection starts from the activated tensor, the pool pads with zeros.
"""

from torch import Tensor, nn
from torch.nn import functional

from studies.definitions import ResNet
from workers.models.draws import Draws
from workers.models.network import Network, start_head


class ResidualNetwork(Network):
    """A body, a global average pool and a linear head."""

    def __init__(self, model: ResNet, *, channels: int, classes: int) -> None:
        super().__init__()
        self.body = Body(model, channels)
        self.head = nn.Linear(model.channels, classes)

    def features(self, image_BCHW: Tensor) -> Tensor:
        """The mean over the last feature map, (B, F)."""
        pooled_BF: Tensor = self.body(image_BCHW).mean(dim=(2, 3))
        return pooled_BF

    def classify(self, feature_BF: Tensor) -> Tensor:
        """The last linear layer: class logits, (B, K)."""
        logits_BK: Tensor = self.head(feature_BF)
        return logits_BK

    def initialize(self, draws: Draws) -> None:
        """LeCun-normal kernels, norms at identity, a head of zeros."""
        self.body.initialize(draws.within("body"))
        start_head(self.head)


class Body(nn.Module):
    """Root, stages of bottlenecks, and a last norm and ReLU."""

    def __init__(self, model: ResNet, channels: int) -> None:
        super().__init__()
        self.pools = model.root == "7x7"
        self.root = (
            _conv(channels, model.width, kernel=7, stride=2) if self.pools else _conv(channels, model.width, kernel=3)
        )
        units: list[Bottleneck] = []
        inputs = model.width
        for stage, count in enumerate(model.blocks):
            inner = model.width * 2**stage
            for unit in range(count):
                stride = 2 if stage > 0 and unit == 0 else 1
                units.append(Bottleneck(inputs, inner, stride=stride, groups=model.groups))
                inputs = 4 * inner
        self.units = nn.Sequential(*units)
        self.norm = _norm(inputs, model.groups)

    def forward(self, image_BCHW: Tensor) -> Tensor:
        """The feature map after its last norm and ReLU."""
        x_BCHW = self.root(image_BCHW)
        if self.pools:
            # Padding with zeros and not with minus infinity: the root's output has negative values.
            x_BCHW = functional.max_pool2d(functional.pad(x_BCHW, (1, 1, 1, 1)), kernel_size=3, stride=2)
        return functional.relu(self.norm(self.units(x_BCHW)))

    def initialize(self, draws: Draws) -> None:
        """Give every parameter its first value."""
        for name, module in self.named_modules():
            if isinstance(module, StandardizedConv2d):
                draws.lecun_normal(name, module.weight)
            elif isinstance(module, nn.GroupNorm):
                nn.init.ones_(module.weight)
                nn.init.zeros_(module.bias)


class Bottleneck(nn.Module):
    """Norm, ReLU and a convolution, three times: 1x1 down, 3x3 with the stride, 1x1 up to four times as wide."""

    def __init__(self, inputs: int, inner: int, *, stride: int, groups: int) -> None:
        super().__init__()
        outputs = 4 * inner
        self.project = _conv(inputs, outputs, stride=stride) if inputs != outputs or stride > 1 else None
        self.norm1, self.conv1 = _norm(inputs, groups), _conv(inputs, inner)
        self.norm2, self.conv2 = _norm(inner, groups), _conv(inner, inner, kernel=3, stride=stride)
        self.norm3, self.conv3 = _norm(inner, groups), _conv(inner, outputs)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """The feature map after this unit."""
        active_BCHW = functional.relu(self.norm1(x_BCHW))
        shortcut_BCHW = x_BCHW if self.project is None else self.project(active_BCHW)
        inner_BCHW = functional.relu(self.norm2(self.conv1(active_BCHW)))
        inner_BCHW = functional.relu(self.norm3(self.conv2(inner_BCHW)))
        out_BCHW: Tensor = self.conv3(inner_BCHW) + shortcut_BCHW
        return out_BCHW


class StandardizedConv2d(nn.Conv2d):
    """A convolution whose filters are brought to mean 0 and variance 1 before use."""

    def forward(self, input: Tensor) -> Tensor:
        """The convolved feature map."""
        # A layer norm without scale is exactly this: biased variance per filter, epsilon inside the root, one kernel.
        filters = functional.layer_norm(self.weight.flatten(1), (self.weight[0].numel(),), eps=1e-10)
        return functional.conv2d(input, filters.view_as(self.weight), None, self.stride, self.padding)


def _conv(inputs: int, outputs: int, *, kernel: int = 1, stride: int = 1) -> StandardizedConv2d:
    return StandardizedConv2d(inputs, outputs, kernel, stride=stride, padding=kernel // 2, bias=False)


def _norm(channels: int, groups: int) -> nn.GroupNorm:
    return nn.GroupNorm(groups, channels, eps=1e-5)
