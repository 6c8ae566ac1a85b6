"""Convolutions with standardized filters, as the two released forms of residual networks have them.

B = images, C = input channels, O = output channels, H, W = pixels, k = side of a filter,
K = weights of a filter (k k C).
"""

import torch
from torch import Tensor, linalg, nn
from torch.nn import functional

from workers.kernels.rules import convolve


class StandardizedConv2d(nn.Conv2d):
    """A convolution whose filters are brought to mean 0 and variance 1 before use, padded with k // 2 zeros all round.

    As in google-research/big_transfer: biased variance over (C, k, k), 1e-10 added to it.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int = 1, *, stride: int = 1) -> None:
        super().__init__(inputs, outputs, kernel, stride=stride, padding=kernel // 2, bias=False)
        # Kept pixel by pixel, as the feature maps are: gradients then come in the layout in which they are used.
        self.weight = nn.Parameter(self.weight.detach().contiguous(memory_format=torch.channels_last))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """The convolved feature map, (B, O, ceil(H / stride), ceil(W / stride))."""
        padding = self.kernel_size[0] // 2
        return convolve(x_BCHW, self.filters(), stride=self.stride[0], padding=(padding, padding))

    def filters(self) -> Tensor:
        """The standardized filters, (O, C, k, k)."""
        # Filters as channels, and groups of their own, of one image: torch's fastest kernel for this on a CPU.
        flat_OK = functional.group_norm(self._flat().unsqueeze(0), len(self.weight), eps=1e-10).squeeze(0)
        return self._shaped(flat_OK)

    def _flat(self) -> Tensor:
        """The weights as they lie in memory, a filter a row, (O, K)."""
        return self.weight.permute(0, 2, 3, 1).flatten(1)

    def _shaped(self, flat_OK: Tensor) -> Tensor:
        """The opposite of `_flat`."""
        outputs, inputs, kernel, _ = self.weight.shape
        return flat_OK.view(outputs, kernel, kernel, inputs).permute(0, 3, 1, 2)


class SameConv2d(StandardizedConv2d):
    """The same with TensorFlow's SAME padding, and 1e-5 added to the standard deviation.

    As in google-research/vision_transformer: padding that is not even has its larger half below and at the right.
    """

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """The convolved feature map, (B, O, ceil(H / stride), ceil(W / stride))."""
        (top, bottom), (left, right) = (self._padded(side) for side in x_BCHW.shape[2:])
        if (top, left) == (bottom, right):
            return convolve(x_BCHW, self.filters(), stride=self.stride[0], padding=(top, left))
        padded_BCHW = functional.pad(x_BCHW, (left, right, top, bottom))
        return convolve(padded_BCHW, self.filters(), stride=self.stride[0], padding=(0, 0))

    def filters(self) -> Tensor:
        """The standardized filters, (O, C, k, k)."""
        flat_OK = self._flat()
        centered_OK = flat_OK - flat_OK.mean(dim=1, keepdim=True)
        # A norm and no square root of a variance: its gradient is finite where a filter is constant.
        deviation_O1 = linalg.vector_norm(centered_OK, dim=1, keepdim=True) / centered_OK.shape[1] ** 0.5
        return self._shaped(centered_OK / (deviation_O1 + 1e-5))

    def _padded(self, side: int) -> tuple[int, int]:
        """Zeros before and after one side."""
        kernel, stride = self.kernel_size[0], self.stride[0]
        total = max(0, (-(-side // stride) - 1) * stride + kernel - side)
        return total // 2, total - total // 2
