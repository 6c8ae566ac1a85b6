"""Brings a store's tables to the newest version, one process at a time. Imported only when there is something to do."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, Engine, inspect, text

from db import points
from db.tables import SCHEMA, VERSION_TABLE

_LOCK = 0x76697473
"""Of PostgreSQL's advisory locks, the one that an upgrade holds: "vits" in ASCII."""


def upgrade(engine: Engine) -> None:
    """Upgrade under a lock: of three processes that find an old store, one upgrades and two wait, then find it new.

    All or nothing: it is one transaction on both databases.
    """
    with engine.connect() as connection:
        if connection.dialect.name == "sqlite":
            # WAL is a property of the file. A batch migration drops and renames tables, which enforced foreign keys
            # would forbid; both settings can be changed only outside a transaction.
            connection.exec_driver_sql("PRAGMA journal_mode = WAL")
            connection.exec_driver_sql("PRAGMA foreign_keys = OFF")
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        else:
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
        try:
            if version(connection) != SCHEMA:
                _run_migrations(connection)
            if connection.dialect.name == "sqlite":
                broken = connection.exec_driver_sql("PRAGMA foreign_key_check").fetchall()
                assert not broken, f"a migration left rows that point nowhere: {broken[:3]}"
            connection.commit()
        finally:
            connection.rollback()
            if connection.dialect.name == "sqlite":
                connection.exec_driver_sql("PRAGMA foreign_keys = ON")


def version(connection: Connection) -> str | None:
    """The newest migration that the store has seen; None for a store without tables."""
    if not inspect(connection).has_table(VERSION_TABLE):
        return None
    found = connection.execute(text(f"SELECT version_num FROM {VERSION_TABLE}")).scalar()
    return None if found is None else str(found)


def _run_migrations(connection: Connection) -> None:
    config = Config()
    # The path may hold a percent sign, which Alembic's configuration would read as a reference.
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
    # Points are derived, as views are: what a newer version derives anew, older stores get by being derived again.
    points.rebuild(connection)
