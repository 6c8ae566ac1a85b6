"""Multi-head attention pooling, the head of arXiv:2106.04560v2, section 3.2, as big_vision's MAPHead.

B = images, T = tokens, D = width, N = heads, d = width of a head.
"""

import torch
from torch import Tensor, nn

from studies.models import ViT
from workers.kernels.rules import Linear, attend, gelu
from workers.models.blocks import EPSILON, start_kernels, start_mlp, start_norm
from workers.models.draws import Draws


class AttentionPool(nn.Module):
    """One learned query looks at all tokens; an MLP beside a residual path follows. There is no dropout."""

    def __init__(self, model: ViT) -> None:
        super().__init__()
        width = model.width
        self.heads = model.heads
        self.gelu = model.gelu
        self.probe_1D = nn.Parameter(torch.empty(1, width))
        self.q = Linear(width, width)
        self.kv = Linear(width, 2 * width)
        self.out = Linear(width, width)
        self.norm = nn.LayerNorm(width, eps=EPSILON)
        self.mlp1 = Linear(width, model.mlp)
        self.mlp2 = Linear(model.mlp, width)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """One vector an image, (B, D), of tokens after the encoder's last normalization."""
        q_1N1d = self.q(self.probe_1D).unflatten(-1, (1, self.heads, -1)).transpose(1, 2)
        kv_2BNTd = self.kv(x_BTD).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        k_BNTd, v_BNTd = kv_2BNTd.unbind(0)
        mixed_BN1d = attend(q_1N1d.expand(x_BTD.shape[0], -1, -1, -1), k_BNTd, v_BNTd)
        x_BD = self.out(mixed_BN1d.flatten(1))
        hidden_BM = gelu(self.mlp1(self.norm(x_BD)), self.gelu)
        pooled_BD: Tensor = x_BD + self.mlp2(hidden_BM)
        return pooled_BD

    def initialize(self, draws: Draws) -> None:
        """Xavier-uniform probe and kernels, keys and values each on their own."""
        draws.xavier_uniform("probe", self.probe_1D)
        start_kernels(draws, self.q, "q")
        start_kernels(draws, self.kv, "kv")
        start_kernels(draws, self.out, ["out"])
        start_mlp(draws, self.mlp1, self.mlp2)
        start_norm(self.norm)
