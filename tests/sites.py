"""A user's folder with a study in it, and the installed command at work there, which tests disturb."""

import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from db import answers
from db.store import Store, StoreError

VITSCALE = Path(sys.executable).with_name("vitscale")

LONG = """\
name: long
title: Trainings of some seconds
source: tests
shows: that nothing is lost
shapes: {ViT: {m: {width: 64, depth: 4, mlp: 128, heads: 4}}}
grids: [{model: [ViT-m/2, ViT-m/4], data: digits, recipe: small, head: gap, epochs: 8, seed: [0, 1]}]
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


def kill(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()
    assert process.stdout is not None
    process.stdout.close()
