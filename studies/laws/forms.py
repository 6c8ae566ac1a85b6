"""The forms of laws: what a Form is, and the three that are functions of cost alone; no fitting.

Shapes: K = fits at once, R = points, I = inputs, P = parameters, G = starts of one fit.
Sources: arXiv:2106.04560v2, Figure 2 and appendix: E = c + a (C + d)^-b.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from studies.laws.points import Floats
from studies.laws.projection import projected

EXPONENT_MOST = 10.0
"""No exponent is sought beyond this: an excess that falls by 10^10 in a decade is a step, not a law."""
LOG_MARGIN = 40.0
"""How far, in nats, an amplitude is sought beyond the errors' own range."""


@dataclass(frozen=True)
class Scale:
    """What the inside of a fit is measured in: set once by all usable points, the same for every replicate.

    input_unit (I,): the least of each input; span (I,): log(largest / least); error_unit: geometric mean of the errors;
    log_least, log_most: of error / error_unit.
    """

    input_unit: Floats
    span: Floats
    error_unit: float
    log_least: float
    log_most: float


def scale_of(input_IR: Floats, error_R: Floats) -> Scale:
    """The scale that these points set; inputs and errors are positive."""
    log_IR, log_error_R = np.log(input_IR), np.log(error_R)
    unit = float(np.exp(log_error_R.mean()))
    relative_R = np.log(error_R / unit)
    span_I = log_IR.max(axis=1) - log_IR.min(axis=1)
    return Scale(input_IR.min(axis=1), span_I, unit, float(relative_R.min()), float(relative_R.max()))


@dataclass(frozen=True)
class Form:
    """A family of laws: names, and how it is computed in the coordinates of a fit.

    Inside a fit every input is log(input / unit) >= 0 and every error is in units of `Scale.error_unit`; `theta` (K, P)
    are coordinates of the form's own choice inside a box. Outside are the parameters that people quote.

    parameters: names as quoted, in the order of `outside`. inputs: arrays of Points that it is a function of.
    on_frontier: whether it is fitted on the frontier unless told otherwise. simpler: the form that AICc compares with.
    floor: name of the parameter that lies between 0 and the least error.
    box(scale, least_K) -> low (K, P), high (K, P); least_K is the least relative error of the points of each fit.
    logs(theta_KP, log_input_IR, scale) -> log law (K, R), its slopes by theta (K, P, R).
    starts(log_error_KR, weight_KR, log_input_IR, scale) -> theta (K, G, P).
    outside(theta_KP, scale) -> parameters (K, P), as quoted.
    log_at(parameters_KP, input_IM) -> log law (K, M) from parameters as quoted and inputs in their own units.
    closed: parameters whose largest value is the form's own bound, as the floor's is: an interval may end there. Any
    other upper end of the box, and a lower one that is not 0, is only where the search ends: an interval that reaches
    it is open. Coordinate p of theta decides parameter p, or its logarithm, so that the box's ends are those of the
    parameters.
    """

    name: str
    parameters: tuple[str, ...]
    inputs: tuple[str, ...]
    on_frontier: bool
    simpler: str | None
    floor: str | None
    box: Callable[[Scale, Floats], tuple[Floats, Floats]]
    logs: Callable[[Floats, Floats, Scale], tuple[Floats, Floats]]
    starts: Callable[[Floats, Floats, Floats, Scale], Floats]
    outside: Callable[[Floats, Scale], Floats]
    log_at: Callable[[Floats, Floats], Floats]
    closed: tuple[str, ...] = ()


def _power_box(scale: Scale, least_K: Floats) -> tuple[Floats, Floats]:
    """log a' (the error at the least cost), b."""
    low = np.array([scale.log_least - LOG_MARGIN, 0.0])
    high = np.array([scale.log_most + LOG_MARGIN, EXPONENT_MOST])
    return np.tile(low, (len(least_K), 1)), np.tile(high, (len(least_K), 1))


def _power_logs(theta_KP: Floats, x_IR: Floats, scale: Scale) -> tuple[Floats, Floats]:
    log_KR = theta_KP[:, :1] - theta_KP[:, 1:] * x_IR[0]
    slope_KPR = np.empty((len(theta_KP), 2, x_IR.shape[1]))
    slope_KPR[:, 0] = 1.0
    slope_KPR[:, 1] = -x_IR[0]
    return log_KR, slope_KPR


def _power_starts(log_error_KR: Floats, weight_KR: Floats, x_IR: Floats, scale: Scale) -> Floats:
    exponents = np.concatenate([[0.0], np.geomspace(0.01, EXPONENT_MOST, 25)])
    return projected(
        log_error_KR,
        weight_KR,
        np.exp(-exponents[:, None] * x_IR[0])[:, None, :],
        lambda amount_KGQ: _stacked(_log(amount_KGQ[..., 0]), exponents),
        floor=False,
    )


def _power_outside(theta_KP: Floats, scale: Scale) -> Floats:
    log_a_K = np.log(scale.error_unit) + theta_KP[:, 0] + theta_KP[:, 1] * np.log(scale.input_unit[0])
    return np.stack([_exp(log_a_K), theta_KP[:, 1]], axis=1)


def _power_log_at(parameters_KP: Floats, input_IM: Floats) -> Floats:
    a_K, b_K = parameters_KP.T[:, :, None]
    return np.asarray(_log(a_K) - b_K * np.log(input_IM[0]))


def _saturating_box(scale: Scale, least_K: Floats) -> tuple[Floats, Floats]:
    """c, log of the excess at the least cost, b."""
    low, high = _power_box(scale, least_K)
    return np.column_stack([np.zeros(len(least_K)), low]), np.column_stack([least_K, high])


def _saturating_logs(theta_KP: Floats, x_IR: Floats, scale: Scale) -> tuple[Floats, Floats]:
    c_K1, h_K1, b_K1 = theta_KP.T[:, :, None]
    excess_KR = _exp(h_K1 - b_K1 * x_IR[0])
    value_KR = c_K1 + excess_KR
    slope_KPR = np.empty((len(theta_KP), 3, x_IR.shape[1]))
    slope_KPR[:, 0] = 1 / value_KR
    slope_KPR[:, 1] = excess_KR / value_KR
    slope_KPR[:, 2] = -slope_KPR[:, 1] * x_IR[0]
    return np.log(value_KR), slope_KPR


def _saturating_starts(log_error_KR: Floats, weight_KR: Floats, x_IR: Floats, scale: Scale) -> Floats:
    exponents = np.concatenate([[0.0], np.geomspace(0.01, EXPONENT_MOST, 31)])
    feature_GQR = np.ones((len(exponents), 2, x_IR.shape[1]))
    feature_GQR[:, 1] = np.exp(-exponents[:, None] * x_IR[0])
    return projected(
        log_error_KR,
        weight_KR,
        feature_GQR,
        lambda amount_KGQ: _stacked(amount_KGQ[..., 0], _log(amount_KGQ[..., 1]), exponents),
        floor=True,
    )


def _saturating_outside(theta_KP: Floats, scale: Scale) -> Floats:
    power_KP = _power_outside(theta_KP[:, 1:], scale)
    return np.column_stack([theta_KP[:, 0] * scale.error_unit, power_KP])


def _saturating_log_at(parameters_KP: Floats, input_IM: Floats) -> Floats:
    return np.asarray(np.log(parameters_KP[:, :1] + _exp(_power_log_at(parameters_KP[:, 1:3], input_IM))))


def _double_box(scale: Scale, least_K: Floats) -> tuple[Floats, Floats]:
    """c, log of the excess at the least cost, b, log(1 + d / least cost); d is at most the largest cost."""
    low, high = _saturating_box(scale, least_K)
    most_K = np.full(len(least_K), np.logaddexp(0.0, scale.span[0]))
    return np.column_stack([low, np.zeros(len(least_K))]), np.column_stack([high, most_K])


def _double_logs(theta_KP: Floats, x_IR: Floats, scale: Scale) -> tuple[Floats, Floats]:
    v_K1 = theta_KP[:, 3:]
    shifted_KR = _shifted(v_K1, x_IR[0])
    c_K1, h_K1, b_K1 = theta_KP[:, :3].T[:, :, None]
    excess_KR = _exp(h_K1 - b_K1 * shifted_KR)
    value_KR = c_K1 + excess_KR
    slope_KPR = np.empty((len(theta_KP), 4, x_IR.shape[1]))
    slope_KPR[:, 0] = 1 / value_KR
    slope_KPR[:, 1] = excess_KR / value_KR
    slope_KPR[:, 2] = -slope_KPR[:, 1] * shifted_KR
    slope_KPR[:, 3] = slope_KPR[:, 1] * b_K1 * -np.expm1(-shifted_KR)
    return np.log(value_KR), slope_KPR


def _shifted(v_K1: Floats, x_R: Floats) -> Floats:
    """log((C + d) / (least + d)) of x = log(C / least) and v = log(1 + d / least); exact where d = 0 or C = least."""
    return np.asarray(np.log1p(np.expm1(np.minimum(x_R, 700.0)) * np.exp(-v_K1)))


def _double_starts(log_error_KR: Floats, weight_KR: Floats, x_IR: Floats, scale: Scale) -> Floats:
    most = np.logaddexp(0.0, scale.span[0])
    exponents = np.concatenate([[0.0], np.geomspace(0.03, EXPONENT_MOST, 20)])
    b_G, v_G = (side.ravel() for side in np.meshgrid(exponents, np.linspace(0.0, most, 12)))
    feature_GQR = np.ones((len(b_G), 2, x_IR.shape[1]))
    feature_GQR[:, 1] = np.exp(-b_G[:, None] * _shifted(v_G[:, None], x_IR[0]))
    return projected(
        log_error_KR,
        weight_KR,
        feature_GQR,
        lambda amount_KGQ: _stacked(amount_KGQ[..., 0], _log(amount_KGQ[..., 1]), b_G, v_G),
        floor=True,
    )


def _double_outside(theta_KP: Floats, scale: Scale) -> Floats:
    v_K = theta_KP[:, 3]
    unit = scale.input_unit[0]
    log_a_K = np.log(scale.error_unit) + theta_KP[:, 1] + theta_KP[:, 2] * (np.log(unit) + v_K)
    return np.stack([theta_KP[:, 0] * scale.error_unit, _exp(log_a_K), theta_KP[:, 2], unit * np.expm1(v_K)], axis=1)


def _double_log_at(parameters_KP: Floats, input_IM: Floats) -> Floats:
    c_K1, a_K1, b_K1, d_K1 = parameters_KP.T[:, :, None]
    return np.asarray(np.log(c_K1 + _exp(_log(a_K1) - b_K1 * np.log(input_IM[0] + d_K1))))


def _exp(values: Floats) -> Floats:
    """e to the power of it, without overflow or a result of zero."""
    return np.asarray(np.exp(np.clip(values, -700.0, 700.0)))


def _log(values: Floats) -> Floats:
    """The logarithm; of zero, and of what is too small for one, a very low number."""
    return np.asarray(np.log(np.maximum(values, 1e-300)))


def _stacked(*columns: Floats) -> Floats:
    """Columns (K, G) or (G,) side by side: (K, G, P)."""
    return np.stack(np.broadcast_arrays(*columns), axis=-1)


POWER = Form(
    "power", ("a", "b"), ("cost",), True, None, None,
    _power_box, _power_logs, _power_starts, _power_outside, _power_log_at,
)  # fmt: skip
"""E = a C^-b; b >= 0."""
SATURATING = Form(
    "saturating", ("c", "a", "b"), ("cost",), True, "power", "c",
    _saturating_box, _saturating_logs, _saturating_starts, _saturating_outside, _saturating_log_at,
)  # fmt: skip
"""E = c + a C^-b; 0 <= c <= min(E), b >= 0."""
DOUBLE_SATURATING = Form(
    "double-saturating", ("c", "a", "b", "d"), ("cost",), True, "saturating", "c",
    _double_box, _double_logs, _double_starts, _double_outside, _double_log_at,
)  # fmt: skip
"""E = c + a (C + d)^-b; as above, and 0 <= d <= the largest cost. d bends the law towards chance level."""
