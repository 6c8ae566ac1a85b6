"""Intervals of a law by resampling configurations: the replicates, their calibration, and the ends of an interval.

B = replicates, R = points, P = parameters, K = fits at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from studies.frontiers import frontier
from studies.laws.luck import Luck
from studies.laws.minimum import Problem, free, minimum, slopes
from studies.laws.points import Floats
from studies.laws.shortfall import drawn_laws

LEVEL = 0.95
KEPT_STARTS = 3
LEVERAGE_MOST = 0.95
LEVERAGE_POWER = 0.75
"""Deviations are divided by (1 - leverage) to this power: 1/2 restores their variance, 1 is what leaving out does.

With 1/2 intervals of 3 parameters from 12 points held the truth in 93.5 % of 500 studies, with 3/4 in 94.5 %.
"""
BEST_STRETCH = 1.15
"""Of the replicates of a frontier about their median: with 1 intervals of 20 points held in 84 to 89 % of studies."""
LUCK_STRETCH = 1.1
"""The same where seeds say what is luck: with 1 they held in 88 to 96 %."""
ELEMENTS_AT_ONCE = 2**14
"""Points times replicates that are fitted as one array: more do not fit the processor's cache,"""
FEWEST_AT_ONCE = 8
"""and fewer replicates spend their time in Python."""
DRAWS_MOST = 20
"""So often errors are drawn about one law before it is given up as one whose frontier carries no fit."""
PLACES_MOST = 100
"""Of configurations where what a fit is off the law is looked at."""
FEWEST_REPLICATES = 40
"""Below this a 95 % interval has no ends to read off."""


@dataclass(frozen=True)
class Replicates:
    """theta (B, P) in a fit's coordinates; which ended at a bound of the search alone, (B, P) each; rejected draws.

    best_stuck (P,): which coordinates of the fit itself ended there.
    """

    theta: Floats
    stuck_low: NDArray[np.bool_]
    stuck_high: NDArray[np.bool_]
    rejected: int
    best_stuck: NDArray[np.bool_]


def inflation(used: int, parameters: int) -> float:
    """What log residuals are multiplied by before they are resampled: Student's 97.5 % point over the normal's.

    used: points of the fit. Where there are no more than parameters there is no such factor, and no interval: infinity.
    """
    from scipy.special import stdtrit

    return float(stdtrit(used - parameters, 0.5 + LEVEL / 2) / 1.959963984540054) if used > parameters else np.inf


def resampled(
    problem: Problem, theta_P: Floats, cost_R: Floats, *, on_frontier: bool, luck: Luck | None = None,
    replicates: int, seed: int,
) -> Replicates:  # fmt: skip
    """Replicates of one fit, of minimum theta_P; problem has weight 1 for each point used, 0 for others.

    Each configuration keeps its inputs and takes the deviation of a configuration drawn with replacement. All points:
    the deviations are from the fitted law, first divided by (1 - leverage) to a power, which is what the fit took from
    them, and centred; they are multiplied by `inflation`, and delta with them. On the frontier: `_without_luck` where
    `luck` is known, and else `_at_their_best`. In all three, plain percentiles of anything computed from the replicates
    are its interval.

    Measured over 250 to 600 simulated studies each, costs over four decades, all points. In how many of 100 the 95 %
    interval held the truth, least to most of the parameters and the law at the largest cost (form, points, noise):
    power 12, 3 %: 95.4-95.8; 40, 10 %: 95.3-96.3. Saturating 12, 3 %: 93.8-95.2; 12, 10 %: 96.0-97.3; 20, 3 %:
    93.5-95.2; 20, 10 %: 94.8-95.5; 40, 3 %: 94.5-95.2. Doubly saturating 12, 1 %: 96.0-97.3; 20, 3 %: 96.0-97.3;
    40, 3 %: 95.7-96.3. Configurations themselves drawn with replacement and plain percentiles: saturating 12, 3 %,
    95-96 for the parameters but 90 for the law; power 92 and 90; Student's point only moved both up (97-99 and 93),
    since a draw loses the ends of the range that the law rests on; random signs of each deviation held 84-93.
    """
    used_R = problem.weight_KR[0] > 0
    wider = inflation(int(used_R.sum()), len(theta_P))
    if not np.isfinite(wider) or replicates < FEWEST_REPLICATES:
        return _none(problem, theta_P, 0)
    generator = np.random.Generator(np.random.PCG64(seed))
    if on_frontier and luck is not None:
        return _without_luck(problem, theta_P, cost_R, luck, replicates, generator)
    if on_frontier:
        return _at_their_best(problem, theta_P, cost_R, replicates, generator)
    log_R, deviation_R = _deviations(problem, theta_P)
    deviation_R *= wider
    error_BR = log_R + deviation_R[generator.integers(0, len(log_R), size=(replicates, len(log_R)))]
    drawn = replace(problem, log_error_KR=error_BR, weight_KR=np.ones(error_BR.shape), delta=wider * problem.delta)
    theta_BP = fitted_in_parts(drawn, np.tile(theta_P, (replicates, 1, 1)))
    return Replicates(theta_BP, *_stuck(drawn, theta_BP), 0, _best_stuck(problem, theta_P))


def _deviations(problem: Problem, theta_P: Floats) -> tuple[Floats, Floats]:
    """The log law and what its points deviate from it, (R,) each, with what the fit took of it given back; centred."""
    log_R, slope_PR = (answer[0] for answer in problem.form.logs(theta_P[None], problem.log_input_IR, problem.scale))
    left_R = 1 - np.minimum(leverage(problem, theta_P, slope_PR), LEVERAGE_MOST)
    deviation_R = (problem.log_error_KR[0] - log_R) / left_R**LEVERAGE_POWER
    return log_R, deviation_R - deviation_R.mean()


def _without_luck(
    problem: Problem, theta_P: Floats, cost_R: Floats, luck: Luck, replicates: int, generator: np.random.Generator
) -> Replicates:
    """Replicates of a fit to a frontier of which seeds say how lucky it may be.

    The law that is meant is that of frontiers of as many configurations whose luck is averaged away. About the law of
    all points each configuration takes the deviation of a drawn one, less the luck that is part of it: shrunk to the
    variance that is left. The frontier of these is fitted, and that of the same with luck anew, of a variance that
    explains the seeds. What the second is off the middle of the first, in logarithms at every configuration, is taken
    off the fit.

    In 200 simulated studies of each of ten kinds the 95 % interval held that law in 91.5 to 99 % (once 100): the table
    is in docs/answers.md. Where nothing differs but by luck that is the law itself. Another way, to hold the noise of
    `_at_their_best` to the seeds, held the law of runs at their best as often, but where configurations differ to both
    sides it held neither that law (7 to 52 %) nor the frontier's (45 to 92 %).
    """
    every = replace(problem, weight_KR=np.ones(problem.weight_KR.shape), delta=np.inf)
    of_all_P = minimum(every).theta[0]
    log_R, deviation_R = _deviations(every, of_all_P)
    variance = float(np.mean(deviation_R**2))
    luck_B1 = luck.spread**2 * luck.freedom / generator.chisquare(luck.freedom, size=(replicates, 1))
    luck_B1 = np.minimum(luck_B1, variance)  # there is no more luck than deviations
    own_B1 = np.sqrt(1 - luck_B1 / variance) if variance > 0 else np.ones_like(luck_B1)

    def draw(rows: NDArray[np.intp]) -> Floats:
        own_KR = log_R + own_B1[rows] * deviation_R[generator.integers(0, len(cost_R), size=(len(rows), len(cost_R)))]
        return np.stack([own_KR, own_KR + np.sqrt(luck_B1[rows]) * generator.normal(size=own_KR.shape)])

    (own_BR, lucky_BR), (own_led_BR, lucky_led_BR), rejected = _drawn(problem, cost_R, replicates, draw)
    kept_B = lucky_led_BR.any(axis=1)
    if kept_B.sum() < FEWEST_REPLICATES:
        return _none(problem, theta_P, rejected)
    start_B1P = np.tile(of_all_P, (int(kept_B.sum()), 1, 1))
    own_BM = _fits(problem, own_BR[kept_B], own_led_BR[kept_B], start_B1P)
    lucky_BM = _fits(problem, lucky_BR[kept_B], lucky_led_BR[kept_B], start_B1P)
    return _taken_off(problem, theta_P, lucky_BM - np.median(own_BM, axis=0), LUCK_STRETCH, start_B1P, rejected)


def _at_their_best(
    problem: Problem, theta_P: Floats, cost_R: Floats, replicates: int, generator: np.random.Generator
) -> Replicates:
    """Replicates of a fit to a frontier of which nobody knows how lucky it is: the law is that of runs at their best.

    A frontier picks lucky runs, and keeps runs that fall short where there is no better. So each replicate begins with
    a law that may be the true one (`shortfall.drawn_laws`), gives the configurations the deviations from it that drawn
    ones have, takes the frontier of these, and fits it as the points were fitted. What that fit is off the law it began
    with, in logarithms at every configuration, is stretched by BEST_STRETCH about its median, taken off the fitted
    law, and the form fitted to what remains.

    In 200 simulated studies of each of eleven kinds the 95 % interval held the law in 91.5 to 98.5 (once 100), and the
    parameters in 88.5 to 98: docs/answers.md has the table. Configurations drawn with replacement and plain percentiles
    held the law at the largest cost in 58 (power, 40 points, noise of 10 %), 73 (saturating 60, 3 %, runs falling short
    half-normally by 30 %) and 90 (saturating 40, 3 %), of 60 studies each.
    """
    law_BP = drawn_laws(problem, replicates, generator)
    law_BR = problem.form.logs(law_BP, problem.log_input_IR, problem.scale)[0]
    deviation_BR = problem.log_error_KR - law_BR

    def draw(rows: NDArray[np.intp]) -> Floats:
        drawn_KR = generator.integers(0, len(cost_R), size=(len(rows), len(cost_R)))
        return (law_BR[rows] + np.take_along_axis(deviation_BR[rows], drawn_KR, axis=1))[None]

    (error_BR,), (led_BR,), rejected = _drawn(problem, cost_R, len(law_BR), draw)
    kept_B = led_BR.any(axis=1)
    if kept_B.sum() < FEWEST_REPLICATES:
        return _none(problem, theta_P, rejected)
    law_BP = law_BP[kept_B]
    fitted_BM = _fits(problem, error_BR[kept_B], led_BR[kept_B], law_BP[:, None])
    true_BM = problem.form.logs(law_BP, _places(problem), problem.scale)[0]
    return _taken_off(problem, theta_P, fitted_BM - true_BM, BEST_STRETCH, law_BP[:, None], rejected)


def _fits(problem: Problem, error_BR: Floats, weight_BR: Floats, start_BSP: Floats) -> Floats:
    """The log laws, at the places (B, M), that are fitted to the log errors (B, R) of which these lead."""
    theta_BP = fitted_in_parts(replace(problem, log_error_KR=error_BR, weight_KR=weight_BR), start_BSP)
    return problem.form.logs(theta_BP, _places(problem), problem.scale)[0]


def fitted_in_parts(problem: Problem, start_BSP: Floats) -> Floats:
    """Where the fits of replicates end, (B, P): some at a time, on the points that these use.

    Of thousands of runs most never lead, and of those that do most lead in few replicates: the others would only take
    time and memory.
    """
    ever = int(problem.weight_KR.any(axis=0).sum())
    at_once = max(FEWEST_AT_ONCE, ELEMENTS_AT_ONCE // max(ever, 1))
    ends_KP = []
    for first in range(0, len(start_BSP), at_once):
        rows = slice(first, first + at_once)
        used_R = problem.weight_KR[rows].any(axis=0)
        part = replace(
            problem, log_input_IR=problem.log_input_IR[:, used_R], log_error_KR=problem.log_error_KR[rows][:, used_R],
            weight_KR=problem.weight_KR[rows][:, used_R],
        )  # fmt: skip
        ends_KP.append(minimum(part, kept=KEPT_STARTS, extra_KSP=start_BSP[rows]).theta)
    return np.concatenate(ends_KP)


def _places(problem: Problem) -> Floats:
    """Where it is looked at what a fit is off the law: the inputs of the configurations, or of some of many, (I, M)."""
    return problem.log_input_IR[:, :: -(-problem.log_input_IR.shape[1] // PLACES_MOST)]


def _taken_off(
    problem: Problem, theta_P: Floats, off_BM: Floats, stretch: float, start_BSP: Floats, rejected: int
) -> Replicates:
    """Replicates of a fit to a frontier: the form through the fit less what such fits are off the law at the places.

    What they are off is stretched about its median, since fits in a study differ more than those of replicates.
    """
    places_IM = _places(problem)
    fit_M = problem.form.logs(theta_P[None], places_IM, problem.scale)[0][0]
    middle_M = np.median(off_BM, axis=0)
    law_BM = fit_M - middle_M - stretch * (off_BM - middle_M)
    left = replace(problem, log_input_IR=places_IM, log_error_KR=law_BM, weight_KR=np.ones(law_BM.shape), delta=np.inf)
    theta_BP = fitted_in_parts(left, start_BSP)
    return Replicates(theta_BP, *_stuck(left, theta_BP), rejected, _best_stuck(problem, theta_P))


def _stuck(problem: Problem, theta_KP: Floats) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which coordinates are at a low or high bound that is only where the search ends, not the form's own; (K, P)."""
    low_KP, high_KP = problem.box()
    form = problem.form
    own_P = np.array([name == form.floor or name in form.closed for name in form.parameters])
    return (theta_KP <= low_KP) & ~own_P & (low_KP != 0), (theta_KP >= high_KP) & ~own_P


def _best_stuck(problem: Problem, theta_P: Floats) -> NDArray[np.bool_]:
    low_1P, high_1P = _stuck(problem, theta_P[None])
    return np.asarray((low_1P | high_1P)[0])


def leverage(problem: Problem, theta_P: Floats, slope_PR: Floats) -> Floats:
    """How much of each point's deviation the fit takes up, (R,), 0 to 1; coordinates at a bound take up nothing."""
    low, high = problem.box()
    may_move = free(theta_P[None], slopes(problem, theta_P[None])[1], low, high)[0]
    moved_FR = slope_PR[may_move]
    length_F1 = np.sqrt((moved_FR**2).sum(axis=1, keepdims=True))
    _, size, direction = np.linalg.svd(moved_FR / np.where(length_F1 > 0, length_F1, 1.0), full_matrices=False)
    return np.asarray((direction[size > 1e-9] ** 2).sum(axis=0))


def _none(problem: Problem, theta_P: Floats, rejected: int) -> Replicates:
    empty = np.zeros((0, len(theta_P)))
    return Replicates(empty, empty.astype(bool), empty.astype(bool), rejected, _best_stuck(problem, theta_P))


def _drawn(
    problem: Problem, cost_R: Floats, count: int, draw: Callable[[NDArray[np.intp]], Floats]
) -> tuple[Floats, Floats, int]:
    """Log errors (E, B, R), which of each row are on its frontier (E, B, R), and how many rows were rejected.

    draw: E log errors of these replicates, (E, K, R). Errors whose frontier has fewer different inputs than the form
    has parameters say nothing and are drawn anew, up to DRAWS_MOST times; weights of zero are left where even that does
    not help.
    """
    _, kind_R = np.unique(problem.log_input_IR, axis=1, return_inverse=True)
    waiting, rejected = np.arange(count), 0
    error_EBR = draw(waiting)
    weight_EBR = np.zeros(error_EBR.shape)
    for again in range(DRAWS_MOST):
        if again:
            error_EBR[:, waiting] = draw(waiting)
        on_EKR = np.zeros((len(error_EBR), len(waiting), len(cost_R)), dtype=bool)
        for on_KR, error_KR in zip(on_EKR, error_EBR[:, waiting], strict=True):
            for on_R, error_R in zip(on_KR, error_KR, strict=True):
                on_R[frontier(cost_R, -error_R)] = True
        few = len(problem.form.parameters)
        enough_K = np.all([_different(on_KR, kind_R.ravel()) >= few for on_KR in on_EKR], axis=0)
        weight_EBR[:, waiting[enough_K]] = on_EKR[:, enough_K]
        waiting = waiting[~enough_K]
        rejected += len(waiting)
        if not len(waiting):
            break
    return error_EBR, weight_EBR, rejected


def _different(used_BR: NDArray[np.bool_], kind_R: NDArray[np.intp]) -> NDArray[np.intp]:
    """How many different inputs each replicate holds."""
    seen_BK = np.zeros((len(used_BR), int(kind_R.max()) + 1), dtype=bool)
    for row, kind in enumerate(kind_R):
        seen_BK[:, kind] |= used_BR[:, row]
    return np.asarray(seen_BK.sum(axis=1))


def ends(
    value_B: Floats,
    best: float,
    stuck_B: tuple[NDArray[np.bool_], NDArray[np.bool_]] | None = None,
    level: float = LEVEL,
    at_bound: bool = False,
) -> tuple[float | None, float | None]:
    """Both ends of the interval of a quantity, from its replicates; it never leaves out the estimate itself, `best`.

    stuck_B: which replicates ended at a bound of the search, low and high; an end that they decide is open: None. So is
    the estimate's own side where `at_bound` says that it ended there itself.
    """
    if not len(value_B):
        return None, None
    outside = (1 - level) / 2
    low, high = (float(end) for end in np.quantile(value_B, (outside, 1 - outside)))
    answers: list[float | None] = [min(low, best), max(high, best)]
    if at_bound:
        answers[1 if best >= np.median(value_B) else 0] = None
    if stuck_B is not None:
        stuck = stuck_B[0] | stuck_B[1]
        middle = np.median(value_B)
        if np.mean(stuck & (value_B <= middle)) > outside:
            answers[0] = None
        if np.mean(stuck & (value_B >= middle)) > outside:
            answers[1] = None
    return answers[0], answers[1]
