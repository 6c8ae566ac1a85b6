"""What `vitscale export` writes: every question to the store as a table, the same in each format."""

import csv
import io
import json
from dataclasses import fields
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from db import answers, external
from db.store import Store, default_url
from orchestrator import rows
from orchestrator.export_tables import TABLES
from tests.command_in_process import vitscale
from tests.test_db_capsules import ACCURACIES, ALL, PUBLISHED, decided, done


@pytest.fixture
def filled(store: Store) -> Store:
    """A store with something of everything but laws."""
    decided(store)
    done(store)
    with store.begin() as connection:
        external.store(connection, "tiny", [PUBLISHED], title="", source="")
    return store


@pytest.mark.parametrize("name", TABLES)
def test_each_table_is_the_same_in_each_format(name: str, filled: Store, tmp_path: Path) -> None:
    kind, question = TABLES[name]
    with filled.read() as connection:
        study = answers.study_named(connection, "tiny")
        assert study is not None
        found = question(connection, study)
    assert found or name in ("laws", "sweeps")
    for ending in rows.FORMATS:
        rows.write(tmp_path / f"rows{ending}", kind, found)
    columns = [field.name for field in fields(kind)]
    as_parquet = pq.read_table(tmp_path / "rows.parquet")
    assert as_parquet.column_names == columns
    as_json = json.loads((tmp_path / "rows.json").read_text())
    assert as_json == as_parquet.to_pylist()
    heading, *lines = csv.reader(io.StringIO((tmp_path / "rows.csv").read_text()))
    assert (heading, len(lines)) == (columns, len(as_json))
    for line, row in zip(lines, as_json, strict=True):
        for column, cell in zip(heading, line, strict=True):
            if isinstance(row[column], float):
                assert float(cell) == row[column]


def test_points_and_frontiers_name_their_series_and_runs(filled: Store) -> None:
    with filled.read() as connection:
        study = answers.study_named(connection, "tiny")
        assert study is not None
        points = TABLES["points"].rows(connection, study)
        led = TABLES["frontier"].rows(connection, study)
        runs = TABLES["runs"].rows(connection, study)
    assert [(run.position, run.key) for run in runs] == [(number, run.key) for number, run in enumerate(ALL)]
    own, theirs = points
    assert (own.metric, own.value, own.seeds) == ("accuracy", sum(ACCURACIES) / 2, 2)
    assert set(own.runs) == {run.key for run in runs if run.kind == "evaluate"}
    assert (theirs.model, theirs.external, theirs.cost) == ("ViT-theirs", True, 1e18)
    assert [(point.model, point.pooled) for point in led] == [
        (point.model, pooled) for pooled in (True, False) for point in points
    ]


def test_the_choice_of_a_search_is_a_row(store: Store) -> None:
    decided(store)
    with store.read() as connection:
        study = answers.study_named(connection, "tiny")
        assert study is not None
        (sweep,) = TABLES["sweeps"].rows(connection, study)
    assert (sweep.searched, sweep.development_value, sweep.extended) == ('{"lr_peak":0.003}', 0.75, False)


def test_the_command_writes_the_table_that_it_is_asked_for(sqlite_url: str, tmp_path: Path) -> None:
    store = Store.open(sqlite_url)
    done(store)
    store.dispose()
    assert sqlite_url == default_url(tmp_path)
    printed = vitscale("export", "tiny", "--what", "attempts", cwd=tmp_path)
    assert printed.code == 0, printed.err
    assert [line.split(",")[0] for line in printed.out.splitlines()] == ["key", *sorted(run.key for run in ALL)]
    wrote = vitscale("export", "tiny", "--what", "runs", "-o", "runs.parquet", cwd=tmp_path)
    assert wrote.err == "wrote 4 rows to runs.parquet\n"
    wrong = vitscale("export", "tiny", "--what", "run", cwd=tmp_path)
    assert (wrong.code, wrong.out) == (2, "")
    assert "'run' is no table; did you mean 'runs'?" in wrong.err
    both = vitscale("export", "tiny", "--what", "runs", "--capsule", "x.zip", cwd=tmp_path)
    assert (both.code, "a capsule holds every table" in both.err) == (2, True)
    assert "valid endings: .vitscale.tar.gz" in vitscale("export", "tiny", "--capsule", "x.rar", cwd=tmp_path).err
