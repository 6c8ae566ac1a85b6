"""Where a law is wanted: the best configuration for a compute, the compute that an error takes, and whether any does.

B = bootstrap replicates, K = costs, I = inputs of the law's form. It evaluates a fit; nothing is fitted or planned.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from studies.laws.allocation import allocation, rate
from studies.laws.fits import Estimate, Fit, form_of
from studies.laws.points import Floats, Points
from studies.laws.prediction import REFUSED, draws_at, extrapolation, law_at

COSTS = 200
"""Of the grid on which the compute that an error takes is sought, evenly spaced in logarithm."""

Along = Callable[[Floats], Floats]


@dataclass(frozen=True)
class Target:
    """A place on a law: its cost in FLOPs, the form's inputs there by name, the law's error and 95 % interval."""

    cost: float
    inputs: dict[str, float]
    error: float
    low: float
    high: float


def best_along(fit: Fit, asked: Points) -> Along:
    """A function from costs (K,) to the form's inputs (I, K) of the best configuration for each, by the law.

    asked: what can be trained; it says what a FLOP buys, and how many distinct images there are at most.
    Raises ValueError where it does not say its sizes; the function, where a surface has no best size.
    """
    names = form_of(fit.form).inputs
    if names == ("cost",):
        return lambda cost_K: cost_K[None]
    if "parameters" not in names:
        # Of a learning curve the network is one; its images follow from the cost.
        sized = np.flatnonzero((asked.cost > 0) & (asked.input(names[0]) > 0))
        per_image = float(np.exp(np.mean(np.log(asked.cost[sized] / asked.input(names[0])[sized]))))
        return lambda cost_K: cost_K[None] / per_image
    bare = replace(fit, draws=fit.draws[:0])
    flops = rate(asked)
    distinct = float(np.nanmax(asked.input("data_rows"))) if "data_rows" in names else None

    def best(cost_K: Floats) -> Floats:
        found = [allocation(bare, float(cost), flops, distinct=distinct) for cost in cost_K]
        rows = [[one.parameters.value for one in found], [one.images.value for one in found]]
        if distinct is not None:
            rows.append([min(one.images.value, distinct) for one in found])
        return np.array(rows)

    return best


def target_at(fit: Fit, along: Along, cost: float, *, force: bool = False) -> Target:
    """The law at the best configuration for that cost.

    Raises ValueError more than 1,000 times beyond the costs fitted on (unless `force`), and where there is no interval.
    """
    factor, where = extrapolation(fit, {"cost": cost}, None)
    if factor > REFUSED and not force:
        raise ValueError(
            f"the target compute is too far from the configurations of the fit: {where}; take a smaller budget, or "
            "force it"
        )
    input_I1 = along(np.array([cost]))
    error, low, high = (float(of[0]) for of in law_at(fit, input_I1))
    if math.isnan(low) or math.isnan(high):
        raise ValueError(
            f"the law has no interval at {cost:.3g} FLOPs that could shrink: train more configurations, or ask for a "
            "simpler form"
        )
    inputs = dict(zip(form_of(fit.form).inputs, input_I1[:, 0].tolist(), strict=True))
    return Target(cost, inputs, error, low, high)


def reach_of(fit: Fit, along: Along, budget: float, target: float) -> tuple[Estimate | None, list[str]]:
    """The compute at which the law comes down to the error `target`, with its 95 % interval, and sentences about it.

    None where the law does not come down to it within 1,000 times the costs fitted on; a sentence then says whether any
    compute would do. An end of the interval is None where so many replicates do not come down to it.
    """
    least, most = fit.cost_range[0] / REFUSED, fit.cost_range[1] * REFUSED
    cost_K = np.geomspace(least, most, COSTS)
    input_IK = along(cost_K)
    log_target = math.log(target)
    cost = _crossing(np.log(law_at(fit, input_IK)[0])[None], np.log(cost_K), log_target)[0]
    if math.isinf(cost):
        return None, [_out_of_reach(fit, target, most)]
    draws = _crossing(draws_at(fit, input_IK), np.log(cost_K), log_target)
    low, high = np.quantile(draws, (0.025, 0.975), method="inverted_cdf") if len(draws) else (math.nan, math.nan)
    ends = [float(end) if math.isfinite(end) else None for end in (min(low, cost), max(high, cost))]
    said = []
    if cost > budget:
        between = f"{ends[0]:.3g}" if ends[0] is not None else "?"
        between += f" to {ends[1]:.3g}" if ends[1] is not None else " or without end"
        said.append(
            f"An error of {target:g} takes {cost:.3g} FLOPs by the law ({between}), {cost / budget:.3g} times the "
            "budget."
        )
    return Estimate(float(cost), *ends), said


def _crossing(log_error_BK: Floats, log_cost_K: Floats, log_target: float) -> Floats:
    """The cost at which each law, falling, reaches the target, (B,); infinite where it does not on this grid."""
    reached_BK = log_error_BK <= log_target
    first_B = np.argmax(reached_BK, axis=1)
    before_B = np.maximum(first_B - 1, 0)
    rows = np.arange(len(log_error_BK))
    here, there = log_error_BK[rows, before_B], log_error_BK[rows, first_B]
    share = np.where(here > there, (here - log_target) / np.where(here > there, here - there, 1.0), 0.0)
    log_cost_B = log_cost_K[before_B] + share * (log_cost_K[first_B] - log_cost_K[before_B])
    return np.where(reached_BK.any(axis=1), np.exp(log_cost_B), np.inf)


def _out_of_reach(fit: Fit, target: float, most: float) -> str:
    name = form_of(fit.form).floor
    floor = fit.parameters[name] if name else None
    if floor is None or floor.value < target:
        return (
            f"An error of {target:g} is out of reach: by the law it takes more than {most:.3g} FLOPs, 1,000 times the "
            "dearest configuration of the fit."
        )
    if floor.low is not None and floor.low >= target:
        ends = f"{floor.low:.4g} to {floor.high:.4g}" if floor.high is not None else f"{floor.low:.4g} or more"
        return f"No compute reaches an error of {target:g}: the law's floor {name} is {floor.value:.4g} ({ends})."
    return (
        f"By the law no compute reaches an error of {target:g}, since its floor {name} is {floor.value:.4g}; but the "
        "interval of that floor does not rule it out."
    )
