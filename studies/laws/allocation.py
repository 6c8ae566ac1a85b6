"""How to split a compute budget between size and images, by a fitted surface; the fit itself is elsewhere.

N = parameters, D = images seen, U = distinct images at most, C = cost in FLOPs, k = FLOPs for each parameter and image.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from studies.laws.fits import Estimate, Fit
from studies.laws.points import Floats, Points


@dataclass(frozen=True)
class Rate:
    """k of C = k N D: the geometric mean over configurations, the least and the most among them."""

    k: float
    least: float
    most: float


@dataclass(frozen=True)
class Allocation:
    """The size and images of least error for `cost` FLOPs, each with its 95 % interval (None: not identified).

    `a`, `b`: the exponents of N_opt ~ C^a and D_opt ~ C^b; with `distinct` images as a cap they hold below it only.
    `passes` is D over the distinct images: 1 where none is seen twice.
    """

    cost: float
    parameters: Estimate
    images: Estimate
    error: Estimate
    a: Estimate
    b: Estimate
    rate: Rate
    distinct: float | None
    passes: float
    warnings: tuple[str, ...]


def rate(points: Points) -> Rate:
    """FLOPs for each parameter and image seen, over `points`: 6 for dense layers alone, which see each image as one
    token.

    Raises ValueError where no configuration has a cost, a size and images.
    """
    if points.parameters is None or points.images is None:
        raise ValueError("cost for each parameter and image needs the parameters and the images seen of configurations")
    filled = np.stack([points.cost, points.parameters, points.images])
    usable = np.all(np.isfinite(filled) & (filled > 0), axis=0)
    if not usable.any():
        raise ValueError("no configuration has a cost, parameters and images, so C = k N D has no k")
    cost, parameters, images = filled[:, usable]
    log_k = np.log(cost) - np.log(parameters) - np.log(images)
    return Rate(float(np.exp(log_k.mean())), float(np.exp(log_k.min())), float(np.exp(log_k.max())))


def allocation(fit: Fit, cost: float, rate: Rate, *, distinct: float | None = None) -> Allocation:
    """The split of `cost` FLOPs that the surface `fit` calls best, where C = k N D with the k of `rate`.

    Closed form: N_opt = G (C/k)^(beta / (alpha + beta)), G = (alpha A / (beta B))^(1 / (alpha + beta)), D_opt =
    C / (k N_opt) (arXiv:2203.15556, equation 4). distinct: there are no more different images than these; only a
    repeated surface knows what seeing them again is worth. Its optimum is the one root of the slope, by bisection.

    Intervals are percentiles of the optimum over the fit's replicates, `fit.draws`; they take k as known. `error` is
    the law at the optimum: a single run scatters about it.

    Raises ValueError for a fit that is not a surface, a cost that is not positive, a surface with no optimum (a term of
    it is zero), and `distinct` for a surface without repetition that would need more.
    """
    if fit.form not in ("surface", "repeated-surface"):
        raise ValueError(f"a law of form {fit.form} knows no sizes: fit the form surface")
    if not (np.isfinite(cost) and cost > 0):
        raise ValueError(f"a budget of {cost} FLOPs: it must be more than zero")
    if distinct is not None and not distinct > 0:
        raise ValueError(f"{distinct} distinct images: there must be more than zero")
    best_1P = np.array([[estimate.value for estimate in fit.parameters.values()]])
    if not np.all(best_1P[:, 1:5] > 0):
        raise ValueError(
            "the surface has no best size, since its term of size or of images vanished: train sizes and numbers of "
            "images that make a difference"
        )
    size, images, error = (each[0] for each in _optimum(best_1P, cost / rate.k, distinct))
    if distinct is not None and fit.form == "surface" and images > distinct:
        raise ValueError(
            f"the best split sees {images:.3g} images and there are {distinct:.3g}: fit the form repeated-surface, "
            "which knows what repeats are worth"
        )
    if distinct is not None and images > distinct and _open(fit.parameters["R_D"]):
        raise ValueError(
            f"the best split sees {distinct:.3g} images more than once and what that is worth is not known: train some "
            "configurations for several passes"
        )
    draws_3B = _optimum(fit.draws, cost / rate.k, distinct)
    alpha, beta = best_1P[0, 2], best_1P[0, 4]
    with np.errstate(invalid="ignore"):
        a_B = fit.draws[:, 4] / (fit.draws[:, 2] + fit.draws[:, 4])
    return Allocation(
        cost=cost,
        parameters=_estimate(size, draws_3B[0]),
        images=_estimate(images, draws_3B[1]),
        error=_estimate(error, draws_3B[2]),
        a=_estimate(beta / (alpha + beta), a_B),
        b=_estimate(alpha / (alpha + beta), 1 - a_B),
        rate=rate,
        distinct=distinct,
        passes=float(max(1.0, images / distinct)) if distinct is not None else 1.0,
        warnings=_warnings(fit, cost, rate, images, distinct),
    )


def as_json(answer: Allocation) -> dict[str, Any]:
    """`answer` as plain lists and numbers at full precision."""
    return asdict(answer)


def _optimum(surface_BP: Floats, product: float, distinct: float | None) -> tuple[Floats, Floats, Floats]:
    """N, D and error at the least error with N D = `product`, for each row E, A, alpha, B, beta (, R_D); NaN = no
    optimum."""
    floor, size_scale, alpha, data_scale, beta = surface_BP.T[:5]
    log_product = np.log(product)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        log_size = (np.log(alpha * size_scale) - np.log(beta * data_scale) + beta * log_product) / (alpha + beta)
        if distinct is not None and surface_BP.shape[1] > 5:
            log_size = _repeating(surface_BP, log_size, log_product, float(np.log(distinct)))
        log_images = log_product - log_size
        log_worth = log_images
        if distinct is not None and surface_BP.shape[1] > 5:
            log_worth = log_images + _log_worth(log_images - np.log(distinct), surface_BP[:, 5])[0]
        error = floor + size_scale * np.exp(-alpha * log_size) + data_scale * np.exp(-beta * log_worth)
        return np.exp(log_size), np.exp(log_images), error


def _repeating(surface_BP: Floats, log_size: Floats, log_product: float, log_distinct: float) -> Floats:
    """log N of least error with `exp(log_distinct)` images, given that without a cap, `log_size`."""
    _, size_scale, alpha, data_scale, beta, worth_of_repeats = surface_BP.T

    def rises(at: Floats) -> NDArray[np.bool_]:
        log_images = log_product - at
        shift, share = _log_worth(log_images - log_distinct, worth_of_repeats)
        fewer_images = beta * data_scale * np.exp(-beta * (log_images + shift)) * share
        return np.asarray(fewer_images >= alpha * size_scale * np.exp(-alpha * at))

    one_pass = log_product - log_distinct
    # The slope of the error rises with size, and at one pass it is positive where the cap binds. Its zero may be on
    # either side of the closed form's size: repeats are worth less, but what they add to is scarcer.
    low, high = np.minimum(log_size, one_pass), np.full_like(log_size, one_pass)
    for step in 2.0 ** np.arange(10):
        low = np.where(rises(low), low - step, low)
    for _ in range(80):
        middle = (low + high) / 2
        above = rises(middle)
        low, high = np.where(above, low, middle), np.where(above, middle, high)
    return np.where(log_size >= one_pass, log_size, (low + high) / 2)


def _log_worth(log_passes: Floats, worth_of_repeats: Floats) -> tuple[Floats, Floats]:
    """log(D'/D) and d log D' / d log D after `exp(log_passes)` passes: 0 and 1 up to one pass."""
    passes = np.exp(np.maximum(log_passes, 0))
    decayed = np.exp(-(passes - 1) / worth_of_repeats)
    fresh = 1 - worth_of_repeats * np.expm1(-(passes - 1) / worth_of_repeats)
    return np.log(fresh / passes), passes * decayed / fresh


def _open(estimate: Estimate) -> bool:
    return estimate.low is None and estimate.high is None


def _estimate(value: float, draws: Floats) -> Estimate:
    # A replicate without an optimum counts as infinite on both sides: with too many of them no end is identified.
    if not len(draws):
        return Estimate(float(value), None, None)
    low = np.quantile(np.where(np.isnan(draws), -np.inf, draws), 0.025, method="inverted_cdf")
    high = np.quantile(np.where(np.isnan(draws), np.inf, draws), 0.975, method="inverted_cdf")
    return Estimate(float(value), float(low) if np.isfinite(low) else None, float(high) if np.isfinite(high) else None)


def _warnings(fit: Fit, cost: float, rate: Rate, images: float, distinct: float | None) -> tuple[str, ...]:
    said: list[str] = []
    dearest = fit.cost_range[1]
    if cost > 10 * dearest:
        said.append(f"{cost:.3g} FLOPs are {cost / dearest:.2g} times the dearest run of the fit: extrapolated")
    if rate.most > 1.5 * rate.least:
        said.append(
            f"FLOPs for each parameter and image differ from {rate.least:.3g} to {rate.most:.3g} between the runs: the "
            f"split holds for {rate.k:.3g}"
        )
    if fit.form == "repeated-surface" and distinct is not None and images / distinct > 1:
        said.append(f"every image is seen {images / distinct:.2g} times: repeats count as the law fitted them")
    return tuple(said)
