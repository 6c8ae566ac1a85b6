"""The vision transformer of arXiv:2010.11929v2, section 3.1, with values and details of its released code.

B = images, C = color channels, H, W = pixels, P = patches, D = width, T = tokens, F = D, K = classes.
A hybrid passes a feature map for the image.
"""

import torch
from torch import Tensor, nn

from studies.models import ViT
from workers.kernels.rules import Linear
from workers.models.blocks import EPSILON, AxialBlock, Block, blocks_of, start_norm
from workers.models.draws import Draws
from workers.models.network import FeatureNetwork, Network, start_head
from workers.models.pooling import AttentionPool
from workers.models.positions import Positioned


class Encoder(Positioned, FeatureNetwork):
    """All of a vision transformer but its classifier, for images of `size` (height, width) pixels."""

    def __init__(
        self, model: ViT, *, size: tuple[int, int], channels: int, dropout: float, stochastic_depth: float
    ) -> None:
        super().__init__()
        width, (height, across) = model.width, size
        grid = height // model.patch, across // model.patch
        self.embed = nn.Conv2d(channels, width, model.patch, stride=model.patch)
        self.cls_1D = nn.Parameter(torch.empty(1, width)) if model.has_token else None
        self.make_positions(model, None if model.position_at == "layers" else grid)
        self.at_every_layer = model.position_at == "shared"
        # Once, before the first layer: after the positions where these are added there.
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()
        self.blocks = blocks_of(model, grid=grid, dropout=dropout, stochastic_depth=stochastic_depth)
        self.norm = nn.LayerNorm(width, eps=EPSILON)
        self.pre_logits = Linear(width, width) if model.head == "token-tanh" else None
        self.pool = AttentionPool(model) if model.head == "map" else None

    def features(self, image_BCHW: Tensor) -> Tensor:
        """The pooled token, (B, D): after the tanh layer where the head has one."""
        x_BTD = self.encoded(self.embedded(image_BCHW))
        if self.pool is not None:
            feature_BD: Tensor = self.pool(self.norm(x_BTD))
        elif self.cls_1D is None:
            feature_BD = self.norm(x_BTD).mean(dim=1)
        else:
            feature_BD = self.norm(x_BTD[:, 0])  # normalization works token by token: the others are not needed
        return feature_BD if self.pre_logits is None else torch.tanh(self.pre_logits(feature_BD))

    def embedded(self, image_BCHW: Tensor) -> Tensor:
        """The patches' embeddings, (B, P, D), before positions."""
        # In memory token by token, as all that follows reads it.
        patch_BPD: Tensor = self.embed(image_BCHW).flatten(2).mT.contiguous()
        return patch_BPD

    def encoded(self, patch_BPD: Tensor) -> Tensor:
        """The tokens after the last block, (B, T, D), before the last normalization."""
        x_BTD = patch_BPD
        if self.cls_1D is not None:
            x_BTD = torch.cat([self.cls_1D.expand(x_BTD.shape[0], 1, -1), x_BTD], dim=1)
        x_BTD = self.dropout(self.positioned(x_BTD))
        for index, block in enumerate(self.blocks):
            if self.at_every_layer and index:
                x_BTD = self.positioned(x_BTD)
            x_BTD = block(x_BTD)
        encoded_BTD: Tensor = x_BTD
        return encoded_BTD

    def initialize(self, draws: Draws) -> None:
        """First values as in the released code."""
        draws.lecun_normal("embed", self.embed.weight)
        assert self.embed.bias is not None
        nn.init.zeros_(self.embed.bias)
        if self.cls_1D is not None:
            nn.init.zeros_(self.cls_1D)
        self.initialize_positions(draws)
        for index, block in enumerate(self.blocks):
            assert isinstance(block, Block | AxialBlock)
            block.initialize(draws.within(f"block{index}"))
        start_norm(self.norm)
        if self.pre_logits is not None:
            draws.lecun_normal("pre_logits", self.pre_logits.weight)
            nn.init.zeros_(self.pre_logits.bias)
        if self.pool is not None:
            self.pool.initialize(draws.within("pool"))


class VisionTransformer(Encoder, Network):
    """An encoder and a linear layer on what it pools."""

    def __init__(
        self, model: ViT, *, size: tuple[int, int], channels: int, classes: int, dropout: float, stochastic_depth: float
    ) -> None:
        super().__init__(model, size=size, channels=channels, dropout=dropout, stochastic_depth=stochastic_depth)
        self.head = Linear(model.width, classes)

    def classify(self, feature_BF: Tensor) -> Tensor:
        """The last linear layer: class logits, (B, K)."""
        logits_BK: Tensor = self.head(feature_BF)
        return logits_BK

    def initialize(self, draws: Draws) -> None:
        """First values as in the released code; the classifier starts at zero."""
        super().initialize(draws)
        start_head(self.head)
