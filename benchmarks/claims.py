"""32 processes claim 2,000 runs, through our ledger and by a script of the bare drivers with the same two statements.

python -m benchmarks.claims
"""

import multiprocessing
import sqlite3
import time
from collections.abc import Callable
from multiprocessing.synchronize import Barrier
from typing import Any

import psycopg
from sqlalchemy import text

from benchmarks.databases import fresh_urls, print_table
from db import claiming
from db.store import Store, retrying
from tests import builders

PROCESSES = 32
RUNS = 2_000
ROUNDS = 3
GOAL_RATIO = 0.8

RAW_CLAIM = """
UPDATE run SET state = 'running', owner = {p}, lease_until = {now} + 60, fence = fence + 1, wanted = NULL,
    step = checkpoint_step, started_at = coalesce(started_at, {now})
WHERE id = (SELECT id FROM run WHERE state = 'ready' AND cpus <= 2 AND gpus = 0 ORDER BY priority, id LIMIT 1 {lock})
RETURNING id, key, definition, fence, checkpoint, checkpoint_step, upstream_id, model, steps
"""
RAW_ATTEMPT = """
INSERT INTO attempt (run_id, fence, owner, host, pid, device, started_at, first_step)
VALUES ({p}, {p}, {p}, 'here', 1, 'cpu', {now}, 0)
"""
SPELLING = {
    "sqlite": {"p": "?", "now": "((julianday('now') - 2440587.5) * 86400.0)", "lock": ""},
    "postgresql": {"p": "%s", "now": "extract(epoch from clock_timestamp())", "lock": "FOR UPDATE SKIP LOCKED"},
}

Claimed = list[tuple[str, int]]


def ours(url: str, owner: str, barrier: Barrier) -> Claimed:
    store = Store.open(url)
    with store.begin() as c:  # a worker is warm: SQLAlchemy has put the statement together once
        nowhere = claiming.claim(
            c,
            owner="",
            host="",
            pid=0,
            process_started=None,
            lease_seconds=1,
            cpus=0,
            gpus=0,
            device="cpu",
            numerics="",
        )
        assert nowhere is None, "no run fits a place without a core"
    mine: Claimed = []
    barrier.wait()
    while claimed := retrying(store, lambda c: builders.try_claim(c, owner=owner), seconds=60):
        mine.append((claimed.key, claimed.fence))
    store.dispose()
    return mine


def raw_sqlite(url: str, owner: str, barrier: Barrier) -> Claimed:
    connection = sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None, timeout=60)
    connection.execute("PRAGMA synchronous = FULL")
    claim, attempt = (sql.format(**SPELLING["sqlite"]) for sql in (RAW_CLAIM, RAW_ATTEMPT))
    mine: Claimed = []
    barrier.wait()
    while True:
        connection.execute("BEGIN IMMEDIATE")
        row = connection.execute(claim, [owner]).fetchone()
        if row is not None:
            connection.execute(attempt, [row[0], row[3], owner])
        connection.execute("COMMIT")
        if row is None:
            break
        mine.append((row[1], row[3]))
    connection.close()
    return mine


def raw_postgresql(url: str, owner: str, barrier: Barrier) -> Claimed:
    claim, attempt = (sql.format(**SPELLING["postgresql"]) for sql in (RAW_CLAIM, RAW_ATTEMPT))
    mine: Claimed = []
    with psycopg.connect(url) as connection:
        barrier.wait()
        while True:
            row: Any = connection.execute(claim.encode(), [owner]).fetchone()
            if row is not None:
                connection.execute(attempt.encode(), [row[0], row[3], owner])
            connection.commit()
            if row is None:
                break
            mine.append((row[1], row[3]))
    return mine


def work(way: Callable[[str, str, Barrier], Claimed], url: str, number: int, barrier: Barrier, queue: Any) -> None:
    mine = way(url, str(number), barrier)
    queue.put((time.time(), mine))


def claims_per_second(way: Callable[[str, str, Barrier], Claimed], url: str) -> float:
    """From the moment when all processes are let go to that at which the last one finds nothing. All are checked."""
    store = Store.open(url)
    with store.begin() as c:
        c.execute(text("DELETE FROM attempt"))
        c.execute(text("UPDATE run SET state = 'ready', owner = NULL, lease_until = NULL, fence = 0"))
    store.dispose()
    # Forked from a process that has imported everything and opened nothing: 32 imports would take longer than the rest.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["db.studies", "tests.builders", "sqlalchemy.dialects.postgresql.psycopg"])
    barrier = context.Barrier(PROCESSES + 1)
    queue = context.Queue()
    crowd = [context.Process(target=work, args=(way, url, n, barrier, queue)) for n in range(PROCESSES)]
    for process in crowd:
        process.start()
    barrier.wait()
    start = time.time()
    answers = [queue.get() for _ in crowd]
    for process in crowd:
        process.join()
    claims = [claimed for _, mine in answers for claimed in mine]
    assert len(claims) == len(set(claims)) == RUNS, f"{len(claims)} claims of {len(set(claims))} runs"
    return RUNS / float(max(at for at, _ in answers) - start)


def main() -> None:
    raw = {"sqlite": raw_sqlite, "postgresql": raw_postgresql}
    table = []
    with fresh_urls() as urls:
        for dialect, url in urls.items():
            store = Store.open(url)
            with store.begin() as c:
                builders.submit(c, [builders.training(seed=n) for n in range(RUNS)])
            store.dispose()
            rounds = [(claims_per_second(ours, url), claims_per_second(raw[dialect], url)) for _ in range(ROUNDS)]
            through_ledger, bare = sorted(rounds, key=lambda pair: pair[0] / pair[1])[ROUNDS // 2]
            ratio = through_ledger / bare
            said = "met" if ratio >= GOAL_RATIO else "MISSED"
            table.append((dialect, through_ledger, bare, ratio, f">= {GOAL_RATIO}: {said}"))
    print(f"{PROCESSES} processes claim {RUNS:,} runs, none lost, none twice; median of {ROUNDS} rounds [claims/s]")
    print_table(("database", "ledger", "bare driver", "ratio", "goal"), table)


if __name__ == "__main__":
    main()
