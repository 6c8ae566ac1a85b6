"""M4, a learning curve from chance level down to a floor; the form only, no fitting.

(error - eps_inf) / (eps_0 - error)^alpha = beta x^c, x = images seen, c <= 0 (Alabdulmohsin, Neyshabur and Zhai 2022,
arXiv:2209.06640). alpha = 0 is the saturating power law, cut off at eps_0.
Inside a fit (studies/laws/forms.py): K = fits at once, R = points, I = inputs, P = parameters, G = starts of one fit.
"""

import numpy as np

from studies.laws.forms import EXPONENT_MOST, LOG_MARGIN, Form, Scale
from studies.laws.points import Floats

ALPHA_MOST = 10.0
"""No alpha is sought beyond this: the published ones are below 2."""
ALPHA_LEAST = 1e-9
"""An alpha below this is computed as this: the law is then cut off at eps_0 to within rounding."""
CHANCE_LEAST = 0.9
"""Of the largest error, what eps_0 is at least: runs at chance level scatter, and the largest error lies above it."""
NEWTON_STEPS = 60


def excess(log_odds: Floats, alpha: Floats) -> tuple[Floats, Floats]:
    """Of each q the z with log t - alpha log(1 - t) = q for t = 1 / (1 + exp(-z)); and the slope dz / dq.

    t = (error - eps_inf) / (eps_0 - eps_inf). The left side rises in z, and its bend has one sign (that of alpha - 1),
    so from one side Newton's method comes nearer with every step and cannot leave: after one step it is on that side.
    """
    alpha = np.maximum(alpha, ALPHA_LEAST)
    z = np.where(log_odds < 0, log_odds, log_odds / alpha)
    for _ in range(NEWTON_STEPS):
        share, rest = _shares(z)
        missing = log_odds - np.minimum(z, 0) + rest - alpha * (np.maximum(z, 0) + rest)
        z = z + missing / (1 - share + alpha * share)
        if np.all(np.abs(missing) <= 4e-16 * (1 + np.abs(log_odds))):
            break
    share = _shares(z)[0]
    return z, 1 / (1 - share + alpha * share)


def _shares(z: Floats) -> tuple[Floats, Floats]:
    """t = 1 / (1 + exp(-z)) and log(1 + exp(-|z|)), without overflow: log t = min(z, 0) - that, log(1 - t) = -max(z, 0)
    - that."""
    small = np.exp(-np.abs(z))
    return np.where(z < 0, small, 1.0) / (1 + small), np.log1p(small)


def _box(scale: Scale, least_K: Floats) -> tuple[Floats, Floats]:
    """eps_inf, eps_0, alpha, log odds at the least x, -c.

    eps_0 is at most 1, or of losses above 1 ten times the largest error. (eps_0 - error)^alpha asks that the law stay
    below it, not every error: with the largest error as its least value, eps_0's interval held the truth in 5 % of 250
    studies with runs at chance level. Far below the largest error and with an alpha near 0 the law has a kink at every
    point: with a CHANCE_LEAST of 0.8 and noise of 30 % random starts beat 2 of 8 minima, with 0.9 none.
    """
    odds = LOG_MARGIN * (1 + ALPHA_MOST)
    chance = max(CHANCE_LEAST * np.exp(scale.log_most), np.exp(scale.log_least))
    low_KP = np.tile([0.0, chance, 0.0, -LOG_MARGIN, 0.0], (len(least_K), 1))
    high_KP = np.tile([0.0, _highest(scale), ALPHA_MOST, odds, EXPONENT_MOST], (len(least_K), 1))
    high_KP[:, 0] = np.minimum(least_K, low_KP[:, 1])
    return low_KP, high_KP


def _highest(scale: Scale) -> float:
    largest = float(np.exp(scale.log_most))
    # An error of 1 comes out as 1 but for the rounding of its logarithm.
    return max(largest, 1 / scale.error_unit) if largest * scale.error_unit <= 1 + 1e-12 else 10 * largest


def _logs(theta_KP: Floats, x_IR: Floats, scale: Scale) -> tuple[Floats, Floats]:
    floor_K1, chance_K1, alpha_K1, odds_K1, fall_K1 = theta_KP.T[:, :, None]
    z_KR, by_odds_KR = excess(odds_K1 - fall_K1 * x_IR[0], alpha_K1)
    share_KR, rest_KR = _shares(z_KR)
    other_KR = _shares(-z_KR)[0]
    width_K1 = chance_K1 - floor_K1
    value_KR = floor_K1 + width_K1 * share_KR
    # By the theorem of the implicit function: the slopes of z are those of q over dq / dz.
    by_z_KR = width_K1 * share_KR * other_KR * by_odds_KR
    slope_KPR = np.empty((len(theta_KP), 5, x_IR.shape[1]))
    slope_KPR[:, 0] = other_KR
    slope_KPR[:, 1] = share_KR
    slope_KPR[:, 2] = -by_z_KR * (np.maximum(z_KR, 0) + rest_KR)
    slope_KPR[:, 3] = by_z_KR
    slope_KPR[:, 4] = -by_z_KR * x_IR[0]
    return np.log(value_KR), slope_KPR / value_KR[:, None]


def _starts(log_error_KR: Floats, weight_KR: Floats, x_IR: Floats, scale: Scale) -> Floats:
    """For each floor, chance level and alpha of a grid, the straight line of the law's logarithm by least squares."""
    error_KR = np.exp(np.broadcast_to(log_error_KR, weight_KR.shape))
    least_K1 = np.where(weight_KR > 0, error_KR, np.inf).min(axis=1, keepdims=True)
    largest, highest = np.exp(scale.log_most), _highest(scale)
    above = largest + (highest - largest) * np.array([0.01, 0.15, 1.0]) + 1e-9
    chances = [*(largest * np.array([0.92, 0.96])), *above]
    grid = [
        (low, chance, alpha)
        for low in (0.0, 0.5, 0.8, 0.93, 0.995)
        for chance in chances
        for alpha in (0.0, 0.3, 0.7, 1.2, 2.5, 7.0)
    ]
    starts = []
    for low, chance, alpha in grid:
        floor_K1 = low * least_K1
        line_K2 = _line(error_KR, weight_KR, x_IR[0], floor_K1, chance, alpha)
        odds_K = line_K2[:, 0] + (alpha - 1) * np.log(np.maximum(chance - floor_K1, 1e-300))[:, 0]
        same_K2 = np.tile([chance, alpha], (len(weight_KR), 1))
        starts.append(np.column_stack([floor_K1, same_K2, odds_K, -line_K2[:, 1]]))
    return np.stack(starts, axis=1)


def _line(error_KR: Floats, weight_KR: Floats, x_R: Floats, floor_K1: Floats, chance: float, alpha: float) -> Floats:
    """Height at x = 0 and slope (K, 2) of log((error - floor) / (chance - error)^alpha) over x."""
    # A replicate's errors are spread wider than those measured: some may lie beyond chance level, or below the floor.
    above_KR = np.maximum(error_KR - floor_K1, 1e-9 * error_KR)
    below_KR = np.maximum(chance - error_KR, 1e-9 * error_KR)
    height_KR = np.log(above_KR) - alpha * np.log(below_KR)
    # By how much an error of 1 % moves the height: the heights next to floor and chance are the least certain.
    weight_KR = weight_KR / (error_KR / above_KR + alpha * error_KR / below_KR) ** 2
    total_K = weight_KR.sum(axis=1)
    mean_x_K = (weight_KR * x_R).sum(axis=1) / total_K
    mean_K = (weight_KR * height_KR).sum(axis=1) / total_K
    apart_KR = x_R - mean_x_K[:, None]
    spread_K = (weight_KR * apart_KR**2).sum(axis=1)
    slope_K = (weight_KR * apart_KR * height_KR).sum(axis=1) / np.maximum(spread_K, 1e-12 * total_K)
    return np.column_stack([mean_K - slope_K * mean_x_K, slope_K])


def _outside(theta_KP: Floats, scale: Scale) -> Floats:
    floor_K, chance_K = theta_KP[:, 0] * scale.error_unit, theta_KP[:, 1] * scale.error_unit
    alpha_K, odds_K, fall_K = theta_KP[:, 2:].T
    width_K = np.maximum(chance_K - floor_K, 1e-300)
    log_beta_K = odds_K + (1 - alpha_K) * np.log(width_K) + fall_K * np.log(scale.input_unit[0])
    beta_K = np.exp(np.clip(log_beta_K, -700.0, 700.0))
    return np.column_stack([floor_K, chance_K, alpha_K, beta_K, -fall_K])


def _log_at(parameters_KP: Floats, input_IM: Floats) -> Floats:
    floor_K1, chance_K1, alpha_K1, beta_K1, c_K1 = parameters_KP.T[:, :, None]
    width_K1 = np.maximum(chance_K1 - floor_K1, 1e-300)
    odds_KM = np.log(np.maximum(beta_K1, 1e-300)) + c_K1 * np.log(input_IM[0]) + (alpha_K1 - 1) * np.log(width_K1)
    return np.asarray(np.log(floor_K1 + width_K1 * _shares(excess(odds_KM, alpha_K1)[0])[0]))


M4 = Form(
    "m4", ("eps_inf", "eps_0", "alpha", "beta", "c"), ("images",), False, None, "eps_inf",
    _box, _logs, _starts, _outside, _log_at, ("eps_0",),
)  # fmt: skip
"""0 <= eps_inf <= min(error), CHANCE_LEAST max(error) <= eps_0 <= 1, alpha >= 0, c <= 0.

Of 300 simulated studies each of 24 sizes of data with noise of 2 %, the 95 % intervals held the truth in 93.0 to 97.0 %
where all errors are below chance level, and in 93.3 to 94.3 % where six runs are at it. In the first of these eps_0's
interval ends at 1 in 9 of 10 studies and cannot be missed there. The floor's own bound puts that too low with several
runs at it. Where the interval of a loss's eps_0 ends at ten times the largest loss, it is open.
"""
