"""The installed command on real small studies: what it prints where, with which exit code, and what it leaves alone."""

import csv
import io
import json
import re
import resource
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import typer.main

from db import answers
from db.store import Store, default_url
from db.tables import VERSION_TABLE
from orchestrator.cli import app
from tests.command_line import TINY, TINY_RUNS, VITSCALE, environment, vitscale, vitscale_on_terminal, write_study

COMMANDS = [
    *("plan", "shapes", "submit", "resume", "cancel", "status", "show", "logs"),
    *("frontier", "advantage", "sweep", "fit", "predict", "next", "laws", "figure", "results"),
    *("export", "import", "weights"),
]
EVALUATE = "evaluations: [{kind: split, split: test}]\n"
ONE_RUN = TINY.replace("epochs: [5, 10]", "epochs: 5").replace("seed: [0, 1]", "seed: 0").split("  - {model:")[0]
DIVERGING = (
    ONE_RUN.replace("name: tiny", "name: diverging").replace("recipe: small", "recipe: {base: small, lr_peak: 1.0e+30}")
    + EVALUATE
)


@pytest.fixture(scope="session")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished study and one whose only training diverged. Tests read it and change nothing."""
    folder = tmp_path_factory.mktemp("done")
    finished = vitscale("submit", write_study(folder), cwd=folder)
    assert finished.code == 0, finished.err
    assert f"{TINY_RUNS} runs done, 0 failed" in finished.err
    assert finished.out == ""
    failed = vitscale("submit", write_study(folder, DIVERGING, "diverging.yaml"), cwd=folder)
    assert failed.code == 5, failed.err
    return folder


@pytest.fixture
def copy(done: Path, tmp_path: Path) -> Path:
    """The same, to change at will."""
    return Path(shutil.copytree(done, tmp_path / "copy"))


@pytest.fixture(scope="session")
def key(done: Path) -> str:
    """The key of a finished training."""
    return str(next(run.key for run in runs_of(done) if run.kind == "train" and run.state == "done"))


def runs_of(folder: Path, study: str = "tiny") -> list[answers.Run]:
    store = Store.open(default_url(folder), create=False)
    try:
        with store.read() as connection:
            found = answers.study_named(connection, study)
            assert found is not None
            return answers.runs_of(connection, found.id)
    finally:
        store.dispose()


def results_of(folder: Path, study: str = "tiny") -> list[answers.Result]:
    store = Store.open(default_url(folder), create=False)
    try:
        with store.read() as connection:
            found = answers.study_named(connection, study)
            assert found is not None
            return answers.results_of(connection, found.id)
    finally:
        store.dispose()


# --------------------------------------------------------------------------------------------------------------- help


def test_every_command_is_listed_and_says_what_the_exit_codes_mean(tmp_path: Path) -> None:
    helped = vitscale("--help", cwd=tmp_path)
    assert helped.code == 0
    assert all(f"\n  {command} " in helped.out for command in COMMANDS)
    assert "130 Ctrl-C" in helped.out


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example_that_parses(command: str, tmp_path: Path) -> None:
    helped = vitscale(command, "--help", cwd=tmp_path)
    assert helped.code == 0
    example = re.search(r"Example:  vitscale (.+)", helped.out)
    assert example is not None
    name, *arguments = example[1].split()
    assert name == command
    group: Any = typer.main.get_command(app)
    context = group.commands[name].make_context(name, arguments)
    assert context.command.name == command


def test_every_option_has_a_help_text() -> None:
    group: Any = typer.main.get_command(app)
    commands = {**group.commands, **group.commands["weights"].commands, **group.commands["results"].commands}
    silent = [
        f"{name} {parameter.name}"
        for name, command in commands.items()
        for parameter in command.params
        if not parameter.help
    ]
    assert silent == []


def test_help_takes_less_than_four_tenths_of_a_second_of_processor_time(tmp_path: Path) -> None:
    def spent() -> float:
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime

    best = 10.0
    for _ in range(3):
        before = spent()
        vitscale("--help", cwd=tmp_path)
        best = min(best, spent() - before)
    assert best < 0.4


@pytest.mark.parametrize("command", [[], ["frontier"], ["advantage"], ["fit"], ["predict"], ["next"], ["figure"]])
def test_help_imports_no_heavy_library(command: list[str], tmp_path: Path) -> None:
    program = (
        "import sys\nfrom orchestrator.cli import main\n"
        f"sys.argv = ['vitscale', *{command!r}, '--help']\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert end.code == 0\n"
        "heavy = {'torch', 'ray', 'matplotlib', 'pyarrow', 'scipy', 'numpy', 'sqlalchemy'}\n"
        "print(*sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment({}), capture_output=True, text=True, check=True
    )
    assert done.stderr == "\n"


def test_version_is_that_of_the_package(tmp_path: Path) -> None:
    assert re.fullmatch(r"vitscale \d+\.\d+\.\d+\n", vitscale("--version", cwd=tmp_path).out)


# --------------------------------------------------------------------------------------------------------------- plan


def test_plan_stores_nothing_and_imports_neither_torch_nor_ray(tmp_path: Path) -> None:
    study = write_study(tmp_path)
    program = (
        "import sys\nfrom orchestrator.cli import main\n"
        f"sys.argv = ['vitscale', 'plan', {str(study)!r}, '--json']\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert end.code == 0\n"
        "print(*sorted({'torch', 'ray', 'matplotlib'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment({}), capture_output=True, text=True, check=True
    )
    assert done.stderr == "\n"
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.yaml"]


def test_plan_prices_every_run_exactly(tmp_path: Path) -> None:
    planned = vitscale("plan", write_study(tmp_path), "--json", cwd=tmp_path)
    assert planned.code == 0
    bill = json.loads(planned.out)
    assert len(bill["runs"]) == TINY_RUNS == bill["total"]["runs"]
    assert bill["total"]["trainings"] == 5
    first = bill["runs"][0]
    assert {"kind", "model", "epochs", "parameters", "train_flops", "images", "state", "seed"} <= first.keys()
    assert first["kind"] == "train"
    assert first["train_flops"] == int(first["train_flops"]) > 0
    assert bill["total"]["flops"] == sum(run["flops"] for run in bill["runs"]) == bill["total"]["flops_left"]
    assert {run["state"] for run in bill["runs"]} == {"new"}
    assert all(run["upstream"] in {each["key"] for each in bill["runs"]} for run in bill["runs"] if "upstream" in run)


def test_plan_names_every_dropped_cell_with_its_reason(tmp_path: Path) -> None:
    text = TINY.replace("seed: [0, 1]}", "seed: [0, 0, 1], exclude: [{epochs: 10, seed: 1}]}")
    study = write_study(tmp_path, text)
    dropped = json.loads(vitscale("plan", study, "--json", cwd=tmp_path).out)["dropped"]
    assert {"the same run as a cell before it"} < {cell["why"] for cell in dropped}
    table = vitscale("plan", study, cwd=tmp_path).out
    assert all(f"left out: {cell['cell']}: {cell['why']}" in table for cell in dropped)


def test_plan_reads_from_the_store_what_is_done(done: Path) -> None:
    bill = json.loads(vitscale("plan", "tiny.yaml", "--json", cwd=done).out)
    assert {run["state"] for run in bill["runs"]} == {"done"}
    assert bill["total"]["flops_left"] == 0
    assert bill["estimate"]["basis"] == "measured in this store"
    table = vitscale("plan", "tiny.yaml", cwd=done)
    assert "3 of 3 done" in table.out
    assert "nothing is left to pay" in table.out
    assert table.err == ""


def test_plan_of_another_device_estimates_time_for_it(done: Path) -> None:
    bill = json.loads(vitscale("plan", "tiny.yaml", "--device", "h100", "--units", "4", "--json", cwd=done).out)
    assert bill["estimate"]["device"] == "h100"
    assert bill["estimate"]["flops_per_second"] == 4 * 3.0e14
    wrong = vitscale("plan", "tiny.yaml", "--device", "h1000", cwd=done)
    assert wrong.code == 2
    assert "did you mean 'h100'?" in wrong.err


FIGURE_5 = Path(__file__).parent.parent / "studies" / "fig5.yaml"


def test_plan_says_which_models_will_not_fit_and_the_batch_at_which_they_would(tmp_path: Path) -> None:
    planned = vitscale("plan", FIGURE_5, "--device", "h100", cwd=tmp_path)
    assert planned.code == 0
    lines = [line for line in planned.err.splitlines() if line.startswith("will not fit: ")]
    assert len(lines) == len(set(lines)) == 14  # of 15 models, all but ViT-B/32
    (one,) = [line for line in lines if "ViT-H/14" in line]
    said = re.fullmatch(
        r"will not fit: ViT-H/14 needs 1\.\d\d TiB at batch 4,096, the h100 has 80\.0 GiB for each run "
        r"\(1 training\); the largest batch that fits is (\d+): name it as `micro_batch` under `resources`",
        one,
    )
    assert said
    assert 50 < int(said[1]) < 400
    in_parts = write_study(tmp_path, f"{FIGURE_5.read_text()}\nresources: {{micro_batch: 32}}\n")
    assert "will not fit" not in vitscale("plan", in_parts, "--device", "h100", cwd=tmp_path).err
    assert "2 trainings" in next(line for line in lines if "R152x2" in line)


def test_plan_gives_programs_the_memory_of_each_run_and_whether_it_fits(tmp_path: Path) -> None:
    bill = json.loads(vitscale("plan", FIGURE_5, "--device", "h100", "--json", cwd=tmp_path).out)
    assert bill["estimate"]["unit_memory_bytes"] == 80 * 2**30
    assert all(run["fits"] == (run["memory_bytes"] <= 80 * 2**30) for run in bill["runs"])
    assert [run["model"] for run in bill["runs"] if run["fits"]] == ["ViT-B/32"]
    assert bill["total"]["misfits"] == 17
    tiny = json.loads(vitscale("plan", write_study(tmp_path), "--json", cwd=tmp_path).out)
    assert {(run["kind"] == "train", run["fits"]) for run in tiny["runs"]} == {(True, True), (False, None)}
    assert all((run["memory_bytes"] is None) == (run["kind"] != "train") for run in tiny["runs"])
    assert tiny["total"]["misfits"] == 0


def test_submit_warns_of_what_will_not_fit_and_goes_on(tmp_path: Path) -> None:
    vast = ONE_RUN.replace(
        "{width: 8, depth: 1, mlp: 16, heads: 1}", "{width: 65536, depth: 99, mlp: 65536, heads: 64}"
    )
    done = vitscale("submit", write_study(tmp_path, vast), "--yes", "--queue", cwd=tmp_path)
    assert done.code == 0, done.err
    assert re.search(
        r"will not fit: ViT-t/4 needs \S+ TiB at batch \d+, the cpu has .*; not even one image fits", done.err
    )
    assert "queued" in done.err


def test_shapes_are_a_table_for_each_optimizer(tmp_path: Path) -> None:
    few = ("--memory", "16GiB", "--batch", "32", "--depth", "12", "--depth", "48", "--width", "768", "--width", "1664")
    table = vitscale("shapes", *few, cwd=tmp_path).out
    assert re.findall(r"^ada\S+$", table, re.MULTILINE) == ["adam", "adam-bf16", "adafactor"]
    assert len(re.findall(r"^depth +width 768 +width 1,664$", table, re.MULTILINE)) == 3
    assert len(re.findall(r"^   48 +\S+ GiB +-$", table, re.MULTILINE)) == 3
    shapes = json.loads(vitscale("shapes", *few, "--optimizer", "adafactor", "--json", cwd=tmp_path).out)
    assert shapes["device_bytes"] == 16 * 2**30
    assert [(each["depth"], each["width"], each["fits"]) for each in shapes["shapes"]] == [
        (12, 768, True),
        (12, 1664, True),
        (48, 768, True),
        (48, 1664, False),
    ]
    assert all(each["fits"] == (each["largest_batch"] >= 32) for each in shapes["shapes"])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "say how much memory there is: --memory 16GiB, or --device h100"),
        (["--memory", "16"], "'16' is no amount of memory; write it as in 16GiB"),
        (["--memory", "0GiB"], "'0GiB' is no amount of memory"),
        (["--device", "cpu"], "the memory of the device cpu is not known"),
        (["--device", "tpu-v9"], "did you mean 'tpu-v"),
        (["--memory", "16GiB", "--width", "100"], "no multiple of a head's 64; the nearest that are: 64, 128"),
        (["--memory", "16GiB", "--patch", "15"], "patches of 15 pixels do not divide the image of 224 pixels"),
        (["--memory", "16GiB", "--optimizer", "lion"], "valid: adam, adam-bf16, adafactor"),
        (["--memory", "16GiB", "--precision", "fp8"], "'fp8' is no precision; valid: fp32, bf16"),
    ],
)
def test_shapes_answers_a_wrong_argument_with_the_valid_ones(arguments: list[str], said: str, tmp_path: Path) -> None:
    wrong = vitscale("shapes", *arguments, cwd=tmp_path)
    assert wrong.code == 2
    assert said in wrong.err


# ------------------------------------------------------------------------------------------------ submitting, resuming


def test_a_second_submit_trains_nothing(done: Path) -> None:
    attempts = [(run.key, run.fence, run.finished_at) for run in runs_of(done)]
    again = vitscale("submit", "tiny.yaml", cwd=done)
    assert again.code == 0
    assert "nothing was left to run" in again.err
    assert [(run.key, run.fence, run.finished_at) for run in runs_of(done)] == attempts


def test_a_study_of_a_data_set_known_by_its_sizes_has_a_price_and_is_not_stored(tmp_path: Path) -> None:
    fig5 = Path(__file__).parent.parent / "studies" / "fig5.yaml"
    assert vitscale("plan", str(fig5), cwd=tmp_path).code == 0
    done = vitscale("submit", str(fig5), "--yes", cwd=tmp_path)
    assert done.code == 2
    assert "jft-300m is known by its sizes alone: name your copy" in done.err
    assert list(tmp_path.iterdir()) == []


def test_submit_above_the_limit_wants_a_terminal_or_yes(tmp_path: Path) -> None:
    study = write_study(tmp_path)
    refused = vitscale("submit", study, "--ask-above", "1", cwd=tmp_path)
    assert refused.code == 2
    assert "--yes" in refused.err
    assert not (tmp_path / ".vitscale").exists()
    accepted = vitscale("submit", study, "--ask-above", "1", "--yes", "--queue", cwd=tmp_path)
    assert accepted.code == 0


def test_submit_asks_on_a_terminal_and_no_means_no(tmp_path: Path) -> None:
    study = write_study(tmp_path)
    no = vitscale_on_terminal("submit", study, "--ask-above", "1", "--queue", cwd=tmp_path, typed="n\n")
    assert "Spend it? [y/N]" in no.out
    assert no.code == 1
    assert not (tmp_path / ".vitscale").exists()
    yes = vitscale_on_terminal("submit", study, "--ask-above", "1", "--queue", cwd=tmp_path, typed="y\n")
    assert yes.code == 0
    assert len(runs_of(tmp_path)) == TINY_RUNS


def test_a_queued_study_is_cancelled_resumed_and_shown_live_on_a_terminal(tmp_path: Path) -> None:
    queued = vitscale("submit", write_study(tmp_path), "--queue", cwd=tmp_path)
    assert (queued.code, queued.out) == (0, "")
    assert "vitscale resume tiny" in queued.err
    assert {run.state for run in runs_of(tmp_path)} == {"ready", "waiting"}
    one = next(run.key for run in runs_of(tmp_path) if run.kind == "train")
    assert vitscale("cancel", one[:12], cwd=tmp_path).code == 0
    cancelled = vitscale("cancel", "tiny", cwd=tmp_path)
    assert cancelled.code == 0
    assert "runs cancelled" in cancelled.err
    assert {run.state for run in runs_of(tmp_path)} <= {"cancelled", "blocked"}
    resumed = vitscale_on_terminal("resume", "tiny", cwd=tmp_path)
    assert resumed.code == 0, resumed.out
    assert "\x1b[" in resumed.out
    assert re.search(r"\d+\.\d % of \d", resumed.out)
    assert {run.state for run in runs_of(tmp_path)} == {"done"}


def test_a_study_with_a_failed_run_ends_with_5_and_the_cause(done: Path) -> None:
    again = vitscale("submit", "diverging.yaml", cwd=done)
    assert again.code == 5
    assert "1 failed" in again.err
    [failed] = [run for run in runs_of(done, "diverging") if run.state == "failed"]
    assert failed.key[:10] in again.err
    assert failed.cause is not None
    assert failed.cause in again.err
    assert "vitscale resume --failed" in again.err


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
    followed = vitscale("logs", key[:8], "--follow", cwd=done)
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
    vit = next(run for run in runs_of(done) if run.kind == "train" and run.family == "ViT")
    file = tmp_path / "model.safetensors"
    wrote = vitscale("weights", "export", vit.key[:12], "-o", file, "--json", cwd=done)
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
    vit = next(run for run in runs_of(done) if run.kind == "train" and run.family == "ViT")
    file = tmp_path / "model.safetensors"
    file.write_text("mine")
    refused = vitscale("weights", "export", vit.key, "-o", file, cwd=done)
    assert (refused.code, file.read_text()) == (1, "mine")
    assert "--force" in refused.err
    forced = vitscale("weights", "export", vit.key, "-o", file, "--force", "--no-head", cwd=done)
    assert forced.code == 0, forced.err
    assert "none: the classifier was left out" in vitscale("weights", "show", file, cwd=done).out


def test_weights_that_cannot_be_written_or_shown_get_one_sentence(done: Path, copy: Path, tmp_path: Path) -> None:
    runs = runs_of(done)
    resnet = next(run for run in runs if run.kind == "train" and run.family == "ResNet")
    evaluation = next(run for run in runs if run.kind == "evaluate")
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


# ---------------------------------------------------------------------------------------------------- streams, colour


def test_a_terminal_gets_colour_and_no_color_or_a_pipe_gets_none(done: Path, key: str) -> None:
    assert "\x1b[" in vitscale_on_terminal("show", key[:8], cwd=done).out
    assert "\x1b" not in vitscale_on_terminal("show", key[:8], cwd=done, NO_COLOR="1").out
    assert "\x1b" not in vitscale_on_terminal("status", "--watch", "tiny", cwd=done, NO_COLOR="1").out
    for command in (["status"], ["show", key[:8]], ["frontier", "tiny"], ["plan", "tiny.yaml"]):
        piped = vitscale(*command, cwd=done)
        assert "\x1b" not in piped.out + piped.err
        assert all(line == line.rstrip() for line in piped.out.splitlines())


def test_a_reader_that_has_seen_enough_is_no_error(done: Path) -> None:
    process = subprocess.Popen(
        [VITSCALE, "export", "tiny"], cwd=done, env=environment({}), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    said = process.stderr.read()
    process.stderr.close()
    process.wait()
    assert said == b""


# --------------------------------------------------------------------------------------------- where the store is


def test_a_folder_above_is_found_like_that_of_git(done: Path) -> None:
    below = done / "deep" / "below"
    below.mkdir(parents=True, exist_ok=True)
    status = vitscale("status", "tiny", cwd=below)
    assert status.code == 0
    assert not (below / ".vitscale").exists()


def test_flags_come_before_variables_and_these_before_the_folder(done: Path, tmp_path: Path, key: str) -> None:
    here = default_url(done)
    absent = f"sqlite:///{tmp_path / 'absent.db'}"
    assert vitscale("status", cwd=done, VITSCALE_STORE=absent).code == 3
    assert vitscale("status", "--store", here, cwd=done, VITSCALE_STORE=absent).code == 0
    assert vitscale("status", cwd=tmp_path, VITSCALE_STORE=here).code == 0
    assert vitscale("status", cwd=tmp_path, VITSCALE_FOLDER=str(done / ".vitscale")).code == 0
    assert vitscale("status", "--folder", tmp_path, cwd=done, VITSCALE_FOLDER=str(done / ".vitscale")).code == 3
    elsewhere = vitscale("show", key, "--json", "--folder", "/files", "--store", here, cwd=tmp_path)
    assert json.loads(elsewhere.out)["checkpoint"].startswith("/files/checkpoints/")


def test_a_device_that_is_none_is_answered_with_those_that_are(tmp_path: Path) -> None:
    done = vitscale("status", cwd=tmp_path, VITSCALE_DEVICE="tpu")
    assert (done.code, done.out) == (2, "")
    assert "VITSCALE_DEVICE is 'tpu'; valid: auto, cpu, cuda, xla" in done.err


def test_own_packages_of_our_names_a_relative_store_and_a_long_tmpdir_do_no_harm(tmp_path: Path) -> None:
    """Ray would let workers import from the working folder first, work in another one, and name sockets too long."""
    long = tmp_path / ("temporary" * 8)
    long.mkdir()
    for name in ("db", "studies", "workers", "orchestrator"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise RuntimeError('not ours')\n")
    (tmp_path / "tiny.yaml").write_text(TINY)
    ended = vitscale("submit", "tiny.yaml", "--store", "sqlite:///own.db", cwd=tmp_path, TMPDIR=str(long))
    assert ended.code == 0, ended.err
    assert (tmp_path / "own.db").exists()
    assert f"{TINY_RUNS} runs done" in ended.err


# ------------------------------------------------------------------------------------------------------ users' mistakes


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["frontier", "tyni"], 3, "did you mean 'tiny'?"),
        (["status", "nothing"], 3, "no study 'nothing'"),
        (["show", "zzzz"], 3, "no run whose key begins with 'zzzz'"),
        (["show", ""], 3, "no run"),
        (["cancel", "tyni"], 3, "'tyni'"),
        (["plan", "absent.yaml"], 2, "absent.yaml"),
        (["submit", "absent.yaml"], 2, "absent.yaml"),
        (["plan", "."], 2, "directory"),
        (["status", "--store", "mysql://me:hunter2@host/db"], 2, "not mysql"),
        (["status", "--store", "postgresql://me:hunter2@host:port/db"], 2, "cannot be read"),
        (["status", "--store", "hunter2"], 2, "cannot be read"),
        (["status", "--store", "postgresql://me:hunter2@127.0.0.1:1/db"], 6, "does not answer"),
        (["status", "--store", "sqlite://"], 2, "in memory"),
        (["submit", "tiny.yaml", "--workers", "0"], 2, "--workers"),
        (["dance"], 2, "dance"),
    ],
)
def test_a_mistake_gets_one_sentence_its_exit_code_and_no_traceback(
    arguments: list[str], code: int, said: str, done: Path
) -> None:
    asked = vitscale(*arguments, cwd=done)
    assert asked.code == code, asked.err
    assert said in asked.err
    assert "Traceback" not in asked.err
    assert "hunter2" not in asked.err
    assert asked.out == ""


def test_a_fault_in_a_study_is_named_with_its_place_and_nothing_is_stored(tmp_path: Path) -> None:
    study = write_study(tmp_path, TINY.replace("epochs:", "epoch:"))
    for command in ("plan", "submit"):
        asked = vitscale(command, study.name, cwd=tmp_path)
        assert asked.code == 2
        assert asked.err == "error: tiny.yaml:8:54: unknown key 'epoch'; did you mean 'epochs'?\n"
    assert not (tmp_path / ".vitscale").exists()


def test_no_store_is_not_found_and_says_how_to_make_one(tmp_path: Path) -> None:
    for command in (["status"], ["frontier", "tiny"], ["resume"], ["export", "tiny"], ["logs", "ab"]):
        asked = vitscale(*command, cwd=tmp_path)
        assert asked.code == 3
        assert "vitscale submit" in asked.err
    assert list(tmp_path.iterdir()) == []


def test_a_key_that_several_runs_begin_with_wants_more_digits(done: Path) -> None:
    firsts = [run.key[0] for run in runs_of(done)]
    shared = next(digit for digit in firsts if firsts.count(digit) > 1)
    asked = vitscale("show", shared, cwd=done)
    assert asked.code == 2
    assert "more digits" in asked.err


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    study = write_study(tmp_path)
    asked = vitscale("submit", study, "--queue", "--folder", study / "below", cwd=tmp_path)
    assert asked.code == 6
    assert "cannot be made" in asked.err
    assert "Traceback" not in asked.err


def test_a_store_of_a_newer_version_is_refused(copy: Path) -> None:
    with sqlite3.connect(copy / ".vitscale" / "store.db") as connection:
        connection.execute(f"UPDATE {VERSION_TABLE} SET version_num = '9999'")
    connection.close()
    for command in (["status"], ["plan", "tiny.yaml"], ["submit", "tiny.yaml"]):
        asked = vitscale(*command, cwd=copy)
        assert asked.code == 1
        assert "newer vitscale" in asked.err
        assert "Traceback" not in asked.err


def test_a_file_that_is_no_database_is_said(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no database\n" * 100)
    asked = vitscale("status", "--store", f"sqlite:///{tmp_path / 'notes.txt'}", cwd=tmp_path)
    assert asked.code == 2
    assert "is no SQLite database" in asked.err


# --------------------------------------------------------------------------------------------------------- PostgreSQL


def test_a_study_runs_on_postgresql(postgres_url: str, tmp_path: Path) -> None:
    submitted = vitscale("submit", write_study(tmp_path, ONE_RUN + EVALUATE), cwd=tmp_path, VITSCALE_STORE=postgres_url)
    assert submitted.code == 0, submitted.err
    assert not (tmp_path / ".vitscale" / "store.db").exists()
    status = json.loads(vitscale("status", "--json", "--store", postgres_url, cwd=tmp_path).out)
    assert status["studies"][0]["runs"]["done"] == 2
    frontier = json.loads(vitscale("frontier", "tiny", "--json", "--store", postgres_url, cwd=tmp_path).out)
    assert len(frontier["points"]) == 1
