"""The frontier of 1,000,000 points in 4 families, beside window functions over the same index.

python -m benchmarks.frontier
"""

import math
import random
from collections.abc import Iterator
from functools import partial

import psycopg
from sqlalchemy import insert, text

from benchmarks.databases import fresh_urls, median_milliseconds, print_table
from db import frontiers
from db.store import Connection, Store
from db.tables import PointRow, SeriesRow, StudyRow
from db.views import frontier_rows

POINTS = 1_000_000
FAMILIES = ("Hybrid", "MLP", "ResNet", "ViT")
REPEATS = 7
GAP_SHAPE = 3.0
GOAL_MILLISECONDS = {"sqlite": 150.0, "postgresql": 50.0}

WINDOW = """
SELECT family, cost, quality FROM (
    SELECT family, cost, quality, max(quality) OVER (
        PARTITION BY family ORDER BY cost, quality DESC ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
    ) AS best_before
    FROM point WHERE series_id = :series_id
) p WHERE best_before IS NULL OR quality > best_before
"""


def points(series_id: int) -> Iterator[dict[str, object]]:
    """A cloud below a power law, costs over nine orders of magnitude."""
    rng = random.Random(0)
    for number in range(POINTS):
        cost = 10 ** rng.uniform(9, 18)
        # Most configurations are well below what their cost allows, and few come close to it.
        quality = 1 - 3 * cost**-0.08 - 0.1 * rng.gammavariate(GAP_SHAPE, 1)
        family = FAMILIES[number % len(FAMILIES)]
        name = f"{rng.getrandbits(256):064x}"
        yield {
            "series_id": series_id,
            "configuration": name,
            "training": name,
            "family": family,
            "model": f"{family}-{number % 97}",
            "cost": cost,
            "quality": quality,
            "value": quality,
            "sd": None,
            "seeds": 1,
            "epochs": 1.0,
            "data_rows": 1000,
            "parameters": 1_000_000,
            "sweep": None,
            "searched": None,
        }


def fill(store: Store, url: str) -> int:
    with store.begin() as c:
        study = insert(StudyRow).values(name="cloud", title="", source="", shows="", text="", file="", submitted_at=0)
        study_id = c.execute(study.returning(StudyRow.id)).scalar_one()
        series = insert(SeriesRow).values(
            study_id=study_id, kind="evaluate", metric="accuracy", dataset="d", split="test", image_size=8, direction=1
        )
        series_id = int(c.execute(series.returning(SeriesRow.id)).scalar_one())
        rows = points(series_id)
        if store.dialect == "sqlite":
            while chunk := [row for _, row in zip(range(50_000), rows, strict=False)]:
                c.execute(insert(PointRow), chunk)
            c.execute(text("ANALYZE"))
    if store.dialect == "postgresql":
        with psycopg.connect(url, autocommit=True) as raw:
            first = next(rows)
            with raw.cursor() as cursor, cursor.copy(f"COPY point ({', '.join(first)}) FROM STDIN") as copy:
                copy.write_row(tuple(first.values()))
                for row in rows:
                    copy.write_row(tuple(row.values()))
            raw.execute("VACUUM ANALYZE point")  # what autovacuum does by itself within a minute
    return series_id


def by_window(connection: Connection, series_id: int) -> set[tuple[object, ...]]:
    """(family, cost, quality) of each family's frontier."""
    return {tuple(row) for row in connection.execute(text(WINDOW), {"series_id": series_id})}


def plan(connection: Connection, series_id: int) -> str:
    how = "EXPLAIN QUERY PLAN" if connection.dialect.name == "sqlite" else "EXPLAIN (ANALYZE, BUFFERS, COSTS OFF)"
    query = frontier_rows(connection.dialect.name, "WHERE s.id = :series_id")
    return "\n".join(str(row[-1]) for row in connection.execute(text(f"{how} {query}"), {"series_id": series_id}))


def main() -> None:
    table = []
    plans = []
    with fresh_urls() as urls:
        for dialect, url in urls.items():
            store = Store.open(url)
            series_id = fill(store, url)
            with store.read() as c:
                found = {
                    "by family": frontiers.frontier(c, series_id, by_family=True),
                    "pooled": frontiers.frontier(c, series_id),
                }
                window = median_milliseconds(partial(by_window, c, series_id), REPEATS)
                assert by_window(c, series_id) == {
                    (point.family, point.cost, point.quality) for point in found["by family"]
                }
                for name, by_family in (("by family", True), ("pooled", False)):
                    ask = partial(frontiers.frontier, c, series_id, by_family)
                    least, median, most = median_milliseconds(ask, REPEATS)
                    goal = GOAL_MILLISECONDS[dialect]
                    said = "met" if median < goal else "MISSED"
                    cells = (dialect, name, len(found[name]), least, median, most, window[1], median / window[1])
                    table.append((*cells, f"{goal:.0f} ms: {said}"))
                plans.append(f"\n{dialect}\n{plan(c, series_id)}")
            store.dispose()
    assert all(math.isfinite(row[4]) for row in table)
    print(f"frontier of {POINTS:,} points, median of {REPEATS} [ms]")
    print_table(("database", "frontier", "points", "least", "median", "most", "window", "ratio", "goal"), table)
    print(*plans, sep="\n")


if __name__ == "__main__":
    main()
