"""The best size and data for each compute budget, read off runs of equal cost; no law of the error is assumed here.

Approach 2 of Hoffmann et al. 2022 (arXiv:2203.15556): configurations of equal cost and different size make a curve with
a minimum; the minima of several budgets give N_opt = G C^a and D_opt = H C^b, N = parameters, D = images seen.
"""

from collections import Counter
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import Akima1DInterpolator

from studies.laws.fits import Estimate
from studies.laws.points import Dropped, Floats, Points

Method = Literal["akima", "parabola"]

FEWEST_SIZES: dict[Method, int] = {"akima": 4, "parabola": 3}

BIAS_OF_THE_PARABOLA = ((2.0, 0.004), (4.0, 0.016), (8.0, 0.037), (16.0, 0.068))
"""How much too large the parabola puts the optimal size on the published surface, by the factor to which the sizes
reach on either side of it (5 sizes, evenly in logs, the optimum in the middle; less where there are more). A test
measures it again."""


@dataclass(frozen=True)
class Optimum:
    """The minimum of one compute budget.

    `cost` is the geometric mean of the configurations `keys`; `residual` is log N_opt minus the fitted line's, and
    `sizes_apart` the mean factor between neighbouring sizes: what the optimum is between is no closer than that.
    """

    cost: float
    parameters: float
    images: float
    error: float
    sizes_apart: float
    keys: tuple[str, ...]
    residual: float = 0.0
    residual_images: float = 0.0


@dataclass(frozen=True)
class IsoFlop:
    """Optima by budget and their power laws N_opt = size_scale C^a, D_opt = images_scale C^b.

    `draws` (B, 4): replicates of log size_scale, a, log images_scale, b; not part of the JSON. `dropped`: reason and
    keys.
    """

    method: Method
    tolerance: float
    optima: tuple[Optimum, ...]
    a: Estimate
    b: Estimate
    size_scale: Estimate
    images_scale: Estimate
    dropped: Dropped
    warnings: tuple[str, ...]
    replicates: int
    seed: int
    draws: Floats

    def optimum_at(self, cost: float) -> tuple[Estimate, Estimate]:
        """The optimal parameters and images for `cost` FLOPs by the fitted lines, with 95 % intervals of the lines."""
        if not (np.isfinite(cost) and cost > 0):
            raise ValueError(f"a budget of {cost} FLOPs: it must be more than zero")
        log_BQ = self.draws[:, [0, 2]] + self.draws[:, [1, 3]] * np.log(cost)
        return (
            _exp_of(_estimate(np.log(self.size_scale.value) + self.a.value * np.log(cost), log_BQ[:, 0])),
            _exp_of(_estimate(np.log(self.images_scale.value) + self.b.value * np.log(cost), log_BQ[:, 1])),
        )


def isoflop(
    points: Points, *, method: Method = "akima", replicates: int = 1000, seed: int = 0, tolerance: float = 0.1
) -> IsoFlop:
    """The optimum of every compute budget in `points`, and how it grows with compute.

    A budget is a set of configurations whose costs are at most `tolerance` (a fraction) above the cheapest of them;
    budgets are taken from the cheapest configuration up. Configurations of one size in one budget count as one, of
    their mean error. A minimum at the smallest or largest size of its budget is not an optimum: it is dropped, with
    that reason.

    method: "akima" runs Akima's piecewise cubic through error against log N (Akima 1970, J. ACM 17(4); not the modified
    weights, which on the same curves were off by up to 10 %); it follows an asymmetric curve. On the published surface
    of arXiv:2203.15556 its optimum is within 0.6 % of the true one with sizes a factor of 1.7 apart, 1 % at a factor of
    2, 2 % at 2.8, 4 % at 4. "parabola" is the least-squares parabola of the paper: the curve is steeper towards small
    models, so it puts the optimum too large, by BIAS_OF_THE_PARABOLA, and tilts the exponent where the sizes are not
    centred alike in every budget (by up to 0.002 where the centre wanders by a factor of 1.6 over four decades). It is
    the calmer of the two under noise: with noise of 1 % of the loss, 7 sizes and 9 budgets, its interval of the
    exponent is 0.09 wide and that of Akima's 0.22.

    Intervals: 95 %. An interpolated curve has no residuals, and a size left out by resampling moves its minimum; so
    what is resampled is the optima, one from each budget, with the scatter that they have about the line: replicates of
    the scatter's variance (scaled inverse chi-squared) and of the line under it. For one exponent this is Student's
    interval. Measured over 400 simulated studies each, 3 to 9 budgets of 7 sizes, noise of 0.1 to 1 % of the loss: it
    covers in 92 to 96 %; studentised residuals drawn with replacement covered in 71 to 78 % with 3 budgets and 90 to
    93 % with 4. The interval does not hold the bias above. With 2 budgets there is none.

    Raises ValueError where no line can be drawn: fewer than two budgets with an optimum, or points without sizes or
    images.
    """
    if method not in FEWEST_SIZES:
        raise ValueError(f"unknown method {method!r} of finding the minimum: akima or parabola")
    usable, unusable = points.clean(("parameters", "images"))
    optima, dropped = _optima(usable, method, tolerance)
    if len({optimum.cost for optimum in optima}) < 2:
        raise ValueError(_too_few(optima, dropped, method, tolerance))
    optima, lines, draws = _lines(optima, replicates, np.random.Generator(np.random.PCG64(seed)))
    if len(optima) == 2:
        draws = draws[:0]
    size_scale, a, images_scale, b = (
        _exp_of(_estimate(line, column)) if scale else _estimate(line, column)
        for line, column, scale in zip(lines, draws.T, (True, False, True, False), strict=True)
    )
    return IsoFlop(
        method=method,
        tolerance=tolerance,
        optima=optima,
        a=a,
        b=b,
        size_scale=size_scale,
        images_scale=images_scale,
        dropped=(*unusable, *dropped),
        warnings=_warnings(usable, optima, a, b, method),
        replicates=len(draws),
        seed=seed,
        draws=draws,
    )


def as_json(answer: IsoFlop) -> dict[str, Any]:
    """`answer` as plain lists and numbers at full precision, without the draws."""
    plain = asdict(answer)
    del plain["draws"]
    return {"form": "isoflop", **plain}


def budgets(cost: Floats, tolerance: float) -> list[NDArray[np.intp]]:
    """Rows of each compute budget, cheapest budget first: a row dearer than (1 + tolerance) x the first opens the
    next."""
    order = np.argsort(cost, kind="stable")
    groups: list[list[np.intp]] = []
    for row in order:
        if groups and cost[row] <= cost[groups[-1][0]] * (1 + tolerance):
            groups[-1].append(row)
        else:
            groups.append([row])
    return [np.array(group) for group in groups]


def _optima(points: Points, method: Method, tolerance: float) -> tuple[tuple[Optimum, ...], Dropped]:
    optima: list[Optimum] = []
    dropped: list[tuple[str, tuple[str, ...]]] = []
    for rows in budgets(points.cost, tolerance):
        found = _optimum(points, rows, method)
        if isinstance(found, Optimum):
            optima.append(found)
        else:
            cost = np.exp(np.log(points.cost[rows]).mean())
            dropped.append((f"budget of {cost:.3g} FLOPs: {found}", tuple(points.keys[row] for row in rows)))
    return tuple(optima), tuple(dropped)


def _optimum(points: Points, rows: NDArray[np.intp], method: Method) -> Optimum | str:
    """The optimum of one budget, or why there is none."""
    log_size, error, log_images = _curve(points, rows)
    if len(log_size) < FEWEST_SIZES[method]:
        sizes = "1 size has" if len(log_size) == 1 else f"{len(log_size)} sizes have"
        return f"only {sizes} a result, and {method} needs {FEWEST_SIZES[method]}"
    if np.ptp(error) == 0:
        return "the error is the same at every size"
    found = _akima_minimum(log_size, error) if method == "akima" else _parabola_minimum(log_size, error)
    if found is None:
        return "the error bends downwards, so the parabola has no minimum"
    at, least = found
    if not log_size[0] < at < log_size[-1]:
        edge = "smallest" if at <= log_size[0] else "largest"
        return f"the minimum is at the {edge} size, so the optimum lies outside"
    return Optimum(
        cost=float(np.exp(np.log(points.cost[rows]).mean())),
        parameters=float(np.exp(at)),
        images=float(np.exp(np.interp(at, log_size, log_images))),
        error=float(least),
        sizes_apart=float(np.exp(np.diff(log_size).mean())),
        keys=tuple(points.keys[row] for row in rows),
    )


def _curve(points: Points, rows: NDArray[np.intp]) -> tuple[Floats, Floats, Floats]:
    """Log size, rising, with the mean error and the mean log images of each size."""
    sizes, place = np.unique(points.input("parameters")[rows], return_inverse=True)
    alike = np.bincount(place)
    error = np.bincount(place, points.error[rows]) / alike
    log_images = np.bincount(place, np.log(points.input("images")[rows])) / alike
    return np.log(sizes), error, log_images


def _akima_minimum(log_size: Floats, error: Floats) -> tuple[float, float]:
    curve = Akima1DInterpolator(log_size, error)
    turns = curve.derivative().roots(extrapolate=False)
    # Of a stretch that is flat SciPy gives the start and a NaN; its two knots are candidates anyway.
    where = np.unique(np.concatenate([log_size, turns[np.isfinite(turns)]]))
    value = np.asarray(curve(where))
    lowest = where[value <= value.min()]
    return float((lowest[0] + lowest[-1]) / 2), float(value.min())


def _parabola_minimum(log_size: Floats, error: Floats) -> tuple[float, float] | None:
    middle, half = log_size.mean(), np.ptp(log_size) / 2
    constant, slope, bend = np.polynomial.polynomial.polyfit((log_size - middle) / half, error, 2)
    if bend <= 1e-12 * np.ptp(error):
        return None
    at = -slope / (2 * bend)
    return float(middle + half * at), float(constant + slope * at / 2)


def _lines(
    optima: tuple[Optimum, ...], replicates: int, random: np.random.Generator
) -> tuple[tuple[Optimum, ...], Floats, Floats]:
    """The optima with residuals; log scale and exponent of N and of D (4,); replicates of these (B, 4)."""
    log_cost = np.log([optimum.cost for optimum in optima])
    log_best_R2 = np.log([[optimum.parameters, optimum.images] for optimum in optima])
    middle = log_cost.mean()
    centred = log_cost - middle
    spread = centred @ centred
    slopes = centred @ log_best_R2 / spread
    heights = log_best_R2.mean(axis=0)
    residual_R2 = log_best_R2 - heights - centred[:, None] * slopes
    freedom = max(len(optima) - 2, 1)
    # Normals times the residuals have the residuals' covariance, so N and D err together as they do in the data.
    shrink = 1 / np.sqrt(random.chisquare(freedom, replicates))[:, None]
    heights_B2 = heights + random.standard_normal((replicates, len(optima))) @ residual_R2 * shrink / len(optima) ** 0.5
    slopes_B2 = slopes + random.standard_normal((replicates, len(optima))) @ residual_R2 * shrink / spread**0.5
    lines = np.stack([heights - slopes * middle, slopes], axis=-1).reshape(4)
    draws = np.stack([heights_B2 - slopes_B2 * middle, slopes_B2], axis=-1).reshape(replicates, 4)
    with_residuals = tuple(
        replace(optimum, residual=float(size), residual_images=float(images))
        for optimum, (size, images) in zip(optima, residual_R2, strict=True)
    )
    return with_residuals, lines, draws


def _estimate(value: float, draws: Floats) -> Estimate:
    if not len(draws):
        return Estimate(float(value), None, None)
    low, high = np.quantile(draws, [0.025, 0.975])
    return Estimate(float(value), float(low), float(high))


def _exp_of(estimate: Estimate) -> Estimate:
    """The estimate of a quantity from that of its logarithm; an end beyond what a float64 holds is open."""
    value = float(np.exp(np.clip(estimate.value, -700, 700)))
    ends = (None if end is None or abs(end) > 700 else float(np.exp(end)) for end in (estimate.low, estimate.high))
    return Estimate(value, *ends)


def _too_few(optima: tuple[Optimum, ...], dropped: Dropped, method: Method, tolerance: float) -> str:
    counts = Counter(reason.split(": ", 1)[1] for reason, _ in dropped)
    there = len(optima) + len(dropped)
    whys = [f"in {'each' if count == there else f'{count} of them'}, {why}" for why, count in counts.items()]
    reasons = f" ({'; '.join(whys)})" if whys else ""
    do = f"only {len(optima)} of the {there} here does" if optima else f"none of the {there} here does"
    return (
        "an isoFLOP law needs two compute budgets whose runs show which size is best, and "
        f"{do if there else 'there is none here'}{reasons}: train at least "
        f"{FEWEST_SIZES[method]} sizes, smaller and larger than the best, at each of two costs, equal to within "
        f"{100 * tolerance:g} %"
    )


def _warnings(points: Points, optima: tuple[Optimum, ...], a: Estimate, b: Estimate, method: Method) -> tuple[str, ...]:
    said: list[str] = []
    if len(optima) == 2:
        said.append("2 budgets: the line goes through both optima, so the exponents have no interval")
    elif len(optima) < 5:
        said.append(f"{len(optima)} budgets: the intervals rest on {len(optima) - 2} degrees of freedom")
    costs = [optimum.cost for optimum in optima]
    if max(costs) < 10 * min(costs):
        said.append(f"the budgets span a factor of {max(costs) / min(costs):.2g}: less than a decade of compute")
    for name, exponent in (("a", a), ("b", b)):
        if exponent.value < 0:
            said.append(f"the exponent {name} is negative: the optimum shrinks as compute grows")
    row_of = {key: row for row, key in enumerate(points.keys)}
    rows = [np.array([row_of[key] for key in optimum.keys]) for optimum in optima]
    apart = max(float(np.ptp(np.log(points.cost[each]))) for each in rows)
    if apart > np.log(1.02):
        said.append(f"costs inside a budget differ by up to {100 * np.expm1(apart):.2g} %: the dearer ones look better")
    rough = sum(_dips(points, each) > 1 for each in rows)
    if rough:
        said.append(
            f"{rough} of {len(optima)} budgets have more than one dip: the noise is as large as the curve's bend"
        )
    if method == "parabola":
        said.append(_parabola_sentence(points, optima, rows))
    else:
        wide = max(optimum.sizes_apart for optimum in optima)
        if wide > 2.83:
            said.append(f"sizes are a factor of {wide:.2g} apart: an optimum between them may be off by 2 % or more")
    return tuple(said)


def _dips(points: Points, rows: NDArray[np.intp]) -> int:
    _, error, _ = _curve(points, rows)
    padded = np.concatenate([[np.inf], error, [np.inf]])
    return int(np.sum((padded[1:-1] < padded[:-2]) & (padded[1:-1] < padded[2:])))


def _parabola_sentence(points: Points, optima: tuple[Optimum, ...], rows: list[NDArray[np.intp]]) -> str:
    sizes = points.input("parameters")
    reach = float(np.median([np.sqrt(sizes[each].max() / sizes[each].min()) for each in rows]))
    spreads, biases = zip(*BIAS_OF_THE_PARABOLA, strict=True)
    bias = np.interp(np.log(reach), np.log(spreads), biases)
    more = "or more " if reach > spreads[-1] else ""
    return (
        f"a parabola is biased towards large models: with sizes that reach to {reach:.2g}x on either side, by "
        f"{100 * bias:.1f} % {more}on the published surface; this is not in the interval"
    )
