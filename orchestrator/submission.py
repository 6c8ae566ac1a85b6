"""Working on studies: here in the foreground with a Ray of our own, or handed over to a cluster."""

import logging
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from threading import Event, Lock
from types import FrameType
from typing import Any

from db import answers
from db import studies as stored
from db.answers import Totals
from db.store import Connection, Store, StoreError, retrying
from orchestrator import cluster, processes
from orchestrator.driver import CannotWork, Ended, drive, no_place
from orchestrator.progress import Progress
from orchestrator.screen import say
from orchestrator.settings import Settings
from studies.grid import Study

log = logging.getLogger("vitscale.driver")

SUBMIT_SECONDS = 60.0
LOG_SECONDS = 10.0
"""A driver on a cluster logs its progress so often."""


def store_study(store: Store, study: Study) -> stored.Submitted:
    """Put a study into the store: runs once by key, the study linked to them."""

    def submit(connection: Connection) -> stored.Submitted:
        return stored.submit(
            connection,
            name=study.file.name,
            title=study.file.title,
            source=study.file.source,
            shows=study.file.shows,
            text=study.text,
            file=study.path,
            planned=study.runs,
            cpus=study.file.resources.cpus,
            gpus=study.file.resources.gpus,
            priority=study.file.resources.priority,
        )

    return retrying(store, submit, seconds=SUBMIT_SECONDS)


def work_here(store: Store, settings: Settings, study_id: int | None, workers: int | None) -> Ended:
    """Work in the foreground until nothing is left, or until the user interrupts.

    workers: CPUs to use; all that this process may use when None.
    Raises what `drive` raises.
    """
    cpus = workers or processes.usable_cpus()
    stopping = Event()
    say(f"starting {cpus} workers ...")
    # Ray prints a paragraph to stdout about each worker that dies, whatever it is told. We say it in a line.
    with (
        Path(os.devnull).open("w") as nowhere,
        redirect_stdout(nowhere),
        cluster.local_cluster(cpus),
        _interruptible(stopping),
        Progress() as progress,
        _warnings_said(),
    ):
        return drive(store, settings, study_id, stopping=stopping, progress=progress)


def hand_over(store: Store, settings: Settings, study_id: int | None, address: str) -> None:
    """Start a driver on a cluster, which stays there until nothing is left, and return.

    A second driver for the same work does no harm: leases arbitrate.
    Raises ClusterUnreachable; and CannotWork for a SQLite store that several hosts would have to share, or when the
    driver finds an obstacle.
    """
    with cluster.remote_cluster(address):
        others = cluster.other_hosts()
        if store.dialect == "sqlite" and others:
            raise CannotWork(
                f"a SQLite store serves one host, and the cluster has others: {', '.join(others[:3])}; "
                "use PostgreSQL, as in --store postgresql://user@host/database"
            )
        cluster.start_driver(settings, study_id)


def driver_log(settings: Settings, study_id: int | None) -> Path:
    """Where a driver on a cluster writes what it does."""
    return settings.logs / f"driver-{'all' if study_id is None else study_id}.log"


class RemoteDriver:
    """The driver as an actor that outlives the command which started it."""

    def __init__(self, settings: Settings, study_id: int | None) -> None:
        self.settings = settings
        self.study_id = study_id
        self.at_work = Lock()
        self.asked_again = Event()

    def obstacle(self) -> str | None:
        """Why it cannot work from where it is, in one sentence; None when it can."""
        try:
            driver_log(self.settings, self.study_id).parent.mkdir(parents=True, exist_ok=True)
            store = Store.open(self.settings.store_url, create=False)
        except (StoreError, OSError) as error:
            return f"the cluster does not reach what it needs: {error}"
        try:
            with store.read() as connection:
                demand = answers.demand(connection, self.study_id)
        except StoreError as error:
            return f"the cluster does not reach what it needs: {error}"
        finally:
            store.dispose()
        room = cluster.capacity()
        for row in demand:
            if row.cpus > room.cpus or row.gpus > room.gpus:
                return no_place(cluster.Shape(row.cpus, row.gpus), room)
        return None

    def run(self) -> None:
        """Work until nothing is left, then leave the cluster. Asked while at work, look once more at the end."""
        import ray

        self.asked_again.set()
        if not self.at_work.acquire(blocking=False):
            return
        handler = logging.FileHandler(driver_log(self.settings, self.study_id))
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        log.addHandler(handler)
        log.setLevel(logging.INFO)
        try:
            while self.asked_again.is_set():
                self.asked_again.clear()
                self._work()
        except Exception:  # nobody waits for this actor: the log is where its end can be read
            log.exception("the driver ends")
        finally:
            ray.actor.exit_actor()  # type: ignore[no-untyped-call]

    def _work(self) -> None:
        log.info("driver of %s, pid %d", "all studies" if self.study_id is None else self.study_id, os.getpid())
        store = Store.open(self.settings.store_url, create=False)
        try:
            ended = drive(store, self.settings, self.study_id, stopping=Event(), progress=_LoggedProgress())
        finally:
            store.dispose()
        log.info("nothing is left: %s", _counts(ended.totals))


class _LoggedProgress:
    """Writes totals into the log, when they change and not more often than every few seconds."""

    def __init__(self) -> None:
        self.written = ""
        self.at = -LOG_SECONDS

    def __call__(self, totals: Totals) -> None:
        counts, now = _counts(totals), time.monotonic()
        if counts != self.written and now - self.at >= LOG_SECONDS:
            self.written, self.at = counts, now
            log.info("%s", counts)


def _counts(totals: Totals) -> str:
    return ", ".join(f"{runs:,} {state}" for state, runs in totals.states.items() if runs)


class _Said(logging.Handler):
    """Says what the driver warns of, above the progress."""

    def emit(self, record: logging.LogRecord) -> None:
        say(record.getMessage())


@contextmanager
def _warnings_said() -> Iterator[None]:
    handler = _Said(logging.WARNING)
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)


@contextmanager
def _interruptible(stopping: Event) -> Iterator[None]:
    """The first Ctrl-C (or SIGTERM) asks the workers to save and leave; the second ends at once."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        if stopping.is_set():
            raise KeyboardInterrupt
        stopping.set()
        say("stopping: runs save a checkpoint; Ctrl-C again ends at once")

    before: dict[Any, Any] = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
