"""What a fitted law expects of a combination that was not trained, with its band, and when it refuses to say.

M = combinations, I = inputs of the law's form, R = configurations that it was fitted on. It neither fits nor plans.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

from studies.laws.fits import Fit, form_of
from studies.laws.points import CALLED, Floats, Points

DOUBTFUL = 10.0
"""Times beyond the range that a law was fitted on from which a prediction carries a warning,"""
REFUSED = 1_000.0
"""and from which there is none."""
LEVEL = 0.95


@dataclass(frozen=True)
class Prediction:
    """The error that a law expects of one combination; intervals are of 95 %, None where they are not identified.

    low, high: of the law itself, what the mean of many such configurations would be. run_low, run_high: of one new
    configuration, which scatters about the law as those do that it was fitted on (their seeds averaged as they were);
    measured, of 16 configurations with 3 % of noise about a saturating law: it holds 94.4 % of new runs inside the
    range and 93.7 % five times beyond (200 studies, 20 runs each).
    extrapolation: how many times beyond the range fitted on, of the input that is the farthest out; 1: inside.
    """

    error: float
    low: float | None
    high: float | None
    run_low: float | None
    run_high: float | None
    extrapolation: float
    warnings: tuple[str, ...]


def predict(
    fit: Fit,
    *,
    cost: float | None = None,
    parameters: float | None = None,
    images: float | None = None,
    data_rows: float | None = None,
    points: Points | None = None,
    force: bool = False,
) -> Prediction:
    """The expected error of a network of so many parameters, trained on so many images, for this cost in FLOPs.

    A law of cost needs `cost`; the others what they are a function of. What more is given is only compared with the
    range fitted on. images: seen in training, repeats counted; data_rows: distinct ones. points: those that the fit was
    given; without them only the cost can be compared.

    Raises ValueError for what the law needs and is missing or not above 0, where nothing can be compared with the range
    fitted on, and, unless `force`, more than 1,000 times beyond that range.
    """
    given = {"cost": cost, "parameters": parameters, "images": images, "data_rows": data_rows}
    said = {name: float(value) for name, value in given.items() if value is not None}
    for name, value in said.items():
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"a {CALLED[name]} of {value:g}: a number above 0 is due")
    names = form_of(fit.form).inputs
    missing = [CALLED[name] for name in names if name not in said]
    if missing:
        raise ValueError(f"a law of the form {fit.form} needs the {' and the '.join(missing)}: give it")
    factor, where = extrapolation(fit, said, points)
    if factor > REFUSED and not force:
        raise ValueError(
            f"{where}, and beyond {REFUSED:,.0f} times the range fitted on nothing is predicted: "
            "force it to see what the law would say"
        )
    warnings = [f"Extrapolated: {where}."] if factor > DOUBTFUL else []
    bands = law_at(fit, np.array([[said[name]] for name in names]))
    error, low, high, run_low, run_high = (float(values[0]) for values in (*bands, *run_band(fit, *bands)))
    if math.isnan(low) or math.isnan(high):
        warnings.append("The law has no interval here: see the warnings of its fit.")
    elif math.isnan(run_low):
        warnings.append(
            f"How far one run scatters is not known: {len(fit.used)} configurations for "
            f"{len(fit.parameters)} parameters."
        )
    return Prediction(error, known(low), known(high), known(run_low), known(run_high), factor, tuple(warnings))


def law_at(fit: Fit, input_IM: Floats) -> tuple[Floats, Floats, Floats]:
    """The law and its 95 % band at inputs in the order of its form: three of shape (M,), NaN where there is no band."""
    inputs = input_IM[0] if len(input_IM) == 1 else tuple(input_IM)
    low_M, high_M = fit.band_at(inputs, LEVEL)
    return fit.error_at(inputs), low_M, high_M


def draws_at(fit: Fit, input_IM: Floats) -> Floats:
    """The logarithm of the law in each replicate of the bootstrap, (B, M)."""
    return form_of(fit.form).log_at(fit.draws, input_IM)


def run_band(fit: Fit, error_M: Floats, low_M: Floats, high_M: Floats) -> tuple[Floats, Floats]:
    """The 95 % interval of one new configuration, given the law and its band there: two of (M,), NaN where unknown.

    In logarithms, the distance to the band's end and Student's 97.5 % point times the scatter, added as squares.
    """
    freedom = len(fit.residuals) - len(fit.parameters)
    spread = scatter(fit)
    if spread is None:
        unknown = np.full_like(error_M, np.nan)
        return unknown, unknown
    wide = float(stdtrit(freedom, 0.5 + LEVEL / 2)) * spread
    below_M, above_M = (np.hypot(np.log(error_M / low_M), wide), np.hypot(np.log(high_M / error_M), wide))
    return error_M * np.exp(-below_M), error_M * np.exp(above_M)


def scatter(fit: Fit) -> float | None:
    """Standard deviation of the log error of a configuration about the law; None without a degree of freedom.

    The root of the residuals' squares over R - P. Outliers count in full, though the Huber loss discounts them: a new
    run may be one. Of configurations that are means of several seeds it is the scatter of such means.
    """
    freedom = len(fit.residuals) - len(fit.parameters)
    if freedom < 1:
        return None
    return math.sqrt(math.fsum(residual**2 for _, residual in fit.residuals) / freedom)


def extrapolation(fit: Fit, said: Mapping[str, float], points: Points | None) -> tuple[float, str]:
    """How many times beyond the range fitted on the input is that lies the farthest out, and a clause that says so.

    Raises ValueError where none can be compared.
    """
    farthest = 0.0, ""
    for name, value in said.items():
        known = _range(fit, name, points)
        if known is None:
            continue
        least, most = known
        factor = max(value / most, least / value, 1.0)
        side = f"above the most that the law was fitted on, {most:.4g}"
        if value < least:
            side = f"below the least that the law was fitted on, {least:.4g}"
        if factor > farthest[0]:
            farthest = factor, f"a {CALLED[name]} of {value:.4g} is {factor:,.4g} times {side}"
    if not farthest[0]:
        raise ValueError(
            "how far beyond the range fitted on this lies cannot be told: give its cost, or the fit's points"
        )
    return farthest


def known(value: float) -> float | None:
    """None for what is not a number."""
    return None if math.isnan(value) else value


def _range(fit: Fit, name: str, points: Points | None) -> tuple[float, float] | None:
    """The least and the most of an input among the configurations that the fit used; None: not known."""
    if name == "cost":
        return fit.cost_range
    if points is None or getattr(points, name) is None:
        return None
    used = set(fit.used)
    values = points.input(name)[[key in used for key in points.keys]]
    values = values[np.isfinite(values)]
    return (float(values.min()), float(values.max())) if len(values) else None
