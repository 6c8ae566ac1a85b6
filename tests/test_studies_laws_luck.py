"""What seeds say of luck, and intervals of a frontier's law that go by it."""

from dataclasses import replace

import numpy as np
import pytest

from studies.laws.fits import fit, form_of
from studies.laws.luck import Luck, luck_of
from studies.laws.points import Floats, Points

UNIT = 1e17
TRUE = {"power": [0.3 * UNIT**0.1, 0.1], "saturating": [0.09, 0.4 * UNIT**0.35, 0.35]}
WHERE = UNIT * np.array([1, 1e2, 1e4, 1e5])


def _seeded(sd: list[float], seeds: list[float], error: float = 0.1) -> Luck | None:
    names = tuple(str(number) for number in range(len(sd)))
    return luck_of(Points(np.ones(len(sd)), np.full(len(sd), error), names, sd=np.array(sd), seeds=np.array(seeds)))


def test_luck_is_the_pooled_spread_of_seeds_over_the_root_of_their_number() -> None:
    even = _seeded([0.01] * 5, [4.0] * 5)
    assert even is not None
    assert even.spread == pytest.approx(0.1 / 2)
    assert even.freedom == pytest.approx(15)
    # Variances of (3 x 1e-4 + 1 x 9e-4) / 4 of an error of 0.1, and 1 / seeds of (1/4 + 1/2 + 1) / 3 on average.
    some = _seeded([0.01, 0.03, np.nan], [4, 2, 1])
    assert some is not None
    assert some.spread == pytest.approx(np.sqrt(3e-4 * 100 * 7 / 12))


def test_without_several_seeds_there_is_no_luck_to_go_by() -> None:
    assert _seeded([np.nan, np.nan], [1, 1]) is None
    assert luck_of(Points(np.ones(2), np.ones(2), ("a", "b"))) is None


def test_seeds_of_equal_spread_have_all_their_freedom_and_one_wild_configuration_leaves_little() -> None:
    random = np.random.default_rng(0)
    equal = _seeded(list(0.01 * np.abs(random.normal(size=400))), [2.0] * 400)
    wild = _seeded([0.1, *[0.001] * 39], [2.0] * 40)
    assert equal is not None
    assert wild is not None
    assert equal.freedom > 300
    assert wild.freedom < 3


def _own_errors(form: str, count: int, shortfall: float, both_sides: float, random: np.random.Generator) -> Floats:
    """Errors of configurations without luck: the law, what they fall short of it, and what they are to either side."""
    law = np.exp(form_of(form).log_at(np.array([TRUE[form]]), _costs(count)[None]))[0]
    short = shortfall * np.abs(random.normal(size=count))
    return np.asarray(law * np.exp(short + both_sides * random.normal(size=count)))


def _study(own_R: Floats, noise: float, random: np.random.Generator, seeds: int = 2) -> Points:
    """Points of these configurations, each the mean of its seeds; noise: of the mean."""
    count = len(own_R)
    error_RS = own_R[:, None] * np.exp(noise * np.sqrt(seeds) * random.normal(size=(count, seeds)))
    known = {"sd": error_RS.std(axis=1, ddof=1), "seeds": np.full(count, float(seeds))}
    return Points(_costs(count), error_RS.mean(axis=1), _names(count), **known)


def _costs(count: int) -> Floats:
    return UNIT * np.geomspace(1, 1e4, count)


def _names(count: int) -> tuple[str, ...]:
    return tuple(f"run {row:02}" for row in range(count))


@pytest.mark.timeout(1200)  # hundreds of studies: minutes, and more on a busy machine
@pytest.mark.slow
@pytest.mark.parametrize(
    ("form", "count", "noise", "shortfall", "both_sides"),
    [
        ("saturating", 20, 0.03, 0.0, 0.0),
        ("saturating", 40, 0.03, 0.3, 0.0),
        ("saturating", 40, 0.01, 0.0, 0.05),
        ("power", 20, 0.03, 0.5, 0.0),
    ],
)
def test_intervals_with_seeds_hold_the_law_of_frontiers_without_luck(
    form: str, count: int, noise: float, shortfall: float, both_sides: float
) -> None:
    random = np.random.default_rng(2026)
    laws = []
    for _ in range(200):
        own = _own_errors(form, count, shortfall, both_sides, random)
        laws.append(fit(Points(_costs(count), own, _names(count)), form, replicates=0).error_at(WHERE))
    true = np.median(laws, axis=0)
    held = []
    for study in range(150):
        own = _own_errors(form, count, shortfall, both_sides, random)
        low, high = fit(_study(own, noise, random), form, replicates=200, seed=study).band_at(WHERE)
        held.append((low <= true) & (true <= high))
    share = np.mean(held, axis=0)
    # Of 150 studies one standard deviation of the share is 2 %, and there are four.
    assert np.all(share >= 0.89), share


def test_seeds_that_differ_as_configurations_do_leave_no_room_for_shortfalls() -> None:
    random = np.random.default_rng(0)
    points = _study(_own_errors("saturating", 20, 0.0, 0.0, random), 0.03, random)
    widths = []
    for of in (points, replace(points, sd=None, seeds=None)):
        low, high = np.log(fit(of, "saturating", replicates=200).band_at([UNIT * 1e2]))
        widths.append((high - low)[0])
    assert widths[0] < 0.8 * widths[1]


def test_the_law_of_lucky_configurations_lies_above_their_frontier_and_that_of_others_on_it() -> None:
    random = np.random.default_rng(5)
    same = np.exp(form_of("power").log_at(np.array([TRUE["power"]]), _costs(40)[None]))[0]
    lucky = fit(_study(same, 0.1, random), "power", replicates=200)
    assert np.median(lucky.draws, axis=0) == pytest.approx(TRUE["power"], rel=0.5)
    middle = np.median(form_of("power").log_at(lucky.draws, UNIT * np.array([[1e2]])))
    assert np.log(lucky.error_at([UNIT * 1e2])[0]) < middle - 0.05
    own = _own_errors("power", 40, 0.0, 0.1, random)
    sound = fit(_study(own, 0.001, random), "power", replicates=200)
    middle = np.median(form_of("power").log_at(sound.draws, UNIT * np.array([[1e2]])))
    assert np.log(sound.error_at([UNIT * 1e2])[0]) == pytest.approx(middle, abs=0.02)


@pytest.mark.parametrize("noise", [0.0, 1e-9])
def test_seeds_that_never_differ_leave_an_interval(noise: float) -> None:
    random = np.random.default_rng(5)
    for both_sides in (0.0, 0.1):
        own = _own_errors("power", 20, 0.0, both_sides, random)
        found = fit(_study(own, noise, random), "power", replicates=60)
        assert found.replicates == 60
        assert np.isfinite(found.draws).all()
