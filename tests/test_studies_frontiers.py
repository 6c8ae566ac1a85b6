"""Frontiers in memory against the definition in n^2 comparisons, those of replicates, hulls and near misses."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from studies import frontiers
from studies.frontiers import frontier, hull, tied

Floats = NDArray[np.float64]
Row = tuple[float, float]

TINY = math.ulp(0.0)
HUGE = math.nextafter(math.inf, 0)
# Few different values, so that ties, duplicates and neighbours in float64 are the rule; and any number at all.
costs = st.sampled_from([1.0, 2.0, math.nextafter(2.0, 3.0), 1e-310, TINY, HUGE, 3e20]) | st.floats(0, allow_nan=False)
bad_costs = st.sampled_from([0.0, -0.0, -1.0, -TINY, math.nan, -math.nan, math.inf, -math.inf])
qualities = st.sampled_from([0.0, -0.0, 0.5, math.nextafter(0.5, 1.0), TINY, 1.0, -HUGE, HUGE]) | st.floats(-1, 1)
bad_qualities = st.sampled_from([math.nan, math.inf, -math.inf])
rows = st.lists(st.tuples(costs | bad_costs, qualities | bad_qualities), max_size=40)


def by_definition(rows: list[Row]) -> list[int]:
    """In n^2 comparisons: what no other row beats, of exact duplicates the first."""
    usable = [i for i, (c, q) in enumerate(rows) if math.isfinite(c) and c > 0 and math.isfinite(q)]

    def beats(a: Row, b: Row) -> bool:
        return a[0] <= b[0] and a[1] >= b[1] and (a[0] < b[0] or a[1] > b[1])

    best = [i for i in usable if not any(beats(rows[j], rows[i]) for j in usable)]
    first = [i for i in best if not any(rows[j] == rows[i] for j in best if j < i)]
    return sorted(first, key=lambda i: rows[i][0])


def split(rows: list[Row]) -> tuple[Floats, Floats]:
    return np.array([c for c, _ in rows], dtype=np.float64), np.array([q for _, q in rows], dtype=np.float64)


@settings(max_examples=500, deadline=None)
@given(rows)
def test_the_frontier_is_what_the_definition_says(rows: list[Row]) -> None:
    assert frontier(*split(rows)).tolist() == by_definition(rows)


@settings(max_examples=200, deadline=None)
@given(rows, st.integers(0, 2**32 - 1))
def test_buckets_and_thresholds_leave_out_nothing_of_the_frontier(rows: list[Row], seed: int) -> None:
    # So many copies in a random order that the rows are too many to be sorted at once, and the sample sees some only.
    copies = np.random.default_rng(seed).integers(0, max(len(rows), 1), 9_000 if rows else 0)
    many = [rows[i] for i in copies]
    assert len(many) > frontiers.SORTED_AT_ONCE or not rows
    assert frontier(*split(many)).tolist() == by_definition_of_many(many)


def by_definition_of_many(many: list[Row]) -> list[int]:
    """The definition on the distinct rows, each at the place of its first copy."""
    first: dict[Row, int] = {}
    for i, row in enumerate(many):
        first.setdefault(row, i)
    distinct = sorted(first.values())
    return [distinct[i] for i in by_definition([many[i] for i in distinct])]


@pytest.mark.parametrize(
    "shape", ["spread", "few costs", "one cost", "narrow", "all on it", "all equal", "rounded", "outlier"]
)
def test_large_clouds_of_any_shape_have_the_frontier_of_a_sort(shape: str) -> None:
    n = 60_000
    rng = np.random.default_rng(5)
    cost = 10 ** rng.uniform(17, 23, n)
    quality = 1 - (cost / 1e17) ** -0.1 - rng.exponential(0.1, n)
    if shape == "few costs":
        cost = 10 ** rng.integers(17, 24, n).astype(np.float64)
    elif shape == "one cost":
        cost[:] = 3e20
    elif shape == "narrow":
        cost = 1e20 * (1 + 1e-9 * rng.random(n))
    elif shape == "all on it":
        quality = np.log(cost)
    elif shape == "all equal":
        cost[:], quality[:] = 1e18, 0.5
    elif shape == "rounded":
        quality = quality.round(2)
    elif shape == "outlier":
        cost = np.where(rng.random(n) < 0.1, TINY, 1e20 * (1 + 1e-9 * rng.random(n)))
    order = np.lexsort((np.arange(n), -quality, cost))
    best = np.maximum.accumulate(quality[order])
    assert frontier(cost, quality).tolist() == order[np.append(True, quality[order][1:] > best[:-1])].tolist()


@settings(max_examples=100, deadline=None)
@given(rows, st.integers(0, 2**32 - 1))
def test_the_order_of_rows_changes_nothing(rows: list[Row], seed: int) -> None:
    shuffled = [rows[i] for i in np.random.default_rng(seed).permutation(len(rows))]
    assert [rows[i] for i in frontier(*split(rows))] == [shuffled[i] for i in frontier(*split(shuffled))]


def test_exaflops_or_flops_change_nothing_but_the_scale() -> None:
    rng = np.random.default_rng(0)
    exaflops = np.exp(rng.uniform(0, 12, 20_000))
    quality = np.log(exaflops) - rng.exponential(2, 20_000)
    error = 30 - quality
    assert (frontier(exaflops, quality) == frontier(exaflops * 1e18, quality)).all()
    for axes in ("log-cost", "log-log", "linear"):
        assert (hull(exaflops, error, axes) == hull(exaflops * 1e18, error, axes)).all()


def test_no_rows_have_no_frontier_and_one_row_is_its_own() -> None:
    assert frontier([], []).tolist() == []
    assert frontier([3.0], [0.5]).tolist() == [0]
    assert frontier([math.nan], [0.5]).tolist() == []
    assert hull([], [], "linear").tolist() == []
    assert hull([3.0], [0.5], "log-log").tolist() == [0]


def test_rows_of_different_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="one list each of equal length is due"):
        frontier([1.0, 2.0], [0.5])


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.floats(1e-3, 1e3), st.floats(1e-3, 1.0)), min_size=1, max_size=30),
    st.sampled_from(["log-cost", "log-log", "linear"]),
)
def test_no_row_lies_below_the_hull_and_the_hull_bends_up(rows: list[Row], axes: frontiers.Axes) -> None:
    cost, error = split(rows)
    corners = hull(cost, error, axes)
    assert set(corners) <= set(frontier(cost, -error))
    assert cost[corners[0]] == cost.min()
    assert error[corners[-1]] == error.min()
    x = cost if axes == "linear" else np.log(cost)
    y = np.log(error) if axes == "log-log" else error
    assert (y >= np.interp(x, x[corners], y[corners]) - 1e-9).all()
    if len(corners) > 2:
        slopes = np.diff(y[corners]) / np.maximum(np.diff(x[corners]), 1e-300)
        assert (np.diff(slopes) >= -1e-6 * np.abs(slopes[1:])).all()


def test_a_hull_depends_on_its_axes() -> None:
    cost, error = [1.0, 10.0, 100.0], [0.4, 0.21, 0.1]
    assert hull(cost, error, "log-cost").tolist() == [0, 1, 2]
    assert hull(cost, error, "log-log").tolist() == [0, 2]
    assert hull([1.0, 2.0, 3.0], [3.0, 2.0, 1.0], "linear").tolist() == [0, 2], "a row on the line is no corner"


def test_a_hull_on_a_logarithm_of_no_error_is_refused() -> None:
    with pytest.raises(ValueError, match="has no logarithm: ask for the axes log-cost"):
        hull([1.0, 2.0], [0.1, 0.0], "log-log")
    assert hull([1.0, 2.0], [0.1, 0.0], "log-cost").tolist() == [0, 1]
    with pytest.raises(ValueError, match="no axes 'log': write log-cost, log-log, linear"):
        hull([1.0], [0.1], "log")  # type: ignore[arg-type]


def test_a_runner_up_within_one_standard_error_of_the_frontier_at_its_cost_is_tied() -> None:
    cost = np.array([1.0, 2.0, 4.0, 3.0, 3.0, 5.0, 2.0])
    quality = np.array([0.5, 0.7, 0.8, 0.695, 0.68, 0.79, 0.7])
    on = frontier(cost, quality)
    assert on.tolist() == [0, 1, 2]
    nothing_known = np.full(7, math.nan)
    assert tied(cost, quality, nothing_known, on).tolist() == []
    # Row 3 is 0.005 below row 1, row 4 0.02, row 5 0.01 below row 2; row 6 is the same point as row 1.
    assert tied(cost, quality, np.full(7, 0.01), on).tolist() == [3, 5], "0.01 each is 0.014 of a difference"
    of_the_frontier_alone = np.where(np.isin(np.arange(7), on), 0.006, math.nan)
    assert tied(cost, quality, of_the_frontier_alone, on).tolist() == [3]
    assert tied(cost, quality, np.full(7, 0.0), on).tolist() == []


def test_a_row_cheaper_than_the_frontier_it_is_compared_with_is_not_tied() -> None:
    assert tied([1.0, 2.0], [0.69, 0.7], [1.0, 1.0], [1]).tolist() == []


def test_a_negative_standard_error_is_refused() -> None:
    with pytest.raises(ValueError, match="a standard error is -1: 0 or more is due"):
        tied([1.0], [0.5], [-1.0], [0])
