"""The surface L(N, D) and the one that knows repeats: recovered, covered, never beaten; what degenerate data say."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from studies.laws.fits import fit, form_of
from studies.laws.forms import scale_of
from studies.laws.minimum import Problem, descend, slopes
from studies.laws.points import Floats, Points
from studies.laws.surface import REPEATED_SURFACE, SURFACE, repeats_worth

CHINCHILLA = (1.69, 406.4, 0.34, 410.7, 0.28)
IMAGES = (0.09, 8.0, 0.34, 30.0, 0.28)
WORTH = 15.4


def grid(side: int = 5, *, cap: Floats | None = None) -> Points:
    """`side` sizes by `side` numbers of images, 10^6 to 10^9, 10^7 to 10^10; row r has cap[r % len] distinct ones."""
    parameters, images = (
        each.ravel() for each in np.meshgrid(np.geomspace(1e6, 1e9, side), np.geomspace(1e7, 1e10, side))
    )
    caps = np.array([np.inf]) if cap is None else cap
    return Points(
        6 * parameters * images,
        np.full(side**2, 0.5),
        tuple(f"{row:04}" for row in range(side**2)),
        parameters=parameters,
        images=images,
        data_rows=np.minimum(images, caps[np.arange(side**2) % len(caps)]),
    )


def lawful(points: Points, form: str, truth: tuple[float, ...], *, noise: float = 0.0, seed: int = 0) -> Points:
    """The points with the errors of that law."""
    family = form_of(form)
    log_error = family.log_at(np.array([truth]), points.inputs(family.inputs))[0]
    scatter = noise * np.random.default_rng(seed).standard_normal(len(points))
    return replace(points, error=np.exp(log_error + scatter))


CAPS = np.array([1e7, 1e8, 1e9])


def estimates(points: Points, form: str) -> list[float]:
    return [each.value for each in fit(points, form, replicates=0).parameters.values()]


@pytest.mark.parametrize("truth", [CHINCHILLA, IMAGES, (0.05, 0.8, 0.1, 0.9, 0.12), (0.2, 50.0, 0.5, 1e4, 0.7)])
def test_a_surface_is_recovered_from_its_own_errors(truth: tuple[float, ...]) -> None:
    assert estimates(lawful(grid(), "surface", truth), "surface") == pytest.approx(truth, rel=1e-6)


@settings(max_examples=6, deadline=None)
@given(
    st.floats(0, 0.3), st.floats(0.05, 0.5), st.floats(0.1, 0.8), st.floats(0.05, 0.5), st.floats(0.1, 0.8),
)  # fmt: skip
def test_any_surface_is_recovered(floor: float, size: float, alpha: float, data: float, beta: float) -> None:
    truth = (floor, size * 1e6**alpha, alpha, data * 1e7**beta, beta)
    assert estimates(lawful(grid(), "surface", truth), "surface") == pytest.approx(truth, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("worth", [1.0, 5.3, WORTH, 100.0])
def test_the_worth_of_repeats_is_recovered(worth: float) -> None:
    points = lawful(grid(5, cap=CAPS), "repeated-surface", (*IMAGES, worth))
    assert estimates(points, "repeated-surface") == pytest.approx((*IMAGES, worth), rel=1e-6)


def test_repeats_count_as_their_paper_says() -> None:
    # arXiv:2305.16264, equation 5 with R_D = 15.4: four passes are nearly as good as fresh data; 1 + R_D is the most.
    assert np.exp(repeats_worth(np.array([4.0]), np.array([15.387756]))[0])[0] * 4 == pytest.approx(3.726, abs=1e-3)
    assert np.exp(repeats_worth(np.array([1e6]), np.array([WORTH]))[0])[0] * 1e6 == pytest.approx(1 + WORTH, rel=1e-9)
    assert repeats_worth(np.array([1.0]), np.array([WORTH]))[0][0] == 0.0


def test_without_repeats_both_surfaces_are_one() -> None:
    places = grid().inputs(("parameters", "images", "data_rows"))
    once = SURFACE.log_at(np.array([IMAGES]), places[:2])
    assert np.array_equal(REPEATED_SURFACE.log_at(np.array([(*IMAGES, WORTH)]), places), once)
    unlimited = places.copy()
    unlimited[2] *= 100
    assert np.array_equal(REPEATED_SURFACE.log_at(np.array([(*IMAGES, WORTH)]), unlimited), once)


@pytest.mark.parametrize("form", [SURFACE, REPEATED_SURFACE], ids=lambda form: form.name)
def test_slopes_are_those_of_differences_and_quoted_parameters_give_the_same_law(form) -> None:  # type: ignore[no-untyped-def]
    points = lawful(grid(6, cap=CAPS), "surface", IMAGES)
    places = points.inputs(form.inputs)
    scale = scale_of(places, points.error)
    log_places = np.log(places / scale.input_unit[:, None])
    theta = np.array([[0.3, -0.5, 0.4, -0.4, 0.3, 2.0], [0.0, 0.5, 1.4, -2.0, 0.05, -1.0]])[:, : len(form.parameters)]
    law, slope = form.logs(theta, log_places, scale)
    for column in range(theta.shape[1]):
        step = 1e-6 * np.eye(theta.shape[1])[column]
        above, below = form.logs(theta + step, log_places, scale)[0], form.logs(theta - step, log_places, scale)[0]
        assert np.allclose((above - below) / 2e-6, slope[:, column], atol=1e-8)
    quoted = form.log_at(form.outside(theta, scale), places)
    assert np.allclose(quoted, law + np.log(scale.error_unit), atol=1e-12)


def test_order_and_units_change_nothing() -> None:
    points = lawful(grid(), "surface", IMAGES, noise=0.02)
    answer = fit(points, "surface", replicates=60)
    shuffled = fit(points.take(np.random.default_rng(1).permutation(25)), "surface", replicates=60)
    assert shuffled.parameters == answer.parameters
    assert points.parameters is not None
    millions = fit(replace(points, parameters=points.parameters / 1e6), "surface", replicates=0)
    assert millions.parameters["alpha"].value == pytest.approx(answer.parameters["alpha"].value, rel=1e-8)
    assert millions.parameters["E"].value == pytest.approx(answer.parameters["E"].value, rel=1e-8)


@pytest.mark.timeout(1200)  # two hundred studies: minutes, and more on a busy machine
@pytest.mark.slow
@pytest.mark.parametrize(("form", "truth"), [("surface", IMAGES), ("repeated-surface", (*IMAGES, WORTH))])
def test_intervals_cover_the_truth_in_simulated_studies(form: str, truth: tuple[float, ...]) -> None:
    largest = grid(cap=CAPS).inputs(form_of(form).inputs)[:, -1:]
    true_error = np.exp(form_of(form).log_at(np.array([truth]), largest)[0, 0])
    covered = np.zeros(len(truth) + 1)
    for seed in range(200):
        answer = fit(lawful(grid(cap=CAPS), form, truth, noise=0.02, seed=seed), form, replicates=80, seed=seed)
        ends = [(each.low, each.high) for each in answer.parameters.values()]
        ends.append(tuple(float(end[0]) for end in answer.band_at(largest)))  # type: ignore[arg-type]  # two of them
        for column, ((low, high), true) in enumerate(zip(ends, (*truth, true_error), strict=True)):
            covered[column] += (low is None or low <= true) and (high is None or true <= high)
    # 92 to 97 %, and the standard error of 200 draws.
    assert np.all((covered / 200 >= 0.92 - 0.019) & (covered / 200 <= 0.97 + 0.012)), covered / 200


def worse_than_random(points: Points, form: str, starts: int) -> float:
    """By how much, relatively, the reported objective is above the best of `starts` random starts."""
    answer = fit(points, form, replicates=0)
    family = form_of(form)
    usable, _ = points.clean(family.inputs)
    places = usable.inputs(family.inputs)
    scale = scale_of(places, usable.error)
    problem = Problem(
        family, scale, np.log(places / scale.input_unit[:, None]), np.log(usable.error / scale.error_unit)[None],
        np.ones((1, len(usable))), answer.delta,
    )  # fmt: skip
    low, high = (side[0] for side in problem.box())
    random = np.random.default_rng(7)
    start = random.uniform(np.maximum(low, -8), np.minimum(high, 8), (starts, len(low)))
    _, found, _ = descend(problem.take(np.zeros(starts, dtype=np.intp)), start, iterations=500)

    def value_and_slope(theta: Floats) -> tuple[float, Floats]:
        value, gradient, _ = slopes(problem, np.clip(theta, low, high)[None])
        return float(value[0]), gradient[0]

    tight: Any = {"ftol": 1e-15, "gtol": 1e-13, "maxiter": 3000, "maxfun": 6000}
    bounds = list(zip(low, high, strict=True))
    others = [
        minimize(value_and_slope, each, jac=True, method="L-BFGS-B", bounds=bounds, options=tight)
        for each in start[: starts // 10]
    ]  # fmt: skip
    best = min(float(found.min()), *(float(each.fun) for each in others))
    return answer.objective / best - 1


def nasty(kind: str, seed: int) -> Points:
    """Errors with outliers, of pure chance, along a line D ~ N, with noise of 30 %, or on a few points."""
    random = np.random.default_rng(seed)
    points = lawful(grid(6, cap=CAPS), "repeated-surface", (*IMAGES, WORTH), noise=0.02, seed=seed)
    if kind == "outliers":
        return replace(points, error=points.error * np.where(random.random(36) < 0.15, 2.0, 1.0))
    if kind == "chance":
        return replace(points, error=random.uniform(0.05, 0.95, 36))
    if kind == "line":
        along = points.take(np.arange(0, 36, 7))
        return Points(
            np.concatenate([along.cost, along.cost * 1.5]),
            np.concatenate([along.error, along.error * 0.97]),
            tuple(f"{row}" for row in range(12)),
            *np.tile(along.inputs(("parameters", "images", "data_rows")), 2) * np.repeat([1.0, 1.2], 6),
        )
    if kind == "noise":
        return replace(points, error=points.error * np.exp(0.3 * random.standard_normal(36)))
    return points.take(random.permutation(36)[:8])


@pytest.mark.slow
@pytest.mark.parametrize("form", ["surface", "repeated-surface"])
@pytest.mark.parametrize("kind", ["outliers", "chance", "line", "noise", "few"])
def test_no_random_start_beats_the_reported_objective(form: str, kind: str) -> None:
    for seed in range(3):
        assert worse_than_random(nasty(kind, seed), form, 1000) <= 1e-9


def change(name: str, value: Callable[[Points], Floats]) -> Callable[[Points], Points]:
    return lambda points: replace(points, **{name: value(points)})  # type: ignore[arg-type]  # name is of an array


@pytest.mark.parametrize("form", ["surface", "repeated-surface"])
@pytest.mark.parametrize(
    ("spoiled", "sentence"),
    [
        (change("parameters", lambda points: np.full(len(points), 1e7)), "the same number of parameters"),
        (change("images", lambda points: np.full(len(points), 1e7)), "the same number of images seen"),
        (lambda points: points.take(np.array([0, 24])), "parameters and there are 2 points"),
        (lambda points: points.take(np.array([], dtype=np.intp)), "parameters and there are 0 points"),
        (change("error", lambda points: np.zeros(len(points))), "an error of exactly 0"),
        (change("error", lambda points: np.full(len(points), np.nan)), "no finite error"),
        (lambda points: replace(points, parameters=None), "do not say their number of parameters"),
    ],
)  # fmt: skip
def test_points_that_carry_no_surface_give_a_sentence(
    spoiled: Callable[[Points], Points], sentence: str, form: str
) -> None:
    with pytest.raises(ValueError, match=sentence):
        fit(spoiled(lawful(grid(cap=CAPS), "surface", IMAGES)), form, replicates=60)


def in_step(points: Points) -> Points:
    parameters = np.geomspace(1e6, 1e9, len(points))
    along = replace(points, parameters=parameters, images=20 * parameters, data_rows=20 * parameters)
    return lawful(along, "surface", IMAGES, noise=0.01)


@pytest.mark.parametrize("form", ["surface", "repeated-surface"])
@pytest.mark.parametrize(
    ("spoiled", "sentence"),
    [
        (change("error", lambda points: np.full(len(points), 0.5)), "All errors are equal"),
        (change("error", lambda points: np.ones(len(points))), "All errors are equal"),
        (change("error", lambda points: 1.2 - points.error), "alpha is not identified"),
        (change("error", lambda points: np.where(points.cost < 1e14, 1.0, points.error)), "nothing right"),
        (in_step, "These points do not"),
    ],
)
def test_points_that_hardly_carry_a_surface_say_so(
    spoiled: Callable[[Points], Points], sentence: str, form: str
) -> None:
    answer = fit(spoiled(lawful(grid(cap=CAPS), "surface", IMAGES, noise=0.01)), form, replicates=60)
    assert any(sentence in warning for warning in answer.warnings), answer.warnings


def test_the_worth_of_repeats_is_open_where_nothing_was_repeated() -> None:
    answer = fit(lawful(grid(), "surface", IMAGES, noise=0.01), "repeated-surface", replicates=60)
    assert (answer.parameters["R_D"].low, answer.parameters["R_D"].high) == (None, None)
    assert any("R_D" in warning for warning in answer.warnings)
