"""Masked patch prediction (arXiv:2010.11929v2, section 4.6, B.1.2): a transformer says what corrupted patches showed.

B = images, C = color channels, H, W = pixels, P = patches, M = corrupted patches of an image, T = tokens, D = width,
h, w = pixels of a patch, S = places within a patch (4 x 4), V = values of a patch, F = D, K = classes of colours.
"""

import hashlib
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from studies.cost_vit import COLORS, corrupted, predictions
from studies.models import MaskedPatch
from workers.kernels.rules import Linear
from workers.models.draws import Draws
from workers.models.network import FeatureNetwork, start_head
from workers.models.vit import Encoder

_SMALL = 4
"""Side of a patch that is reduced for `small-colors`."""


class Corruption(NamedTuple):
    """What happens to the patches of a batch. Shapes depend on the model alone, never on what was drawn."""

    place: Tensor
    """int64, (B, M): the corrupted patches of each image, ascending."""
    source: Tensor
    """int64, (B, P): the patch whose embedding stands at each place: its own, but for those that got another's."""
    masked: Tensor
    """bool, (B, P): the places where the mask's embedding stands."""


def corruption_of(seed: int, step: int, *, batch: int, patches: int, share: float) -> Corruption:
    """The corruption of a step's batch, on the CPU: a function of its arguments, the same on every machine.

    Of each image round(share * patches) patches are corrupted; each of them becomes the mask with a chance of 80 %,
    another patch of the same image with 10 %, and stays with 10 %. Raises ValueError when no patch would be corrupted,
    or there is no other patch.
    """
    count = _count(share, patches)
    # A key of its own: with the seed as key the numbers would be those that shift the images.
    key = int.from_bytes(hashlib.sha256(f"corruption/{seed}".encode()).digest()[:16], "little")
    raw_BX = np.random.Philox(key=key, counter=step << 128).random_raw(batch * (patches + 2 * count))
    rank_BP, kind_BM, other_BM = np.split(raw_BX.reshape(batch, -1), [patches, patches + count], axis=1)
    place_BM = np.sort(np.argsort(rank_BP, axis=1, kind="stable")[:, :count], axis=1)
    kind_BM = kind_BM % np.uint64(10)
    other_BM = (other_BM % np.uint64(patches - 1)).astype(np.int64)
    other_BM += other_BM >= place_BM  # any but the patch itself
    source_BP = np.broadcast_to(np.arange(patches), (batch, patches)).copy()
    np.put_along_axis(source_BP, place_BM, np.where(kind_BM == 8, other_BM, place_BM), axis=1)
    masked_BP = np.zeros((batch, patches), dtype=bool)
    np.put_along_axis(masked_BP, place_BM, kind_BM < 8, axis=1)
    return Corruption(torch.from_numpy(place_BM), torch.from_numpy(source_BP), torch.from_numpy(masked_BP))


class MaskedPatchNetwork(FeatureNetwork):
    """A transformer's encoder, an embedding in place of what is hidden, and a linear layer on corrupted patches."""

    def __init__(
        self,
        model: MaskedPatch,
        *,
        size: tuple[int, int],
        channels: int,
        dropout: float,
        stochastic_depth: float,
    ) -> None:
        """Raises ValueError when the share of corrupted patches comes to none."""
        super().__init__()
        patch = model.vit.patch
        _count(model.corrupted, (size[0] // patch) * (size[1] // patch))
        self.model = model
        self.vit = Encoder(model.vit, size=size, channels=channels, dropout=dropout, stochastic_depth=stochastic_depth)
        self.mask_1D = nn.Parameter(torch.empty(1, model.vit.width))
        self.predict = Linear(model.vit.width, predictions(model, channels))

    def features(self, image_BCHW: Tensor) -> Tensor:
        """The mean over patches after the last normalization, (B, F): the class token's output is never trained."""
        feature_BF: Tensor = self.vit.norm(self.vit.encoded(self.vit.embedded(image_BCHW))[:, 1:]).mean(dim=1)
        return feature_BF

    def forward(self, image_BCHW: Tensor, corruption: Corruption) -> Tensor:
        """Predictions of the corrupted patches, for images with values in [-1, 1].

        Logits (B, M, K) for `mean-color`, (B, M, S, K) for `small-colors`, and values (B, M, V) for `pixels`.
        """
        place_BM, source_BP, masked_BP = corruption
        patch_BPD = _taken(self.vit.embedded(image_BCHW), source_BP)
        patch_BPD = torch.where(masked_BP[..., None], self.mask_1D, patch_BPD)
        # Behind the class token.
        x_BMD = _taken(self.vit.encoded(patch_BPD), place_BM + 1)
        predicted_BMX: Tensor = self.predict(self.vit.norm(x_BMD))
        if self.model.target == "small-colors":
            return predicted_BMX.view(*predicted_BMX.shape[:2], _SMALL * _SMALL, -1)
        return predicted_BMX

    def targets(self, image_BCHW: Tensor, corruption: Corruption) -> Tensor:
        """What the corrupted patches show: colours as classes, (B, M) or (B, M, S), int64, or values, (B, M, V).

        A colour is the mean of pixels with 3 bits a channel, the first channel in the highest bits; values are channel
        by channel, then row by row.
        """
        patch = self.model.vit.patch
        # (B, C, rows, h, columns, w), then patches in raster order before channels. XLA would unfold on the host.
        channels, height, width = image_BCHW.shape[1:]
        tile_BCRhSw = image_BCHW.reshape(-1, channels, height // patch, patch, width // patch, patch)
        patch_BPChw = tile_BCRhSw.permute(0, 2, 4, 1, 3, 5).flatten(1, 2)
        patch_BMChw = _taken(patch_BPChw, corruption.place)
        if self.model.target == "pixels":
            return patch_BMChw.flatten(2)
        if self.model.target == "mean-color":
            return _color(patch_BMChw.mean(dim=(-2, -1)))
        tile = patch // _SMALL
        # (B, M, C, 4, h / 4, 4, w / 4)
        tiles = patch_BMChw.reshape(*patch_BMChw.shape[:3], _SMALL, tile, _SMALL, tile)
        small_BMCS = tiles.mean(dim=(-3, -1)).flatten(-2)
        return _color(small_BMCS.mT)

    def loss(self, predicted: Tensor, target: Tensor) -> Tensor:
        """A float32 scalar, mean over the corrupted patches: cross-entropy in nats, or the mean squared error."""
        predicted = predicted.float()
        if self.model.target == "pixels":
            return functional.mse_loss(predicted, target)
        return functional.cross_entropy(predicted.flatten(0, -2), target.flatten())

    def initialize(self, draws: Draws) -> None:
        """The encoder's first values as ever; a mask like BERT's embeddings, and equal odds for all colours.

        The paper says nothing of the last two, and their code was not released.
        """
        self.vit.initialize(draws.within("vit"))
        draws.normal("mask", self.mask_1D, std=0.02)
        start_head(self.predict)


def _count(share: float, patches: int) -> int:
    """Corrupted patches of an image. Raises ValueError when there are none, or no other patch to swap with."""
    count = corrupted(share, patches)
    if count == 0 or patches < 2:
        raise ValueError(f"a share of {share} of {patches} patches leaves nothing to predict: corrupt more of them")
    return count


def _color(mean: Tensor) -> Tensor:
    """Classes, (...), of means in [-1, 1], (..., C): 3 bits a channel."""
    level = ((mean + 1) * (COLORS / 2)).floor().clamp(0, COLORS - 1).long()
    color = level[..., 0]
    for channel in range(1, level.shape[-1]):
        color = color * COLORS + level[..., channel]
    return color


def _taken(x_BP: Tensor, place_BM: Tensor) -> Tensor:
    """Of each image the entries at its places, with all that follows the second axis.

    By indexing, whose gradient torch sums in a fixed order on every device; that of `gather` it does not.
    """
    image_B1 = torch.arange(x_BP.shape[0], device=x_BP.device)[:, None]
    return x_BP[image_B1, place_BM]
