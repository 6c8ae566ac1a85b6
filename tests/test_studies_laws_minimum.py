"""The engine: that its minimum is one, and that no other start finds a lower one."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import minimize

from studies.laws.forms import DOUBLE_SATURATING, POWER, SATURATING, Form, scale_of
from studies.laws.minimum import Problem, descend, hessian, minimum, noise_delta, objective, slopes
from studies.laws.points import Floats

FORMS = [POWER, SATURATING, DOUBLE_SATURATING]
COST = np.geomspace(1e17, 1e21, 24)
CLEAN = 0.09 + 0.3 * ((COST + 3e17) / 1e18) ** -0.35


def _nasty() -> dict[str, tuple[Floats, Floats]]:
    """Data sets by name: costs and errors."""
    random = np.random.default_rng(5)
    noise = random.normal(size=24)
    outliers = CLEAN * np.exp(0.02 * noise)
    outliers[[3, 20]] *= [3.0, 0.4]
    first = np.full(12, 0.2)
    first[0] = 0.9
    return {
        "noise of 3 %": (COST, CLEAN * np.exp(0.03 * noise)),
        "noise of 30 %": (COST, CLEAN * np.exp(0.3 * noise)),
        "two outliers": (COST, outliers),
        "no floor": (COST, 0.5 * (COST / 1e17) ** -0.2 * np.exp(0.05 * noise)),
        "rising": (COST, 0.2 * (COST / 1e17) ** 0.1 * np.exp(0.02 * noise)),
        "only noise": (COST, 0.3 * np.exp(0.2 * noise)),
        "a step": (COST[::2], first * np.exp(0.01 * noise[::2])),
        "two levels": (COST, np.where(COST > 1e19, 0.1, 0.6) * np.exp(0.01 * noise)),
        "errors near 1": (COST, 1 - 1e-3 * (COST / 1e17) ** 0.2 * np.exp(0.1 * noise)),
        "seven points": (COST[::4][:7], (CLEAN * np.exp(0.05 * noise))[::4][:7]),
        "equal costs": (np.repeat(COST[::4], 4), CLEAN * np.exp(0.05 * noise)),
        "twelve decades": (np.geomspace(1e12, 1e24, 24), 0.01 + np.geomspace(1, 1e-5, 24) * np.exp(0.1 * noise)),
    }


def _problem(form: Form, cost: Floats, error: Floats, delta: float | None = None) -> Problem:
    scale = scale_of(cost[None], error)
    x, y = (np.log(cost) - np.log(scale.input_unit[0]))[None], np.log(error / scale.error_unit)[None]
    problem = Problem(form, scale, x, y, np.ones_like(y), np.inf)
    return replace(problem, delta=noise_delta(problem) if delta is None else delta)


def _random_starts(problem: Problem, starts: int, seed: int) -> Floats:
    """Anywhere in the box; amplitudes within 3 nats of the errors."""
    low, high = problem.box()
    amplitude = 0 if problem.form is POWER else 1
    low[:, amplitude], high[:, amplitude] = problem.scale.log_least - 3, problem.scale.log_most + 3
    drawn = np.random.default_rng(seed).uniform(size=(starts, low.shape[1]))
    return low + (high - low) * drawn


def _repeated(problem: Problem, times: int) -> Problem:
    return problem.take(np.zeros(times, dtype=np.intp))


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
def test_the_gradient_is_that_of_the_objective(form: Form) -> None:
    problem = _problem(form, COST, CLEAN * np.exp(0.1 * np.sin(np.arange(24))), delta=0.05)
    theta = _random_starts(problem, 20, 1)
    problem = _repeated(problem, 20)
    gradient = slopes(problem, theta)[1]
    for coordinate in range(theta.shape[1]):
        step = np.zeros(theta.shape[1])
        step[coordinate] = 1e-6
        rise = (objective(problem, theta + step) - objective(problem, theta - step)) / 2e-6
        np.testing.assert_allclose(gradient[:, coordinate], rise, rtol=1e-4, atol=1e-7)


def test_the_loss_is_hubers() -> None:
    cost, error = np.array([1.0, 2.0, 4.0]), np.array([1.0, 1.0, 1.0])
    problem = _problem(POWER, cost, error, delta=0.5)
    law = np.array([[-0.2, 0.0]]), np.array([[-2.0, 0.0]])
    assert objective(problem, law[0])[0] == pytest.approx(3 * 0.2**2 / 2)
    assert objective(problem, law[1])[0] == pytest.approx(3 * 0.5 * (2.0 - 0.25))


@pytest.mark.parametrize("name", _nasty())
@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
def test_no_descent_from_a_random_start_ends_lower(form: Form, name: str) -> None:
    problem = _problem(form, *_nasty()[name])
    best = minimum(problem)
    starts = _random_starts(problem, 60, 2)
    reached = descend(_repeated(problem, 60), starts)[1].min()
    assert best.objective[0] <= reached * (1 + 1e-9)
    assert best.gradient_norm[0] <= 1e-6 * np.sqrt(best.objective[0])


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
def test_no_descent_from_a_thousand_random_starts_ends_lower(form: Form) -> None:
    for name, (cost, error) in _nasty().items():
        problem = _problem(form, cost, error)
        reached = descend(_repeated(problem, 1000), _random_starts(problem, 1000, 3))[1].min()
        assert minimum(problem).objective[0] <= reached * (1 + 1e-9), name


@pytest.mark.slow
@pytest.mark.parametrize("name", ["noise of 3 %", "noise of 30 %", "two outliers", "a step"])
@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
def test_scipy_from_a_thousand_random_starts_ends_no_lower(form: Form, name: str) -> None:
    problem = _problem(form, *_nasty()[name])
    best = minimum(problem).objective[0]

    def value_and_gradient(theta: Floats) -> tuple[float, Floats]:
        value, gradient, _ = slopes(problem, theta[None])
        return float(value[0]), gradient[0]

    low, high = problem.box()
    bounds = [(float(least), float(most)) for least, most in zip(low[0], high[0], strict=True)]
    reached = np.inf
    for start in _random_starts(problem, 1000, 4):
        found = minimize(
            value_and_gradient,
            start,
            args=(),
            jac=True,
            method="L-BFGS-B",
            bounds=bounds,
            options={"ftol": 1e-16, "gtol": 1e-12, "maxiter": 500},
        )
        reached = min(reached, found.fun)
    assert best <= reached * (1 + 1e-9)


def test_a_floor_never_exceeds_the_least_error_drawn() -> None:
    error = CLEAN.copy()
    error[-1] *= 0.5
    problem = _problem(SATURATING, COST, error)
    weight = np.ones((2, 24))
    weight[1, -1] = 0
    both = replace(problem, weight_KR=weight)
    high = both.box()[1][:, 0] * problem.scale.error_unit
    np.testing.assert_allclose(high, [error[-1], error[-2]], rtol=1e-12)


def test_a_replicate_ends_where_a_fit_of_its_points_alone_does() -> None:
    problem = _problem(SATURATING, COST, CLEAN * np.exp(0.05 * np.sin(np.arange(24.0) ** 2)), delta=0.04)
    weight = np.random.default_rng(0).multinomial(24, np.full(24, 1 / 24), size=5).astype(np.float64)
    together = minimum(replace(problem, weight_KR=weight), kept=3)
    for row in range(5):
        rows = np.repeat(np.arange(24), weight[row].astype(int))
        alone = replace(
            problem,
            log_input_IR=problem.log_input_IR[:, rows],
            log_error_KR=problem.log_error_KR[:, rows],
            weight_KR=np.ones((1, 24)),
        )
        found = minimum(alone)
        assert found.objective[0] == pytest.approx(together.objective[row], rel=1e-10)
        np.testing.assert_allclose(found.theta[0], together.theta[row], rtol=1e-6, atol=1e-8)


def test_the_hessian_stays_inside_the_box() -> None:
    problem = _problem(SATURATING, COST, CLEAN)
    low, high = problem.box()
    assert np.isfinite(hessian(problem, low, low, high)).all()
    assert np.isfinite(hessian(problem, high, low, high)).all()


def test_delta_is_scaled_to_the_noise_and_has_a_floor() -> None:
    noise = np.random.default_rng(8).normal(size=24)
    noisy = [_problem(DOUBLE_SATURATING, COST, CLEAN * np.exp(size * noise), delta=1.0) for size in (0.001, 0.01)]
    small, large = (noise_delta(problem) for problem in noisy)
    assert large / small == pytest.approx(10, rel=0.2)
    assert 0.008 < large < 0.022
    assert noise_delta(_problem(DOUBLE_SATURATING, COST, CLEAN)) == 1e-6
    assert noise_delta(_problem(SATURATING, COST[:3], CLEAN[:3])) == np.inf
