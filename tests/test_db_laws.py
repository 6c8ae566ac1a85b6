"""Laws in the store: once for the same question, bound to the results that they were fitted on, on each database."""

from dataclasses import replace

import pytest

from db import laws
from db.frontiers import Point
from db.laws import NewLaw
from db.store import Store
from tests.builders import submit, training

LAW = NewLaw(
    key="a" * 64,
    points_digest="b" * 64,
    form="power",
    family=None,
    kind="evaluate",
    metric="accuracy",
    dataset="digits",
    split="test",
    image_size=8,
    answer='{"a": 0.1234567890123456}',
    draws="[[1.0, 2.0]]",
)


def test_a_law_is_kept_once_and_the_first_one_stays(store: Store) -> None:
    with store.begin() as connection:
        study_id = submit(connection, [training()])
        first = laws.store(connection, study_id, LAW)
        again = laws.store(connection, study_id, replace(LAW, answer="{}"))
        assert first == again
        assert first.answer == LAW.answer
        assert first.fitted_at > 1e9
        assert laws.laws_of(connection, study_id) == [first]


def test_a_law_is_found_by_its_key_in_its_study_alone(store: Store) -> None:
    with store.begin() as connection:
        study_id = submit(connection, [training()])
        other_id = submit(connection, [training()], name="other")
        laws.store(connection, study_id, LAW)
        assert laws.law_of(connection, study_id, LAW.key) is not None
        assert laws.law_of(connection, study_id, "c" * 64) is None
        assert laws.law_of(connection, other_id, LAW.key) is None
        assert laws.laws_of(connection, other_id) == []


def test_the_last_law_comes_first(store: Store) -> None:
    with store.begin() as connection:
        study_id = submit(connection, [training()])
        for key in ("c", "d", "e"):
            laws.store(connection, study_id, replace(LAW, key=key * 64))
        assert [law.key[0] for law in laws.laws_of(connection, study_id)] == ["e", "d", "c"]


@pytest.mark.parametrize(
    "change",
    [
        {"cost": 2.0},
        {"value": 0.25},
        {"sd": 0.1},
        {"runs": ("k", "l")},
        {"parameters": 7},
        {"images": 7.0},
        {"data_rows": 7},
        {"configuration": "d"},
    ],
)
def test_whatever_a_law_can_see_of_a_point_is_in_its_digest(change: dict[str, object]) -> None:
    point = Point(
        configuration="c",
        training="t",
        family="ViT",
        model="ViT-8",
        cost=1.0,
        quality=0.5,
        value=0.5,
        sd=None,
        seeds=1,
        epochs=1.0,
        data_rows=100,
        parameters=10,
        sweep=None,
        searched=None,
        runs=("k",),
    )
    other = replace(point, configuration="e")
    changed = replace(point, **change)  # type: ignore[arg-type]
    assert laws.points_digest([point, other]) == laws.points_digest([other, point])
    assert laws.points_digest([point, other]) != laws.points_digest([changed, other])
