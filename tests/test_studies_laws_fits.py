"""Fitted laws: that they recover what is known, depend on nothing they should not, and say how far to trust them."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from studies.laws.fits import FORMS, Fit, aicc, as_json, fit, form_of, from_json
from studies.laws.points import Floats, Points

COST = np.geomspace(1e17, 1e21, 16)


def _points(cost: Floats, error: Floats) -> Points:
    return Points(cost, error, tuple(f"run {row:02}" for row in range(len(cost))))


def _noisy(count: int = 20, size: float = 0.03, seed: int = 0) -> Points:
    cost = np.geomspace(1e17, 1e21, count)
    law = 0.09 + 0.4 * (cost / 1e17) ** -0.35
    return _points(cost, law * np.exp(size * np.random.default_rng(seed).normal(size=count)))


def _values(answer: Fit) -> list[float]:
    return [estimate.value for estimate in answer.parameters.values()]


@settings(deadline=None, max_examples=15)
@given(error=st.floats(0.01, 1), b=st.floats(0.01, 1.5))
def test_a_power_law_without_noise_is_recovered(error: float, b: float) -> None:
    a = error * COST[0] ** b
    found = fit(_points(COST, a * COST**-b), "power", replicates=0)
    np.testing.assert_allclose(_values(found), [a, b], rtol=1e-6)


@settings(deadline=None, max_examples=15)
@given(c=st.floats(0.01, 0.5), excess=st.floats(0.05, 1), b=st.floats(0.1, 1.5))
def test_a_saturating_law_without_noise_is_recovered(c: float, excess: float, b: float) -> None:
    a = excess * COST[0] ** b
    found = fit(_points(COST, c + a * COST**-b), "saturating", replicates=0)
    np.testing.assert_allclose(_values(found), [c, a, b], rtol=1e-6)


@settings(deadline=None, max_examples=15)
@given(c=st.floats(0.01, 0.5), excess=st.floats(0.1, 1), b=st.floats(0.15, 1), log_d=st.floats(-1, 3))
def test_a_doubly_saturating_law_without_noise_is_recovered(c: float, excess: float, b: float, log_d: float) -> None:
    d = COST[0] * np.exp(log_d)
    a = excess * (COST[0] + d) ** b
    found = fit(_points(COST, c + a * (COST + d) ** -b), "double-saturating", replicates=0)
    np.testing.assert_allclose(_values(found), [c, a, b, d], rtol=1e-6)


def test_the_published_law_of_the_second_paper_is_derived_again() -> None:
    # arXiv:2106.04560v2, Figure 2: E = 0.09 + 0.26 (C + 0.01)^-0.35, C in TPUv3 core-days.
    core_days = np.geomspace(0.03, 3e4, 24)
    error = 0.09 + 0.26 * (core_days + 0.01) ** -0.35
    found = fit(_points(core_days, error), "double-saturating")
    np.testing.assert_allclose(_values(found), [0.09, 0.26, 0.35, 0.01], rtol=1e-6)
    noise = np.exp(0.02 * np.random.default_rng(4).normal(size=24))
    noisy = fit(_points(core_days, error * noise), "double-saturating", on_frontier=False)
    for estimate, published in zip(noisy.parameters.values(), [0.09, 0.26, 0.35, 0.01], strict=True):
        assert estimate.low is not None
        assert estimate.high is not None
        assert estimate.low <= published <= estimate.high


@pytest.mark.parametrize("form", ["power", "saturating", "double-saturating"])
@pytest.mark.parametrize("on_frontier", [True, False])
def test_the_order_of_the_points_changes_no_digit(form: str, on_frontier: bool) -> None:
    points = _noisy()
    order = np.random.default_rng(1).permutation(len(points))
    first, second = (fit(each, form, on_frontier=on_frontier, replicates=50) for each in (points, points.take(order)))
    assert as_json(first) == as_json(second)
    np.testing.assert_array_equal(first.draws, second.draws)


def test_the_same_question_has_the_same_digits_and_another_seed_has_other_draws() -> None:
    first, again, other = (fit(_noisy(), "saturating", replicates=60, seed=seed) for seed in (1, 1, 2))
    assert as_json(first) == as_json(again)
    np.testing.assert_array_equal(first.draws, again.draws)
    assert _values(first) == _values(other)
    assert not np.array_equal(first.draws, other.draws)


def test_units_of_cost_change_nothing_but_the_scale() -> None:
    points = _noisy()
    flops = fit(points, "saturating", replicates=50)
    exaflops = fit(replace(points, cost=points.cost / 1e18), "saturating", replicates=50)
    c, a, b = _values(flops)
    np.testing.assert_allclose(_values(exaflops), [c, a / 1e18**b, b], rtol=1e-8)
    assert exaflops.objective == pytest.approx(flops.objective, rel=1e-9)
    np.testing.assert_allclose(exaflops.draws[:, 2], flops.draws[:, 2], rtol=1e-5, atol=1e-9)


def test_only_points_on_the_frontier_are_used_unless_all_are_asked_for() -> None:
    points = _noisy()
    worse = Points(np.array([3e19]), np.array([0.9]), ("worse",))
    both = Points(np.append(points.cost, worse.cost), np.append(points.error, worse.error), (*points.keys, "worse"))
    on_it, every = fit(both, "saturating", replicates=0), fit(both, "saturating", on_frontier=False, replicates=0)
    assert on_it.on_frontier
    assert "worse" not in on_it.used
    assert "worse" in dict(on_it.dropped)["not on the frontier"]
    assert set(every.used) == set(both.keys)
    assert dict(every.residuals)["worse"] > 1


def test_what_is_left_out_is_counted_by_reason() -> None:
    points = _noisy()
    bad = Points(np.append(points.cost, [1e18, np.nan]), np.append(points.error, [0.0, 0.5]), (*points.keys, "x", "y"))
    dropped = dict(fit(bad, "saturating", on_frontier=False, replicates=0).dropped)
    assert dropped == {"an error of exactly 0, which has no logarithm": ("x",), "no finite cost": ("y",)}


def test_residuals_are_logs_of_measured_over_law() -> None:
    points = _noisy()
    found = fit(points, "saturating", on_frontier=False, replicates=0)
    expected = np.log(points.error / found.error_at(points.cost))
    np.testing.assert_allclose([residual for _, residual in found.residuals], expected, atol=1e-12)
    assert [key for key, _ in found.residuals] == list(points.keys)


def test_the_dearest_configurations_are_predicted_by_the_others() -> None:
    points = _noisy()
    twice = Points(np.append(points.cost, 1e21), np.append(points.error, 0.1), (*points.keys, "twin"))
    left = fit(twice, "saturating", on_frontier=False, replicates=0).left_out
    assert left is not None
    assert set(left.keys) == {"run 19", "twin"}
    without = fit(points.take(np.arange(19)), "saturating", on_frontier=False, replicates=0)
    np.testing.assert_allclose(left.predicted, without.error_at(np.array([1e21, 1e21])), rtol=0.01)
    assert left.log_error == pytest.approx(np.sqrt(np.mean(np.log(np.divide(left.measured, left.predicted)) ** 2)))


def test_with_no_more_points_than_parameters_nothing_is_left_out() -> None:
    assert fit(_noisy(3), "saturating", on_frontier=False).left_out is None


def test_a_fit_survives_json_in_every_digit() -> None:
    first = fit(_noisy(), "saturating", replicates=50)
    written = json.dumps(as_json(first))
    again = from_json(json.loads(written), first.draws)
    assert json.dumps(as_json(again)) == written
    assert again.parameters == first.parameters
    assert again.left_out == first.left_out
    np.testing.assert_array_equal(again.band_at([1e22])[0], first.band_at([1e22])[0])


def test_the_band_holds_the_law_and_widens_with_the_level_and_beyond_the_points() -> None:
    found = fit(_noisy(), "saturating")
    cost = np.array([1e18, 1e20, 1e23])
    low, high = found.band_at(cost)
    low50, high50 = found.band_at(cost, level=0.5)
    law = found.error_at(cost)
    assert np.all((low < low50) & (low50 <= law) & (law <= high50) & (high50 < high))
    relative = (high - low) / law
    assert relative[2] > relative[1]


def test_without_replicates_there_is_no_band() -> None:
    found = fit(_noisy(), "saturating", replicates=0)
    assert np.isnan(found.band_at([1e18])[0]).all()
    assert all(estimate.low is None and estimate.high is None for estimate in found.parameters.values())


def test_aicc_is_akaikes_of_normal_residuals() -> None:
    residuals = np.array([0.1, -0.2, 0.1, 0.05, -0.05])
    expected = 5 * np.log(np.mean(residuals**2)) + 2 * 3 + 2 * 3 * 4 / (5 - 3 - 1)
    assert aicc(residuals, 2) == pytest.approx(expected)
    assert aicc(residuals[:4], 2) is None


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_known_by_its_name(form: str) -> None:
    assert form_of(form).name == form


@pytest.mark.parametrize(
    ("ask", "sentence"),
    [
        (lambda: fit(_noisy(), "cubic"), "unknown form 'cubic' of a law: power, saturating"),
        (lambda: fit(_noisy(), "power", replicates=-1), "-1 replicates"),
        (lambda: fit(_noisy(), "surface"), "do not say their number of parameters"),
        (lambda: fit(_noisy(), "power", replicates=0).band_at([1e18], level=95), "a level of 95"),
        (lambda: fit(_noisy(), "power", replicates=0).error_at([0.0]), "must be finite and above zero"),
        (lambda: fit(_noisy(), "power", replicates=0).error_at(([1e18], [1e6])), "is a function of cost"),
    ],
)
def test_a_question_without_an_answer_is_refused_in_a_sentence(ask: object, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        ask()  # type: ignore[operator]
