"""The points of a law: what is usable, what is not and why, and in which order."""

import numpy as np
import pytest

from studies.laws.points import Points


def test_points_that_have_no_logarithm_are_left_out_with_a_reason_each() -> None:
    points = Points(
        cost=[1e18, np.nan, 0.0, -1.0, np.inf, 2e18, 3e18, 4e18, 5e18],  # type: ignore[arg-type]
        error=[0.5, 0.5, 0.5, 0.5, 0.5, np.nan, 0.0, -0.1, 1.0],  # type: ignore[arg-type]
        keys=tuple("abcdefghi"),
    )
    kept, dropped = points.clean()
    assert kept.keys == ("a", "i")
    assert dict(dropped) == {
        "a negative error": ("h",),
        "an error of exactly 0, which has no logarithm": ("g",),
        "cost of zero or less": ("c", "d"),
        "no finite cost": ("b", "e"),
        "no finite error": ("f",),
    }


def test_usable_points_come_in_one_order_whatever_order_they_were_given_in() -> None:
    error = np.array([0.1, 0.4, 0.2, 0.3])
    points = Points(np.array([3.0, 1, 2, 1]), error, ("a", "b", "c", "d"), labels=tuple("wxyz"))
    kept = points.clean()[0]
    again = points.take(np.array([2, 0, 3, 1])).clean()[0]
    assert kept.keys == again.keys == ("d", "b", "c", "a")
    assert kept.labels == again.labels == ("z", "x", "y", "w")


def test_a_missing_size_harms_no_law_of_cost_but_a_surface() -> None:
    points = Points(np.ones(2), np.ones(2), ("a", "b"), parameters=np.array([np.nan, 1e6]), images=np.array([1e6, 1e6]))
    assert len(points.clean()[0]) == 2
    kept, dropped = points.clean(("parameters", "images"))
    assert kept.keys == ("b",)
    assert dropped == (("no finite number of parameters", ("a",)),)


def test_points_of_none_are_clean() -> None:
    kept, dropped = Points(np.zeros(0), np.zeros(0), ()).clean()
    assert (len(kept), dropped) == (0, ())


def test_rows_are_taken_by_number_and_by_mask() -> None:
    points = Points(np.arange(1.0, 4), np.arange(1.0, 4), ("a", "b", "c"), data_rows=np.arange(3.0))
    assert points.take(np.array([2, 0])).keys == ("c", "a")
    taken = points.take(np.array([False, True, True]))
    assert taken.keys == ("b", "c")
    assert taken.input("data_rows").tolist() == [1, 2]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"cost": np.ones(3)}, "cost has the shape"),
        ({"parameters": np.ones((2, 1))}, "parameters has the shape"),
        ({"keys": ("a", "a")}, "the configuration a comes twice: average its seeds first"),
        ({"labels": ("one",)}, "1 labels for 2 points"),
    ],
)
def test_points_that_contradict_themselves_are_refused(arguments: dict[str, object], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        Points(**({"cost": np.ones(2), "error": np.ones(2), "keys": ("a", "b")} | arguments))  # type: ignore[arg-type]


def test_an_input_that_the_points_do_not_have_is_refused_with_its_name() -> None:
    with pytest.raises(ValueError, match="do not say their number of parameters"):
        Points(np.ones(1), np.ones(1), ("a",)).clean(("parameters",))
