"""What a law expects of combinations that were not trained: bands, warnings, refusals."""

import math

import numpy as np
import pytest

from studies.laws.fits import Fit, fit
from studies.laws.points import Floats, Points
from studies.laws.prediction import predict, scatter

COSTS = np.geomspace(1e17, 1e20, 16)


def of_costs(error: Floats, cost: Floats = COSTS) -> Points:
    return Points(cost, error, tuple(f"run {i}" for i in range(len(cost))))


def saturating(cost: Floats) -> Floats:
    return np.asarray(0.09 + 0.26 * (cost / 1e18) ** -0.35)


def noisy(cost: Floats, seed: int, sd: float = 0.03) -> Floats:
    return np.asarray(saturating(cost) * np.exp(np.random.default_rng(seed).normal(0, sd, len(cost))))


@pytest.fixture(scope="module")
def law() -> Fit:
    return fit(of_costs(noisy(COSTS, 1)), "saturating", on_frontier=False, replicates=200)


@pytest.fixture(scope="module")
def sized() -> Points:
    """Of a surface, six sizes by four numbers of images."""
    sizes, images = (side.ravel() for side in np.meshgrid(np.geomspace(1e6, 1e8, 6), np.geomspace(1e6, 1e8, 4)))
    error = 0.06 + 8 * sizes**-0.3 + 40 * images**-0.35
    error = error * np.exp(np.random.default_rng(0).normal(0, 0.01, len(error)))
    return Points(6 * sizes * images, error, tuple(f"run {i}" for i in range(len(error))), sizes, images)


@pytest.fixture(scope="module")
def surface(sized: Points) -> Fit:
    return fit(sized, "surface", replicates=60)


def test_a_law_without_noise_predicts_itself() -> None:
    exact = fit(of_costs(saturating(COSTS)), "saturating", on_frontier=False, replicates=60)
    answer = predict(exact, cost=3e20)
    truth = 0.09 + 0.26 * 300**-0.35
    assert answer.error == pytest.approx(truth, rel=1e-6)
    for end in (answer.low, answer.high, answer.run_low, answer.run_high):
        assert end == pytest.approx(truth, rel=1e-5)


def test_one_run_scatters_more_than_the_law_is_uncertain(law: Fit) -> None:
    answer = predict(law, cost=1e19)
    assert answer.run_low is not None
    assert answer.run_high is not None
    assert answer.low is not None
    assert answer.high is not None
    assert answer.run_low < answer.low < answer.error < answer.high < answer.run_high
    assert scatter(law) == pytest.approx(0.03, rel=0.5)
    assert answer.warnings == ()
    assert answer.extrapolation == 1.0


def test_beyond_ten_times_the_range_a_prediction_carries_a_warning(law: Fit) -> None:
    assert predict(law, cost=9.9e20).warnings == ()
    answer = predict(law, cost=2e21)
    assert answer.extrapolation == pytest.approx(20)
    assert answer.warnings == (
        "Extrapolated: a cost of 2e+21 is 20 times above the most that the law was fitted on, 1e+20.",
    )
    assert "20 times below the least" in predict(law, cost=5e15).warnings[0]


def test_beyond_a_thousand_times_the_range_there_is_no_prediction_unless_forced(law: Fit) -> None:
    with pytest.raises(ValueError, match=r"beyond 1,000 times the range fitted on nothing is predicted: force it"):
        predict(law, cost=1.01e23)
    assert predict(law, cost=1.01e23, force=True).error == pytest.approx(law.error_at([1.01e23])[0])


def test_a_surface_predicts_from_size_and_images(surface: Fit, sized: Points) -> None:
    answer = predict(surface, parameters=2e7, images=5e7, points=sized)
    assert answer.error == pytest.approx(0.06 + 8 * 2e7**-0.3 + 40 * 5e7**-0.35, rel=0.02)
    assert answer.low is not None
    assert answer.high is not None
    assert answer.low < answer.error < answer.high


def test_each_input_is_compared_with_its_own_range(surface: Fit, sized: Points) -> None:
    # 100 times the largest network on few images costs no more than what was trained.
    answer = predict(surface, parameters=1e10, images=1e6, cost=6e16, points=sized)
    assert answer.extrapolation == pytest.approx(100)
    assert "a number of parameters of 1e+10 is 100 times above" in answer.warnings[0]
    with pytest.raises(ValueError, match="a number of images seen of 2e\\+11 is 2,000 times above"):
        predict(surface, parameters=1e7, images=2e11, points=sized)


def test_a_prediction_that_nothing_can_be_compared_with_is_refused(surface: Fit) -> None:
    with pytest.raises(ValueError, match="cannot be told: give its cost, or the fit's points"):
        predict(surface, parameters=1e7, images=1e7)


def test_what_a_law_needs_is_asked_for(law: Fit, surface: Fit) -> None:
    with pytest.raises(ValueError, match="a law of the form saturating needs the cost: give it"):
        predict(law, parameters=1e7)
    with pytest.raises(ValueError, match="needs the number of parameters and the number of images seen: give it"):
        predict(surface, cost=1e18)
    for cost in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match=r"a cost of .* a number above 0 is due"):
            predict(law, cost=cost)


def test_without_an_interval_a_prediction_says_so() -> None:
    bare = fit(of_costs(noisy(COSTS, 1)), "power", on_frontier=False, replicates=0)
    answer = predict(bare, cost=1e19)
    assert (answer.low, answer.high, answer.run_low, answer.run_high) == (None,) * 4
    assert answer.warnings == ("The law has no interval here: see the warnings of its fit.",)


@pytest.mark.slow
def test_the_interval_of_one_run_holds_95_of_100_new_runs_inside_the_range_and_five_times_beyond() -> None:
    held: dict[float, list[float]] = {1e19: [], 5e20: []}
    for seed in range(200):
        law = fit(of_costs(noisy(COSTS, seed)), "saturating", on_frontier=False, replicates=200, seed=seed)
        for cost, shares in held.items():
            answer = predict(law, cost=cost)
            assert answer.run_low is not None
            assert answer.run_high is not None
            new = noisy(np.full(20, cost), 10_000 + seed)
            shares.append(float(np.mean((new >= answer.run_low) & (new <= answer.run_high))))
    for cost, shares in held.items():
        assert 0.92 <= np.mean(shares) <= 0.98, cost
