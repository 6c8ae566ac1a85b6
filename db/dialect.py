"""What SQLite and PostgreSQL spell differently: the clock, and the insert that may meet a row that is there."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Double, Row, Table
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

AnyRow = Row[*tuple[Any, ...]]
"""A row of an answer, whatever its columns."""


class now_seconds(FunctionElement[float]):  # noqa: N801 - reads as the SQL function that it is
    """Seconds since the epoch by the database's clock: hosts may disagree about the time, a store does not."""

    type = Double()
    inherit_cache = True


@compiles(now_seconds, "postgresql")
def _postgresql_clock(element: now_seconds, compiler: SQLCompiler, **options: Any) -> str:
    # clock_timestamp() and not now(): that one stands still for a whole transaction, which may have waited for a lock.
    return "CAST(extract(epoch from clock_timestamp()) AS DOUBLE PRECISION)"


@compiles(now_seconds, "sqlite")
def _sqlite_clock(element: now_seconds, compiler: SQLCompiler, **options: Any) -> str:
    # unixepoch('subsec') came with SQLite 3.42; the julian day has milliseconds too.
    return "((julianday('now') - 2440587.5) * 86400.0)"


def insert_new(connection: Connection, table: Table, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert the rows that are not there yet, in the order given; one that is stays as it was."""
    if not rows:
        return
    if connection.dialect.name == "postgresql":
        connection.execute(postgresql.insert(table).on_conflict_do_nothing(), list(rows))
    else:
        connection.execute(sqlite.insert(table).on_conflict_do_nothing(), list(rows))


def upsert(connection: Connection, table: Table, rows: Sequence[Mapping[str, Any]], *, unique: Sequence[str]) -> None:
    """Insert the rows; one that is there by its `unique` columns takes the new values of all the others."""
    if not rows:
        return
    changed = [name for name in rows[0] if name not in unique]
    if connection.dialect.name == "postgresql":
        pg = postgresql.insert(table)
        connection.execute(
            pg.on_conflict_do_update(index_elements=list(unique), set_={name: pg.excluded[name] for name in changed}),
            list(rows),
        )
    else:
        lite = sqlite.insert(table)
        connection.execute(
            lite.on_conflict_do_update(
                index_elements=list(unique), set_={name: lite.excluded[name] for name in changed}
            ),
            list(rows),
        )
