"""The frontier of 10,000,000 points in 4 families: what stands, what is tied, the jump along the index, and other ways.

python -m benchmarks.frontier [--points N]

Beside them window functions over the same index, those of DuckDB on a table in memory, NumPy's argsort with a
running maximum on arrays, and the definition of ties on arrays. Goals are judged by the time on the processor, of the
client and of the server's process for it: it is the time on the wall of a machine with nothing else to do.
"""

import argparse
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path

import duckdb
import numpy as np
import psycopg
import pyarrow as pa
from numpy.typing import NDArray
from sqlalchemy import CursorResult, Index, insert, make_url, text

from benchmarks.databases import fresh_urls, print_table
from db import frontiers, points, standing
from db.series import series_with
from db.store import Connection, Store
from db.tables import PointRow, SeriesRow, StudyRow, table_of
from db.ties import ties
from db.views import frontier_rows
from studies.frontiers import frontier, tied

POINTS = 10_000_000
FAMILIES = ("Hybrid", "MLP", "ResNet", "ViT")
REPEATS = 7
CHUNK = 100_000
GAP_SHAPE = 6.0
"""With it 88 of 10,000,000 are on the frontier of all, as in other measurements of ours."""
REPEATED = 50
"""One configuration of so many has several seeds."""
SEEDS, SD = 3, 0.003
CHANGES = 20_000
LEADERS = 50
GOALS = {"sqlite": 900.0, "postgresql": 300.0}
"""Milliseconds of the jump for 10,000,000 points."""
STANDING_GOAL = 1.0
UPKEEP_GOAL = 20.0

Floats = NDArray[np.float64]
Found = set[tuple[str, float, float]]
"""family, cost and quality of each point on a frontier."""

COLUMNS = ("series_id", "configuration", "training", "family", "model", "cost", "quality", "value", "seeds", "sd")
WINDOW = """
SELECT family, cost, quality FROM (
    SELECT family, cost, quality, max(quality) OVER (
        {partition} ORDER BY cost, quality DESC ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
    ) AS best_before
    FROM point WHERE series_id = :series_id
) p WHERE best_before IS NULL OR quality > best_before
"""
VIEW = text("SELECT family, cost, value, pooled FROM frontier WHERE study = 'cloud'")


def cloud(rows: int) -> tuple[Floats, Floats]:
    """Cost and quality below a power law, costs over nine orders of magnitude; families take turns.

    Most configurations are well below what their cost allows, and few come close to it.
    """
    rng = np.random.default_rng(0)
    cost = 10 ** rng.uniform(9, 18, rows)
    return cost, 1 - 3 * cost**-0.08 - 0.1 * rng.gamma(GAP_SHAPE, 1, rows)


# ---------------------------------------------------------------------------------------------------------------- fill


def fill(store: Store, url: str, cost: Floats, quality: Floats, name: str = "cloud") -> int:
    """Store the points with the triggers off and the index made afterwards, as one would bring in so many."""
    with store.begin() as c:
        study = insert(StudyRow).values(name=name, title="", source="", shows="", text="", file="", submitted_at=0)
        study_id = c.execute(study.returning(StudyRow.id)).scalar_one()
        series = insert(SeriesRow).values(
            study_id=study_id, kind="evaluate", metric="accuracy", dataset="d", split="test", image_size=8, direction=1
        )
        series_id = int(c.execute(series.returning(SeriesRow.id)).scalar_one())
        triggers(c, on=False)
        index().drop(c)
    if store.dialect == "sqlite":
        _fill_sqlite(url, series_id, cost, quality)
    else:
        _fill_postgresql(url, series_id, cost, quality)
    with store.begin() as c:
        index().create(c)
        triggers(c, on=True)
        points.recount(c)
        c.execute(text("ANALYZE"))
    if store.dialect == "postgresql":
        with psycopg.connect(url, autocommit=True) as raw:
            raw.execute("VACUUM ANALYZE point")  # what autovacuum does by itself within a minute
            raw.execute("CHECKPOINT")
    return series_id


def index() -> Index:
    return next(each for each in table_of(PointRow).indexes if each.name == "point_frontier")


def triggers(connection: Connection, *, on: bool) -> None:
    if connection.dialect.name == "postgresql":
        connection.execute(text(f"ALTER TABLE point {'ENABLE' if on else 'DISABLE'} TRIGGER USER"))
    elif on:
        for statement in standing.create("sqlite"):
            connection.execute(text(statement))
    else:
        for name in standing.NAMES:
            connection.execute(text(f"DROP TRIGGER {name}"))


def _rows(series_id: int, cost: Floats, quality: Floats) -> Iterator[tuple[object, ...]]:
    # Numbers as names: the order in which they come keeps the primary key's index quick to fill.
    for start in range(0, len(cost), CHUNK):
        chunk = zip(cost[start : start + CHUNK].tolist(), quality[start : start + CHUNK].tolist(), strict=True)
        for number, (dear, good) in enumerate(chunk, start):
            name, family = f"{number:064x}", FAMILIES[number % len(FAMILIES)]
            seeds, sd = (1, None) if number % REPEATED else (SEEDS, SD)
            yield series_id, name, name, family, family, dear, good, good, seeds, sd


def _fill_sqlite(url: str, series_id: int, cost: Floats, quality: Floats) -> None:
    file = sqlite3.connect(make_url(url).database or "", isolation_level=None)
    file.execute("PRAGMA synchronous = OFF")
    file.execute("BEGIN")
    places = ", ".join("?" * len(COLUMNS))
    file.executemany(f"INSERT INTO point ({', '.join(COLUMNS)}) VALUES ({places})", _rows(series_id, cost, quality))
    file.execute("COMMIT")
    file.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    file.close()


def _fill_postgresql(url: str, series_id: int, cost: Floats, quality: Floats) -> None:
    into = f"COPY point ({', '.join(COLUMNS)}) FROM STDIN"
    rows = _rows(series_id, cost, quality)
    with psycopg.connect(url) as raw, raw.cursor() as cursor, cursor.copy(into) as copy:
        while block := ["\t".join(map(str, row)) for row in islice(rows, CHUNK)]:
            copy.write("\n".join(block).replace("None", r"\N") + "\n")


# ------------------------------------------------------------------------------------------------------------- reading


def processor_seconds(server: int | None) -> float:
    """Time on the processor of this process and of a server's process (Linux)."""
    spent = 0 if server is None else int(Path(f"/proc/{server}/schedstat").read_text().split()[0])
    return time.process_time() + spent / 1e9


def server_of(connection: Connection) -> int | None:
    if connection.dialect.name == "sqlite":
        return None
    return int(connection.execute(text("SELECT pg_backend_pid()")).scalar_one())


def taken(ask: Callable[[], object], repeats: int, server: int | None = None) -> tuple[float, float, float]:
    """Median milliseconds on the processor, and least and median ones on the wall, after a call that does not count."""
    ask()
    worked, waited = [], []
    for _ in range(repeats):
        start, busy = time.perf_counter(), processor_seconds(server)
        ask()
        worked.append(1000 * (processor_seconds(server) - busy))
        waited.append(1000 * (time.perf_counter() - start))
    return float(np.median(worked)), min(waited), float(np.median(waited))


def by_jump(connection: Connection, series_id: int) -> Found:
    """Of each family its own: the flag `pooled` in the same rows tells which of them are on the one of all."""
    query = text(frontier_rows(connection.dialect.name, "WHERE s.id = :series_id"))
    rows = connection.execute(query, {"series_id": series_id})
    return {(row.family, row.cost, row.quality) for row in rows}


def by_window(connection: Connection, series_id: int, partition: str) -> Found:
    query = text(WINDOW.format(partition=partition))
    return {(row[0], row[1], row[2]) for row in connection.execute(query, {"series_id": series_id})}


def by_argsort(cost: Floats, quality: Floats) -> int:
    """What one writes in a notebook, of all families together; how long the frontier is."""
    order = np.argsort(cost)
    ordered = quality[order]
    best = np.maximum.accumulate(ordered)
    return int(np.count_nonzero(ordered[1:] > best[:-1])) + 1


def in_duckdb(cost: Floats, quality: Floats) -> Callable[[], int]:
    """The window functions in DuckDB, of all families together, on a table that it keeps in memory."""
    rows = pa.table({"cost": cost, "quality": quality})
    memory = duckdb.connect()
    memory.register("rows", rows)
    memory.execute("CREATE TABLE point AS SELECT 1 AS series_id, '' AS family, cost, quality FROM rows")
    query = WINDOW.format(partition="").replace(":series_id", "1")
    return lambda: len(memory.execute(query).fetchall())


def stood(connection: Connection, series_id: int, by_family: bool) -> Found:
    return {(p.family, p.cost, p.quality) for p in frontiers.frontier(connection, series_id, by_family)}


def found_tied(connection: Connection, series_id: int) -> set[str]:
    """Names of the runners-up of all families together, the frontier asked for too."""
    led = frontiers.frontier(connection, series_id)
    return {point.configuration for point in ties(connection, series_with(connection, series_id), led)}


def tied_by_definition(cost: Floats, quality: Floats) -> set[str]:
    error = np.full(len(cost), np.nan)
    error[::REPEATED] = SD / np.sqrt(SEEDS)
    return {f"{row:064x}" for row in tied(cost, quality, error, frontier(cost, quality)).tolist()}


def viewed(connection: Connection) -> int:
    return len(connection.execute(VIEW).all())


def readings(store: Store, series_id: int, cost: Floats, quality: Floats) -> list[tuple[object, ...]]:
    """A row for each way to the frontier, checked against each other."""
    scale = len(cost) / POINTS
    jump_goal = GOALS[store.dialect] * scale
    table: list[tuple[object, ...]] = []

    with store.read() as c:
        server = server_of(c)

        def timed(name: str, ask: Callable[[], object], goal: float | None, repeats: int = REPEATS) -> None:
            times = taken(ask, repeats, server)
            said = "" if goal is None else f"{goal:g} ms: {'met' if times[0] < goal else 'MISSED'}"
            table.append((store.dialect, name, *times, said))

        by_family, pooled = stood(c, series_id, True), stood(c, series_id, False)
        assert by_family == by_jump(c, series_id) == by_window(c, series_id, "PARTITION BY family")
        assert pooled == by_window(c, series_id, "")
        assert viewed(c) == len(by_family)
        assert len(pooled) == by_argsort(cost, quality)
        assert found_tied(c, series_id) == tied_by_definition(cost, quality)
        print(f"{store.dialect}: {len(by_family)} points on the frontiers of families, {len(pooled)} on that of all")
        timed("standing, the view", partial(viewed, c), STANDING_GOAL, 101)
        timed("the same and its runs", partial(stood, c, series_id, True), None, 101)
        timed("ties, pooled", partial(found_tied, c, series_id), None)
        timed("counted", partial(frontiers.configurations, c, series_with(c, series_id)), None)
        timed("left out", partial(frontiers.excluded, c, series_with(c, series_id)), None)
        timed("jump", partial(by_jump, c, series_id), jump_goal)
        timed("window, by family", partial(by_window, c, series_id, "PARTITION BY family"), None, 1)
        timed("window, pooled", partial(by_window, c, series_id, ""), None, 1)
    return table


def plan(connection: Connection, series_id: int) -> str:
    how = "EXPLAIN QUERY PLAN" if connection.dialect.name == "sqlite" else "EXPLAIN (ANALYZE, BUFFERS, COSTS OFF)"
    query = frontier_rows(connection.dialect.name, "WHERE s.id = :series_id")
    return "\n".join(str(row[-1]) for row in connection.execute(text(f"{how} {query}"), {"series_id": series_id}))


# -------------------------------------------------------------------------------------------------------------- upkeep


def upkeep(store: Store, series_id: int, rows: int) -> list[tuple[object, ...]]:
    """Microseconds a row of changing points with and without the triggers, and of leaders that go and come again."""
    with_triggers: list[float] = []
    bare: list[float] = []
    for on in (True, False) * 4:
        with store.begin() as c:
            if not on:
                triggers(c, on=False)
            _make_changes(c, series_id, rows)
            server = server_of(c)
            start = processor_seconds(server)
            c.execute(text(_UPSERT))
            (with_triggers if on else bare).append(1e6 * (processor_seconds(server) - start) / CHANGES)
            c.rollback()
    gone = _leaders_gone(store)
    cost = float(np.median(with_triggers) - np.median(bare))
    said = f"{UPKEEP_GOAL:g}: {'met' if cost <= UPKEEP_GOAL else 'MISSED'}"
    median, most = float(np.median(gone)), max(gone)
    return [(store.dialect, float(np.median(bare)), float(np.median(with_triggers)), cost, said, median, most)]


_UPSERT = f"""
INSERT INTO point ({", ".join(COLUMNS)}) SELECT {", ".join(COLUMNS)} FROM change WHERE true
ON CONFLICT (series_id, configuration) DO UPDATE SET cost = excluded.cost, quality = excluded.quality
"""


def _make_changes(connection: Connection, series_id: int, rows: int) -> None:
    """New values for known points, and new points, half of each; the first statements warm what the next ones need."""
    rng = np.random.default_rng(1)
    cost, quality = cloud(CHANGES)
    known = rng.choice(rows, CHANGES // 2, replace=False)
    numbers = np.concatenate([known, np.arange(rows, rows + CHANGES // 2)])
    rng.shuffle(numbers)
    connection.execute(text(f"CREATE TEMPORARY TABLE change AS SELECT {', '.join(COLUMNS)} FROM point LIMIT 0"))
    connection.execute(
        text(f"INSERT INTO change VALUES ({', '.join(f':{name}' for name in COLUMNS)})"),
        [
            dict(
                zip(COLUMNS, (series_id, f"{n:064x}", f"{n:064x}", FAMILIES[n % 4], "", c, q, q, 1, None), strict=True)
            )
            for n, c, q in zip(numbers.tolist(), cost.tolist(), rng.permutation(quality).tolist(), strict=True)
        ],
    )


def _leaders_gone(store: Store) -> list[float]:
    """Microseconds in which a leader goes, one after the other: what it alone had beaten is looked for."""
    times = []
    with store.begin() as c:
        server = server_of(c)
        names = c.execute(text("SELECT configuration FROM point WHERE leads ORDER BY configuration")).scalars().all()
        for name in names[:: max(1, len(names) // LEADERS)]:
            start = processor_seconds(server)
            gone: CursorResult[object] = c.execute(
                text("UPDATE point SET quality = -9 WHERE series_id = 1 AND configuration = :name"), {"name": name}
            )
            times.append(1e6 * (processor_seconds(server) - start))
            assert gone.rowcount == 1
        c.rollback()
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--points", type=int, default=POINTS)
    rows = parser.parse_args().points
    cost, quality = cloud(rows)
    read: list[tuple[object, ...]] = []
    changed: list[tuple[object, ...]] = []
    plans = []
    with fresh_urls() as urls:
        for dialect, url in urls.items():
            store = Store.open(url)
            start = time.perf_counter()
            series_id = fill(store, url, cost, quality)
            print(
                f"{dialect}: filled in {time.perf_counter() - start:.0f} s; load {os.getloadavg()[0]:.1f}", flush=True
            )
            read += readings(store, series_id, cost, quality)
            with store.read() as c:
                plans.append(f"\n{dialect}\n{plan(c, series_id)}")
            changed += upkeep(store, series_id, rows)
            store.dispose()
    ask = in_duckdb(cost, quality)
    assert ask() == by_argsort(cost, quality)
    read.append(("in memory", "DuckDB window, pooled", *taken(ask, 3), ""))
    read.append(("in memory", "NumPy, pooled", *taken(partial(by_argsort, cost, quality), 3), ""))
    read.append(("in memory", "ties by definition, pooled", *taken(partial(tied_by_definition, cost, quality), 3), ""))
    print(f"\nfrontier of {rows:,} points [ms]; load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    print_table(("database", "frontier", "processor", "wall, least", "wall, median", "goal"), read)
    print(f"\n{CHANGES:,} changes of a point [us a row], and a leader that goes [us], on the processor")
    head = ("database", "bare upsert", "with triggers", "upkeep", "goal", "leader goes, median", "most")
    print_table(head, changed)
    print(*plans, sep="\n")


if __name__ == "__main__":
    main()
