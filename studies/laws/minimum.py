"""The engine of every fit: the bounded minimum of the Huber loss of log residuals, many fits at once, and checked.

K = fits at once (replicates of a bootstrap), S = starts of one, R = points, P = parameters. It knows no form by name.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from studies.laws.forms import Form, Scale
from studies.laws.points import Floats

Bools = NDArray[np.bool_]

AGREE = 1e-9
"""Starts agree when their objectives differ by no more than this, relatively."""
NEGLIGIBLE = 1e-26
"""An objective below this is zero: residuals of 1e-13, the rounding of logarithms."""
DIFFERENCE = 1e-6
"""Step of the differences of exact gradients that make the Hessian, relative to a coordinate of 1."""
DAMPING_MOST = 1e12
EXACT = 1e-31
"""Nothing is sought below this objective."""
PATIENCE = ((1, 1e-13), (2, 1e-11), (6, 1e-8), (25, 1.0))
"""(steps without a gain, cosine between residuals and slopes): a descent ends when it has made none for so many."""
DELTA_LEAST = 1e-6
DELTA_PASSES = 3
FEW_STARTS = 8
"""The best starts of the grid that are followed where a minimum is only needed to judge by."""
VALLEY_AFTER, VALLEY_STEPS = 25, 6
"""A descent that is not down after so many steps follows the valley, with so many steps back into it after each."""
AS_THEY_ARE = 24
"""So many starts of the fit that is reported are followed without least squares too."""
FAR = 5.0
"""Where half the residuals of a start are beyond so many deltas, least squares goes first."""


@dataclass(frozen=True)
class Problem:
    """K fits of one form to the same inputs: minimise the sum over points of weight * Huber(log error - log law;
    delta).

    Huber(r; delta) = r^2 / 2 up to |r| = delta, then delta (|r| - delta / 2). log_input_IR is log(input / unit);
    log_error_KR, of error / error_unit, may have one row for all fits; weight_KR says how often each point was drawn,
    and each fit needs one of more than zero.
    """

    form: Form
    scale: Scale
    log_input_IR: Floats
    log_error_KR: Floats
    weight_KR: Floats
    delta: float

    def take(self, fits: NDArray[np.intp]) -> Problem:
        """Some of the fits, also several times each."""
        errors = self.log_error_KR if len(self.log_error_KR) == 1 else self.log_error_KR[fits]
        return replace(self, log_error_KR=errors, weight_KR=self.weight_KR[fits])

    def box(self) -> tuple[Floats, Floats]:
        """The least and largest coordinates of each fit, (K, P) each; a floor is at most the least error drawn."""
        drawn_KR = np.where(self.weight_KR > 0, self.log_error_KR, np.inf)
        return self.form.box(self.scale, np.exp(drawn_KR.min(axis=1)))


@dataclass(frozen=True)
class Minimum:
    """Where the fits ended: theta (K, P), objective, norm of the projected gradient, starts that agree, (K,) each."""

    theta: Floats
    objective: Floats
    gradient_norm: Floats
    agreeing: NDArray[np.intp]
    starts: int


def objective(problem: Problem, theta_KP: Floats) -> Floats:
    """The objective of each fit, (K,)."""
    log_KR, _ = problem.form.logs(theta_KP, problem.log_input_IR, problem.scale)
    return _loss(problem, problem.log_error_KR - log_KR)


def _loss(problem: Problem, residual_KR: Floats) -> Floats:
    size_KR = np.abs(residual_KR)
    inside_KR = np.minimum(size_KR, problem.delta)
    # One formula for both branches: inside it is r^2 / 2, outside delta (|r| - delta / 2).
    return np.asarray((problem.weight_KR * inside_KR * (size_KR - 0.5 * inside_KR)).sum(axis=1))


def slopes(problem: Problem, theta_KP: Floats) -> tuple[Floats, Floats, Floats]:
    """Objective (K,), its gradient (K, P), and the norm of each coordinate's slopes (K, P), which scales a step."""
    log_KR, slope_KPR = problem.form.logs(theta_KP, problem.log_input_IR, problem.scale)
    residual_KR = problem.log_error_KR - log_KR
    pull_KR = problem.weight_KR * np.clip(residual_KR, -problem.delta, problem.delta)
    gradient_KP = -np.einsum("kr,kpr->kp", pull_KR, slope_KPR)
    size_KP = np.sqrt(np.einsum("kr,kpr,kpr->kp", problem.weight_KR, slope_KPR, slope_KPR))
    return _loss(problem, residual_KR), gradient_KP, size_KP


def hessian(problem: Problem, theta_KP: Floats, low_KP: Floats, high_KP: Floats) -> Floats:
    """Second derivatives of the objective (K, P, P), from differences of the exact gradient, never outside the box."""
    columns = []
    for coordinate in range(theta_KP.shape[1]):
        step_K = DIFFERENCE * np.maximum(1.0, np.abs(theta_KP[:, coordinate]))
        above_KP, below_KP = theta_KP.copy(), theta_KP.copy()
        above_KP[:, coordinate] = np.minimum(theta_KP[:, coordinate] + step_K, high_KP[:, coordinate])
        below_KP[:, coordinate] = np.maximum(theta_KP[:, coordinate] - step_K, low_KP[:, coordinate])
        width_K = above_KP[:, coordinate] - below_KP[:, coordinate]
        rise_KP = slopes(problem, above_KP)[1] - slopes(problem, below_KP)[1]
        columns.append(np.where(width_K[:, None] > 0, rise_KP / np.where(width_K > 0, width_K, 1.0)[:, None], 0.0))
    raw_KPP = np.stack(columns, axis=2)
    return np.asarray(0.5 * (raw_KPP + raw_KPP.transpose(0, 2, 1)))


def free(theta_KP: Floats, gradient_KP: Floats, low_KP: Floats, high_KP: Floats) -> Bools:
    """Which coordinates may move: not those at a bound that the gradient pushes against."""
    at_low = (theta_KP <= low_KP) & (gradient_KP > 0)
    at_high = (theta_KP >= high_KP) & (gradient_KP < 0)
    return ~(at_low | at_high | (high_KP <= low_KP))


def _step(hessian_KPP: Floats, gradient_KP: Floats, size_KP: Floats, free_KP: Bools, damping_K: Floats) -> Floats:
    """A damped Newton step of the free coordinates; directions of negative curvature are followed downhill."""
    scale_KP = np.maximum(size_KP, 1e-8 * np.maximum(size_KP.max(axis=1, keepdims=True), 1e-290))
    both_KPP = free_KP[:, :, None] & free_KP[:, None, :]
    scaled_KPP = np.where(both_KPP, hessian_KPP / (scale_KP[:, :, None] * scale_KP[:, None, :]), 0.0)
    curvature_KP, direction_KPP = np.linalg.eigh(scaled_KPP)
    slope_KP = np.where(free_KP, gradient_KP / scale_KP, 0.0)
    along_KP = np.einsum("kpq,kp->kq", direction_KPP, slope_KP)
    divided_KP = along_KP / (np.maximum(np.abs(curvature_KP), 1e-14) + damping_K[:, None])
    step_KP = -np.einsum("kpq,kq->kp", direction_KPP, divided_KP) / scale_KP
    return np.where(free_KP, step_KP, 0.0)


def descend(problem: Problem, theta_KP: Floats, iterations: int = 200) -> tuple[Floats, Floats, Floats]:
    """From one start for each fit down to a minimum: theta (K, P), objective (K,), projected gradient norm (K,).

    Newton's method with the exact objective's own curvature, not Gauss and Newton's: along the valley of a floor that
    is hardly identified the latter creeps. It ends where a step no longer lowers the objective or the gradient in
    float64.
    """
    low_KP, high_KP = problem.box()
    theta_KP = np.clip(theta_KP, low_KP, high_KP)
    value_K, gradient_KP, size_KP = slopes(problem, theta_KP)
    norm_K = _projected_norm(theta_KP, gradient_KP, low_KP, high_KP, size_KP)
    damping_K, stretch_K = np.full(len(theta_KP), 1e-3), np.ones(len(theta_KP))
    still_K = np.zeros(len(theta_KP), dtype=np.intp)
    active = np.arange(len(theta_KP))
    for iteration in range(iterations):
        part, low, high = problem.take(active), low_KP[active], high_KP[active]
        theta, gradient, size = theta_KP[active], gradient_KP[active], size_KP[active]
        curvature = hessian(part, theta, low, high)
        may_move = free(theta, gradient, low, high)
        step = _step(curvature, gradient, size, may_move, damping_K[active]) * stretch_K[active, None]
        tried = np.clip(theta + step, low, high)
        if iteration >= VALLEY_AFTER:
            tried = _back_in_the_valley(part, tried, step * size, low, high)
        value, slope, size = slopes(part, tried)
        norm = _projected_norm(tried, slope, low, high, size)
        before, norm_before = value_K[active], norm_K[active]
        lower = value < before * (1 - 1e-15)
        # Where the objective no longer tells, the gradient does: it is what makes the last digits of the parameters.
        better = lower | ((value <= before * (1 + 1e-14)) & (norm < 0.5 * norm_before))
        damping_K[active] = np.where(better, damping_K[active] * 0.1, np.maximum(damping_K[active] * 10, 1e-6))
        if iteration >= VALLEY_AFTER:
            stretch_K[active] = np.where(better, 2 * stretch_K[active], 1.0)
        gained = lower & (before - value > 1e-13 * before)
        still_K[active] = np.where(gained, 0, still_K[active] + 1)
        rows = active[better]
        theta_KP[rows], gradient_KP[rows], size_KP[rows] = tried[better], slope[better], size[better]
        value_K[rows], norm_K[rows] = value[better], norm[better]
        active = active[~_at_rest(value_K[active], np.minimum(norm, norm_before), still_K[active], damping_K[active])]
        if not active.size:
            break
    return theta_KP, value_K, norm_K


def _at_rest(value: Floats, norm: Floats, still: NDArray[np.intp], damping: Floats) -> Bools:
    """Which descents are over."""
    done: Bools = (value < EXACT) | (damping > DAMPING_MOST)
    # The norm over the root of the objective is the cosine between the residuals and what the law could still do.
    cosine = norm / np.sqrt(np.maximum(value, EXACT))
    for steps, enough in PATIENCE:
        done |= (still >= steps) & (cosine <= enough)
    return done


def _back_in_the_valley(problem: Problem, theta: Floats, step: Floats, low: Floats, high: Floats) -> Floats:
    """Where the others belong when the coordinate that the step moved most stays where it was put.

    Floor, amplitude and exponent make curved valleys, far longer than they are wide, where a straight step must be
    short.
    """
    held = np.zeros(theta.shape, dtype=bool)
    held[np.arange(len(theta)), np.abs(step).argmax(axis=1)] = True
    low, high = np.where(held, theta, low), np.where(held, theta, high)
    for _ in range(VALLEY_STEPS):
        gradient, size, curvature = _bowl(problem, theta)
        may_move = free(theta, gradient, low, high)
        theta = np.clip(theta + _step(curvature, gradient, size, may_move, np.full(len(theta), 1e-9)), low, high)
    return theta


def _bowl(problem: Problem, theta_KP: Floats) -> tuple[Floats, Floats, Floats]:
    """Gradient, sizes of slopes, and the curvature of the parabola over Huber's loss that touches it at each residual.

    Unlike the Hessian it is positive also where all residuals are beyond delta.
    """
    log_KR, slope_KPR = problem.form.logs(theta_KP, problem.log_input_IR, problem.scale)
    residual_KR = problem.log_error_KR - log_KR
    bent_KR = problem.weight_KR * np.minimum(1.0, problem.delta / np.maximum(np.abs(residual_KR), 1e-300))
    gradient_KP = -np.einsum("kr,kr,kpr->kp", bent_KR, residual_KR, slope_KPR)
    size_KP = np.sqrt(np.einsum("kr,kpr,kpr->kp", problem.weight_KR, slope_KPR, slope_KPR))
    curvature_KPP = np.einsum("kpr,kqr->kpq", bent_KR[:, None] * slope_KPR, slope_KPR)
    return gradient_KP, size_KP, curvature_KPP


def _projected_norm(theta: Floats, gradient: Floats, low: Floats, high: Floats, size: Floats) -> Floats:
    """Length of the free part of the gradient, each coordinate in units of its effect on the residuals."""
    scaled = gradient / np.maximum(size, 1e-290)
    return np.asarray(np.sqrt((np.where(free(theta, gradient, low, high), scaled, 0.0) ** 2).sum(axis=1)))


def minimum(problem: Problem, *, kept: int | None = None, extra_KSP: Floats | None = None) -> Minimum:
    """The least minimum of each fit over its starts: those of the form's grid, the `kept` best of them, and
    `extra_KSP`.

    kept None follows every start of the grid: for the fit that is reported. Replicates follow the few best.
    """
    log_error = np.broadcast_to(problem.log_error_KR, problem.weight_KR.shape)
    start_KSP = problem.form.starts(log_error, problem.weight_KR, problem.log_input_IR, problem.scale)
    low_KP, high_KP = problem.box()
    start_KSP = np.clip(start_KSP, low_KP[:, None], high_KP[:, None])
    fits = len(problem.weight_KR)
    if kept is not None and kept < start_KSP.shape[1]:
        start_KSP = _best(problem, start_KSP, kept)
    if extra_KSP is not None:
        start_KSP = np.concatenate([start_KSP, extra_KSP], axis=1)
    start_KSP = _with_approached(problem, start_KSP, instead=kept is not None)
    starts = start_KSP.shape[1]
    flat = problem.take(np.repeat(np.arange(fits), starts))
    theta, value, norm = descend(flat, start_KSP.reshape(fits * starts, -1))
    value_KS = value.reshape(fits, starts)
    best_K = value_KS.argmin(axis=1)
    rows = np.arange(fits) * starts + best_K
    least_K1 = value_KS.min(axis=1, keepdims=True)
    agreeing_K = (value_KS <= least_K1 * (1 + AGREE) + NEGLIGIBLE).sum(axis=1)
    return Minimum(theta[rows], value[rows], norm[rows], agreeing_K, starts)


def _with_approached(problem: Problem, start_KSP: Floats, *, instead: bool) -> Floats:
    """Starts with those that least squares brings near, in their place or beside them.

    Where a few points are far off, least squares takes all starts into one basin: for the fit that is reported the
    best of them go both ways.
    """
    fits, starts, _ = start_KSP.shape
    flat = problem.take(np.repeat(np.arange(fits), starts))
    near_KSP = _approached(flat, start_KSP.reshape(fits * starts, -1).copy()).reshape(start_KSP.shape)
    if instead or np.array_equal(near_KSP, start_KSP):
        return near_KSP
    return np.concatenate([near_KSP, _best(problem, start_KSP, AS_THEY_ARE)], axis=1)


def _approached(problem: Problem, theta_KP: Floats) -> Floats:
    """Starts, those far from the errors brought near by least squares: far outside delta the loss has no curvature."""
    log_KR, _ = problem.form.logs(theta_KP, problem.log_input_IR, problem.scale)
    size_KR = np.where(problem.weight_KR > 0, np.abs(problem.log_error_KR - log_KR), np.nan)
    far = np.flatnonzero(np.nanmedian(size_KR, axis=1) > FAR * problem.delta)
    if far.size:
        wide = replace(problem.take(far), delta=np.inf)
        theta_KP[far] = descend(wide, theta_KP[far], iterations=40)[0]
    return theta_KP


def _best(problem: Problem, start_KSP: Floats, kept: int) -> Floats:
    """The starts of the least objective: shapes that are local minima along the grid would be more, and as good."""
    fits, starts, _ = start_KSP.shape
    value_KS = np.empty((fits, starts))
    for start in range(starts):
        value_KS[:, start] = objective(problem, start_KSP[:, start])
    order = np.argsort(value_KS, axis=1, kind="stable")[:, :kept]
    return np.take_along_axis(start_KSP, order[:, :, None], axis=1)


def noise_delta(problem: Problem) -> float:
    """The delta of one fit: 1.345 times the noise of its log residuals, where Huber's loss keeps 95 % of least squares.

    The noise is 1.4826 times the median size of the residuals, times sqrt(n / (n - P)) for the P parameters that n
    points were bent to. They are first those of least squares, then twice those of the fit with the delta so far. Delta
    is at least DELTA_LEAST (errors that obey the law to rounding) and a hundredth of the root mean square of the
    residuals (more than half of them zero); with no more points than parameters there is nothing to scale by, and it is
    infinite.
    """
    used_R = problem.weight_KR[0] > 0
    points, parameters = int(used_R.sum()), len(problem.form.parameters)
    delta = np.inf
    for _ in range(DELTA_PASSES if points > parameters else 0):
        theta_KP = minimum(replace(problem, delta=delta), kept=FEW_STARTS).theta
        log_KR, _ = problem.form.logs(theta_KP, problem.log_input_IR, problem.scale)
        residual_R = (problem.log_error_KR - log_KR)[0, used_R]
        noise = 1.4826 * np.median(np.abs(residual_R)) * np.sqrt(points / (points - parameters))
        delta = float(max(1.345 * noise, 0.01 * np.sqrt(np.mean(residual_R**2)), DELTA_LEAST))
    return delta
