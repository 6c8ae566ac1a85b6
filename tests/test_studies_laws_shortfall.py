"""The model of how runs fall short of a law: its densities, the walkers, and the laws drawn from what runs say."""

import numpy as np
import pytest

from studies.laws.forms import POWER, scale_of
from studies.laws.minimum import Problem
from studies.laws.points import Floats
from studies.laws.shortfall import drawn_laws, log_density, walked


def _density(deviation_R: Floats, spread: float, ratio: float, exponential: bool, none: float) -> Floats:
    kinds = np.array([exponential])
    logs = log_density(deviation_R[None], np.array([spread]), np.array([ratio]), kinds, np.array([none]))
    return np.asarray(np.exp(logs[0]))


@pytest.mark.parametrize("exponential", [False, True])
@pytest.mark.parametrize("ratio", [0.1, 1.0, 8.0])
@pytest.mark.parametrize("none", [0.0, 0.4])
def test_deviations_have_the_mean_and_spread_of_noise_and_shortfall(
    exponential: bool, ratio: float, none: float
) -> None:
    spread = 0.2
    of_shortfall = 1.0 if exponential else 1 - 2 / np.pi
    noise = spread / np.sqrt(1 + ratio**2 * of_shortfall)
    mean = (1 - none) * noise * ratio * (1.0 if exponential else np.sqrt(2 / np.pi))
    grid = np.linspace(-2, 6, 80_001)
    density = _density(grid, spread, ratio, exponential, none)
    step = grid[1] - grid[0]
    assert density.sum() * step == pytest.approx(1, abs=1e-6)
    assert (grid * density).sum() * step == pytest.approx(mean, abs=1e-6)
    if not none:
        assert ((grid - mean) ** 2 * density).sum() * step == pytest.approx(spread**2, rel=1e-5)


def test_a_density_is_finite_where_no_float_holds_it() -> None:
    far = np.array([-1e4, 1e4])
    for exponential in (False, True):
        logs = log_density(far[None], np.ones(1), np.ones(1), np.array([exponential]), np.zeros(1))
        assert np.isfinite(logs).all()
        assert np.all(logs < -1e3)


def test_walkers_are_as_often_at_a_place_as_its_chance_says() -> None:
    random = np.random.Generator(np.random.PCG64(0))
    mixed = np.array([[1.0, 0.0], [0.9, 0.1]])

    def log_chance(state_KS: Floats) -> Floats:
        return np.asarray(-0.5 * (np.linalg.solve(mixed, state_KS.T) ** 2).sum(axis=0))

    places = walked(log_chance, random.random((4000, 2)), 100, random)
    np.testing.assert_allclose(np.cov(places.T), mixed @ mixed.T, atol=0.06)
    np.testing.assert_allclose(places.mean(axis=0), 0, atol=0.08)


def _drawn_at_the_middle(noise: float, shortfall: float, count: int = 60) -> tuple[Floats, float, float]:
    """Log laws drawn, the true one and the middle of the runs, at the geometric mean of their costs."""
    random = np.random.default_rng(3)
    log_cost = np.linspace(0, 9, count)
    true = -0.2 * log_cost
    log_error = true + noise * random.normal(size=count) + shortfall * random.exponential(size=count)
    scale = scale_of(np.exp(log_cost)[None], np.exp(log_error))
    relative = log_error - np.log(scale.error_unit)
    problem = Problem(POWER, scale, log_cost[None], relative[None], np.ones((1, count)), np.inf)
    theta = drawn_laws(problem, 400, np.random.Generator(np.random.PCG64(1)))
    assert theta.shape == (400, 2)
    laws = POWER.logs(theta, np.array([[4.5]]), scale)[0][:, 0] + np.log(scale.error_unit)
    return laws, -0.9, float(np.mean(log_error))


def test_laws_drawn_from_runs_that_fall_short_lie_below_them_and_hold_the_true_one() -> None:
    laws, true, middle = _drawn_at_the_middle(0.02, 0.3)
    low, high = np.quantile(laws, [0.025, 0.975])
    assert low < true < high < middle - 0.15


def test_laws_drawn_from_runs_of_noise_alone_are_about_the_middle_of_them() -> None:
    laws, true, middle = _drawn_at_the_middle(0.05, 0.0)
    low, high = np.quantile(laws, [0.025, 0.975])
    assert low < true < high
    assert middle - 0.05 < np.median(laws) < middle + 0.02


def test_the_same_seed_draws_the_same_laws() -> None:
    assert np.array_equal(_drawn_at_the_middle(0.05, 0.1)[0], _drawn_at_the_middle(0.05, 0.1)[0])
