"""`vitscale results`: tables of others come in whole or not at all, stand in a series, and go again."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from db import answers, external, frontiers
from db.exported import ExternalRecord
from db.store import Store, StoreMissing
from orchestrator import capsule_files, rows
from orchestrator.cli_results import results
from orchestrator.exits import sentence
from orchestrator.lookups import study_store
from orchestrator.reports import NotFound
from orchestrator.settings import Settings, settings
from studies import references
from studies.external import External
from tests import builders
from tests.command_in_process import asked
from tests.command_in_process import vitscale as command
from tests.command_line import vitscale, write_study

TABLE = """\
model,family,exaFLOPs,top1,params,epochs,run
ViT-B/32,ViT,55.98,80.73,88.2,7,0
ViT-B/16,ViT,224.07,84.15,86.5,7,0
R50x1,ResNet,50.82,77.54,25.5,7,0
R50x2,ResNet,-,82.12,94.1,7,0
R101x1,ResNet,96.17,NaN,44.5,7,0
"""
COLUMNS = ("--cost", "exaFLOPs:exaflops", "--quality", "top1:percent", "--family", "family", "--label", "model")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a table in it and no store."""
    for name in ("VITSCALE_STORE", "VITSCALE_FOLDER"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".vitscale").mkdir()
    (tmp_path / "table.csv").write_text(TABLE)
    return tmp_path


@pytest.fixture
def store(here: Path) -> Iterator[Store]:
    """The store of that folder."""
    opened = Store.open(settings(None, None).store_url)
    yield opened
    opened.dispose()


def run(*arguments: str) -> str:
    """What `vitscale results` prints to stdout. Raises what the command raises."""
    ended = CliRunner().invoke(results, arguments, catch_exceptions=False)
    assert ended.exit_code == 0, ended.output
    return ended.stdout


def imported(*arguments: str, file: str = "table.csv", study: str = "table") -> dict[str, Any]:
    """What an import with the usual columns says in JSON."""
    answer: dict[str, Any] = json.loads(run("import", file, "--study", study, *COLUMNS, *arguments, "--json"))
    return answer


def rows_of(store: Store, study: str = "table") -> list[External]:
    with store.read() as connection:
        found = answers.study_named(connection, study)
        return [] if found is None else external.rows_of(connection, found.id)


def test_a_table_becomes_a_study(store: Store) -> None:
    answer = imported("--size", "params:million", "--epochs", "epochs")
    assert (answer["rows"], answer["new"], answer["without_value"]) == (5, 5, 1)
    assert answer["without_cost"] == {"flops": 1, "parameters": 0}
    [series] = answer["series"]
    unstated = {"dataset": "unstated", "split": "unstated", "image_size": 0}
    assert series == {"kind": "evaluate", "metric": "accuracy", **unstated, "rows": 5}
    first, *_ = rows_of(store)
    assert (first.model, first.family, first.train_flops, first.value) == ("ViT-B/32", "ViT", 5.598e19, 0.8073)
    assert (first.parameters, first.epochs, first.place) == (88_200_000, 7.0, "table.csv:2")
    with store.read() as connection:
        found = answers.study_named(connection, "table")
        assert found is not None
        assert (found.title, found.source) == ("Imported: table.csv", "table.csv")


def test_importing_again_changes_nothing(store: Store) -> None:
    assert imported()["new"] == 5
    assert (imported()["new"], imported()["known"]) == (0, 5)


def test_one_table_in_three_formats_is_the_same_results(here: Path, store: Store) -> None:
    heading, *lines = (line.split(",") for line in TABLE.splitlines())
    cells = [dict(zip(heading, line, strict=True)) for line in lines]
    numbers = [{**row, "exaFLOPs": _number(row["exaFLOPs"]), "top1": _number(row["top1"])} for row in cells]
    (here / "table.json").write_text(json.dumps(numbers))
    pq.write_table(pa.Table.from_pylist(numbers), here / "table.parquet")
    (here / "excel.csv").write_bytes(TABLE.replace(".", ",").replace(",R", ";R").encode("utf-8-sig"))
    spread = "\ufeff" + "\r\n".join(";".join(line).replace(".", ",") for line in [heading, *lines])
    (here / "excel.csv").write_bytes(spread.encode())
    assert imported()["new"] == 5
    for file in ("table.json", "table.parquet", "excel.csv"):
        assert imported(file=file)["known"] == 5


def _number(text: str) -> float | None:
    return None if text == "-" else float(text)


def test_float32_columns_keep_the_digits_that_they_have(here: Path, store: Store) -> None:
    columns = {"model": ["a"], "family": ["A"], "exaFLOPs": pa.array([55.98], pa.float32())}
    pq.write_table(pa.table({**columns, "top1": pa.array([80.73], pa.float32())}), here / "narrow.parquet")
    imported(file="narrow.parquet")
    [row] = rows_of(store)
    assert (row.train_flops, row.value) == (5.598e19, 0.8073)


def test_all_rows_are_checked_before_any_is_stored_or_a_store_is_made(here: Path) -> None:
    (here / "table.csv").write_text(TABLE + "bad,ViT,1,x,1,7,0\n")
    with pytest.raises(ValueError, match=r"table\.csv:7: column 'top1': 'x' is no number"):
        imported()
    assert list((here / ".vitscale").iterdir()) == []


def test_a_dry_run_says_what_would_come_and_stores_nothing(here: Path) -> None:
    answer = imported("--dry-run")
    assert (answer["new"], answer["dry_run"]) == (5, True)
    assert list((here / ".vitscale").iterdir()) == []


def test_a_dry_run_knows_what_is_stored_and_what_contradicts_it(here: Path, store: Store) -> None:
    imported()
    assert imported("--dry-run")["known"] == 5
    (here / "other.csv").write_text(TABLE.replace("80.73", "80.74"))
    with pytest.raises(ValueError, match=r"other\.csv:2 says 0\.8074 .* table\.csv:2 in the store says 0\.8073"):
        imported("--dry-run", file="other.csv")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["table.csv", "--study", "t"], "needs --cost, --quality, --family, --label too"),
        (["table.csv", "--study", "A b", *COLUMNS], "'A b' is no name of a study"),
        (["table.xlsx", "--study", "t", *COLUMNS], "valid endings: .csv, .parquet, .json"),
        (["vit-papr"], "did you mean 'vit-paper'"),
        (["vit-paper", *COLUMNS], "says itself what its columns mean"),
        (["vit-paper", "--set", "split=test"], "says itself what its columns mean"),
        (["table.csv", "--study", "t", *COLUMNS, "--seed", "runs"], "no column 'runs'; did you mean 'run'?"),
        (["table.csv", "--study", "t", *COLUMNS, "--size", "params:millon"], "did you mean 'million'?"),
        (["table.csv", "--study", "t", *COLUMNS, "--cost", "params:petaflop"], "second column that says flops"),
        (["table.csv", "--study", "t", *COLUMNS, "--set", "dataset"], "write it as in --set metric=accuracy"),
        (
            ["table.csv", "--study", "t", *COLUMNS, "--set", "data=x"],
            "'data' is nothing to set; did you mean 'dataset'",
        ),
        (["table.csv", "--study", "t", *COLUMNS, "--set", "split=a,split=b"], "split is set twice"),
        (["table.csv", "--study", "t", *COLUMNS, "--set", "image_size=big"], "'big' is no side of an image"),
        (["table.csv", "--study", "t", *COLUMNS, "--set", "metric=top1"], "'top1' is no quality"),
        (["table.csv", "--study", "t", *COLUMNS, "--where", "family=Vit"], "did you mean 'ViT'?"),
        (["table.csv", "--study", "t", *COLUMNS, "--where", "family"], "chooses nothing"),
    ],
)
def test_a_question_without_meaning_is_answered_in_a_sentence(here: Path, arguments: list[str], said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)) as raised:
        run("import", *arguments)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("ending", ["csv", "json", "parquet"])
def test_a_file_that_is_not_there_is_named(here: Path, ending: str) -> None:
    with pytest.raises(FileNotFoundError) as raised:
        imported(file=f"gone.{ending}")
    assert sentence(raised.value) == f"gone.{ending}: No such file or directory"


def test_a_parquet_file_that_is_none_is_named(here: Path) -> None:
    (here / "table.parquet").write_text(TABLE)
    with pytest.raises(ValueError, match=r"^table\.parquet is no Parquet file"):
        imported(file="table.parquet")


def test_several_costs_are_several_axes(here: Path, store: Store) -> None:
    (here / "table.csv").write_text("model,family,exaFLOPs,top1,days,price\na,A,1,50,2,30\n")
    answer = imported("--cost", "days:core-days", "--cost", "price:usd")
    assert answer["without_cost"] == {"flops": 0, "device-seconds": 0, "money": 0}
    [row] = rows_of(store)
    assert (row.train_flops, row.device_seconds, row.money) == (1e18, 172_800.0, 30.0)


DEVICES = "model,family,exaFLOPs,top1,days,device\na,A,1,50,2,v3\nb,A,2,60,3,v4\nc,A,3,70,4,\n"
TIME = ("--cost", "days:core-days")


def test_the_device_of_imported_time_is_set_or_a_column(here: Path, store: Store) -> None:
    (here / "table.csv").write_text(DEVICES)
    imported(*TIME)
    imported(*TIME, "--set", "device=v2", study="set")
    imported(study="untimed")
    found = [[row.device for row in rows_of(store, study)] for study in ("table", "set", "untimed")]
    assert found == [["v3", "v4", None], ["v2", "v2", "v2"], [None, None, None]]
    with pytest.raises(ValueError, match=r"device=v2 says whose time it is: add one, as in --cost COLUMN:device-hours"):
        imported("--set", "device=v2", study="other")


def test_device_time_of_several_kinds_is_said_and_can_be_priced(here: Path, store: Store) -> None:
    (here / "table.csv").write_text(DEVICES)
    imported(*TIME)
    [note] = asked("frontier", "table", "--cost", "device-seconds", cwd=here)["notes"]
    assert "(1 on v3, 1 on v4, 1 on several or unnamed ones)" in note
    prices = ("--cost", "money", "--price", "v3=1", "--price", "v4=1")
    assert [point["cost"] for point in asked("frontier", "table", *prices, cwd=here)["points"]] == [48.0, 72.0]


def test_capsules_and_exports_have_the_device_and_older_capsules_none(here: Path, store: Store) -> None:
    (here / "table.csv").write_text(DEVICES)
    imported(*TIME)
    ended = command("export", "table", "--capsule", "x.vitscale.zip", cwd=here)
    assert ended.code == 0, ended.err
    ended = command("export", "table", "--what", "external", "-o", "x.json", cwd=here)
    assert [row["device"] for row in json.loads((here / "x.json").read_text())] == ["v3", "v4", None]
    ended = command("import", "x.vitscale.zip", "--store", f"sqlite:///{here}/other.db", cwd=here)
    assert ended.code == 0, ended.err
    other = Store.open(f"sqlite:///{here}/other.db")
    assert rows_of(other) == rows_of(store)
    other.dispose()
    _, files = capsule_files.read(here / "x.vitscale.zip")
    table = pq.read_table(pa.BufferReader(files["tables/external.parquet"]))
    older = pa.BufferOutputStream()
    pq.write_table(table.drop_columns(["device"]), older)
    read = rows.from_parquet(ExternalRecord, older.getvalue().to_pybytes(), most_rows=9)
    assert [(row.model, row.device) for row in read] == [("a", None), ("b", None), ("c", None)]
    pq.write_table(table.drop_columns(["epochs"]), older := pa.BufferOutputStream())
    with pytest.raises(ValueError, match="its columns are others"):
        rows.from_parquet(ExternalRecord, older.getvalue().to_pybytes(), most_rows=9)


def test_what_a_frontier_prints_can_be_imported(here: Path, store: Store) -> None:
    points = [{"label": "a", "family": "A", "cost": 1.5e18, "quality": 0.5, "runs": ["x"]}]
    series = {"metric": "accuracy_5shot", "kind": "fewshot", "dataset": "digits", "split": "test", "image_size": 8}
    (here / "frontier.json").write_text(json.dumps({**series, "points": points}))
    columns = ("--cost", "cost", "--quality", "quality", "--family", "family", "--label", "label")
    run("import", "frontier.json", "--study", "table", *columns)
    [row] = rows_of(store)
    assert (row.train_flops, row.value, row.metric, row.kind, row.split) == (
        1.5e18, 0.5, "accuracy_5shot", "fewshot", "test",
    )  # fmt: skip
    assert row.image_size == 8


def test_rows_of_several_metrics_are_never_mixed(here: Path, store: Store) -> None:
    (here / "table.csv").write_text(
        "model,family,exaFLOPs,top1,metric,split\na,A,1,50,accuracy,test\na,A,1,2.1,loss_nats,test\n"
    )
    with pytest.raises(ValueError, match=r"rows of more than one metric \(accuracy, loss_nats\)"):
        imported()
    imported("--where", "metric=accuracy")
    run("import", "table.csv", "--study", "table", *COLUMNS[:2], "--quality", "top1:loss", *COLUMNS[4:],
        "--where", "metric=loss_nats")  # fmt: skip
    assert [(row.metric, row.value, row.split) for row in rows_of(store)] == [
        ("accuracy", 0.5, "test"),
        ("loss_nats", 2.1, "test"),
    ]


def test_results_stand_in_the_series_of_a_study_that_has_one(store: Store) -> None:
    planned = builders.training()
    with store.begin() as connection:
        builders.submit(connection, [planned, builders.evaluation(planned)], name="table")
        builders.commit(connection, builders.claim(connection))
        builders.commit(connection, builders.claim(connection), accuracy=0.6)
    [series] = imported()["series"]
    assert (series["dataset"], series["split"], series["image_size"]) == ("digits", "test", 8)
    with store.read() as connection:
        study = answers.study_named(connection, "table")
        assert study is not None
        [both] = frontiers.series_of(connection, study.id)
        assert {point.external for point in frontiers.points_of(connection, both)} == {True, False}


def test_a_study_on_several_splits_asks_for_one(store: Store) -> None:
    imported("--set", "dataset=a,split=test")
    imported("--set", "dataset=a,split=validation")
    with pytest.raises(ValueError, match=r"more than one split: say which with --set split= \(test, validation\)"):
        imported()


def test_a_data_set_in_other_capitals_than_ours_is_pointed_at(here: Path) -> None:
    ended = CliRunner().invoke(
        results, ["import", "table.csv", "--study", "t", *COLUMNS, "--set", "dataset=ImageNet"], catch_exceptions=False
    )
    assert "own results say 'imagenet' and not 'ImageNet'" in ended.stderr


def test_costs_that_no_training_has_are_pointed_at(here: Path) -> None:
    columns = ("--cost", "exaFLOPs", *COLUMNS[2:])
    ended = CliRunner().invoke(results, ["import", "table.csv", "--study", "t", *columns], catch_exceptions=False)
    assert "no training takes 224.07 FLOPs: is a unit missing" in ended.stderr


def test_what_was_imported_is_listed_and_removed(store: Store) -> None:
    assert run("list") == ""
    imported()
    run("import", "vit-paper", "--study", "table", "--set", "kind=tuned")
    listed = json.loads(run("list", "table", "--json"))["imports"]
    assert [(each["file"], each["rows"], len(each["series"])) for each in listed] == [
        ("table.csv", 5, 1),
        ("vit-paper.csv", 108, 6),
    ]
    assert {each["kind"] for each in listed[1]["series"]} == {"tuned"}
    assert "accuracy on pets test at 384 px, tuned" in run("list")
    with pytest.raises(NotFound, match=r"nothing in table is from 'tabel\.csv'; did you mean 'table\.csv'"):
        run("remove", "table", "--source", "tabel.csv")
    run("remove", "table", "--source", "table.csv")
    assert len(rows_of(store)) == 108
    run("remove", "table")
    with pytest.raises(NotFound, match="no study 'table'"):
        run("list", "table")


# ---------------------------------------------------------------------------------------------------------- references


def test_a_reference_study_is_there_without_a_store(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with study_store(settings(None, None), "vit-paper") as (store, study):
        folder = Path(store.url.removeprefix("sqlite:///")).parent
        assert len(rows_of(store, "vit-paper")) == 108
        assert study.name == "vit-paper"
        assert folder.exists()
    assert not folder.exists()
    assert list((here / ".vitscale").iterdir()) == []


def test_a_reference_beside_other_studies_is_found_and_not_stored(store: Store) -> None:
    imported()
    given = settings(None, None)
    with study_store(given, "vit-paper") as (temporary, _):
        assert temporary.url != store.url
    assert rows_of(store, "vit-paper") == []
    run("import", "vit-paper")
    with study_store(given, "vit-paper") as (kept, _):
        assert kept.url == store.url


def test_a_name_that_is_neither_is_answered_with_the_nearest(store: Store) -> None:
    with pytest.raises(NotFound, match="did you mean 'vit-paper'"), study_store(settings(None, None), "vitpaper"):
        pass


def test_without_a_store_only_references_are_found(here: Path) -> None:
    with pytest.raises(StoreMissing), study_store(settings(None, None), "mine"):
        pass


def test_what_goes_wrong_in_the_block_is_not_taken_for_a_missing_study(here: Path) -> None:
    with pytest.raises(NotFound, match="inside"), study_store(settings(None, None), "vit-paper"):
        raise NotFound("inside")


def test_reference_rows_join_an_own_transfer_by_its_kind(store: Store) -> None:
    run("import", "vit-paper", "--study", "mine", "--set", "kind=imagenet")
    assert [(row.kind, row.key) for row in rows_of(store, "mine")] != [
        (row.kind, row.key) for row in references.reference("vit-paper").rows
    ]
    assert {row.kind for row in rows_of(store, "mine")} == {"imagenet"}


# ------------------------------------------------------------------------------------------------------ other commands


@pytest.fixture
def given(here: Path, store: Store) -> Settings:
    """Settings of a store with an imported study `tiny`."""
    imported(study="tiny")
    return settings(None, None)


@pytest.mark.parametrize("command", ["status", "frontier", "export", "resume", "cancel"])
def test_every_command_works_on_an_imported_study(given: Settings, here: Path, command: str) -> None:
    ended = vitscale(command, "tiny", cwd=here)
    assert (ended.code, "Traceback" in ended.err) == (0, False), ended.err


def test_an_imported_study_has_no_sweep_to_show(given: Settings, here: Path) -> None:
    ended = vitscale("sweep", "tiny", cwd=here)
    assert ended.code == 3
    assert ended.err.startswith("error: tiny has no transfer")


def test_submitting_a_study_of_that_name_keeps_what_was_imported(given: Settings, here: Path, store: Store) -> None:
    write_study(here)
    ended = vitscale("submit", "tiny.yaml", "--queue", cwd=here)
    assert ended.code == 0, ended.err
    assert len(rows_of(store, "tiny")) == 5
    with store.read() as connection:
        study = answers.study_named(connection, "tiny")
        assert study is not None
        assert study.runs == 20
        [series] = frontiers.series_of(connection, study.id)
        assert len(frontiers.points_of(connection, series)) == 3


def test_the_command_ends_with_the_code_that_an_error_stands_for(here: Path) -> None:
    ended = vitscale("results", "import", "table.csv", "--study", "t", *COLUMNS[:2], "--quality", "top1", *COLUMNS[4:],
                     cwd=here)  # fmt: skip
    assert ended.code == 2
    assert ended.err == (
        "error: table.csv:2: column 'top1': 80.73 is above 1, where a fraction is due: say --quality top1:percent\n"
    )
    assert vitscale("results", "remove", "t", cwd=here).code == 3
