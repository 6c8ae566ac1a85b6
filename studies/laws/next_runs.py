"""Which configurations to train next: those that shrink the interval of a law at a target compute the most per FLOP.

B = bootstrap replicates, M = candidates, I = inputs of the law's form. It plans; nothing is fitted and nothing trained.
"""

import math
from dataclasses import dataclass

import numpy as np

from studies.frontiers import RowNumbers
from studies.laws.fits import Estimate, Fit, form_of
from studies.laws.points import Dropped, Floats, Points
from studies.laws.prediction import DOUBTFUL, REFUSED, draws_at, extrapolation, known, law_at, run_band, scatter
from studies.laws.targets import Target, best_along, reach_of, target_at

WORTHWHILE = 1e-3
"""The part of the interval's half-width that a further run has to take away."""
TAIL = 0.005
"""The part of the replicates on either side that is drawn in: a few wild ones would rule a covariance."""
FEWEST_REPLICATES = 40
NEGLIGIBLE = 1e-24
"""A variance of the log law below this is rounding."""


@dataclass(frozen=True)
class Candidates:
    """What could be trained: one label each, and arrays of the shape (M,); cost in FLOPs, of one run.

    parameters, images (seen in training, repeats counted), data_rows (distinct images): as the law needs them. A
    configuration that was trained already may be among them: it gets further seeds.
    Raises ValueError where there are none, or the arrays are of different lengths.
    """

    labels: tuple[str, ...]
    cost: Floats
    parameters: Floats | None = None
    images: Floats | None = None
    data_rows: Floats | None = None

    def __post_init__(self) -> None:
        if not self.labels:
            raise ValueError("there are no candidates, so nothing can be proposed: name networks and numbers of images")
        for name in ("cost", "parameters", "images", "data_rows"):
            values = getattr(self, name)
            if values is None:
                continue
            array = np.asarray(values, dtype=np.float64)
            if array.shape != (len(self.labels),):
                raise ValueError(
                    f"{name} of the shape {array.shape} for {len(self.labels)} candidates: one each is due"
                )
            object.__setattr__(self, name, array)

    def as_points(self) -> Points:
        """The same without errors, for what asks after sizes and costs alone."""
        names = tuple(str(number) for number in range(len(self.labels)))
        unknown = np.full(len(names), np.nan)
        return Points(self.cost, unknown, names, self.parameters, self.images, self.data_rows, self.labels)


@dataclass(frozen=True)
class Proposed:
    """One run, in the order in which they are worth it; intervals are of 95 %, None where they are not known.

    candidate: its number among the candidates; seed: 0 for the first run of it that is proposed, 1 for the second.
    low, high: of the law there; run_low, run_high: of this run. after_low, after_high: of the law at the target,
    once this run and those before it are measured, should they come out as expected.
    """

    label: str
    candidate: int
    seed: int
    cost: float
    error: float
    low: float | None
    high: float | None
    run_low: float | None
    run_high: float | None
    after_low: float
    after_high: float


@dataclass(frozen=True)
class NextRuns:
    """A plan. left_out: (reason, labels) of candidates that were not considered; warnings: sentences.

    reach: the compute at which the law comes down to the target error, in FLOPs; None without one or where it never
    does.
    """

    budget: float
    target: Target
    runs: tuple[Proposed, ...]
    total_cost: float
    after_low: float
    after_high: float
    reach: Estimate | None
    left_out: Dropped
    warnings: tuple[str, ...]


def next_runs(
    fit: Fit,
    candidates: Candidates,
    budget: float,
    target: float | None = None,
    *,
    seeds: int = 2,
    points: Points | None = None,
    force: bool = False,
) -> NextRuns:
    """The runs to train for at most `budget` FLOPs so that the law's interval at the target compute shrinks the most.

    The target compute is the whole budget spent on one configuration or, with `target`, an error, the compute at which
    the law reaches that error, within the budget or not. Of a surface it is the compute-optimal split there.

    Greedy design: the covariance of the log law at the target and at all candidates is that of the fit's replicates;
    with sigma the scatter of configurations about the law, a run of candidate c takes cov(target, c)^2 / (sigma^2 +
    var(c)) from the variance at the target. The run that takes the most per FLOP comes first, the covariance is updated
    as by its measurement, and so on while the budget lasts and a run takes 0.1 % or more of the half-width. The same is
    done by what a run takes in all, without regard to its cost, since cheap runs can use up what one dear run needs;
    the plan that ends with the narrower interval is returned. Nothing is linearised: replicates carry floors at their
    bounds and exponents that trade against each other as they are. The interval afterwards is the fit's own, shrunk in
    logarithm by the root of the ratio of variances. Measured on 8 simulated surfaces, where the target is 50 times
    beyond what was trained: it came out 17 % wider than said here; that is 0.74 of its width after random runs of the
    same FLOPs, and 0.46 of its width after the largest ones.

    seeds: a candidate is proposed at most so often. The scatter is taken to be between runs; if part of it is
    a configuration's own, further seeds of it bring less than is said here.
    points: those that the fit was given, to compare the sizes of candidates with; without them only costs are compared.

    Raises ValueError where nothing can be proposed: a budget that pays for no candidate, a law without an interval at
    the target or without a known scatter, a target not above 0, a target compute more than 1,000 times beyond the
    costs fitted on (unless `force`).
    """
    _check(budget, target)
    usable, left_out = _usable(fit, candidates, budget, points, force)
    along = best_along(fit, candidates.as_points())
    reach, warnings = (None, []) if target is None else reach_of(fit, along, budget, target)
    aim = target_at(fit, along, budget if reach is None else reach.value, force=force)
    input_IM = candidates.as_points().inputs(form_of(fit.form).inputs)[:, usable]
    covariance = _covariance(fit, np.column_stack([list(aim.inputs.values()), input_IM]))
    noise = _noise(fit)
    plans = [
        _greedy(covariance, candidates.cost[usable], noise**2, budget, seeds, per_flop=per_flop)
        for per_flop in (True, False)
    ]
    order, left = min(plans, key=lambda plan: plan[1][-1] if plan[1] else 1.0)
    runs = _proposed(fit, aim, candidates, usable, input_IM, order, left)
    low, high = (runs[-1].after_low, runs[-1].after_high) if runs else (aim.low, aim.high)
    warnings += _warnings(fit, aim, runs)
    total = math.fsum(run.cost for run in runs)
    return NextRuns(budget, aim, runs, total, low, high, reach, left_out, tuple(warnings))


def _check(budget: float, target: float | None) -> None:
    if not (math.isfinite(budget) and budget > 0):
        raise ValueError(f"a budget of {budget:g} FLOPs: a number above 0 is due")
    if target is not None and not (math.isfinite(target) and target > 0):
        raise ValueError(f"a target error of {target:g}: a number above 0 is due")


def _usable(
    fit: Fit, candidates: Candidates, budget: float, points: Points | None, force: bool
) -> tuple[RowNumbers, Dropped]:
    """Numbers of the candidates that can be considered, and why others are not."""
    asked = candidates.as_points()
    names = dict.fromkeys(("cost", *form_of(fit.form).inputs))
    values = {name: asked.input(name) for name in names}
    reasons: dict[str, list[str]] = {}
    usable = []
    for number, label in enumerate(candidates.labels):
        said = {name: float(of[number]) for name, of in values.items()}
        if not all(math.isfinite(value) and value > 0 for value in said.values()):
            reasons.setdefault("no cost or size above 0", []).append(label)
        elif said["cost"] > budget:
            reasons.setdefault("dearer than the budget", []).append(label)
        elif not force and extrapolation(fit, said, points)[0] > REFUSED:
            reasons.setdefault(f"more than {REFUSED:,.0f} times beyond the range fitted on", []).append(label)
        else:
            usable.append(number)
    if not usable:
        counted = ", ".join(f"{len(labels)} {reason}" for reason, labels in reasons.items())
        least = min((value for value in values["cost"] if value > 0), default=math.nan)
        raise ValueError(
            f"a budget of {budget:.3g} FLOPs pays for none of the {len(candidates.labels)} candidates ({counted}): "
            f"the cheapest takes {least:.3g}"
        )
    return np.array(usable, dtype=np.intp), tuple((reason, tuple(labels)) for reason, labels in reasons.items())


def _covariance(fit: Fit, input_IM: Floats) -> Floats:
    """Of the log law at the target, which comes first, and at the candidates, over the replicates: (1 + M, 1 + M)."""
    if len(fit.draws) < FEWEST_REPLICATES:
        raise ValueError(
            f"the fit has {len(fit.draws)} bootstrap replicates and a plan needs {FEWEST_REPLICATES}: fit it with 1,000"
        )
    log_BM = draws_at(fit, input_IM)
    least_M, most_M = np.quantile(log_BM, (TAIL, 1 - TAIL), axis=0)
    log_BM = np.clip(log_BM, least_M, most_M)
    log_BM = log_BM - log_BM.mean(axis=0)
    # Without BLAS, whose sums depend on the number of threads: the same question has the same plan.
    return np.asarray(np.einsum("bm,bn->mn", log_BM, log_BM) / (len(log_BM) - 1))


def _noise(fit: Fit) -> float:
    noise = scatter(fit)
    if noise is None:
        raise ValueError(
            f"a law of {len(fit.parameters)} parameters on {len(fit.used)} configurations has no scatter to plan by: "
            "train more configurations, or ask for a simpler form"
        )
    return noise


def _greedy(
    covariance: Floats, cost_M: Floats, variance: float, budget: float, seeds: int, *, per_flop: bool
) -> tuple[list[int], list[float]]:
    """Candidates in the order of their worth, and after each the part of the half-width at the target that is left."""
    now, before = covariance.copy(), covariance[0, 0]
    taken_M = np.zeros(len(cost_M), dtype=np.intp)
    order: list[int] = []
    left: list[float] = []
    money = budget
    while now[0, 0] > NEGLIGIBLE:
        own_M = variance + np.diagonal(now)[1:]
        gain_M = np.divide(now[0, 1:] ** 2, own_M, out=np.zeros_like(cost_M), where=own_M > 0)
        allowed_M = (cost_M <= money) & (taken_M < seeds) & (gain_M > 0)
        allowed_M &= gain_M >= (1 - (1 - WORTHWHILE) ** 2) * now[0, 0]
        if not allowed_M.any():
            break
        chosen = int(np.argmax(np.where(allowed_M, gain_M / cost_M if per_flop else gain_M, -1.0)))
        column = now[:, 1 + chosen].copy()
        now -= np.outer(column, column) / own_M[chosen]
        taken_M[chosen] += 1
        money -= cost_M[chosen]
        order.append(chosen)
        left.append(math.sqrt(max(now[0, 0], 0.0) / before))
    return order, left


def _proposed(
    fit: Fit,
    aim: Target,
    candidates: Candidates,
    usable: RowNumbers,
    input_IM: Floats,
    order: list[int],
    left: list[float],
) -> tuple[Proposed, ...]:
    bands = law_at(fit, input_IM)
    error_M, low_M, high_M, run_low_M, run_high_M = (*bands, *run_band(fit, *bands))
    return tuple(
        Proposed(
            label=candidates.labels[usable[place]],
            candidate=int(usable[place]),
            seed=order[:step].count(place),
            cost=float(candidates.cost[usable[place]]),
            error=float(error_M[place]),
            low=known(float(low_M[place])),
            high=known(float(high_M[place])),
            run_low=known(float(run_low_M[place])),
            run_high=known(float(run_high_M[place])),
            after_low=aim.error * (aim.low / aim.error) ** part,
            after_high=aim.error * (aim.high / aim.error) ** part,
        )
        for step, (place, part) in enumerate(zip(order, left, strict=True))
    )


def _warnings(fit: Fit, aim: Target, runs: tuple[Proposed, ...]) -> list[str]:
    said = []
    dearest = fit.cost_range[1]
    if aim.cost > DOUBTFUL * dearest:
        said.append(
            f"Extrapolated: the target compute, {aim.cost:.3g} FLOPs, is {aim.cost / dearest:,.3g} times that of the "
            "dearest configuration of the fit."
        )
    if not runs:
        said.append("No candidate within the budget would narrow the interval at the target by 0.1 % or more.")
    if form_of(fit.form).inputs == ("cost",):
        said.append("A law of cost takes each candidate to be as good as the frontier at its cost: propose only such.")
    return said
