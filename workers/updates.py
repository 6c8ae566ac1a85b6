"""What each optimizer keeps of a parameter, and the change that it makes of a gradient: no clipping and no decay.

A change is subtracted, times a rate. Numbers that differ from step to step come as arguments: floats, or tensors where
a step is a compiled program. What is kept in bfloat16 is computed in float32, and rounded once it was used.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from studies.definitions import SGD, Adafactor, AdamW
from workers import adafactor

Number = float | Tensor
"""A tensor without dims, where a step is a compiled program."""

EPSILON = 1e-8
"""Of AdamW, beside the root of the mean square."""

_PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}


def slots_of(chosen: AdamW | SGD | Adafactor, parameter: Tensor) -> dict[str, Tensor]:
    """Zeros for what is kept of a parameter, by name; AdamW's and SGD's are those of torch's own optimizers."""
    match chosen:
        case Adafactor():
            return adafactor.slots_of(chosen, parameter)
        case AdamW():
            first = torch.zeros_like(parameter, dtype=_PRECISIONS[chosen.momentum_precision])
            return {"exp_avg": first, "exp_avg_sq": torch.zeros_like(parameter)}
        case SGD():
            if not chosen.momentum:
                return {}
            return {"momentum_buffer": torch.zeros_like(parameter, dtype=_PRECISIONS[chosen.momentum_precision])}


def numbers_of(chosen: AdamW | SGD | Adafactor, lr: float, step: int) -> tuple[float, ...]:
    """What update number `step`, counted from 1, takes: the rate of its change, then what `change_of` asks for."""
    match chosen:
        case Adafactor():
            return lr, adafactor.new_share(chosen, step)
        case AdamW():
            return lr / (1 - chosen.beta1**step), (1 - chosen.beta2**step) ** 0.5
        case SGD():
            return (lr,)


def change_of(
    chosen: AdamW | SGD | Adafactor,
    gradient: Tensor,
    slots: Mapping[str, Tensor],
    numbers: Sequence[Number],
) -> Tensor:
    """What is to be subtracted at a rate of 1, float32 and not to be written to. Brings the slots up to this update.

    numbers: those of `numbers_of` after the first.
    """
    match chosen:
        case Adafactor():
            return adafactor.change_of(chosen, gradient, slots, numbers[0])
        case AdamW():
            mean = slots["exp_avg"].float().lerp_(gradient, 1 - chosen.beta1)
            _keep(slots["exp_avg"], mean)
            square = slots["exp_avg_sq"].mul_(chosen.beta2).addcmul_(gradient, gradient, value=1 - chosen.beta2)
            return mean / square.sqrt().div_(numbers[0]).add_(EPSILON)
        case SGD():
            if not chosen.momentum:
                return gradient
            momentum = slots["momentum_buffer"].float().mul_(chosen.momentum).add_(gradient)
            _keep(slots["momentum_buffer"], momentum)
            return momentum


def _keep(slot: Tensor, moment: Tensor) -> None:
    """Round to nearest, ties to even, where the slot is in bfloat16; in float32 the moment is the slot itself."""
    if slot.dtype != moment.dtype:
        slot.copy_(moment)
