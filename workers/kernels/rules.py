"""Which implementation computes attention, linear layers, normalization and activation, by fixed rules.

B = images, N = heads, T = tokens that ask, S = tokens that answer, d = width of a head, I, O = inputs and outputs of a
linear layer, E = elements, F, k = filters of a convolution and their side, R = rows of a product. A rule looks at
device kind, precision and sizes alone, never at a timing: bits must not depend on noise. docs/benchmarks.md has the
measurements that the rules rest on.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from studies.models import Gelu
from workers.kernels import activation, attention, normalization, processor, products

_HAS_SLOW_PRODUCTS = (
    processor.maker() == "AuthenticAMD"
    and torch.backends.mkl.is_available()  # type: ignore[no-untyped-call]
    and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
)
"""Whether torch multiplies float32 by MKL on a processor on which MKL leaves half of the vector width unused."""

_LARGE_PRODUCT = 2**21
"""Multiply-adds from which on a linear layer of our own repays what calling it costs: about 50 microseconds."""
_LARGE_TENSOR = 2**15
"""Numbers from which on a GELU of our own does."""


def describe(device_type: str) -> str:
    """What the rules choose on a kind of device, as a part of its numerics class; empty where all is torch's own."""
    if device_type != "cpu":
        return ""
    products_by = "onednn" if _HAS_SLOW_PRODUCTS else "torch"
    return f"linear={products_by} convolution=products attention=explicit-bf16 group-norm=own gelu=logistic"


class Linear(nn.Linear):
    """A linear layer. Its products of float32 are oneDNN's where torch's own library would take its slow path."""

    def forward(self, input: Tensor) -> Tensor:
        """input W^T + b, (..., O), of an input (..., I)."""
        is_float32 = input.dtype == self.weight.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
        is_slow = _HAS_SLOW_PRODUCTS and input.device.type == "cpu" and is_float32
        # A compiler is not asked for sizes: it would make a graph for each answer.
        if is_slow and not torch.compiler.is_compiling() and input.numel() * self.out_features >= _LARGE_PRODUCT:
            return products.linear(input, self.weight, self.bias)
        return super().forward(input)


def gelu(x_E: Tensor, form: Gelu) -> Tensor:
    """GELU, in the shape and precision of its input.

    form: `tanh`, the approximation that flax takes by default, or `exact`, with the error function.
    """
    if form == "exact":
        return functional.gelu(x_E)
    known = x_E.dtype in (torch.float32, torch.bfloat16)
    if x_E.device.type == "cpu" and known and not torch.compiler.is_compiling() and x_E.numel() >= _LARGE_TENSOR:
        return activation.gelu(x_E)
    return functional.gelu(x_E, approximate="tanh")


class GroupNorm(nn.GroupNorm):
    """A group normalization, and a ReLU after it where asked."""

    def __init__(self, groups: int, channels: int, *, eps: float = 1e-5, relu: bool = False) -> None:
        super().__init__(groups, channels, eps=eps)
        self.relu = relu

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """The normalized feature map, in the shape, layout and precision of the given one."""
        if _is_wide(x_BCHW):
            normal_BCHW = normalization.group_norm(x_BCHW, self.weight, self.bias, self.num_groups, self.eps)
        else:
            normal_BCHW = super().forward(x_BCHW)
        return functional.relu_(normal_BCHW) if self.relu else normal_BCHW


def _is_wide(x_BCHW: Tensor) -> bool:
    """Whether torch's own gradient of a group norm is slow: channels inside, 1,024 pixels or more, on a CPU."""
    return (
        x_BCHW.device.type == "cpu"
        and not torch.compiler.is_compiling()
        and x_BCHW.dim() == 4
        and x_BCHW.shape[2] * x_BCHW.shape[3] >= 1024
        and x_BCHW.is_contiguous(memory_format=torch.channels_last)
    )


def convolve(x_BCHW: Tensor, filter_FCkk: Tensor, *, stride: int, padding: tuple[int, int]) -> Tensor:
    """The convolution of a map with F filters of k x k pixels; zeros stand in `padding` rows above and below it, and
    columns at both sides.

    On CPUs, filters of one pixel and those of many channels are multiplied as matrices: convolutions bring filters into
    a layout of their own each time, which costs half of the speed where pixels are few.
    """
    channels, kernel = filter_FCkk.shape[1:3]
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x_BCHW.dtype
    fast = dtype == torch.bfloat16 or (dtype == torch.float32 and _HAS_SLOW_PRODUCTS)
    if x_BCHW.device.type != "cpu" or torch.compiler.is_compiling() or not fast or (kernel > 1 and channels < 512):
        return functional.conv2d(x_BCHW, filter_FCkk, None, stride, padding)
    x_BHWC = x_BCHW.permute(0, 2, 3, 1)
    if kernel > 1:
        x_BHWC = functional.pad(x_BHWC, (0, 0, padding[1], padding[1], padding[0], padding[0]))
    height, width = (side - kernel + 1 for side in x_BHWC.shape[1:3])
    taps = [x_BHWC[:, i : i + height : stride, j : j + width : stride] for i in range(kernel) for j in range(kernel)]
    tap_BHWI = torch.cat(taps, dim=3) if kernel > 1 else taps[0]
    in_RI, weight_OI = tap_BHWI.flatten(0, 2), filter_FCkk.permute(0, 2, 3, 1).flatten(1)
    multiply = products.linear if dtype == torch.float32 else functional.linear
    out_RO = multiply(in_RI, weight_OI, None)
    return out_RO.view(*tap_BHWI.shape[:3], -1).permute(0, 3, 1, 2)


def attend(q_BNTd: Tensor, k_BNSd: Tensor, v_BNSd: Tensor, bias_BNTS: Tensor | None = None) -> Tensor:
    """softmax(q k^T / sqrt(d) + bias) v, in the shape of q.

    torch's fused kernel, but for bf16 on a CPU, where its flash attention takes up to 44 % of a step and plain batched
    products a tenth.

    bias_BNTS: added to the scaled products of queries and keys, in any shape that broadcasts.
    """
    if q_BNTd.device.type != "cpu" or q_BNTd.dtype != torch.bfloat16:
        if bias_BNTS is not None:
            bias_BNTS = bias_BNTS.to(q_BNTd.dtype)  # the fused kernel takes no other
        return functional.scaled_dot_product_attention(q_BNTd, k_BNSd, v_BNSd, attn_mask=bias_BNTS)
    if bias_BNTS is None and not torch.compiler.is_compiling():
        return attention.attend(q_BNTd, k_BNSd, v_BNSd)
    logit_BNTS = (q_BNTd * q_BNTd.shape[-1] ** -0.5) @ k_BNSd.mT
    if bias_BNTS is not None:
        logit_BNTS = logit_BNTS + bias_BNTS
    return torch.softmax(logit_BNTS, dim=-1).to(v_BNSd.dtype) @ v_BNSd
