"""Stores that may be read and not written: every command that reads answers, and nothing is left beside the store."""

import contextlib
import ctypes
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import make_url, text

from db.store import Store, StoreRefused, StoreUnreachable, default_url
from db.tables import VERSION_TABLE
from tests.command_in_process import asked, vitscale
from tests.scaling_results import scaling_study

FEW = ("--replicates", "60")
POWER = ("fit", "scaling", "--form", "power", *FEW)
PREDICT = ("predict", "scaling", "--model", "ViT-8", "--epochs", "2", "--family", "ViT", *FEW)
NEXT = ("next", "scaling", "--budget", "1e10", "--family", "ViT", *FEW)
TITLE = text("SELECT title FROM study")


@contextlib.contextmanager
def bound_by_modes() -> Iterator[None]:
    """The modes of files hold for root too, as they do for anybody else: CAP_DAC_OVERRIDE is laid down."""
    if os.geteuid() != 0:
        yield
        return
    libc = ctypes.CDLL(None, use_errno=True)
    header, capabilities = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    assert libc.capget(header, capabilities) == 0
    effective = capabilities[0]
    capabilities[0] = effective & ~(1 << 1)
    assert libc.capset(header, capabilities) == 0
    try:
        yield
    finally:
        capabilities[0] = effective
        assert libc.capset(header, capabilities) == 0


@pytest.fixture(scope="module")
def scaling(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose store holds the study `scaling`."""
    folder = tmp_path_factory.mktemp("scaling")
    scaling_study(folder)
    return folder


@contextlib.contextmanager
def sealed(folder: Path) -> Iterator[None]:
    """The store of a folder may be read and not written, and nothing be made beside it."""
    file = folder / ".vitscale" / "store.db"
    file.chmod(0o444)
    file.parent.chmod(0o555)
    try:
        with bound_by_modes():
            yield
    finally:
        file.parent.chmod(0o755)
        file.chmod(0o644)


@pytest.fixture
def copy(scaling: Path, tmp_path: Path) -> Path:
    """A folder with a store of its own with that study."""
    shutil.copytree(scaling, tmp_path / "copy")
    return tmp_path / "copy"


def reader_of(url: str, scaling: Path) -> str:
    """The URL of a database with that study, for a user who may select alone."""
    capsule = scaling / f"{make_url(url).database}.vitscale.tar.gz"
    for command in (("export", "scaling", "--capsule", capsule), ("import", capsule, "--store", url)):
        ended = vitscale(*command, cwd=scaling)
        assert ended.code == 0, ended.err
    role = f"reader_{make_url(url).database}"
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f'CREATE ROLE "{role}" LOGIN')
        connection.execute(f'GRANT SELECT ON ALL TABLES IN SCHEMA public TO "{role}"')
    return make_url(url).set(username=role).render_as_string(hide_password=False)


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, copy: Path) -> Iterator[str]:
    """The URL of a store with the study `scaling` that may be read and not written, once on each database."""
    if request.param == "postgresql":
        yield reader_of(str(request.getfixturevalue("postgres_url")), copy)
        return
    with sealed(copy):
        yield default_url(copy)
    assert [path.name for path in Path(copy, ".vitscale").iterdir()] == ["store.db"]


def test_a_law_is_answered_where_it_cannot_be_kept(url: str, copy: Path) -> None:
    answer = asked(*POWER, "--store", url, cwd=copy)
    assert not answer["in_store"]
    assert " refuses: " in answer["not_kept"]
    shown = vitscale(*POWER, "--by", "family", "--store", url, cwd=copy)
    assert shown.code == 0
    [note] = [line for line in shown.err.splitlines() if "not kept" in line]
    assert note.startswith("2 of 2 laws are not kept: the store at ")
    assert asked("laws", "scaling", "--store", url, cwd=copy) == []


def test_the_digits_are_those_of_a_store_that_keeps_the_law(url: str, scaling: Path, tmp_path: Path) -> None:
    shutil.copytree(scaling, tmp_path / "other")
    here, kept = (asked(*POWER, "--store", each, cwd=tmp_path) for each in (url, default_url(tmp_path / "other")))
    assert here.pop("not_kept") is not None
    assert kept.pop("not_kept") is None
    assert here == kept


@pytest.mark.parametrize("command", [PREDICT, NEXT], ids=lambda command: command[0])
def test_what_goes_by_a_law_answers_and_says_that_it_was_not_kept(
    command: tuple[str, ...], url: str, copy: Path
) -> None:
    ended = vitscale(*command, "--store", url, cwd=copy)
    assert ended.code == 0, ended.err
    assert ended.err.count("the law is not kept: the store at ") == 1
    assert asked(*command, "--store", url, cwd=copy)


def test_every_command_that_only_reads_answers(url: str, tmp_path: Path) -> None:
    for command in (
        ("frontier", "scaling", "--by", "family", "--plot", "frontier.svg"),
        ("advantage", "scaling", "--of", "ViT", "--over", "ResNet"),
        ("figure", "frontier", "scaling", "law.svg", "--law", "power"),
        ("export", "scaling", "--what", "points", "-o", "points.csv"),
        ("export", "scaling", "--capsule", "all.vitscale.tar.gz"),
        ("laws", "scaling"),
        ("status",),
        ("results", "list"),
        ("fit", "vit-paper", "--form", "power", "--family", "ViT", *FEW),
    ):
        ended = vitscale(*command, "--store", url, cwd=tmp_path)
        assert ended.code == 0, (command, ended.err)


def test_a_command_that_writes_says_in_a_sentence_that_it_may_not(url: str, copy: Path) -> None:
    ended = vitscale("results", "import", "vit-paper", "--store", url, cwd=copy)
    assert ended.code == 1
    assert ended.err.startswith("error: the store at ")
    assert " refuses: " in ended.err
    assert "Traceback" not in ended.err


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_an_older_store_asks_to_be_upgraded_where_it_may_be_written(
    database: str, request: pytest.FixtureRequest, copy: Path
) -> None:
    own = default_url(copy) if database == "sqlite" else str(request.getfixturevalue("postgres_url"))
    found = own if database == "sqlite" else reader_of(own, copy)
    store = Store.open(own)
    with store.begin() as connection:
        connection.execute(text(f"UPDATE {VERSION_TABLE} SET version_num = '0004'"))
    store.dispose()
    with (
        sealed(copy),
        pytest.raises(StoreRefused, match=r"older vitscale \(schema 0004\) and may not be written") as no,
    ):
        Store.open(found)
    assert str(no.value).endswith("open it once where it may be, as with vitscale status")


def retitle(copy: Path) -> Store:
    """Change the title of the study, in a store that stays open."""
    store = Store.open(default_url(copy))
    with store.begin() as connection:
        connection.execute(text("UPDATE study SET title = 'new'"))
    return store


def title_before_and_after(reader: Store, change: Callable[[], None]) -> list[str]:
    """The study's title, twice in one transaction, a change by others between them."""
    with reader.read() as connection:
        titles = [str(connection.execute(TITLE).scalar())]
        change()
        return [*titles, str(connection.execute(TITLE).scalar())]


def test_what_others_write_meanwhile_makes_no_mixed_answer_but_a_sentence(copy: Path) -> None:
    with sealed(copy):
        reader = Store.open(default_url(copy))
    with pytest.raises(StoreUnreachable, match="was written by others while it was read: ask again"):
        title_before_and_after(reader, lambda: retitle(copy).dispose())
    assert title_before_and_after(reader, lambda: None) == ["new", "new"]
    reader.dispose()


def test_what_others_have_committed_and_not_yet_put_into_the_file_is_read_too(copy: Path) -> None:
    writer = retitle(copy)
    with sealed(copy):
        reader = Store.open(default_url(copy))
        with reader.read() as connection:
            assert connection.execute(TITLE).scalar() == "new"
        reader.dispose()
    writer.dispose()
