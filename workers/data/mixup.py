"""Mixup (arXiv:1710.09412): each image of a batch and its label, blended with those of the one before it.

B = images of a batch, S = batches. By big_vision's rule (`utils.get_mixup`), which AugReg was trained with: one share
for a whole batch, at least a half, and the partner is the batch rolled by one.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import betaincinv
from torch import Tensor

from workers.data.draws import draws, unit


def shares(first_position_S: NDArray[np.int64], alpha: float, seed: int) -> NDArray[np.float32]:
    """How much each batch keeps of its own images, in [0.5, 1], (S,).

    first_position_S: where each batch begins in the whole training (epoch * rows + place).
    alpha: both parameters of the beta distribution that the shares come from, > 0.
    """
    share_S = betaincinv(alpha, alpha, unit(draws(first_position_S, 1, seed, "mixup"))[:, 0])
    return np.maximum(share_S, 1 - share_S).astype(np.float32)


def mixed(x: Tensor, share: Tensor) -> Tensor:
    """share * x + (1 - share) * x rolled by one along its first dim, which is the whole batch's; on x's device.

    x: floating-point images (B, ...) or shares of classes (B, K). Not micro-batches: the last image of one is the
    partner of the first of the next.
    share: of no dims, on the device, so that a compiled step serves every batch.
    """
    assert x.is_floating_point(), x.dtype
    return torch.lerp(x.roll(1, dims=0), x, share.to(x.dtype))
