"""Which configurations to train next: against linear regression and all choices, its sentences, and by simulation."""

import math
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

from studies.laws.fits import Fit, fit
from studies.laws.next_runs import Candidates, NextRuns, next_runs
from studies.laws.points import Floats, Points
from studies.laws.prediction import scatter

COSTS = np.geomspace(1e17, 1e20, 16)
MORE = np.geomspace(1e17, 1e21, 9)


def of_costs(cost: Floats, floor: float, sd: float, seed: int = 0) -> Points:
    error = (floor + 0.26 * (cost / 1e18) ** -0.35) * np.exp(np.random.default_rng(seed).normal(0, sd, len(cost)))
    return Points(cost, error, tuple(f"run {i}" for i in range(len(cost))))


def at_costs(cost: Floats = MORE) -> Candidates:
    return Candidates(tuple(f"{one:.0e}" for one in cost), cost)


@pytest.fixture(scope="module")
def law() -> Fit:
    return fit(of_costs(COSTS, 0.09, 0.03), "saturating", on_frontier=False, replicates=200)


@pytest.fixture(scope="module")
def clear() -> Fit:
    """A law whose floor is known well."""
    return fit(of_costs(np.geomspace(1e17, 1e22, 30), 0.09, 0.003), "saturating", on_frontier=False, replicates=200)


@pytest.fixture(scope="module")
def line() -> Fit:
    """A power law, which is a line in logarithms, with replicates of a known covariance in the place of its own."""
    power = fit(of_costs(COSTS, 0.0, 0.05), "power", on_frontier=False, replicates=60)
    a, b = (estimate.value for estimate in power.parameters.values())
    # Draws of the level at 3e18 FLOPs and of the exponent, independent of each other.
    level, exponent = np.random.default_rng(0).normal(size=(2, 20_000)) * [[0.02], [0.01]]
    draws = np.column_stack([np.exp(np.log(a) + level + exponent * np.log(3e18)), b + exponent])
    return replace(power, draws=draws)


def left_of(line: Fit, cost: Floats, target: float) -> float:
    """The part of the standard deviation at the target that linear regression leaves, with these runs measured."""
    noise = scatter(line)
    assert noise is not None
    before = np.diag([1 / 0.02**2, 1 / 0.01**2])
    places = np.stack([np.ones_like(cost), -np.log(cost / 3e18)])
    aim = np.array([1.0, -math.log(target / 3e18)])
    after = before + places @ places.T / noise**2
    return math.sqrt(aim @ np.linalg.solve(after, aim) / (aim @ np.linalg.solve(before, aim)))


def part_left(plan: NextRuns) -> float:
    return math.log(plan.after_high / plan.after_low) / math.log(plan.target.high / plan.target.low)


def test_the_interval_afterwards_is_that_of_linear_regression_where_the_law_is_a_line(line: Fit) -> None:
    plan = next_runs(line, at_costs(), 1e21)
    taken = np.array([run.cost for run in plan.runs])
    # Wild replicates are drawn in, which takes 2 % of a normal variance.
    assert part_left(plan) == pytest.approx(left_of(line, taken, 1e21), rel=0.02)


def test_a_plan_is_nearly_as_good_as_the_best_of_all_choices(line: Fit) -> None:
    budget = 1.5e20
    cost = np.array([2e17, 1e18, 4e18, 1.6e19, 3e19, 6e19, 8e19, 1.2e20])
    choices = [
        list(some) for n in range(1, 9) for some in combinations(range(8), n) if cost[list(some)].sum() <= budget
    ]
    best = min(left_of(line, cost[some], budget) for some in choices)
    plan = next_runs(line, at_costs(cost), budget, seeds=1)
    assert left_of(line, np.array([run.cost for run in plan.runs]), budget) <= 1.03 * best


def test_a_plan_keeps_to_its_budget_and_every_run_narrows_the_interval(law: Fit) -> None:
    plan = next_runs(law, at_costs(), 5e20)
    assert plan.total_cost == pytest.approx(sum(run.cost for run in plan.runs))
    assert 0 < plan.total_cost <= 5e20
    widths = [plan.target.high - plan.target.low] + [run.after_high - run.after_low for run in plan.runs]
    assert (np.diff(widths) < 0).all()
    assert (plan.after_low, plan.after_high) == (plan.runs[-1].after_low, plan.runs[-1].after_high)
    for run in plan.runs:
        assert run.low is not None
        assert run.high is not None
        assert run.low <= run.error <= run.high
        assert run.error == pytest.approx(law.error_at([run.cost])[0])
        assert run.seed < 2
    assert plan.target.cost == 5e20
    assert plan.left_out == (("dearer than the budget", ("1e+21",)),)


def test_the_order_of_candidates_and_asking_again_change_no_digit(law: Fit) -> None:
    plan, again = (next_runs(law, at_costs(), 3e20) for _ in range(2))
    assert plan == again
    turned = next_runs(law, at_costs(MORE[::-1]), 3e20)
    assert [run.label for run in turned.runs] == [run.label for run in plan.runs]
    assert turned.after_low == pytest.approx(plan.after_low, rel=1e-12)


def test_a_target_error_sets_the_compute_at_which_the_law_reaches_it(clear: Fit) -> None:
    plan = next_runs(clear, at_costs(), 5e20, target=0.15)
    truth = 1e18 * (0.26 / 0.06) ** (1 / 0.35)
    assert plan.reach is not None
    assert plan.reach.low is not None
    assert plan.reach.high is not None
    assert plan.reach.value == pytest.approx(truth, rel=0.05)
    assert plan.reach.low < truth < plan.reach.high
    assert plan.target.cost == plan.reach.value
    assert plan.target.error == pytest.approx(0.15, rel=1e-3)


def test_a_target_dearer_than_the_budget_is_said_with_what_it_takes(clear: Fit) -> None:
    plan = next_runs(clear, at_costs(), 1e20, target=0.1)
    assert plan.reach is not None
    assert plan.reach.value > 1e20
    assert plan.warnings[0].startswith("An error of 0.1 takes ")
    assert "times the budget" in plan.warnings[0]


def test_a_target_below_the_floor_is_out_of_reach_of_any_compute(clear: Fit, law: Fit) -> None:
    plan = next_runs(clear, at_costs(), 1e20, target=0.05)
    assert plan.reach is None
    assert plan.warnings[0].startswith("No compute reaches an error of 0.05: the law's floor c is 0.0")
    assert plan.target.cost == 1e20
    floor = law.parameters["c"]
    assert floor.low is not None
    doubtful = next_runs(law, at_costs(), 1e20, target=(floor.low + floor.value) / 2)
    assert doubtful.reach is None
    assert "but the interval of that floor does not rule it out" in doubtful.warnings[0]


def test_a_target_above_the_floor_may_be_too_far_all_the_same(line: Fit) -> None:
    plan = next_runs(line, at_costs(), 1e20, target=0.001)
    assert plan.reach is None
    assert "is out of reach: by the law it takes more than 1e+23 FLOPs" in plan.warnings[0]


def test_without_candidates_nothing_can_be_proposed() -> None:
    with pytest.raises(ValueError, match="there are no candidates, so nothing can be proposed"):
        Candidates((), np.array([]))


def test_a_budget_too_small_for_any_candidate_is_refused(law: Fit) -> None:
    with pytest.raises(
        ValueError, match=r"pays for none of the 9 candidates \(9 dearer than the budget\): .* takes 1e\+17"
    ):
        next_runs(law, at_costs(), 9e16)


@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan, math.inf])
def test_a_budget_or_target_that_is_no_positive_number_is_refused(law: Fit, bad: float) -> None:
    with pytest.raises(ValueError, match=r"a budget of .*: a number above 0 is due"):
        next_runs(law, at_costs(), bad)
    with pytest.raises(ValueError, match=r"a target error of .*: a number above 0 is due"):
        next_runs(law, at_costs(), 1e20, target=bad)


def test_a_law_without_replicates_or_scatter_cannot_be_planned_by(law: Fit) -> None:
    with pytest.raises(ValueError, match="no interval at"):
        next_runs(replace(law, draws=law.draws[:0]), at_costs(), 1e20)
    with pytest.raises(ValueError, match="3 bootstrap replicates and a plan needs 40: fit it with 1,000"):
        next_runs(replace(law, draws=law.draws[:3]), at_costs(), 1e20)
    with pytest.raises(ValueError, match="a law of 3 parameters on 3 configurations has no scatter to plan by"):
        next_runs(replace(law, residuals=law.residuals[:3], used=law.used[:3]), at_costs(), 1e20)


def test_a_target_compute_far_beyond_the_fit_is_refused_unless_forced(law: Fit) -> None:
    with pytest.raises(ValueError, match="the target compute is too far from the configurations of the fit"):
        next_runs(law, at_costs(), 2e23)
    assert next_runs(law, at_costs(), 2e23, force=True).target.cost == 2e23
    assert "Extrapolated: the target compute, 2e+21 FLOPs, is 20 times" in next_runs(law, at_costs(), 2e21).warnings[0]


def test_where_no_run_would_help_none_is_proposed() -> None:
    exact = fit(of_costs(COSTS, 0.09, 0.0), "saturating", on_frontier=False, replicates=60)
    level = replace(exact, draws=np.tile([estimate.value for estimate in exact.parameters.values()], (60, 1)))
    plan = next_runs(level, at_costs(), 1e20)
    assert plan.runs == ()
    assert plan.total_cost == 0
    assert (plan.after_low, plan.after_high) == (plan.target.low, plan.target.high)
    assert any(warning.startswith("No candidate within the budget would narrow") for warning in plan.warnings)


SIZES, IMAGES = (side.ravel() for side in np.meshgrid(np.geomspace(1e6, 1e9, 7), np.geomspace(1e6, 1e9, 7)))
BUDGET = 1e17


def measured(size: Floats, images: Floats, rng: np.random.Generator) -> Floats:
    error = 0.06 + 8 * size**-0.3 + 40 * images**-0.35
    return np.asarray(error * np.exp(rng.normal(0, 0.02, len(size))))


def on_surface(size: Floats, images: Floats, error: Floats) -> Points:
    return Points(6 * size * images, error, tuple(f"run {i}" for i in range(len(size))), size, images)


def begun(rng: np.random.Generator) -> Points:
    size, images = (side.ravel() for side in np.meshgrid(np.geomspace(1e6, 1e8, 5), np.geomspace(1e6, 1e8, 5)))
    cheap = 6 * size * images < 3e15
    return on_surface(size[cheap], images[cheap], measured(size[cheap], images[cheap], rng))


def surface_candidates() -> Candidates:
    labels = tuple(f"{size:.0e} parameters, {images:.0e} images" for size, images in zip(SIZES, IMAGES, strict=True))
    return Candidates(labels, 6 * SIZES * IMAGES, SIZES, IMAGES)


def within_budget(order: list[int]) -> list[int]:
    chosen, left = [], BUDGET
    for number in order:
        cost = 6 * SIZES[number] * IMAGES[number]
        if cost <= left:
            chosen.append(number)
            left -= cost
    return chosen


def test_a_surface_is_planned_for_at_its_compute_optimal_point() -> None:
    points = begun(np.random.default_rng(0))
    plan = next_runs(fit(points, "surface", replicates=60), surface_candidates(), BUDGET, points=points)
    assert set(plan.target.inputs) == {"parameters", "images"}
    assert 6 * plan.target.inputs["parameters"] * plan.target.inputs["images"] == pytest.approx(BUDGET)
    assert len(plan.left_out[0][1]) == int((6 * SIZES * IMAGES > BUDGET).sum())


@pytest.mark.slow
def test_proposed_runs_narrow_the_interval_more_than_random_or_the_largest_for_the_same_flops() -> None:
    widths = []
    for seed in range(8):
        rng = np.random.default_rng(seed)
        points = begun(rng)
        plan = next_runs(fit(points, "surface", replicates=100), surface_candidates(), BUDGET, points=points)
        assert plan.total_cost <= BUDGET
        target = [[plan.target.inputs["parameters"]], [plan.target.inputs["images"]]]
        proposed = [run.candidate for run in plan.runs]
        at_random = within_budget(rng.permutation(np.repeat(np.arange(len(SIZES)), 2)).tolist())
        largest = within_budget(np.argsort(-SIZES * IMAGES, kind="stable").tolist())
        widths.append([math.log(plan.after_high / plan.after_low)])
        for chosen in (proposed, at_random, largest):
            size = np.concatenate([points.parameters, SIZES[chosen]])
            images = np.concatenate([points.images, IMAGES[chosen]])
            new = measured(SIZES[chosen], IMAGES[chosen], np.random.default_rng(1_000 + seed))
            after = fit(on_surface(size, images, np.concatenate([points.error, new])), "surface", replicates=100)
            low, high = after.band_at(target)
            widths[-1].append(math.log(high[0] / low[0]))
    said, proposed_width, random_width, largest_width = np.exp(np.log(widths).mean(axis=0))
    assert proposed_width < 0.9 * random_width
    assert proposed_width < 0.6 * largest_width
    assert said == pytest.approx(proposed_width, rel=0.3), "the promised interval is about the one that comes"
