"""The plain vision transformer of arXiv:2010.11929v2, section 3.1, with values and details of its released code.

B = images, C = color channels, H, W = pixels, D = width, T = tokens, M = width of the MLP, N = heads,
d = width of a head, F = D, K = classes. A hybrid passes a feature map for the image.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from studies.definitions import ViT
from workers.models.draws import Draws
from workers.models.network import Network, start_head

_EPSILON = 1e-6


class VisionTransformer(Network):
    """A transformer encoder over square patches of an image of `side` x `side` pixels."""

    def __init__(self, model: ViT, *, side: int, channels: int, classes: int, dropout: float) -> None:
        super().__init__()
        width, patches = model.width, (side // model.patch) ** 2
        self.embed = nn.Conv2d(channels, width, model.patch, stride=model.patch)
        self.cls_1D = None if model.head == "gap" else nn.Parameter(torch.empty(1, width))
        self.position_TD = nn.Parameter(torch.empty(patches + (self.cls_1D is not None), width))
        self.dropout = _dropout(dropout)
        self.blocks = nn.Sequential(*(Block(width, model.mlp, model.heads, dropout) for _ in range(model.depth)))
        self.norm = nn.LayerNorm(width, eps=_EPSILON)
        self.pre_logits = nn.Linear(width, width) if model.head == "token-tanh" else None
        self.head = nn.Linear(width, classes)

    def features(self, image_BCHW: Tensor) -> Tensor:
        """The pooled token, (B, D): after the tanh layer where the head has one."""
        # In memory token by token, as all that follows reads it.
        x_BTD = self.embed(image_BCHW).flatten(2).mT.contiguous()
        if self.cls_1D is not None:
            x_BTD = torch.cat([self.cls_1D.expand(len(x_BTD), 1, -1), x_BTD], dim=1)
        x_BTD = self.blocks(self.dropout(x_BTD + self.position_TD))
        if self.cls_1D is None:
            pooled_BD: Tensor = self.norm(x_BTD).mean(dim=1)
            return pooled_BD
        token_BD: Tensor = self.norm(x_BTD[:, 0])  # normalization works token by token: the others are not needed
        return token_BD if self.pre_logits is None else torch.tanh(self.pre_logits(token_BD))

    def classify(self, feature_BF: Tensor) -> Tensor:
        """The last linear layer: class logits, (B, K)."""
        logits_BK: Tensor = self.head(feature_BF)
        return logits_BK

    def initialize(self, draws: Draws) -> None:
        """First values as in the released code; the classifier starts at zero."""
        draws.lecun_normal("embed", self.embed.weight)
        nn.init.zeros_(_bias(self.embed))
        if self.cls_1D is not None:
            nn.init.zeros_(self.cls_1D)
        draws.normal("position", self.position_TD, std=0.02)
        for index, block in enumerate(self.blocks):
            assert isinstance(block, Block)
            block.initialize(draws.within(f"block{index}"))
        _start_norm(self.norm)
        if self.pre_logits is not None:
            draws.lecun_normal("pre_logits", self.pre_logits.weight)
            nn.init.zeros_(self.pre_logits.bias)
        start_head(self.head)


class Block(nn.Module):
    """Attention and an MLP, each behind a layer normalization and beside a residual path."""

    def __init__(self, width: int, mlp: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width, eps=_EPSILON)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width, eps=_EPSILON)
        self.mlp1 = nn.Linear(width, mlp)
        self.mlp2 = nn.Linear(mlp, width)
        # After every dense layer but the queries, keys and values, and not on attention weights (appendix B.1).
        self.dropout = _dropout(dropout)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """The tokens after this block, in the same shape."""
        qkv_3BNTd = self.qkv(self.norm1(x_BTD)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed_BTD = attend(*qkv_3BNTd.unbind(0)).transpose(1, 2).flatten(2)
        x_BTD = x_BTD + self.dropout(self.out(mixed_BTD))
        hidden_BTM = self.dropout(functional.gelu(self.mlp1(self.norm2(x_BTD)), approximate="tanh"))
        out_BTD: Tensor = x_BTD + self.dropout(self.mlp2(hidden_BTM))
        return out_BTD

    def initialize(self, draws: Draws) -> None:
        """Xavier-uniform kernels, queries, keys and values each on their own; MLP biases near zero."""
        for name, kernel_DD in zip("qkv", self.qkv.weight.chunk(3), strict=True):
            draws.xavier_uniform(name, kernel_DD)
        nn.init.zeros_(self.qkv.bias)
        draws.xavier_uniform("out", self.out.weight)
        nn.init.zeros_(self.out.bias)
        for name, linear in (("mlp1", self.mlp1), ("mlp2", self.mlp2)):
            draws.xavier_uniform(name, linear.weight)
            draws.normal(f"{name}_bias", linear.bias, std=1e-6)
        _start_norm(self.norm1)
        _start_norm(self.norm2)


def attend(q_BNTd: Tensor, k_BNTd: Tensor, v_BNTd: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(d)) v, in the shape of q.

    The way is chosen by device and precision alone, so that bits do not depend on a timing: torch's fused kernel, but
    for bf16 on a CPU, where its flash attention takes up to 44 % of a step and plain batched products a few.
    """
    if q_BNTd.device.type == "cpu" and q_BNTd.dtype == torch.bfloat16:
        weight_BNTT = torch.softmax((q_BNTd * q_BNTd.shape[-1] ** -0.5) @ k_BNTd.mT, dim=-1)
        return weight_BNTT.to(v_BNTd.dtype) @ v_BNTd
    return functional.scaled_dot_product_attention(q_BNTd, k_BNTd, v_BNTd)


def _dropout(share: float) -> nn.Module:
    return nn.Dropout(share) if share else nn.Identity()


def _bias(layer: nn.Conv2d) -> Tensor:
    assert layer.bias is not None
    return layer.bias


def _start_norm(norm: nn.LayerNorm) -> None:
    nn.init.ones_(norm.weight)
    nn.init.zeros_(norm.bias)
