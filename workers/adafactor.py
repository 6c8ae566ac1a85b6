"""Adafactor with the changes of arXiv:2106.04560v2, section 3.4: what it keeps of a parameter, and the change it makes.

The second moment of a tensor is one number for each place along its two largest dims instead of one for each pair of
places. Numbers that the paper leaves out are those of the code that it was made with, google-research/big_vision
(`scale_by_adafactor`) on google-deepmind/optax (`scale_by_factored_rms`, `ema`): an addition of 1e-30 to squared
gradients, no bias correction of the first moment, no clipping of updates. No code was taken from there.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from studies.definitions import Adafactor

_EPSILON = 1e-30
"""Added to squared gradients, so that a gradient of zero changes nothing."""


def factored_dims(shape: tuple[int, ...], least: int) -> tuple[int, int] | None:
    """The second largest and the largest dim of a shape; None where the second largest has fewer than `least` numbers.

    Of equal dims the later one counts as larger; the second moment is the same whichever does. Tensors are those of our
    networks: a layer's queries, keys and values are one kernel here, of width and of 3 * width, and in big_vision one
    for each of the three and each head.
    """
    dims = sorted(range(len(shape)), key=lambda dim: shape[dim])
    if len(dims) < 2 or shape[dims[-2]] < least:
        return None
    return dims[-2], dims[-1]


def slots_of(chosen: Adafactor, parameter: Tensor) -> dict[str, Tensor]:
    """Zeros for what is kept: the first moment in bfloat16, and in float32 the second, whole or as its two means.

    A mean keeps the dim that it was taken over, with one number in it.
    """
    first = {"exp_avg": torch.zeros_like(parameter, dtype=torch.bfloat16)}
    dims = factored_dims(tuple(parameter.shape), chosen.factored_from)
    if dims is None:
        return first | {"exp_avg_sq": torch.zeros_like(parameter)}
    shorter, longer = dims
    row, column = list(parameter.shape), list(parameter.shape)
    row[longer] = column[shorter] = 1
    return first | {"exp_avg_sq_row": parameter.new_zeros(row), "exp_avg_sq_column": parameter.new_zeros(column)}


def new_share(chosen: Adafactor, step: int) -> float:
    """How much of the second moment update number `step`, counted from 1, replaces: all of it at the first."""
    return float(max(1 - chosen.decay_most, step**-chosen.decay_exponent))


def change_of(chosen: Adafactor, gradient: Tensor, slots: Mapping[str, Tensor], share: float | Tensor) -> Tensor:
    """What is to be subtracted at a learning rate of 1, float32. Brings the slots up to this update."""
    scaled = gradient * _scale(chosen, gradient, slots, share)
    first = slots["exp_avg"].float().lerp_(scaled, 1 - chosen.beta1)
    slots["exp_avg"].copy_(first)  # rounds to nearest, ties to even
    return first


def _scale(chosen: Adafactor, gradient: Tensor, slots: Mapping[str, Tensor], share: float | Tensor) -> Tensor:
    """One over the root of the second moment, which is row x column / mean of the rows where it is factored."""
    square = gradient.square().add_(_EPSILON)
    dims = factored_dims(tuple(gradient.shape), chosen.factored_from)
    if dims is None:
        return slots["exp_avg_sq"].lerp_(square, share).rsqrt()
    shorter, longer = dims
    row = slots["exp_avg_sq_row"].lerp_(square.mean(longer, keepdim=True), share)
    column = slots["exp_avg_sq_column"].lerp_(square.mean(shorter, keepdim=True), share)
    # Two roots, not one: of gradients that are all zero, row x column is 1e-60, which float32 cannot hold.
    return (row / row.mean(shorter, keepdim=True)).rsqrt() * column.rsqrt()
