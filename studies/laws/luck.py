"""What seeds say of luck: how far a configuration's error moves with other seeds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from studies.laws.points import Points


@dataclass(frozen=True)
class Luck:
    """Standard deviation of a configuration's log error from seeds alone, and with how many degrees of freedom."""

    spread: float
    freedom: float


def luck_of(points: Points) -> Luck | None:
    """The luck of these configurations, as far as their seeds are apart; None where none has several seeds.

    The variance of log error from seed to seed is pooled over the configurations and divided by their seeds. Seeds of
    some may be much farther apart than those of others, as at small costs: the pooled variance is then known less well
    than one of equal parts, by the scatter of its parts (Satterthwaite, Biometrics Bulletin 2, 1946).
    """
    if points.sd is None or points.seeds is None:
        return None
    several_R = np.isfinite(points.sd) & (points.seeds > 1) & (points.error > 0)
    if not several_R.any():
        return None
    freedom_K = points.seeds[several_R] - 1
    square_K = freedom_K * (points.sd[several_R] / points.error[several_R]) ** 2
    freedom = float(freedom_K.sum())
    variance = float(square_K.sum()) / freedom
    apart = float(((square_K - freedom_K * variance) ** 2).sum())
    if apart > 0:
        freedom = min(freedom, max(1.0, 2 * float(square_K.sum()) ** 2 / apart))
    return Luck(float(np.sqrt(variance * np.mean(1 / points.seeds))), freedom)
