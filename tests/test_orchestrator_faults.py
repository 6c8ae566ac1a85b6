"""Kills and interrupts, done for real to the real command: nothing is lost, nothing is doubled, every bit is the same.

The processes are those that a user has: `vitscale` with its own Ray, its workers, a database.
"""

import json
import os
import random
import signal
import subprocess
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest

from tests.sites import LONG, VITSCALE, Site, assert_each_run_was_done_once, kill, some_checkpoint
from workers.kernels import allocator

pytestmark = pytest.mark.slow
QUICKSTART = (Path(__file__).parent.parent / "studies" / "quickstart.yaml").read_text()
FAMILIES = QUICKSTART.replace("name: quickstart", "name: families").replace("epochs: [10, 40]", "epochs: 10")
"""A fifth of the quickstart's work, with all its networks."""


# ------------------------------------------------------------------------------------------------------ interrupted


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


@pytest.fixture(scope="module")
def families_table(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The result table of all families' networks when nothing goes wrong."""
    site = Site(tmp_path_factory.mktemp("families"), FAMILIES, VITSCALE_CHECKPOINT_SECONDS="20")
    code, printed = site.submit()
    assert code == 0, printed
    assert {run.family for run in site.runs()} == {"ViT", "ResNet", "Hybrid"}
    return site.table()


@pytest.mark.timeout(1500)
def test_every_family_survives_kill_9_of_driver_and_workers_at_twelve_random_moments_bit_for_bit(
    tmp_path: Path, families_table: str
) -> None:
    luck, killed, number = random.Random(time.time_ns()), Counter[str](), 0
    while killed.total() < 12 or len(killed) < 2:
        site = Site(tmp_path / str(number), FAMILIES)
        killed += kill_until_done(site, max(1, 12 - killed.total()), luck, longest_seconds=15)
        assert site.table() == families_table
        assert_each_run_was_done_once(site)
        number += 1


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


@pytest.mark.timeout(900)
def test_kills_lose_nothing_on_postgresql(tmp_path: Path, postgres_url: str, undisturbed: str) -> None:
    site = Site(tmp_path, LONG, postgres_url)
    kill_until_done(site, 5, random.Random(time.time_ns()), longest_seconds=9)
    assert site.table() == undisturbed
    assert_each_run_was_done_once(site)


@pytest.mark.timeout(900)
def test_two_drivers_on_one_store_train_no_run_twice(tmp_path: Path, families_table: str) -> None:
    site = Site(tmp_path, FAMILIES, VITSCALE_LEASE_SECONDS="60")
    drivers = [site.start_submit("--workers", "1") for _ in range(2)]
    for driver in drivers:
        printed, _ = driver.communicate(timeout=800)
        assert driver.returncode == 0, printed
    assert site.table() == families_table
    attempts = site.attempts()
    assert len(attempts) == len(site.runs()), "one attempt each"
    assert len({attempt.owner for attempt in attempts}) == 2, "both drivers' workers took part"


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


# ----------------------------------------------------------------------------------------------------- undisturbed


@pytest.mark.timeout(900)
def test_the_quickstart_s_frontier_says_something_and_a_second_submit_trains_nothing(tmp_path: Path) -> None:
    site = Site(tmp_path, QUICKSTART, VITSCALE_CHECKPOINT_SECONDS="20", VITSCALE_LEASE_SECONDS="60")
    code, printed = site.submit()
    assert code == 0, printed
    asked = [str(VITSCALE), "frontier", "quickstart", "--json"]
    shown = subprocess.run(asked, cwd=tmp_path, env=site.environment, capture_output=True, text=True, check=True)
    points = json.loads(shown.stdout)["points"]
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
