"""The layers of a vision transformer: attention and an MLP, over all tokens or within rows and then columns.

B = images, T = tokens, D = width, M = width of the MLP, N = heads, d = width of a head, H, W = rows and columns of
patches, O = offsets between two tokens (2T - 1), X = images x rows, where rows attend within themselves.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from studies.models import ViT
from workers.kernels.rules import Linear, attend, gelu
from workers.models.draws import Draws
from workers.models.positions import Grid, Positioned, relative_bias

EPSILON = 1e-6
"""Of every layer normalization, as flax has it."""


class Block(Positioned):
    """Attention and an MLP, each behind a layer normalization and beside a residual path.

    Tokens are (B, T, D), or (B, H, W, D) where each row attends within itself.
    """

    def __init__(self, model: ViT, *, grid: Grid | None, dropout: float, skipped: float) -> None:
        """grid: None for one half of an axial block. skipped: the chance that an example skips a residual branch."""
        super().__init__()
        width = model.width
        self.heads = model.heads
        self.gelu = model.gelu
        self.make_positions(model, grid if model.position_at == "layers" else None)
        self.norm1 = nn.LayerNorm(width, eps=EPSILON)
        self.qkv = Linear(width, 3 * width)
        self.offset_OD: nn.Parameter | None = None
        if model.position == "relative":
            assert grid is not None
            tokens = grid[0] * grid[1] + model.has_token
            self.offset_OD = nn.Parameter(torch.empty(2 * tokens - 1, width))
        self.out = Linear(width, width)
        self.norm2 = nn.LayerNorm(width, eps=EPSILON)
        self.mlp1 = Linear(width, model.mlp)
        self.mlp2 = Linear(model.mlp, width)
        # After every dense layer but the queries, keys and values, and not on attention weights (appendix B.1).
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()
        self.skip = StochasticDepth(skipped) if skipped else nn.Identity()

    def forward(self, x_BTD: Tensor) -> Tensor:
        """The tokens after this block, in the same shape."""
        x_BTD = self.positioned(x_BTD)
        x_BTD = x_BTD + self.skip(self.dropout(self.out(self._mixed(self.norm1(x_BTD)))))
        hidden_BTM = self.dropout(gelu(self.mlp1(self.norm2(x_BTD)), self.gelu))
        out_BTD: Tensor = x_BTD + self.skip(self.dropout(self.mlp2(hidden_BTM)))
        return out_BTD

    def _mixed(self, x_BTD: Tensor) -> Tensor:
        """What each token's heads gather from the others, side by side."""
        x_XTD = x_BTD.flatten(0, -3)
        qkv_3XNTd = self.qkv(x_XTD).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        q_XNTd, k_XNTd, v_XNTd = qkv_3XNTd.unbind(0)
        bias_XNTT = None if self.offset_OD is None else relative_bias(q_XNTd, self.offset_OD)
        mixed_XTD = attend(q_XNTd, k_XNTd, v_XNTd, bias_XNTT).transpose(1, 2).flatten(2)
        return mixed_XTD.reshape(x_BTD.shape)

    def initialize(self, draws: Draws) -> None:
        """Xavier-uniform kernels, queries, keys and values each on their own; MLP biases near zero."""
        self.initialize_positions(draws)
        start_kernels(draws, self.qkv, "qkv")
        start_kernels(draws, self.out, ["out"])
        if self.offset_OD is not None:
            draws.normal("offset", self.offset_OD, std=0.02)
        start_mlp(draws, self.mlp1, self.mlp2)
        start_norm(self.norm1)
        start_norm(self.norm2)


class AxialBlock(Positioned):
    """Attention within rows and an MLP, then attention within columns and an MLP (arXiv:2010.11929v2, D.6)."""

    def __init__(self, model: ViT, *, grid: Grid, dropout: float, skipped: float) -> None:
        super().__init__()
        self.sides = grid
        self.make_positions(model, grid if model.position_at == "layers" else None)
        self.rows = Block(model, grid=None, dropout=dropout, skipped=skipped)
        self.columns = Block(model, grid=None, dropout=dropout, skipped=skipped)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """The tokens after this block, in the same shape."""
        x_BHWD = self.rows(self.positioned(x_BTD).view(-1, *self.sides, x_BTD.shape[-1]))
        x_BWHD = self.columns(_Transposed.apply(x_BHWD))  # type: ignore[no-untyped-call]
        out_BHWD: Tensor = _Transposed.apply(x_BWHD)  # type: ignore[no-untyped-call]
        return out_BHWD.flatten(1, 2)

    def initialize(self, draws: Draws) -> None:
        """First values of both halves as of any block."""
        self.initialize_positions(draws)
        self.rows.initialize(draws.within("rows"))
        self.columns.initialize(draws.within("columns"))


class _Transposed(torch.autograd.Function):
    """Rows and columns exchanged in memory, and in the gradient too: all that follows reads whole rows.

    Autograd's own gradient of a transposition is a view, which every layer behind it would copy.
    """

    @staticmethod
    def forward(ctx: Any, x_BHWD: Tensor) -> Tensor:
        """The tokens column by column."""
        return x_BHWD.transpose(1, 2).contiguous()

    @staticmethod
    def backward(ctx: Any, grad_BWHD: Tensor) -> Tensor:
        """The gradient row by row."""
        return grad_BWHD.transpose(1, 2).contiguous()


class StochasticDepth(nn.Module):
    """In training a residual branch is left out of some examples, and larger in the others (arXiv:1603.09382)."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Zeros in place of the examples that skip the branch, drawn from torch's generator of the device."""
        if not self.training:
            return x_BTD
        one_B11 = torch.ones((x_BTD.shape[0],) + (1,) * (x_BTD.ndim - 1), device=x_BTD.device)
        return x_BTD * functional.dropout(one_B11, self.share)


def blocks_of(model: ViT, *, grid: Grid, dropout: float, stochastic_depth: float) -> nn.Sequential:
    """All blocks of the model; the chance to skip grows linearly from 0 at the first to `stochastic_depth` at the last.

    Raises ValueError for a stochastic depth of a single block: the first is never skipped.
    """
    if stochastic_depth and model.depth == 1:
        raise ValueError(f"a stochastic depth of {stochastic_depth} has no effect on a single block: set it to 0")
    kind = AxialBlock if model.attention == "axial" else Block
    skipped = [stochastic_depth * index / max(model.depth - 1, 1) for index in range(model.depth)]
    return nn.Sequential(*(kind(model, grid=grid, dropout=dropout, skipped=share) for share in skipped))


def start_kernels(draws: Draws, fused: nn.Linear, names: str | list[str]) -> None:
    """Xavier-uniform kernels of layers that are computed as one, each on its own; biases of zero."""
    for name, kernel_DD in zip(names, fused.weight.chunk(len(names)), strict=True):
        draws.xavier_uniform(name, kernel_DD)
    nn.init.zeros_(fused.bias)


def start_mlp(draws: Draws, mlp1: nn.Linear, mlp2: nn.Linear) -> None:
    """Xavier-uniform kernels, biases near zero."""
    for name, linear in (("mlp1", mlp1), ("mlp2", mlp2)):
        draws.xavier_uniform(name, linear.weight)
        draws.normal(f"{name}_bias", linear.bias, std=1e-6)


def start_norm(norm: nn.LayerNorm) -> None:
    """Make a normalization only normalize."""
    nn.init.ones_(norm.weight)
    nn.init.zeros_(norm.bias)
