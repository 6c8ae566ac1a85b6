import pytest

from orchestrator import wording


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (0.0, "0 FLOP"),
        (1.0, "1 FLOP"),
        (99_999.0, "99,999 FLOP"),
        (100_000.0, "0.100 megaFLOP"),
        (419_712_000.0, "0.420 gigaFLOP"),
        (4.2e15, "4.20 petaFLOP"),
        (2.24e20, "224 exaFLOP"),
        (4.2e21, "4,200 exaFLOP"),
    ],
)
def test_flops_have_three_digits_and_the_prefix_that_fits(value: float, said: str) -> None:
    assert wording.flops(value) == said


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (0, "0"),
        (1567, "1,567"),
        (224.4, "224"),
        (99.96, "100"),
        (55.94, "55.9"),
        (9.996, "10.0"),
        (0.9996, "1.00"),
        (0.01234, "0.0123"),
        (1.234e-6, "0.00000123"),
        (-4.2, "-4.20"),
    ],
)
def test_three_digits_never_have_an_exponent(value: float, said: str) -> None:
    assert wording.three_digits(value) == said


def test_a_column_of_flops_has_one_unit() -> None:
    assert wording.flops_column([4.2e8, 1.76e11]) == ("gigaFLOP", ["0.420", "176"])
    assert wording.flops_column([0.0, 2e18]) == ("exaFLOP", ["0", "2.00"])
    assert wording.flops_column([]) == ("FLOP", [])


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (0.4, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min"),
        (200, "3 min 20 s"),
        (3600, "1 h"),
        (18_600, "5 h 10 min"),
        (86_399.7, "1 d"),
        (1_047_600, "12 d 3 h"),
        (1e8, "1,157 d 9 h"),
    ],
)
def test_times_have_two_units(value: float, said: str) -> None:
    assert wording.seconds(value) == said


def test_a_share_is_percent_and_a_count_has_its_plural() -> None:
    assert wording.percent(0.9875) == "98.75 %"
    assert wording.counted(1, "run") == "1 run"
    assert wording.counted(2000, "run") == "2,000 runs"
