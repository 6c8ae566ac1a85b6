"""What a fit says about itself: data that carry no law get a sentence, never a traceback or a bare number."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from studies.laws.fits import Fit, fit
from studies.laws.points import Floats, Points

FORMS = ["power", "saturating", "double-saturating"]
COST = np.geomspace(1e17, 1e21, 16)
NOISE = np.random.default_rng(0).normal(size=16)


def _fit(cost: Floats, error: Floats, form: str = "saturating", **options: object) -> Fit:
    points = Points(cost, error, tuple(f"run {row:02}" for row in range(len(cost))))
    return fit(points, form, **({"on_frontier": False, "replicates": 200} | options))  # type: ignore[arg-type]


def _said(answer: Fit) -> str:
    return " ".join(answer.warnings)


def test_a_good_fit_has_nothing_to_say() -> None:
    found = _fit(COST, (0.09 + 0.4 * (COST / 1e17) ** -0.35) * np.exp(0.02 * NOISE))
    assert found.warnings == ()


def test_fewer_points_than_parameters_are_refused_and_what_was_left_out_is_counted() -> None:
    with pytest.raises(ValueError, match="has 3 parameters and there are 2 points: train more, or ask"):
        _fit(COST[:2], np.array([0.5, 0.4]))
    with pytest.raises(ValueError, match=r"2 points \(1 left out: an error of exactly 0, which has no logarithm\)"):
        _fit(COST[:3], np.array([0.5, 0.4, 0.0]))
    with pytest.raises(ValueError, match="there are 4 points at 2 different places"):
        _fit(np.repeat(COST[:2], 2), np.array([0.5, 0.4, 0.3, 0.2]))


@pytest.mark.parametrize("form", FORMS)
def test_no_points_and_one_point_are_refused(form: str) -> None:
    with pytest.raises(ValueError, match="there are 0 points"):
        _fit(np.zeros(0), np.zeros(0), form)
    with pytest.raises(ValueError, match="there are 1 point:"):
        _fit(np.ones(1), np.ones(1), form)


@pytest.mark.parametrize("form", FORMS)
def test_one_distinct_cost_is_refused(form: str) -> None:
    with pytest.raises(ValueError, match="all 6 points have the same cost"):
        _fit(np.full(6, 1e18), np.linspace(0.1, 0.2, 6), form)


def test_two_points_are_a_power_law_that_nothing_tests() -> None:
    found = _fit(COST[[0, 15]], np.array([0.5, 0.1]), "power")
    assert found.parameters["b"].value == pytest.approx(np.log(5) / np.log(1e4))
    assert found.parameters["b"].low is None
    assert "2 points for 2 parameters: the law goes through every one, so nothing tests it" in _said(found)


def test_hardly_more_points_than_parameters_are_said() -> None:
    found = _fit(COST[::4], np.array([0.5, 0.3, 0.2, 0.15]), "saturating")
    assert "Only 4 points for 3 parameters: the interval rests on 1 residual." in found.warnings
    assert "Only 4 distinct costs: a floor is not identified with fewer than 5." in found.warnings


@pytest.mark.parametrize("form", FORMS)
def test_constant_errors_are_said(form: str) -> None:
    found = _fit(COST, np.full(16, 0.3), form)
    assert "All errors are equal: there is nothing to fit" in _said(found)
    np.testing.assert_allclose(found.error_at(COST), 0.3, rtol=1e-6)


@pytest.mark.parametrize("form", FORMS)
def test_rising_errors_are_said(form: str) -> None:
    found = _fit(COST, 0.2 * (COST / 1e17) ** 0.05 * np.exp(0.01 * NOISE), form)
    assert found.parameters["b"].value == 0
    assert "The error does not fall along these points: the exponent is at its bound, 0." in found.warnings


def test_a_floor_that_the_points_do_not_show_is_said() -> None:
    found = _fit(COST, 0.5 * (COST / 1e17) ** -0.1 * np.exp(0.03 * NOISE))
    floor = found.parameters["c"]
    assert floor.low == 0
    assert "The floor c is" in _said(found)
    assert "A power law explains these points better for its size" in _said(found)


def test_a_law_with_an_exponent_of_zero_does_not_tell_floor_and_amplitude_apart() -> None:
    found = _fit(COST, 0.2 * (COST / 1e17) ** 0.05 * np.exp(0.01 * NOISE))
    assert "do not tell" in _said(found)
    assert found.parameters["a"].low is None
    assert found.parameters["a"].high is None


def test_a_range_of_cost_below_a_decade_is_said() -> None:
    cost = np.geomspace(1e18, 4e18, 10)
    found = _fit(cost, 0.3 * (cost / 1e18) ** -0.2 * np.exp(0.01 * NOISE[:10]), "power")
    assert "The cost spans a factor of 4 only" in _said(found)


def test_errors_of_one_and_of_zero_are_said() -> None:
    error = (0.09 + 0.4 * (COST / 1e17) ** -0.35) * np.exp(0.02 * NOISE)
    error[0], error[7] = 1.0, 0.0
    found = _fit(COST, error)
    assert "An error of 1 (nothing right) at run 00: is that run sound?" in found.warnings
    assert dict(found.dropped)["an error of exactly 0, which has no logarithm"] == ("run 07",)


def test_too_few_replicates_are_said() -> None:
    found = _fit(COST, (0.09 + 0.4 * (COST / 1e17) ** -0.35) * np.exp(0.02 * NOISE), replicates=5)
    assert "5 replicates: an interval needs at least 40." in found.warnings
    assert found.parameters["c"].low is None


def test_resamples_of_a_short_frontier_that_carry_no_law_are_said() -> None:
    error = np.array([0.5, 0.9, 0.49, 0.9, 0.48, 0.9, 0.47, 0.46])
    found = _fit(COST[::2], error, "double-saturating", on_frontier=True)
    assert len(found.used) == 5
    assert "resamples had too few different points for a fit and were drawn anew" in _said(found)


def test_a_step_is_no_law_and_its_exponent_is_open() -> None:
    cost, error = np.geomspace(1e18, 1e19, 16), np.full(16, 0.2)
    error[0] = 0.9
    found = _fit(cost, error * np.exp(0.01 * NOISE))
    assert found.parameters["b"].high is None
    assert "b is not identified: its interval is open" in _said(found)


# Errors as accuracies on 50 images give them: many equal, some 0 and some 1, rising and falling.
@settings(deadline=None, max_examples=40)
@given(
    errors=st.lists(st.integers(0, 50), min_size=0, max_size=8),
    costs=st.lists(st.sampled_from([1e17, 2e17, 1e18, 1e20, 1e24]), min_size=8, max_size=8),
    form=st.sampled_from(FORMS),
    on_frontier=st.booleans(),
)
def test_any_small_study_gets_a_law_or_a_sentence(
    errors: list[int], costs: list[float], form: str, on_frontier: bool
) -> None:
    cost, error = np.array(costs[: len(errors)]), np.array(errors) / 50
    refused = ""
    try:
        found = _fit(cost, error, form, on_frontier=on_frontier, replicates=40)
    except ValueError as sentence:
        refused = str(sentence)
    if refused:
        assert "points have the same cost" in refused or "parameters and there are" in refused
        return
    values = np.array([estimate.value for estimate in found.parameters.values()])
    assert np.isfinite(values).all()
    assert np.isfinite(found.error_at(cost)).all()
    if len(found.used) <= len(found.parameters) + 2:
        assert found.warnings
