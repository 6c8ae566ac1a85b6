"""Compute advantage: what one family of networks costs beside another at equal quality; differences at equal cost.

Both compare frontiers as curves, piecewise linear in log cost, and never beyond their ends. K = corners of a curve.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from studies.frontiers import Floats

QUALITIES = 501
"""Evenly spaced, both ends included: in steps of 0.2 % of the common range."""


@dataclass(frozen=True)
class Curve:
    """A frontier, the cheapest corner first: quality is linear in log cost between two corners, and unknown beyond.

    cost, quality: (K,), as `studies.frontiers.frontier` picks them; cost above 0, in any unit.

    Raises ValueError where they do not both rise strictly, or are not finite.
    """

    cost: Floats
    quality: Floats

    def __post_init__(self) -> None:
        for name in ("cost", "quality"):
            object.__setattr__(self, name, np.array(getattr(self, name), dtype=np.float64, ndmin=1))
        if self.cost.shape != self.quality.shape or self.cost.ndim != 1:
            raise ValueError(f"a curve of {self.cost.size} costs and {self.quality.size} qualities: one each is due")
        if not (np.isfinite(self.cost).all() and np.isfinite(self.quality).all() and (self.cost > 0).all()):
            raise ValueError(
                "a curve holds a number that is not finite, or a cost that is not above 0: leave those out"
            )
        if not ((np.diff(self.cost) > 0).all() and (np.diff(self.quality) > 0).all()):
            raise ValueError("a curve's cost and quality do not both rise: take the rows of its frontier only")


@dataclass(frozen=True)
class Advantage:
    """How many times as much the second curve costs as the first, at equal quality; above 1 the first is cheaper."""

    ratio_mean: float
    """Geometric mean over the common range of quality."""
    ratio_least: float
    ratio_most: float
    quality_low: float
    quality_high: float
    """The common range: what both curves reach between their ends."""
    share_inside: float | None
    """The share of the common range where the ratio lies within the band, its ends included; None without a band."""


def advantage(first: Curve, second: Curve, band: tuple[float, float] | None = None) -> Advantage | None:
    """The ratio cost of `second` / cost of `first` at equal quality; None where their qualities have no overlap.

    Everything is taken at the same 501 qualities, evenly spaced from end to end of the common range. The mean is within
    0.1 % of the integral's on curves like Table 6's; a largest ratio at a corner between two of the qualities is missed
    by up to that much: for ImageNet alone it is 2.446 at the corner (85.56 %) and 2.444 here.

    band: two ratios, the lesser first. Raises ValueError where they are not.
    """
    if band is not None and not band[0] <= band[1]:
        raise ValueError(f"the band {band[0]:g} to {band[1]:g} holds no ratio: write the lesser first")
    if not (len(first.cost) and len(second.cost)):
        return None
    low = float(max(first.quality[0], second.quality[0]))
    high = float(min(first.quality[-1], second.quality[-1]))
    if low > high:
        return None
    # Two ends that are neighbours in float64 have nothing between them.
    qualities = np.clip(np.linspace(low, high, QUALITIES), low, high)
    log_ratio = _log_cost_at(second, qualities) - _log_cost_at(first, qualities)
    ratio = np.exp(log_ratio)
    inside = None if band is None else float(np.mean((ratio >= band[0]) & (ratio <= band[1])))
    mean = float(np.exp(log_ratio.mean()))
    return Advantage(mean, float(ratio.min()), float(ratio.max()), low, high, inside)


def differences(curve: Curve, cost: ArrayLike, quality: ArrayLike) -> Floats:
    """Quality less that of the curve at the same cost, for each row; NaN where the curve does not reach that cost.

    cost, quality: of rows of any family, in the curve's units, one length.
    """
    cost_R, quality_R = np.asarray(cost, dtype=np.float64), np.asarray(quality, dtype=np.float64)
    found = np.full(np.broadcast_shapes(cost_R.shape, quality_R.shape), np.nan)
    if len(curve.cost):
        reached = (cost_R >= curve.cost[0]) & (cost_R <= curve.cost[-1])
        at_cost = np.interp(np.log(cost_R[reached]), np.log(curve.cost), curve.quality)
        found[reached] = quality_R[reached] - at_cost
    return found


def _log_cost_at(curve: Curve, qualities: Floats) -> Floats:
    return np.interp(qualities, curve.quality, np.log(curve.cost))
