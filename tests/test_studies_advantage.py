"""The compute advantage: Table 6 of arXiv:2010.11929v2, and what must hold of any two curves."""

import csv
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from studies.advantage import Advantage, Curve, advantage, differences
from studies.frontiers import Floats, frontier

TABLE6 = Path(__file__).parent.parent / "studies/references/vit-paper.csv"
AVG5 = ("ImageNet", "CIFAR_10", "CIFAR_100", "Pets", "Flowers")


def family(name: str, columns: tuple[str, ...]) -> tuple[Floats, Floats]:
    """Cost and mean accuracy in percent of a family's rows, the cheapest first."""
    with TABLE6.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["family"] == name]
    rows.sort(key=lambda row: float(row["exaFLOPs"]))
    quality = [math.fsum(float(row[column]) for column in columns) / len(columns) for row in rows]
    return np.array([float(row["exaFLOPs"]) for row in rows]), np.array(quality)


def curve(cost: Floats, quality: Floats) -> Curve:
    on = frontier(cost, quality)
    return Curve(cost[on], quality[on])


def found(first: Curve, second: Curve) -> Advantage:
    answer = advantage(first, second)
    assert answer is not None
    return answer


@pytest.mark.parametrize(
    ("columns", "mean", "least", "most"), [(AVG5, "3.79", "2.78", "5.95"), (("ImageNet",), "2.12", "1.72", "2.44")]
)
def test_table_6_gives_the_published_advantage_of_vit_over_resnet(
    columns: tuple[str, ...], mean: str, least: str, most: str
) -> None:
    answer = found(curve(*family("ViT", columns)), curve(*family("ResNet", columns)))
    assert [f"{ratio:.2f}" for ratio in (answer.ratio_mean, answer.ratio_least, answer.ratio_most)] == [
        mean,
        least,
        most,
    ]


def test_hybrids_are_ahead_of_the_vit_frontier_at_small_compute_only() -> None:
    ahead = differences(curve(*family("ViT", AVG5)), *family("Hybrid", AVG5))
    assert [f"{points:+.2f}" for points in ahead[[0, 1, 2, 4]]] == ["+0.86", "+0.44", "+0.20", "-0.11"]
    assert f"{ahead[3]:+.3f}" == "+0.005"


def test_the_mean_is_close_to_the_integral_over_quality() -> None:
    vit, resnet = curve(*family("ViT", AVG5)), curve(*family("ResNet", AVG5))
    answer = found(vit, resnet)
    corners = np.unique(np.concatenate([vit.quality, resnet.quality]))
    corners = corners[(corners >= answer.quality_low) & (corners <= answer.quality_high)]
    log_ratio = np.interp(corners, resnet.quality, np.log(resnet.cost)) - np.interp(
        corners, vit.quality, np.log(vit.cost)
    )
    exact = math.exp(np.trapezoid(log_ratio, corners) / (corners[-1] - corners[0]))
    assert answer.ratio_mean == pytest.approx(exact, rel=1e-3)


steps = st.lists(st.tuples(st.floats(0.01, 2.0), st.floats(0.001, 0.1)), min_size=1, max_size=8)


def curve_of(steps: list[tuple[float, float]]) -> Curve:
    log_cost, quality = np.cumsum(np.array(steps), axis=0).T
    return Curve(np.exp(log_cost), quality)


@given(steps, steps)
def test_the_advantage_of_one_over_the_other_is_one_over_that_of_the_other(
    first: list[tuple[float, float]], second: list[tuple[float, float]]
) -> None:
    a, b = curve_of(first), curve_of(second)
    there, back = advantage(a, b), advantage(b, a)
    if there is None or back is None:
        assert there is back is None
        assert a.quality[-1] < b.quality[0] or b.quality[-1] < a.quality[0]
        return
    assert there.ratio_mean * back.ratio_mean == pytest.approx(1, rel=1e-12)
    assert there.ratio_least * back.ratio_most == pytest.approx(1, rel=1e-12)
    assert there.ratio_least <= there.ratio_mean * (1 + 1e-12)
    assert there.ratio_mean <= there.ratio_most * (1 + 1e-12)
    assert (there.quality_low, there.quality_high) == (back.quality_low, back.quality_high)


@given(steps, steps, st.floats(1e-6, 1e6))
def test_a_family_k_times_as_dear_has_k_times_the_ratio(
    first: list[tuple[float, float]], second: list[tuple[float, float]], k: float
) -> None:
    a, b = curve_of(first), curve_of(second)
    before, after = advantage(a, b), advantage(a, Curve(b.cost * k, b.quality))
    assert (before is None) == (after is None)
    if before and after:
        for name in ("ratio_mean", "ratio_least", "ratio_most"):
            assert getattr(after, name) == pytest.approx(k * getattr(before, name), rel=1e-9)


@given(steps)
def test_a_family_has_no_advantage_over_itself(of: list[tuple[float, float]]) -> None:
    answer = found(curve_of(of), curve_of(of))
    assert (answer.ratio_mean, answer.ratio_least, answer.ratio_most) == (1.0, 1.0, 1.0)


def test_qualities_that_do_not_meet_have_no_advantage() -> None:
    low, high = Curve(np.array([1.0, 2.0]), np.array([0.1, 0.2])), Curve(np.array([1.0]), np.array([0.3]))
    assert advantage(low, high) is None
    assert advantage(low, Curve(np.array([]), np.array([]))) is None


def test_a_single_point_is_compared_at_its_quality() -> None:
    line = Curve(np.array([1.0, 100.0]), np.array([0.2, 0.4]))
    answer = found(line, Curve(np.array([30.0]), np.array([0.3])))
    assert answer.ratio_mean == pytest.approx(3.0)
    assert answer.quality_low == answer.quality_high == 0.3


def test_a_plateau_counts_where_its_cheapest_row_is() -> None:
    cost, quality = np.array([1.0, 10.0, 1000.0, 100.0]), np.array([0.1, 0.2, 0.3, 0.2])
    with_plateau = curve(cost, quality)
    assert with_plateau.cost.tolist() == [1.0, 10.0, 1000.0]
    with pytest.raises(ValueError, match="do not both rise: take the rows of its frontier only"):
        Curve(cost, quality)


def test_the_share_inside_a_band_counts_the_common_range() -> None:
    flat = Curve(np.array([1.0, 100.0]), np.array([0.0, 1.0]))
    steep = Curve(np.array([1.0, 10000.0]), np.array([0.0, 1.0]))
    answer = advantage(flat, steep, band=(1.0, 10.0))  # the ratio goes from 1 to 100
    assert answer is not None
    assert answer.share_inside == pytest.approx(0.5, abs=0.002)
    assert found(flat, steep).share_inside is None
    with pytest.raises(ValueError, match="the band 3 to 2 holds no ratio: write the lesser first"):
        advantage(flat, steep, band=(3.0, 2.0))


def test_beyond_the_ends_of_a_curve_there_is_no_difference() -> None:
    line = Curve(np.array([1.0, 100.0]), np.array([0.2, 0.4]))
    found = differences(line, [0.5, 1.0, 10.0, 100.0, 101.0], [0.5, 0.5, 0.5, 0.5, 0.5])
    assert found == pytest.approx([math.nan, 0.3, 0.2, 0.1, math.nan], nan_ok=True)


@pytest.mark.parametrize(("cost", "quality"), [([0.0], [0.1]), ([1.0], [math.nan]), ([1.0, 2.0], [0.1])])
def test_a_curve_of_unusable_numbers_is_refused(cost: list[float], quality: list[float]) -> None:
    with pytest.raises(ValueError, match="a curve"):
        Curve(np.array(cost), np.array(quality))
