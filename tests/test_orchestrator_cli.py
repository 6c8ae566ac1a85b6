"""The installed command: its help, its streams, where it looks, and what it says of mistakes."""

import json
import re
import resource
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer.main

from db.store import default_url
from db.tables import VERSION_TABLE
from orchestrator.cli import app
from tests import command_line
from tests.command_in_process import vitscale
from tests.command_line import TINY, VITSCALE, environment, vitscale_on_terminal, write_study
from tests.done_studies import EVALUATE, ONE_RUN, runs_of

COMMANDS = [
    *("plan", "shapes", "submit", "resume", "cancel", "status", "show", "logs"),
    *("frontier", "advantage", "sweep", "fit", "predict", "next", "laws", "figure", "results"),
    *("export", "import", "weights"),
]


# --------------------------------------------------------------------------------------------------------------- help


def test_every_command_is_listed_and_says_what_the_exit_codes_mean(tmp_path: Path) -> None:
    helped = command_line.vitscale("--help", cwd=tmp_path)
    assert helped.code == 0
    assert all(f"\n  {command} " in helped.out for command in COMMANDS)
    assert "130 Ctrl-C" in helped.out


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example_that_parses(command: str, tmp_path: Path) -> None:
    helped = command_line.vitscale(command, "--help", cwd=tmp_path)
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
        command_line.vitscale("--help", cwd=tmp_path)
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
    assert re.fullmatch(r"vitscale \d+\.\d+\.\d+\n", command_line.vitscale("--version", cwd=tmp_path).out)


# ---------------------------------------------------------------------------------------------------- streams, colour


def test_a_terminal_gets_colour_and_no_color_or_a_pipe_gets_none(done: Path, key: str) -> None:
    assert "\x1b[" in vitscale_on_terminal("show", key[:8], cwd=done).out
    assert "\x1b" not in vitscale_on_terminal("show", key[:8], cwd=done, NO_COLOR="1").out
    assert "\x1b" not in vitscale_on_terminal("status", "--watch", "tiny", cwd=done, NO_COLOR="1").out
    for command in (["status"], ["show", key[:8]], ["frontier", "tiny"], ["plan", "tiny.yaml"]):
        piped = command_line.vitscale(*command, cwd=done)
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


# ------------------------------------------------------------------------------------------------- where the store is


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


@pytest.mark.slow
def test_own_packages_of_our_names_a_relative_store_and_a_long_tmpdir_do_no_harm(tmp_path: Path) -> None:
    """Ray would let workers import from the working folder first, work in another one, and name sockets too long."""
    long = tmp_path / ("temporary" * 8)
    long.mkdir()
    for name in ("db", "studies", "workers", "orchestrator"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise RuntimeError('not ours')\n")
    (tmp_path / "tiny.yaml").write_text(ONE_RUN + EVALUATE)
    ended = command_line.vitscale("submit", "tiny.yaml", "--store", "sqlite:///own.db", cwd=tmp_path, TMPDIR=str(long))
    assert ended.code == 0, ended.err
    assert (tmp_path / "own.db").exists()
    assert "2 runs done" in ended.err


# ---------------------------------------------------------------------------------------------------- users' mistakes


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


@pytest.mark.slow
def test_a_study_runs_on_postgresql(postgres_url: str, tmp_path: Path) -> None:
    study = write_study(tmp_path, ONE_RUN + EVALUATE)
    submitted = command_line.vitscale("submit", study, cwd=tmp_path, VITSCALE_STORE=postgres_url)
    assert submitted.code == 0, submitted.err
    assert not (tmp_path / ".vitscale" / "store.db").exists()
    status = json.loads(vitscale("status", "--json", "--store", postgres_url, cwd=tmp_path).out)
    assert status["studies"][0]["runs"]["done"] == 2
    frontier = json.loads(vitscale("frontier", "tiny", "--json", "--store", postgres_url, cwd=tmp_path).out)
    assert len(frontier["points"]) == 1
