"""The forms of cost: their slopes, their coordinates, their units."""

import numpy as np
import pytest

from studies.laws.forms import DOUBLE_SATURATING, POWER, SATURATING, Form, Scale, scale_of
from studies.laws.points import Floats

FORMS = [POWER, SATURATING, DOUBLE_SATURATING]
COST = np.geomspace(3e16, 2e21, 9)
ERROR = 0.05 + 0.3 * (COST / 1e17) ** -0.3


def _random(form: Form) -> tuple[Scale, Floats, Floats]:
    scale = scale_of(COST[None], ERROR)
    low, high = form.box(scale, np.full(30, np.exp(scale.log_least)))
    # Within 3 nats of the errors, where a law may be, and away from the bounds, where differences would leave the box.
    low, high = np.maximum(low, -3.0), np.minimum(high, 3.0)
    theta = low + (high - low) * np.random.default_rng(1).uniform(0.01, 0.99, low.shape)
    return scale, theta, np.log(COST / scale.input_unit[0])[None]


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
def test_slopes_are_those_of_the_law(form: Form) -> None:
    scale, theta, x = _random(form)
    slopes = form.logs(theta, x, scale)[1]
    for coordinate in range(len(form.parameters)):
        step = np.zeros(theta.shape[1])
        step[coordinate] = 1e-6
        rise = (form.logs(theta + step, x, scale)[0] - form.logs(theta - step, x, scale)[0]) / 2e-6
        np.testing.assert_allclose(slopes[:, coordinate], rise, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
def test_the_law_is_the_same_in_the_coordinates_of_a_fit_and_in_parameters_as_quoted(form: Form) -> None:
    scale, theta, x = _random(form)
    inside = form.logs(theta, x, scale)[0] + np.log(scale.error_unit)
    np.testing.assert_allclose(form.log_at(form.outside(theta, scale), COST[None]), inside, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize(
    ("form", "parameters", "expected"),
    [
        (POWER, [2.0, 0.5], 2 * 4e18**-0.5),
        (SATURATING, [0.1, 2.0, 0.5], 0.1 + 2 * 4e18**-0.5),
        (DOUBLE_SATURATING, [0.1, 2e4, 0.5, 5e18], 0.1 + 2e4 * 9e18**-0.5),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_the_forms_are_those_of_the_paper(form: Form, parameters: list[float], expected: float) -> None:
    found = np.exp(form.log_at(np.array([parameters]), np.array([[4e18]])))[0, 0]
    assert found == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
def test_some_start_of_the_grid_is_near_a_law_without_noise(form: Form) -> None:
    scale = scale_of(COST[None], ERROR)
    x, y = np.log(COST / scale.input_unit[0])[None], np.log(ERROR / scale.error_unit)[None]
    start_KGP = form.starts(y, np.ones_like(y), x, scale)
    misses = np.abs(form.logs(start_KGP[0], x, scale)[0] - y).max(axis=1)
    assert misses.min() < (0.2 if form is POWER else 0.1)


def test_costs_near_the_largest_float_neither_overflow_nor_warn() -> None:
    cost = np.geomspace(1e-290, 1e290, 5)
    scale = scale_of(cost[None], np.ones(5))
    theta = np.array([[0.5, 40.0, 10.0, 600.0], [0.0, -40.0, 10.0, 0.0]])
    x = (np.log(cost) - np.log(scale.input_unit[0]))[None]
    assert np.isfinite(DOUBLE_SATURATING.logs(theta, x, scale)[0]).all()
    assert np.isfinite(DOUBLE_SATURATING.outside(theta, scale)[:, :3]).all()
