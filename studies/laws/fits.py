"""One fitted law: the fit of a form to points, with intervals, checks and doubts; how it is written down as JSON.

The engine is minimum.py, the replicates are intervals.py, the doubts in words doubts.py and sentences.py.
B = replicates, P = parameters, R = points, I = inputs, M = places where a law is evaluated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from studies.frontiers import frontier
from studies.laws import sentences
from studies.laws.forms import DOUBLE_SATURATING, POWER, SATURATING, Form, scale_of
from studies.laws.intervals import LEVEL, Replicates, ends, resampled
from studies.laws.luck import Luck, luck_of
from studies.laws.minimum import FEW_STARTS, Minimum, Problem, minimum, noise_delta
from studies.laws.points import CALLED, Dropped, Floats, Points

FORMS = ("power", "saturating", "double-saturating", "surface", "repeated-surface", "m4")
LEAST_VARIANCE = 1e-30
"""Of log residuals: below it they are rounding, and AICc tells nothing apart."""


@dataclass(frozen=True)
class Estimate:
    """A value and its 95 % interval; an end that is None is open: the points do not say how far it reaches."""

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class LeftOut:
    """The dearest configurations (all of the largest cost), predicted by a fit without them; `log_error` is the root
    mean square of log(measured / predicted)."""

    keys: tuple[str, ...]
    predicted: tuple[float, ...]
    measured: tuple[float, ...]
    log_error: float


@dataclass(frozen=True)
class Fit:
    """A law, its parameters as people quote them, and all that it takes to judge it.

    objective: sum of Huber(log error - log law; delta). agreeing: of `starts`, those that reached this objective to
    1e-9. gradient_norm: of the part of the objective's gradient that the bounds leave, per unit of log residual.
    residuals: (key, log error - log law), in canonical order. aicc: None with too few points. on_frontier: whether the
    points used are those on the frontier. cost_range: least and largest cost of these. luck: what seeds differ by, on a
    frontier; None: not known, or not asked. draws (B, P): the parameters of the replicates; percentiles of anything
    computed from them are calibrated. Not part of the JSON.
    """

    form: str
    parameters: dict[str, Estimate]
    objective: float
    delta: float
    starts: int
    agreeing: int
    gradient_norm: float
    residuals: tuple[tuple[str, float], ...]
    aicc: float | None
    left_out: LeftOut | None
    used: tuple[str, ...]
    dropped: Dropped
    warnings: tuple[str, ...]
    replicates: int
    seed: int
    on_frontier: bool
    cost_range: tuple[float, float]
    luck: Luck | None
    draws: Floats

    def error_at(self, inputs: ArrayLike | Sequence[ArrayLike]) -> Floats:
        """The law, (M,), at costs (M,) for a function of cost; for a surface at (parameters, images[, data_rows])."""
        form = form_of(self.form)
        best_1P = np.array([[estimate.value for estimate in self.parameters.values()]])
        return np.asarray(np.exp(form.log_at(best_1P, _inputs(form, inputs))[0]))

    def band_at(self, inputs: ArrayLike | Sequence[ArrayLike], level: float = LEVEL) -> tuple[Floats, Floats]:
        """Low and high end, (M,) each, of the law's interval there; NaN where there are no replicates.

        It is the interval of the law, not of one more run: that scatters about the law.
        """
        if not 0 < level < 1:
            raise ValueError(f"a level of {level}: it must be between 0 and 1, as 0.95 is")
        form = form_of(self.form)
        places = _inputs(form, inputs)
        if not len(self.draws):
            return np.full(places.shape[1], np.nan), np.full(places.shape[1], np.nan)
        error_BM = np.exp(form.log_at(self.draws, places))
        low, high = np.quantile(error_BM, ((1 - level) / 2, (1 + level) / 2), axis=0)
        best = self.error_at(inputs)
        return np.minimum(low, best), np.maximum(high, best)


def form_of(name: str) -> Form:
    """The form of that name. Raises ValueError for any other."""
    from studies.laws.learning_curve import M4
    from studies.laws.surface import REPEATED_SURFACE, SURFACE

    for form in (POWER, SATURATING, DOUBLE_SATURATING, SURFACE, REPEATED_SURFACE, M4):
        if form.name == name:
            return form
    raise ValueError(f"unknown form {name!r} of a law: {', '.join(FORMS)}")


def fit(points: Points, form: str, *, on_frontier: bool | None = None, replicates: int = 1000, seed: int = 0) -> Fit:
    """Fit a law to configurations, with a 95 % interval for each parameter.

    form: one of FORMS. on_frontier: whether to use the frontier of cost and error alone; None: as is the form's custom
    (laws of cost yes, others no). The same points in any order give the same digits.

    What is minimised is the sum of Huber(log error - log law; delta), delta being 1.345 times the noise that is found
    in the residuals (`minimum.noise_delta`), within bounds: 0 <= floor <= least error used, exponents from 0 to 10. The
    minimum is the least of those reached from every shape of a grid. Intervals are percentiles of replicates that are
    made and were measured as `intervals.resampled` says. With the frontier the fit itself may be off: luck is part of
    what puts a run there. Where configurations have several seeds these say how much is luck, and the interval is of
    the law that the frontier of as many such configurations has without it. Where none has, it is of the law of runs at
    their best, and since runs that fall short are on a frontier too, the estimate may lie near an end of it.

    Raises ValueError, with a sentence for the user, where no law can be fitted: an input that the points do not have or
    that never differs, fewer different points than parameters. What is possible but doubtful is in `warnings`.
    """
    family = form_of(form)
    if replicates < 0:
        raise ValueError(f"{replicates} replicates: there cannot be fewer than none")
    on_frontier = family.on_frontier if on_frontier is None else on_frontier
    usable, dropped = points.clean(family.inputs)
    used = _used(usable, on_frontier)
    dropped = _with_beaten(dropped, usable, used)
    _check(family, usable, used, dropped)
    problem = _problem(family, usable, used)
    problem = replace(problem, delta=noise_delta(problem))
    best = minimum(problem)
    luck = luck_of(usable) if on_frontier else None
    draws = resampled(
        problem, best.theta[0], usable.cost, on_frontier=on_frontier, luck=luck, replicates=replicates, seed=seed
    )
    return _answer(family, usable, used, dropped, problem, best, draws, replicates, seed, on_frontier, luck)


def _used(usable: Points, on_frontier: bool) -> NDArray[np.bool_]:
    """Which of the usable points the law is fitted to."""
    if not on_frontier:
        return np.ones(len(usable), dtype=bool)
    on_it = np.zeros(len(usable), dtype=bool)
    on_it[frontier(usable.cost, -usable.error)] = True
    return on_it


def _with_beaten(dropped: Dropped, usable: Points, used: NDArray[np.bool_]) -> Dropped:
    beaten = tuple(sorted(key for key, on_it in zip(usable.keys, used, strict=True) if not on_it))
    return (*dropped, ("not on the frontier", beaten)) if beaten else dropped


def _check(family: Form, usable: Points, used: NDArray[np.bool_], dropped: Dropped) -> None:
    """Raises ValueError where the points cannot carry the form."""
    taken = usable.take(used)
    parameters = len(family.parameters)
    if len(taken) < 2:
        raise ValueError(sentences.too_few(family.name, len(taken), len(taken), parameters, dropped))
    for name in family.inputs:
        if len(np.unique(taken.input(name))) == 1 and name != "data_rows":
            raise ValueError(sentences.one_value(family.name, CALLED[name], len(taken)))
    different = np.unique(taken.inputs(family.inputs), axis=1).shape[1]
    if different < parameters:
        raise ValueError(sentences.too_few(family.name, len(taken), different, parameters, dropped))


def _problem(family: Form, usable: Points, used: NDArray[np.bool_]) -> Problem:
    input_IR = usable.inputs(family.inputs)
    scale = scale_of(input_IR, usable.error)
    log_input_IR = np.log(input_IR) - np.log(scale.input_unit)[:, None]
    log_error_1R = np.log(usable.error / scale.error_unit)[None]
    return Problem(family, scale, log_input_IR, log_error_1R, used[None].astype(np.float64), np.inf)


def _answer(
    family: Form, usable: Points, used: NDArray[np.bool_], dropped: Dropped, problem: Problem, best: Minimum,
    drawn: Replicates, replicates: int, seed: int, on_frontier: bool, luck: Luck | None,
) -> Fit:  # fmt: skip
    from studies.laws import doubts

    taken = usable.take(used)
    log_R = family.logs(best.theta, problem.log_input_IR, problem.scale)[0][0]
    residual_R = (problem.log_error_KR[0] - log_R)[used]
    apart = doubts.not_separate(problem, best.theta)
    outside_BP = family.outside(drawn.theta, problem.scale)
    parameters = _estimates(family, family.outside(best.theta, problem.scale)[0], outside_BP, drawn, apart)
    answer = Fit(
        form=family.name,
        parameters=parameters,
        objective=float(best.objective[0]),
        delta=problem.delta,
        starts=best.starts,
        agreeing=int(best.agreeing[0]),
        gradient_norm=float(best.gradient_norm[0]),
        residuals=tuple(zip(taken.keys, residual_R.tolist(), strict=True)),
        aicc=aicc(residual_R, len(family.parameters)),
        left_out=_left_out(problem, usable, used),
        used=taken.keys,
        dropped=dropped,
        warnings=(),
        replicates=len(drawn.theta),
        seed=seed,
        on_frontier=on_frontier,
        cost_range=(float(taken.cost.min()), float(taken.cost.max())),
        luck=luck,
        draws=outside_BP,
    )
    return replace(answer, warnings=doubts.doubts(answer, family, problem, taken, apart, drawn.rejected, replicates))


def _estimates(
    family: Form, best_P: Floats, outside_BP: Floats, drawn: Replicates, apart: Sequence[str]
) -> dict[str, Estimate]:
    answers = {}
    for column, name in enumerate(family.parameters):
        value = float(best_P[column])
        stuck = drawn.stuck_low[:, column], drawn.stuck_high[:, column]
        low, high = ends(outside_BP[:, column], value, stuck, at_bound=bool(drawn.best_stuck[column]))
        answers[name] = Estimate(value, None, None) if name in apart else Estimate(value, low, high)
    return answers


def aicc(residual_R: Floats, parameters: int) -> float | None:
    """Akaike's criterion corrected for few points: the likelihood is normal, of the log residuals, of unknown variance.

    n log(mean of squares) + 2 k + 2 k (k + 1) / (n - k - 1) with k = parameters + 1; None where n <= k + 1. To compare
    forms on the same points: a difference of 2 is a hint, of 10 a verdict.
    """
    n, k = len(residual_R), parameters + 1
    if n <= k + 1:
        return None
    variance = max(float(np.mean(residual_R**2)), LEAST_VARIANCE)
    return float(n * np.log(variance) + 2 * k + 2 * k * (k + 1) / (n - k - 1))


def _left_out(problem: Problem, usable: Points, used: NDArray[np.bool_]) -> LeftOut | None:
    """The dearest points predicted from the others, with the same delta; None where too few would be left."""
    largest = used & (usable.cost == usable.cost[used].max())
    rest = used & ~largest
    different = np.unique(problem.log_input_IR[:, rest], axis=1).shape[1]
    if different < len(problem.form.parameters):
        return None
    without = replace(problem, weight_KR=rest[None].astype(np.float64))
    theta = minimum(without, kept=FEW_STARTS).theta
    log_R = problem.form.logs(theta, problem.log_input_IR, problem.scale)[0][0][largest]
    miss_R = problem.log_error_KR[0][largest] - log_R
    predicted = np.exp(log_R) * problem.scale.error_unit
    keys = tuple(key for key, left in zip(usable.keys, largest, strict=True) if left)
    measured = tuple(usable.error[largest].tolist())
    return LeftOut(keys, tuple(predicted.tolist()), measured, float(np.sqrt(np.mean(miss_R**2))))


def _inputs(form: Form, inputs: ArrayLike | Sequence[ArrayLike]) -> Floats:
    """Where to evaluate, (I, M). Raises ValueError for another number of inputs and for what is not above zero."""
    parts = [inputs] if len(form.inputs) == 1 and np.ndim(inputs) < 2 else list(inputs)  # type: ignore[arg-type]
    if len(parts) != len(form.inputs):
        raise ValueError(f"a {sentences.title(form.name)} is a function of {', '.join(form.inputs)}: give these")
    columns = np.broadcast_arrays(*[np.atleast_1d(np.asarray(part, dtype=np.float64)) for part in parts])
    places = np.stack(columns)
    if not np.all(np.isfinite(places) & (places > 0)):
        raise ValueError(f"{', '.join(form.inputs)} of a law must be finite and above zero")
    return places


def as_json(answer: Fit) -> dict[str, Any]:
    """The fit as plain JSON, every float64 in full; without the draws."""
    plain = asdict(replace(answer, draws=np.zeros((0, 0))))
    del plain["draws"]
    return plain


def from_json(answer: Mapping[str, Any], draws: Floats) -> Fit:
    """The fit that `as_json` wrote, lists or tuples alike, and its draws (B, P)."""
    left = answer["left_out"]
    fields = dict(answer) | {
        "parameters": {name: Estimate(**estimate) for name, estimate in answer["parameters"].items()},
        "residuals": tuple((key, float(residual)) for key, residual in answer["residuals"]),
        "left_out": LeftOut(**{name: _tupled(value) for name, value in left.items()}) if left else None,
        "used": tuple(answer["used"]),
        "dropped": tuple((reason, tuple(keys)) for reason, keys in answer["dropped"]),
        "warnings": tuple(answer["warnings"]),
        "cost_range": tuple(answer["cost_range"]),
        "luck": Luck(**answer["luck"]) if answer["luck"] else None,
    }
    return Fit(**fields, draws=np.asarray(draws, dtype=np.float64))


def _tupled(value: Any) -> Any:
    return tuple(value) if isinstance(value, list | tuple) else value
