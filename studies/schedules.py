"""How the learning rate goes over a training: a warm-up, then one of five shapes. Closed forms of the step alone."""

import math
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, NonNegativeInt, PositiveInt, model_validator

from studies.frozen import Frozen, Listed


class Cosine(Frozen):
    """Half a cosine from the peak to zero."""

    kind: Literal["cosine"] = "cosine"


class Linear(Frozen):
    """A line from the peak to zero."""

    kind: Literal["linear"] = "linear"


class Constant(Frozen):
    """The peak to the end."""

    kind: Literal["constant"] = "constant"


class Steps(Frozen):
    """The peak, multiplied by `factor` at each of some shares of the training (Big Transfer: 0.3, 0.6, 0.9)."""

    kind: Literal["steps"] = "steps"
    at: Annotated[Listed[Annotated[float, Field(gt=0, lt=1)]], Field(min_length=1)]
    """Shares of all steps, warm-up included, in ascending order."""
    factor: Annotated[float, Field(gt=0, lt=1)] = 0.1

    @model_validator(mode="after")
    def _is_possible(self) -> "Steps":
        if list(self.at) != sorted(set(self.at)):
            raise ValueError(f"the shares of a schedule of steps ascend, and {list(self.at)} do not")
        return self


class ReciprocalSqrt(Frozen):
    """The peak over the root of the steps since the warm-up, then a line to zero (arXiv:2106.04560v2, section 3.5).

    Only the cooldown depends on the length of the training, so trainings of several lengths share their trunk.
    """

    kind: Literal["rsqrt"] = "rsqrt"
    timescale: PositiveInt = 10_000
    """Steps after the warm-up at which the rate is the peak over the root of 2."""
    cooldown_steps: NonNegativeInt = 10_000
    """At the end; 0 for none."""


def _named(value: Any) -> Any:
    """A schedule without fields by its name."""
    return {"kind": value} if isinstance(value, str) else value


Schedule = Annotated[
    Annotated[Cosine | Linear | Constant | Steps | ReciprocalSqrt, Field(discriminator="kind")], BeforeValidator(_named)
]
"""A schedule, or the name of one without fields."""


def lr_at(
    step: int,
    schedule: Cosine | Linear | Constant | Steps | ReciprocalSqrt,
    *,
    lr_peak: float,
    warmup_steps: int,
    steps: int,
) -> float:
    """The learning rate of the update from `step` to `step + 1`, for step in [0, steps).

    With w warm-up steps: lr_peak * (step + 1) / w below w; from there on, with t = (step - w) / (steps - w), lr_peak
    times 1 - t (linear), (1 + cos(pi t)) / 2 (cosine), 1 (constant), factor ** (shares of `at` that step / steps has
    reached) (steps), or (1 + (step - w) / timescale) ** -0.5 * min(1, (steps - step) / cooldown_steps) (rsqrt). No step
    has a rate of zero: the decay would reach it one step after the last.
    """
    assert 0 <= step < steps
    if step < warmup_steps:
        return lr_peak * (step + 1) / warmup_steps
    t = (step - warmup_steps) / (steps - warmup_steps)
    match schedule:
        case Linear():
            return lr_peak * (1 - t)
        case Cosine():
            return lr_peak * (1 + math.cos(math.pi * t)) / 2
        case Constant():
            return lr_peak
        case Steps():
            return lr_peak * schedule.factor ** sum(step / steps >= share for share in schedule.at)
        case ReciprocalSqrt():
            trunk = lr_peak / math.sqrt(1 + (step - warmup_steps) / schedule.timescale)
            return trunk * min(1.0, (steps - step) / max(1, schedule.cooldown_steps))
