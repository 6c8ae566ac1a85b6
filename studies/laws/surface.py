"""The surface L(N, D), a law of size and data, and its variant that knows repeats; forms only, no fitting.

N = parameters, D = images seen, U = distinct images.
Inside a fit (studies/laws/forms.py): K = fits at once, R = points, I = inputs, P = parameters, G = starts of one fit.
"""

import numpy as np

from studies.laws.forms import EXPONENT_MOST, LOG_MARGIN, Form, Scale
from studies.laws.points import Floats
from studies.laws.projection import projected

WORTH_LEAST, WORTH_MOST = 1e-3, 1e5
"""Where R_D is sought: below, repeats are worth nothing at all; above, as much as fresh images for thousands of
passes."""


def repeats_worth(passes: Floats, worth: Floats) -> tuple[Floats, Floats]:
    """log(D'/D) after `passes` = D/U >= 1 over the data, and its slope by log `worth` (R_D).

    D' = U + U R_D (1 - exp(-(passes - 1) / R_D)): what repeats are worth in fresh images.
    """
    gone = np.minimum((passes - 1) / worth, 700.0)
    fresh = 1 - worth * np.expm1(-gone)
    slope = worth * (-np.expm1(-gone) - gone * np.exp(-gone)) / fresh
    return np.log(fresh / passes), slope


def _surface_box(scale: Scale, least_K: Floats) -> tuple[Floats, Floats]:
    """E, log of the term of size at the least size, alpha, log of the term of data at the least data, beta."""
    term_low, term_high = scale.log_least - LOG_MARGIN, scale.log_most + LOG_MARGIN
    low_KP = np.tile([0.0, term_low, 0.0, term_low, 0.0], (len(least_K), 1))
    high_KP = np.tile([0.0, term_high, EXPONENT_MOST, term_high, EXPONENT_MOST], (len(least_K), 1))
    high_KP[:, 0] = least_K
    return low_KP, high_KP


def _surface_logs(theta_KP: Floats, x_IR: Floats, scale: Scale) -> tuple[Floats, Floats]:
    return _logs_of(theta_KP, x_IR[0], x_IR[1])


def _logs_of(theta_KP: Floats, size_R: Floats, data: Floats) -> tuple[Floats, Floats]:
    """The log of E + A N^-alpha + B D^-beta and its slopes (K, 5, R), from log N (R,) and log D (R,) or (K, R)."""
    floor_K1, size_K1, alpha_K1, data_K1, beta_K1 = theta_KP.T[:, :, None]
    size_KR = _exp(size_K1 - alpha_K1 * size_R)
    data_KR = _exp(data_K1 - beta_K1 * data)
    value_KR = floor_K1 + size_KR + data_KR
    slope_KPR = np.empty((len(theta_KP), 5, len(size_R)))
    slope_KPR[:, 0] = 1 / value_KR
    slope_KPR[:, 1] = size_KR / value_KR
    slope_KPR[:, 2] = -slope_KPR[:, 1] * size_R
    slope_KPR[:, 3] = data_KR / value_KR
    slope_KPR[:, 4] = -slope_KPR[:, 3] * data
    return np.log(value_KR), slope_KPR


def _surface_starts(log_error_KR: Floats, weight_KR: Floats, x_IR: Floats, scale: Scale) -> Floats:
    exponents = np.concatenate([[0.0], np.geomspace(0.03, EXPONENT_MOST, 12)])
    alpha_G, beta_G = (side.ravel() for side in np.meshgrid(exponents, exponents))
    feature_GQR = np.stack(
        [
            np.ones((len(alpha_G), x_IR.shape[1])),
            np.exp(-alpha_G[:, None] * x_IR[0]),
            np.exp(-beta_G[:, None] * x_IR[1]),
        ],
        axis=1,
    )
    return projected(
        log_error_KR,
        weight_KR,
        feature_GQR,
        lambda amount_KGQ: _composed(amount_KGQ, alpha_G, beta_G),
        floor=True,
    )


def _surface_outside(theta_KP: Floats, scale: Scale) -> Floats:
    log_unit = np.log(scale.input_unit)
    outside_KP = theta_KP.copy()
    outside_KP[:, 0] = theta_KP[:, 0] * scale.error_unit
    outside_KP[:, 1] = _exp(np.log(scale.error_unit) + theta_KP[:, 1] + theta_KP[:, 2] * log_unit[0])
    outside_KP[:, 3] = _exp(np.log(scale.error_unit) + theta_KP[:, 3] + theta_KP[:, 4] * log_unit[1])
    return outside_KP


def _surface_log_at(parameters_KP: Floats, input_IM: Floats) -> Floats:
    theta_KP = parameters_KP.copy()
    theta_KP[:, [1, 3]] = _log(parameters_KP[:, [1, 3]])
    return _logs_of(theta_KP, *np.log(input_IM))[0]


def _repeated_box(scale: Scale, least_K: Floats) -> tuple[Floats, Floats]:
    """As of the surface, and log R_D."""
    low_KP, high_KP = _surface_box(scale, least_K)
    ones_K = np.ones(len(least_K))
    return (
        np.column_stack([low_KP, np.log(WORTH_LEAST) * ones_K]),
        np.column_stack([high_KP, np.log(WORTH_MOST) * ones_K]),
    )


def _repeated_logs(theta_KP: Floats, x_IR: Floats, scale: Scale) -> tuple[Floats, Floats]:
    shift_KR, by_worth_KR = repeats_worth(_passes(x_IR, np.log(scale.input_unit)), _exp(theta_KP[:, 5:]))
    log_KR, slope_KPR = _logs_of(theta_KP[:, :5], x_IR[0], x_IR[1] + shift_KR)
    by_log_worth_K1R = -slope_KPR[:, 3:4] * theta_KP[:, 4, None, None] * by_worth_KR[:, None]
    return log_KR, np.concatenate([slope_KPR, by_log_worth_K1R], axis=1)


def _repeated_starts(log_error_KR: Floats, weight_KR: Floats, x_IR: Floats, scale: Scale) -> Floats:
    exponents = np.concatenate([[0.0], np.geomspace(0.05, EXPONENT_MOST, 6)])
    worths = np.geomspace(0.03, 1000.0, 8)
    alpha_G, beta_G, worth_G = (side.ravel() for side in np.meshgrid(exponents, exponents, worths))
    shift_GR, _ = repeats_worth(_passes(x_IR, np.log(scale.input_unit)), worth_G[:, None])
    feature_GQR = np.ones((len(alpha_G), 3, x_IR.shape[1]))
    feature_GQR[:, 1] = np.exp(-alpha_G[:, None] * x_IR[0])
    feature_GQR[:, 2] = np.exp(-beta_G[:, None] * (x_IR[1] + shift_GR))

    def composed(amount_KGQ: Floats) -> Floats:
        surface_KGP = _composed(amount_KGQ, alpha_G, beta_G)
        log_worth_KG1 = np.broadcast_to(np.log(worth_G), surface_KGP.shape[:2])[..., None]
        return np.concatenate([surface_KGP, log_worth_KG1], axis=-1)

    return projected(log_error_KR, weight_KR, feature_GQR, composed, floor=True)


def _repeated_outside(theta_KP: Floats, scale: Scale) -> Floats:
    return np.column_stack([_surface_outside(theta_KP[:, :5], scale), _exp(theta_KP[:, 5])])


def _repeated_log_at(parameters_KP: Floats, input_IM: Floats) -> Floats:
    log_IM = np.log(input_IM)
    shift_KM, _ = repeats_worth(_passes(log_IM, np.zeros(3)), parameters_KP[:, 5:])
    theta_KP = parameters_KP[:, :5].copy()
    theta_KP[:, [1, 3]] = _log(parameters_KP[:, [1, 3]])
    return _logs_of(theta_KP, log_IM[0], log_IM[1] + shift_KM)[0]


def _passes(x_IR: Floats, log_unit_I: Floats) -> Floats:
    """D/U, at least 1: whoever saw fewer images than there are saw each once, and U is what was seen."""
    return np.asarray(np.exp(np.maximum(x_IR[1] + log_unit_I[1] - x_IR[2] - log_unit_I[2], 0.0)))


def _composed(amount_KGQ: Floats, alpha_G: Floats, beta_G: Floats) -> Floats:
    columns = (amount_KGQ[..., 0], _log(amount_KGQ[..., 1]), alpha_G, _log(amount_KGQ[..., 2]), beta_G)
    return np.stack(np.broadcast_arrays(*columns), axis=-1)


def _exp(values: Floats) -> Floats:
    return np.asarray(np.exp(np.clip(values, -700.0, 700.0)))


def _log(values: Floats) -> Floats:
    return np.asarray(np.log(np.maximum(values, 1e-300)))


SURFACE = Form(
    "surface", ("E", "A", "alpha", "B", "beta"), ("parameters", "images"), False, None, "E",
    _surface_box, _surface_logs, _surface_starts, _surface_outside, _surface_log_at,
)  # fmt: skip
"""L = E + A N^-alpha + B D^-beta; 0 <= E <= min(L), exponents >= 0 (arXiv:2203.15556, approach 3).

Over 200 simulated studies of 5 x 5 configurations with noise of 2 % the 95 % intervals of its parameters cover in 92 to
94 %, that of the law at the largest size and data in 94 %; of the variant below in 92 to 96 % and 96 %.
"""
REPEATED_SURFACE = Form(
    "repeated-surface", (*SURFACE.parameters, "R_D"), (*SURFACE.inputs, "data_rows"), False, "surface", "E",
    _repeated_box, _repeated_logs, _repeated_starts, _repeated_outside, _repeated_log_at,
)  # fmt: skip
"""The same with D' for D (arXiv:2305.16264, equations 5 and 6): D' = U + U R_D (1 - exp(-(D/U - 1) / R_D)).

That paper discounts N beyond the best size for U in the same way. Here only D is: what the best size for U is depends
on what a FLOP buys, which is no part of a law of the error; a second decay is not identified by a study of tens of
runs; and so R_D without end is the surface itself.
"""
