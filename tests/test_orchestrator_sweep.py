"""What `vitscale sweep` shows of searches, of sweeps that a study spells out and of suites, without any training."""

import json
import re
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

from db import answers, ledger, searches, wishes
from db.claiming import Claim
from db.searches import HeldSearch
from db.store import Connection, Store
from orchestrator import screen_sweep, sweep_reports
from orchestrator.cli import app
from orchestrator.screen_sweep import edge_in_words, state_in_words
from orchestrator.sweep_reports import Report
from studies.definitions import RUN, Evaluate, FineTune
from studies.grid import load_study
from studies.planned import PlannedRun
from studies.searches import Trial, at_edge
from studies.vtab import LAPTOP
from tests import builders
from tests.builders import evaluation, search, training
from tests.command_line import vitscale, write_study
from tests.searched import best_at, hand_in, work

LRS = (0.001, 0.003, 0.01)
LARGEST, SMALLEST = "best at the largest lr_peak tried", "best at the smallest lr_peak tried"
MAY_BE = "a larger one may be better"
EDGE = "the best of the grid was at its edge"
ACCURACIES = {0.001: 0.25, 0.003: 0.75, 0.01: 0.5}


@pytest.fixture
def sqlite_store(sqlite_url: str) -> Iterator[Store]:
    opened = Store.open(sqlite_url)
    yield opened
    opened.dispose()


def submitted(store: Store, *, is_done: bool = True, **fields: Any) -> HeldSearch:
    """A study with one search of three learning rates; its pre-training is done, but where it is said."""
    with store.begin() as c:
        first = training()
        builders.submit(c, [first], searches=[search(first, fields.pop("lrs", LRS), **fields)])
        if is_done:
            builders.commit(c, builders.claim(c))
        (held,) = searches.undecided(c, None)
    return held


def add(store: Store, held: HeldSearch, *points: Any) -> None:
    with store.begin() as c:
        searches.add_runs(c, held.id, [run for params in points for run in held.planned.trial_runs(params)])


def decide(store: Store, held: HeldSearch, lr: float, *, beyond: float | None = None) -> None:
    """Choose a learning rate, as `orchestrator/searching.py` does."""
    params = {"lr_peak": lr}
    tried = [*LRS, *([] if beyond is None else [beyond])]
    with store.begin() as c:
        searches.decide(
            c,
            held.id,
            chosen=params,
            development=0.75,
            edge=at_edge(held.planned.search, [Trial({"lr_peak": each}, 0.5) for each in tried], Trial(params, 0.75)),
            extended=beyond is not None,
            trials=len(tried),
            finals=held.planned.final_runs(params),
        )


def reported(store: Store, name: str = "tiny") -> Report:
    with store.read() as c:
        study = answers.study_named(c, name)
    assert study is not None
    return sweep_reports.report(store, study)


def words(store: Store) -> tuple[str, list[str]]:
    """What is said of the only search: its state, then its edge."""
    (sweep,) = reported(store).searches
    return state_in_words(sweep, "tiny"), edge_in_words(sweep)


def printed(store: Store, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Lines with single blanks: how wide columns are is not the matter here."""
    screen_sweep.print_sweeps(reported(store))
    return [re.sub(r" +", " ", line.strip()) for line in capsys.readouterr().out.splitlines()]


# -------------------------------------------------------------------------------------------------------- the choice


def test_a_search_is_printed_with_its_grid_its_choice_and_what_that_was_measured_at(
    sqlite_store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    held = submitted(sqlite_store)
    add(sqlite_store, held, *({"lr_peak": lr} for lr in LRS))
    work(sqlite_store, lambda run: ACCURACIES[run.recipe.lr_peak])
    decide(sqlite_store, held, 0.003)
    with sqlite_store.begin() as c:
        for accuracy in (0.5, 0.6, 0.7):
            builders.commit(c, builders.claim(c))
            builders.commit(c, builders.claim(c), accuracy=accuracy)
    lines = printed(sqlite_store, capsys)
    runs = [held.planned.trial_runs({"lr_peak": lr})[0].key[:10] for lr in LRS]
    assert lines == [
        "searched: ViT-8 @ digits",
        f"network {training().key[:10]}, 20 epochs of 100 images of digits, seed 0",
        "search grid of 3 points, by the accuracy on validation",
        "",
        "lr_peak development state run",
        f"0.001 25.00 % done {runs[0]}",
        f"0.003 75.00 % done {runs[1]} chosen",
        f"0.01 50.00 % done {runs[2]}",
        "",
        "chosen: lr_peak 0.003, at a development accuracy of 75.00 %",
        "",
        "data set split pixels seeds accuracy",
        "digits test 8 3 60.00 +- 10.00 %",
    ]


def test_json_has_every_digit_and_the_runs_of_each_point(sqlite_store: Store) -> None:
    held = submitted(sqlite_store, tasks=2)
    add(sqlite_store, held, *({"lr_peak": lr} for lr in LRS))
    work(sqlite_store, best_at(0.003))
    decide(sqlite_store, held, 0.003)
    work(sqlite_store, best_at(0.003))
    found = json.loads(json.dumps(sweep_reports.as_json(reported(sqlite_store)), allow_nan=False))
    (search_,) = found["searches"]
    assert (search_["key"], search_["transfer"], search_["model"]) == (held.key, "searched", "ViT-8")
    assert search_["pretraining"] == training().key
    assert [point["params"] for point in search_["tried"]] == [{"lr_peak": lr} for lr in LRS]
    first = held.planned.trial_runs({"lr_peak": 0.001})
    run = first[0].run
    assert isinstance(run, FineTune)
    assert search_["tried"][0]["values"] == [best_at(0.003)(run)] * 2
    assert search_["tried"][0]["runs"] == [each.key for each in first]
    assert (search_["chosen"], search_["development_accuracy"], search_["edge"]) == ({"lr_peak": 0.003}, 0.75, {})
    assert [each["values"] for each in search_["measured"]] == [{"0": 0.5, "1": 0.5, "2": 0.5}] * 2
    assert [(each["mean"], each["sd"], each["seeds"]) for each in search_["measured"]] == [(0.5, 0.0, 3)] * 2
    assert search_["final_runs"] == {"done": 12}


def test_failed_and_pruned_trials_say_why(sqlite_store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    held = submitted(sqlite_store, pruner="median", every=10)
    add(sqlite_store, held, *({"lr_peak": lr} for lr in LRS))
    with sqlite_store.begin() as c:
        builders.fail(c, builders.claim(c), outcome="not_finite", error="the loss is nan", step=7)
        searches.prune(c, [held.planned.trial_runs({"lr_peak": LRS[1]})[0].key], "it was behind at step 10")
    lines = printed(sqlite_store, capsys)
    shown = [line.split(" ", 1)[1] for line in lines if re.match(r"0\.0", line)]
    keys = [held.planned.trial_runs({"lr_peak": lr})[0].key[:10] for lr in LRS]
    assert shown == [
        f"failed {keys[0]} not_finite at step 7: the loss is nan",
        f"pruned {keys[1]} it was behind at step 10",
        f"ready {keys[2]}",
    ]
    assert "undecided: 2 of 3 trials over (1 failed, 1 pruned, 1 ready)" in lines
    assert any(line.endswith("; median pruning every 10 steps") for line in lines)


# ---------------------------------------------------------------------------------------------------------- the edge


@pytest.mark.parametrize(
    ("lr", "beyond", "fields", "said"),
    [
        (0.003, None, {}, []),
        (0.01, None, {"extend": False}, [f"{LARGEST}: 0.01; {MAY_BE}, and `extend: false` keeps it from being tried"]),
        (0.001, None, {"sampler": "random", "trials": 3}, [f"{SMALLEST}: 0.001; a smaller one may be better"]),
        (0.03, 0.03, {}, [f"{LARGEST}: 0.03, which was added beyond the grid; {MAY_BE} still"]),
        (0.01, 0.03, {}, [f"{EDGE}: lr_peak 0.03 was added beyond it, and is no better"]),
    ],
)
def test_a_choice_at_the_edge_of_what_was_tried_is_said_in_words(
    sqlite_store: Store, lr: float, beyond: float | None, fields: dict[str, Any], said: list[str]
) -> None:
    held = submitted(sqlite_store, **fields)
    add(sqlite_store, held, *({"lr_peak": each} for each in [*LRS, *([beyond] if beyond else [])]))
    work(sqlite_store, best_at(lr))
    decide(sqlite_store, held, lr, beyond=beyond)
    assert words(sqlite_store)[1] == said


def test_a_point_beyond_the_grid_is_said_while_it_is_tried_and_when_it_fails(sqlite_store: Store) -> None:
    held = submitted(sqlite_store)
    add(sqlite_store, held, *({"lr_peak": lr} for lr in LRS))
    work(sqlite_store, best_at(0.1))
    add(sqlite_store, held, {"lr_peak": 0.0333333})
    begun = f"{EDGE}: lr_peak 0.0333333 was added beyond it, and"
    assert words(sqlite_store) == ("undecided: 3 of 4 trials over (1 ready)", [f"{begun} is not measured yet"])
    with sqlite_store.begin() as c:
        builders.fail(c, builders.claim(c), outcome="not_finite", error="the loss is nan")
    assert words(sqlite_store) == ("undecided: 4 of 4 trials over (1 failed)", [f"{begun} failed"])


# --------------------------------------------------------------------------------------------------------- the state


def test_a_search_says_what_it_waits_for(sqlite_store: Store) -> None:
    held = submitted(sqlite_store, is_done=False)
    key = training().key[:10]
    assert words(sqlite_store)[0] == f"not begun: it waits for its pre-training {key}, which is ready"
    with sqlite_store.begin() as c:
        wishes.cancel(c, run_ids=[builders.claim(c).run_id])
        assert answers.known(c, [training().key]) == {training().key: "running"}
    assert words(sqlite_store)[0].endswith("which is running")
    assert held.state == "open"


def test_a_search_whose_pre_training_failed_says_how_to_try_it_again(sqlite_store: Store) -> None:
    submitted(sqlite_store, is_done=False)
    with sqlite_store.begin() as c:
        builders.fail(c, builders.claim(c), outcome="user_error", error="no such patch")
    assert words(sqlite_store)[0] == (
        f"not begun: its pre-training {training().key[:10]} is failed (user_error at step 0: no such patch); "
        "try again with: vitscale resume tiny --failed"
    )


def test_a_search_counts_the_trials_that_are_over(sqlite_store: Store) -> None:
    held = submitted(sqlite_store)
    assert words(sqlite_store)[0] == "undecided: 0 of 3 trials over"
    add(sqlite_store, held, *({"lr_peak": lr} for lr in LRS))
    work(sqlite_store, best_at(0.1), most=1)
    with sqlite_store.begin() as c:
        builders.claim(c)
    assert words(sqlite_store)[0] == "undecided: 1 of 3 trials over (1 running, 1 ready)"


def test_cancelled_and_failed_searches_say_how_to_go_on(sqlite_store: Store) -> None:
    held = submitted(sqlite_store)
    with sqlite_store.begin() as c:
        wishes.cancel(c, study_id=held.study_id)
    assert words(sqlite_store)[0] == "cancelled; go on with: vitscale resume tiny"
    with sqlite_store.begin() as c:
        wishes.requeue(c, study_id=held.study_id)
        searches.fail(c, held.id, "no trial came to an end: the loss is nan")
    assert words(sqlite_store)[0] == (
        "failed: no trial came to an end: the loss is nan; try again with: vitscale resume tiny --failed"
    )


def test_a_choice_that_is_not_measured_yet_counts_its_runs(sqlite_store: Store) -> None:
    held = submitted(sqlite_store)
    decide(sqlite_store, held, 0.003)
    work(sqlite_store, best_at(0.1), most=2)
    assert words(sqlite_store)[0] == (
        "chosen: lr_peak 0.003, at a development accuracy of 75.00 %; its 6 runs: 2 done, 2 ready, 2 waiting"
    )


# ------------------------------------------------------------------------------------------ what a study spells out


def test_a_sweep_of_a_block_shows_its_candidates_and_what_the_best_has_on_other_splits(
    sqlite_store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    cells = [training(lr_peak=lr, sweep="5" * 64, seed=seed) for lr in LRS for seed in (0, 1)]
    accuracies = {cell.key: ACCURACIES[cell.training.recipe.lr_peak] + 0.125 * cell.training.seed for cell in cells}
    with sqlite_store.begin() as c:
        builders.submit(c, [run for cell in cells for run in (cell, evaluation(cell, "validation"), evaluation(cell))])
        while claimed := builders.try_claim(c):
            run = RUN.validate_json(claimed.definition)
            if isinstance(run, Evaluate):
                builders.commit(c, claimed, accuracies[run.upstream], split=run.data.split)
            else:
                builders.commit(c, claimed)
    (sweep,) = reported(sqlite_store).spelled
    assert [each.params["lr_peak"] for each in sweep.candidates] == list(LRS)
    assert (sweep.chosen.params, sweep.chosen.value, sweep.chosen.seeds) == ({"lr_peak": 0.003}, 0.8125, 2)
    lines = printed(sqlite_store, capsys)
    assert lines[0] == "sweep: ViT-8 @ digits, by the accuracy on validation at 8 px"
    assert lines[3].startswith("0.003 81.25 % 8.84 % 2 ")
    assert lines[3].endswith(" chosen")
    assert lines[-1] == "digits test 8 2 81.25 +- 8.84 %"
    assert not any(line.startswith("best at") for line in lines)


# ------------------------------------------------------------------------------------------------------------- suites

SUITE = """\
name: suite
title: A suite
source: tests
shows: nothing
shapes: {ViT: {t: {width: 8, depth: 1, mlp: 8, heads: 1}}}
grids: [{model: ViT-t/8, data: shapes, subset: 64, steps: 2, recipe: {base: small, warmup_steps: 1}}]
transfers: [{data: vtab-laptop, choose: CHOOSE, search: {lr_peak: [0.01, 0.03]}}]
"""


def suite_study(store: Store, folder: Path, choose: str) -> tuple[list[HeldSearch], PlannedRun]:
    """The suite's searches with a choice each, and none of the runs that measure it done."""
    study = load_study(write_study(folder, SUITE.replace("CHOOSE", choose)))
    with store.begin() as c:
        builders.submit(c, study.runs, name="suite", searches=study.searches)
        builders.commit(c, builders.claim(c))
        held = searches.undecided(c, None)
        for each in held:
            searches.decide(
                c,
                each.id,
                chosen={"lr_peak": 0.01},
                development=0.5,
                edge={},
                extended=False,
                trials=2,
                finals=each.planned.final_runs({"lr_peak": 0.01}),
            )
    return held, study.runs[0]


@pytest.mark.parametrize("choose", ["together", "each"])
def test_a_suite_has_the_means_of_its_groups_over_tasks_and_then_over_seeds(
    sqlite_store: Store, tmp_path: Path, choose: str, capsys: pytest.CaptureFixture[str]
) -> None:
    held, pretraining = suite_study(sqlite_store, tmp_path, choose)
    assert len(held) == (1 if choose == "together" else 6)
    accuracies: dict[tuple[str, int], float] = {}
    with sqlite_store.begin() as c:
        while claimed := builders.try_claim(c):
            run = RUN.validate_json(claimed.definition)
            values = []
            if isinstance(run, Evaluate):
                seed = answers.run_named(c, run.upstream)[0].seed
                accuracy = 0.1 * (1 + LAPTOP.tasks.index(run.data.name)) + 0.01 * seed
                accuracies[run.data.name, seed] = accuracy
                values = [builders.Value("accuracy", accuracy, run.data.name, run.data.split, run.image_size)]
            commit(c, claimed, values)
    (score,) = reported(sqlite_store, "suite").suites
    assert (score.suite, score.model, score.pretraining) == ("vtab-laptop", "ViT-t/8", pretraining.key)
    assert (score.split, score.missing) == ("test2000", ())
    assert [(each.group, each.tasks) for each in score.groups] == [
        ("plain", 2),
        ("usual", 2),
        ("messy", 2),
        ("mean", 6),
    ]
    for each in score.groups:
        names = LAPTOP.groups.get(each.group, LAPTOP.tasks)
        by_seed = [statistics.fmean(accuracies[name, seed] for name in names) for seed in (0, 1, 2)]
        assert list(each.values.values()) == pytest.approx(by_seed)
        assert each.mean == pytest.approx(statistics.fmean(by_seed))
        assert each.sd == pytest.approx(statistics.stdev(by_seed))
    screen_sweep.print_sweeps(reported(sqlite_store, "suite"))
    assert re.search(r"^mean +6 +36\.00 % +1\.00 % +3$", capsys.readouterr().out, re.MULTILINE)


def commit(connection: Connection, claimed: Claim, values: list[builders.Value]) -> None:
    ledger.commit(
        connection,
        run_id=claimed.run_id,
        fence=claimed.fence,
        values=values,
        checkpoint=f"{claimed.key[:12]}/final" if claimed.steps else None,
        step=claimed.steps,
    )


def test_a_suite_without_all_of_its_tasks_has_no_score_and_names_those_that_are_missing(
    sqlite_store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    suite_study(sqlite_store, tmp_path, "together")
    with sqlite_store.begin() as c:
        hand_in(c, builders.claim(c), best_at(0.01))
    (score,) = reported(sqlite_store, "suite").suites
    assert score.missing == LAPTOP.tasks
    assert {each.mean for each in score.groups} == {None}
    screen_sweep.print_sweeps(reported(sqlite_store, "suite"))
    assert "no score yet: 6 of 6 tasks are not measured: shapes-plain-1, " in capsys.readouterr().out


# ------------------------------------------------------------------------------------------------------- the command


def test_the_command_reads_the_store_alone_and_loads_neither_optuna_nor_torch(
    sqlite_store: Store, tmp_path: Path
) -> None:
    held = submitted(sqlite_store)
    add(sqlite_store, held, *({"lr_peak": lr} for lr in LRS))
    shown = vitscale("sweep", "tiny", cwd=tmp_path)
    assert (shown.code, shown.err) == (0, "")
    assert "searched: ViT-8 @ digits" in shown.out
    asked = vitscale("sweep", "tiny", "--json", cwd=tmp_path, PYTHONPROFILEIMPORTTIME="1")
    assert json.loads(asked.out)["searches"][0]["state"] == "open"
    loaded = {line.rsplit("|", 1)[1].strip() for line in asked.err.splitlines() if line.startswith("import time:")}
    assert "orchestrator.sweep_reports" in loaded
    assert not {"optuna", "torch", "ray"} & loaded


def test_a_study_without_sweeps_is_one_sentence_and_exit_code_3(sqlite_store: Store, tmp_path: Path) -> None:
    with sqlite_store.begin() as c:
        builders.submit(c, [training()])
    asked = vitscale("sweep", "tiny", cwd=tmp_path)
    assert (asked.code, asked.out) == (3, "")
    assert asked.err.startswith("error: tiny has no transfer with 'search', and no block with 'sweep'")
    assert asked.err.count("\n") == 1


def test_the_example_of_the_help_parses() -> None:
    group: Any = typer.main.get_command(app)
    command = group.commands["sweep"]
    example = re.search(r"Example:  vitscale sweep (.+)", command.help)
    assert example is not None
    assert command.make_context("sweep", example[1].split()).params["study"] == "first-transfer"


def test_the_study_of_the_transfer_page_is_one_of_two_searches(tmp_path: Path) -> None:
    page = (Path(__file__).parent.parent / "docs" / "transfer.md").read_text()
    study = load_study(write_study(tmp_path, page.split("```yaml")[1].split("```")[0]))
    assert [each.transfer for each in study.searches] == ["tuned", "probe"]
    assert f"{len(study.runs) + sum(each.runs for each in study.searches) + 1} runs" in page  # one beyond an edge


def test_values_are_shown_as_a_person_wrote_them() -> None:
    shown = {0.03: "0.03", 2500: "2,500", "inception": "inception", True: "true", 1e-5: "1e-05"}
    assert {value: screen_sweep.shown_value(value) for value in shown} == shown
    assert screen_sweep.shown_value({"kind": "sgd"}) == '{"kind": "sgd"}'
