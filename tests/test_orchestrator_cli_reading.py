"""Commands that read a finished study: its state, runs, logs, frontier, results and weights, every digit of them."""

import csv
import io
import json
import re
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from db import answers
from db.store import Store, default_url
from tests import command_line
from tests.command_in_process import vitscale
from tests.command_line import TINY_RUNS, write_study
from tests.done_studies import runs_of, trained

# ------------------------------------------------------------------------------------------------------------- status


def test_status_needs_no_cluster_and_leaves_the_database_as_it_is(done: Path) -> None:
    file = done / ".vitscale" / "store.db"
    before = file.read_bytes(), file.stat().st_mtime_ns
    status = vitscale("status", cwd=done, RAY_ADDRESS="127.0.0.1:1")
    assert status.code == 0
    assert re.search(rf"^tiny +{TINY_RUNS} ", status.out, re.MULTILINE)
    assert "failed: " in status.err
    assert (file.read_bytes(), file.stat().st_mtime_ns) == before


def test_status_as_json_counts_runs_by_state(done: Path) -> None:
    status = json.loads(vitscale("status", "tiny", "--json", cwd=done).out)
    [tiny] = status["studies"]
    assert tiny["runs"]["done"] == TINY_RUNS
    assert tiny["trainings"]["done"] == 5
    assert tiny["flops"] == tiny["flops_done"] > 0
    failures = json.loads(vitscale("status", "diverging", "--json", cwd=done).out)["failed"]
    assert failures[0]["cause"]


def test_status_watch_ends_when_nothing_is_left(done: Path) -> None:
    watched = vitscale("status", "tiny", "--watch", cwd=done)
    assert watched.code == 0
    assert watched.out.count("study ") == 1


def test_status_of_a_store_without_studies_says_how_to_begin(tmp_path: Path) -> None:
    Store.open(default_url(tmp_path)).dispose()
    status = vitscale("status", cwd=tmp_path)
    assert (status.code, status.out) == (0, "")
    assert "vitscale submit" in status.err


# --------------------------------------------------------------------------------------------------------------- runs


def test_show_tells_all_about_a_run(done: Path, key: str) -> None:
    shown = json.loads(vitscale("show", key[:8], "--json", cwd=done).out)
    assert shown["key"] == key
    assert shown["state"] == "done"
    assert shown["definition"]["kind"] == "train"
    assert Path(shown["checkpoint"]).exists()
    assert Path(shown["attempts"][0]["log"]).exists()
    assert [each["metric"] for each in shown["results"]]
    losses = shown["measurements"]["train_loss_nats"]
    assert [step for step, _ in losses] == sorted({step for step, _ in losses})
    assert losses[-1] == [shown["steps"], shown["results"][0]["value"]], "the last loss is the result"
    text = vitscale("show", key[:8], cwd=done).out
    assert f"to {losses[-1][1]:.4g} at step {shown['steps']}" in text
    assert text.startswith(key)
    assert all(repr(each["value"]) in text for each in shown["results"])


def test_logs_print_the_log_of_an_attempt(done: Path, key: str) -> None:
    assert key in vitscale("logs", key[:8], cwd=done).out
    followed = command_line.vitscale("logs", key[:8], "--follow", cwd=done)
    assert followed.code == 0
    assert followed.out == vitscale("logs", key[:8], "--attempt", "1", cwd=done).out
    [failed] = [run for run in runs_of(done, "diverging") if run.state == "failed"]
    assert "Traceback (most recent call last)" in vitscale("logs", failed.key[:10], cwd=done).out


def test_a_missing_attempt_is_not_found_and_the_ones_there_are_named(done: Path, key: str) -> None:
    missing = vitscale("logs", key[:8], "--attempt", "9", cwd=done)
    assert missing.code == 3
    assert "it has 1" in missing.err


# ----------------------------------------------------------------------------------------------------------- frontier


def test_frontier_is_the_same_as_text_csv_parquet_and_json(done: Path, tmp_path: Path) -> None:
    as_json = json.loads(vitscale("frontier", "tiny", "--json", cwd=done).out)
    assert (as_json["metric"], as_json["split"], as_json["configurations"]) == ("accuracy", "test", 3)
    points = as_json["points"]
    assert points
    rows = list(csv.DictReader(io.StringIO(vitscale("frontier", "tiny", "--csv", cwd=done).out)))
    written = vitscale("frontier", "tiny", "--parquet", tmp_path / "f.parquet", cwd=done)
    assert (written.out, written.code) == ("", 0)
    table = pq.read_table(tmp_path / "f.parquet").to_pylist()
    for name in ("cost", "value", "quality"):
        kept = [point[name] for point in points]
        assert [float(row[name]) for row in rows] == kept
        assert [row[name] for row in table] == kept
    assert [row["runs"].split() for row in rows] == [point["runs"] for point in points]
    text = vitscale("frontier", "tiny", cwd=done)
    assert f"{len(points)} of 3 configurations" in text.out
    assert all(point["runs"][0][:10] in text.out for point in points)
    assert text.err == ""


def test_frontier_of_another_metric_split_and_of_each_family(done: Path) -> None:
    loss = json.loads(vitscale("frontier", "tiny", "--metric", "loss_nats", "--split", "test", "--json", cwd=done).out)
    assert all(point["quality"] == -point["value"] for point in loss["points"])
    validation = json.loads(vitscale("frontier", "tiny", "--split", "validation", "--json", cwd=done).out)
    assert validation["split"] == "validation"
    fewshot = json.loads(vitscale("frontier", "tiny", "--metric", "accuracy_5shot", "--json", cwd=done).out)
    assert fewshot["configurations"] == 3
    families = json.loads(vitscale("frontier", "tiny", "--by", "family", "--json", cwd=done).out)
    assert {point["family"] for point in families["points"]} == {"ViT", "ResNet"}


@pytest.mark.parametrize(("ending", "opening"), [("svg", b"<?xml"), ("png", b"\x89PNG"), ("pdf", b"%PDF")])
def test_frontier_is_drawn(ending: str, opening: bytes, done: Path, tmp_path: Path) -> None:
    file = tmp_path / f"frontier.{ending}"
    drawn = vitscale("frontier", "tiny", "--by", "family", "--plot", file, cwd=done)
    assert drawn.code == 0
    assert f"wrote {file}" in drawn.err
    assert file.read_bytes().startswith(opening)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--metric", "acuracy"], 3, "--metric accuracy --split test"),
        (["--metric", "accuracy", "--split", "train"], 3, "--metric accuracy --split validation"),
        (["--by", "size"], 2, "valid: family"),
        (["--plot", "f.gif"], 2, ".svg, .png, .pdf"),
        (["--parquet", "f.csv"], 2, ".parquet"),
        (["--json", "--csv"], 2, "choose one"),
        (["--plot", "nowhere/f.png"], 1, "nowhere/f.png: No such file or directory"),
        (["--no-such-option"], 2, "--no-such-option"),
    ],
)
def test_what_frontier_cannot_do_it_says_in_one_sentence(
    arguments: list[str], code: int, said: str, done: Path
) -> None:
    asked = vitscale("frontier", "tiny", *arguments, cwd=done)
    assert asked.code == code
    assert said in asked.err
    assert asked.out == ""
    assert "Traceback" not in asked.err


def test_frontier_counts_what_it_leaves_out(done: Path) -> None:
    asked = vitscale("frontier", "diverging", cwd=done)
    assert asked.code == 3
    assert "no results yet" in asked.err


# ------------------------------------------------------------------------------------------------------------- export


def results_of(folder: Path) -> list[answers.Result]:
    store = Store.open(default_url(folder), create=False)
    try:
        with store.read() as connection:
            study = answers.study_named(connection, "tiny")
            assert study is not None
            return answers.results_of(connection, study.id)
    finally:
        store.dispose()


def test_export_keeps_every_digit(done: Path, tmp_path: Path) -> None:
    stored = [vars(result) for result in results_of(done)]
    assert len(stored) > TINY_RUNS - 5
    for ending in ("csv", "parquet", "json"):
        assert vitscale("export", "tiny", "-o", tmp_path / f"r.{ending}", cwd=done).code == 0
    assert pq.read_table(tmp_path / "r.parquet").to_pylist() == stored
    assert json.loads((tmp_path / "r.json").read_text()) == stored
    rows = list(csv.DictReader((tmp_path / "r.csv").read_text().splitlines()))
    assert [float(row["value"]) for row in rows] == [result["value"] for result in stored]
    assert [row["key"] for row in rows] == [result["key"] for result in stored]
    assert vitscale("export", "tiny", cwd=done).out == (tmp_path / "r.csv").read_text()


def test_export_of_a_study_without_results_has_its_columns(tmp_path: Path) -> None:
    vitscale("submit", write_study(tmp_path), "--queue", cwd=tmp_path)
    exported = vitscale("export", "tiny", cwd=tmp_path)
    assert exported.out.startswith("key,kind,model,")
    assert exported.out.count("\n") == 1
    assert vitscale("export", "tiny", "-o", "r.parquet", cwd=tmp_path).code == 0
    assert pq.read_schema(tmp_path / "r.parquet").names == exported.out.strip().split(",")


def test_export_to_an_unknown_format_is_refused(done: Path) -> None:
    assert vitscale("export", "tiny", "-o", "r.xlsx", cwd=done).code == 2


# ------------------------------------------------------------------------------------------------------------ weights


def test_the_weights_of_a_training_are_written_for_timm_and_shown(done: Path, key: str, tmp_path: Path) -> None:
    vit = trained(done)
    file = tmp_path / "model.safetensors"
    wrote = command_line.vitscale("weights", "export", vit.key[:12], "-o", file, "--json", cwd=done)
    assert wrote.code == 0, wrote.err
    assert json.loads(wrote.out) == {
        "run": vit.key,
        "file": str(file),
        "model": vit.model,
        "timm_architecture": "vit_base_patch16_224",
    }
    shown = vitscale("weights", "show", file, "--json", cwd=tmp_path)
    assert shown.code == 0, shown.err
    report = json.loads(shown.out)
    assert report["definition"] == json.loads(vit.definition)["model"]
    assert (report["convention"], report["parameters"], report["misfits"]) == ("timm", vit.parameters, [])
    assert (report["image_size"], report["channels"], report["classes"]) == (8, 1, 10)
    assert "8 pixels, 1 channel" in vitscale("weights", "show", file, cwd=tmp_path).out


def test_weights_are_written_over_only_by_force(done: Path, tmp_path: Path) -> None:
    vit = trained(done)
    file = tmp_path / "model.safetensors"
    file.write_text("mine")
    refused = vitscale("weights", "export", vit.key, "-o", file, cwd=done)
    assert (refused.code, file.read_text()) == (1, "mine")
    assert "--force" in refused.err
    forced = vitscale("weights", "export", vit.key, "-o", file, "--force", "--no-head", cwd=done)
    assert forced.code == 0, forced.err
    assert "none: the classifier was left out" in vitscale("weights", "show", file, cwd=done).out


def test_weights_that_cannot_be_written_or_shown_get_one_sentence(done: Path, copy: Path, tmp_path: Path) -> None:
    resnet = trained(done, "ResNet")
    evaluation = next(run for run in runs_of(done) if run.kind == "evaluate")
    stranger = tmp_path / "stranger.npz"
    stranger.write_text("not weights")
    moved = copy / ".vitscale" / "checkpoints"
    moved.rename(copy / "elsewhere")
    for folder, arguments, code, says in [
        (done, ("export", resnet.key, "-o", "x.safetensors"), 2, "timm's ResNets have a 7x7 root"),
        (done, ("export", evaluation.key, "-o", "x.safetensors"), 2, "trains nothing; the weights are those of run"),
        (copy, ("export", resnet.key, "-o", "x.safetensors"), 3, "(--folder or VITSCALE_FOLDER names its root)"),
        (done, ("show", stranger), 2, "neither .npz nor safetensors"),
        (done, ("show", tmp_path / "nowhere.npz"), 1, "No such file"),
    ]:
        ended = vitscale("weights", *arguments, cwd=folder)
        assert (ended.code, ended.out, ended.err.count("\n")) == (code, "", 1), ended.err
        assert says in ended.err
    assert not (done / "x.safetensors").exists()
