"""Migrations give exactly the tables of the code, once, whoever comes at the same time."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, create_engine, make_url, text

from db import migrate, searches, views
from db.store import Store, StoreMissing, StoreTooNew
from db.tables import SCHEMA, VERSION_TABLE, Base
from tests import builders
from tests.builders import search, training

OLDER = (
    "INSERT INTO study (name, title, source, shows, text, file, submitted_at) VALUES ('old', '', '', '', '', '', 1)",
    "INSERT INTO run (key, kind, configuration, definition, model, family, seed, dataset, split, image_size, data_rows,"
    " epochs, steps, parameters, flops, images, cpus, gpus, priority, state, created_at) VALUES"
    f" ('{'a' * 64}', 'train', '{'b' * 64}', '{{}}', 'ViT-8', 'ViT', 0, 'digits', 'train', 8, 100, 1, 2, 3, 4, 5, 1, 0,"
    " 0, 'done', 1)",
    "INSERT INTO study_run (study_id, run_id, position, sweep, searched) VALUES (1, 1, 0, 's', '{}')",
    "INSERT INTO result (run_id, metric, dataset, split, image_size, value)"
    " VALUES (1, 'accuracy', 'digits', 'test', 8, 0.5)",
)
"""Rows of a store of schema 0002."""
_RUN = (
    "INSERT INTO run (key, kind, configuration, definition, model, family, seed, dataset, split, image_size, data_rows,"
    " epochs, steps, parameters, flops, train_flops, images, cpus, gpus, priority, state, created_at, upstream_id,"
    " seconds) VALUES"
)
OLDER_POINTS = (
    OLDER[0],
    f"""{_RUN} ('{"1" * 64}', 'train', '{"c" * 64}', '{{"examples": 150}}', 'ViT-8', 'ViT', 0, 'digits', 'train', 8,
    100, 1.5, 2, 3, 600, 600, 150, 4, 0, 0, 'done', 1, NULL, 2.5)""",
    f"""{_RUN} ('{"2" * 64}', 'train', '{"d" * 64}', '{{"examples": 300}}', 'ViT-8', 'ViT', 0, 'digits', 'train', 8,
    100, 3.0, 2, 3, 1200, 1200, 300, 4, 0, 0, 'done', 1, 1, 3)""",
    f"""{_RUN} ('{"3" * 64}', 'evaluate', '{"e" * 64}', '{{}}', 'ViT-8', 'ViT', 0, 'digits', 'test', 8, 100,
    1.5, 0, 3, 40, 600, 10, 4, 0, 0, 'done', 1, 1, 1)""",
    f"""{_RUN} ('{"4" * 64}', 'evaluate', '{"f" * 64}', '{{}}', 'ViT-8', 'ViT', 0, 'digits', 'test', 8, 100,
    3.0, 0, 3, 40, 1200, 10, 4, 0, 0, 'done', 1, 2, 1)""",
    "INSERT INTO study_run (study_id, run_id, position) VALUES (1, 1, 0), (1, 2, 1), (1, 3, 2), (1, 4, 3)",
    "INSERT INTO attempt (run_id, fence, owner, host, pid, device, started_at, first_step)"
    " VALUES (1, 1, 'a', 'here', 1, 'cpu', 1, 0), (2, 1, 'a', 'here', 1, 'cpu', 1, 0)",
    "INSERT INTO result (run_id, metric, dataset, split, image_size, value)"
    " VALUES (3, 'accuracy', 'digits', 'test', 8, 0.5), (4, 'accuracy', 'digits', 'test', 8, 0.5)",
    "INSERT INTO series (study_id, kind, metric, dataset, split, image_size, direction)"
    " VALUES (1, 'evaluate', 'accuracy', 'digits', 'test', 8, 1)",
    *(
        "INSERT INTO point (series_id, configuration, training, family, model, cost, quality, value, seeds, epochs,"
        f" data_rows, parameters) VALUES (1, '{of * 64}', '{training * 64}', 'ViT', 'ViT-8', {cost}, 0.5, 0.5, 1, 1,"
        " 100, 3)"
        for of, training, cost in (("e", "c", 600), ("f", "d", 1200))
    ),
)
"""Rows of a store of schema 0003: two trainings, the second of which starts from the first, and their accuracies."""

OLDER_IMPORT = (
    OLDER[0],
    "INSERT INTO external (study_id, key, configuration, training, source, kind, metric, dataset, split, image_size,"
    " family, model, seed, value, train_flops, device_seconds, imported_at) VALUES"
    f" (1, '{'a' * 64}', '{'b' * 64}', '{'c' * 64}', 't.csv:2', 'evaluate', 'accuracy', 'digits', 'test', 8, 'A', 'a',"
    " 0, 0.5, 1e18, 3600, 1)",
)
"""Rows of a store of schema 0004: an imported result."""


def schema_text(connection: Connection) -> list[tuple[str, ...]]:
    """Tables, columns, types, defaults and indexes as the database itself spells them, in no order."""
    if connection.dialect.name == "sqlite":
        tables = connection.execute(
            text("SELECT m.name, c.name, c.type, c.[notnull], c.dflt_value, c.pk FROM sqlite_master m, "
                 "pragma_table_info(m.name) c WHERE m.type = 'table'")
        )  # fmt: skip
        indexes = connection.execute(text("SELECT name, tbl_name, sql FROM sqlite_master WHERE type = 'index'"))
    else:
        tables = connection.execute(
            text("SELECT table_name, column_name, data_type, is_nullable, column_default, character_maximum_length "
                 "FROM information_schema.columns WHERE table_schema = 'public'")
        )  # fmt: skip
        indexes = connection.execute(text("SELECT tablename, indexname, indexdef FROM pg_indexes "
                                          "WHERE schemaname = 'public'"))  # fmt: skip
    rows = [*tables, *indexes]
    ours = (VERSION_TABLE, *views.NAMES)
    return sorted(tuple(map(str, row)) for row in rows if not set(map(str, row)) & set(ours))


def older_store(url: str, schema: str, rows: Sequence[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a store of an older schema with these rows."""
    if url.startswith("sqlite"):
        Path(make_url(url).database or "").parent.mkdir()
    engine = create_engine(url)
    with engine.begin() as c:
        config = Config()
        config.set_main_option("path_separator", "os")
        config.set_main_option("script_location", str(Path(migrate.__file__).parent / "migrations"))
        config.attributes["connection"] = c
        with monkeypatch.context() as older:
            # The views of today name columns that the tables of then did not have.
            older.setattr(views, "create", lambda dialect: ["CREATE VIEW sweep_best AS SELECT sweep FROM study_run"])
            command.upgrade(config, schema)
        for statement in rows:
            c.execute(text(statement))
    engine.dispose()


def test_migrations_give_exactly_the_tables_of_the_code(store: Store) -> None:
    with store.read() as c:
        context = MigrationContext.configure(
            c,
            opts={
                "compare_type": True,
                "version_table": VERSION_TABLE,
                "include_object": lambda thing, name, kind, reflected, other: name != VERSION_TABLE,
            },
        )
        assert compare_metadata(context, Base.metadata) == []


def test_migrations_spell_tables_and_indexes_as_the_code_does(empty_url: str, tmp_path: Path) -> None:
    Path(tmp_path / ".vitscale").mkdir()
    engine = create_engine(empty_url)
    with engine.begin() as made:
        Base.metadata.create_all(made)
        expected = schema_text(made)
        Base.metadata.drop_all(made)
    engine.dispose()
    store = Store.open(empty_url)
    with store.read() as c:
        assert schema_text(c) == expected
    store.dispose()


def test_the_newest_migration_is_the_schema_of_the_code() -> None:
    folder = Path(migrate.__file__).parent / "migrations"
    assert ScriptDirectory(str(folder)).get_current_head() == SCHEMA


def test_the_upgrade_to_searches_keeps_the_runs_and_results_of_an_older_store(
    empty_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    older_store(empty_url, "0002", OLDER, monkeypatch)
    store = Store.open(empty_url)
    with store.begin() as c:
        assert migrate.version(c) == SCHEMA
        query = text("SELECT study, key, state, sweep, searched, role, transfer FROM run_summary")
        assert [tuple(row) for row in c.execute(query)] == [("old", "a" * 64, "done", "s", "{}", None, None)]
        assert c.execute(text("SELECT value FROM result")).scalar() == 0.5
        assert c.execute(text("SELECT count(*) FROM sweep_best")).scalar() == 0
        first = training()
        builders.submit(c, [first], searches=[search(first)])
        assert [each.study for each in searches.undecided(c, None)] == ["tiny"]
    store.dispose()


def test_the_upgrade_to_answers_gives_the_points_of_an_older_store_their_other_costs_and_their_lead(
    empty_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    older_store(empty_url, "0003", OLDER_POINTS, monkeypatch)
    store = Store.open(empty_url)
    with store.begin() as c:
        columns = "training, pretraining, cost, images, forward_flops, device_seconds, device, money, external, leads"
        rows = c.execute(text(f"SELECT {columns} FROM point ORDER BY cost")).all()
        first, second = "c" * 64, "d" * 64
        assert [tuple(row) for row in rows] == [
            (first, first, 600.0, 150.0, 4.0, 10.0, "cpu", None, False, True),
            (second, second, 1200.0, 300.0, 4.0, 22.0, "cpu", None, False, False),
        ]
        query = text("SELECT configuration, pooled FROM frontier WHERE study = 'old'")
        assert [tuple(row) for row in c.execute(query)] == [("e" * 64, True)]
        c.execute(text("DELETE FROM point WHERE cost = 600"))
        assert [row.configuration for row in c.execute(query)] == ["f" * 64]
    store.dispose()


def test_the_upgrade_to_devices_keeps_imported_results_which_name_none(
    empty_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    older_store(empty_url, "0004", OLDER_IMPORT, monkeypatch)
    store = Store.open(empty_url)
    with store.read() as c:
        assert [tuple(row) for row in c.execute(text("SELECT key, device FROM external"))] == [("a" * 64, None)]
        query = text("SELECT value, device_seconds, device, leads FROM point")
        assert [tuple(row) for row in c.execute(query)] == [(0.5, 3600.0, None, True)]
    store.dispose()


def test_an_upgrade_that_finds_nothing_to_do_does_nothing(store: Store) -> None:
    with store.read() as c:
        before = schema_text(c)
    migrate.upgrade(store._engine)
    with store.read() as c:
        assert schema_text(c) == before


def test_three_processes_that_open_a_new_store_at_once_all_succeed(empty_url: str) -> None:
    program = (
        "import sys; from db.store import Store; import db.migrate; print('here', flush=True); sys.stdin.readline()\n"
        f"s = Store.open({empty_url!r})\n"
        "with s.read() as c: print(c.exec_driver_sql('SELECT count(*) FROM run').scalar())"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", program], text=True, stdin=-1, stdout=-1, stderr=-1, cwd=Path(__file__).parents[1]
        )
        for _ in range(3)
    ]
    for process in processes:
        assert process.stdout is not None
        process.stdout.readline()
    for process in processes:  # all are past their imports: now together
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    for process in processes:
        out, err = process.communicate(timeout=60)
        assert (process.returncode, out, err) == (0, "0\n", "")


def test_a_store_of_a_newer_version_is_refused_with_a_sentence(store: Store, store_url: str) -> None:
    with store.begin() as c:
        c.execute(text(f"UPDATE {VERSION_TABLE} SET version_num = '9999'"))
    with pytest.raises(StoreTooNew, match=r"made by a newer vitscale \(schema 9999.*upgrade vitscale"):
        Store.open(store_url)


def test_a_store_that_is_not_there_is_missing_unless_it_may_be_made(empty_url: str) -> None:
    with pytest.raises(StoreMissing, match="there is no store at"):
        Store.open(empty_url, create=False)
    Store.open(empty_url).dispose()
    Store.open(empty_url, create=False).dispose()


def test_a_migration_that_fails_leaves_nothing_behind(empty_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(views, "create", lambda dialect: ["CREATE VIEW broken AS SELECT FROM WHERE"])
    with pytest.raises(Exception, match="syntax error"):
        Store.open(empty_url)
    monkeypatch.undo()
    store = Store.open(empty_url)
    with store.read() as c:
        assert c.execute(text("SELECT count(*) FROM frontier")).scalar() == 0
    store.dispose()
