"""Which points lead, kept up by triggers: against the definition after every change, on both databases."""

import itertools
from functools import partial
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from sqlalchemy import Case, bindparam, case, delete, insert, literal, select, text, update

from db import points
from db.dialect import upsert
from db.store import Connection, Store
from db.tables import PointRow, SeriesRow, StudyRow, table_of
from db.views import frontier_rows

POINT = table_of(PointRow)
FAMILIES = ("ResNet", "ViT")
# Few values, so that ties, exact duplicates and points without a cost are common.
costs = st.none() | st.sampled_from([1.0, 2.0, 3.0, 4.0, 1e18]) | st.floats(0.5, 9)
qualities = st.sampled_from([-1.0, 0.0, 0.25, 0.5, 1.0]) | st.floats(0, 1)
families = st.sampled_from(FAMILIES)
numbers = st.integers(0, 14)


def series_of_a_study(connection: Connection, metric: str = "accuracy") -> int:
    study = insert(StudyRow).values(name=metric, title="", source="", shows="", text="", file="", submitted_at=0)
    study_id = connection.execute(study.returning(StudyRow.id)).scalar_one()
    names = {"kind": "evaluate", "metric": metric, "dataset": "digits", "split": "test"}
    row = insert(SeriesRow).values(study_id=study_id, image_size=8, direction=1, **names)
    return int(connection.execute(row.returning(SeriesRow.id)).scalar_one())


def row_of(series: int, number: int, family: str, cost: float | None, quality: float) -> dict[str, Any]:
    name = f"{number:064x}"
    said = {"family": family, "model": family, "cost": cost, "quality": quality, "value": quality, "seeds": 1}
    return {"series_id": series, "configuration": name, "training": name, "pretraining": name, **said}


def leaders(connection: Connection) -> set[tuple[int, str]]:
    return {(row[0], row[1]) for row in connection.execute(select(POINT).where(POINT.c.leads))}


def by_definition(connection: Connection) -> set[tuple[int, str]]:
    rows = [row for row in connection.execute(select(POINT)) if row.cost is not None and row.cost > 0]

    def beaten(row: Any) -> bool:
        return any(
            (other.series_id, other.family) == (row.series_id, row.family)
            and other.cost <= row.cost
            and other.quality >= row.quality
            and (other.cost < row.cost or other.quality > row.quality)
            for other in rows
        )

    return {(row.series_id, row.configuration) for row in rows if not beaten(row)}


class _Undo(Exception):
    """Leaves a transaction without a trace."""


class Standing(RuleBasedStateMachine):
    """Points come, get better, worse, cheaper and dearer, change their family, and go, alone and many at a time."""

    def __init__(self, store: Store) -> None:
        super().__init__()
        self.opened = store.begin()
        self.c = self.opened.__enter__()

    @initialize()
    def two_series(self) -> None:
        self.series = [series_of_a_study(self.c, metric) for metric in ("accuracy", "accuracy_top5")]

    @rule(which=st.integers(0, 1), number=numbers, family=families, cost=costs, quality=qualities)
    def put(self, which: int, number: int, family: str, cost: float | None, quality: float) -> None:
        row = row_of(self.series[which], number, family, cost, quality)
        upsert(self.c, POINT, [row], unique=("series_id", "configuration"))

    @rule(rows=st.lists(st.tuples(numbers, families, costs, qualities), max_size=15, unique_by=lambda row: row[0]))
    def put_many(self, rows: list[tuple[int, str, float | None, float]]) -> None:
        made = [row_of(self.series[0], *row) for row in rows]
        upsert(self.c, POINT, made, unique=("series_id", "configuration"))

    @rule(rows=st.lists(st.tuples(numbers, families, costs, qualities), max_size=15, unique_by=lambda row: row[0]))
    def come_in_one_statement(self, rows: list[tuple[int, str, float | None, float]]) -> None:
        there = set(self.c.execute(select(POINT.c.configuration)).scalars())
        made = [row for row in (row_of(self.series[1], *row) for row in rows) if row["configuration"] not in there]
        if made:
            self.c.execute(insert(POINT).values(made))

    @rule(number=numbers)
    def go(self, number: int) -> None:
        self.c.execute(delete(POINT).where(POINT.c.configuration == f"{number:064x}"))

    @rule(number=numbers)
    def move_many_in_one_statement(self, number: int) -> None:
        later = POINT.c.configuration >= f"{number:064x}"
        self.c.execute(update(POINT).where(later).values(cost=10 - POINT.c.cost, quality=-POINT.c.quality))

    @rule()
    def leaders_go_in_one_statement(self) -> None:
        self.c.execute(delete(POINT).where(POINT.c.leads))

    @rule()
    def change_series(self) -> None:
        there = select(POINT.c.configuration).where(POINT.c.series_id == self.series[1])
        moves = (POINT.c.series_id == self.series[0]) & POINT.c.configuration.not_in(there)
        self.c.execute(update(POINT).where(moves & POINT.c.leads).values(series_id=self.series[1]))

    @rule(family=families)
    def share_a_family(self, family: str) -> None:
        self.c.execute(update(POINT).where(POINT.c.leads).values(family=family))

    @invariant()
    def the_leaders_are_those_of_the_definition(self) -> None:
        assert leaders(self.c) == by_definition(self.c)

    def teardown(self) -> None:
        self.c.rollback()
        self.opened.__exit__(None, None, None)


def test_the_leaders_are_those_of_the_definition_after_every_change(store: Store) -> None:
    quick = settings(max_examples=40, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck))
    run_state_machine_as_test(partial(Standing, store), settings=quick)  # type: ignore[arg-type]


@pytest.mark.slow
def test_the_leaders_are_those_of_the_definition_after_very_many_changes(store: Store) -> None:
    long = settings(max_examples=400, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck))
    run_state_machine_as_test(partial(Standing, store), settings=long)  # type: ignore[arg-type]


places = st.tuples(families, costs, qualities)


@given(moves=st.lists(st.tuples(places, places), min_size=2, max_size=14))
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
def test_many_points_that_move_in_one_statement_leave_the_leaders_of_the_definition(
    store: Store, moves: list[tuple[tuple[str, float | None, float], ...]]
) -> None:
    with pytest.raises(_Undo), store.begin() as c:  # noqa: PT012 - each example starts with an empty store
        series = series_of_a_study(c)
        before, after = ([row_of(series, n, *pair[when]) for n, pair in enumerate(moves)] for when in (0, 1))
        c.execute(insert(POINT), before)

        def moved(column: str) -> Case[Any]:
            # One of three stays where it is.
            moving = [row for n, row in enumerate(after) if n % 3]
            values = {row["configuration"]: literal(row[column], POINT.c[column].type) for row in moving}
            return case(values, value=POINT.c.configuration, else_=POINT.c[column])

        c.execute(update(POINT).values({name: moved(name) for name in ("family", "cost", "quality")}))
        assert leaders(c) == by_definition(c)
        raise _Undo


def test_what_a_leader_had_beaten_leads_though_a_weaker_point_came_in_between(store: Store) -> None:
    with store.begin() as c:
        series = series_of_a_study(c)
        places = [(None, 0.05), (1.0, 0.9), (6.0, 0.5), (5.0, 0.1)]
        c.execute(insert(POINT), [row_of(series, n, "ViT", *place) for n, place in enumerate(places)])
        moves = "cost = CASE WHEN cost = 1 THEN 7 ELSE 5 END, quality = CASE WHEN cost = 1 THEN 0.01 ELSE 0.1 END"
        c.execute(text(f"UPDATE point SET {moves} WHERE cost IS NULL OR cost = 1"))
        assert {name[-1] for _, name in leaders(c)} == {"0", "2", "3"}
        assert leaders(c) == by_definition(c)


def test_every_order_of_coming_and_going_of_four_points_leaves_the_same_leaders(store: Store) -> None:
    places = [(1.0, 0.5), (2.0, 0.4), (2.0, 0.7), (3.0, 0.6)]
    with store.begin() as c:
        series = series_of_a_study(c)
        for order in itertools.permutations(range(4)):
            for gone in order:
                c.execute(insert(POINT), [row_of(series, n, "ViT", *places[n]) for n in order])
                c.execute(delete(POINT).where(POINT.c.configuration == f"{gone:064x}"))
                assert leaders(c) == by_definition(c)
                c.execute(delete(POINT))


def test_points_that_came_without_the_triggers_lead_after_a_recount(store: Store) -> None:
    with store.begin() as c:
        series = series_of_a_study(c)
        rows = [row_of(series, n, FAMILIES[n % 2], float(n % 7), float(n % 11)) for n in range(60)]
        c.execute(insert(POINT), rows)
        expected = by_definition(c)
        for flag in ("true", "false"):
            c.execute(text(f"UPDATE point SET leads = {flag}"))
            points.recount(c)
            assert leaders(c) == expected


def test_the_jump_finds_the_leaders_that_stand(store: Store) -> None:
    with store.begin() as c:
        series = series_of_a_study(c)
        c.execute(insert(POINT), [row_of(series, n, FAMILIES[n % 2], float(n % 53), float(n % 31)) for n in range(900)])
        found = c.execute(text(frontier_rows(store.dialect))).all()
        assert {(row.series_id, row.configuration) for row in found} == leaders(c) != set()


def test_a_change_of_one_point_reads_only_a_few_others(sqlite_url: str) -> None:
    # SQLite counts the steps of its virtual machine.
    store = Store.open(sqlite_url)
    with store.begin() as c:
        series = series_of_a_study(c)
        c.execute(insert(POINT), [row_of(series, n, "ViT", float(n + 1), (n % 50) / 50 + n / 1e6) for n in range(5000)])
        steps = 0

        def count() -> int:
            nonlocal steps
            steps += 1
            return 0

        driver = c.connection.driver_connection
        assert driver is not None
        where = (POINT.c.series_id == bindparam("s")) & (POINT.c.configuration == bindparam("n"))
        beaten = {"s": series, "n": f"{4040:064x}"}
        driver.set_progress_handler(count, 1)
        c.execute(update(POINT).where(where).values(quality=0.1), beaten)
        driver.set_progress_handler(None, 1)
        assert 0 < steps < 500
    store.dispose()
