"""Commands that plan and run small studies: prices, what a submit stores and asks, and how it ends."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import update

from db.store import Store, default_url
from db.tables import AttemptRow
from tests import command_line
from tests.command_in_process import vitscale
from tests.command_line import TINY, TINY_RUNS, environment, vitscale_on_terminal, write_study
from tests.done_studies import DIVERGING, EVALUATE, ONE_RUN, runs_of

FIGURE_5 = Path(__file__).parent.parent / "studies" / "fig5.yaml"


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
    table = vitscale("plan", "tiny.yaml", cwd=done)
    assert "3 of 3 done" in table.out
    assert "nothing is left to pay" in table.out
    assert table.err == ""


@pytest.mark.parametrize(("seconds", "basis"), [(2.0, "measured in this store"), (0.5, "assumed: small networks")])
def test_plan_goes_by_the_speed_of_trainings_that_took_a_second(copy: Path, seconds: float, basis: str) -> None:
    store = Store.open(default_url(copy))
    with store.begin() as connection:  # how long they took depends on the machine
        connection.execute(update(AttemptRow).values(started_at=AttemptRow.ended_at - seconds))
    store.dispose()
    bill = json.loads(vitscale("plan", "tiny.yaml", "--json", cwd=copy).out)
    assert bill["estimate"]["basis"].startswith(basis)


def test_plan_of_another_device_estimates_time_for_it(done: Path) -> None:
    bill = json.loads(vitscale("plan", "tiny.yaml", "--device", "h100", "--units", "4", "--json", cwd=done).out)
    assert bill["estimate"]["device"] == "h100"
    assert bill["estimate"]["flops_per_second"] == 4 * 3.0e14
    wrong = vitscale("plan", "tiny.yaml", "--device", "h1000", cwd=done)
    assert wrong.code == 2
    assert "did you mean 'h100'?" in wrong.err


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


# ----------------------------------------------------------------------------------------------- submitting, resuming


@pytest.mark.slow
def test_a_submit_works_until_all_is_done_and_ends_with_5_where_something_failed(tmp_path: Path) -> None:
    finished = command_line.vitscale("submit", write_study(tmp_path), cwd=tmp_path)
    assert finished.code == 0, finished.err
    assert f"{TINY_RUNS} runs done, 0 failed" in finished.err
    assert finished.out == ""
    failed = command_line.vitscale("submit", write_study(tmp_path, DIVERGING, "diverging.yaml"), cwd=tmp_path)
    assert failed.code == 5, failed.err


def test_a_second_submit_trains_nothing(done: Path) -> None:
    attempts = [(run.key, run.fence, run.finished_at) for run in runs_of(done)]
    again = command_line.vitscale("submit", "tiny.yaml", cwd=done)
    assert again.code == 0
    assert "nothing was left to run" in again.err
    assert [(run.key, run.fence, run.finished_at) for run in runs_of(done)] == attempts


def test_a_study_of_a_data_set_known_by_its_sizes_has_a_price_and_is_not_stored(tmp_path: Path) -> None:
    assert vitscale("plan", FIGURE_5, cwd=tmp_path).code == 0
    done = vitscale("submit", FIGURE_5, "--yes", cwd=tmp_path)
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
    study = write_study(tmp_path, ONE_RUN.replace("seed: 0", "seed: [0, 1]") + EVALUATE)
    queued = vitscale("submit", study, "--queue", cwd=tmp_path)
    assert (queued.code, queued.out) == (0, "")
    assert "vitscale resume tiny" in queued.err
    assert {run.state for run in runs_of(tmp_path)} == {"ready", "waiting"}
    one = next(run.key for run in runs_of(tmp_path) if run.kind == "train")
    assert vitscale("cancel", one[:12], cwd=tmp_path).code == 0
    cancelled = command_line.vitscale("cancel", "tiny", cwd=tmp_path)
    assert cancelled.code == 0
    assert "runs cancelled" in cancelled.err
    assert {run.state for run in runs_of(tmp_path)} <= {"cancelled", "blocked"}
    resumed = vitscale_on_terminal("resume", "tiny", cwd=tmp_path)
    assert resumed.code == 0, resumed.out
    assert "\x1b[" in resumed.out
    assert re.search(r"\d+\.\d % of \d", resumed.out)
    assert {run.state for run in runs_of(tmp_path)} == {"done"}


def test_a_study_with_a_failed_run_ends_with_5_and_the_cause(done: Path) -> None:
    again = command_line.vitscale("submit", "diverging.yaml", cwd=done)
    assert again.code == 5
    assert "1 failed" in again.err
    [failed] = [run for run in runs_of(done, "diverging") if run.state == "failed"]
    assert failed.key[:10] in again.err
    assert failed.cause is not None
    assert failed.cause in again.err
    assert "vitscale resume --failed" in again.err
