"""isoFLOP optima on data of the published surface of arXiv:2203.15556, on noise, and on what is no budget at all."""

import json
from dataclasses import replace

import numpy as np
import pytest

from studies.laws.isoflop import BIAS_OF_THE_PARABOLA, FEWEST_SIZES, Method, as_json, budgets, isoflop
from studies.laws.points import Floats, Points

E, A, ALPHA, B, BETA = 1.69, 406.4, 0.34, 410.7, 0.28
A_TRUE = BETA / (ALPHA + BETA)
BUDGETS = np.geomspace(1e18, 1e22, 9)


def best_size(cost: Floats) -> Floats:
    return np.asarray((ALPHA * A / (BETA * B)) ** (1 / (ALPHA + BETA)) * (cost / 6) ** A_TRUE)


def studied(
    sizes: int, reach: float, *, cost: Floats = BUDGETS, off: Floats | float = 0.0, noise: float = 0.0, seed: int = 0
) -> Points:
    """Each budget with `sizes` sizes to `reach` times on either side of exp(off) times the best."""
    random = np.random.default_rng(seed)
    centre = np.log(best_size(cost)) + off
    log_size = centre[:, None] + np.log(reach) * np.linspace(-1, 1, sizes)
    parameters = np.exp(log_size).ravel()
    each = np.repeat(cost, sizes)
    images = each / (6 * parameters)
    error = E + A * parameters**-ALPHA + B * images**-BETA
    error = error * np.exp(noise * random.standard_normal(len(error)))
    return Points(each, error, tuple(f"{row:04}" for row in range(len(each))), parameters=parameters, images=images)


def worst(points: Points, method: Method) -> float:
    """The largest relative distance of an optimum from the true one."""
    answer = isoflop(points, method=method, replicates=50)
    assert len(answer.optima) == len(BUDGETS)
    return max(abs(each.parameters / float(best_size(np.array([each.cost]))[0]) - 1) for each in answer.optima)


@pytest.mark.parametrize(("apart", "allowed"), [(1.7, 0.006), (2.0, 0.01), (2.83, 0.021), (4.0, 0.04)])
def test_akimas_optimum_is_as_near_as_its_docstring_says(apart: float, allowed: float) -> None:
    for sizes in (5, 7, 9):
        for off in (0.0, 0.2, 0.35):
            assert worst(studied(sizes, apart ** ((sizes - 1) / 2), off=off), "akima") <= allowed


@pytest.mark.parametrize(("reach", "bias"), BIAS_OF_THE_PARABOLA)
def test_the_parabola_puts_the_optimum_too_large_by_what_is_said(reach: float, bias: float) -> None:
    optima = isoflop(studied(5, reach), method="parabola", replicates=50).optima
    ratios = [each.parameters / best_size(np.array([each.cost]))[0] for each in optima]
    assert np.allclose(np.array(ratios) - 1, bias, atol=6e-4)


@pytest.mark.parametrize("off", [0.0, 0.2, -0.2])
def test_the_parabolas_bias_is_larger_than_akimas_error(off: float) -> None:
    for sizes, reach in ((7, 4.0), (9, 8.0), (15, 16.0)):
        points = studied(sizes, reach, off=off)
        assert worst(points, "parabola") > 2.5 * worst(points, "akima")


def test_exponents_and_scales_are_those_of_the_surface() -> None:
    answer = isoflop(studied(9, 8.0), replicates=50)
    assert answer.a.value == pytest.approx(A_TRUE, abs=1e-6)
    assert answer.b.value == pytest.approx(1 - A_TRUE, abs=1e-6)
    size, images = answer.optimum_at(1e23)
    assert size.value == pytest.approx(best_size(np.array([1e23]))[0], rel=0.01)
    assert size.value * images.value == pytest.approx(1e23 / 6, rel=1e-6)


def test_exponents_hold_where_the_sizes_wander_about_the_optimum() -> None:
    wander = 0.2 * np.log(BUDGETS / 1e20) / np.log(10)
    answer = isoflop(studied(9, 8.0, off=wander), replicates=50)
    assert answer.a.value == pytest.approx(A_TRUE, abs=0.002)


@pytest.mark.parametrize("method", ["akima", "parabola"])
def test_order_and_units_of_the_points_change_nothing(method: Method) -> None:
    points = studied(7, 4.0, noise=0.003)
    shuffled = points.take(np.random.default_rng(3).permutation(len(points)))
    answer = isoflop(points, method=method)
    assert as_json(isoflop(shuffled, method=method)) == as_json(answer)
    exa = isoflop(replace(points, cost=points.cost / 1e18), method=method)
    assert exa.a.value == pytest.approx(answer.a.value, rel=1e-9)
    assert exa.size_scale.value == pytest.approx(answer.size_scale.value * 1e18**answer.a.value, rel=1e-6)


def test_the_same_question_has_the_same_digits_and_another_seed_other_ends() -> None:
    points = studied(7, 4.0, noise=0.003)
    assert as_json(isoflop(points)) == as_json(isoflop(points))
    assert isoflop(points, seed=1).a.low != isoflop(points).a.low
    assert isoflop(points, seed=1).a.value == isoflop(points).a.value


def test_intervals_of_the_exponents_are_students_where_the_scatter_is_known() -> None:
    answer = isoflop(studied(7, 4.0, noise=0.003), replicates=20_000)
    log_cost = np.log([each.cost for each in answer.optima])
    residual = np.array([each.residual for each in answer.optima])
    error = np.sqrt(residual @ residual / 7 / np.sum((log_cost - log_cost.mean()) ** 2))
    assert answer.a.high is not None
    assert answer.a.low is not None
    assert answer.a.high - answer.a.value == pytest.approx(2.3646 * error, rel=0.05)
    assert answer.a.value - answer.a.low == pytest.approx(2.3646 * error, rel=0.05)


@pytest.mark.parametrize(("method", "counted"), [("akima", 4), ("akima", 9), ("parabola", 4), ("parabola", 9)])
def test_intervals_cover_the_true_exponent_in_simulated_studies(method: Method, counted: int) -> None:
    covered = 0
    for seed in range(400):
        off = 0.3 * np.random.default_rng(10_000 + seed).standard_normal(counted)
        points = studied(7, 4.0, cost=np.geomspace(1e18, 1e22, counted), off=off, noise=0.003, seed=seed)
        answer = isoflop(points, method=method, replicates=400, seed=seed)
        assert answer.a.low is not None
        assert answer.a.high is not None
        covered += answer.a.low <= A_TRUE <= answer.a.high
    assert 0.92 - 0.011 <= covered / 400 <= 0.97 + 0.009  # one standard error of 400 draws


def test_budgets_are_cut_at_the_tolerance_from_their_cheapest_run() -> None:
    cost = np.array([1.2, 1.0, 1.09, 1.11, 1.21, 5.0])
    assert [list(rows) for rows in budgets(cost, 0.1)] == [[1, 2], [3, 0, 4], [5]]


def test_equal_sizes_of_a_budget_count_once_with_their_mean_error() -> None:
    points = studied(7, 4.0)
    above, below = points.error * 1.001, points.error * 0.999
    twice = Points(
        np.tile(points.cost, 2),
        np.concatenate([above, below]),
        tuple(f"{row:04}" for row in range(2 * len(points))),
        parameters=np.tile(points.parameters, 2),  # type: ignore[arg-type]  # studied() sets them
        images=np.tile(points.images, 2),  # type: ignore[arg-type]
    )
    assert isoflop(twice).a.value == pytest.approx(isoflop(points).a.value, rel=1e-9)


def test_a_minimum_at_the_edge_is_dropped_with_its_reason() -> None:
    off = np.zeros(9)
    off[0], off[8] = 3.0, -3.0
    answer = isoflop(studied(7, 4.0, off=off))
    assert len(answer.optima) == 7
    reasons = [reason for reason, _ in answer.dropped]
    assert ["smallest" in reason for reason in reasons] == [True, False]
    assert ["largest" in reason for reason in reasons] == [False, True]
    assert all(len(keys) == 7 for _, keys in answer.dropped)


@pytest.mark.parametrize("method", ["akima", "parabola"])
def test_too_few_sizes_are_dropped_with_their_reason(method: Method) -> None:
    points = studied(FEWEST_SIZES[method], 3.0)
    kept = isoflop(points, method=method, replicates=50)
    assert len(kept.optima) == 9
    fewer = isoflop(points.take(np.arange(1, len(points))), method=method, replicates=50)
    assert len(fewer.optima) == 8
    assert f"only {FEWEST_SIZES[method] - 1} sizes have a result, and {method} needs" in fewer.dropped[0][0]


def test_two_budgets_give_exponents_without_an_interval() -> None:
    answer = isoflop(studied(7, 4.0, cost=BUDGETS[[0, 8]]))
    assert answer.a.value == pytest.approx(A_TRUE, abs=1e-4)
    assert (answer.a.low, answer.a.high) == (None, None)
    assert answer.optimum_at(1e23)[0].high is None
    assert any("no interval" in sentence for sentence in answer.warnings)


def test_the_parabola_says_its_bias_and_akima_that_sizes_are_far_apart() -> None:
    assert any("biased towards large models" in each for each in isoflop(studied(7, 4.0), method="parabola").warnings)
    assert any("a factor of 4 apart" in each for each in isoflop(studied(5, 16.0)).warnings)
    assert isoflop(studied(7, 4.0)).warnings == ()


def test_noise_larger_than_the_curves_bend_is_said() -> None:
    answer = isoflop(studied(9, 4.0, noise=0.05, seed=2))
    assert any("more than one dip" in sentence for sentence in answer.warnings)


def test_costs_that_differ_inside_a_budget_are_said() -> None:
    points = studied(7, 4.0)
    wobble = 1 + 0.04 * (np.arange(len(points)) % 3)
    answer = isoflop(replace(points, cost=points.cost * wobble))
    assert any("costs inside a budget differ by up to 8 %" in sentence for sentence in answer.warnings)


@pytest.mark.parametrize("method", ["akima", "parabola"])
@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda points: points.take(np.arange(7)), "two compute budgets"),
        (lambda points: points.take(np.array([0, 1])), "two compute budgets"),
        (lambda points: points.take(np.array([], dtype=np.intp)), "two compute budgets"),
        (lambda points: replace(points, error=np.full(len(points), 0.5)), "the same at every size"),
        (lambda points: replace(points, error=np.zeros(len(points))), "two compute budgets"),
        (lambda points: replace(points, error=np.ones(len(points))), "the same at every size"),
        (lambda points: replace(points, parameters=np.full(len(points), 1e7)), "only 1 size has a result"),
        (lambda points: replace(points, error=np.log(points.parameters) ** 2), "smallest"),
        (lambda points: replace(points, parameters=None), "do not say their number of parameters"),
        (lambda points: replace(points, images=None), "do not say their number of images"),
    ],
)
def test_points_without_optima_give_a_sentence(change, sentence: str, method: Method) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=sentence):
        isoflop(change(studied(7, 4.0)), method=method)


def test_without_two_optima_it_says_what_is_needed_what_was_found_and_what_to_train() -> None:
    points = studied(7, 4.0)
    at_one_size, at_one_cost = points.take(np.arange(0, 63, 7)), points.take(np.arange(7, 17))
    with pytest.raises(ValueError, match="an isoFLOP law needs") as none:
        isoflop(at_one_size)
    with pytest.raises(ValueError, match="an isoFLOP law needs") as one:
        isoflop(at_one_cost, method="parabola")
    needs = "an isoFLOP law needs two compute budgets whose runs show which size is best, and "
    assert str(none.value) == (
        f"{needs}none of the 9 here does (in each, only 1 size has a result, and akima needs 4): train at least 4 "
        "sizes, smaller and larger than the best, at each of two costs, equal to within 10 %"
    )
    assert str(one.value) == (
        f"{needs}only 1 of the 2 here does (in 1 of them, the minimum is at the largest size, so the optimum lies "
        "outside): train at least 3 sizes, smaller and larger than the best, at each of two costs, equal to within 10 %"
    )


def test_a_parabola_that_bends_downwards_has_no_minimum() -> None:
    points = studied(7, 4.0)
    with pytest.raises(ValueError, match="bends downwards"):
        isoflop(replace(points, error=5 - points.error), method="parabola")


def test_all_images_equal_gives_an_answer_or_a_sentence() -> None:
    points = replace(studied(7, 4.0), images=np.full(63, 1e9))
    assert isoflop(points).b.value == pytest.approx(0.0, abs=1e-12)


def test_unusable_points_are_left_out_and_named() -> None:
    points = studied(7, 4.0)
    error = points.error.copy()
    error[3], error[12] = np.nan, 0.0
    answer = isoflop(replace(points, error=error))
    assert {key for _, keys in answer.dropped for key in keys} == {"0003", "0012"}


def test_an_interval_beyond_what_numbers_hold_is_open_and_warns_nobody() -> None:
    points = studied(5, 8.0, cost=np.array([1e18, 1.3e18, 1.7e18]), noise=0.05, seed=1)
    answer = isoflop(points)
    assert answer.size_scale.high is None
    assert answer.a.high is not None


def test_the_answer_is_plain_json_of_full_digits() -> None:
    answer = isoflop(studied(7, 4.0, noise=0.003))
    read = json.loads(json.dumps(as_json(answer)))
    assert read["form"] == "isoflop"
    assert read["a"]["value"] == answer.a.value
    assert read["optima"][0]["parameters"] == answer.optima[0].parameters
    assert "draws" not in read
