"""How runs fall short of a law: laws drawn from all that explain the runs by noise about them and shortfalls above.

The law is that of runs at their best. log error - log law = noise + shortfall; noise is normal, a shortfall is never
negative: half-normal or exponential, and none at all for a share of the runs (a stochastic frontier: Aigner, Lovell &
Schmidt, Journal of Econometrics 6, 1977; the share: Kumbhakar, Parmeter & Tsionas, Journal of Econometrics 172, 2013).
W = walkers, R = runs, P = parameters of the law, S = all that is unknown: P and log spread, log2 ratio, kind, share.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_ndtr

from studies.laws.minimum import FEW_STARTS, Problem, minimum
from studies.laws.points import Floats

WALKERS = 200
GUESSES = 4_000
"""Places tried for the walkers to begin at, the best of which they do."""
DIFFERENCES = 0.5
"""Share of the steps by a difference of two walkers."""
SETTLED = 250
"""Steps until the walkers have forgotten where they began,"""
APART = 50
"""and from one set of laws that is taken from them to the next."""
RUNS_MOST = 400
"""Of more runs every second, third or so is enough to tell noise from shortfalls."""
RATIOS = (-5.0, -1.5, 0.0, 2.0, 7.0)
"""Edges in log2(scale of the shortfall / noise): too little to matter, little, hardly told from noise, plain."""
RATIO_CHANCES = (0.3, 0.1, 0.38, 0.22)
"""Beforehand. What is hardly told from noise is given much: else its shift of the law is held for noise too often."""
SOME_AT_BEST = 0.06
"""Chance beforehand that some runs have no shortfall while others do; their share is then anything up to 0.95."""
SPREAD_RANGE = 5.0
"""In nats, to either side of the scatter of all runs about their law."""
LEAST_SPREAD = 1e-12


def drawn_laws(problem: Problem, count: int, generator: np.random.Generator) -> Floats:
    """Laws (count, P), in a fit's coordinates, each as often as it is likely given all runs of `problem`.

    The chance beforehand is flat in the law's logarithms at the runs (Jeffreys), flat in log spread, and for shortfalls
    as the constants above say. The draws are by an ensemble of walkers (Goodman & Weare, Communications in Applied
    Mathematics and Computational Science 5, 2010; ter Braak, Statistics and Computing 16, 2006): after SETTLED steps
    percentiles were those of 2,000 steps but for the scatter of 200 walkers.
    """
    every = max(1, -(-problem.log_error_KR.shape[1] // RUNS_MOST))
    log_error_1R = problem.log_error_KR[:, ::every]
    weight_1R = np.ones(log_error_1R.shape)
    seen = replace(
        problem, log_input_IR=problem.log_input_IR[:, ::every], log_error_KR=log_error_1R, weight_KR=weight_1R,
        delta=np.inf,
    )  # fmt: skip
    theta_P = minimum(seen, kept=FEW_STARTS).theta[0]
    log_R, slope_PR = (part[0] for part in seen.form.logs(theta_P[None], seen.log_input_IR, seen.scale))
    spread = max(float(np.sqrt(np.mean((log_error_1R[0] - log_R) ** 2))), LEAST_SPREAD)
    low_P, high_P = (side[0] for side in seen.form.box(seen.scale, np.exp(log_error_1R.max(axis=1))))
    low_S = np.concatenate([low_P, [np.log(spread) - SPREAD_RANGE, RATIOS[0], 0.0, 0.0]])
    high_S = np.concatenate([high_P, [np.log(spread) + SPREAD_RANGE, RATIOS[-1], 1.0, 1.0]])

    def log_chance(state_KS: Floats) -> Floats:
        inside = np.all((state_KS >= low_S) & (state_KS <= high_S), axis=1)
        chance_K = np.full(len(state_KS), -np.inf)
        chance_K[inside] = _log_chance(seen, state_KS[inside])
        return np.where(np.isnan(chance_K), -np.inf, chance_K)

    tried_KS = _guessed(theta_P, slope_PR, spread, low_S, high_S, generator)
    state_WS = tried_KS[np.argsort(-log_chance(tried_KS), kind="stable")[:WALKERS]]
    taken: list[Floats] = []
    for start in range(0, count, WALKERS):
        state_WS = walked(log_chance, state_WS, APART if start else SETTLED, generator)
        taken.append(state_WS[:, : len(theta_P)])
    return np.concatenate(taken)[:count]


def _guessed(
    theta_P: Floats, slope_PR: Floats, spread: float, low_S: Floats, high_S: Floats, generator: np.random.Generator
) -> Floats:
    """Places to begin at (GUESSES, S): any shortfalls, and laws brought down from the middle of the runs for them."""
    parameters = len(theta_P)
    state_KS = low_S + (high_S - low_S) * generator.random((GUESSES, len(low_S)))
    state_KS[:, parameters] = np.log(spread) + 0.2 * generator.normal(size=GUESSES)
    pairs_PP = np.einsum("pr,qr->pq", slope_PR, slope_PR)
    down_P = np.linalg.lstsq(pairs_PP, slope_PR.sum(axis=1), rcond=1e-12)[0]
    reach_P = 0.1 * spread / np.maximum(np.sqrt((slope_PR**2).sum(axis=1)), 1e-290)
    low_P, high_P = low_S[:parameters], high_S[:parameters]
    reach_P = np.minimum(reach_P, 0.05 * (high_P - low_P))
    theta_KP = theta_P - spread * generator.random((GUESSES, 1)) * down_P
    theta_KP += reach_P * generator.normal(size=theta_KP.shape)
    # Folded back at the bounds: walkers that all begin at one would never leave it.
    theta_KP = low_P + np.abs(theta_KP - low_P)
    state_KS[:, :parameters] = np.clip(high_P - np.abs(high_P - theta_KP), low_P, high_P)
    return state_KS


def _log_chance(problem: Problem, state_KS: Floats) -> Floats:
    """Logarithm of the chance of the unknowns given the runs, up to a constant, (K,)."""
    parameters = state_KS.shape[1] - 4
    log_KR, slope_KPR = problem.form.logs(state_KS[:, :parameters], problem.log_input_IR, problem.scale)
    log_spread_K, log2_ratio_K, kind_K, share_K = state_KS[:, parameters:].T
    some_K = share_K > 0.5
    none_K = np.where(some_K, 0.95 * (2 * share_K - 1), 0.0)
    density_KR = log_density(
        problem.log_error_KR - log_KR, np.exp(log_spread_K), 2.0**log2_ratio_K, kind_K < 0.5, none_K
    )
    band_K = np.clip(np.searchsorted(RATIOS, log2_ratio_K) - 1, 0, len(RATIO_CHANCES) - 1)
    before_K = np.log(np.array(RATIO_CHANCES) / np.diff(RATIOS))[band_K]
    before_K += np.where(some_K, np.log(SOME_AT_BEST), np.log(1 - SOME_AT_BEST))
    return np.asarray(density_KR.sum(axis=1) + before_K + 0.5 * _log_volume(slope_KPR))


def log_density(
    deviation_KR: Floats, spread_K: Floats, ratio_K: Floats, exponential_K: NDArray[np.bool_], none_K: Floats
) -> Floats:
    """Logarithm of the density of noise + shortfall at each deviation from the law, (K, R).

    spread: standard deviation of their sum where there is a shortfall. ratio: the shortfall's scale (the mean of an
    exponential one; of a half-normal one the standard deviation of the normal) over the noise's, above zero. none: the
    share of runs without a shortfall, below 1.
    """
    exponential_K1, none_K1 = exponential_K[:, None], none_K[:, None]
    ratio_K1 = ratio_K[:, None]
    noise_K1 = spread_K[:, None] / np.sqrt(1 + ratio_K1**2 * np.where(exponential_K1, 1.0, 1 - 2 / np.pi))
    noises_KR = deviation_KR / noise_K1
    both_K1 = np.sqrt(1 + ratio_K1**2)
    above_KR = log_ndtr(np.where(exponential_K1, noises_KR - 1 / ratio_K1, noises_KR * ratio_K1 / both_K1))
    log_normal = -0.5 * np.log(2 * np.pi)
    short_KR = above_KR + np.where(
        exponential_K1,
        0.5 / ratio_K1**2 - noises_KR / ratio_K1 - np.log(ratio_K1),
        np.log(2) + log_normal - 0.5 * (noises_KR / both_K1) ** 2 - np.log(both_K1),
    )
    best_KR = log_normal - 0.5 * noises_KR**2
    with np.errstate(divide="ignore"):
        mixed_KR = np.logaddexp(np.log(none_K1) + best_KR, np.log1p(-none_K1) + short_KR)
    return np.asarray(mixed_KR - np.log(noise_K1))


def _log_volume(slope_KPR: Floats) -> Floats:
    """log determinant of the slopes' products, (K,): how many laws that differ at the runs a step of theta makes."""
    length_KP = np.sqrt(np.maximum((slope_KPR**2).sum(axis=2), 1e-300))
    unit_KPR = slope_KPR / length_KP[:, :, None]
    product_KPP = np.einsum("kpr,kqr->kpq", unit_KPR, unit_KPR) + 1e-12 * np.eye(slope_KPR.shape[1])
    sign_K, log_K = np.linalg.slogdet(product_KPP)
    return np.asarray(np.where(sign_K > 0, log_K, -80.0) + 2 * np.log(length_KP).sum(axis=1))


def walked(
    log_chance: Callable[[Floats], Floats], state_WS: Floats, steps: int, generator: np.random.Generator
) -> Floats:
    """Where walkers (W, S) are after so many steps: in the long run as often at a place as its chance says.

    Half of them at a time, all either go along the line through one of the others, by a factor of 1/2 to 2 of the
    distance, or by the difference of two others. W is even and at least 4.
    """
    state_WS = state_WS.copy()
    value_W = log_chance(state_WS)
    half, unknowns = len(state_WS) // 2, state_WS.shape[1]
    for _ in range(steps):
        order = generator.permutation(len(state_WS))
        for moved, still in ((order[:half], order[half:]), (order[half:], order[:half])):
            first = generator.integers(0, half, half)
            one, other = state_WS[still[first]], state_WS[still[(first + generator.integers(1, half, half)) % half]]
            factor = (1 + generator.random(half)) ** 2 / 2
            gain = (unknowns - 1) * np.log(factor)
            tried = one + factor[:, None] * (state_WS[moved] - one)
            if generator.random() < DIFFERENCES:
                length = np.exp(0.3 * generator.normal(size=half)) * 2.38 / np.sqrt(2 * unknowns)
                tried, gain = state_WS[moved] + length[:, None] * (one - other), np.zeros(half)
            value = log_chance(tried)
            goes = gain + value > value_W[moved] + np.log(generator.random(half))
            state_WS[moved[goes]], value_W[moved[goes]] = tried[goes], value[goes]
    return state_WS
