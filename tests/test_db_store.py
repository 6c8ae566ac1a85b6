"""Stores open quickly, say clearly what is wrong, keep what they acknowledged, and come back after an outage."""

import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import Engine, event, text
from sqlalchemy.exc import DBAPIError, IntegrityError

from db import answers
from db.store import Connection, Store, StoreAddressError, StoreUnreachable, default_url, retrying
from tests import builders
from tests.builders import training

HERE = Path(__file__).parents[1]


def test_a_migrated_store_opens_within_150_ms_and_without_alembic(store_url: str) -> None:
    program = (
        "import sys, time; from db.store import Store; import psycopg; t = time.perf_counter()\n"
        f"Store.open({store_url!r}); print(time.perf_counter() - t, 'alembic' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=HERE).stdout
    seconds, imported = out.split()
    assert (float(seconds) < 0.15, imported) == (True, "False"), out


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:se@cret@host:bad/x",
        "mysql://u:secret@host/x",
        "nothing://u:secret@host/x",
        "secret",
        "sqlite://",
        "sqlite:///:memory:",
    ],
)
def test_a_url_that_names_no_store_is_refused_without_repeating_a_password(url: str) -> None:
    with pytest.raises(StoreAddressError) as caught:
        Store.open(url)
    assert "cret" not in str(caught.value)


def test_a_database_that_does_not_answer_is_unreachable_in_one_sentence_without_the_password() -> None:
    with pytest.raises(StoreUnreachable) as caught:
        Store.open("postgresql://u:secret@127.0.0.1:1/x?sslpassword=secret")
    assert str(caught.value).startswith("the store at postgresql://u:***@127.0.0.1:1/x does not answer: ")
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no database at all " * 100)
    with pytest.raises(StoreAddressError, match="no SQLite database"):
        Store.open(f"sqlite:///{tmp_path / 'notes.txt'}")


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreUnreachable, match="cannot be made"):
        Store.open(default_url(tmp_path / "file"))


def test_a_read_cannot_write(store: Store) -> None:
    with pytest.raises(DBAPIError, match=r"read-only|readonly"), store.read() as c:
        c.execute(text("DELETE FROM run"))
    with store.begin() as c:
        builders.submit(c, [training()])


def test_sqlite_syncs_fully_waits_for_locks_and_enforces_foreign_keys(sqlite_url: str) -> None:
    store = Store.open(sqlite_url)
    with store.begin() as c:
        pragmas = ("journal_mode", "synchronous", "busy_timeout", "foreign_keys")
        found = [c.exec_driver_sql(f"PRAGMA {name}").scalar() for name in pragmas]
    store.dispose()
    assert found == ["wal", 2, 30_000, 1]


def test_an_error_in_a_block_undoes_it_and_passes_through(store: Store) -> None:
    with pytest.raises(ZeroDivisionError), store.begin() as c:  # noqa: PT012 - what it did is to be undone
        builders.submit(c, [training()])
        raise ZeroDivisionError
    with store.read() as c:
        assert answers.studies(c) == []


def test_a_violated_constraint_is_not_taken_for_an_outage(store: Store) -> None:
    with pytest.raises(IntegrityError), store.begin() as c:
        c.execute(text("INSERT INTO result VALUES (999, 'accuracy', 'digits', 'test', 8, 0.5)"))


def test_retrying_rides_out_a_server_that_cuts_all_connections(postgres_url: str) -> None:
    store = Store.open(postgres_url)
    with store.begin() as c:
        builders.submit(c, [training()])
        claimed = builders.claim(c)
    calls = []

    def commit(connection: Connection) -> bool:
        done = builders.commit(connection, claimed)
        calls.append(done)
        if len(calls) < 3:  # cut off before the commit, twice
            with psycopg.connect(postgres_url, autocommit=True) as other:
                other.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE pid <> pg_backend_pid() AND datname = current_database()"
                )
        return done

    assert retrying(store, commit, seconds=20)
    assert calls == [True, True, True]
    store.dispose()


def test_retrying_rides_out_a_database_that_is_away(postgres_server: str, postgres_url: str) -> None:
    store = Store.open(postgres_url)
    name = postgres_url.rsplit("?", 1)[0].rsplit("/", 1)[1]

    def allow(yes: bool) -> None:
        with psycopg.connect(postgres_server, autocommit=True) as other:
            other.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS {yes}')
            other.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name])

    allow(False)
    with pytest.raises(StoreUnreachable, match="does not answer"):
        retrying(store, lambda c: builders.submit(c, [training()]), seconds=0.2)
    back = threading.Timer(0.5, allow, [True])
    back.start()
    assert retrying(store, lambda c: builders.submit(c, [training()]), seconds=30) == 1
    back.join()
    store.dispose()


def test_retrying_repeats_a_deadlock(postgres_url: str) -> None:
    store = Store.open(postgres_url)
    with store.begin() as c:
        builders.submit(c, [training(seed=n) for n in range(2)])
    barrier = threading.Barrier(2)

    def crosswise(first: int, second: int) -> None:
        met = False

        def lock_both(c: Connection) -> None:
            nonlocal met
            c.execute(text("UPDATE run SET step = step + 1 WHERE id = :id"), {"id": first})
            if not met:
                met = True
                barrier.wait()
            c.execute(text("UPDATE run SET step = step + 1 WHERE id = :id"), {"id": second})

        retrying(store, lock_both, seconds=20)

    threads = [threading.Thread(target=crosswise, args=pair) for pair in ((1, 2), (2, 1))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with store.read() as c:
        assert c.execute(text("SELECT step FROM run ORDER BY id")).scalars().all() == [2, 2]
    store.dispose()


def test_retrying_waits_for_a_locked_sqlite_file(sqlite_url: str) -> None:
    store = Store.open(sqlite_url)
    file = sqlite_url.removeprefix("sqlite:///")
    holder = sqlite3.connect(file, isolation_level=None, check_same_thread=False)
    holder.execute("BEGIN IMMEDIATE")
    release = threading.Timer(0.3, holder.execute, ["COMMIT"])
    release.start()
    assert retrying(store, lambda c: builders.submit(c, [training()]), seconds=10) == 1
    release.join()
    holder.close()
    store.dispose()


@pytest.mark.parametrize("rounds", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_kill_9_of_a_committing_process_loses_nothing_that_was_acknowledged(sqlite_url: str, rounds: int) -> None:
    program = f"""
import sys
from db.store import Store
from tests import builders
store = Store.open({sqlite_url!r})
while True:
    with store.begin() as c:
        claimed = builders.try_claim(c, owner=sys.argv[1])
    with store.begin() as c:
        builders.commit(c, claimed)
    print(claimed.key, flush=True)
"""
    store = Store.open(sqlite_url)
    with store.begin() as c:
        builders.submit(c, [training(seed=n) for n in range(300 * rounds)])
    acknowledged: list[str] = []
    for number in range(rounds):
        process = subprocess.Popen([sys.executable, "-c", program, str(number)], stdout=-1, text=True, cwd=HERE)
        assert process.stdout is not None
        acknowledged.append(process.stdout.readline().strip())
        time.sleep(0.05 + 0.01 * number)
        os.kill(process.pid, signal.SIGKILL)
        acknowledged += process.stdout.read().split("\n")[:-1]
        process.stdout.close()
        process.wait()
    with store.read() as c:
        states = answers.known(c, acknowledged)
        assert c.exec_driver_sql("PRAGMA integrity_check").scalar() == "ok"
    store.dispose()
    assert len(acknowledged) == len(set(acknowledged)) > rounds
    assert {states[key] for key in acknowledged} == {"done"}


def test_a_store_that_another_process_makes_between_two_questions_is_opened_all_the_same(empty_url: str) -> None:
    # The first question finds no tables; before the second one is asked, another process has made them.
    asked: list[str] = []

    def make(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        if statement.startswith("SELECT count(*) FROM ") and not asked:
            asked.append(statement)  # the other opening asks it too
            Store.open(empty_url).dispose()

    event.listen(Engine, "before_cursor_execute", make)
    try:
        store = Store.open(empty_url)
    finally:
        event.remove(Engine, "before_cursor_execute", make)
    assert asked
    with store.read() as connection:
        assert connection.execute(text("SELECT count(*) FROM run")).scalar() == 0
    store.dispose()
