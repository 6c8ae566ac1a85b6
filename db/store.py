"""Opens a store and hands out transactions. What is asked in them is in the other files of this folder.

SQLite serves one host: write transactions are BEGIN IMMEDIATE, in WAL with synchronous=FULL (with NORMAL a power cut
loses acknowledged rows). PostgreSQL serves many: READ COMMITTED, so a statement sees what others committed before it.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import tenacity
from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.exc import ArgumentError, DBAPIError, InterfaceError, NoSuchModuleError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from db.tables import SCHEMA, VERSION_TABLE

__all__ = [
    "Connection",
    "Store",
    "StoreAddressError",
    "StoreError",
    "StoreMissing",
    "StoreRefused",
    "StoreTooNew",
    "StoreUnreachable",
    "default_url",
    "retrying",
]

T = TypeVar("T")

_CONNECT_SECONDS = 10
_BUSY_MILLISECONDS = 30_000
_FORBIDDEN = ("42501", "25006")
"""What PostgreSQL says to a user without the right, and where nothing may be written."""
_TRANSIENT_SQLITE = (
    "SQLITE_BUSY",
    "SQLITE_LOCKED",
    "SQLITE_IOERR",
    "SQLITE_CANTOPEN",
    "SQLITE_FULL",
    "SQLITE_PROTOCOL",
)


class StoreError(Exception):
    """What is wrong with a store, in one sentence without a password."""


class StoreAddressError(StoreError, ValueError):
    """The URL names no store that could exist."""


class StoreMissing(StoreError):
    """There is no store at this URL, and none was to be made."""


class StoreTooNew(StoreError):
    """A newer version of this program made or upgraded the store."""


class StoreRefused(StoreError):
    """The store may not be written from here, or not by this user; or not even be read."""


class StoreUnreachable(StoreError):
    """The database does not answer, or not now. What was being written may or may not have been."""


def default_url(folder: Path) -> str:
    """The URL of the store that belongs to a folder, as `.git` belongs to one."""
    return f"sqlite:///{folder.absolute() / '.vitscale' / 'store.db'}"


class Store:
    """A database that is known to be there and to have the tables of this version."""

    def __init__(self, engine: Engine) -> None:
        """Takes an engine made by `Store.open`."""
        self._engine = engine

    @staticmethod
    def open(url: str, create: bool = True) -> "Store":
        """Connect; make the store's tables, or upgrade them, where needed.

        url: an SQLAlchemy URL of SQLite (a file) or PostgreSQL.
        A SQLite file that may not be written from here can be read: see `_is_sealed`.
        Raises StoreAddressError, StoreMissing (only with create=False), StoreTooNew, StoreUnreachable, or StoreRefused
        where the tables are missing or old and may not be made.
        """
        address = _address(url)
        store = Store(_engine(address))
        try:
            if address.get_backend_name() == "sqlite":
                _prepare_file(address, create)
            found = store._version()
            if found is None and not create:
                raise StoreMissing(f"there is no store at {store.url}")
            if found is not None and int(found) > int(SCHEMA):
                raise StoreTooNew(
                    f"the store at {store.url} was made by a newer vitscale (schema {found}, this one knows {SCHEMA}): "
                    "upgrade vitscale to use it"
                )
            if found != SCHEMA:
                _upgrade(store, found)
        except BaseException:
            store.dispose()
            raise
        return store

    @property
    def dialect(self) -> str:
        """`sqlite` or `postgresql`."""
        return self._engine.dialect.name

    @property
    def url(self) -> str:
        """For messages: the password is masked."""
        return _masked(self._engine.url)

    @contextmanager
    def begin(self) -> Iterator[Connection]:
        """A transaction that may write: committed at the end of the block, undone when the block raises.

        Raises StoreUnreachable when the database goes away, stays locked, or undoes the transaction for another's sake;
        it is then open whether the commit happened. `retrying` repeats the block. Raises StoreRefused where the store
        may not be written.
        """
        with self.answering(), self.permitted(), self._engine.connect() as connection:
            if self.dialect == "sqlite":
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            yield connection
            connection.commit()

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that sees one moment of the store and cannot write. Raises StoreUnreachable as `begin` does.

        Also where a file that may not be written from here was written by others meanwhile.
        """
        with self.answering(), self._engine.connect() as connection:
            if self.dialect == "sqlite":
                connection.exec_driver_sql("PRAGMA query_only = ON")
                connection.exec_driver_sql("BEGIN")
            else:
                connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
            try:
                yield connection
            finally:
                connection.rollback()
                if self.dialect == "sqlite":
                    connection.exec_driver_sql("PRAGMA query_only = OFF")
                    connection.rollback()
            _check_unchanged(self.url, connection)

    def dispose(self) -> None:
        """Close all connections. The store can be used again; it then opens new ones."""
        self._engine.dispose()

    @contextmanager
    def answering(self) -> Iterator[None]:
        """Raise StoreUnreachable and StoreAddressError for what the database says inside, to whomever it says it."""
        try:
            yield
        except (DBAPIError, PoolTimeoutError) as error:
            if isinstance(error, DBAPIError) and _sqlite_error(error) == "SQLITE_NOTADB":
                raise StoreAddressError(f"the file at {self.url} is no SQLite database") from error
            if not _is_transient(error):
                raise
            raise StoreUnreachable(f"the store at {self.url} does not answer: {_first_line(error)}") from error

    @contextmanager
    def permitted(self) -> Iterator[None]:
        """Raise StoreRefused for what the database does not let us do inside."""
        try:
            yield
        except DBAPIError as error:
            if not _is_forbidden(error):
                raise
            raise StoreRefused(f"the store at {self.url} refuses: {_first_line(error)}") from error

    def _version(self) -> str | None:
        """The schema that the store has; None without tables. One statement: opening a store is in every command."""
        exists = {
            "sqlite": f"SELECT count(*) FROM sqlite_master WHERE name = '{VERSION_TABLE}'",
            "postgresql": f"SELECT count(*) FROM pg_class WHERE oid = to_regclass('{VERSION_TABLE}')",
        }
        ask = text(f"SELECT version_num FROM {VERSION_TABLE}")
        with self.answering(), self.permitted(), self._engine.connect() as connection:
            try:
                found = connection.execute(ask).scalar()
            except DBAPIError as error:
                connection.rollback()
                if _is_transient(error):
                    raise
                if not connection.execute(text(exists[self.dialect])).scalar():
                    return None
                # Another process may have made the tables since the question: only a second failure is a fault.
                found = connection.execute(ask).scalar()
            return None if found is None else str(found)


def retrying(store: Store, function: Callable[[Connection], T], *, seconds: float, write: bool = True) -> T:
    """What the function answers, called in a transaction of its own, and again when the store was away.

    A commit whose acknowledgement was lost is repeated too: the function must do nothing the second time.
    Raises StoreUnreachable once the store has been away for so many seconds.
    """
    attempts = tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(StoreUnreachable),
        wait=tenacity.wait_random_exponential(multiplier=0.05, max=2),
        stop=tenacity.stop_after_delay(seconds),
        reraise=True,
    )

    def once() -> T:
        with store.begin() if write else store.read() as connection:
            return function(connection)

    return attempts(once)


# ------------------------------------------------------------------------------------------------------------ opening


def _address(url: str) -> URL:
    """The parsed URL. What is said about a bad one never repeats it: a part of it may be a password."""
    try:
        # Heroku and others still hand out this scheme, which SQLAlchemy has dropped.
        address = make_url(url.replace("postgres://", "postgresql://", 1) if url.startswith("postgres://") else url)
        backend = address.get_backend_name()
    except (ArgumentError, NoSuchModuleError, ValueError):
        raise StoreAddressError(
            "the store's URL cannot be read; it should look like sqlite:////folder/store.db or "
            "postgresql://user:password@host:5432/database, with special characters of the password written as %XX"
        ) from None
    if backend == "postgresql":
        return address.set(drivername="postgresql+psycopg")
    if backend != "sqlite":
        raise StoreAddressError(f"a store is a SQLite file or a PostgreSQL database, not {backend}")
    if not address.database or address.database == ":memory:":
        raise StoreAddressError("a store in memory would end with the command: name a file, as in sqlite:///store.db")
    return address.set(drivername="sqlite+pysqlite")


def _prepare_file(address: URL, create: bool) -> None:
    assert address.database is not None
    file = Path(address.database)
    if file.exists():
        return
    if not create:
        raise StoreMissing(f"there is no store at {_masked(address)}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreUnreachable(f"the folder {file.parent} cannot be made: {error.strerror}") from error


def _engine(address: URL) -> Engine:
    if address.get_backend_name() == "postgresql":
        query = dict(address.query)
        settings: dict[str, Any] = {
            "connect_timeout": _CONNECT_SECONDS,
            # A connection whose other end vanished would otherwise be believed in for a quarter of an hour.
            "tcp_user_timeout": 10_000,
            "keepalives_idle": 10,
            # Compiling takes longer than any query here; the frontier's cost is overestimated, so it would be compiled.
            "options": "-c jit=off",
        }
        return create_engine(
            address,
            connect_args={name: value for name, value in settings.items() if name not in query},
            isolation_level="READ COMMITTED",
            pool_pre_ping=True,
        )
    engine = create_engine(address, connect_args={"timeout": _BUSY_MILLISECONDS / 1000})

    @event.listens_for(engine, "do_connect")
    def _read_sealed(dialect: Any, record: Any, arguments: list[Any], settings: dict[str, Any]) -> None:
        file = Path(arguments[0])
        if _is_sealed(file):
            record.info[_SEALED] = (file, _stamp(file))
            arguments[0] = f"file:{quote(str(file))}?immutable=1"
            settings["uri"] = True

    @event.listens_for(engine, "connect")
    def _configure(connection: Any, record: Any) -> None:
        connection.isolation_level = None  # we say BEGIN ourselves, and say which
        for setting in (f"busy_timeout = {_BUSY_MILLISECONDS}", "synchronous = FULL", "foreign_keys = ON"):
            connection.execute(f"PRAGMA {setting}").close()

    return engine


def _upgrade(store: Store, found: str | None) -> None:
    # Alembic takes 0.2 s to import and is needed once in the life of a store.
    from db import migrate

    def once() -> None:
        with store.answering(), store.permitted():
            migrate.upgrade(store._engine)

    # SQLite does not wait for its busy timeout while another process switches the same new file to WAL.
    attempts = tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(StoreUnreachable),
        wait=tenacity.wait_random_exponential(multiplier=0.02, max=0.5),
        stop=tenacity.stop_after_delay(_BUSY_MILLISECONDS / 1000),
        reraise=True,
    )
    try:
        attempts(once)
    except StoreRefused as error:
        has = "no tables yet" if found is None else f"the tables of an older vitscale (schema {found})"
        raise StoreRefused(
            f"the store at {store.url} has {has} and may not be written from here: open it once where it may "
            "be, as with vitscale status"
        ) from error


_SEALED = "sealed"
"""Under which a connection knows the file that it reads as one that nobody changes, and its stamp."""


def _is_sealed(file: Path) -> bool:
    """Whether a SQLite file may not be written from here, as on a mount that is read-only, and nobody has it open.

    SQLite cannot read a file in WAL without making others beside it, unless it is told that nobody changes it. Where
    it could make them for another's file, it would leave them behind as ours, and the other could write no more.
    """
    log = Path(f"{file}-wal")
    if not file.exists() or (log.exists() and log.stat().st_size):
        return False
    return not all(
        os.access(path, os.W_OK, effective_ids=os.access in os.supports_effective_ids) for path in (file, file.parent)
    )


def _stamp(file: Path) -> tuple[int, int]:
    return (file.stat().st_mtime_ns, file.stat().st_size)


def _check_unchanged(url: str, connection: Connection) -> None:
    """Raise StoreUnreachable where what was read as a file that nobody changes has changed."""
    file, stamp = connection.info.get(_SEALED, (None, None))
    if file is not None and _stamp(file) != stamp:
        connection.invalidate()
        raise StoreUnreachable(f"the store at {url} was written by others while it was read: ask again")


# ------------------------------------------------------------------------------------------------------------- errors


def _is_transient(error: Exception) -> bool:
    """Whether the same statement may succeed later: not so for an error in our SQL or for a violated constraint."""
    if not isinstance(error, DBAPIError):
        return True  # no free connection in the pool
    name = _sqlite_error(error)
    if name is not None:
        return name.startswith(_TRANSIENT_SQLITE)
    # psycopg.OperationalError holds: connection lost or refused, server shutting down, deadlock, serialization failure.
    return error.connection_invalidated or isinstance(error, (OperationalError, InterfaceError))


def _sqlite_error(error: DBAPIError) -> str | None:
    return getattr(error.orig, "sqlite_errorname", None)


def _is_forbidden(error: DBAPIError) -> bool:
    """Whether it is the store's last word: a file that may not be written, or a user without the right."""
    sqlite = (_sqlite_error(error) or "").startswith("SQLITE_READONLY")
    return sqlite or getattr(error.orig, "sqlstate", None) in _FORBIDDEN


def _first_line(error: Exception) -> str:
    cause = error.orig if isinstance(error, DBAPIError) else error
    lines = str(cause).strip().splitlines() or [type(cause).__name__]
    return lines[0].strip()


def _masked(address: URL) -> str:
    """The URL without its password, wherever that stands."""
    kept = {name: value for name, value in address.query.items() if "pass" not in name.lower()}
    return address.set(drivername=address.get_backend_name(), query=kept).render_as_string(hide_password=True)
