"""Working on studies: here in the foreground with a Ray of our own, or handed over to a cluster."""

import logging
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event
from types import FrameType
from typing import Any

from db import studies as stored
from db.answers import Totals
from db.store import Connection, Store, retrying
from orchestrator import cluster
from orchestrator.driver import CannotWork, Ended, drive
from orchestrator.progress import Progress
from orchestrator.screen import say
from orchestrator.settings import Settings
from studies.grid import Study

SUBMIT_SECONDS = 60.0


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
    logging.getLogger("vitscale").addHandler(logging.NullHandler())
    cpus = workers or len(os.sched_getaffinity(0))
    stopping = Event()
    say(f"starting {cpus} workers ...")
    with cluster.local_cluster(cpus), _interruptible(stopping), Progress() as progress:
        return drive(store, settings, study_id, stopping=stopping, progress=progress)


def hand_over(store: Store, settings: Settings, study_id: int | None, address: str) -> None:
    """Start a driver on a cluster, which stays there until nothing is left, and return.

    A second driver for the same work does no harm: leases arbitrate.
    Raises ClusterUnreachable, and CannotWork for a SQLite store that several hosts would have to share.
    """
    with cluster.remote_cluster(address):
        others = cluster.hosts() - {os.uname().nodename}
        if store.dialect == "sqlite" and others:
            raise CannotWork(
                f"a SQLite store serves one host, and the cluster has others ({', '.join(sorted(others)[:3])}): "
                "use PostgreSQL, as in --store postgresql://user@host/database"
            )
        cluster.start_driver(settings, study_id)


class RemoteDriver:
    """The driver as an actor that outlives the command which started it."""

    def __init__(self, settings: Settings, study_id: int | None) -> None:
        self.settings = settings
        self.study_id = study_id

    def run(self) -> None:
        """Work until nothing is left, then leave the cluster."""
        import ray

        store = Store.open(self.settings.store_url, create=False)
        try:
            drive(store, self.settings, self.study_id, stopping=Event(), progress=_log_progress)
        finally:
            store.dispose()
            ray.actor.exit_actor()  # type: ignore[no-untyped-call]


def _log_progress(totals: Totals) -> None:
    logging.getLogger("vitscale.driver").info("%s", totals.states)


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
