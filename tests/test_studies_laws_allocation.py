"""Compute-optimal sizes and images from fitted surfaces, against brute force and the published law."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from studies.laws.allocation import Rate, allocation, as_json, rate
from studies.laws.fits import Estimate, Fit, fit
from studies.laws.points import Floats, Points

CHINCHILLA = {"E": 1.69, "A": 406.4, "alpha": 0.34, "B": 410.7, "beta": 0.28}
DENSE = Rate(6.0, 6.0, 6.0)


def known(parameters: dict[str, float], draws: Floats | None = None) -> Fit:
    """A fit whose parameters are these, without points."""
    return Fit(
        form="surface" if len(parameters) == 5 else "repeated-surface",
        parameters={name: Estimate(value, value, value) for name, value in parameters.items()},
        objective=0.0,
        delta=1.0,
        starts=1,
        agreeing=1,
        gradient_norm=0.0,
        residuals=(),
        aicc=None,
        left_out=None,
        used=(),
        dropped=(),
        warnings=(),
        replicates=0,
        seed=0,
        on_frontier=False,
        cost_range=(1e18, 1e24),
        luck=None,
        draws=np.zeros((0, len(parameters))) if draws is None else draws,
    )


def test_the_published_surface_splits_the_budget_as_its_paper_says() -> None:
    # arXiv:2203.15556, approach 3: a = 0.46, b = 0.54; the 5.76e23 FLOPs of Gopher buy about 40 billion parameters.
    answer = allocation(known(CHINCHILLA), 5.76e23, DENSE)
    assert round(answer.a.value, 2) in (0.45, 0.46)
    assert round(answer.b.value, 2) in (0.54, 0.55)
    assert 30e9 < answer.parameters.value < 45e9
    assert answer.parameters.value * answer.images.value == pytest.approx(5.76e23 / 6, rel=1e-12)


@settings(max_examples=60, deadline=None)
@given(
    st.floats(0, 0.5), st.floats(0.1, 100), st.floats(0.05, 1.5), st.floats(0.1, 100), st.floats(0.05, 1.5),
    st.floats(0.05, 100), st.floats(6, 14), st.booleans(),
)  # fmt: skip
def test_no_other_split_of_the_budget_has_a_smaller_error(
    floor: float, size: float, alpha: float, data: float, beta: float, worth: float, log_cost: float, capped: bool
) -> None:
    surface = {"E": floor, "A": size, "alpha": alpha, "B": data, "beta": beta, "R_D": worth}
    fitted = known(surface)
    cost = 10**log_cost
    distinct = cost**0.3 if capped else None
    answer = allocation(fitted, cost, Rate(2.0, 2.0, 2.0), distinct=distinct)
    parameters = answer.parameters.value * np.geomspace(1e-3, 1e3, 4001)
    images = cost / 2 / parameters
    there = images if distinct is None else np.minimum(images, distinct)
    error = fitted.error_at([parameters, images, there])
    assert answer.error.value <= error.min() * (1 + 1e-12)
    assert answer.error.value == pytest.approx(error[2000], rel=1e-9)


def test_repeats_that_are_worth_nothing_are_not_bought_and_those_worth_all_change_nothing() -> None:
    fresh = allocation(known(CHINCHILLA), 1e22, DENSE)
    distinct = fresh.images.value / 10
    dear = allocation(known({**CHINCHILLA, "R_D": 1e-3}), 1e22, DENSE, distinct=distinct)
    free = allocation(known({**CHINCHILLA, "R_D": 1e5}), 1e22, DENSE, distinct=distinct)
    assert dear.passes == pytest.approx(1, abs=0.02)
    assert free.passes == pytest.approx(10, rel=1e-3)
    assert dear.error.value > free.error.value > fresh.error.value * (1 - 1e-12)
    assert dear.parameters.value > free.parameters.value


def test_a_cap_that_does_not_bind_changes_nothing() -> None:
    fresh = allocation(known(CHINCHILLA), 1e22, DENSE)
    capped = allocation(known({**CHINCHILLA, "R_D": 10.0}), 1e22, DENSE, distinct=2 * fresh.images.value)
    assert capped.parameters.value == pytest.approx(fresh.parameters.value, rel=1e-9)
    assert capped.passes == 1


def test_intervals_are_the_percentiles_of_the_replicates_optima() -> None:
    random = np.random.default_rng(0)
    draws = np.array(list(CHINCHILLA.values())) * np.exp(0.05 * random.standard_normal((500, 5)))
    answer = allocation(known(CHINCHILLA, draws), 1e22, DENSE)
    each = [allocation(known(dict(zip(CHINCHILLA, row, strict=True))), 1e22, DENSE).parameters.value for row in draws]
    assert answer.parameters.low == np.quantile(each, 0.025, method="inverted_cdf")
    assert answer.parameters.high == np.quantile(each, 0.975, method="inverted_cdf")


def test_replicates_without_an_optimum_leave_the_interval_open() -> None:
    draws = np.tile(np.array(list(CHINCHILLA.values())), (100, 1))
    draws[:10, 2] = 0.0
    draws[10:20, 4] = 0.0
    draws[20:25, [2, 4]] = 0.0
    answer = allocation(known(CHINCHILLA, draws), 1e22, DENSE)
    assert (answer.parameters.low, answer.parameters.high) == (None, None)


def test_k_is_the_geometric_mean_over_configurations_and_its_spread_is_said() -> None:
    cost, parameters, images = np.array([6e15, 24e15, np.nan]), np.full(3, 1e7), np.full(3, 1e8)
    points = Points(cost, np.full(3, 0.5), ("a", "b", "c"), parameters=parameters, images=images)
    answer = rate(points)
    assert (answer.k, answer.least, answer.most) == pytest.approx((12, 6, 24))
    said = allocation(known(CHINCHILLA), 1e22, answer).warnings
    assert any("differ from 6 to 24" in sentence for sentence in said)


def test_a_budget_far_beyond_the_runs_is_said() -> None:
    assert any("1e+03 times" in sentence for sentence in allocation(known(CHINCHILLA), 1e27, DENSE).warnings)
    assert allocation(known(CHINCHILLA), 9e24, DENSE).warnings == ()


@pytest.mark.parametrize("cost", [0.0, -1.0, float("nan"), float("inf")])
def test_a_budget_that_is_none_is_refused(cost: float) -> None:
    with pytest.raises(ValueError, match="more than zero"):
        allocation(known(CHINCHILLA), cost, DENSE)


@pytest.mark.parametrize("vanished", ["A", "alpha", "B", "beta"])
def test_a_surface_without_a_term_has_no_best_size(vanished: str) -> None:
    with pytest.raises(ValueError, match="no best size"):
        allocation(known({**CHINCHILLA, vanished: 0.0}), 1e22, DENSE)


def test_a_law_of_cost_has_no_sizes_to_choose() -> None:
    with pytest.raises(ValueError, match="knows no sizes"):
        allocation(replace(known(CHINCHILLA), form="power"), 1e22, DENSE)


def test_points_without_sizes_have_no_k() -> None:
    with pytest.raises(ValueError, match="needs the parameters"):
        rate(Points(np.ones(1), np.ones(1), ("a",)))
    with pytest.raises(ValueError, match="has no k"):
        rate(Points(np.ones(1), np.ones(1), ("a",), parameters=np.zeros(1), images=np.ones(1)))


def test_a_cap_that_binds_needs_to_know_what_repeats_are_worth() -> None:
    with pytest.raises(ValueError, match="fit the form repeated-surface"):
        allocation(known(CHINCHILLA), 1e22, DENSE, distinct=1e9)
    unknown = known({**CHINCHILLA, "R_D": 10.0})
    unknown.parameters["R_D"] = Estimate(10.0, None, None)
    with pytest.raises(ValueError, match="what that is worth is not known"):
        allocation(unknown, 1e22, DENSE, distinct=1e9)


def test_the_allocation_of_a_fitted_surface_is_that_of_the_true_one() -> None:
    parameters, images = (side.ravel() for side in np.meshgrid(np.geomspace(1e6, 1e9, 5), np.geomspace(1e7, 1e10, 5)))
    error = 0.09 + 8 * parameters**-0.34 + 30 * images**-0.28
    keys = tuple(map(str, range(25)))
    points = Points(6 * parameters * images, error, keys, parameters=parameters, images=images)
    answer = allocation(fit(points, "surface", replicates=50), 1e19, rate(points))
    true = allocation(known({"E": 0.09, "A": 8, "alpha": 0.34, "B": 30, "beta": 0.28}), 1e19, DENSE)
    assert answer.parameters.value == pytest.approx(true.parameters.value, rel=1e-6)
    assert answer.error.value == pytest.approx(true.error.value, rel=1e-9)
    assert json.loads(json.dumps(as_json(answer)))["a"]["value"] == answer.a.value
