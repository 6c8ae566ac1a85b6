"""Position-sensitive axial attention (arXiv:2003.07853, section 3.2), in place of a bottleneck's 3x3 convolution.

As in csrhddlam/axial-deeplab: one 1x1 convolution without bias makes queries, keys and values, queries and keys being
half as wide as values; tables of relative offsets, shared by the heads, speak to queries, to keys and of values; logits
have no 1 / sqrt(d), since each of their three terms is normalized; a stride is an average pool after both axes. Two
things differ, to suit a network that normalizes groups and standardizes weights: that convolution's filters are
standardized, and each of the three batch norms is a group norm over the image, with groups as large as those of the
norm after a convolution (one group a head and term for the logits).

B = images, C = channels, H, W = pixels, L = lines, T = pixels on a line (t of a query, u of a key), N = heads,
d = width of a head's queries and keys, v = 2 d = width of its values, O = offsets on a line (2 T - 1).
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from studies.models import AXIAL_HEADS
from workers.kernels.rules import GroupNorm
from workers.models.convolutions import StandardizedConv2d
from workers.models.draws import Draws


class AxialMixing(nn.Module):
    """Attention within the columns of a feature map of `size` pixels, then within its rows, then the stride."""

    def __init__(self, channels: int, size: tuple[int, int], *, stride: int, groups: int) -> None:
        super().__init__()
        self.stride = stride
        self.height = LineAttention(channels, size[0], groups=groups)
        self.width = LineAttention(channels, size[1], groups=groups)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """The mixed feature map, (B, C, ceil(H / stride), ceil(W / stride))."""
        x_BCHW = self.width(self.height(x_BCHW.mT).mT)
        if self.stride == 1:
            return x_BCHW
        # Rounded up as the shortcut beside it; a window over the edge averages the pixels that are there.
        is_odd = any(side % self.stride for side in x_BCHW.shape[2:])
        return functional.avg_pool2d(x_BCHW, self.stride, ceil_mode=is_odd)


class LineAttention(nn.Module):
    """Attention of the pixels on each line, a line being the last axis, of `side` pixels."""

    def __init__(self, channels: int, side: int, *, groups: int) -> None:
        super().__init__()
        self.qkv = StandardizedConv2d(channels, 2 * channels)
        self.qkv_norm = GroupNorm(2 * groups, 2 * channels)
        self.logit_norm = GroupNorm(3 * AXIAL_HEADS, 3 * AXIAL_HEADS)
        self.out_norm = GroupNorm(2 * groups, 2 * channels)
        self.offset_Od = nn.Parameter(torch.empty(2 * side - 1, 2 * channels // AXIAL_HEADS))
        """For each offset of a query from a key, -(side - 1) first: what it says to the query, to the key, of the value
        (d, d and v columns). A key reads the table at the opposite offset, that of itself from the query."""

    def forward(self, x_BCLT: Tensor) -> Tensor:
        """The mixed lines, in the same shape."""
        qkv_BCLT: Tensor = self.qkv_norm(self.qkv(x_BCLT))
        width = qkv_BCLT.shape[1] // AXIAL_HEADS
        q_BNdLT, k_BNdLT, v_BNvLT = _shared_out(qkv_BCLT.reshape(-1, AXIAL_HEADS, width, *x_BCLT.shape[2:]), 2)
        query_dTT, key_dTT, value_vTT = _shared_out(self._relative(x_BCLT.shape[3]), 0)
        terms = [
            torch.einsum("bndlt,bndlu->bnltu", q_BNdLT, k_BNdLT),
            torch.einsum("bndlt,dtu->bnltu", q_BNdLT, query_dTT),
            torch.einsum("bndlu,dut->bnltu", k_BNdLT, key_dTT),
        ]
        normal_BNLTT = self.logit_norm(torch.cat(terms, dim=1).flatten(3)).unflatten(3, (-1, x_BCLT.shape[3]))
        weight_BNLTT = normal_BNLTT.unflatten(1, (3, AXIAL_HEADS)).sum(dim=1).softmax(dim=-1).to(v_BNvLT.dtype)
        content_BNvLT = torch.einsum("bnltu,bnvlu->bnvlt", weight_BNLTT, v_BNvLT)
        place_BNvLT = torch.einsum("bnltu,vtu->bnvlt", weight_BNLTT, value_vTT)
        both_BCLT: Tensor = self.out_norm(torch.cat([content_BNvLT.flatten(1, 2), place_BNvLT.flatten(1, 2)], dim=1))
        content_BCLT, place_BCLT = both_BCLT.chunk(2, dim=1)
        return content_BCLT + place_BCLT

    def initialize(self, draws: Draws) -> None:
        """First values as in the released code, but for the norms."""
        draws.normal("qkv", self.qkv.weight, std=math.sqrt(1 / self.qkv.in_channels))
        draws.normal("offset", self.offset_Od, std=math.sqrt(2 / self.offset_Od.shape[1]))

    def _relative(self, side: int) -> Tensor:
        """The table's rows for every pair of pixels on a line, (2 v, T, T)."""
        place_T = torch.arange(side, device=self.offset_Od.device)
        offset_TT = place_T[:, None] - place_T + side - 1
        return self.offset_Od[offset_TT].permute(2, 0, 1)


def _shared_out(qkv: Tensor, dim: int) -> tuple[Tensor, Tensor, Tensor]:
    """The parts of queries, keys and values, the last as wide as the others together."""
    quarter = qkv.shape[dim] // 4
    query, key = (qkv.narrow(dim, start, quarter) for start in (0, quarter))
    return query, key, qkv.narrow(dim, 2 * quarter, 2 * quarter)
